-- Tell which places are taken, the oldest first; changes nothing.
--
-- Answer: slots, then for each its member, how long it stays taken, 1 when only its not-before time
--         keeps it, and what is stored of it

local answer = {tonumber(redis.call('HGET', LOCK, 'slots')) or 1}
for _, member in ipairs(redis.call('ZRANGE', HELD, 0, -1)) do
  local left = math.min(tonumber(redis.call('ZSCORE', HELD, member)), MOST) - now
  local place = read(member)
  if left > 0 and place then
    table.insert(answer, member)
    table.insert(answer, digits(left))
    -- Who asked for it may have died: then nobody has set it aside.
    local over = string.sub(member, 1, 1) == '-' or place.lapses <= now
    table.insert(answer, over and 1 or 0)
    table.insert(answer, place.stored)
  end
end
return answer

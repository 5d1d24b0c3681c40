-- Take a place, or stand in the queue for one.
--
-- ARGV: token, detail, slots, ttl, min_hold, "1" to wait, channel to be woken on,
--       how long a waiter counts as alive, when it is to ask again at the latest,
--       how many holders to tell of
-- Answer: "ours", fence, since | "slots", the number that is agreed
--         | "busy", when to ask again, how many wait before it, the places that are taken

local token, detail, slots = ARGV[1], ARGV[2], tonumber(ARGV[3])
local ttl, hold, waits, channel = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1', ARGV[7]
local alive, ask_again, most = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])

clean(token)

local agreed = tonumber(redis.call('HGET', LOCK, 'slots'))
local in_use = redis.call('EXISTS', HELD) == 1 or redis.call('EXISTS', QUEUE) == 1
if in_use and agreed and agreed ~= slots then return {'slots', agreed} end

-- The answer to the same question may have been lost.
local mine = ours(token)
if mine then
  mine.lapses = now + ttl
  write(token, mine)
  leave_queue(token)
  return {'ours', digits(mine.fence), digits(mine.since)}
end
local late = read(token)
if late then set_aside(token, late) end

local rank = redis.call('ZRANK', QUEUE, token)
local free = slots - redis.call('ZCARD', HELD)
if (rank or redis.call('ZCARD', QUEUE)) < free then
  redis.call('HSET', LOCK, 'slots', slots)
  local fence = next_fence()
  local place = {since = now, fence = fence, lapses = now + ttl, holds = now + hold}
  place.detail = detail
  write(token, place)
  for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end
  if rank then leave_queue(token) end
  return {'ours', digits(fence), digits(now)}
end

if waits then
  if not rank then
    local last = redis.call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')
    redis.call('ZADD', QUEUE, digits(math.max(tonumber(last[2] or 0) + 1, now)), token)
    rank = redis.call('ZRANK', QUEUE, token)
  end
  redis.call('HSET', LOCK, 'slots', slots, 'wake:' .. token, channel)
  redis.call('ZADD', ALIVE, digits(now + alive), token)
end

-- Nobody tells of a lease that runs out: who would get its place comes to look, and nobody else.
if not rank or rank < slots then
  local nth = math.max((rank or 0) - free, 0)
  local place = redis.call('ZRANGE', HELD, nth, nth, 'WITHSCORES')
  if place[2] then ask_again = math.min(ask_again, tonumber(place[2]) - now) end
end

local answer = {'busy', digits(ask_again), rank or redis.call('ZCARD', QUEUE)}
for _, member in ipairs(redis.call('ZRANGE', HELD, 0, most - 1)) do
  local place = read(member)
  if place then table.insert(answer, place.stored) end
end
return answer

-- What the verbs share; stands before each of them.
--
--   LOCK   hash: "slots", "fence"; "place:MEMBER" -> one taken place; "wake:TOKEN" -> a channel
--   HELD   sorted set: MEMBER -> until when its place is taken
--   QUEUE  sorted set: TOKEN of a waiter -> when it came
--   ALIVE  sorted set: TOKEN of a waiter -> until when it counts as alive
--
-- All times are microseconds by the server's clock. The MEMBER of a lease is its token. That of a
-- run which has ended, and whose place stays taken for its --min-hold, is "-" and the token: nobody
-- can renew or release it.
--
-- While a lease is held, no key of it has a time to live: of what has one, a server with a
-- "volatile-" eviction policy may drop any when its memory is full.

local LOCK, HELD, QUEUE, ALIVE = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

-- Long enough that a clock would have to be set back by a month to bring an old fence again;
-- locks that are named after a day or an item must not stay for ever.
local FORGET = 30 * 86400

-- Up to here Lua's numbers are exact.
local MOST = 2 ^ 53

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- tostring() would keep 14 digits of 16.
local function digits(number)
  return string.format('%.0f', number)
end

local function read(member)
  local stored = redis.call('HGET', LOCK, 'place:' .. member)
  local since, fence, lapses, holds, detail =
    string.match(stored or '', '^(%d+) (%d+) (%d+) (%d+)\n(.*)$')
  if not since then return nil end
  if math.max(tonumber(since), tonumber(fence), tonumber(lapses), tonumber(holds)) > MOST then
    return nil -- somebody's nonsense
  end
  return {
    since = tonumber(since), fence = tonumber(fence),
    lapses = tonumber(lapses), holds = tonumber(holds), detail = detail, stored = stored,
  }
end

local function write(member, place)
  local numbers = {
    digits(place.since), digits(place.fence), digits(place.lapses), digits(place.holds),
  }
  redis.call('HSET', LOCK, 'place:' .. member, table.concat(numbers, ' ') .. '\n' .. place.detail)
  redis.call('ZADD', HELD, digits(math.max(place.lapses, place.holds)), member)
end

local function drop(member)
  redis.call('HDEL', LOCK, 'place:' .. member)
  return redis.call('ZREM', HELD, member) == 1
end

-- The token's place, if its lease has not run out. Both keys must say so: somebody may have
-- deleted one of them.
local function ours(token)
  local place = redis.call('ZSCORE', HELD, token) and read(token)
  if place and place.lapses > now then return place end
  return nil
end

-- What is left of a place when its lease has ended: nothing, or its not-before time.
local function set_aside(member, place)
  drop(member)
  if place.holds > now then
    place.lapses = now
    write('-' .. member, place)
  end
end

local function leave_queue(token)
  redis.call('HDEL', LOCK, 'wake:' .. token)
  redis.call('ZREM', ALIVE, token)
  return redis.call('ZREM', QUEUE, token) == 1
end

-- Tell the waiters for whom there is a place that there is one, but for who is asking. Costs as
-- many commands as there are free places, however many wait.
local function wake(asking)
  local slots = tonumber(redis.call('HGET', LOCK, 'slots')) or 1
  local free = slots - redis.call('ZCARD', HELD)
  if free < 1 then return end
  for _, token in ipairs(redis.call('ZRANGE', QUEUE, 0, free - 1)) do
    local channel = redis.call('HGET', LOCK, 'wake:' .. token)
    -- pcall: what was decided stays decided, also when an ACL forbids to tell of it.
    if channel and token ~= asking then redis.pcall('PUBLISH', channel, '') end
  end
end

-- Let leases run out and dead waiters go.
local function clean(asking)
  local changed = false
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', HELD, '-inf', digits(now))) do
    drop(member)
    changed = true
  end
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', ALIVE, '-inf', digits(now))) do
    leave_queue(token)
    changed = true
  end
  -- Eviction may have taken one key alone: nothing else would ever end such a waiter.
  if redis.call('ZCARD', QUEUE) > redis.call('ZCARD', ALIVE) then
    for _, token in ipairs(redis.call('ZRANGE', QUEUE, 0, -1)) do
      if not redis.call('ZSCORE', ALIVE, token) then leave_queue(token) end
    end
    changed = true
  end
  if changed then wake(asking) end
end

-- Never less than a moment of the server's clock: what a restart has lost must not come again.
local function next_fence()
  local last = tonumber(redis.call('HGET', LOCK, 'fence')) or 0
  if last ~= last or last >= MOST then last = 0 end -- somebody's nonsense
  local fence = math.max(last + 1, now)
  redis.call('HSET', LOCK, 'fence', digits(fence))
  return fence
end

-- No lease is held any more: what is left may go by itself.
local function let_expire()
  local until_when = now
  for _, member in ipairs(redis.call('ZRANGE', HELD, 0, -1)) do
    if string.sub(member, 1, 1) ~= '-' then return end
    local score = tonumber(redis.call('ZSCORE', HELD, member))
    until_when = math.max(until_when, math.min(score, MOST))
  end
  local seconds = digits(FORGET + (until_when - now) / 1000000)
  for _, key in ipairs(KEYS) do
    redis.call('EXPIRE', key, seconds)
  end
end


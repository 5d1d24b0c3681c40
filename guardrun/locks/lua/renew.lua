-- Extend a lease to a full ttl from now.
--
-- ARGV: token, ttl
-- Answer: 1, or 0 when it is not the token's (any more)

local mine = ours(ARGV[1])
if not mine then return 0 end
-- A server that is short of memory refuses what may take some, unless the script has written
-- before: this one does not grow anything, and COMMAND would be killed for want of it.
redis.call('PERSIST', LOCK)
redis.call('PERSIST', HELD)
mine.lapses = now + tonumber(ARGV[2])
write(ARGV[1], mine)
return 1

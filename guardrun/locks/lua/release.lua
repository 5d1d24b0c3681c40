-- Give a place back; --min-hold leaves its not-before time.
--
-- ARGV: token
-- Answer: 1, or 0 when it is not the token's (any more)

clean('')
local mine = ours(ARGV[1])
if not mine then return 0 end
set_aside(ARGV[1], mine)
let_expire()
wake('')
return 1

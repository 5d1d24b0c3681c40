-- Stop waiting.
--
-- ARGV: token

clean(ARGV[1])
if leave_queue(ARGV[1]) then wake('') end
return 1

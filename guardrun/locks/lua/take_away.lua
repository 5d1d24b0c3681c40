-- End one holding, whoever has it. The fence is raised at once, not only by the next holder:
-- what checks it can be told to refuse who had the place.
--
-- ARGV: member
-- Answer: 1, or 0 when there is no such place

clean('')
if not drop(ARGV[1]) then return 0 end
next_fence()
let_expire()
wake('')
return 1

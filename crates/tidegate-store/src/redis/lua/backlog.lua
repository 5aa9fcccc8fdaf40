-- Counts what publishers wait for because of a group.
-- group
local g = group(nx())
local s = g and stream(g.sid)
local backlog = s and math.max(backlog_of(g, s), 0) or 0
save()
return backlog

-- Tells whether a group may have work, and when something of it comes due.
-- group, most in line
local g = group(nx())
local line_max = nn()
if not g then return redis.error_reply('TGMISSING group') end
local s = stream(g.sid)
local work = call('ZCARD', g.r) > 0 or (unseen_of(g, s) > 0 and call('ZCARD', g.q) < line_max)
local due = call('ZRANGE', g.d, 0, 0, 'WITHSCORES')[2]
local ends = call('ZRANGE', g.l, 0, 0, 'WITHSCORES')[2]
save()
return { work and 1 or 0, due or '', ends or '' }

-- Tells whether a group may have work, and when something of it comes due.
-- group, most in line
local g = group(nx())
local line_max = nn()
if not g then return redis.error_reply('TGMISSING group') end
local s = stream(g.sid)
local work = call('ZCARD', g.r) > 0 or g.late > 0 or (unseen_of(g, s) > 0 and held_back(g) < line_max)
local due = call('ZRANGE', g.d, 0, 0, 'WITHSCORES')[2]
-- Who waits for other events is looked at again when nobody needs it any more.
local expiry = g.waits > 0 and call('ZRANGE', g.x, 0, 0, 'WITHSCORES')[2]
if expiry and (not due or tonumber(expiry) < tonumber(due)) then due = expiry end
local ends = call('ZRANGE', g.l, 0, 0, 'WITHSCORES')[2]
save()
return { work and 1 or 0, due or '', ends or '' }

-- Moves a group. Its accounting starts anew; who holds a lease has lost it.
-- group, now, position, whether what was done before now runs again
local gid, now, to, again = nx(), nn(), nx(), nx() == '1'
local g = group(gid)
if not g then return redis.error_reply('TGMISSING group') end
local s = stream(g.sid)
local n
if to == inc(s.last) then
  n = s.acc + 1
else
  local entry = call('XRANGE', s.skey, to, to)[1]
  if not entry or earlier(to, s.first) then
    save()
    return redis.error_reply('TGINVALID ' .. s.first .. ' ' .. s.last)
  end
  n = number_of(s, entry)
end
local flight = call('ZCOUNT', g.l, '(' .. S(now), '+inf')
if flight > 0 then
  save()
  return redis.error_reply('TGCONFLICT ' .. S(flight))
end
local from = call('XRANGE', s.skey, g.cur, '+', 'COUNT', 1)[1]
from = from and from[1] or inc(s.last)
g.high = math.max(g.high, g.curn)
if again then g.againn, g.againat = s.acc, now end
g.cur, g.curn, g.start, g.gen, g.bkeys = to, n - 1, n - 1, g.gen + 1, 0
g.extra, g.waits, g.late = 0, 0, 0
for _, name in ipairs(COUNTS) do g[name] = 0 end
call('UNLINK', g.e, g.r, g.d, g.l, g.q, g.k, g.b, g.h, g.pre, g.ended, g.w, g.y, g.x, g.m, g.p, g.u)
g.dirty, g.moved, g.woke = true, true, true
save()
return from

-- Drops the oldest unsettled events of a group that nobody works on: so many, or all before a number.
-- group, now, most, number to stop before or ''
goes_on()
local g = group(nx())
local now, most, stop = nn(), nn(), nn()
if not g then return redis.error_reply('TGMISSING group') end
local s = stream(g.sid)
stop = stop or s.acc + 1
local held, dropped = {}, 0
local raw = call('HGETALL', g.e)
for i = 1, #raw, 2 do
  local e = cmsgpack.unpack(raw[i + 1])
  if e.s ~= 'l' and e.n < stop then held[#held + 1] = { e.n, raw[i] } end
end
table.sort(held, function(one, two) return one[1] < two[1] end)
for _, one in ipairs(held) do
  if dropped >= most then break end
  -- One that goes may have let the next of its key go first.
  finish(g, one[2], get(g, one[2]), now)
  dropped = dropped + 1
end
while dropped < most and g.curn < stop - 1 and g.curn < limit_of(g, s) do
  local entry = call('XRANGE', s.skey, g.cur, '+', 'COUNT', 1)[1]
  if not entry then break end
  local n = number_of(s, entry)
  if n >= stop then break end
  pass(g, entry[1], n)
  g.moved, g.gap = true, true
  if call('HDEL', g.pre, entry[1]) == 0 then dropped = dropped + 1 end
end
g.drop = g.drop + dropped
g.dirty = true
after_gap(g, now)
save()
return dropped

-- Forgets what was done before a time, at most so many entries; returns how many.
-- group, time, most
local g = group(nx())
local horizon, most = nx(), nn()
if not g then return redis.error_reply('TGMISSING group') end
local gone = call('ZRANGEBYSCORE', g.key .. ':ledt', '-inf', '(' .. horizon, 'LIMIT', 0, most)
for i = 1, #gone, 1000 do
  local last = math.min(i + 999, #gone)
  call('HDEL', g.key .. ':led', unpack(gone, i, last))
  call('HDEL', g.skips, unpack(gone, i, last))
  call('ZREM', g.key .. ':ledt', unpack(gone, i, last))
end
return #gone

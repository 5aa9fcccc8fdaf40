-- Forgets what was done before a time, at most so many entries; returns how many it looked at, and how many it forgot.
-- group, time, most
local g = group(nx())
local horizon, most = nn(), nn()
if not g then return redis.error_reply('TGMISSING group') end
local before, gone = remembered(g), 0
for _, mark in ipairs(call('LRANGE', g.order, 0, most - 1)) do
  if time_of(mark) >= horizon then break end
  gone = gone + 1
end
if gone > 0 then take_front(g.order, gone, g.ledger, g.skips) end
save()
return { gone, before - remembered(g) }

-- Forgets what the dedupe window of a stream holds no longer; returns how many.
-- number of the stream, now, most
local s = stream(nx())
local now, most = nn(), nn()
local gone = 0
for _, mark in ipairs(s and s.window and call('LRANGE', s.order, 0, most - 1) or {}) do
  if time_of(mark) + s.window > now then break end
  gone = gone + 1
end
if gone > 0 then take_front(s.order, gone, s.dd) end
save()
return gone

-- Forgets what the dedupe window of a stream holds no longer; returns how many.
-- number of the stream, now, most
local s = stream(nx())
local now, most = nn(), nn()
local gone = 0
if s and s.window then
  for _, fp in ipairs(call('ZRANGE', s.key .. ':ddt', 0, most - 1)) do
    local at = string.match(call('HGET', s.key .. ':dd', fp) or '0|', '^(%d+)|')
    if tonumber(at) + s.window > now then break end
    call('HDEL', s.key .. ':dd', fp)
    call('ZREM', s.key .. ':ddt', fp)
    gone = gone + 1
  end
end
save()
return gone

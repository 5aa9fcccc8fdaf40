-- Reads the event at a position, also before the first that is kept for all.
-- number of the stream, position
local s = stream(nx())
if not s then return redis.error_reply('TGMISSING stream') end
local id = nx()
save()
return range(s, id, id)

-- Reads dead letters whole; nothing where there is none.
-- number of the stream, count, ids
local s = stream(nx())
if not s then return redis.error_reply('TGMISSING stream') end
local told = {}
for index = 1, nn() do
  local id = nx()
  local m = letter_of(s, id)
  local entry = m and call('XRANGE', s.skey, id, id)[1]
  told[index] = entry and { tell_letter(id, m), call('HGET', s.key .. ':h', id) or '', entry } or {}
end
return told

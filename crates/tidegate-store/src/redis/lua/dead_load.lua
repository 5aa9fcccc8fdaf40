-- Reads dead letters whole; nothing where there is none.
-- number of the stream, count, ids
local s = stream(nx())
if not s then return redis.error_reply('TGMISSING stream') end
local told = {}
for index = 1, nn() do
  local id = nx()
  local m = letter_of(s, id)
  told[index] = m and { tell_letter(id, m), call('HGET', s.key .. ':h', id) or '', letter_entry(s, id) } or {}
end
return told

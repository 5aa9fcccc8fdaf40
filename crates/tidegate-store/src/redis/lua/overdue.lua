-- Finds the number of the first event that retention keeps, whoever has settled what lies before.
-- number of the stream, number to keep from, time to keep from or '', most bytes or '', most events in one step
local s = stream(nx())
local keep_from, horizon, bytes_max, most = nn(), nn(), nn(), nn()
if not s then return 0 end
save()
local from, bytes, stop = s.first, s.bytes, s.firstn
for _ = 1, most do
  local entry = range(s, from, '+', 'COUNT', 1)[1]
  if not entry then break end
  local n, ms = number_of(s, entry), split(entry[1])
  if not (n < keep_from or (horizon and ms < horizon) or (bytes_max and bytes > bytes_max)) then break end
  bytes = bytes - size_of(entry[2], entry[3])
  from, stop = '(' .. entry[1], n + 1
end
return stop

-- Reads what waits for other events, oldest first, each with the fingerprints of those; says where to go on.
-- group, position to read from, most, bytes
local g = group(nx())
local from, most, bytes_max = nx(), nn(), nn()
if not g then return redis.error_reply('TGMISSING group') end
local s = stream(g.sid)
save()
local first = call('XRANGE', s.skey, from, '+', 'COUNT', 1)[1]
local n = first and number_of(s, first)
local found, bytes = {}, 0
-- One more tells where the next page begins.
for _, id in ipairs(n and call('ZRANGEBYSCORE', g.w, n, '+inf', 'LIMIT', 0, most + 1) or {}) do
  if #found == most or bytes >= bytes_max then return { id, found } end
  local entry, e = range(s, id, id)[1], get(g, id)
  if entry and e then
    found[#found + 1] = { entry, e.u }
    bytes = bytes + size_of(entry[2], entry[3])
  end
end
return { '', found }

-- Where a fingerprint is known: the window of a stream, the ledgers of its groups, and what is lent.
-- number of the stream, now, fingerprint
local s = stream(nx())
local now, fp = nn(), nx()
local places = {}
if s then
  local known = call('HGET', s.dd, fp)
  local at, id = string.match(known or '', '^(%d+)|(.*)$')
  if at and s.window and tonumber(at) + s.window > now then places[1] = id end
  for _, gid in ipairs(call('SMEMBERS', s.key .. ':g')) do
    local g = group(gid)
    local mark = g and g.led and call('HGET', g.ledger, fp)
    places[#places + 1] = string.match(mark or '', '^%d+|%d+|(.*)$')
    places[#places + 1] = g and call('HGET', g.b, fp) or nil
  end
end
save()
return places

-- What is remembered of events: for each fingerprint position and time, or nothing.
-- group, now, whether entries are forgotten, count, fingerprints
local g = group(nx())
local now, forget = nn(), nx() == '1'
if not g then return redis.error_reply('TGMISSING group') end
local told = {}
for index = 1, nn() do
  local fp = nx()
  local mark = g.led and call('HGET', g.ledger, fp)
  local at, n, id = string.match(mark or '', '^(%d+)|(%d+)|(.*)$')
  if at and tonumber(at) + g.led > now then
    told[index] = { id, at, n }
    if forget then
      call('HDEL', g.ledger, fp)
      call('HDEL', g.skips, fp)
    end
  else
    told[index] = {}
  end
end
return { told, remembered(g), g.againn, g.againat }

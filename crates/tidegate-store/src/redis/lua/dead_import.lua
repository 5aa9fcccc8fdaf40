-- Takes in dead letters from elsewhere; one that is there is answered with its id.
-- number of the stream, now, count, then for each: source, history, letter as JSON, number of parts, parts of the event
local s = stream(nx())
local now, count = nn(), nn()
if not s then return redis.error_reply('TGMISSING stream') end
local answers = {}
for _ = 1, count do
  local source, history, m, fields = nx(), nx(), cjson.decode(nx()), {}
  for i = 1, nn() do fields[i] = nx() end
  m.src = source
  local known
  for _, id in ipairs(call('ZRANGEBYSCORE', s.key .. ':at', m.at, m.at)) do
    local other = letter_of(s, id)
    if other.g == m.g and other.eid == m.eid and other.src == source then known = id end
  end
  answers[#answers + 1] = known or new_letter(s, now, m, fields, history)
  answers[#answers + 1] = known and 1 or 0
end
save()
return answers

-- Appends events, all or none.
-- number of the stream, now, most backlog or '', count, then for each: fingerprint, number of fields, fields
local sid, now, most, count = nx(), nn(), nn(), nn()
local s = stream(sid)
if not s then return redis.error_reply('TGMISSING stream') end
if s.behind then
  save()
  return redis.error_reply('TGAGAIN later')
end
if most then
  for _, gid in ipairs(call('SMEMBERS', s.key .. ':g')) do
    local g = group(gid)
    local backlog = g and backlog_of(g, s) or 0
    if backlog + count > most then
      save()
      return { 0, g.name, backlog }
    end
  end
end
local answers = { 1 }
for _ = 1, count do
  local fp, fields = nx(), {}
  for i = 1, nn() do fields[i] = nx() end
  local id, repeated = append_once(s, now, fp, fields)
  answers[#answers + 1] = id
  answers[#answers + 1] = repeated and 1 or 0
end
save()
return answers

-- Appends what several ask for, each all or none.
-- now, count of asks, for each: number of the stream, most backlog or '', count, fingerprints, then for each event: number of
-- fields, fields
local now, asks = nn(), nn()

local function is_full(s, most, count)
  for _, gid in ipairs(call('SMEMBERS', s.key .. ':g')) do
    local g = group(gid)
    local backlog = g and backlog_of(g, s) or 0
    if backlog + count > most then return { 'full', g.name, backlog } end
  end
end

local function append(s, most, fps, events)
  if not s then return { 'missing' } end
  if s.behind then return { 'again' } end
  local full = most and is_full(s, most, #events)
  if full then return full end
  if s.window then ahead(s.key .. ':dd', fps) end
  local answer = { 'done' }
  for i = 1, #events do
    local id, repeated = append_once(s, now, fps[i], events[i])
    answer[#answer + 1] = id
    answer[#answer + 1] = repeated and 1 or 0
  end
  return answer
end

local answers = {}
for index = 1, asks do
  local sid, most, count = nx(), nn(), nn()
  local fps, events = {}, {}
  for i = 1, count do fps[i] = nx() end
  for i = 1, count do
    local fields = {}
    for j = 1, nn() do fields[j] = nx() end
    events[i] = fields
  end
  answers[index] = append(stream(sid), most, fps, events)
end
save()
return answers

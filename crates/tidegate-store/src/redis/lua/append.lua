-- Appends what several ask for, each all or none.
-- now, a packed list of what each asks for: number of the stream, most backlog or false, a list of fingerprints, a list of
-- events, a list of their sizes
local now, asks = nn(), cmsgpack.unpack(nx())

local function is_full(s, most, count)
  for _, gid in ipairs(call('SMEMBERS', s.key .. ':g')) do
    local g = group(gid)
    local backlog = g and backlog_of(g, s) or 0
    if backlog + count > most then return { 'full', g.name, backlog } end
  end
end

local function append(s, most, fps, events, sizes)
  if not s then return { 'missing' } end
  if s.behind then return { 'again' } end
  local full = most and is_full(s, most, #events)
  if full then return full end
  if s.window then ahead(s.dd, fps) end
  local answer = { 'done' }
  for i = 1, #events do
    local id, repeated = append_once(s, now, fps[i], events[i], sizes[i])
    answer[2 * i] = id
    answer[2 * i + 1] = repeated and 1 or 0
  end
  return answer
end

local answers = {}
for index, ask in ipairs(asks) do
  answers[index] = append(stream(ask[1]), ask[2], ask[3], ask[4], ask[5])
end
save()
return answers

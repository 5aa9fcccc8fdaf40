-- Lets deliveries go that wait for other events, or buries them; 0 for each that waits for none.
-- group, now, stream of dead letters or '' to let them go, count, then for each: position, and for a burial: letter as JSON,
-- number of parts, parts of the event
local g = group(nx())
local now, sid = nn(), nx()
if not g then return redis.error_reply('TGMISSING group') end
local dead = sid ~= '' and stream(sid)
if dead == false and sid ~= '' then return redis.error_reply('TGMISSING stream') end
local answers = {}
for index = 1, nn() do
  local id, letter, fields = nx(), nil, {}
  if dead then
    letter = nx()
    for i = 1, nn() do fields[i] = nx() end
  end
  local e = get(g, id)
  local waits = e and e.s == 'w'
  if waits and dead then
    bury_one(dead, now, g, id, e, '', letter, fields)
  elseif waits then
    -- It does not wait again, whatever becomes of it.
    e.fr = 1
    change(g, id, e, 'r')
  end
  answers[index] = waits and 1 or 0
end
save()
return answers

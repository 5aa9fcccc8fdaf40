-- Shows that a node is there, and takes from nodes that have shown nothing for too long what they hold; returns who they are.
-- node, owner, longest silence
goes_on()
local node, owner, silence = nx(), nx(), nn()
local refused = stranger(node, owner)
if refused then return refused end
local beats = T .. 'beats'
-- Of the server, the one clock that all nodes share.
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function beat_of(name)
  local at, since = string.match(call('HGET', beats, name) or '', '^(%d+)|(%d+)$')
  return tonumber(at), tonumber(since)
end
local last, since = beat_of(node)
-- Who was silent itself, or met a server that was, cannot tell yet who else is gone.
if not last or now - last > silence / 2 then since = now end
call('HSET', beats, node, S(now) .. '|' .. S(since))
local gone = {}
local sessions = now - since > silence and call('HGETALL', T .. 'sessions') or {}
for i = 1, #sessions, 2 do
  local name, other = sessions[i], sessions[i + 1]
  local seen = beat_of(name)
  if name == node then
    -- Nobody judges itself.
  elseif not seen then
    call('HSET', beats, name, S(now) .. '|' .. S(now))
  elseif now - seen > silence then
    give_back(other, true)
    call('HDEL', T .. 'sessions', name)
    call('HDEL', beats, name)
    gone[#gone + 1] = name
  end
end
save()
return gone

-- Keeps a piece of control state, or takes it away.
-- node, key, whether there is a value, value
local state = T .. 'state:' .. nx()
local key, is_there, value = nx(), nx() == '1', nx()
if is_there then
  call('HSET', state, key, value)
else
  call('HDEL', state, key)
end
return 1

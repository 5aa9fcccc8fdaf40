-- Keeps a piece of control state, or takes it away.
-- key, whether there is a value, value
local key, is_there, value = nx(), nx() == '1', nx()
keep_state(key, is_there and value)
return 1

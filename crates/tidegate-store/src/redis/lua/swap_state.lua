-- Changes a piece of control state if it is what it is thought to be; returns whether it was.
-- key, whether there was a value, it, whether there is a value, it
local key, had, was, has, value = nx(), nx() == '1', nx(), nx() == '1', nx()
if call('HGET', STATE, key) ~= (had and was) then return 0 end
keep_state(key, has and value)
return 1

-- Reads the control state whose keys begin so.
-- beginning
local begin, found = nx(), {}
for _, key in ipairs(call('HKEYS', STATE)) do
  if string.sub(key, 1, #begin) == begin then
    found[#found + 1] = key
    found[#found + 1] = call('HGET', STATE, key)
  end
end
return found

-- Expires what nobody wanted and forgets what was settled long ago; returns how many letters were touched.
-- number of the stream, now, time of burial of parked ones or '', time of change of others, most
local s = stream(nx())
local now, parked, settled, most = nn(), nx(), nx(), nn()
if not s then return 0 end
local touched = 0
local overdue = parked ~= '' and call('ZRANGEBYSCORE', s.key .. ':pk', '-inf', '(' .. parked, 'LIMIT', 0, most) or {}
for _, id in ipairs(overdue) do
  change_letter(s, id, letter_of(s, id), EXPIRED, { at = now, by = 'retention', note = '', job = '' })
  touched = touched + 1
end
for _, id in ipairs(call('ZRANGEBYSCORE', s.key .. ':ch', '-inf', '(' .. settled, 'LIMIT', 0, most)) do
  forget_letter(s, id, letter_of(s, id))
  touched = touched + 1
end
save()
return touched

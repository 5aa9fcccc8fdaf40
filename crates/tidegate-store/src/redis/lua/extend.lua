-- Extends leases.
-- until, count, then for each: group, position, epoch, owner
goes_on()
local till, answers = nn(), {}
for index = 1, nn() do
  local gid, id, epoch, owner = nx(), nx(), nn(), nx()
  local g = group(gid)
  local e = g and get(g, id)
  local held = e and e.s == 'l' and e.e == epoch and e.o == owner
  if held then
    e.t = till
    change(g, id, e, 'l')
  end
  answers[index] = held and 1 or 0
end
save()
return answers

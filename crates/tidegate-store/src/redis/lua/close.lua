-- Gives back what this process holds, as it was lent.
-- node, owner
goes_on()
local node, owner = nx(), nx()
give_back(owner, false)
save()
if not stranger(node, owner) then
  call('HDEL', T .. 'sessions', node)
  call('HDEL', T .. 'beats', node)
end
return 1

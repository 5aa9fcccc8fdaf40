-- Notes what a node works on; returns what each node said that shows signs of life, and forgets the others.
-- node, work
local node, work = nx(), nx()
local works, beats = T .. 'works', T .. 'beats'
call('HSET', works, node, work)
local there = {}
local all = call('HGETALL', works)
for i = 1, #all, 2 do
  if all[i] == node or call('HEXISTS', beats, all[i]) == 1 then
    there[#there + 1] = all[i]
    there[#there + 1] = all[i + 1]
  else
    call('HDEL', works, all[i])
  end
end
return there

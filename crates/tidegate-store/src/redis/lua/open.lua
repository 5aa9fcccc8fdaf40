-- Makes the keys of a new store, and takes over what an earlier process of the same node had lent.
-- node, owner, fingerprint key, number of this format
local node, owner, fp, format = nx(), nx(), nx(), nx()
local meta = T .. 'meta'
call('HSETNX', meta, 'format', format)
if call('HGET', meta, 'format') ~= format then
  return redis.error_reply('TGFORMAT ' .. call('HGET', meta, 'format'))
end
call('HSETNX', meta, 'fp', fp)
local before = call('HGET', T .. 'sessions', node)
call('HSET', T .. 'sessions', node, owner)
if before and before ~= owner then give_back(before, true) end
save()
return { call('HGET', meta, 'fp'), before or '' }

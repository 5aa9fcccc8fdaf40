-- Makes a stream or changes its settings.
-- number for a new one, name, settings, window of dedupe or '', its entries, whether it keeps dead letters
local fresh, name, settings, window, entries, dead = nx(), nx(), nx(), nx(), nx(), nx()
local kind = call('TYPE', P .. name).ok
if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('TGTYPE ' .. kind) end
local known = call('HGET', T .. 'streams', name)
local sid = known and string.match(known, '^(%d+) ')
if not sid then
  if is_taken(fresh) then return redis.error_reply('TGAGAIN number') end
  sid = fresh
  call('HSET', T .. 's:' .. sid, 'name', name, 'acc', 0, 'last', '0-0', 'first', '0-0', 'firstn', 1, 'bytes', 0)
  if dead == '1' then
    call('HSET', T .. 's:' .. sid, 'dead', 1)
    local last = call('XREVRANGE', P .. name, '+', '-', 'COUNT', 1)[1]
    if last then call('HSET', T .. 's:' .. sid, 'last', last[1]) end
  end
end
call('HSET', T .. 'streams', name, sid .. ' ' .. settings)
if window == '' then
  call('HDEL', T .. 's:' .. sid, 'ddw', 'dde')
  call('UNLINK', T .. 's:' .. sid .. ':dd', T .. 's:' .. sid .. ':ddl')
else
  call('HSET', T .. 's:' .. sid, 'ddw', window, 'dde', entries)
end
local s = stream(sid)
save()
return { tonumber(sid), s.behind and 1 or 0 }

-- Makes a group or changes its settings.
-- number for a new one, name, number of the stream, settings, start: `earliest`, `latest` or a position, block, ledger or '', mark,
-- end or '', whether events wait for others, what a step of priority is worth or ''
local fresh, name, sid, settings, start, block, led, mark, last = nx(), nx(), nx(), nx(), nx(), nx(), nx(), nx(), nx()
local after, step = nx(), nx()
local s = stream(sid)
if not s then return redis.error_reply('TGMISSING stream') end
if s.behind then
  save()
  return redis.error_reply('TGAGAIN later')
end
local known = call('HGET', T .. 'groups', name)
local gid = known and string.match(known, '^(%d+) ')
if gid and call('HGET', T .. 'g:' .. gid, 'sid') ~= sid then
  return redis.error_reply('TGCONFLICT ' .. stream(call('HGET', T .. 'g:' .. gid, 'sid')).name)
end
if gid and (call('HGET', T .. 'g:' .. gid, 'endid') or '') ~= last then return redis.error_reply('TGCONFLICT end') end
-- The number of the first event at a position or behind it, which is at most one behind the newest.
local function number_at(id)
  local entry = call('XRANGE', s.skey, id, '+', 'COUNT', 1)[1]
  if entry then return number_of(s, entry) end
  if not earlier(inc(s.last), id) then return s.acc + 1 end
end
-- A consumer group that other programs made: the last position that it was given.
local function last_of_others()
  local told = redis.pcall('XINFO', 'GROUPS', s.skey)
  for _, info in ipairs(told.err and {} or told) do
    local of = {}
    for i = 1, #info, 2 do of[info[i]] = info[i + 1] end
    if of.name == name then return of['last-delivered-id'], of.pending end
  end
end
local PENDING_MAX = 100000
-- Takes over what was given to somebody and not acknowledged: it is to be done.
local function take_pending(g)
  local from = '-'
  repeat
    local told = call('XPENDING', s.skey, name, from, '+', 1000)
    for _, one in ipairs(told) do
      local id = one[1]
      from = '(' .. id
      local n = #call('XRANGE', s.skey, id, id) > 0 and number_of(s, { id }) or 0
      if n > 0 and n <= g.curn then
        g.extra = g.extra + 1
        change(g, id, { n = n, a = 0, c = 0 }, 'r')
      else
        call('XACK', s.skey, name, id)
      end
    end
  until #told < 1000
end
local taken = false
if not gid then
  local theirs, pending
  if last == '' then theirs, pending = last_of_others() end
  if theirs and pending > PENDING_MAX then
    save()
    return redis.error_reply('TGPENDING ' .. pending .. ' ' .. PENDING_MAX)
  end
  local endn = last ~= '' and number_at(last)
  local from = s.firstn
  if start == 'latest' or s.acc < s.firstn then from = s.acc + 1 end
  if start ~= 'latest' and start ~= 'earliest' then from = not earlier(start, s.first) and number_at(start) end
  if theirs then
    local entry = call('XRANGE', s.skey, '(' .. theirs, '+', 'COUNT', 1)[1]
    from = entry and number_of(s, entry) or s.acc + 1
    start = entry and entry[1] or inc(s.last)
    taken = true
  end
  if not from or (last ~= '' and (not endn or endn < from)) then
    save()
    return redis.error_reply('TGINVALID ' .. s.first .. ' ' .. s.last)
  end
  if is_taken(fresh) then
    save()
    return redis.error_reply('TGAGAIN number')
  end
  gid = fresh
  local curn, cur = s.firstn - 1, s.first
  if from > s.acc then
    curn, cur = s.acc, inc(s.last)
  elseif from > s.firstn then
    curn, cur = from - 1, start
  end
  call('HSET', T .. 'g:' .. gid, 'name', name, 'sid', sid, 'cur', cur, 'curn', S(curn), 'start', S(curn))
  if endn then call('HSET', T .. 'g:' .. gid, 'endn', S(endn), 'endid', last) end
  call('SADD', s.key .. ':g', gid)
  call('SADD', T .. 'gids', gid)
end
call('HSET', T .. 'groups', name, gid .. ' ' .. settings)
call('HSET', T .. 'g:' .. gid, 'block', block, 'mark', mark)
if led == '' then
  call('HDEL', T .. 'g:' .. gid, 'led')
  call('UNLINK', T .. 'g:' .. gid .. ':led', T .. 'g:' .. gid .. ':ledl', T .. 'g:' .. gid .. ':sk')
else
  call('HSET', T .. 'g:' .. gid, 'led', led)
end
local before = call('HGET', T .. 'g:' .. gid, 'step') or ''
if step ~= before then
  if step == '' then
    call('HDEL', T .. 'g:' .. gid, 'step')
  else
    call('HSET', T .. 'g:' .. gid, 'step', step)
  end
end
call('HSET', T .. 'g:' .. gid, 'after', after)
local g = group(gid)
-- Whoever waits is let go when the group changes its mind.
if g.waits > 0 and not g.after then look_anew(g, 0) end
if step ~= before then
  -- What may run gets its rank anew.
  call('UNLINK', g.p, g.u)
  if g.step then call('ZUNIONSTORE', g.u, 1, g.r) end
end
if taken then take_pending(g) end
g.moved = true
save()
return tonumber(gid)

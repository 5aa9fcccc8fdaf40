-- Removes what retention does not keep and every group has settled; returns how many went and whether there is more.
-- number of the stream, number to keep from, time to keep from or '', most bytes or '', most events in one step, whether
-- the bounds go before other programs
goes_on()
local sid, keep_from, horizon, bytes_max, most, anyway = nx(), nn(), nn(), nn(), nn(), nx() == '1'
local s = stream(sid)
if not s then return { 0, 0, 0 } end
local readers = {}
local floor = s.acc
for _, gid in ipairs(call('SMEMBERS', s.key .. ':g')) do
  local g = group(gid)
  if g then
    readers[#readers + 1] = g
    -- One that has looked at all before its end holds back only what it has not settled.
    if g.endn == 0 or g.curn < g.endn - 1 then floor = math.min(floor, g.curn) end
  end
end
-- The first position that the consumer group of another program has not read, or has not acknowledged.
local function others_from()
  local ours, from = {}, nil
  for _, g in ipairs(readers) do ours[g.name] = true end
  local told = redis.pcall('XINFO', 'GROUPS', s.skey)
  for _, info in ipairs(told.err and {} or told) do
    local of = {}
    for i = 1, #info, 2 do of[info[i]] = info[i + 1] end
    if not ours[of.name] then
      local at = inc(of['last-delivered-id'])
      local oldest = of.pending > 0 and call('XPENDING', s.skey, of.name)[2]
      if oldest and earlier(oldest, at) then at = oldest end
      if not from or earlier(at, from) then from = at end
    end
  end
  return from
end
local others = not anyway and others_from() or nil
local function is_for_others(id) return others and not earlier(id, others) end
local function is_open(id)
  for _, g in ipairs(readers) do
    if call('HEXISTS', g.e, id) == 1 then return true end
  end
end
local function remove(entry)
  s.bytes = s.bytes - size_of(entry[2], entry[3])
  call('XDEL', s.skey, entry[1])
  call('HDEL', s.own, entry[1])
  for _, g in ipairs(readers) do call('HDEL', g.ended, entry[1]) end
end
-- Events that outlived their neighbours because somebody had not settled them.
for _, id in ipairs(call('ZRANGE', s.key .. ':left', 0, most - 1)) do
  if not is_open(id) and not is_for_others(id) then
    local entry = range(s, id, id)[1]
    if entry then remove(entry) end
    call('ZREM', s.key .. ':left', id)
  end
end
local gone, more, overdue = 0, 1, 0
while gone < most do
  local entry = range(s, s.first, '+', 'COUNT', 1)[1]
  if not entry then
    if s.acc >= s.firstn then call('HSETNX', s.key, 'sweep', 0) end
    if s.acc >= s.firstn then s.first, s.firstn, s.dirty = inc(s.last), s.acc + 1, true end
    more = 0
    break
  end
  local n, ms = number_of(s, entry), split(entry[1])
  -- Exact even if somebody else removed older ones.
  if n > s.firstn then call('HSETNX', s.key, 'sweep', 0) end
  s.first, s.firstn, s.dirty = entry[1], n, true
  local too_much = n < keep_from or (horizon and ms < horizon) or (bytes_max and s.bytes > bytes_max)
  if not too_much or n > floor or is_for_others(entry[1]) then
    if too_much then overdue = math.max(keep_from - n, 1) end
    more = 0
    break
  end
  if is_open(entry[1]) then
    call('ZADD', s.key .. ':left', n, entry[1])
  else
    remove(entry)
  end
  gone = gone + 1
  s.first, s.firstn = inc(entry[1]), n + 1
end
if more == 1 then
  local entry = call('XRANGE', s.skey, s.first, '+', 'COUNT', 1)[1]
  if entry then s.first = entry[1] end
end
call('HSET', s.key, 'overdue', overdue)
-- What was known of events that somebody else removed is forgotten, a part in each step.
local place = call('HGET', s.key, 'sweep')
if place then
  local told = call('HSCAN', s.own, place, 'COUNT', most)
  for i = 1, #told[2], 2 do
    local id = told[2][i]
    if earlier(id, s.first) and #call('XRANGE', s.skey, id, id) == 0 then call('HDEL', s.own, id) end
  end
  if told[1] == '0' then call('HDEL', s.key, 'sweep') else call('HSET', s.key, 'sweep', told[1]) end
end
save()
return { gone, more, s.acc }

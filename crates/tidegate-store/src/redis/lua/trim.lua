-- Removes what retention does not keep and every group has settled; returns how many went and whether there is more.
-- number of the stream, number to keep from, time to keep from or '', most bytes or '', most events in one step
goes_on()
local sid, keep_from, horizon, bytes_max, most = nx(), nn(), nn(), nn(), nn()
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
local function is_open(id)
  for _, g in ipairs(readers) do
    if call('HEXISTS', g.e, id) == 1 then return true end
  end
end
local function remove(entry)
  s.bytes = s.bytes - size_of(entry[2])
  call('XDEL', s.skey, entry[1])
  call('ZREM', s.key .. ':ad', entry[1])
  for _, g in ipairs(readers) do call('HDEL', g.ended, entry[1]) end
end
-- Events that outlived their neighbours because somebody had not settled them.
for _, id in ipairs(call('ZRANGE', s.key .. ':left', 0, most - 1)) do
  if not is_open(id) then
    local entry = call('XRANGE', s.skey, id, id)[1]
    if entry then remove(entry) end
    call('ZREM', s.key .. ':left', id)
  end
end
local gone, more, overdue = 0, 1, 0
while gone < most do
  local entry = call('XRANGE', s.skey, s.first, '+', 'COUNT', 1)[1]
  if not entry then
    if s.acc >= s.firstn then s.first, s.firstn, s.dirty = inc(s.last), s.acc + 1, true end
    more = 0
    break
  end
  local n, ms = number_of(s, entry), split(entry[1])
  -- Exact even if somebody else removed older ones.
  s.first, s.firstn, s.dirty = entry[1], n, true
  local too_much = n < keep_from or (horizon and ms < horizon) or (bytes_max and s.bytes > bytes_max)
  if not too_much or n > floor then
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
-- Entries of the window that have run out.
save()
return { gone, more, s.acc }

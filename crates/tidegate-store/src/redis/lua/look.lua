-- Takes back leases that ran out, wakes what is due, and shows what may be lent: events looked at before, then new ones. In
-- the order of ranks it first shows what has none yet, and what has one when nothing else is left.
-- group, node, owner, now, most shown, most lent (0 to look at what is new and lend nothing), lease, position to stop before
-- or '', bytes, most in flight, most in line, count of calls whose answer was lost, their numbers
local gid, node, owner, now, page, room, lease, stop = nx(), nx(), nx(), nn(), nn(), nn(), nn(), nx()
local bytes_max, flight_max, line_max = nn(), nn(), nn()
local g = group(gid)
if not g then return redis.error_reply('TGMISSING group') end
local refused = stranger(node, owner)
if refused then return refused end
goes_on()
local s = stream(g.sid)
-- What was lent to nobody, because the answer never came, was not lent.
local unheard, any = {}, nn()
for _ = 1, any do unheard[nn()] = true end
for _, id in ipairs(any > 0 and call('ZRANGE', g.l, 0, -1) or {}) do
  local e = of_set(g, g.l, id)
  if e and e.o == owner and unheard[e.q] then change(g, id, e, 'r') end
end
local lost = 0
for _, id in ipairs(call('ZRANGEBYSCORE', g.l, '-inf', now, 'LIMIT', 0, 1000)) do
  local e = of_set(g, g.l, id)
  if e then
    e.a, e.c = e.a + 1, e.c + 1
    note(g, id, cjson.encode({
      at = now, took = lease * 1000, class = 6, message = 'the worker neither settled nor extended its lease in time',
    }))
    change(g, id, e, 'r')
    lost = lost + 1
  end
end
for _, id in ipairs(call('ZRANGEBYSCORE', g.d, '-inf', now, 'LIMIT', 0, 1000)) do
  local e = of_set(g, g.d, id)
  if e then change(g, id, e, 'r') end
end
-- Nobody needs these any more that wait for other events.
for _, id in ipairs(g.waits > 0 and call('ZRANGEBYSCORE', g.x, '-inf', now, 'LIMIT', 0, 1000) or {}) do
  local e = of_set(g, g.x, id)
  if e then change(g, id, e, 'r') end
end
wake_more(g)
local lends = room > 0
if lends then
  local free = flight_max - call('ZCARD', g.l)
  room = math.min(room, free)
  if room <= 0 or not g.step then page = math.min(page, free) end
end
local found, bytes, more = {}, 0, 0
local function show(entry)
  found[#found + 1] = entry
  bytes = bytes + size_of(entry[2], entry[3])
  if bytes >= bytes_max then more = 1 end
end
-- Shows what was looked at before; false for what somebody else removed.
local function show_known(set, id)
  local entry = range(s, id, id)[1]
  if entry then
    show(entry)
    return true
  end
  local e = of_set(g, set, id)
  if e then
    g.drop = g.drop + 1
    finish(g, id, e, now)
  end
  return false
end
local function show_new(most)
  if g.endn > 0 and (stop == '' or earlier(g.endid, stop)) then stop = g.endid end
  local to = stop == '' and '+' or '(' .. stop
  local from = g.cur
  while #found < most and more == 0 do
    -- Small steps: an event may be large.
    local step = math.min(most - #found, 16)
    local new = range(s, from, to, 'COUNT', step)
    for _, entry in ipairs(new) do
      show(entry)
      from = '(' .. entry[1]
      if more == 1 then break end
    end
    if #new < step then break end
  end
end
local function show_ranked()
  local at, shown = 0, 0
  repeat
    local line = call('ZRANGE', g.p, at, at + 511)
    for _, place in ipairs(line) do
      local id = string.sub(place, PLACE)
      if stop ~= '' and not earlier(id, stop) then
        at = at + 1
      elseif show_known(g.r, id) then
        at, shown = at + 1, shown + 1
      end
      if shown >= room then more = 1 end
      if more == 1 then return end
    end
  until #line == 0
end
local before = g.step and g.u or g.r
for _, id in ipairs(page > 0 and (lends or g.step) and call('ZRANGE', before, 0, page - 1) or {}) do
  if more == 1 or (stop ~= '' and not earlier(id, stop)) then break end
  show_known(before, id)
end
if #found < page and more == 0 then
  local line = line_max - held_back(g)
  if line > 0 then show_new(g.step and math.min(page, #found + line) or page) end
end
if #found >= page then more = 1 end
local fresh = #found
if g.step then
  -- What goes first is known when all have a rank.
  lends = lends and more == 0
  if lends and room > 0 then show_ranked() end
end
local due = call('ZRANGE', g.d, 0, 0, 'WITHSCORES')[2] or ''
save()
return { lost, g.gen, fresh, lends and 1 or 0, more, due, found, s.behind and 1 or 0 }

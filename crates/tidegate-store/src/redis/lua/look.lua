-- Takes back leases that ran out, wakes what is due, and shows what may be lent: events looked at before, then new ones.
-- group, node, owner, now, page, lease, position to stop before or '', bytes, most in flight, most in line,
-- count of calls whose answer was lost, their numbers
local gid, node, owner, now, page, lease, stop = nx(), nx(), nx(), nn(), nn(), nn(), nx()
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
page = math.min(page, flight_max - call('ZCARD', g.l))
local found, bytes, more = {}, 0, 0
for _, id in ipairs(page > 0 and call('ZRANGE', g.r, 0, page - 1) or {}) do
  if stop ~= '' and not earlier(id, stop) then break end
  local entry = range(s, id, id)[1]
  if entry then
    found[#found + 1] = entry
    bytes = bytes + size_of(entry[2], entry[3])
    if bytes >= bytes_max then
      more = 1
      break
    end
  else
    -- Somebody else removed it.
    local e = of_set(g, g.r, id)
    if e then
      g.drop = g.drop + 1
      finish(g, id, e)
    end
  end
end
local known = #found
if known < page and more == 0 and call('ZCARD', g.q) < line_max then
  if g.endn > 0 and (stop == '' or earlier(g.endid, stop)) then stop = g.endid end
  local to = stop == '' and '+' or '(' .. stop
  local from = g.cur
  while #found < page and more == 0 do
    -- Small steps: an event may be large.
    local step = math.min(page - #found, 16)
    local new = range(s, from, to, 'COUNT', step)
    for _, entry in ipairs(new) do
      found[#found + 1] = entry
      bytes = bytes + size_of(entry[2], entry[3])
      from = '(' .. entry[1]
      if bytes >= bytes_max then
        more = 1
        break
      end
    end
    if #new < step then break end
  end
end
if #found >= page then more = 1 end
local due = call('ZRANGE', g.d, 0, 0, 'WITHSCORES')[2] or ''
save()
return { lost, g.gen, known, more, due, found, s.behind and 1 or 0 }

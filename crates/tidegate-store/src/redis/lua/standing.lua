-- Where the event at a position stands in a group.
-- group, now, position, whether it was sent back to the group, fingerprint or '', order key or '', delivery time or '',
-- most in line, fingerprints of the events that it names unless it was tried before
local g = group(nx())
local now, id, own, fp, key, at, line_max, names = nn(), nx(), nx() == '1', nx(), nx(), nx(), nn(), nx()
if not g then return redis.error_reply('TGMISSING group') end
local s = stream(g.sid)
save()
local e = get(g, id)
local tally = e and { e.a, e.c, call('HGET', g.h, id) or '' } or { 0, 0, '' }
local function says(...) return { tally[1], tally[2], tally[3], ... } end
local function holder(k) return call('HGET', g.k, k) or string.sub(front(g, k) or '', #k + 19) end
local function waits(ahead)
  return says('waiting', ahead, held_back(g) >= line_max and not e and 1 or 0)
end
if e and e.s == 'l' then return says('lent', S(e.t)) end
if e and e.s == 'b' then
  local by = holder(e.k)
  return says('blocked', by ~= id and by or '')
end
if e and e.s == 'w' then return says('after', e.u) end
if e and e.s == 'd' then
  local twin = e.w == 'T' and call('HGET', g.b, e.f)
  if twin and twin ~= id then return says('twin', S(e.t), twin) end
  if e.t > now then return says(S(e.t) == at and 'deliver' or 'retry', S(e.t)) end
end
local place = e and g.step and call('ZRANK', g.p, in_place(id, e))
if e then return waits(place or call('ZCOUNT', g.r, '-inf', '(' .. S(e.n))) end
if earlier(s.last, id) or id == '0-0' then return says('absent') end
if is_beyond(g, id) and not own then return says('foreign') end
if not earlier(id, g.cur) and not is_beyond(g, id) and call('HEXISTS', g.pre, id) == 0 then
  local by = key ~= '' and call('EXISTS', g.k) == 1 and holder(key) or ''
  if by ~= '' then return says('blocked', by) end
  local entry = call('XRANGE', s.skey, id, id)[1]
  if not entry then return says('absent') end
  local fps = unmet(g, names, now)
  if fps then return says('after', fps) end
  return waits(call('ZCARD', g.r) + number_of(s, entry) - g.curn - 1)
end
local entry = call('XRANGE', s.skey, id, id)[1]
if entry and number_of(s, entry) <= g.start then return says('foreign') end
local dead = call('HGET', T .. 'streams', s.name .. '.dlq')
local dkey = dead and T .. 's:' .. string.match(dead, '^(%d+) ')
local letter = dkey and call('HGET', dkey .. ':of', g.id .. ':' .. id)
local meta = letter and call('HGET', dkey .. ':m', letter)
if meta then
  meta = cmsgpack.unpack(meta)
  return says('dead', letter, meta.st, S(meta.at))
end
local mark = g.led and fp ~= '' and call('HGET', g.ledger, fp)
local done, n, of = string.match(mark or '', '^(%d+)|(%d+)|(.*)$')
if done then return says('done', done, of) end
local ended = call('HGET', g.ended, id)
if ended == 'E' then return says('expired') end
if ended == 'S' then return says('skipped') end
return says(entry and 'settled' or 'dropped')

-- Dead letters. `:m` what is known of each, `:ix` by number, `:at` by burial, `:pk` parked ones, `:ch` all others by change.
local PARKED, REPROCESSED, RESOLVED, DISCARDED, EXPIRED = 0, 1, 2, 3, 4
local function letter_of(s, id)
  local raw = call('HGET', s.key .. ':m', id)
  return raw and cmsgpack.unpack(raw)
end
local function keep_letter(s, id, m)
  call('HSET', s.key .. ':m', id, cmsgpack.pack(m))
  if m.st == PARKED then
    call('ZADD', s.key .. ':pk', m.at, id)
  else
    call('ZADD', s.key .. ':ch', m.ch and m.ch.at or m.at, id)
  end
end
local function count_parked(s, m, by) call('HINCRBY', s.key .. ':parked', m.g, by) end
local function new_letter(s, now, m, fields, history)
  local id, n, size = add(s, now, fields)
  m.n, m.z = n, size
  call('ZADD', s.key .. ':ix', n, id)
  call('ZADD', s.key .. ':at', m.at, id)
  if m.p ~= '0-0' then call('HSET', s.key .. ':of', m.g .. ':' .. m.p, id) end
  if m.st == PARKED then count_parked(s, m, 1) end
  if history ~= '' then call('HSET', s.key .. ':h', id, history) end
  keep_letter(s, id, m)
  return id
end
-- Makes a letter of a delivery, whose group is done with it.
local function bury_one(s, now, g, id, e, attempt, letter, fields)
  local history = hget(g.h, id) or ''
  if attempt ~= '' then history = last_lines(history, attempt) end
  local _, tries = string.gsub(history, '\n', '\n')
  for i = 2, #fields, 2 do
    if fields[i] == 'attempts' then fields[i + 1] = S(tries) end
  end
  local m = cjson.decode(letter)
  m.st, m.g, m.p, m.at = PARKED, g.id, id, now
  new_letter(s, now, m, fields, history)
  g.dead = g.dead + 1
  finish(g, id, e, now)
end
local function change_letter(s, id, m, state, ch)
  if m.st == PARKED then
    call('ZREM', s.key .. ':pk', id)
    count_parked(s, m, -1)
  else
    call('ZREM', s.key .. ':ch', id)
  end
  m.st, m.ch = state, ch
  if state == PARKED then count_parked(s, m, 1) end
  keep_letter(s, id, m)
end
local function forget_letter(s, id, m)
  if m.st == PARKED then count_parked(s, m, -1) end
  for _, set in ipairs({ ':ix', ':at', ':pk', ':ch' }) do call('ZREM', s.key .. set, id) end
  call('HDEL', s.key .. ':m', id)
  call('HDEL', s.key .. ':h', id)
  local of = m.g .. ':' .. m.p
  if call('HGET', s.key .. ':of', of) == id then call('HDEL', s.key .. ':of', of) end
  call('XDEL', s.skey, id)
  call('HDEL', s.own, id)
  s.bytes = s.bytes - m.z
  s.dirty = true
end
-- For other programs that look after dead letters.
local function show_resolved(s, id, m, text, method)
  call('XADD', s.skey .. '.resolved', 'MAXLEN', '~', 1000, '*', 'original_dlq_id', id, 'original_event_id', m.eid,
    'resolved_at', text, 'resolution_method', method)
end
-- How many letters are older than an id, which itself may be gone.
local function rank(s, id)
  local ix = s.key .. ':ix'
  local low, high = 0, call('ZCARD', ix)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if earlier(call('ZRANGE', ix, middle, middle)[1], id) then low = middle + 1 else high = middle end
  end
  return low
end
-- A letter as an entry: its event lies in what is our own, whatever other programs trim away.
local function letter_entry(s, id) return { id, {}, call('HGET', s.own, id) or '' } end
local function tell_letter(id, m)
  local ch = m.ch or {}
  return {
    id, m.g, m.p, m.st, m.c, S(m.at), m.msg, m.sig, m.cfg, m.ch and S(ch.at) or '', ch.by or '', ch.note or '',
    ch.job or '', ch.went or '',
  }
end

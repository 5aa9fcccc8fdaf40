-- What all scripts share: names of keys, positions, and streams; groups and the states of deliveries follow.
-- Every script is one step: it reads what it needs, decides, writes, and saves counters at its end.
local P = ARGV[1]
local T = P .. 'tidegate:'
local STATE = T .. 'state'
local arg_at = 1
-- Asking the server costs more than anything else here. So what a step reads of a hash can be read at once (`ahead`), and
-- what it changes in hashes and sorted sets by the functions below is written once, by `save` or when somebody asks the
-- server itself for that key (`call`).
local said = redis.call
local kept = {}
local PAIRS = 1000
local function keep(key)
  local k = kept[key]
  if not k then
    k = { is = {}, new = {} }
    kept[key] = k
  end
  return k
end
-- Numbers become text with all their digits; whole ones that a number can hold exactly do so sooner.
local function S(n) return string.format(n < 9007199254740992 and '%d' or '%.0f', n) end
local function write(key)
  local k = kept[key]
  kept[key] = nil
  local puts, cuts = {}, {}
  for name, value in pairs(k.new) do
    if not value then
      cuts[#cuts + 1] = name
    elseif k.sorted then
      puts[#puts + 1] = S(value)
      puts[#puts + 1] = name
    else
      puts[#puts + 1] = name
      puts[#puts + 1] = value
    end
  end
  for i = 1, #puts, PAIRS do
    said(k.sorted and 'ZADD' or 'HSET', key, unpack(puts, i, math.min(i + PAIRS - 1, #puts)))
  end
  for i = 1, #cuts, PAIRS do
    said(k.sorted and 'ZREM' or 'HDEL', key, unpack(cuts, i, math.min(i + PAIRS - 1, #cuts)))
  end
end
local function write_all()
  for key in pairs(kept) do write(key) end
end
local function call(name, key, ...)
  if not key then return said(name) end
  if kept[key] then write(key) end
  -- These take several keys.
  if name == 'UNLINK' or name == 'EXISTS' then write_all() end
  return said(name, key, ...)
end
local function ahead(key, names)
  local k = keep(key)
  for i = 1, #names, PAIRS do
    local got = said('HMGET', key, unpack(names, i, math.min(i + PAIRS - 1, #names)))
    for j = 1, #got do k.is[names[i + j - 1]] = got[j] end
  end
end
local function hget(key, name)
  local k = keep(key)
  local value = k.new[name]
  if value == nil then value = k.is[name] end
  if value == nil then
    value = said('HGET', key, name)
    k.is[name] = value
  end
  return value
end
local function hset(key, name, value) keep(key).new[name] = value end
local function hdel(key, name)
  local k = keep(key)
  if k.is[name] == false then
    -- It is not there, and what this step would have put there is not written.
    k.new[name] = nil
  else
    k.new[name] = false
  end
end
local function zput(key, score, member)
  local k = keep(key)
  k.sorted = true
  k.new[member] = score
end
local function zcut(key, member)
  local k = keep(key)
  k.sorted = true
  k.new[member] = false
end
local function nx()
  arg_at = arg_at + 1
  return ARGV[arg_at]
end
local function nn() return tonumber(nx()) end
-- A server without memory refuses scripts at their first write that takes some. What must go on all the same, because it
-- is how memory is freed in the end, writes something first that takes none.
local function goes_on() call('DEL', T .. 'none') end
-- Keeps a piece of control state; false takes it away.
local function keep_state(key, value)
  if value then call('HSET', STATE, key, value) else call('HDEL', STATE, key) end
end
-- Tells why a process may not claim: another one has taken over under its name, or the server has forgotten it.
local function stranger(node, owner)
  local now = call('HGET', T .. 'sessions', node)
  if now == owner then return nil end
  return redis.error_reply(now and 'TGFENCED session' or 'TGLEFT session')
end

local function is_taken(number) return call('EXISTS', T .. 's:' .. number, T .. 'g:' .. number) > 0 end

local function split(id)
  local dash = string.find(id, '-', 1, true)
  return tonumber(string.sub(id, 1, dash - 1)), tonumber(string.sub(id, dash + 1))
end
local function inc(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return ms .. '-' .. S(seq + 1)
end
local function earlier(one, two)
  local a, b = split(one)
  local c, d = split(two)
  return a < c or (a == c and b < d)
end

-- Streams. `acc` numbers its events. `:own` holds what an entry has no field for: its number, and behind a bar what only we
-- know of an event of ours. What others wrote is numbered when it is first seen.
local ADOPT_MAX = 10000
-- Most dead letters that other programs see in the stream for them.
local SHOWN_MAX = 10000
local streams = {}
local function number_of(s, entry)
  local own = entry[3] or call('HGET', s.own, entry[1]) or ''
  return tonumber(string.match(own, '^%d+') or 0)
end
-- Reads entries, each with what is known of it as a third part.
local function with_own(s, entries)
  if #entries == 0 then return entries end
  local ids = {}
  for i, entry in ipairs(entries) do ids[i] = entry[1] end
  local own = call('HMGET', s.own, unpack(ids))
  for i, entry in ipairs(entries) do entry[3] = own[i] or '' end
  return entries
end
local function range(s, ...) return with_own(s, call('XRANGE', s.skey, ...)) end
local function size_of(fields, own)
  local bar = own and string.find(own, '|', 1, true)
  local size = bar and #own - bar or 0
  for i = 1, #fields do size = size + #fields[i] end
  return size
end
local function adopt(s)
  local seen = 0
  while seen < ADOPT_MAX do
    local new = call('XRANGE', s.skey, '(' .. s.last, '+', 'COUNT', 128)
    for _, entry in ipairs(new) do
      if s.acc < s.firstn then s.first = entry[1] end
      s.acc = s.acc + 1
      hset(s.own, entry[1], S(s.acc))
      s.bytes = s.bytes + size_of(entry[2])
      s.last, s.ms = entry[1], nil
      s.dirty = true
      s.woke = true
    end
    seen = seen + #new
    if #new < 128 then return end
  end
  s.behind = true
end
local function stream(sid)
  local s = streams[sid]
  if s == nil then
    local key = T .. 's:' .. sid
    local raw = call('HMGET', key, 'name', 'acc', 'last', 'first', 'firstn', 'bytes', 'dead', 'ddw', 'dde')
    if not raw[1] then
      streams[sid] = false
      return false
    end
    s = {
      id = sid, key = key, own = key .. ':own', dd = key .. ':dd', order = key .. ':ddl', name = raw[1], skey = P .. raw[1],
      acc = tonumber(raw[2]), last = raw[3], first = raw[4],
      firstn = tonumber(raw[5]), bytes = tonumber(raw[6]), dead = raw[7], window = tonumber(raw[8]),
      entries = tonumber(raw[9]),
    }
    streams[sid] = s
    if not s.dead then adopt(s) end
  end
  return s
end

-- Appends an event: a list of what only we know of it, which no other program sees, and of names and values. Returns its
-- position, its number and its size, which may be known before.
local function add(s, now, event, size)
  local ms, seq = s.ms, s.seq
  if not ms then ms, seq = split(s.last) end
  for try = 1, 2 do
    if now > ms then
      ms, seq = now, 0
    else
      seq = seq + 1
    end
    local id = S(ms) .. '-' .. S(seq)
    local added
    if s.dead then
      added = redis.pcall('XADD', s.skey, 'MAXLEN', '~', SHOWN_MAX, id, unpack(event, 2))
    else
      added = redis.pcall('XADD', s.skey, id, unpack(event, 2))
    end
    if type(added) ~= 'table' then
      s.acc = s.acc + 1
      size = size or size_of(event)
      hset(s.own, id, S(s.acc) .. '|' .. event[1])
      if s.acc == s.firstn then s.first = id end
      s.bytes = s.bytes + size
      s.last, s.ms, s.seq = id, ms, seq
      s.dirty = true
      s.woke = true
      return id, s.acc, size
    end
    if try == 2 or not string.find(added.err, 'smaller', 1, true) then error(added.err) end
    -- Somebody added and removed newer entries.
    local told = call('XINFO', 'STREAM', s.skey)
    for i = 1, #told, 2 do
      if told[i] == 'last-generated-id' then ms, seq = split(told[i + 1]) end
    end
  end
end
-- Appends an event unless the window knows it; returns position and whether it is a repeat. `:dd` holds what the window knows,
-- `:ddl` the same in the order in which it came.
local function append_once(s, now, fp, event, size)
  local known = fp ~= '' and s.window and hget(s.dd, fp)
  if known then
    local at, id = string.match(known, '^(%d+)|(.*)$')
    if tonumber(at) + s.window > now then return id, true end
  end
  local id = add(s, now, event, size)
  if fp ~= '' and s.window then
    local at = S(now) .. '|'
    hset(s.dd, fp, at .. id)
    s.passed = s.passed or {}
    s.passed[#s.passed + 1] = at .. fp
  end
  return id, false
end
-- Puts times and fingerprints behind a list of such, and takes so many from its front: what hashes know of them is forgotten
-- unless it is of another time.
local function put_behind(list, marks)
  for i = 1, #marks, PAIRS do call('RPUSH', list, unpack(marks, i, math.min(i + PAIRS - 1, #marks))) end
end
local function take_front(list, count, ...)
  local gone, fps = call('LPOP', list, count) or {}, {}
  for i, mark in ipairs(gone) do fps[i] = string.sub(mark, string.find(mark, '|', 1, true) + 1) end
  for _, hash in ipairs({ ... }) do
    ahead(hash, fps)
    for i, fp in ipairs(fps) do
      local at = string.sub(gone[i], 1, #gone[i] - #fp)
      if string.sub(hget(hash, fp) or '', 1, #at) == at then hdel(hash, fp) end
    end
  end
end
local function time_of(mark) return tonumber(string.match(mark, '^%d+')) end
-- Adds to a window what it has learned, and forgets the oldest when that is too much.
local function save_window(s)
  put_behind(s.order, s.passed)
  local over = call('LLEN', s.order) - s.entries
  if over > 0 then take_front(s.order, over, s.dd) end
end

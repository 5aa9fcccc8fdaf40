-- What all scripts share: names of keys, positions, streams, groups and the states of deliveries.
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
local function write(key)
  local k = kept[key]
  kept[key] = nil
  local puts, cuts = {}, {}
  for name, value in pairs(k.new) do
    if not value then
      cuts[#cuts + 1] = name
    elseif k.sorted then
      puts[#puts + 1], puts[#puts + 2] = value, name
    else
      puts[#puts + 1], puts[#puts + 2] = name, value
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
-- Numbers become text with all their digits.
local function S(n) return string.format('%.0f', n) end

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
  local ms, seq = split(id)
  return S(ms) .. '-' .. S(seq + 1)
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
      s.last = entry[1]
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
      id = sid, key = key, own = key .. ':own', name = raw[1], skey = P .. raw[1], acc = tonumber(raw[2]), last = raw[3], first = raw[4],
      firstn = tonumber(raw[5]), bytes = tonumber(raw[6]), dead = raw[7], window = tonumber(raw[8]),
      entries = tonumber(raw[9]),
    }
    streams[sid] = s
    if not s.dead then adopt(s) end
  end
  return s
end

-- Appends an event. The last of its fields is what only we know; no other program sees that.
local function add(s, now, fields)
  local ms, seq = split(s.last)
  local blob = '|' .. table.remove(fields)
  local bound = s.dead and { 'MAXLEN', '~', SHOWN_MAX } or {}
  for try = 1, 2 do
    if now > ms then
      ms, seq = now, 0
    else
      seq = seq + 1
    end
    local id = S(ms) .. '-' .. S(seq)
    bound[s.dead and 4 or 1] = id
    local command = { 'XADD', s.skey, unpack(bound) }
    for i = 1, #fields do command[#command + 1] = fields[i] end
    local added = redis.pcall(unpack(command))
    if type(added) ~= 'table' then
      s.acc = s.acc + 1
      hset(s.own, id, S(s.acc) .. blob)
      if s.acc == s.firstn then s.first = id end
      s.bytes = s.bytes + size_of(fields, blob)
      s.last = id
      s.dirty = true
      s.woke = true
      return id, s.acc
    end
    if try == 2 or not string.find(added.err, 'smaller', 1, true) then error(added.err) end
    -- Somebody added and removed newer entries.
    local told = call('XINFO', 'STREAM', s.skey)
    for i = 1, #told, 2 do
      if told[i] == 'last-generated-id' then ms, seq = split(told[i + 1]) end
    end
  end
end
-- Appends an event unless the window knows it; returns position and whether it is a repeat.
local function append_once(s, now, fp, fields)
  if fp ~= '' and s.window then
    local known = hget(s.key .. ':dd', fp)
    if known then
      local at, id = string.match(known, '^(%d+)|(.*)$')
      if tonumber(at) + s.window > now then return id, true end
    end
  end
  local id, n = add(s, now, fields)
  if fp ~= '' and s.window then
    hset(s.key .. ':dd', fp, S(now) .. '|' .. id)
    zput(s.key .. ':ddt', n, fp)
    s.windowed = true
  end
  return id, false
end
-- Forgets the oldest of a window that has too many.
local function cut_window(s)
  local over = call('ZCARD', s.key .. ':ddt') - s.entries
  if over <= 0 then return end
  local gone = call('ZPOPMIN', s.key .. ':ddt', over)
  for i = 1, #gone, 2 do hdel(s.key .. ':dd', gone[i]) end
end

-- Groups. Everything numbered up to `curn` and not in `:e` is settled; what comes from `cur` on was not looked at. One that
-- has an end is not concerned with what is numbered from `endn` on, but for `extra` events that were sent back to it.
local groups = {}
local COUNTS = { 'done', 'dup', 'skip', 'dead', 'exp', 'drop' }
local NUMBERS = { 'curn', 'start', 'high', 'againn', 'againat', 'gen', 'epoch', 'bkeys', 'endn', 'extra' }
local function group(gid)
  local g = groups[gid]
  if g == nil then
    local key = T .. 'g:' .. gid
    local raw = call('HMGET', key, 'name', 'sid', 'cur', 'block', 'led', 'mark', 'curn', 'start', 'high', 'againn',
      'againat', 'gen', 'epoch', 'bkeys', 'endn', 'extra', 'done', 'dup', 'skip', 'dead', 'exp', 'drop', 'endid')
    if not raw[1] then
      groups[gid] = false
      return false
    end
    g = {
      id = gid, key = key, name = raw[1], sid = raw[2], cur = raw[3], block = raw[4] == '1', led = tonumber(raw[5]),
      mark = raw[6] == '1', e = key .. ':e', r = key .. ':r', d = key .. ':d', l = key .. ':l', q = key .. ':q',
      k = key .. ':k', b = key .. ':b', h = key .. ':h', pre = key .. ':pre', ended = key .. ':end', acks = {}, endid = raw[23],
    }
    for i, name in ipairs(NUMBERS) do g[name] = tonumber(raw[6 + i] or 0) end
    for i, name in ipairs(COUNTS) do g[name] = tonumber(raw[16 + i] or 0) end
    groups[gid] = g
  end
  return g
end
local function get(g, id)
  local raw = hget(g.e, id)
  return raw and cmsgpack.unpack(raw)
end
-- Returns a delivery of a set; what is in a set and nowhere else is taken out of it.
local function of_set(g, set, id)
  local e = get(g, id)
  if not e then call('ZREM', set, id) end
  return e
end
local function put(g, id, e) hset(g.e, id, cmsgpack.pack(e)) end

local function in_line(id, e) return e.k .. ':' .. string.format('%016.0f', e.n) .. ':' .. id end
local function front(g, k) return call('ZRANGEBYLEX', g.q, '[' .. k .. ':', '(' .. k .. ';', 'LIMIT', 0, 1)[1] end

-- How many stand in the lines of a group.
local function lines(g)
  if not g.lines then g.lines = call('ZCARD', g.q) end
  return g.lines
end
local function leave(g, id, e)
  if e.s == 'b' then
    g.lines = lines(g) - call('ZREM', g.q, in_line(id, e))
    if not front(g, e.k) then g.bkeys = g.bkeys - 1 end
  elseif e.s then
    zcut(g[e.s], id)
  end
  if e.s == 'l' and e.f and hget(g.b, e.f) == id then hdel(g.b, e.f) end
end
-- Gives a delivery a state: `r` may run, `d` waits for its time, `l` is lent, `b` waits for its order key.
local function change(g, id, e, state)
  leave(g, id, e)
  e.s = state
  if state == 'r' then
    zput(g.r, e.n, id)
    g.woke = true
  elseif state == 'b' then
    if not front(g, e.k) then g.bkeys = g.bkeys + 1 end
    g.lines = lines(g) + call('ZADD', g.q, 0, in_line(id, e))
  else
    zput(g[state], e.t, id)
  end
  if state == 'l' and e.f then hset(g.b, e.f, id) end
  put(g, id, e)
  g.dirty = true
end
-- Lets go of an order key; the next in its line gets it and may run.
local function release(g, id, k)
  if not k or hget(g.k, k) ~= id then return end
  local next_one = front(g, k)
  local next_id = next_one and string.sub(next_one, #k + 19)
  local e = next_id and get(g, next_id)
  if not e then
    hdel(g.k, k)
    return
  end
  hset(g.k, k, next_id)
  change(g, next_id, e, 'r')
end
-- Takes the order key for a delivery or puts it in line. One that only was next gives way to an older one.
local function take_key(g, id, e)
  local holder = hget(g.k, e.k)
  if holder == id then return true end
  if holder then
    local held = get(g, holder)
    if held and not (held.s == 'r' and held.n > e.n) then
      change(g, id, e, 'b')
      return false
    end
    if held then change(g, holder, held, 'b') end
  end
  hset(g.k, e.k, id)
  return true
end
-- Forgets a delivery that is settled.
local function finish(g, id, e)
  leave(g, id, e)
  release(g, id, e.k)
  hdel(g.e, id)
  hdel(g.h, id)
  g.acks[#g.acks + 1] = id
  g.dirty = true
end
local HISTORY_MAX = 20
local function last_lines(text, more)
  local lines = {}
  for line in string.gmatch(text .. more .. '\n', '([^\n]+)\n') do lines[#lines + 1] = line end
  return table.concat(lines, '\n', math.max(1, #lines - HISTORY_MAX + 1)) .. '\n'
end
local function note(g, id, attempt)
  hset(g.h, id, last_lines(hget(g.h, id) or '', attempt))
end
-- Tells whether the ledger knows an event as done. One that was forced runs once, not each time that it is looked at.
local function is_known(g, n, fp, forced, now)
  if not g.led then return false end
  local mark = hget(g.key .. ':led', fp)
  if not mark then return false end
  local at, of = string.match(mark, '^(%d+)|(%d+)|')
  at, of = tonumber(at), tonumber(of)
  if at + g.led <= now then return false end
  if n <= g.againn and at <= g.againat then return false end
  return not forced or of >= n
end
local function remember(g, fp, at, n, id)
  hset(g.key .. ':led', fp, S(at) .. '|' .. S(n) .. '|' .. id)
  zput(g.key .. ':ledt', at, fp)
end
-- Moves the cursor over an event; what others removed before it was looked at is counted as dropped.
local function pass(g, id, n)
  local gap = n - g.curn - 1
  if gap > 0 then g.drop = g.drop + gap end
  g.cur, g.curn = inc(id), n
  g.dirty = true
end
-- The number of the last event that is its business.
local function limit_of(g, s) return g.endn > 0 and math.min(s.acc, g.endn - 1) or s.acc end
local function is_beyond(g, id) return g.endn > 0 and not earlier(id, g.endid) end
local function unseen_of(g, s) return limit_of(g, s) - g.curn - call('HLEN', g.pre) end
local function backlog_of(g, s)
  if g.endn > 0 then return 0 end
  return s.acc - math.max(g.curn, g.high) + call('HLEN', g.e)
end

-- Lends again what a process holds that is gone. A handler that may kill its process is blamed for its death.
local function give_back(owner, blames)
  for _, gid in ipairs(call('SMEMBERS', T .. 'gids')) do
    local g = group(gid)
    for _, id in ipairs(g and call('ZRANGE', g.l, 0, -1) or {}) do
      local e = of_set(g, g.l, id)
      if e and e.o == owner then
        if blames and g.mark then e.a, e.c = e.a + 1, e.c + 1 end
        change(g, id, e, 'r')
      end
    end
  end
end

-- Writes what changed and tells those who wait. The consumer groups show to other tools what ours do.
local function save()
  for _, g in pairs(groups) do
    if g then
      if g.dirty then
        local pairs_of = { 'cur', g.cur }
        for _, name in ipairs(NUMBERS) do
          pairs_of[#pairs_of + 1] = name
          pairs_of[#pairs_of + 1] = S(g[name])
        end
        for _, name in ipairs(COUNTS) do
          pairs_of[#pairs_of + 1] = name
          pairs_of[#pairs_of + 1] = S(g[name])
        end
        call('HSET', g.key, unpack(pairs_of))
      end
      local skey = (#g.acks > 0 or g.moved) and P .. call('HGET', T .. 's:' .. g.sid, 'name')
      for i = 1, #g.acks, 1000 do
        call('XACK', skey, g.name, unpack(g.acks, i, math.min(i + 999, #g.acks)))
      end
      if g.moved then
        local ms, seq = split(g.cur)
        local last = seq > 0 and S(ms) .. '-' .. S(seq - 1) or g.cur
        local set = redis.pcall('XGROUP', 'SETID', skey, g.name, last)
        if type(set) == 'table' and set.err then redis.pcall('XGROUP', 'CREATE', skey, g.name, last, 'MKSTREAM') end
      end
      if g.woke then call('PUBLISH', T .. 'wake', 'g' .. g.id) end
    end
  end
  for _, s in pairs(streams) do
    if s then
      if s.windowed then cut_window(s) end
      if s.dirty then
        call('HSET', s.key, 'acc', S(s.acc), 'last', s.last, 'first', s.first, 'firstn', S(s.firstn), 'bytes', S(s.bytes))
      end
      if s.woke then call('PUBLISH', T .. 'wake', 's' .. s.id) end
    end
  end
  write_all()
end

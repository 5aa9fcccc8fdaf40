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

-- Groups. Everything numbered up to `curn` and not in `:e` is settled; what comes from `cur` on was not looked at. One that
-- has an end is not concerned with what is numbered from `endn` on, but for `extra` events that were sent back to it.
-- `:e` holds its deliveries, `:r` those that may run and `:w` those that wait for other events, both by number, `:d` those
-- that wait for a time and `:l` what is lent, both by time, `:q` the lines of its order keys and `:k` who has each, `:b` the
-- fingerprints that are lent, `:h` past attempts. Where events wait for others, `:y` holds a pair for each one that is waited
-- for: its fingerprint, and behind it who waits; `waits` counts them. `:m` holds those that are waited for although they are
-- done, which `late` tells, `:x` when those that wait expire. `:led` remembers what is done and `:sk` what was skipped, `:ledl`
-- both in the order in which it came. Where they have ranks, `:p` holds in
-- their order those of `:r` that have one, and `:u` by number those that have none yet.
local groups = {}
local COUNTS = { 'done', 'dup', 'skip', 'dead', 'exp', 'drop' }
local NUMBERS = { 'curn', 'start', 'high', 'againn', 'againat', 'gen', 'epoch', 'bkeys', 'endn', 'extra', 'waits', 'late' }
local function group(gid)
  local g = groups[gid]
  if g == nil then
    local key = T .. 'g:' .. gid
    local raw = call('HMGET', key, 'name', 'sid', 'cur', 'block', 'led', 'mark', 'curn', 'start', 'high', 'againn',
      'againat', 'gen', 'epoch', 'bkeys', 'endn', 'extra', 'waits', 'late', 'done', 'dup', 'skip', 'dead', 'exp', 'drop',
      'endid', 'after', 'step')
    if not raw[1] then
      groups[gid] = false
      return false
    end
    g = {
      id = gid, key = key, name = raw[1], sid = raw[2], cur = raw[3], block = raw[4] == '1', led = tonumber(raw[5]),
      mark = raw[6] == '1', e = key .. ':e', r = key .. ':r', d = key .. ':d', l = key .. ':l', q = key .. ':q',
      k = key .. ':k', b = key .. ':b', h = key .. ':h', pre = key .. ':pre', ended = key .. ':end', acks = {}, counts = {}, endid = raw[25],
      w = key .. ':w', y = key .. ':y', x = key .. ':x', m = key .. ':m', p = key .. ':p', u = key .. ':u',
      skips = key .. ':sk', ledger = key .. ':led', order = key .. ':ledl',
      -- Without a ledger nobody knows what is done, so nobody waits.
      after = raw[26] == '1' and raw[5] ~= false, step = tonumber(raw[27]),
    }
    for i, name in ipairs(NUMBERS) do g[name] = tonumber(raw[6 + i] or 0) end
    for i, name in ipairs(COUNTS) do g[name] = tonumber(raw[18 + i] or 0) end
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

-- What stands in the order of the stream among members of a set that are equal otherwise.
local function in_place(id, e) return string.format('%016.0f', e.n) .. ':' .. id end
local function in_line(id, e) return e.k .. ':' .. in_place(id, e) end
local function front(g, k) return call('ZRANGEBYLEX', g.q, '[' .. k .. ':', '(' .. k .. ';', 'LIMIT', 0, 1)[1] end

-- How many are in a set of a group, such as its lines; asked for once.
local function count(g, set)
  if not g.counts[set] then g.counts[set] = call('ZCARD', g[set]) end
  return g.counts[set]
end
-- How many deliveries hold a group back from looking further; one that waits for several events counts as often.
local function held_back(g)
  local held = count(g, 'q') + g.waits
  if g.step then held = held + count(g, 'r') end
  return held
end

local FP, PLACE = 16, 18
-- Takes out of what a delivery waits for one event, or all of them.
local function wait_less(g, id, e, only)
  local left = {}
  for i = 1, #e.u, FP do
    local fp = string.sub(e.u, i, i + FP - 1)
    if not only or fp == only then
      g.waits = g.waits - 1
      zcut(g.y, fp .. in_place(id, e))
    else
      left[#left + 1] = fp
    end
  end
  e.u = table.concat(left)
end
local function leave(g, id, e)
  if e.s == 'b' then
    g.counts.q = count(g, 'q') - call('ZREM', g.q, in_line(id, e))
    if not front(g, e.k) then g.bkeys = g.bkeys - 1 end
  elseif e.s then
    if e.s == 'r' and g.step then
      g.counts.r = count(g, 'r') - 1
      zcut(g.u, id)
      zcut(g.p, in_place(id, e))
    elseif e.s == 'w' then
      wait_less(g, id, e)
      zcut(g.x, id)
      e.u = nil
    end
    zcut(g[e.s], id)
  end
  if e.s == 'l' and e.f and hget(g.b, e.f) == id then hdel(g.b, e.f) end
end
-- Gives a delivery a state: `r` may run, `d` waits for its time, `l` is lent, `b` waits for its order key, `w` waits for
-- other events.
local function change(g, id, e, state)
  leave(g, id, e)
  e.s = state
  if state == 'r' then
    if g.step then
      g.counts.r = count(g, 'r') + 1
      zput(g.u, e.n, id)
    end
    zput(g.r, e.n, id)
    g.woke = true
  elseif state == 'w' then
    zput(g.w, e.n, id)
  elseif state == 'b' then
    if not front(g, e.k) then g.bkeys = g.bkeys + 1 end
    g.counts.q = count(g, 'q') + call('ZADD', g.q, 0, in_line(id, e))
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
  local mark = hget(g.ledger, fp)
  if not mark then return false end
  local at, of = string.match(mark, '^(%d+)|(%d+)|')
  at, of = tonumber(at), tonumber(of)
  if at + g.led <= now then return false end
  if n <= g.againn and at <= g.againat then return false end
  return not forced or of >= n
end
-- How much a group remembers.
local function remembered(g) return call('HLEN', g.ledger) + call('HLEN', g.skips) end
local function noted(g, at, fp)
  g.passed = g.passed or {}
  g.passed[#g.passed + 1] = S(at) .. '|' .. fp
end
local function remember(g, fp, at, n, id)
  hset(g.ledger, fp, S(at) .. '|' .. S(n) .. '|' .. id)
  noted(g, at, fp)
end
-- Remembers that the stages did not let an event through: nobody waits for it, and it is not done.
local function remember_skip(g, fp, at, n, id)
  local mark = hget(g.ledger, fp)
  -- That it was skipped does not undo that it is done.
  if mark and tonumber(string.match(mark, '^%d+')) + g.led > at then return end
  hset(g.skips, fp, S(at) .. '|' .. S(n) .. '|' .. id)
  noted(g, at, fp)
end

-- Tells whether nobody has to wait for an event any more.
local function is_met(g, fp, now)
  if not g.after then return true end
  -- What was done after it was skipped counts, and is not skipped again after that.
  for _, key in ipairs({ g.ledger, g.skips }) do
    local at, n, id = string.match(hget(key, fp) or '', '^(%d+)|(%d+)|(.*)$')
    at, n = tonumber(at), tonumber(n)
    if at and at + g.led > now then
      -- The group may have gone back to do it once more, and not have come to that yet.
      local again = n <= g.againn and at <= g.againat
      return not again or (n <= g.curn and not get(g, id))
    end
  end
  return false
end
-- Those of some events that are not done; nothing when all are.
local function unmet(g, fps, now)
  local left = {}
  for i = 1, #fps, FP do
    local fp = string.sub(fps, i, i + FP - 1)
    if not is_met(g, fp, now) then left[#left + 1] = fp end
  end
  return #left > 0 and table.concat(left) or nil
end
-- Lets a delivery wait less; when nothing is left it is looked at again.
local function wake(g, id, fp)
  local e = get(g, id)
  if not e or e.s ~= 'w' then return end
  wait_less(g, id, e, fp)
  g.dirty = true
  if e.u == '' then change(g, id, e, 'r') else put(g, id, e) end
end
-- Lets those wait less that wait for an event. When they are many, the looks that follow let the others go.
local WAKE_MAX = 1000
local function met(g, fp)
  -- In most groups nobody waits: then this is all that it costs.
  if g.waits == 0 then return end
  local most = g.wakes or WAKE_MAX
  local ids = call('ZRANGEBYLEX', g.y, '[' .. fp, '(' .. fp .. ':', 'LIMIT', 0, most + 1)
  if #ids > most then
    ids[#ids] = nil
    zput(g.m, 0, fp)
    g.late, g.dirty = 1, true
  end
  g.wakes = most - #ids
  for i, pair in ipairs(ids) do ids[i] = string.sub(pair, FP + PLACE) end
  ahead(g.e, ids)
  for _, id in ipairs(ids) do wake(g, id, fp) end
end
local function wake_more(g)
  while g.late > 0 and g.wakes ~= 0 do
    local fp = call('ZRANGE', g.m, 0, 0)[1]
    if fp then
      zcut(g.m, fp)
      met(g, fp)
    else
      g.late, g.dirty = 0, true
    end
  end
end
-- Looks anew at everything that waits.
local function look_anew(g, now)
  local ids = call('ZRANGE', g.w, 0, -1)
  ahead(g.e, ids)
  for _, id in ipairs(ids) do
    local e = get(g, id)
    local fps = e and e.u or ''
    for i = 1, #fps, FP do
      local fp = string.sub(fps, i, i + FP - 1)
      if is_met(g, fp, now) then wake(g, id, fp) end
    end
  end
end

-- Forgets a delivery that is settled.
local function finish(g, id, e, now)
  leave(g, id, e)
  release(g, id, e.k)
  hdel(g.e, id)
  hdel(g.h, id)
  g.acks[#g.acks + 1] = id
  g.dirty = true
  -- What was done before the group went back is not waited for any longer, however it leaves.
  if g.waits > 0 and g.againn > 0 and e.f and is_met(g, e.f, now) then met(g, e.f) end
end
-- Moves the cursor over an event; what others removed before it was looked at is counted as dropped.
local function pass(g, id, n)
  local gap = n - g.curn - 1
  if gap > 0 then
    g.drop = g.drop + gap
    g.gap = true
  end
  g.cur, g.curn = inc(id), n
  g.dirty = true
end
-- What was done before the group went back is not waited for any longer, and what it passed without a look has no name here.
local function after_gap(g, now)
  if g.gap and g.waits > 0 and g.againn > 0 then look_anew(g, now) end
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
      if g.passed then put_behind(g.order, g.passed) end
      if g.woke then call('PUBLISH', T .. 'wake', 'g' .. g.id) end
    end
  end
  for _, s in pairs(streams) do
    if s then
      if s.passed then save_window(s) end
      if s.dirty then
        call('HSET', s.key, 'acc', S(s.acc), 'last', s.last, 'first', s.first, 'firstn', S(s.firstn), 'bytes', S(s.bytes))
      end
      if s.woke then call('PUBLISH', T .. 'wake', 's' .. s.id) end
    end
  end
  write_all()
end

-- Decides about what was shown: lends it, lets it wait, gives it a rank, or settles it on the way.
-- group, node, owner, now, room, lease, number of the call, generation, bytes, bytes lent before, most in line, wait of a
-- twin, how many of those shown may have no rank yet, whether any is lent,
-- then a packed list of those shown, each: position, number or false to find it, fingerprint, order key or '', group it is for
-- or false, whether it is forced, expiry or false, delivery time or false, size, past attempts, priority, fingerprints of the
-- events that it names
local gid, node, owner, now, room, lease, number, gen = nx(), nx(), nx(), nn(), nn(), nn(), nn(), nn()
local bytes_max, bytes, line_max, twin_wait, fresh, lends = nn(), nn(), nn(), nn(), nn(), nx() == '1'
local shown = cmsgpack.unpack(nx())
local g = group(gid)
if not g then return redis.error_reply('TGMISSING group') end
local refused = stranger(node, owner)
if refused then return refused end
goes_on()
local s = stream(g.sid)
local lent, duplicates, expired, full = {}, 0, 0, false
local ids, fps, keys, ranks = {}, {}, {}, {}
local settled_ahead = call('HLEN', g.pre)

local function settle_now(id, e, forgroup, forced, expiry)
  if forgroup and forgroup ~= gid then
    g.done, g.dup = g.done + 1, g.dup + 1
  elseif is_known(g, e.n, e.f, forced, now) then
    g.done, g.dup = g.done + 1, g.dup + 1
    duplicates = duplicates + 1
  elseif expiry and expiry <= now then
    g.exp = g.exp + 1
    expired = expired + 1
    hset(g.ended, id, 'E')
  else
    return false
  end
  finish(g, id, e, now)
  return true
end

-- Looks at an event for the first time; returns nothing when it is not its turn, or settled already.
local function meet(id, n, size, lends_it)
  if full or held_back(g) >= line_max then
    full = true
    return
  end
  n = n or number_of(s, { id })
  if n <= g.curn then return end
  if n ~= g.curn + 1 then
    local between = call('XRANGE', s.skey, g.cur, '(' .. id, 'COUNT', 1)[1]
    if between then
      full = true
      return
    end
  end
  if lends_it and bytes > 0 and bytes + size > bytes_max then
    full = true
    return
  end
  pass(g, id, n)
  g.moved = true
  if settled_ahead > 0 and call('HDEL', g.pre, id) == 1 then
    settled_ahead = settled_ahead - 1
    return
  end
  return { n = n, a = 0, c = 0 }
end

-- Lets a delivery wait for events that are not done. In its line it stands as one that failed.
local function wait_for(id, e, fps, expiry)
  if e.k and g.block and not take_key(g, id, e) then return end
  e.u = fps
  for i = 1, #fps, FP do
    g.waits = g.waits + 1
    zput(g.y, 0, string.sub(fps, i, i + FP - 1) .. in_place(id, e))
  end
  if expiry then zput(g.x, expiry, id) end
  change(g, id, e, 'w')
  if not g.block then release(g, id, e.k) end
end

local function lend(index, id, e, size)
  g.epoch = g.epoch + 1
  e.e, e.o, e.t, e.q = g.epoch, owner, now + lease, number
  change(g, id, e, 'l')
  bytes = bytes + size
  lent[#lent + 1] = { index, g.epoch, e.a, e.c, hget(g.h, id) or '' }
end

-- When it was accepted, or when it comes due, less what its priority is worth: the smallest goes first.
local function rank_of(index)
  if not ranks[index] then
    local one = shown[index]
    ranks[index] = math.max(split(ids[index]), one[8] or 0) - g.step * one[11]
  end
  return ranks[index]
end
-- What may be lent and is not lent yet has its order key and, where there are ranks, its place among the others.
local function keep_ready(index, id, e)
  if e.s == 'r' then put(g, id, e) else change(g, id, e, 'r') end
  if not g.step then return end
  zcut(g.u, id)
  zput(g.p, rank_of(index), in_place(id, e))
end

local function consider(index, lends_it)
  local id, n, fp, key, forgroup, forced, expiry, at, size, past, _, names = unpack(shown[index])
  local e = get(g, id)
  if not e then
    e = meet(id, n, size, lends_it)
    if not e then return end
  elseif e.s ~= 'r' then
    return
  end
  if past ~= '' and not e.rc then
    hset(g.h, id, past)
    e.rc = 1
  end
  local before = e.k
  e.f = fp
  e.k = key ~= '' and key or nil
  if before and before ~= e.k then release(g, id, before) end
  if settle_now(id, e, forgroup, forced, expiry) then return end
  if at and at > now then
    local held = e.k
    e.k, e.t, e.w = nil, at, 'D'
    change(g, id, e, 'd')
    release(g, id, held)
    return
  end
  if lends_it and bytes > 0 and bytes + size > bytes_max then
    full = true
    return
  end
  -- Who was tried before, or let go by hand, waits for nobody.
  local fps = g.after and names ~= '' and not e.fr and e.a == 0 and not hget(g.h, id) and unmet(g, names, now)
  if fps then
    wait_for(id, e, fps, expiry)
    return
  end
  if e.k and not take_key(g, id, e) then return end
  if not lends_it then
    keep_ready(index, id, e)
    return
  end
  if g.led then
    local twin = hget(g.b, fp)
    if twin and twin ~= id then
      e.t, e.w = now + twin_wait, 'T'
      change(g, id, e, 'd')
      return
    end
  end
  lend(index, id, e, size)
end

-- What is known of all of them, at once.
local function know()
  local names = {}
  for index, one in ipairs(shown) do
    ids[index], fps[index] = one[1], one[3]
    if one[4] ~= '' then keys[#keys + 1] = one[4] end
    for i = 1, #one[12], FP do names[#names + 1] = string.sub(one[12], i, i + FP - 1) end
  end
  ahead(g.e, ids)
  ahead(g.h, ids)
  ahead(g.b, fps)
  ahead(g.k, keys)
  if g.led then ahead(g.ledger, fps) end
  if g.after then
    ahead(g.ledger, names)
    ahead(g.skips, names)
  end
end

-- Those shown that may be lent, in the order of their ranks.
local function in_order()
  local order, ns = {}, {}
  for index = 1, #shown do
    local e = get(g, ids[index])
    if e and e.s == 'r' then
      order[#order + 1] = index
      ns[index] = e.n
    end
  end
  table.sort(order, function(one, two)
    local a, b = rank_of(one), rank_of(two)
    return a < b or (a == b and ns[one] < ns[two])
  end)
  return order
end

local function consider_all()
  know()
  local order
  if g.step then
    for index = 1, fresh do consider(index, false) end
    full = false
    order = lends and in_order() or {}
  end
  for place = 1, order and #order or #shown do
    if full or (lends and #lent >= room) then return end
    consider(order and order[place] or place, lends)
  end
end

if gen == g.gen and #shown > 0 then consider_all() end
after_gap(g, now)
if #lent > 0 then
  local claim = { 'XCLAIM', s.skey, g.name, node, 0 }
  for _, one in ipairs(lent) do claim[#claim + 1] = ids[one[1]] end
  claim[#claim + 1] = 'FORCE'
  claim[#claim + 1] = 'JUSTID'
  g.claim = claim
end
local due = call('ZRANGE', g.d, 0, 0, 'WITHSCORES')[2] or ''
-- One that needs no handler may have let the next of its key go.
local left = g.woke
if g.step then left = call('ZCARD', g.u) > 0 end
g.woke = false
save()
if g.claim then redis.pcall(unpack(g.claim)) end
return { lent, duplicates, expired, due, (full or (lends and #lent >= room)) and 1 or 0, left and 1 or 0 }

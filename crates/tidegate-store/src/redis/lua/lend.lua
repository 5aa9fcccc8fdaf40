-- Decides about what was shown: lends it, lets it wait, or settles it on the way.
-- group, node, owner, now, room, lease, number of the call, generation, bytes, bytes lent before, most in line, wait of a
-- twin, count,
-- then for each: position, number or '' to find it, fingerprint, order key or '', group it is for or '', forced,
-- expiry or '', delivery time or '', size, past attempts
local gid, node, owner, now, room, lease, number, gen = nx(), nx(), nx(), nn(), nn(), nn(), nn(), nn()
local bytes_max, bytes, line_max, twin_wait, count = nn(), nn(), nn(), nn(), nn()
local g = group(gid)
if not g then return redis.error_reply('TGMISSING group') end
local refused = stranger(node, owner)
if refused then return refused end
goes_on()
local s = stream(g.sid)
local lent, duplicates, expired, full = {}, 0, 0, false
local settled_ahead = call('HLEN', g.pre)

local function settle_now(id, e, forgroup, forced, expiry)
  if forgroup ~= '' and forgroup ~= gid then
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
  finish(g, id, e)
  return true
end

local function lend(index, id, e, size)
  g.epoch = g.epoch + 1
  e.e, e.o, e.t, e.q = g.epoch, owner, now + lease, number
  change(g, id, e, 'l')
  bytes = bytes + size
  lent[#lent + 1] = { index, g.epoch, e.a, e.c, hget(g.h, id) or '' }
end

local function consider(index)
  local id, n, fp, key, forgroup, forced = nx(), nn(), nx(), nx(), nx(), nx() == '1'
  local expiry, at, size, past = nn(), nn(), nn(), nx()
  if full or #lent >= room then return end
  local e = get(g, id)
  if not e then
    if lines(g) >= line_max then
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
    if bytes > 0 and bytes + size > bytes_max then
      full = true
      return
    end
    pass(g, id, n)
    g.moved = true
    if settled_ahead > 0 and call('HDEL', g.pre, id) == 1 then
      settled_ahead = settled_ahead - 1
      return
    end
    e = { n = n, a = 0, c = 0 }
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
  if bytes > 0 and bytes + size > bytes_max then
    full = true
    return
  end
  if e.k and not take_key(g, id, e) then return end
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
local ids, fps, keys = {}, {}, {}
for index = 1, count do
  local at = arg_at + (index - 1) * 10
  ids[index], fps[index] = ARGV[at + 1], ARGV[at + 3]
  if ARGV[at + 4] ~= '' then keys[#keys + 1] = ARGV[at + 4] end
end
if gen == g.gen and count > 0 then
  ahead(g.e, ids)
  ahead(g.h, ids)
  ahead(g.b, fps)
  ahead(g.k, keys)
  if g.led then ahead(g.key .. ':led', fps) end
  for index = 1, count do consider(index) end
end
if #lent > 0 then
  local claim = { 'XCLAIM', s.skey, g.name, node, 0 }
  for _, one in ipairs(lent) do claim[#claim + 1] = ARGV[15 + (one[1] - 1) * 10] end
  claim[#claim + 1] = 'FORCE'
  claim[#claim + 1] = 'JUSTID'
  g.claim = claim
end
local due = call('ZRANGE', g.d, 0, 0, 'WITHSCORES')[2] or ''
g.woke = false
save()
if g.claim then redis.pcall(unpack(g.claim)) end
return { lent, duplicates, expired, due, (full or #lent >= room) and 1 or 0 }

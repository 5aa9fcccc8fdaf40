-- Settles deliveries in one commit with all that follows from it.
-- now, packed: a list of the streams that are written to, and a list of settlements, each: group, position, epoch, owner, kind,
-- and by kind:
-- D done: a list of outputs, each: stream, fingerprint, event, size
-- S skipped, L released: nothing
-- R retried: at, attempts, crashes, attempt or ''
-- B buried: stream of dead letters, attempt or '', letter as JSON, event
goes_on()
local now, packed = nn(), cmsgpack.unpack(nx())
local written, all = packed[1], packed[2]
for _, sid in ipairs(written) do
  local s = stream(sid)
  if not s then return redis.error_reply('TGMISSING stream') end
  if s.behind then
    save()
    return redis.error_reply('TGAGAIN later')
  end
end

-- What is known of all of them, at once.
local ids_of = {}
for _, one in ipairs(all) do
  local g = group(one[1])
  if g then
    local ids = ids_of[g] or {}
    ids_of[g] = ids
    ids[#ids + 1] = one[2]
  end
end
for g, ids in pairs(ids_of) do
  local fps = {}
  ahead(g.e, ids)
  ahead(g.h, ids)
  g.seen = {}
  for _, id in ipairs(ids) do
    local e = get(g, id)
    g.seen[id] = e and { hget(g.e, id), e }
    if e and e.f then fps[#fps + 1] = e.f end
  end
  ahead(g.b, fps)
end
-- A delivery as it is now; once, as it was seen above if nothing has happened to it since.
local function now_of(g, id)
  local seen = g.seen[id]
  g.seen[id] = nil
  if seen and seen[1] == hget(g.e, id) then return seen[2] end
  return get(g, id)
end

local function done(g, id, e, outputs)
  for _, output in ipairs(outputs) do append_once(stream(output[1]), now, output[2], output[3], output[4]) end
  g.done = g.done + 1
  if g.led then remember(g, e.f, now, e.n, id) end
  finish(g, id, e, now)
  met(g, e.f)
end

local function skipped(g, id, e)
  g.done, g.skip = g.done + 1, g.skip + 1
  hset(g.ended, id, 'S')
  if g.after then remember_skip(g, e.f, now, e.n, id) end
  finish(g, id, e, now)
  met(g, e.f)
end

local function retry(g, id, e, at, attempts, crashes, attempt)
  if attempt ~= '' then note(g, id, attempt) end
  e.a, e.c, e.t, e.w = attempts, crashes, at, 'R'
  change(g, id, e, 'd')
  if not g.block then release(g, id, e.k) end
  g.woke = true
end

local answers = {}
for index, one in ipairs(all) do
  local g, id, kind = group(one[1]), one[2], one[5]
  local e = g and now_of(g, id)
  local held = e and e.s == 'l' and e.e == one[3] and e.o == one[4]
  answers[index] = held and 1 or 0
  if not held then
    -- Somebody else has it, or nobody any more.
  elseif kind == 'D' then
    done(g, id, e, one[6])
  elseif kind == 'R' then
    retry(g, id, e, one[6], one[7], one[8], one[9])
  elseif kind == 'B' then
    bury_one(stream(one[6]), now, g, id, e, one[7], one[8], one[9])
  elseif kind == 'S' then
    skipped(g, id, e)
  else
    change(g, id, e, 'r')
  end
end
save()
return answers

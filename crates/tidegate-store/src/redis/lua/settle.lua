-- Settles deliveries in one commit with all that follows from it.
-- now, count of streams, their numbers, count of groups, for each: group, count, positions;
-- count, then for each: group, position, epoch, owner, kind, and by kind:
-- D done: count of outputs, each: stream, fingerprint, number of fields, fields
-- S skipped, L released: nothing
-- R retried: at, attempts, crashes, attempt or ''
-- B buried: stream of dead letters, attempt or '', letter as JSON, number of fields, fields
goes_on()
local now = nn()
for _ = 1, nn() do
  local s = stream(nx())
  if not s then return redis.error_reply('TGMISSING stream') end
  if s.behind then
    save()
    return redis.error_reply('TGAGAIN later')
  end
end

-- What is known of all of them, at once.
for _ = 1, nn() do
  local g, ids, fps = group(nx()), {}, {}
  for i = 1, nn() do ids[i] = nx() end
  if g then
    ahead(g.e, ids)
    ahead(g.h, ids)
    for _, id in ipairs(ids) do
      local e = get(g, id)
      if e and e.f then fps[#fps + 1] = e.f end
    end
    ahead(g.b, fps)
  end
end

local function fields_of()
  local fields = {}
  for i = 1, nn() do fields[i] = nx() end
  return fields
end

local function done(g, id, e, held)
  for _ = 1, nn() do
    local sid, fp, fields = nx(), nx(), fields_of()
    if held then append_once(stream(sid), now, fp, fields) end
  end
  if not held then return end
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

local function retry(g, id, e, held)
  local at, attempts, crashes, attempt = nn(), nn(), nn(), nx()
  if not held then return end
  if attempt ~= '' then note(g, id, attempt) end
  e.a, e.c, e.t, e.w = attempts, crashes, at, 'R'
  change(g, id, e, 'd')
  if not g.block then release(g, id, e.k) end
  g.woke = true
end

local function bury(g, id, e, held)
  local sid, attempt, letter, fields = nx(), nx(), nx(), fields_of()
  if not held then return end
  bury_one(stream(sid), now, g, id, e, attempt, letter, fields)
end

local answers = {}
for index = 1, nn() do
  local gid, id, epoch, owner, kind = nx(), nx(), nn(), nx(), nx()
  local g = group(gid)
  local e = g and get(g, id)
  local held = e and e.s == 'l' and e.e == epoch and e.o == owner
  answers[index] = held and 1 or 0
  if kind == 'D' then
    done(g, id, e, held)
  elseif kind == 'R' then
    retry(g, id, e, held)
  elseif kind == 'B' then
    bury(g, id, e, held)
  elseif held and kind == 'S' then
    skipped(g, id, e)
  elseif held and kind == 'L' then
    change(g, id, e, 'r')
  end
end
save()
return answers

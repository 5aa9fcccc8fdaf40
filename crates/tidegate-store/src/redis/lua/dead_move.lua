-- Moves dead letters in one commit.
-- number of the stream, now, now as text, action, forced, by, note, job, key of progress or '', whether it must be
-- something, that, its value, count,
-- then for each: id, and for a reprocess: stream, number of parts, parts of the event
local sid, now, text, action, forced = nx(), nn(), nx(), nx(), nx() == '1'
local by, why, job, key, must, was, value, count = nx(), nx(), nx(), nx(), nx() == '1', nx(), nx(), nn()
local s = stream(sid)
if not s then return redis.error_reply('TGMISSING stream') end
if must and call('HGET', STATE, key) ~= was then return redis.error_reply('TGCONFLICT ' .. key .. ' was changed') end

local function settle_unseen(g, id, e)
  g.done, g.dup, g.dirty = g.done + 1, g.dup + 1, true
  if e then finish(g, id, e, now) else call('HSET', g.pre, id, 1) end
end
-- Takes the delivery of a reprocessed letter out of its group, if no handler has seen it.
local function take_back(m)
  local went = m.ch and m.ch.went
  local g = went and group(m.g)
  if not g then return false end
  local e = get(g, went)
  if e then
    if e.s == 'l' or e.a > 0 then return false end
    settle_unseen(g, went, e)
    return true
  end
  if earlier(went, g.cur) or call('HEXISTS', g.pre, went) == 1 then return false end
  if #call('XRANGE', P .. call('HGET', T .. 's:' .. g.sid, 'name'), went, went) == 0 then return false end
  stream(g.sid)
  settle_unseen(g, went)
  return true
end

local asked, behind = {}, false
for index = 1, count do
  local one = { id = nx() }
  if action == 'reprocess' then
    one.sid, one.fields = nx(), {}
    for i = 1, nn() do one.fields[i] = nx() end
    local to = one.sid ~= '' and stream(one.sid)
    if to and to.behind then behind = true end
  end
  asked[index] = one
end
if behind then
  save()
  return redis.error_reply('TGAGAIN later')
end
local answers, seen = {}, {}
for index, one in ipairs(asked) do
  local id = one.id
  local m = letter_of(s, id)
  local ch = { at = now, by = by, note = why, job = job }
  if not m then
    answers[index] = { 'missing' }
  elseif seen[id] then
    answers[index] = { 'refused', REPROCESSED }
  elseif action == 'reprocess' and (m.st == PARKED or forced) then
    local went, n = add(stream(one.sid), now, one.fields)
    ch.went = went
    local g = group(m.g)
    if g and g.endn > 0 then
      -- It lies behind the end, where the group does not look.
      g.extra = g.extra + 1
      change(g, went, { n = n, a = 0, c = 0 }, 'r')
    end
    change_letter(s, id, m, REPROCESSED, ch)
    show_resolved(s, id, m, text, 'reprocessed')
    answers[index] = { 'moved', ch.went }
  elseif action == 'recall' and m.st == REPROCESSED and take_back(m) then
    change_letter(s, id, m, PARKED, ch)
    answers[index] = { 'moved', '' }
  elseif action == 'resolve' and m.st == PARKED then
    change_letter(s, id, m, RESOLVED, ch)
    show_resolved(s, id, m, text, 'manual')
    answers[index] = { 'moved', '' }
  elseif action == 'discard' and m.st == PARKED then
    change_letter(s, id, m, DISCARDED, ch)
    show_resolved(s, id, m, text, 'discarded')
    answers[index] = { 'moved', '' }
  elseif action == 'purge' and m.st ~= PARKED then
    forget_letter(s, id, m)
    answers[index] = { 'moved', '' }
  else
    answers[index] = { 'refused', m.st }
  end
  if answers[index][1] == 'moved' then seen[id] = true end
end
if key ~= '' then keep_state(key, value) end
save()
return answers

-- Chooses dead letters; looks at a bounded number of them and says where to go on.
-- number of the stream, state or '', group or '', before or '', after or '', since or '', until or '', count, most looked at
local s = stream(nx())
local state, gid, before, after = nn(), nx(), nx(), nx()
local since, till, count, look = nn(), nn(), nn(), nn()
if not s then return redis.error_reply('TGMISSING stream') end
local ix = s.key .. ':ix'
local from, to = 0, call('ZCARD', ix) - 1
if before ~= '' then to = rank(s, before) - 1 end
if after ~= '' then from = rank(s, inc(after)) end
local found, resume = {}, ''
local step = after ~= '' and 1 or -1
local at = step == 1 and from or to
while at >= from and at <= to and #found < count do
  if look == 0 then
    resume = call('ZRANGE', ix, at - step, at - step)[1]
    break
  end
  local id = call('ZRANGE', ix, at, at)[1]
  local m = letter_of(s, id)
  if (not state or m.st == state) and (gid == '' or m.g == gid)
    and (not since or m.at >= since) and (not till or m.at < till) then
    found[#found + 1] = tell_letter(id, m)
  end
  at, look = at + step, look - 1
end
return { found, resume }

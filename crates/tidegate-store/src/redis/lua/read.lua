-- Reads events of a stream until there are so many or so many bytes.
-- number of the stream, from or '' for the oldest kept, down to which end '+' or '-', count, bytes
local sid, from, to, count, bytes_max = nx(), nx(), nx(), nn(), nn()
local s = stream(sid)
if not s then return redis.error_reply('TGMISSING stream') end
save()
local down = to == '-'
-- What lies before the first kept event belongs to groups that have not settled it.
local low = s.dead and '-' or s.first
if down then
  to = low
  if from == '' then from = '+' end
elseif from == '' or (low ~= '-' and earlier(from, low)) then
  from = low
end
local found, bytes = {}, 0
local function next_letters(step)
  local ix, new = s.key .. ':ix', {}
  local after = string.match(from, '^%((.*)$')
  if down then
    local older = from == '+' and call('ZCARD', ix) or rank(s, after or inc(from))
    for at = older - 1, math.max(older - step, 0), -1 do
      new[#new + 1] = letter_entry(s, call('ZRANGE', ix, at, at)[1])
    end
  else
    local older = from == '-' and 0 or rank(s, after and inc(after) or from)
    for _, id in ipairs(call('ZRANGE', ix, older, older + step - 1)) do new[#new + 1] = letter_entry(s, id) end
  end
  return new
end
local function next_entries(step)
  if s.dead then return next_letters(step) end
  return with_own(s, call(down and 'XREVRANGE' or 'XRANGE', s.skey, from, to, 'COUNT', step))
end
while #found < count and bytes < bytes_max do
  local step = math.min(count - #found, 16)
  local new = next_entries(step)
  for _, entry in ipairs(new) do
    if bytes >= bytes_max then break end
    found[#found + 1] = entry
    bytes = bytes + size_of(entry[2], entry[3])
    from = '(' .. entry[1]
  end
  if #new < step then break end
end
return { s.first, s.last, s.acc >= s.firstn and 1 or 0, found }

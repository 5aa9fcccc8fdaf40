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
while #found < count and bytes < bytes_max do
  local step = math.min(count - #found, 16)
  local new = call(down and 'XREVRANGE' or 'XRANGE', s.skey, from, to, 'COUNT', step)
  for _, entry in ipairs(new) do
    if bytes >= bytes_max then break end
    found[#found + 1] = entry
    bytes = bytes + size_of(entry[2])
    from = '(' .. entry[1]
  end
  if #new < step then break end
end
return { s.first, s.last, s.acc >= s.firstn and 1 or 0, found }

-- Tells for each position how many attempts its delivery has spent, -1 when it is settled or not there.
-- group, count, positions
local g = group(nx())
if not g then return redis.error_reply('TGMISSING group') end
local s = stream(g.sid)
local spent = {}
for index = 1, nn() do
  local id = nx()
  local e = get(g, id)
  if e then
    spent[index] = e.a
  elseif earlier(id, g.cur) or earlier(s.last, id) or call('HEXISTS', g.pre, id) == 1
    or is_beyond(g, id) then
    spent[index] = -1
  else
    spent[index] = 0
  end
end
save()
return spent

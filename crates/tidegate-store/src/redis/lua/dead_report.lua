-- Counts a part of the dead letters that were buried in a time.
-- number of the stream, since, until, parts of the trend, letters to pass over, most
local s = stream(nx())
local since, till, parts, offset, most = nn(), nn(), nn(), nn(), nn()
if not s then return redis.error_reply('TGMISSING stream') end
local part = math.max(math.floor((till - since) / parts), 1)
local counts = { st = {}, sig = {}, kind = {}, g = {}, c = {}, trend = {} }
local newest = {}
local function count(what, key) counts[what][key] = (counts[what][key] or 0) + 1 end
local ids = call('ZRANGEBYSCORE', s.key .. ':at', S(since), '(' .. S(till), 'LIMIT', offset, most)
for _, id in ipairs(ids) do
  local m = letter_of(s, id)
  count('st', S(m.st))
  count('sig', m.sig)
  count('kind', m.kind)
  count('g', m.g)
  count('c', S(m.c))
  count('trend', S(math.min(math.floor((m.at - since) / part), parts - 1)))
  if not newest[m.sig] or earlier(newest[m.sig], id) then newest[m.sig] = id end
end
local told = { #ids }
for _, what in ipairs({ 'st', 'sig', 'kind', 'g', 'c', 'trend' }) do
  local list = {}
  for key, value in pairs(counts[what]) do list[#list + 1] = { key, value, what == 'sig' and newest[key] or '' } end
  told[#told + 1] = list
end
local oldest = call('ZRANGE', s.key .. ':pk', 0, 0, 'WITHSCORES')[2] or ''
told[#told + 1] = oldest
told[#told + 1] = call('HGETALL', s.key .. ':parked')
return told

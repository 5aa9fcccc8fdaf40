-- Counts of streams and groups, all of one moment.
-- now, count of streams, their numbers, count of groups, their numbers
local now = nn()
local told = { {}, {} }
for _ = 1, nn() do
  local s = stream(nx())
  if s then
    local first, count = '', math.max(s.acc - s.firstn + 1, 0)
    local backlog, slowest, readers = 0, '', {}
    if s.dead then
      count = call('ZCARD', s.key .. ':ix')
      first = call('ZRANGE', s.key .. ':ix', 0, 0)[1] or ''
    else
      if count > 0 then first = s.first end
      for _, gid in ipairs(call('SMEMBERS', s.key .. ':g')) do
        local g = group(gid)
        if g then
          local of = backlog_of(g, s)
          if slowest == '' or of > backlog then backlog, slowest = of, g.name end
          readers[#readers + 1] = g.name
        end
      end
    end
    local overdue = tonumber(call('HGET', s.key, 'overdue') or 0)
    told[1][#told[1] + 1] =
      { s.id, first, s.last, count, s.bytes, s.acc, backlog, slowest, overdue, readers }
  end
end
for _ = 1, nn() do
  local g = group(nx())
  local s = g and stream(g.sid)
  if s then
    local unseen, due = unseen_of(g, s), call('ZCOUNT', g.d, '-inf', now)
    local ready, blocked = call('ZCARD', g.r), call('ZCARD', g.q)
    local waits = g.waits > 0 and call('ZCARD', g.w) or 0
    -- Nobody has worked on these for the time of a lease; whoever claims next gets them.
    local run_out = call('ZRANGEBYSCORE', g.l, '-inf', now)
    local next_id = ''
    local limit = limit_of(g, s)
    if limit > g.curn then
      local entry = call('XRANGE', s.skey, g.cur, '+', 'COUNT', 1)[1]
      next_id = entry and entry[1] or ''
    end
    local oldest = call('ZRANGE', g.r, 0, 0)[1] or (unseen > 0 and next_id) or ''
    for _, id in ipairs(run_out) do
      if oldest == '' or earlier(id, oldest) then oldest = id end
    end
    if next_id == '' then next_id = g.endn > 0 and g.endid or inc(s.last) end
    local dead = call('HGET', T .. 'streams', s.name .. '.dlq')
    local parked = dead and call('HGET', T .. 's:' .. string.match(dead, '^(%d+) ') .. ':parked', g.id) or 0
    told[2][#told[2] + 1] = {
      g.id, next_id, limit - g.start + g.extra, g.done, g.dup, g.skip, unseen + ready + blocked + waits + due + #run_out, unseen,
      call('ZCARD', g.d) - due, call('ZCARD', g.l) - #run_out, g.dead, tonumber(parked or 0), g.exp, g.drop, oldest, g.bkeys,
      waits, waits > 0 and call('ZRANGE', g.w, 0, 0)[1] or '',
    }
  end
end
save()
return told

-- Forgets a group.
-- number
local g = group(nx())
if not g then return redis.error_reply('TGMISSING group') end
local skey = P .. call('HGET', T .. 's:' .. g.sid, 'name')
redis.pcall('XGROUP', 'DESTROY', skey, g.name)
call('HDEL', T .. 'groups', g.name)
call('SREM', T .. 's:' .. g.sid .. ':g', g.id)
call('SREM', T .. 'gids', g.id)
call('UNLINK', g.key, g.e, g.r, g.d, g.l, g.q, g.k, g.b, g.h, g.pre, g.ended, g.w, g.y, g.x, g.m, g.p, g.u, g.skips,
  g.ledger, g.order)
return 1

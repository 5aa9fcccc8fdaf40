-- Reads all control state of a node.
-- node
return call('HGETALL', T .. 'state:' .. nx())

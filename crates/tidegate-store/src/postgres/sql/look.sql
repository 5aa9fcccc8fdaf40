-- Counts of all groups, or of one, all of one moment.
CREATE FUNCTION tg_groups(p_gid int, p_now bigint) RETURNS TABLE (
  id int, next bigint, accepted bigint, done bigint, dup bigint, skip bigint, waiting bigint, blocked bigint, unseen bigint,
  scheduled bigint, in_flight bigint, dead bigint, parked bigint, exp bigint, dropped bigint, oldest bigint,
  oldest_blocked bigint, blocked_keys bigint
) LANGUAGE sql STABLE AS $$
  SELECT g.id, x.next, x.last - g.start + g.extra, g.done, g.dup, g.skip, x.unseen + c.ready + c.line + c.waits + c.due + c.run_out,
    c.waits, x.unseen, c.later, c.lent, g.dead,
    (SELECT count(*) FROM streams d JOIN letters l ON l.sid = d.id AND l.st = 0 AND l.gid = g.id WHERE d.name = s.name || '.dlq'),
    g.exp, g.dropped,
    (SELECT e.at FROM events e WHERE e.sid = s.id AND e.n = least(c.first_ready, CASE WHEN x.unseen > 0 THEN x.next END)),
    (SELECT e.at FROM events e WHERE e.sid = s.id AND e.n = c.first_waits), c.keys
  FROM groups g JOIN streams s ON s.id = g.sid
  CROSS JOIN LATERAL (
    SELECT least(s.acc, g.end_n - 1) AS last, g.cur + 1 AS next,
      least(s.acc, g.end_n - 1) - g.cur - (SELECT count(*) FROM ahead a WHERE a.gid = g.id) AS unseen
  ) x
  CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE d.st = 'r') AS ready, count(*) FILTER (WHERE d.st = 'b') AS line,
      count(*) FILTER (WHERE d.st = 'w') AS waits, count(*) FILTER (WHERE d.st = 'd' AND d.t <= p_now) AS due,
      count(*) FILTER (WHERE d.st = 'd' AND d.t > p_now) AS later, count(*) FILTER (WHERE d.st = 'l' AND d.t > p_now) AS lent,
      -- Nobody has worked on these for the time of a lease; whoever claims next gets them.
      count(*) FILTER (WHERE d.st = 'l' AND d.t <= p_now) AS run_out,
      min(d.n) FILTER (WHERE d.st = 'r' OR (d.st = 'l' AND d.t <= p_now)) AS first_ready, min(d.n) FILTER (WHERE d.st = 'w') AS first_waits,
      count(DISTINCT d.k) FILTER (WHERE d.st = 'b') AS keys
    FROM deliveries d WHERE d.gid = g.id
  ) c
  WHERE p_gid IS NULL OR g.id = p_gid ORDER BY g.name
$$;

-- Counts of all streams.
CREATE FUNCTION tg_streams() RETURNS TABLE (
  id int, first bigint, last bigint, count bigint, bytes bigint, backlog bigint, slowest text, overdue bigint, readers text[]
) LANGUAGE sql STABLE AS $$
  SELECT s.id,
    CASE WHEN s.dead THEN (SELECT min(l.id) FROM letters l WHERE l.sid = s.id) WHEN s.first_n <= s.acc THEN s.first_n END,
    s.acc, CASE WHEN s.dead THEN (SELECT count(*) FROM letters l WHERE l.sid = s.id) ELSE s.acc - s.first_n + 1 END, s.bytes,
    coalesce(b.backlog, 0), b.name, s.overdue, coalesce((SELECT array_agg(g.name ORDER BY g.name) FROM groups g WHERE g.sid = s.id), '{}')
  FROM streams s LEFT JOIN LATERAL (
    SELECT g.name, tg_backlog(g, s.acc) AS backlog FROM groups g WHERE g.sid = s.id ORDER BY 2 DESC, 1 LIMIT 1
  ) b ON true ORDER BY s.name
$$;

-- Where the event at a position stands in a group: a word, and what belongs to it.
CREATE FUNCTION tg_standing(
  p_gid int, p_n bigint, p_now bigint, p_key bigint, p_line bigint,
  OUT o_a int, OUT o_c int, OUT o_hist text, OUT o_word text, OUT o_at bigint, OUT o_n bigint, OUT o_held boolean,
  OUT o_unmet bytea[]
) LANGUAGE plpgsql STABLE AS $$
DECLARE
  g groups;
  s streams;
  d deliveries;
  e events;
  r record;
BEGIN
  SELECT * INTO g FROM groups WHERE id = p_gid;
  IF NOT FOUND THEN RAISE EXCEPTION 'group' USING ERRCODE = 'TG003'; END IF;
  SELECT * INTO s FROM streams WHERE id = g.sid;
  SELECT * INTO d FROM deliveries WHERE gid = p_gid AND n = p_n;
  SELECT * INTO e FROM events WHERE sid = g.sid AND n = p_n;
  o_a := coalesce(d.a, 0);
  o_c := coalesce(d.c, 0);
  o_hist := coalesce(d.hist, '');
  o_held := false;
  o_at := d.t;
  IF d.n IS NOT NULL THEN
    CASE d.st
      WHEN 'l' THEN o_word := 'lent';
      WHEN 'b' THEN
        o_word := 'blocked';
        SELECT n INTO o_n FROM deliveries WHERE gid = p_gid AND k = d.k AND held;
      WHEN 'w' THEN
        o_word := 'after';
        SELECT array_agg(f) INTO o_unmet FROM waits WHERE gid = p_gid AND n = p_n;
      WHEN 'd' THEN
        SELECT n INTO o_n FROM deliveries WHERE gid = p_gid AND f = d.f AND st = 'l' AND n <> p_n;
        o_word := CASE WHEN d.w = 'T' AND o_n IS NOT NULL THEN 'twin' WHEN d.t <= p_now THEN 'waiting' WHEN d.w = 'D' THEN 'deliver'
          ELSE 'retry' END;
      ELSE o_word := 'waiting';
    END CASE;
    IF o_word = 'waiting' THEN
      SELECT count(*) INTO o_n FROM deliveries x WHERE x.gid = p_gid AND x.st = 'r' AND (x.rank, x.n) < (d.rank, p_n);
    END IF;
    RETURN;
  END IF;
  IF p_n > s.acc OR p_n < 1 THEN o_word := 'absent'; RETURN; END IF;
  IF e.grp <> p_gid OR (p_n >= g.end_n AND e.grp IS DISTINCT FROM p_gid) THEN o_word := 'foreign'; RETURN; END IF;
  IF p_n > g.cur AND (g.end_n IS NULL OR p_n < g.end_n) AND NOT EXISTS (SELECT 1 FROM ahead WHERE gid = p_gid AND n = p_n) THEN
    SELECT n INTO o_n FROM deliveries WHERE gid = p_gid AND k = p_key AND held;
    IF FOUND THEN o_word := 'blocked'; RETURN; END IF;
    IF e.waits IS NOT NULL AND g.after AND g.led IS NOT NULL AND e.past IS NULL THEN
      SELECT array_agg(f) INTO o_unmet FROM tg_unmet(g, e.waits, p_now) f;
      IF o_unmet IS NOT NULL THEN o_word := 'after'; RETURN; END IF;
    END IF;
    o_word := 'waiting';
    o_n := (SELECT count(*) FROM deliveries WHERE gid = p_gid AND st = 'r') + p_n - g.cur - 1;
    o_held := (SELECT count(*) FROM deliveries WHERE gid = p_gid AND st = 'b') +
      (SELECT count(*) FROM waits WHERE gid = p_gid) >= p_line;
    RETURN;
  END IF;
  IF e.n IS NOT NULL AND p_n <= g.start THEN o_word := 'foreign'; RETURN; END IF;
  SELECT l.id, l.st, l.at INTO r FROM streams x JOIN letters l ON l.sid = x.id AND l.gid = p_gid AND l.n = p_n
  WHERE x.name = s.name || '.dlq' ORDER BY l.id DESC LIMIT 1;
  IF FOUND THEN
    o_word := 'dead';
    o_n := r.id;
    o_c := r.st;
    o_at := r.at;
    RETURN;
  END IF;
  SELECT l.n, l.at INTO r FROM ledger l WHERE l.gid = p_gid AND l.f = e.f AND NOT l.skipped;
  IF FOUND THEN
    o_word := 'done';
    o_n := r.n;
    o_at := r.at;
    RETURN;
  END IF;
  SELECT CASE how WHEN 'E' THEN 'expired' ELSE 'skipped' END INTO o_word FROM ended WHERE gid = p_gid AND n = p_n;
  IF NOT FOUND THEN o_word := CASE WHEN e.n IS NULL THEN 'dropped' ELSE 'settled' END; END IF;
END $$;

-- Where a fingerprint is known: the window of a stream, the ledgers of its groups, and what is lent.
CREATE FUNCTION tg_places(p_sid int, p_now bigint, p_f bytea) RETURNS SETOF bigint LANGUAGE sql STABLE AS $$
  SELECT m.n FROM marks m JOIN streams s ON s.id = m.sid WHERE m.sid = p_sid AND m.mark = p_f AND m.at + s.window_ms > p_now
  UNION SELECT l.n FROM groups g JOIN ledger l ON l.gid = g.id AND l.f = p_f WHERE g.sid = p_sid
  UNION SELECT d.n FROM groups g JOIN deliveries d ON d.gid = g.id AND d.f = p_f AND d.st = 'l' WHERE g.sid = p_sid
$$;

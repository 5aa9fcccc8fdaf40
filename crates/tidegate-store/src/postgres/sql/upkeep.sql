-- Drops the oldest unsettled events of a group that nobody works on: so many, or all before a position.
CREATE FUNCTION tg_drop(p_gid int, p_most bigint, p_stop bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  g groups;
  v_last bigint;
  v_dropped bigint := 0;
  v_ahead bigint := 0;
  v_keys bigint[];
  v_ns bigint[];
  v_to bigint;
BEGIN
  SELECT * INTO g FROM groups WHERE id = p_gid FOR UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'group' USING ERRCODE = 'TG003'; END IF;
  SELECT least(acc, g.end_n - 1) INTO v_last FROM streams WHERE id = g.sid;
  WITH gone AS (
    DELETE FROM deliveries WHERE gid = p_gid AND n = ANY(ARRAY(
      SELECT n FROM deliveries WHERE gid = p_gid AND st <> 'l' AND (p_stop IS NULL OR n < p_stop) ORDER BY n LIMIT p_most))
    RETURNING n, k, held
  ) SELECT count(*), array_agg(DISTINCT k) FILTER (WHERE held), array_agg(n) INTO v_dropped, v_keys, v_ns FROM gone;
  IF v_ns IS NOT NULL THEN DELETE FROM waits WHERE gid = p_gid AND n = ANY(v_ns); END IF;
  PERFORM tg_release(p_gid, v_keys);
  v_to := least(v_last, p_stop - 1, g.cur + p_most - v_dropped);
  IF v_to > g.cur THEN
    WITH gone AS (DELETE FROM ahead WHERE gid = p_gid AND n > g.cur AND n <= v_to RETURNING 1)
    SELECT count(*) INTO v_ahead FROM gone;
    v_dropped := v_dropped + v_to - g.cur - v_ahead;
  ELSE
    v_to := g.cur;
  END IF;
  UPDATE groups SET cur = v_to, dropped = dropped + v_dropped WHERE id = p_gid;
  -- What was done before the group went back is not waited for any longer, and what nobody had looked at has no name here.
  IF g.after AND g.again_n > 0 AND v_dropped > 0 THEN PERFORM tg_look_anew(p_gid); END IF;
  RETURN v_dropped;
END $$;

-- The first position that retention keeps, whoever has settled what lies before; it looks at so many events.
CREATE FUNCTION tg_keeps(s streams, p_count bigint, p_horizon bigint, p_bytes bigint, p_most bigint) RETURNS bigint
LANGUAGE sql STABLE AS $$
  SELECT coalesce(max(n) + 1, s.first_n) FROM (
    SELECT n, bool_and(coalesce(n <= s.acc - p_count OR at < p_horizon OR s.bytes - before > p_bytes, false))
      OVER (ORDER BY n) AS goes
    FROM (
      SELECT e.n, e.at, sum(e.size) OVER (ORDER BY e.n) - e.size AS before FROM events e
      WHERE e.sid = s.id AND e.n >= s.first_n ORDER BY e.n LIMIT p_most
    ) x
  ) y WHERE goes
$$;

CREATE FUNCTION tg_overdue(p_sid int, p_count bigint, p_horizon bigint, p_bytes bigint, p_most bigint) RETURNS bigint
LANGUAGE sql STABLE AS $$
  SELECT tg_keeps(s, p_count, p_horizon, p_bytes, p_most) FROM streams s WHERE s.id = p_sid
$$;

-- Removes what retention does not keep and every group has settled; returns whether there is more.
CREATE FUNCTION tg_trim(p_sid int, p_count bigint, p_horizon bigint, p_bytes bigint, p_most bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  s streams;
  v_floor bigint;
  v_keeps bigint;
  v_to bigint;
  v_gone bigint;
  v_old bigint;
  v_ns bigint[];
BEGIN
  PERFORM 1 FROM groups WHERE sid = p_sid ORDER BY id FOR UPDATE;
  SELECT * INTO s FROM streams WHERE id = p_sid FOR UPDATE;
  IF NOT FOUND THEN RETURN false; END IF;
  -- One that has looked at all before its end holds back only what it has not settled.
  SELECT least(s.acc, min(cur)) INTO v_floor FROM groups WHERE sid = p_sid AND (end_n IS NULL OR cur < end_n - 1);
  v_keeps := tg_keeps(s, p_count, p_horizon, p_bytes, p_most);
  v_to := least(v_keeps - 1, v_floor);
  INSERT INTO stragglers (sid, n)
  SELECT p_sid, d.n FROM groups g JOIN deliveries d ON d.gid = g.id AND d.n BETWEEN s.first_n AND v_to WHERE g.sid = p_sid
  ON CONFLICT DO NOTHING;
  WITH free AS (
    DELETE FROM stragglers t WHERE t.sid = p_sid AND NOT EXISTS (
      SELECT 1 FROM groups g JOIN deliveries d ON d.gid = g.id AND d.n = t.n WHERE g.sid = p_sid) RETURNING t.n
  ) SELECT array_agg(n) INTO v_ns FROM free;
  WITH gone AS (DELETE FROM events WHERE sid = p_sid AND n = ANY(v_ns) RETURNING size)
  SELECT coalesce(sum(size), 0) INTO v_old FROM gone;
  WITH gone AS (
    DELETE FROM events e WHERE e.sid = p_sid AND e.n BETWEEN s.first_n AND v_to
      AND NOT EXISTS (SELECT 1 FROM stragglers t WHERE t.sid = p_sid AND t.n = e.n) RETURNING e.size
  ) SELECT coalesce(sum(size), 0) INTO v_gone FROM gone;
  UPDATE streams SET bytes = bytes - v_gone - v_old, first_n = greatest(first_n, v_to + 1),
    overdue = greatest(v_keeps - 1 - v_to, 0) WHERE id = p_sid;
  DELETE FROM ended e USING groups g WHERE g.sid = p_sid AND e.gid = g.id AND e.n <= v_to
    AND NOT EXISTS (SELECT 1 FROM events x WHERE x.sid = p_sid AND x.n = e.n);
  RETURN v_to - s.first_n + 1 >= p_most;
END $$;

-- Forgets what the dedupe window of a stream holds no longer; returns how many.
CREATE FUNCTION tg_clean_marks(p_sid int, p_now bigint, p_most bigint) RETURNS bigint LANGUAGE sql AS $$
  WITH gone AS (
    DELETE FROM marks WHERE sid = p_sid AND mark = ANY(ARRAY(
      SELECT m.mark FROM streams s CROSS JOIN LATERAL (SELECT * FROM marks WHERE sid = s.id ORDER BY n LIMIT p_most) m
      WHERE s.id = p_sid AND (m.n + s.window_n <= s.acc OR m.at + s.window_ms <= p_now))) RETURNING 1
  ) SELECT count(*) FROM gone
$$;

-- Forgets what was done before a time, at most so many entries; returns how many.
CREATE FUNCTION tg_clean_ledger(p_gid int, p_before bigint, p_most bigint) RETURNS bigint LANGUAGE sql AS $$
  WITH gone AS (
    DELETE FROM ledger WHERE gid = p_gid AND at < p_before AND f = ANY(ARRAY(
      SELECT f FROM ledger WHERE gid = p_gid AND at < p_before ORDER BY at LIMIT p_most)) RETURNING 1
  ) SELECT count(*) FROM gone
$$;

-- Forgets ledgers that nobody asks any more, at most so many entries; returns how many.
CREATE FUNCTION tg_sweep(p_most bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  r record;
  v_gone bigint;
  v_all bigint := 0;
BEGIN
  FOR r IN SELECT * FROM swept FOR UPDATE SKIP LOCKED LOOP
    v_gone := tg_clean_ledger(r.gid, r.before, p_most - v_all);
    v_all := v_all + v_gone;
    EXIT WHEN v_all >= p_most;
    DELETE FROM swept WHERE gid = r.gid;
  END LOOP;
  RETURN v_all;
END $$;

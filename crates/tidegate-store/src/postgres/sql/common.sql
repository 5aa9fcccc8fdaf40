-- Plans of these statements are made while tables may be empty, and kept: so each says by a list which rows it means where the
-- planner could take all rows of a group or stream for a few, and `coalesce` around a state keeps it from walking the index of all
-- that are in that state.

-- The last lines of a history and one more.
CREATE FUNCTION tg_lines(p_text text, p_more text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  v_all text[];
BEGIN
  IF p_more = '' THEN RETURN p_text; END IF;
  v_all := string_to_array(rtrim(p_text || p_more, E'\n'), E'\n');
  RETURN array_to_string(v_all[greatest(1, cardinality(v_all) - 19):], E'\n') || E'\n';
END $$;

-- How many deliveries of a group are looked at and not settled.
CREATE FUNCTION tg_open(g groups) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT g.cur - g.start + g.extra + (SELECT count(*) FROM ahead WHERE gid = g.id) - (g.done + g.dead + g.exp + g.dropped)
$$;

-- What publishers wait for because of a group.
CREATE FUNCTION tg_backlog(g groups, p_acc bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN g.end_n IS NULL THEN greatest(p_acc - greatest(g.cur, g.high) + tg_open(g), 0) ELSE 0 END
$$;

-- Refuses a process whose session is another's by now, or is not there.
CREATE FUNCTION tg_own(p_node text, p_owner bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_owner bigint;
BEGIN
  SELECT owner INTO v_owner FROM sessions WHERE node = p_node;
  IF NOT FOUND THEN RAISE EXCEPTION 'session' USING ERRCODE = 'TG002'; END IF;
  IF v_owner <> p_owner THEN RAISE EXCEPTION 'session' USING ERRCODE = 'TG001'; END IF;
END $$;

-- Gives keys that nobody has to the next in their lines, who may run.
CREATE FUNCTION tg_release(p_gid int, p_keys bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_ns bigint[];
BEGIN
  IF cardinality(p_keys) > 0 THEN
    SELECT array_agg(b.n) INTO v_ns FROM unnest(p_keys) key CROSS JOIN LATERAL
      (SELECT n FROM deliveries WHERE gid = p_gid AND k = key AND st = 'b' ORDER BY n LIMIT 1) b
    WHERE NOT EXISTS (SELECT 1 FROM deliveries h WHERE h.gid = p_gid AND h.k = key AND h.held);
    UPDATE deliveries SET st = 'r', held = true WHERE gid = p_gid AND n = ANY(v_ns);
  END IF;
END $$;

-- Lets deliveries that came back take their keys or stand in line. One that was only next gives way to an older one.
CREATE FUNCTION tg_line_up(p_gid int, p_ns bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_win bigint[];
  v_lose bigint[];
  v_yield bigint[];
BEGIN
  IF p_ns IS NULL THEN RETURN; END IF;
  WITH them AS (
    SELECT d.n, d.k, row_number() OVER (PARTITION BY d.k ORDER BY d.n) AS nth
    FROM deliveries d WHERE d.gid = p_gid AND d.n = ANY(p_ns) AND coalesce(d.st, '-') = 'r' AND d.k IS NOT NULL AND NOT d.held
  ), judged AS (
    SELECT t.n, h.n AS holder, t.nth = 1 AND (h.n IS NULL OR (h.st = 'r' AND h.n > t.n)) AS wins
    FROM them t LEFT JOIN deliveries h ON h.gid = p_gid AND h.k = t.k AND h.held
  )
  SELECT array_agg(n) FILTER (WHERE wins), array_agg(n) FILTER (WHERE NOT wins), array_agg(holder) FILTER (WHERE wins)
  INTO v_win, v_lose, v_yield FROM judged;
  UPDATE deliveries SET st = 'b', held = false WHERE gid = p_gid AND n = ANY(v_yield);
  UPDATE deliveries SET st = 'b' WHERE gid = p_gid AND n = ANY(v_lose);
  UPDATE deliveries SET held = true WHERE gid = p_gid AND n = ANY(v_win);
END $$;

-- Lets those go on that wait for nothing but events that are done now.
CREATE FUNCTION tg_met(p_gid int, p_fs bytea[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_ns bigint[];
BEGIN
  WITH gone AS (DELETE FROM waits w WHERE w.gid = p_gid AND w.f = ANY(p_fs) RETURNING w.n)
  SELECT array_agg(DISTINCT n) INTO v_ns FROM gone;
  IF v_ns IS NULL THEN RETURN; END IF;
  WITH woken AS (
    UPDATE deliveries d SET st = 'r', t = NULL WHERE d.gid = p_gid AND d.n = ANY(v_ns) AND coalesce(d.st, '-') = 'w'
      AND NOT EXISTS (SELECT 1 FROM waits w WHERE w.gid = p_gid AND w.n = d.n)
    RETURNING d.n
  )
  SELECT array_agg(n) INTO v_ns FROM woken;
  PERFORM tg_line_up(p_gid, v_ns);
END $$;

-- Looks anew at everything that waits for other events.
CREATE FUNCTION tg_look_anew(p_gid int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_ns bigint[];
BEGIN
  DELETE FROM waits WHERE gid = p_gid;
  WITH woken AS (UPDATE deliveries SET st = 'r', t = NULL WHERE gid = p_gid AND st = 'w' RETURNING n)
  SELECT array_agg(n) INTO v_ns FROM woken;
  PERFORM tg_line_up(p_gid, v_ns);
END $$;

-- Those of the events that one waits for that are not done in a group.
CREATE FUNCTION tg_unmet(g groups, p_waits bytea, p_now bigint) RETURNS SETOF bytea LANGUAGE sql STABLE AS $$
  SELECT DISTINCT substring(p_waits FROM j * 16 + 1 FOR 16) FROM generate_series(0, octet_length(p_waits) / 16 - 1) j
  WHERE NOT EXISTS (
    SELECT 1 FROM ledger l WHERE l.gid = g.id AND l.f = substring(p_waits FROM j * 16 + 1 FOR 16) AND l.at + g.led > p_now
      -- The group went back to do it once more, and has not come to that yet.
      AND NOT (l.n <= g.again_n AND l.at <= g.again_at
        AND NOT (l.n <= g.cur AND NOT EXISTS (SELECT 1 FROM deliveries x WHERE x.gid = g.id AND x.n = l.n))))
$$;

-- Lends again what a process holds that is gone. A handler that may kill its process is blamed for its death.
CREATE FUNCTION tg_give_back(p_owner bigint, p_blames boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM groups ORDER BY id FOR UPDATE;
  UPDATE deliveries d SET st = 'r', t = NULL, a = d.a + by, c = d.c + by
  FROM (SELECT id, CASE WHEN p_blames AND mark THEN 1 ELSE 0 END AS by FROM groups) g
  WHERE d.gid = g.id AND d.st = 'l' AND d.o = p_owner;
END $$;

-- Writes events of one stream behind its newest, but for those that its window knows. The stream is locked.
CREATE FUNCTION tg_put(
  p_sid int, p_now bigint, p_take boolean[], p_mark bytea[], p_f bytea[], p_kind text[], p_body bytea[], p_due bigint[],
  p_expires bigint[], p_urgency smallint[], p_waits bytea[], OUT o_n bigint[], OUT o_dup boolean[]
) LANGUAGE plpgsql AS $$
DECLARE
  s streams;
  v_count bigint;
  v_bytes bigint;
BEGIN
  SELECT * INTO s FROM streams WHERE id = p_sid;
  WITH ev AS MATERIALIZED (
    SELECT u.*, row_number() OVER (PARTITION BY u.mark ORDER BY u.i) AS nth, m.n AS known
    FROM unnest(p_take, p_mark, p_f, p_kind, p_body, p_due, p_expires, p_urgency, p_waits)
      WITH ORDINALITY u(take, mark, f, kind, body, due, expires, urgency, waits, i)
    -- Written so that no other index fits: a plan is made while the table may be empty, and kept.
    LEFT JOIN marks m
      ON m.sid = p_sid AND m.mark = u.mark AND m.at + s.window_ms > p_now AND m.n + s.window_n > s.acc
    WHERE u.take
  ), fresh AS MATERIALIZED (
    SELECT ev.*, known IS NULL AND (mark IS NULL OR nth = 1) AS is_new FROM ev
  ), numbered AS MATERIALIZED (
    SELECT fresh.*, s.acc + count(*) FILTER (WHERE is_new) OVER (ORDER BY i) AS number FROM fresh
  ), written AS (
    INSERT INTO events (sid, n, at, size, f, kind, body, due, expires, urgency, waits)
    SELECT p_sid, number, p_now, octet_length(body) + 48, f, kind, body, due, expires, urgency, waits
    FROM numbered WHERE is_new
  ), marked AS (
    INSERT INTO marks (sid, mark, n, at) SELECT p_sid, mark, number, p_now FROM numbered WHERE is_new AND mark IS NOT NULL
    ON CONFLICT (sid, mark) DO UPDATE SET n = excluded.n, at = excluded.at
  ), answered AS (
    SELECT i, is_new, octet_length(body) + 48 AS size,
      coalesce(known, CASE WHEN is_new THEN number ELSE first_value(number) OVER (PARTITION BY mark ORDER BY i) END) AS n
    FROM numbered
  )
  SELECT array_agg(n ORDER BY i), array_agg(NOT is_new ORDER BY i), count(*) FILTER (WHERE is_new),
    coalesce(sum(size) FILTER (WHERE is_new), 0)
  INTO o_n, o_dup, v_count, v_bytes FROM answered;
  UPDATE streams SET acc = acc + v_count, bytes = bytes + v_bytes WHERE id = p_sid AND v_count > 0;
END $$;

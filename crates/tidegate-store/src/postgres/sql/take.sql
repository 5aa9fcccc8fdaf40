-- What a group must be shown to learn its order keys: what came back without one, and what it has not looked at, as far as
-- what may run already leaves room.
CREATE FUNCTION tg_show(p_gid int, p_stop bigint, p_room int, p_page int, p_bytes bigint)
RETURNS TABLE (n bigint, body bytea) LANGUAGE plpgsql STABLE AS $$
DECLARE
  g groups;
  v_ready bigint := 0;
  v_last bigint;
BEGIN
  SELECT * INTO g FROM groups WHERE id = p_gid;
  IF NOT FOUND THEN RAISE EXCEPTION 'group' USING ERRCODE = 'TG003'; END IF;
  SELECT least(s.acc, g.end_n - 1, p_stop - 1) INTO v_last FROM streams s WHERE s.id = g.sid;
  IF g.step IS NULL THEN
    SELECT count(*) INTO v_ready
    FROM (SELECT 1 FROM deliveries d WHERE d.gid = p_gid AND d.st = 'r' AND d.kn LIMIT p_room) x;
  END IF;
  IF v_ready >= p_room THEN v_last := 0; END IF;
  RETURN QUERY SELECT x.n, x.body FROM (
    SELECT y.n, y.body, sum(y.size) OVER (ORDER BY y.n) - y.size AS before FROM (
      (SELECT e.n, e.body, e.size FROM deliveries d
       CROSS JOIN LATERAL (SELECT x.n, x.body, x.size FROM events x WHERE x.sid = g.sid AND x.n = d.n OFFSET 0) e
       WHERE d.gid = p_gid AND NOT d.kn ORDER BY d.n LIMIT p_page)
      UNION ALL
      (SELECT e.n, e.body, e.size FROM events e
       WHERE e.sid = g.sid AND e.n > g.cur AND e.n <= v_last ORDER BY e.n LIMIT p_page)
    ) y
  ) x WHERE x.before < p_bytes ORDER BY x.n LIMIT p_page;
END $$;

-- Takes back leases that ran out, if those are looked at, and what was lent to nobody, and lets go what is due. Says when the
-- next lease ends.
CREATE FUNCTION tg_wake(
  g groups, p_owner bigint, p_now bigint, p_lease bigint, p_unheard bigint[], p_ends boolean,
  OUT o_lost int, OUT o_ends bigint
) LANGUAGE plpgsql AS $$
DECLARE
  v_ns bigint[];
  v_expired bigint[];
  v_line text;
BEGIN
  -- What was lent to nobody, because the answer never came, was not lent.
  IF cardinality(p_unheard) > 0 THEN
    UPDATE deliveries SET st = 'r', t = NULL WHERE gid = g.id AND st = 'l' AND o = p_owner AND ep = ANY(p_unheard);
  END IF;
  o_lost := 0;
  IF p_ends THEN
    v_ns := ARRAY(SELECT n FROM deliveries WHERE gid = g.id AND st = 'l' AND t <= p_now ORDER BY t LIMIT 1000);
    o_lost := cardinality(v_ns);
  END IF;
  IF o_lost > 0 THEN
    v_line := format('{"at":%s,"took":%s,"class":6,"message":"the worker neither settled nor extended its lease in time"}',
      p_now, p_lease * 1000);
    UPDATE deliveries SET st = 'r', t = NULL, a = a + 1, c = c + 1, hist = tg_lines(hist, v_line)
    WHERE gid = g.id AND n = ANY(v_ns);
  END IF;
  IF p_ends THEN SELECT min(t) INTO o_ends FROM deliveries WHERE gid = g.id AND st = 'l'; END IF;
  v_ns := ARRAY(SELECT n FROM deliveries WHERE gid = g.id AND st = 'd' AND t <= p_now ORDER BY t, n LIMIT 1000);
  -- Nobody needs those any more that are past their time.
  v_expired := ARRAY(SELECT n FROM deliveries WHERE gid = g.id AND st = 'w' AND t <= p_now ORDER BY t LIMIT 1000);
  IF cardinality(v_ns || v_expired) = 0 THEN RETURN; END IF;
  UPDATE deliveries SET st = 'r', t = NULL WHERE gid = g.id AND n = ANY(v_ns || v_expired);
  DELETE FROM waits WHERE gid = g.id AND n = ANY(v_expired);
  PERFORM tg_line_up(g.id, v_ns || v_expired);
END $$;

-- Judges deliveries, new ones or such as may run, and writes what becomes of each. With `p_lends` those are lent that can be.
CREATE FUNCTION tg_consider(
  INOUT g groups, p_ns bigint[], p_keys bigint[], p_lends boolean, p_now bigint, p_room bigint, p_bytes bigint,
  p_before boolean, p_until bigint, p_owner bigint, p_epoch bigint, p_twin bigint,
  OUT o_lent bigint[], OUT o_size bigint, OUT o_dup int, OUT o_exp int, OUT o_seen bigint
) LANGUAGE plpgsql AS $$
DECLARE
  v_keys bigint[];
  v_foreign bigint;
  v_lost bigint;
  v_cur bigint;
  v_fs bytea[];
BEGIN
  WITH c AS MATERIALIZED (
    SELECT u.i, u.n, coalesce(d.k, u.k) AS k, d.n IS NULL AS is_new, coalesce(d.a, 0) AS a, coalesce(d.held, false) AS held,
      coalesce(nullif(d.hist, ''), e.past, '') AS hist, e.f, e.size, e.expires, e.due, e.waits,
      CASE WHEN g.step IS NULL THEN 0 ELSE greatest(e.at, e.due) - g.step * e.urgency END AS rank,
      CASE
        WHEN d.n IS NULL AND EXISTS (SELECT 1 FROM ahead p WHERE p.gid = g.id AND p.n = u.n) THEN 'P'
        WHEN e.n IS NULL THEN 'X'
        WHEN e.grp <> g.id THEN 'F'
        WHEN g.led IS NOT NULL AND EXISTS (
          SELECT 1 FROM ledger l WHERE l.gid = g.id AND l.f = e.f AND NOT l.skipped AND l.at + g.led > p_now
            AND NOT (u.n <= g.again_n AND l.at <= g.again_at)
            -- One that was forced runs once, not each time that it is looked at.
            AND (NOT e.forced OR l.n >= u.n)
        ) THEN 'K'
        WHEN e.expires <= p_now THEN 'E'
        WHEN e.due > p_now THEN 'D'
        WHEN e.waits IS NOT NULL AND g.after AND g.led IS NOT NULL AND NOT coalesce(d.freed, false)
          AND coalesce(d.a, 0) = 0 AND coalesce(nullif(d.hist, ''), e.past, '') = ''
          AND EXISTS (SELECT 1 FROM tg_unmet(g, e.waits, p_now)) THEN 'W'
        ELSE 'L'
      END AS class
    FROM unnest(p_ns, p_keys) WITH ORDINALITY u(n, k, i)
    LEFT JOIN events e ON e.sid = g.sid AND e.n = u.n LEFT JOIN deliveries d ON d.gid = g.id AND d.n = u.n
  ), keyed AS (
    SELECT c.*, is_new AND k IS NOT NULL AND (class = 'L' OR (class = 'W' AND g.block)) AS takes FROM c
  ), lined AS (
    -- New ones are younger than all that were looked at: who has the key keeps it.
    SELECT keyed.*, takes AND (
      row_number() OVER (PARTITION BY k, takes ORDER BY n) > 1
      OR EXISTS (SELECT 1 FROM deliveries h WHERE h.gid = g.id AND h.k = keyed.k AND h.held)) AS blocked
    FROM keyed
  ), twins AS (
    SELECT lined.*, p_lends AND class = 'L' AND NOT blocked AS lends,
      g.led IS NOT NULL AND class = 'L' AND (
        row_number() OVER (PARTITION BY f, class = 'L' AND NOT blocked ORDER BY i) > 1
        OR EXISTS (SELECT 1 FROM deliveries b WHERE b.gid = g.id AND b.f = lined.f AND b.st = 'l' AND b.n <> lined.n)
      ) AS twin
    FROM lined
  ), summed AS (
    SELECT twins.*, count(*) FILTER (WHERE lends AND NOT twin) OVER (ORDER BY i) AS nth,
      sum(size) FILTER (WHERE lends AND NOT twin) OVER (ORDER BY i) AS upto
    FROM twins
  ), fin AS MATERIALIZED (
    SELECT * FROM summed WHERE i < (
      SELECT coalesce(min(i), 9223372036854775807) FROM summed
      WHERE lends AND NOT twin AND (nth > p_room OR ((p_before OR nth > 1) AND upto > p_bytes)))
  ), made AS (
    INSERT INTO deliveries (gid, n, st, f, k, held, rank, t, w, o, ep, hist)
    SELECT g.id, n,
      CASE WHEN blocked THEN 'b' WHEN class = 'L' AND lends AND NOT twin THEN 'l' WHEN class = 'L' AND lends THEN 'd'
        WHEN class = 'L' THEN 'r' WHEN class = 'D' THEN 'd' ELSE 'w' END::"char",
      f, k, takes AND NOT blocked, rank,
      CASE WHEN blocked THEN NULL WHEN class = 'L' AND lends AND NOT twin THEN p_until
        WHEN class = 'L' AND lends THEN p_now + p_twin WHEN class = 'D' THEN due WHEN class = 'W' THEN expires END,
      CASE WHEN class = 'D' THEN 'D' WHEN class = 'L' AND lends AND twin THEN 'T' END::"char",
      CASE WHEN class = 'L' AND lends AND NOT twin THEN p_owner END, CASE WHEN class = 'L' AND lends THEN p_epoch END, hist
    FROM fin WHERE is_new AND class IN ('L', 'D', 'W')
  ), changed AS (
    UPDATE deliveries d SET
      st = CASE WHEN NOT fin.lends AND class = 'L' THEN 'r' WHEN class = 'L' AND NOT twin THEN 'l' WHEN class IN ('L', 'D') THEN 'd'
        ELSE 'w' END::"char",
      held = d.held AND (class = 'L' OR (class = 'W' AND g.block)),
      t = CASE WHEN class = 'L' AND NOT twin THEN p_until WHEN class = 'L' THEN p_now + p_twin WHEN class = 'D' THEN due
        ELSE expires END,
      w = CASE WHEN class = 'D' THEN 'D' WHEN class = 'L' AND twin THEN 'T' END::"char",
      o = p_owner, ep = p_epoch, hist = fin.hist
    FROM fin
    WHERE NOT is_new AND class IN ('L', 'D', 'W') AND d.gid = g.id AND d.n = fin.n AND d.n = ANY(p_ns)
  ), gone AS (
    DELETE FROM deliveries d USING fin
    WHERE NOT is_new AND class IN ('F', 'K', 'E', 'X') AND d.gid = g.id AND d.n = fin.n AND d.n = ANY(p_ns)
  ), passed AS (
    DELETE FROM ahead p USING fin WHERE class = 'P' AND p.gid = g.id AND p.n = fin.n AND p.n = ANY(p_ns)
  ), waiting AS (
    INSERT INTO waits (gid, f, n) SELECT g.id, u.f, fin.n FROM fin CROSS JOIN LATERAL tg_unmet(g, fin.waits, p_now) u(f)
    WHERE class = 'W' AND NOT blocked ON CONFLICT DO NOTHING
  ), noted AS (
    INSERT INTO ended (gid, n, how) SELECT g.id, n, 'E'::"char" FROM fin WHERE class = 'E' ON CONFLICT DO NOTHING
  )
  SELECT array_agg(n ORDER BY i) FILTER (WHERE lends AND NOT twin), coalesce(sum(size) FILTER (WHERE lends AND NOT twin), 0),
    count(*) FILTER (WHERE class = 'K'), count(*) FILTER (WHERE class = 'E'), count(*),
    array_agg(k) FILTER (WHERE held AND (class IN ('F', 'K', 'E', 'X', 'D') OR (class = 'W' AND NOT g.block))),
    count(*) FILTER (WHERE class = 'F'), count(*) FILTER (WHERE class = 'X'), max(n) FILTER (WHERE is_new),
    array_agg(f) FILTER (WHERE class IN ('F', 'K', 'E', 'X'))
  INTO o_lent, o_size, o_dup, o_exp, o_seen, v_keys, v_foreign, v_lost, v_cur, v_fs FROM fin;
  g.cur := greatest(g.cur, v_cur);
  g.done := g.done + v_foreign + o_dup;
  g.dup := g.dup + v_foreign + o_dup;
  g.exp := g.exp + o_exp;
  g.dropped := g.dropped + v_lost;
  PERFORM tg_release(g.id, v_keys);
  -- What was done before the group went back is not waited for any longer, however it leaves.
  IF g.after AND g.again_n > 0 AND v_fs IS NOT NULL THEN PERFORM tg_met(g.id, v_fs); END IF;
END $$;

-- Lends. `p_ns` and `p_keys` are what was shown of a group with order keys; `p_reach` is a position up to which it looks in
-- any case.
CREATE FUNCTION tg_take(
  p_gid int, p_node text, p_owner bigint, p_now bigint, p_room int, p_lease bigint, p_epoch bigint, p_unheard bigint[],
  p_stop bigint, p_reach bigint, p_ns bigint[], p_keys bigint[], p_bytes bigint, p_flight bigint, p_line bigint,
  p_twin bigint, p_before boolean, p_ends boolean,
  OUT o_n bigint[], OUT o_at bigint[], OUT o_a int[], OUT o_c int[], OUT o_hist text[], OUT o_body bytea[],
  OUT o_lost int, OUT o_ends bigint, OUT o_dup int, OUT o_exp int, OUT o_due bigint, OUT o_more boolean
) LANGUAGE plpgsql AS $$
DECLARE
  g groups;
  r record;
  v_room bigint;
  v_bytes bigint := p_bytes;
  v_before boolean := p_before;
  v_lent bigint[] := '{}';
  v_last bigint;
  v_ns bigint[];
  v_keys bigint[];
  v_turns boolean;
  v_back bigint[];
  v_line bigint;
  v_page bigint := 0;
  v_phase int := 1;
BEGIN
  SELECT * INTO g FROM groups WHERE id = p_gid FOR UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'group' USING ERRCODE = 'TG003'; END IF;
  PERFORM tg_own(p_node, p_owner);
  -- A loan that nobody hears of after a crash of the server is none, unless it must be known whom a handler killed.
  IF NOT g.mark THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;
  SELECT w.o_lost, w.o_ends INTO o_lost, o_ends FROM tg_wake(g, p_owner, p_now, p_lease, p_unheard, p_ends) w;
  o_dup := 0;
  o_exp := 0;
  IF g.order_by IS NOT NULL THEN
    WITH known AS (
      UPDATE deliveries d SET k = u.k, kn = true FROM unnest(p_ns, p_keys) u(n, k)
      WHERE d.gid = p_gid AND d.n = u.n AND d.n = ANY(p_ns) AND NOT d.kn RETURNING d.n
    ) SELECT array_agg(n) INTO v_back FROM known;
    PERFORM tg_line_up(p_gid, v_back);
  END IF;
  SELECT least(s.acc, g.end_n - 1) INTO v_last FROM streams s WHERE s.id = g.sid;
  v_last := least(v_last, greatest(p_stop - 1, p_reach));
  v_room := p_room;
  -- No more are lent than are open: that is known, and to count what is lent means to walk over all that was lent lately.
  IF tg_open(g) + p_room > p_flight THEN
    SELECT p_room - greatest(0, p_room + count(*) - p_flight) INTO v_room FROM deliveries WHERE gid = p_gid AND st = 'l';
  END IF;
  -- With keys or ranks, what is new may run first when all that is new stands in its place.
  v_turns := g.order_by IS NOT NULL OR g.step IS NOT NULL;
  IF NOT v_turns AND p_reach IS NULL THEN v_phase := 2; END IF;
  LOOP
    v_ns := NULL;
    v_keys := NULL;
    IF v_phase IN (1, 3) AND g.cur < v_last AND (v_room > 0 OR p_reach IS NOT NULL) THEN
      -- No more wait than are open, but that one may wait for several. To count means to walk over what waited lately.
      SELECT tg_open(g) + count(*) INTO v_line FROM waits WHERE gid = p_gid;
      IF v_turns OR v_line + 1000 > p_line THEN
        SELECT (SELECT count(*) FROM deliveries WHERE gid = p_gid AND st = 'b') + (SELECT count(*) FROM waits WHERE gid = p_gid)
          + CASE WHEN g.step IS NULL THEN 0 ELSE (SELECT count(*) FROM deliveries WHERE gid = p_gid AND st = 'r') END
        INTO v_line;
      END IF;
      IF v_line < p_line THEN
        IF g.order_by IS NOT NULL THEN
          SELECT array_agg(n ORDER BY n), array_agg(k ORDER BY n) INTO v_ns, v_keys
          FROM (SELECT n, k FROM unnest(p_ns, p_keys) u(n, k) WHERE n > g.cur AND n <= v_last ORDER BY n LIMIT p_line - v_line) x
          -- Nothing in between may be passed over.
          WHERE EXISTS (SELECT 1 FROM unnest(p_ns) y WHERE y = g.cur + 1);
        ELSE
          -- What was seen could mostly not be lent: a wider look finds sooner what can be.
          v_page := CASE WHEN v_phase = 1 THEN p_line ELSE greatest(v_room, least(v_page * 2, 1000)) END;
          SELECT array_agg(n) INTO v_ns
          FROM generate_series(g.cur + 1, least(v_last, g.cur + least(v_page, p_line - v_line))) n;
        END IF;
      END IF;
    ELSIF v_phase = 2 AND v_room > 0 THEN
      SELECT array_agg(n), array_agg(k) INTO v_ns, v_keys FROM (
        SELECT n, k FROM deliveries WHERE gid = p_gid AND st = 'r' AND kn AND (p_stop IS NULL OR n + 0 < p_stop)
        ORDER BY rank, n LIMIT v_room
      ) x;
    END IF;
    IF v_ns IS NULL THEN
      EXIT WHEN v_phase = 3 OR (v_phase = 2 AND v_turns);
      v_phase := v_phase + 1;
      CONTINUE;
    END IF;
    SELECT * INTO r FROM tg_consider(
      g, v_ns, coalesce(v_keys, array_fill(NULL::bigint, ARRAY[cardinality(v_ns)])), v_phase <> 1, p_now, v_room, v_bytes,
      v_before, p_now + p_lease, p_owner, p_epoch, p_twin);
    g := r.g;
    o_dup := o_dup + r.o_dup;
    o_exp := o_exp + r.o_exp;
    v_room := v_room - coalesce(cardinality(r.o_lent), 0);
    v_bytes := v_bytes - r.o_size;
    v_before := v_before OR r.o_lent IS NOT NULL;
    v_lent := v_lent || coalesce(r.o_lent, '{}');
    -- The next one does not fit.
    EXIT WHEN v_phase <> 1 AND r.o_seen < cardinality(v_ns);
    IF v_phase = 1 THEN v_phase := 2; END IF;
  END LOOP;
  UPDATE groups SET cur = g.cur, done = g.done, dup = g.dup, exp = g.exp, dropped = g.dropped
  WHERE id = p_gid AND (cur, done, exp, dropped) IS DISTINCT FROM (g.cur, g.done, g.exp, g.dropped);
  SELECT array_agg(u.n ORDER BY u.i), array_agg(e.at ORDER BY u.i), array_agg(d.a ORDER BY u.i), array_agg(d.c ORDER BY u.i),
    array_agg(d.hist ORDER BY u.i), array_agg(e.body ORDER BY u.i)
  INTO o_n, o_at, o_a, o_c, o_hist, o_body
  FROM unnest(v_lent) WITH ORDINALITY u(n, i) LEFT JOIN deliveries d ON d.gid = p_gid AND d.n = u.n
  LEFT JOIN events e ON e.sid = g.sid AND e.n = u.n;
  SELECT min(t) INTO o_due FROM deliveries WHERE gid = p_gid AND st = 'd';
  o_more := v_room > 0 AND g.cur < v_last AND g.order_by IS NOT NULL AND coalesce(v_line, 0) < p_line;
END $$;

-- Extends leases.
CREATE FUNCTION tg_extend(p_until bigint, p_gid int[], p_n bigint[], p_ep bigint[], p_o bigint[]) RETURNS boolean[]
LANGUAGE plpgsql AS $$
DECLARE
  v_held boolean[];
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM 1 FROM groups WHERE id = ANY(p_gid) ORDER BY id FOR UPDATE;
  WITH kept AS (
    UPDATE deliveries d SET t = p_until FROM unnest(p_gid, p_n, p_ep, p_o) u(gid, n, ep, o)
    WHERE d.gid = u.gid AND d.n = u.n AND coalesce(d.st, '-') = 'l' AND d.ep = u.ep AND d.o = u.o RETURNING d.gid, d.n, d.ep
  )
  SELECT array_agg(EXISTS (SELECT 1 FROM kept k WHERE k.gid = u.gid AND k.n = u.n AND k.ep = u.ep) ORDER BY u.i) INTO v_held
  FROM unnest(p_gid, p_n, p_ep) WITH ORDINALITY u(gid, n, ep, i);
  RETURN v_held;
END $$;

-- Whether a group may have work, when something of it is due, and when a lease ends.
CREATE FUNCTION tg_peek(p_gid int, p_line bigint, OUT o_work boolean, OUT o_due bigint, OUT o_ends bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
  g groups;
  v_acc bigint;
BEGIN
  SELECT * INTO g FROM groups WHERE id = p_gid;
  IF NOT FOUND THEN RAISE EXCEPTION 'group' USING ERRCODE = 'TG003'; END IF;
  SELECT acc INTO v_acc FROM streams WHERE id = g.sid;
  o_work := EXISTS (SELECT 1 FROM deliveries WHERE gid = p_gid AND st = 'r') OR (least(v_acc, g.end_n - 1) > g.cur AND
    (SELECT count(*) FROM deliveries WHERE gid = p_gid AND st = 'b') + (SELECT count(*) FROM waits WHERE gid = p_gid) < p_line);
  SELECT min(t) INTO o_due FROM (
    SELECT min(t) AS t FROM deliveries WHERE gid = p_gid AND st = 'd'
    UNION ALL SELECT min(t) FROM deliveries WHERE gid = p_gid AND st = 'w') x;
  SELECT min(t) INTO o_ends FROM deliveries WHERE gid = p_gid AND st = 'l';
END $$;

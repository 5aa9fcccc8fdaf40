-- Settles deliveries in one commit with all that follows from it; answers which were held. Kinds: D done, S skipped,
-- L released, R retried, B buried. Outputs name by `q_of` the settlement that they come with.
CREATE FUNCTION tg_settle(
  p_now bigint, p_gid int[], p_n bigint[], p_ep bigint[], p_o bigint[], p_kind text[], p_at bigint[], p_a int[], p_c int[],
  p_line text[], p_dead int[], p_class smallint[], p_message text[], p_signature text[], p_config text[],
  q_of int[], q_sid int[], q_mark bytea[], q_f bytea[], q_kind text[], q_body bytea[], q_due bigint[], q_expires bigint[],
  q_urgency smallint[], q_waits bytea[]
) RETURNS boolean[] LANGUAGE plpgsql AS $$
DECLARE
  v_held boolean[];
  v_sids int[];
  v_take boolean[];
  r record;
BEGIN
  PERFORM 1 FROM groups WHERE id = ANY(p_gid) ORDER BY id FOR UPDATE;
  IF cardinality(q_sid) > 0 OR EXISTS (SELECT 1 FROM unnest(p_dead) u WHERE u IS NOT NULL) THEN
    SELECT array_agg(DISTINCT u) INTO v_sids FROM unnest(p_dead || q_sid) u WHERE u IS NOT NULL;
    PERFORM 1 FROM streams WHERE id = ANY(v_sids) ORDER BY id FOR UPDATE;
    IF (SELECT count(*) FROM streams WHERE id = ANY(v_sids)) < cardinality(v_sids) THEN
      RAISE EXCEPTION 'stream' USING ERRCODE = 'TG003';
    END IF;
  END IF;
  SELECT array_agg(x.held ORDER BY x.i) INTO v_held FROM (
    SELECT u.i, d.n IS NOT NULL AND row_number() OVER (PARTITION BY u.gid, u.n ORDER BY d.n IS NULL, u.i) = 1 AS held
    FROM unnest(p_gid, p_n, p_ep, p_o) WITH ORDINALITY u(gid, n, ep, o, i)
    LEFT JOIN deliveries d ON d.gid = u.gid AND d.n = u.n AND coalesce(d.st, '-') = 'l' AND d.ep = u.ep AND d.o = u.o
  ) x;
  IF NOT (true = ANY(v_held)) THEN RETURN v_held; END IF;
  UPDATE deliveries d SET st = 'r', t = NULL FROM unnest(p_gid, p_n, p_kind, v_held) u(gid, n, kind, held)
  WHERE u.held AND u.kind = 'L' AND d.gid = u.gid AND d.n = u.n;
  -- Who failed lets the others of its key pass, unless the group wants to wait for it.
  FOR r IN
    WITH back AS (
      UPDATE deliveries d SET st = 'd', t = u.at, w = 'R', a = u.a, c = u.c, hist = tg_lines(d.hist, u.line),
        held = d.held AND g.block
      FROM unnest(p_gid, p_n, p_kind, v_held, p_at, p_a, p_c, p_line) u(gid, n, kind, held, at, a, c, line)
      JOIN groups g ON g.id = u.gid
      WHERE u.held AND u.kind = 'R' AND d.gid = u.gid AND d.n = u.n RETURNING d.gid, d.k, d.held
    ) SELECT gid, array_agg(DISTINCT k) AS keys FROM back WHERE k IS NOT NULL AND NOT held GROUP BY gid
  LOOP
    PERFORM tg_release(r.gid, r.keys);
  END LOOP;
  FOR r IN
    WITH gone AS MATERIALIZED (
      SELECT u.*, d.k, d.held AS had, d.f, d.hist, g.sid, g.led, g.after, g.again_n
      FROM unnest(p_gid, p_n, p_kind, v_held, p_line, p_dead, p_class, p_message, p_signature, p_config)
        WITH ORDINALITY u(gid, n, kind, held, line, dead, class, message, signature, config, i)
      JOIN deliveries d ON d.gid = u.gid AND d.n = u.n JOIN groups g ON g.id = u.gid
      WHERE u.held AND u.kind IN ('D', 'S', 'B')
    ), deleted AS (
      DELETE FROM deliveries d USING gone WHERE d.gid = gone.gid AND d.n = gone.n
    ), remembered AS (
      INSERT INTO ledger AS l (gid, f, at, n, skipped)
      SELECT DISTINCT ON (gid, f) gid, f, p_now, n, kind = 'S' FROM gone WHERE kind IN ('D', 'S') AND led IS NOT NULL
      ORDER BY gid, f, kind, n DESC
      ON CONFLICT (gid, f) DO UPDATE SET at = excluded.at, n = excluded.n, skipped = excluded.skipped
      -- That it was skipped does not undo that it is done.
      WHERE NOT excluded.skipped OR l.skipped OR l.at + (SELECT g.led FROM groups g WHERE g.id = l.gid) <= p_now
    ), noted AS (
      INSERT INTO ended (gid, n, how) SELECT gid, n, 'S'::"char" FROM gone WHERE kind = 'S' ON CONFLICT DO NOTHING
    ), buried AS (
      INSERT INTO letters (sid, id, gid, n, st, class, message, signature, kind, config, f, at, hist, body, size)
      SELECT b.dead, s.acc + row_number() OVER (PARTITION BY b.dead ORDER BY b.i), b.gid, b.n, 0, b.class, b.message,
        b.signature, e.kind, b.config, e.f, p_now, tg_lines(b.hist, b.line), e.body, octet_length(e.body) + 48
      FROM gone b JOIN streams s ON s.id = b.dead JOIN events e ON e.sid = b.sid AND e.n = b.n WHERE b.kind = 'B'
      RETURNING sid, size
    ), counted AS (
      UPDATE streams s SET acc = s.acc + x.count, bytes = s.bytes + x.bytes
      FROM (SELECT sid, count(*) AS count, sum(size) AS bytes FROM buried GROUP BY sid) x WHERE s.id = x.sid
    )
    SELECT gid, count(*) FILTER (WHERE kind IN ('D', 'S')) AS done, count(*) FILTER (WHERE kind = 'S') AS skipped,
      count(*) FILTER (WHERE kind = 'B') AS dead, array_agg(DISTINCT k) FILTER (WHERE had) AS keys,
      -- What was done before the group went back is not waited for any longer, however it leaves.
      array_agg(DISTINCT f) FILTER (WHERE after AND led IS NOT NULL AND (kind IN ('D', 'S') OR again_n > 0)) AS fs
    FROM gone GROUP BY gid
  LOOP
    UPDATE groups g SET done = g.done + r.done, skip = g.skip + r.skipped, dead = g.dead + r.dead WHERE g.id = r.gid;
    PERFORM tg_release(r.gid, r.keys);
    IF r.fs IS NOT NULL THEN PERFORM tg_met(r.gid, r.fs); END IF;
  END LOOP;
  FOR r IN SELECT DISTINCT u AS sid FROM unnest(q_sid) u ORDER BY u LOOP
    SELECT array_agg(u.sid = r.sid AND v_held[u.of] ORDER BY u.i) INTO v_take
    FROM unnest(q_sid, q_of) WITH ORDINALITY u(sid, of, i);
    PERFORM tg_put(r.sid, p_now, v_take, q_mark, q_f, q_kind, q_body, q_due, q_expires, q_urgency, q_waits);
  END LOOP;
  RETURN v_held;
END $$;

-- Makes the session of a process; what an earlier process of its node had lent is lent again. Returns the key of fingerprints.
CREATE FUNCTION tg_begin(p_node text, p_owner bigint) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
  v_before bigint;
  v_key bytea;
BEGIN
  SELECT owner INTO v_before FROM sessions WHERE node = p_node FOR UPDATE;
  INSERT INTO sessions (node, owner) VALUES (p_node, p_owner)
  ON CONFLICT (node) DO UPDATE SET owner = excluded.owner, beat_at = NULL, since = NULL;
  IF v_before <> p_owner THEN PERFORM tg_give_back(v_before, true); END IF;
  SELECT key INTO v_key FROM meta;
  RETURN v_key;
END $$;

-- Gives back what a process holds, as it was lent.
CREATE FUNCTION tg_close(p_node text, p_owner bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM tg_give_back(p_owner, false);
  DELETE FROM sessions WHERE node = p_node AND owner = p_owner;
END $$;

-- Shows that a node is there, and takes from nodes that have shown nothing for too long what they hold. Returns who they
-- are, and how many other nodes there are.
CREATE FUNCTION tg_beat(p_node text, p_owner bigint, p_silence bigint, OUT o_gone text[], OUT o_others bigint)
LANGUAGE plpgsql AS $$
DECLARE
  -- Of the server, the one clock that all nodes share.
  v_now bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
  v_since bigint;
  r record;
BEGIN
  PERFORM tg_own(p_node, p_owner);
  -- Who was silent itself, or met a server that was, cannot tell yet who else is gone.
  UPDATE sessions SET beat_at = v_now,
    since = CASE WHEN beat_at IS NULL OR since IS NULL OR v_now - beat_at > p_silence / 2 THEN v_now ELSE since END
  WHERE node = p_node AND owner = p_owner RETURNING since INTO v_since;
  o_gone := '{}';
  IF v_now - v_since > p_silence THEN
    UPDATE sessions SET beat_at = v_now, since = v_now WHERE node <> p_node AND beat_at IS NULL;
    FOR r IN SELECT * FROM sessions WHERE node <> p_node AND v_now - beat_at > p_silence FOR UPDATE SKIP LOCKED LOOP
      PERFORM tg_give_back(r.owner, true);
      DELETE FROM sessions WHERE node = r.node AND owner = r.owner;
      o_gone := o_gone || r.node;
    END LOOP;
  END IF;
  SELECT count(*) INTO o_others FROM sessions WHERE node <> p_node;
  -- A sign of life is soon followed by the next one.
  IF o_gone = '{}' THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;
END $$;

-- Makes a stream or changes its settings. `p_fresh` is its number when it is new.
CREATE FUNCTION tg_declare_stream(
  p_fresh int, p_name text, p_spec text, p_window bigint, p_entries bigint, p_backlog bigint, p_durable boolean, p_dead boolean
) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  v_id int;
BEGIN
  INSERT INTO streams (id, name, spec, dead, window_ms, window_n, max_backlog, durable)
  VALUES (p_fresh, p_name, p_spec, p_dead, p_window, p_entries, p_backlog, p_durable)
  ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, window_ms = excluded.window_ms, window_n = excluded.window_n,
    max_backlog = excluded.max_backlog, durable = excluded.durable
  RETURNING id INTO v_id;
  IF p_window IS NULL THEN DELETE FROM marks WHERE sid = v_id; END IF;
  RETURN v_id;
END $$;

-- Makes a group or changes its settings. `p_start` is a position, 0 for the oldest kept event, none for behind the newest.
CREATE FUNCTION tg_declare_group(
  p_fresh int, p_name text, p_sid int, p_spec text, p_start bigint, p_order text, p_block boolean, p_led bigint,
  p_mark boolean, p_after boolean, p_step bigint, p_end bigint
) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  g groups;
  s streams;
  v_from bigint;
BEGIN
  SELECT * INTO g FROM groups WHERE name = p_name FOR UPDATE;
  SELECT * INTO s FROM streams WHERE id = p_sid FOR UPDATE;
  IF s.id IS NULL THEN RAISE EXCEPTION 'stream' USING ERRCODE = 'TG003'; END IF;
  IF g.id IS NULL THEN
    v_from := CASE WHEN p_start IS NULL THEN s.acc + 1 WHEN p_start = 0 THEN s.first_n ELSE p_start END;
    IF v_from < s.first_n OR v_from > s.acc + 1 OR p_end > s.acc + 1 OR p_end < v_from THEN
      RAISE EXCEPTION '% %', s.first_n, s.acc USING ERRCODE = 'TG005';
    END IF;
    INSERT INTO groups (id, name, sid, spec, order_by, block, led, mark, after, step, cur, start, end_n)
    VALUES (p_fresh, p_name, p_sid, p_spec, p_order, p_block, p_led, p_mark, p_after, p_step, v_from - 1, v_from - 1, p_end);
    RETURN p_fresh;
  END IF;
  IF g.sid <> p_sid THEN
    RAISE EXCEPTION '%', (SELECT name FROM streams WHERE id = g.sid) USING ERRCODE = 'TG004';
  END IF;
  IF g.end_n IS DISTINCT FROM p_end THEN RAISE EXCEPTION 'end' USING ERRCODE = 'TG004'; END IF;
  UPDATE groups SET spec = p_spec, order_by = p_order, block = p_block, led = p_led, mark = p_mark, after = p_after,
    step = p_step WHERE id = g.id;
  IF p_led IS NULL AND g.led IS NOT NULL THEN
    INSERT INTO swept (gid, before) SELECT g.id, max(at) + 1 FROM ledger WHERE gid = g.id HAVING max(at) IS NOT NULL
    ON CONFLICT (gid) DO UPDATE SET before = excluded.before;
  END IF;
  IF g.order_by IS DISTINCT FROM p_order THEN
    -- Who is lent keeps its lease, and holds nobody back by its old key.
    UPDATE deliveries SET k = NULL, held = false, kn = p_order IS NULL OR st = 'l',
      st = CASE WHEN st = 'b' THEN 'r' ELSE st END WHERE gid = g.id;
  END IF;
  IF NOT p_after OR p_led IS NULL THEN
    PERFORM tg_look_anew(g.id);
  END IF;
  IF g.step IS DISTINCT FROM p_step THEN
    UPDATE deliveries d SET rank = CASE WHEN p_step IS NULL THEN 0 ELSE greatest(e.at, e.due) - p_step * e.urgency END
    FROM events e WHERE d.gid = g.id AND e.sid = g.sid AND e.n = d.n;
  END IF;
  RETURN g.id;
END $$;

CREATE FUNCTION tg_forget_work(p_gid int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM deliveries WHERE gid = p_gid;
  DELETE FROM waits WHERE gid = p_gid;
  DELETE FROM ahead WHERE gid = p_gid;
  DELETE FROM ended WHERE gid = p_gid;
END $$;

-- Forgets a group.
CREATE FUNCTION tg_remove_group(p_gid int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM groups WHERE id = p_gid FOR UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'group' USING ERRCODE = 'TG003'; END IF;
  PERFORM tg_forget_work(p_gid);
  -- There may be millions of them: the upkeep forgets them. No other group gets its number.
  INSERT INTO swept (gid, before) VALUES (p_gid, 9223372036854775807)
  ON CONFLICT (gid) DO UPDATE SET before = excluded.before;
  DELETE FROM groups WHERE id = p_gid;
END $$;

-- Moves a group. Its accounting starts anew; who holds a lease that ran out has lost it. Returns what it would have looked at.
CREATE FUNCTION tg_seek(p_gid int, p_now bigint, p_to bigint, p_again boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  g groups;
  s streams;
  v_flight bigint;
BEGIN
  SELECT * INTO g FROM groups WHERE id = p_gid FOR UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'group' USING ERRCODE = 'TG003'; END IF;
  SELECT * INTO s FROM streams WHERE id = g.sid FOR UPDATE;
  IF p_to < s.first_n OR p_to > s.acc + 1 THEN RAISE EXCEPTION '% %', s.first_n, s.acc USING ERRCODE = 'TG005'; END IF;
  SELECT count(*) INTO v_flight FROM deliveries WHERE gid = p_gid AND st = 'l' AND t > p_now;
  IF v_flight > 0 THEN RAISE EXCEPTION '%', v_flight USING ERRCODE = 'TG004'; END IF;
  PERFORM tg_forget_work(p_gid);
  UPDATE groups SET high = greatest(high, cur), cur = p_to - 1, start = p_to - 1, extra = 0,
    again_n = CASE WHEN p_again THEN s.acc ELSE again_n END, again_at = CASE WHEN p_again THEN p_now ELSE again_at END,
    done = 0, dup = 0, skip = 0, dead = 0, exp = 0, dropped = 0 WHERE id = p_gid;
  RETURN g.cur + 1;
END $$;

-- Lets deliveries go that wait for other events, or buries them in a stream of dead letters; false for each that waits for none.
CREATE FUNCTION tg_unblock(
  p_gid int, p_now bigint, p_ns bigint[], p_dead int, p_class smallint, p_message text, p_signature text, p_config text
) RETURNS boolean[] LANGUAGE plpgsql AS $$
DECLARE
  v_found boolean[];
  v_ns bigint[];
BEGIN
  PERFORM 1 FROM groups WHERE id = p_gid FOR UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'group' USING ERRCODE = 'TG003'; END IF;
  PERFORM 1 FROM streams WHERE id = p_dead FOR UPDATE;
  SELECT array_agg(x.found ORDER BY x.i), array_agg(x.n ORDER BY x.i) FILTER (WHERE x.found) INTO v_found, v_ns FROM (
    SELECT u.i, u.n, d.n IS NOT NULL AND row_number() OVER (PARTITION BY u.n ORDER BY u.i) = 1 AS found
    FROM unnest(p_ns) WITH ORDINALITY u(n, i) LEFT JOIN deliveries d ON d.gid = p_gid AND d.n = u.n AND coalesce(d.st, '-') = 'w'
  ) x;
  IF v_ns IS NULL THEN RETURN v_found; END IF;
  DELETE FROM waits WHERE gid = p_gid AND n = ANY(v_ns);
  IF p_dead IS NULL THEN
    UPDATE deliveries SET st = 'r', t = NULL, freed = true WHERE gid = p_gid AND n = ANY(v_ns);
    PERFORM tg_line_up(p_gid, v_ns);
  ELSE
    UPDATE deliveries SET st = 'l', t = p_now, o = 0, ep = 0 WHERE gid = p_gid AND n = ANY(v_ns);
    PERFORM tg_settle(p_now, array_agg(p_gid), array_agg(n), array_agg(0::bigint), array_agg(0::bigint), array_agg('B'::text),
      array_agg(NULL::bigint), array_agg(0), array_agg(0), array_agg(''::text), array_agg(p_dead), array_agg(p_class),
      array_agg(p_message), array_agg(p_signature), array_agg(p_config), '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')
    FROM unnest(v_ns) n;
  END IF;
  RETURN v_found;
END $$;

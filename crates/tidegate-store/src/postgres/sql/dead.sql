-- Takes the delivery of a reprocessed letter out of its group, if no handler has seen it. The group is locked.
CREATE FUNCTION tg_take_back(p_gid int, p_n bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  g groups;
  d deliveries;
BEGIN
  SELECT * INTO g FROM groups WHERE id = p_gid;
  SELECT * INTO d FROM deliveries WHERE gid = p_gid AND n = p_n;
  IF g.id IS NULL OR p_n IS NULL THEN RETURN false; END IF;
  IF d.n IS NOT NULL THEN
    IF d.st = 'l' OR d.a > 0 THEN RETURN false; END IF;
    DELETE FROM deliveries WHERE gid = p_gid AND n = p_n;
    DELETE FROM waits WHERE gid = p_gid AND n = p_n;
    IF d.held THEN PERFORM tg_release(p_gid, ARRAY[d.k]); END IF;
  ELSE
    IF p_n <= g.cur OR NOT EXISTS (SELECT 1 FROM events WHERE sid = g.sid AND n = p_n) THEN RETURN false; END IF;
    INSERT INTO ahead (gid, n) VALUES (p_gid, p_n) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN RETURN false; END IF;
  END IF;
  UPDATE groups SET done = done + 1, dup = dup + 1 WHERE id = p_gid;
  RETURN true;
END $$;

-- Moves dead letters in one commit: reprocess, recall, resolve, discard, purge. Answers for each M moved, R refused or
-- N not there, with its new position or its state. What is reprocessed brings its event.
CREATE FUNCTION tg_move(
  p_sid int, p_now bigint, p_action text, p_forced boolean, p_by text, p_note text, p_job text, p_key text, p_was bytea,
  p_value bytea, p_ids bigint[], p_to int[], p_kind text[], p_body bytea[], p_due bigint[], p_expires bigint[],
  p_urgency smallint[], p_waits bytea[], OUT o_word text[], OUT o_number bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
  m letters;
  g groups;
  s streams;
  v_st smallint;
  v_went bigint;
  v_moved bigint[] := '{}';
BEGIN
  PERFORM 1 FROM groups WHERE id IN (SELECT DISTINCT gid FROM letters WHERE sid = p_sid AND id = ANY(p_ids)) ORDER BY id FOR UPDATE;
  PERFORM 1 FROM streams WHERE id = p_sid OR id = ANY(p_to) ORDER BY id FOR UPDATE;
  FOR i IN 1 .. cardinality(p_ids) LOOP
    SELECT * INTO m FROM letters WHERE sid = p_sid AND id = p_ids[i];
    IF m.id IS NULL THEN
      o_word[i] := 'N';
      o_number[i] := NULL;
      CONTINUE;
    END IF;
    o_word[i] := 'R';
    o_number[i] := m.st;
    IF m.id = ANY(v_moved) THEN CONTINUE; END IF;
    v_went := NULL;
    v_st := NULL;
    IF p_action = 'reprocess' AND (m.st = 0 OR p_forced) AND p_body[i] IS NOT NULL THEN
      UPDATE streams SET acc = acc + 1, bytes = bytes + octet_length(p_body[i]) + 48 WHERE id = p_to[i] RETURNING * INTO s;
      INSERT INTO events (sid, n, at, size, f, kind, body, due, expires, urgency, waits, grp, forced, past)
      VALUES (s.id, s.acc, p_now, octet_length(p_body[i]) + 48, m.f, p_kind[i], p_body[i], p_due[i], p_expires[i], p_urgency[i],
        p_waits[i], m.gid, p_forced, nullif(m.hist, ''));
      SELECT * INTO g FROM groups WHERE id = m.gid;
      IF g.end_n IS NOT NULL THEN
        -- It lies behind the end, where the group does not look.
        UPDATE groups SET extra = extra + 1 WHERE id = m.gid;
        INSERT INTO deliveries (gid, n, st, f, kn, rank, hist) VALUES (m.gid, s.acc, 'r', m.f, g.order_by IS NULL,
          CASE WHEN g.step IS NULL THEN 0 ELSE greatest(p_now, p_due[i]) - g.step * p_urgency[i] END, m.hist);
      END IF;
      v_went := s.acc;
      v_st := 1;
    ELSIF p_action = 'recall' AND m.st = 1 AND tg_take_back(m.gid, m.ch_went) THEN
      v_st := 0;
    ELSIF p_action = 'resolve' AND m.st = 0 THEN
      v_st := 2;
    ELSIF p_action = 'discard' AND m.st = 0 THEN
      v_st := 3;
    ELSIF p_action = 'purge' AND m.st <> 0 THEN
      DELETE FROM letters WHERE sid = p_sid AND id = m.id;
      UPDATE streams SET bytes = bytes - m.size WHERE id = p_sid;
      o_word[i] := 'M';
      o_number[i] := NULL;
    END IF;
    IF v_st IS NOT NULL THEN
      UPDATE letters SET st = v_st, ch_at = p_now, ch_by = p_by, ch_note = p_note, ch_job = p_job, ch_went = v_went
      WHERE sid = p_sid AND id = m.id;
      o_word[i] := 'M';
      o_number[i] := v_went;
    END IF;
    IF o_word[i] = 'M' THEN v_moved := v_moved || m.id; END IF;
  END LOOP;
  IF p_key IS NOT NULL THEN
    IF p_was IS NOT NULL THEN
      PERFORM 1 FROM states WHERE key = p_key AND value = p_was FOR UPDATE;
      IF NOT FOUND THEN RAISE EXCEPTION '% was changed', p_key USING ERRCODE = 'TG004'; END IF;
    END IF;
    INSERT INTO states (key, value) VALUES (p_key, p_value) ON CONFLICT (key) DO UPDATE SET value = excluded.value;
  END IF;
END $$;

-- Takes in dead letters from elsewhere; one that is there is answered with its id.
CREATE FUNCTION tg_import(
  p_sid int, p_gid int[], p_st smallint[], p_class smallint[], p_message text[], p_signature text[], p_kind text[],
  p_config text[], p_f bytea[], p_at bigint[], p_hist text[], p_body bytea[], p_ch_at bigint[], p_ch_by text[],
  p_ch_note text[], p_ch_job text[], OUT o_id bigint[], OUT o_dup boolean[]
) LANGUAGE plpgsql AS $$
DECLARE
  v_id bigint;
  r record;
BEGIN
  PERFORM 1 FROM streams WHERE id = p_sid FOR UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'stream' USING ERRCODE = 'TG003'; END IF;
  FOR r IN SELECT * FROM unnest(p_gid, p_st, p_class, p_message, p_signature, p_kind, p_config, p_f, p_at, p_hist, p_body,
    p_ch_at, p_ch_by, p_ch_note, p_ch_job) WITH ORDINALITY u(gid, st, class, message, signature, kind, config, f, at, hist, body,
    ch_at, ch_by, ch_note, ch_job, i)
  LOOP
    SELECT id INTO v_id FROM letters WHERE sid = p_sid AND at = r.at AND gid = r.gid AND f = r.f;
    o_dup[r.i] := v_id IS NOT NULL;
    IF v_id IS NULL THEN
      UPDATE streams SET acc = acc + 1, bytes = bytes + octet_length(r.body) + 48 WHERE id = p_sid RETURNING acc INTO v_id;
      INSERT INTO letters (sid, id, gid, n, st, class, message, signature, kind, config, f, at, hist, body, size, ch_at, ch_by,
        ch_note, ch_job)
      VALUES (p_sid, v_id, r.gid, 0, r.st, r.class, r.message, r.signature, r.kind, r.config, r.f, r.at, r.hist, r.body,
        octet_length(r.body) + 48, r.ch_at, r.ch_by, r.ch_note, r.ch_job);
    END IF;
    o_id[r.i] := v_id;
  END LOOP;
END $$;

-- Expires what nobody wanted and forgets what was settled long ago; returns how many letters were touched.
CREATE FUNCTION tg_tend_letters(p_sid int, p_now bigint, p_parked bigint, p_settled bigint, p_most int) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  v_expired bigint;
  v_gone bigint;
  v_bytes bigint;
BEGIN
  PERFORM 1 FROM streams WHERE id = p_sid FOR UPDATE;
  WITH changed AS (
    UPDATE letters SET st = 4, ch_at = p_now, ch_by = 'retention', ch_note = '', ch_job = '', ch_went = NULL
    WHERE sid = p_sid AND id = ANY(ARRAY(
      SELECT id FROM letters WHERE sid = p_sid AND st = 0 AND at < p_parked ORDER BY at LIMIT p_most)) RETURNING 1
  ) SELECT count(*) INTO v_expired FROM changed;
  WITH gone AS (
    DELETE FROM letters WHERE sid = p_sid AND id = ANY(ARRAY(
      SELECT id FROM letters WHERE sid = p_sid AND st <> 0 AND coalesce(ch_at, at) < p_settled LIMIT p_most)) RETURNING size
  ) SELECT count(*), coalesce(sum(size), 0) INTO v_gone, v_bytes FROM gone;
  UPDATE streams SET bytes = bytes - v_bytes WHERE id = p_sid AND v_gone > 0;
  RETURN v_expired + v_gone;
END $$;

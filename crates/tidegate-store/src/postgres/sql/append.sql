-- Appends the events of several callers to one stream, those of each all or none. `p_req` says whose each event is, `p_len`
-- how many each has. Answers for each caller the backlog that is in the way, and positions for those that fit.
CREATE FUNCTION tg_append(
  p_sid int, p_now bigint, p_len int[], p_req int[], p_mark bytea[], p_f bytea[], p_kind text[], p_body bytea[],
  p_due bigint[], p_expires bigint[], p_urgency smallint[], p_waits bytea[],
  OUT o_full bigint[], OUT o_slowest text, OUT o_n bigint[], OUT o_dup boolean[]
) LANGUAGE plpgsql AS $$
DECLARE
  s streams;
  v_worst bigint;
  v_most bigint;
  v_taken bigint := 0;
  v_take boolean[];
BEGIN
  SELECT * INTO s FROM streams WHERE id = p_sid FOR UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'stream' USING ERRCODE = 'TG003'; END IF;
  IF NOT s.durable THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;
  o_full := array_fill(NULL::bigint, ARRAY[cardinality(p_len)]);
  IF s.max_backlog IS NOT NULL THEN
    SELECT g.name, tg_backlog(g, s.acc) INTO o_slowest, v_worst FROM groups g
    WHERE g.sid = p_sid AND g.end_n IS NULL ORDER BY 2 DESC LIMIT 1;
    IF v_worst + cardinality(p_req) > s.max_backlog THEN
      FOR v_req IN 1 .. cardinality(p_len) LOOP
        IF v_worst + v_taken + p_len[v_req] > s.max_backlog THEN
          o_full[v_req] := v_worst + v_taken;
        ELSE
          v_taken := v_taken + p_len[v_req];
        END IF;
      END LOOP;
    END IF;
  END IF;
  SELECT array_agg(o_full[u.req] IS NULL ORDER BY u.i) INTO v_take FROM unnest(p_req) WITH ORDINALITY u(req, i);
  SELECT p.o_n, p.o_dup INTO o_n, o_dup
  FROM tg_put(p_sid, p_now, v_take, p_mark, p_f, p_kind, p_body, p_due, p_expires, p_urgency, p_waits) p;
END $$;

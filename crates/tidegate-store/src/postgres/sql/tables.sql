-- Tables of one store. Times are milliseconds since 1970, positions are numbers from 1 on.
CREATE TABLE meta (format int NOT NULL, key bytea NOT NULL);
CREATE TABLE sessions (node text PRIMARY KEY, owner bigint NOT NULL, beat_at bigint, since bigint, work text);
CREATE TABLE states (key text PRIMARY KEY, value bytea NOT NULL);

-- `acc` is the newest position, `first_n` the oldest one that is kept; what lies before it belongs to groups that have not
-- settled it.
CREATE TABLE streams (
  id int PRIMARY KEY, name text NOT NULL UNIQUE, spec text NOT NULL, dead boolean NOT NULL,
  window_ms bigint, window_n bigint, max_backlog bigint, durable boolean NOT NULL DEFAULT true,
  acc bigint NOT NULL DEFAULT 0, first_n bigint NOT NULL DEFAULT 1, bytes bigint NOT NULL DEFAULT 0,
  overdue bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);

-- `f` is the fingerprint of source and id, `waits` those of the events that it waits for, 16 bytes each; `grp` is the only
-- group that it is for.
CREATE TABLE events (
  sid int, n bigint, at bigint NOT NULL, size int NOT NULL, f bytea NOT NULL, kind text NOT NULL, body bytea NOT NULL,
  due bigint, expires bigint, urgency smallint NOT NULL, waits bytea, grp int, forced boolean NOT NULL DEFAULT false,
  past text, PRIMARY KEY (sid, n)
);
CREATE TABLE marks (sid int, mark bytea, n bigint NOT NULL, at bigint NOT NULL, PRIMARY KEY (sid, mark));
CREATE INDEX marks_by_number ON marks (sid, n);
-- Events that outlived their neighbours because a group had not settled them.
CREATE TABLE stragglers (sid int, n bigint, PRIMARY KEY (sid, n));

-- Everything up to `cur` that is not in `deliveries` is settled; what comes behind it was not looked at. From `end_n` on
-- nothing is the group's business but `extra` events that were sent back for it.
CREATE TABLE groups (
  id int PRIMARY KEY, name text NOT NULL UNIQUE, sid int NOT NULL, spec text NOT NULL, order_by text,
  block boolean NOT NULL, led bigint, mark boolean NOT NULL, after boolean NOT NULL, step bigint,
  cur bigint NOT NULL, start bigint NOT NULL, high bigint NOT NULL DEFAULT 0,
  again_n bigint NOT NULL DEFAULT 0, again_at bigint NOT NULL DEFAULT 0, end_n bigint, extra bigint NOT NULL DEFAULT 0,
  done bigint NOT NULL DEFAULT 0, dup bigint NOT NULL DEFAULT 0, skip bigint NOT NULL DEFAULT 0,
  dead bigint NOT NULL DEFAULT 0, exp bigint NOT NULL DEFAULT 0, dropped bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
CREATE INDEX groups_by_stream ON groups (sid);

-- What was looked at and is not settled. `st`: r may run, d waits for `t`, l lent until `t`, b waits for its order key,
-- w waits for other events. `held`: it has its order key `k`, which at most one has. `kn`: its key is known.
CREATE TABLE deliveries (
  gid int, n bigint, st "char" NOT NULL, a int NOT NULL DEFAULT 0, c int NOT NULL DEFAULT 0, f bytea NOT NULL, k bigint,
  held boolean NOT NULL DEFAULT false, kn boolean NOT NULL DEFAULT true, freed boolean NOT NULL DEFAULT false,
  rank bigint NOT NULL DEFAULT 0, t bigint, w "char", o bigint, ep bigint, hist text NOT NULL DEFAULT '',
  PRIMARY KEY (gid, n)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000,
  autovacuum_analyze_threshold = 5000);
CREATE INDEX deliveries_ready ON deliveries (gid, rank, n) WHERE st = 'r';
CREATE INDEX deliveries_lease ON deliveries (gid, t) WHERE st = 'l';
CREATE INDEX deliveries_due ON deliveries (gid, t, n) WHERE st = 'd';
CREATE INDEX deliveries_expiry ON deliveries (gid, t) WHERE st = 'w';
CREATE INDEX deliveries_line ON deliveries (gid, k, n) WHERE st = 'b';
CREATE INDEX deliveries_unkeyed ON deliveries (gid, n) WHERE NOT kn;
CREATE UNIQUE INDEX deliveries_holder ON deliveries (gid, k) WHERE held;
CREATE INDEX deliveries_lent ON deliveries (gid, f) WHERE st = 'l';
CREATE TABLE waits (gid int, f bytea, n bigint, PRIMARY KEY (gid, f, n));
CREATE INDEX waits_by_number ON waits (gid, n);
-- Settled before they were looked at.
CREATE TABLE ahead (gid int, n bigint, PRIMARY KEY (gid, n));
-- How those ended of which neither ledger nor letter tells: E expired, S skipped.
CREATE TABLE ended (gid int, n bigint, how "char" NOT NULL, PRIMARY KEY (gid, n));
CREATE TABLE ledger (
  gid int, f bytea, at bigint NOT NULL, n bigint NOT NULL, skipped boolean NOT NULL, PRIMARY KEY (gid, f)
);
CREATE INDEX ledger_by_time ON ledger (gid, at);
-- Groups whose entries from before a time are forgotten bit by bit.
CREATE TABLE swept (gid int PRIMARY KEY, before bigint NOT NULL);

CREATE TABLE letters (
  sid int, id bigint, gid int NOT NULL, n bigint NOT NULL, st smallint NOT NULL, class smallint NOT NULL,
  message text NOT NULL, signature text NOT NULL, kind text NOT NULL, config text NOT NULL, f bytea NOT NULL,
  at bigint NOT NULL, hist text NOT NULL, body bytea NOT NULL, size int NOT NULL,
  ch_at bigint, ch_by text, ch_note text, ch_job text, ch_went bigint, PRIMARY KEY (sid, id)
);
CREATE INDEX letters_by_origin ON letters (sid, gid, n);
CREATE INDEX letters_by_time ON letters (sid, at);
CREATE INDEX letters_by_state ON letters (sid, st, gid);

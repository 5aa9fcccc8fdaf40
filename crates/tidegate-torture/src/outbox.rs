//! An outbox under fire: writers that commit, roll back and dawdle, a relay that is killed, a Redis that is gone for a
//! while; then the stream is compared with the table.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    clock,
    node::{Berth, Owned},
    resp::{Answer, Connection},
    server::{Postgres, Redis},
    ui,
    verdict::Verdict,
};

const STREAM: &str = "identity.user.v1";
const TENANT: &str = "0191f8f2-0000-7000-8000-000000000001";
/// Aggregates that all writers write to.
const AGGREGATES: u32 = 400;
/// Longest time for the relay to publish what is left.
const DRAIN: Duration = Duration::from_secs(600);

const CONFIGURATION: &str = "\
version: 1
node: { name: torture, data: ./data, environment: development }
engine: ENGINE
listeners: [ { bind: \"127.0.0.1:0\" } ]
streams:
  identity.user.v1: { dedupe: { window: 1d, entries: 5000000 }, max_backlog: 10000000, schema: { envelope: v1, on: both } }
  rejected: {}
targets:
  db: { timeout: 5s, breaker: { cooldown: 1s } }
sources:
  outbox:
    type: postgres_outbox
    url: \"${file:db.url}\"
    target: db
    to: identity.user.v1
    attributes: { tenantid: data.tenant_id }
    poll: 100ms
    rejects: rejected
groups:
  project: { from: identity.user.v1, order_by: partitionkey, sink: { type: pull } }
";

/// What is run.
#[derive(Debug, clap::Args)]
pub(crate) struct Outbox {
    /// The node's program.
    #[arg(long, default_value = "target/release/tidegate")]
    binary: PathBuf,
    /// Rows that are inserted, those that are rolled back included.
    #[arg(long, default_value_t = 200_000)]
    rows: u64,
    /// Sessions that write side by side.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=20))]
    writers: u64,
    /// Time over which the rows are spread.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..3600))]
    seconds: u64,
    /// How often the node is killed.
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// How long Redis is gone, in seconds.
    #[arg(long, default_value_t = 60)]
    outage: u64,
    /// Whether all transactions are short and committed, to measure.
    #[arg(long)]
    calm: bool,
    /// Seed of the moments and of the load.
    #[arg(long, default_value_t = fastrand::u64(..))]
    seed: u64,
    /// Keeps the scratch directory.
    #[arg(long)]
    keep: bool,
}

impl Outbox {
    pub(crate) fn run(&self) -> Result<()> {
        let mut scratch = tempfile::Builder::new().prefix("tidegate-torture-").tempdir()?;
        scratch.disable_cleanup(self.keep);
        let (rows, seconds, seed) = (self.rows, self.seconds, self.seed);
        ui::line(format!("seed {seed}, {rows} rows in {seconds} s, {} kills, {} s outage", self.kills, self.outage));
        let (postgres, mut redis) = (Postgres::start()?, Redis::start(scratch.path())?);
        let mut relay = Relay::start(scratch.path(), &self.binary, &postgres, &redis)?;
        let began = clock::now();
        let is_over = AtomicBool::new(false);
        let (kills, written) = std::thread::scope(|scope| -> Result<(usize, u64)> {
            let start = |number| {
                scope.spawn({
                    let postgres = &postgres;
                    move || self.write(postgres, number)
                })
            };
            let writers: Vec<_> = (0..self.writers).map(start).collect();
            let kills = self.trouble(&mut relay, &mut redis);
            let join = |writer: std::thread::ScopedJoinHandle<'_, Result<u64>>| {
                writer.join().map_err(|_| anyhow!("a writer panicked"))?
            };
            let written = writers.into_iter().map(join).sum::<Result<u64>>();
            is_over.store(true, Ordering::Relaxed);
            Ok((kills?, written?))
        })?;
        let is_drained = drain(&postgres)?;
        let took = clock::now() - began;
        let mut verdict = Verdict::default();
        verdict.show("rows written, rolled back ones included", written);
        verdict.show("kills of the node", kills);
        verdict.show("seconds until all was published", took / 1_000_000_000);
        compare(&mut verdict, &postgres, &redis, is_drained)?;
        verdict.print()
    }

    /// Writes the share of one writer; returns how many rows it wrote.
    fn write(&self, postgres: &Postgres, number: u64) -> Result<u64> {
        let mut random = fastrand::Rng::with_seed(self.seed ^ ((number + 1) << 32));
        let mut session = postgres.session()?;
        let mut into = session.stdin.take().context("a session is written to")?;
        let (share, length) = (self.rows / self.writers, clock::nanos(Duration::from_secs(self.seconds)));
        let (start, mut written) = (clock::now(), 0);
        while written < share {
            let count = random.u64(1..50).min(share - written);
            into.write_all(self.transaction(&mut random, count).as_bytes())?;
            written += count;
            clock::wait_until(start + length / share * written);
        }
        drop(into);
        let mut said = String::new();
        session.stderr.take().context("a session says what is wrong")?.read_to_string(&mut said)?;
        ensure!(session.wait()?.success(), "a writer failed: {said}");
        Ok(written)
    }

    /// One transaction with so many rows. One of ten is rolled back, one of thirty stays open for a while.
    fn transaction(&self, random: &mut fastrand::Rng, count: u64) -> String {
        let is_rolled_back = !self.calm && random.u8(..10) == 0;
        let is_long = !self.calm && random.u8(..30) == 0;
        let insert = |rows: u64| {
            format!(
                "INSERT INTO identity.outbox (event_type, aggregate_id, payload) SELECT 'UserUpdated', \
                 md5('a' || (random() * {AGGREGATES})::int)::uuid, jsonb_build_object('tenant_id', '{TENANT}', \
                 'rolled_back', {is_rolled_back}, 'n', n) FROM generate_series(1, {rows}) n;\n"
            )
        };
        let pause = if is_long { format!("SELECT pg_sleep({});\n", random.f64() * 1.5) } else { String::new() };
        let end = if is_rolled_back { "ROLLBACK" } else { "COMMIT" };
        format!("BEGIN;\n{}{pause}{}{end};\n", insert(count / 2), insert(count - count / 2))
    }

    /// Kills the node at random moments before and after an outage of Redis; returns how often.
    fn trouble(&self, relay: &mut Relay, redis: &mut Redis) -> Result<usize> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let (start, length) = (clock::now(), clock::nanos(Duration::from_secs(self.seconds)));
        let outage = clock::nanos(Duration::from_secs(self.outage));
        let mut moments: Vec<u64> = (0..self.kills).map(|_| random.u64(length / 50..length.max(2))).collect();
        moments.sort_unstable();
        let (before, after) = moments.split_at(moments.partition_point(|at| *at < length / 2));
        for at in before {
            clock::wait_until(start + at);
            relay.kill()?;
        }
        if outage > 0 {
            clock::wait_until(start + length / 2);
            redis.kill()?;
            clock::wait_until(clock::now() + outage);
            redis.run()?;
            ui::step(format!("Redis is back after {} s", self.outage));
        }
        // What came later than planned goes on from here.
        let from = clock::now().max(start + length / 2);
        for at in after {
            clock::wait_until(from + at - length / 2);
            relay.kill()?;
        }
        Ok(moments.len())
    }
}

/// The node with the relay.
struct Relay {
    berth: Berth,
    node: Owned,
}

impl Relay {
    fn start(dir: &Path, binary: &Path, postgres: &Postgres, redis: &Redis) -> Result<Self> {
        let address = dir.join("db.url");
        fs::write(&address, postgres.url())?;
        fs::set_permissions(&address, fs::Permissions::from_mode(0o600))?;
        let engine = format!("redis://127.0.0.1:{}/0", redis.port);
        let mut berth = Berth::new(dir, binary, &CONFIGURATION.replace("ENGINE", &engine))?;
        let mut ddl = Command::new(fs::canonicalize(binary).with_context(|| format!("find {}", binary.display()))?);
        ddl.current_dir(dir).args(["outbox", "ddl", "tidegate.yaml"]).stdin(Stdio::null());
        let ddl = ddl.output().context("ask for the table")?;
        ensure!(ddl.status.success(), "outbox ddl: {}", String::from_utf8_lossy(&ddl.stderr));
        postgres.sql(&String::from_utf8(ddl.stdout)?)?;
        let mut node = berth.spawn()?;
        berth.wait_until_ready(&mut node)?;
        Ok(Self { berth, node })
    }

    fn kill(&mut self) -> Result<()> {
        self.node.kill("the node")?;
        self.node = self.berth.spawn()?;
        self.berth.wait_until_ready(&mut self.node)?;
        Ok(())
    }
}

/// Waits until every row is published; false when that takes too long.
fn drain(postgres: &Postgres) -> Result<bool> {
    let deadline = clock::after(DRAIN);
    loop {
        if postgres.sql("SELECT count(*) FROM identity.outbox WHERE NOT published")? == "0" {
            return Ok(true);
        }
        if clock::now() > deadline {
            return Ok(false);
        }
        clock::pause(Duration::from_millis(100));
    }
}

/// An event as it lies in the stream.
struct Seen {
    /// When it was accepted, in milliseconds.
    at: u64,
    id: String,
    aggregate: String,
}

fn stream(redis: &Redis) -> Result<(Vec<Seen>, u64)> {
    let mut connection = Connection::open(redis.port)?;
    let (mut seen, mut rolled_back, mut from) = (Vec::new(), 0, "-".to_owned());
    loop {
        let page = connection.ask(&["XRANGE", STREAM, &from, "+", "COUNT", "1000"])?;
        let Some(last) = page.list().last() else { return Ok((seen, rolled_back)) };
        from = format!("({}", last.list().first().map_or("", Answer::text));
        for entry in page.list() {
            let [id, fields] = entry.list() else { continue };
            let field = |name: &str| {
                let at = fields.list().iter().step_by(2).position(|field| field.text() == name);
                at.and_then(|at| fields.list().get(at * 2 + 1)).map_or("", Answer::text).to_owned()
            };
            ensure!(field("tenant_id") == TENANT && field("topic") == STREAM, "an odd entry: {fields:?}");
            rolled_back += u64::from(!field("payload").contains("\"rolled_back\": false"));
            let at = id.text().split('-').next().and_then(|ms| ms.parse().ok()).context("an id has a time")?;
            seen.push(Seen { at, id: field("event_id"), aggregate: field("aggregate_id") });
        }
    }
}

fn compare(verdict: &mut Verdict, postgres: &Postgres, redis: &Redis, is_drained: bool) -> Result<()> {
    let (seen, rolled_back) = stream(redis)?;
    let rows = postgres
        .sql("SELECT event_id, id, (extract(epoch FROM created_at) * 1000)::bigint FROM identity.outbox ORDER BY id")?;
    let mut table: HashMap<&str, (u64, u64)> = HashMap::new();
    for row in rows.lines() {
        let mut words = row.split('|');
        let id = words.next().context("a row has an id")?;
        let mut number = || words.next().and_then(|word| word.parse().ok()).context("a row has numbers");
        table.insert(id, (number()?, number()?));
    }
    verdict.show("rows committed", table.len());
    verdict.show("events in the stream", seen.len());
    verdict.demand("drained in time", is_drained, is_drained, &[]);
    let mut once = HashSet::new();
    let twice: Vec<String> = seen.iter().filter(|one| !once.insert(&*one.id)).map(|one| one.id.clone()).collect();
    verdict.none("events that are there twice", &twice);
    let lost: Vec<String> = table.keys().filter(|id| !once.contains(*id)).map(|id| (*id).to_owned()).collect();
    verdict.none("committed rows that are missing", &lost);
    let made_up: Vec<String> = once.iter().filter(|id| !table.contains_key(**id)).map(|id| (*id).to_owned()).collect();
    verdict.none("events without a committed row", &made_up);
    verdict.demand("events of rows that were rolled back", rolled_back, rolled_back == 0, &[]);
    let (mut newest, mut late, mut lags) = (BTreeMap::<&str, u64>::new(), Vec::new(), Vec::new());
    for one in &seen {
        let Some((number, created)) = table.get(&*one.id) else { continue };
        let before = newest.insert(&one.aggregate, *number).unwrap_or(0);
        if before > *number {
            late.push(format!("{} of {}: {number} after {before}", one.id, one.aggregate));
        }
        lags.push(one.at.saturating_sub(*created));
    }
    verdict.show("aggregates", newest.len());
    verdict.none("events out of order in their aggregate", &late);
    let mut connection = Connection::open(redis.port)?;
    for stream in [format!("{STREAM}.dlq"), "rejected".to_owned()] {
        let count = connection.ask(&["XLEN", &stream])?;
        verdict.demand(&format!("entries in {stream}"), format!("{count:?}"), count == Answer::Number(0), &[]);
    }
    let spent = postgres.sql("SELECT coalesce(sum(attempts), 0) FROM identity.outbox")?;
    verdict.demand("attempts that were spent", &spent, spent == "0", &[]);
    lags.sort_unstable();
    for part in [50, 99] {
        let at = lags.get(lags.len() * part / 100).copied().unwrap_or_default();
        verdict.show(&format!("ms from begin of transaction to stream, {part} %"), at);
    }
    Ok(())
}

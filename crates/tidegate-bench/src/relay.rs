//! `tidegate-bench relay`: the relay of an outbox, from PostgreSQL to Redis, while the table grows.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;
use tidegate_core::clock::Clock;
use tidegate_testkit::PostgresServer;
use tokio_postgres::{Client, NoTls};

use crate::{
    Settings,
    board::{Board, Sense},
    engine_runs::{PROBE, open},
    http,
    node::{Berth, Node, pause, program},
    process::resident_bytes,
    redis::Redis,
    ui::{self, short},
};

/// Rows a second of the measurement of the lag.
const STEADY: u64 = 1000;
/// Time between two commits of rows at a steady rate.
const TICK: Duration = Duration::from_millis(20);
/// Longest time for the relay to begin, and to come to the end of what is left.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub(crate) struct Relay {
    #[command(flatten)]
    settings: Settings,
    /// Rows that wait when the relay is started; one measurement for each.
    #[arg(long, default_value = "10000,100000,1000000", value_delimiter = ',')]
    backlog: Vec<u64>,
}

fn configuration(redis: &Redis) -> String {
    format!(
        "version: 1\nnode: {{ name: bench, data: ./data, environment: development }}\nengine: {}\n\
         streams: {{ users: {{ dedupe: {{ window: 1h, entries: 10000000 }}, max_backlog: off }} }}\n\
         targets: {{ db: {{ timeout: 30s }} }}\n\
         sources: {{ outbox: {{ type: postgres_outbox, url: '${{file:db.url}}', target: db, to: users }} }}\n",
        redis.url()
    )
}

impl Relay {
    pub(crate) fn run(&self) -> Result<()> {
        let settings = &self.settings;
        let mut board = open("relay", settings);
        let runtime = settings.runtime()?;
        let postgres = PostgresServer::start(&["fsync=on", "shared_buffers=256MB"]);
        let redis = Redis::start(&settings.dir)?;
        let berth = Berth::new(&settings.dir, settings.threads, &configuration(&redis))?;
        berth.hide("db.url", &postgres.url())?;
        postgres.psql(&ddl(&berth)?);
        let client = runtime.block_on(connect(&postgres.url()))?;
        let client = (&runtime, &client);
        let mut first = None;
        for &backlog in &self.backlog {
            let name = format!("backlog of {}", short(backlog as f64));
            ui::step(format!("{name}: rows are written"));
            postgres.psql("TRUNCATE identity.outbox");
            fill(client, backlog)?;
            postgres.psql("ANALYZE identity.outbox");
            let (rate, memory) = drain(&berth, backlog, settings.time())?;
            board.add(&name, "rows/s", rate);
            board.add(&format!("{name}: memory of the node"), "MiB", memory / 1024.0 / 1024.0);
            ui::step(format!("{name}: the lag is measured with as many rows published"));
            postgres.psql("UPDATE identity.outbox SET published = true, published_at = now() WHERE NOT published");
            postgres.psql("VACUUM ANALYZE identity.outbox");
            let mut lags = lags(client, &berth, settings.time())?;
            lags.sort_by(f64::total_cmp);
            let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize];
            board.add(&format!("{name}: lag at {STEADY}/s, half"), "ms", at(0.5));
            board.add(&format!("{name}: lag at {STEADY}/s, 99 %"), "ms", at(0.99));
            first.get_or_insert(name.clone());
            goals(&mut board, first.as_deref(), &name);
        }
        board.note("each commit of one row; lag: from the beginning of its transaction until it is in the stream");
        board.note("the lag is measured beside as many rows that are published and were not deleted");
        board.print(PROBE);
        Ok(())
    }
}

/// What grows must cost no more than a fifth for each.
fn goals(board: &mut Board, first: Option<&str>, name: &str) {
    let Some(first) = first.filter(|first| *first != name) else { return };
    let lost = format!("{name}: rate lost to a smaller one");
    board.add_change(&lost, name, first, -1.0);
    board.expect(&format!("{name}, rate"), &lost, Sense::AtMost, 20.0, None);
}

/// Returns the SQL that makes the table.
fn ddl(berth: &Berth) -> Result<String> {
    let output =
        Command::new(program()?).current_dir(berth.path()).args(["outbox", "ddl", "tidegate.yaml"]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[expect(clippy::disallowed_methods, reason = "the connection's task ends with its client")]
async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

const ROWS: &str = "INSERT INTO identity.outbox (event_type, aggregate_id, payload) \
    SELECT 'UserUpdated', md5((n % 10000)::text)::uuid, jsonb_build_object('n', n, 'email', 'someone@example.org') \
    FROM generate_series(1, $1::bigint) n";

fn fill((runtime, client): (&tokio::runtime::Runtime, &Client), count: u64) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let now = left.min(500_000);
        runtime.block_on(client.execute(ROWS, &[&i64::try_from(now)?]))?;
        left -= now;
    }
    Ok(())
}

fn shown(node: &Node) -> Result<Value> {
    http::get(node.address, "/v1/modules/outbox")
}

fn published(node: &Node) -> Result<u64> {
    let view = shown(node)?;
    view.pointer("/details/outbox/published").and_then(Value::as_u64).with_context(|| format!("no count in {view}"))
}

/// Starts a node and measures how fast it publishes what waits; returns also its memory.
fn drain(berth: &Berth, backlog: u64, time: Duration) -> Result<(f64, f64)> {
    let node = berth.start()?;
    let clock = Clock::real();
    let watch = clock.stopwatch();
    while published(&node)? == 0 {
        ensure!(watch.elapsed() < PATIENCE, "nothing is published: {}", shown(&node)?);
        pause(Duration::from_millis(2));
    }
    let (watch, before) = (clock.stopwatch(), published(&node)?);
    loop {
        let (now, took) = (published(&node)?, watch.elapsed());
        if took >= time || now >= backlog {
            let rate = (now - before) as f64 / took.as_secs_f64();
            return Ok((rate, resident_bytes(node.process.pid())?));
        }
        pause(Duration::from_millis(5));
    }
}

/// Writes rows at a steady rate, each in a commit of its own; returns the lags that the relay saw, in ms.
fn lags(client: (&tokio::runtime::Runtime, &Client), berth: &Berth, time: Duration) -> Result<Vec<f64>> {
    let node = berth.start()?;
    let clock = Clock::real();
    let watch = clock.stopwatch();
    while shown(&node)?.pointer("/details/state").and_then(Value::as_str) != Some("waiting for rows") {
        ensure!(watch.elapsed() < PATIENCE, "the relay does not begin: {}", shown(&node)?);
        pause(Duration::from_millis(2));
    }
    let (runtime, client) = client;
    let (watch, mut written, mut lags) = (clock.stopwatch(), 0, Vec::new());
    while watch.elapsed() < time {
        let due = u64::try_from(watch.elapsed().as_millis())? * STEADY / 1000;
        for _ in written..due {
            runtime.block_on(client.execute(ROWS, &[&1_i64]))?;
        }
        written = due.max(written);
        let lag = shown(&node)?.pointer("/details/outbox/lag_seconds").and_then(Value::as_f64);
        lags.extend(lag.map(|lag| lag * 1e3));
        pause(TICK);
    }
    ensure!(!lags.is_empty(), "the relay published nothing: {}", shown(&node)?);
    let watch = clock.stopwatch();
    while published(&node)? < written {
        ensure!(watch.elapsed() < PATIENCE, "{} of {written} are published", published(&node)?);
        pause(Duration::from_millis(5));
    }
    Ok(lags)
}

impl Berth {
    /// Writes a secret beside the configuration.
    fn hide(&self, name: &str, secret: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.path().join(name);
        fs::write(&path, secret)?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?)
    }
}

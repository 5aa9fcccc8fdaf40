//! `tidegate-bench engine …`: the engine in process, against the disk and Redis.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use tidegate_core::notice::Notices;

use crate::{
    Settings,
    board::Board,
    bodies::Bodies,
    drive::{Driven, Plan},
    engine::{self, BATCH, Crew, Fate, WARM, Works},
    probe::probe,
    process::{self, Owned, cpu_seconds},
    redis::{self, Form, Redis},
    spread::millis,
    stage::{Stage, group_name, group_spec, stream_name, stream_spec},
    ui,
};

/// Series of the disk probe; everything is shown as a ratio to it.
pub(crate) const PROBE: &str = "sync probe";

/// Time of one probe.
const PROBE_TIME: Duration = Duration::from_millis(400);

#[derive(Debug, Subcommand)]
pub(crate) enum Work {
    /// Durable publishes of single events.
    Publish {
        #[command(flatten)]
        settings: Settings,
        /// Publishes under way at a time.
        #[arg(long, default_value = "64,1024", value_delimiter = ',')]
        in_flight: Vec<usize>,
    },
    /// Claim, settle and remember in the ledger.
    Settle {
        #[command(flatten)]
        settings: Settings,
        /// Workers side by side.
        #[arg(long, default_value_t = 8)]
        workers: usize,
        /// Deliveries per claim.
        #[arg(long, default_value_t = BATCH)]
        batch: usize,
    },
    /// From publish to settlement, through a group with a handler in the process.
    E2e {
        #[command(flatten)]
        settings: Settings,
        /// Publishers side by side.
        #[arg(long, default_value = "64,1024", value_delimiter = ',')]
        publishers: Vec<usize>,
        /// Workers of the group.
        #[arg(long, default_value_t = 8)]
        workers: usize,
        /// Most deliveries per call of the handler.
        #[arg(long, default_value_t = BATCH)]
        batch: usize,
    },
}

impl Work {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Publish { settings, in_flight } => publish(&settings, &in_flight),
            Self::Settle { settings, workers, batch } => settle(&settings, workers, batch),
            Self::E2e { settings, publishers, workers, batch } => end_to_end(&settings, &publishers, workers, batch),
        }
    }
}

/// Says what is measured, with what, and on how busy a machine.
pub(crate) fn open(what: &str, settings: &Settings) -> Board {
    ui::line(format!(
        "{what}: {} runs, {} bytes of data, {} threads, load of the machine {} at the start",
        settings.runs,
        settings.size,
        settings.threads,
        process::load()
    ));
    Board::default()
}

fn measure_disk(settings: &Settings) -> Result<f64> {
    probe(&settings.dir, PROBE_TIME).with_context(|| format!("probe the disk in {}", settings.dir.display()))
}

/// Measures the disk before a run and adds it to the board.
pub(crate) fn add_probe(board: &mut Board, settings: &Settings) -> Result<()> {
    board.add(PROBE, "1/s", measure_disk(settings)?);
    Ok(())
}

/// Measures the disk again after a run: what counts is the mean. Says so when the disk changed much in between.
fn end_probe(board: &mut Board, settings: &Settings) -> Result<()> {
    let after = measure_disk(settings)?;
    let before = board.last(PROBE).unwrap_or(after);
    if before.max(after) > 2.0 * before.min(after) {
        board.note(format!("the disk was not steady: {before:.0} syncs/s before a run and {after:.0} after it"));
    }
    board.average_last(PROBE, after);
    Ok(())
}

/// Repeats a measurement, with a probe of the disk before and after each run.
pub(crate) fn repeat(
    board: &mut Board,
    settings: &Settings,
    mut one: impl FnMut(&mut Board, usize) -> Result<()>,
) -> Result<()> {
    for run in 1..=settings.runs {
        ui::step(format!("run {run} of {}", settings.runs));
        add_probe(board, settings)?;
        one(board, run)?;
        end_probe(board, settings)?;
    }
    Ok(())
}

/// Tells whether Redis can be measured; says so when not.
pub(crate) fn has_redis(board: &mut Board, settings: &Settings) -> bool {
    if settings.no_peers {
        return false;
    }
    match redis::version() {
        Some(version) => {
            board.note(format!("{}: version {version}, appendfsync always, no snapshots, no rewrites", redis::NAME))
        }
        None => board.note(format!("{}: not installed: skipped", redis::NAME)),
    }
    redis::version().is_some()
}

fn publish_name(in_flight: usize) -> String {
    format!("publish, {in_flight} in flight")
}

fn publish(settings: &Settings, in_flight: &[usize]) -> Result<()> {
    let mut board = open("engine publish", settings);
    let runtime = settings.runtime()?;
    let has_redis = has_redis(&mut board, settings);
    let bodies = Bodies::new(settings.size);
    repeat(&mut board, settings, |board, _| {
        for &count in in_flight {
            if has_redis {
                redis_publish(board, settings, count)?;
            }
            let stage = Stage::open(&settings.dir)?;
            let name = publish_name(count);
            let rate = runtime.block_on(async {
                stage.store.declare_stream(&stream_spec("events")).await?;
                let mut began = None;
                let begin = || began = Some((stage.counters(), cpu_seconds(std::process::id())));
                let streams = [stream_name("events")];
                let rate = engine::publish(&stage.store, &streams, &bodies, count, settings.time(), begin).await?;
                if let Some((before, cpu)) = began {
                    stage.counters().explain(&before, rate.time, board, &name);
                    let cpu = cpu_seconds(std::process::id())? - cpu?;
                    board.add(&format!("{name}: processor"), "µs/msg", cpu * 1e6 / rate.count.max(1) as f64);
                }
                anyhow::Ok(rate)
            })?;
            board.add(&name, "1/s", rate.per_second());
            board.add(&format!("{name}: p50"), "ms", millis(rate.spread.share(0.5)));
            board.add(&format!("{name}: p99"), "ms", millis(rate.spread.share(0.99)));
            board.add(&format!("{name}: longest"), "ms", millis(rate.spread.most()));
        }
        Ok(())
    })?;
    for &count in in_flight {
        let (goal, stretch) = if count >= 1024 { (60.0, 110.0) } else { (13.0, 22.0) };
        let name = publish_name(count);
        board.expect_ratio(&format!("engine {name}"), &name, PROBE, goal, Some(stretch));
    }
    board.print(PROBE);
    Ok(())
}

/// Measures XADD with so many in flight, on many connections and on few, and keeps the better.
pub(crate) fn redis_publish(board: &mut Board, settings: &Settings, in_flight: usize) -> Result<()> {
    let name = format!("{}, {in_flight} in flight", redis::NAME);
    let (rate, cpu) = redis_rate(settings, Form::Plain, in_flight)?;
    board.add(&name, "1/s", rate);
    board.add(&format!("{name}: processor"), "µs/msg", cpu);
    Ok(())
}

/// Publishes per second of Redis, and microseconds of its processor for each.
pub(crate) fn redis_rate(settings: &Settings, form: Form, in_flight: usize) -> Result<(f64, f64)> {
    let redis = Redis::start(&settings.dir)?;
    best_of(settings, &redis.process, in_flight, |connections, plan| {
        redis.publish(form, settings.size, connections, plan)
    })
}

/// The best rate with so many in flight on one connection, on a few or on many, and what one message costs the server then.
pub(crate) fn best_of(
    settings: &Settings,
    server: &Owned,
    in_flight: usize,
    publish: impl Fn(usize, Plan) -> Result<Driven>,
) -> Result<(f64, f64)> {
    let mut best = (0.0, 0.0);
    for connections in [1, 4, 64] {
        let depth = in_flight.div_ceil(connections);
        let before = cpu_seconds(server.pid())?;
        let driven = publish(connections, Plan { depth, warm: WARM, time: settings.time() / 2, rate: None })?;
        let cpu = (cpu_seconds(server.pid())? - before) * 1e6 / driven.total.max(1) as f64;
        if driven.per_second() > best.0 {
            best = (driven.per_second(), cpu);
        }
    }
    Ok(best)
}

/// Name of the series of Redis with a ledger.
pub(crate) const REDIS_LEDGER: &str = "Redis always with ledger";

pub(crate) fn redis_settle(board: &mut Board, settings: &Settings, workers: usize, batch: usize) -> Result<()> {
    let redis = Redis::start(&settings.dir)?;
    let driven = redis.settle(Form::Plain, settings.size, workers, batch, settings.messages().min(300_000))?;
    board.add(REDIS_LEDGER, "1/s", driven.per_second());
    Ok(())
}

fn settle(settings: &Settings, workers: usize, batch: usize) -> Result<()> {
    let mut board = open("engine settle", settings);
    let runtime = settings.runtime()?;
    let has_redis = has_redis(&mut board, settings);
    let bodies = Bodies::new(settings.size);
    let name = format!("claim + settle + ledger, {workers} × {batch}");
    repeat(&mut board, settings, |board, _| {
        if has_redis {
            redis_settle(board, settings, workers, batch)?;
        }
        let stage = Stage::open(&settings.dir)?;
        let rate = runtime.block_on(async {
            stage.store.declare_stream(&stream_spec("events")).await?;
            stage.store.declare_group(&group_spec("work", "events")).await?;
            engine::fill(&stage.store, &stream_name("events"), &bodies, settings.messages()).await?;
            let (before, cpu) = (stage.counters(), cpu_seconds(std::process::id())?);
            let groups = [group_name("work")];
            let rate = engine::settle(&stage.store, &groups, workers, batch, settings.messages(), Fate::Done).await?;
            stage.counters().explain(&before, rate.time, board, &name);
            let cpu = cpu_seconds(std::process::id())? - cpu;
            board.add(&format!("{name}: processor"), "µs/msg", cpu * 1e6 / rate.count.max(1) as f64);
            anyhow::Ok(rate)
        })?;
        board.add(&name, "1/s", rate.per_second());
        Ok(())
    })?;
    board.expect_ratio("engine settle", &name, PROBE, 50.0, Some(100.0));
    board.expect_ratio("engine settle", &name, REDIS_LEDGER, 3.0, Some(7.0));
    board.print(PROBE);
    Ok(())
}

fn e2e_name(publishers: usize, marked: bool) -> String {
    let marked = if marked { ", each claim synced first" } else { "" };
    format!("end to end, {publishers} publishers{marked}")
}

fn end_to_end(settings: &Settings, publishers: &[usize], workers: usize, batch: usize) -> Result<()> {
    let mut board = open("engine e2e", settings);
    let runtime = settings.runtime()?;
    let bodies = Bodies::new(settings.size);
    board.note("\"each claim synced first\" is how a node runs handlers that could take it down (mark_claims); webhook and pull are without");
    repeat(&mut board, settings, |board, _| {
        for (&count, marked) in publishers.iter().flat_map(|count| [(count, false), (count, true)]) {
            let stage = Stage::open(&settings.dir)?;
            let name = e2e_name(count, marked);
            let rate = runtime.block_on(async {
                stage.store.declare_stream(&stream_spec("events")).await?;
                let mut spec = group_spec("work", "events");
                spec.mark_claims = marked;
                let works =
                    Works::start(&stage.store, Notices::default(), Crew::swallowing(spec, workers, batch)).await?;
                let (before, cpu) = (stage.counters(), cpu_seconds(std::process::id())?);
                let rate = engine::end_to_end(&stage.store, &works, &bodies, count, settings.time()).await?;
                stage.counters().explain(&before, rate.time + WARM, board, &name);
                let cpu = cpu_seconds(std::process::id())? - cpu;
                board.add(&format!("{name}: processor"), "µs/msg", cpu * 1e6 / rate.count.max(1) as f64);
                works.stop().await?;
                anyhow::Ok(rate)
            })?;
            board.add(&name, "1/s", rate.per_second());
        }
        Ok(())
    })?;
    for (&count, marked) in publishers.iter().flat_map(|count| [(count, false), (count, true)]) {
        let (goal, stretch) = if count >= 1024 { (33.0, 55.0) } else { (9.0, 15.0) };
        let name = e2e_name(count, marked);
        board.expect_ratio(&format!("engine {name}"), &name, PROBE, goal, Some(stretch));
    }
    board.print(PROBE);
    Ok(())
}

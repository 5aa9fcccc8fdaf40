//! Kills a node and its workers at random moments under load, and proves that nothing is lost, made up or out of order.

mod chaos;
mod clock;
mod effects;
mod http;
mod node;
mod outbox;
mod publisher;
mod resp;
mod server;
mod ui;
mod verdict;
mod worker;

use std::{path::PathBuf, process::ExitCode, sync::atomic::Ordering, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Parser, Subcommand};

use crate::{
    chaos::{Chaos, Samples},
    effects::Effects,
    outbox::Outbox,
    publisher::{PUBLISHERS, Record, Shared, publish},
    verdict::{Told, Verdict, audit},
    worker::Worker,
};

/// Longest time for the workers to do what is left.
const DRAIN: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Other>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Kills the relay of an outbox while sessions write into it, and compares the stream with the table.
    Outbox(Outbox),
    #[command(hide = true)]
    Worker(Worker),
}

/// What is run.
#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    /// The node's program.
    #[arg(long, default_value = "target/release/tidegate")]
    binary: PathBuf,
    /// How long there is load.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(2..3600))]
    seconds: u64,
    /// How often the node is killed; workers as often.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// How many nodes share the work; more than one do so on a server of the run, which is a Redis when none is named.
    #[arg(long, default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..10))]
    nodes: usize,
    /// What keeps the streams.
    #[arg(long, value_enum, default_value = "embedded")]
    engine: server::Engine,
    /// How often the server is killed, at most as often as the nodes.
    #[arg(long, default_value_t = 5)]
    server_kills: usize,
    /// Seed of the moments and of the load.
    #[arg(long, default_value_t = fastrand::u64(..))]
    seed: u64,
    /// Keeps the scratch directory.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Other::Worker(worker)) => worker.run(),
        Some(Other::Outbox(outbox)) => outbox.run(),
        None => run(&cli.settings),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui::step(format!("tidegate-torture: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> Result<()> {
    let mut scratch = tempfile::Builder::new().prefix("tidegate-torture-").tempdir()?;
    scratch.disable_cleanup(settings.keep);
    ui::line(format!(
        "seed {}, {} s, {} kills, scratch {}",
        settings.seed,
        settings.seconds,
        settings.kills,
        scratch.path().display()
    ));
    let shared = Shared::default();
    let mut chaos = Chaos::start(scratch.path(), settings, &shared)?;
    let records = load(settings, &shared, &mut chaos)?;
    let is_drained = drain(&shared)?;
    if is_drained {
        chaos.send_home()?;
    }
    let told = Told::read(shared.node.get().context("there is a node")?)?;
    let mut effects = Effects::read(scratch.path(), chaos.logs(), &chaos.kills)?;
    effects.find_crowded();
    let mut verdict = Verdict::default();
    verdict.published(&records);
    verdict.killed(&chaos);
    verdict.done(&records, &effects, &told);
    verdict.repeated(&effects, &chaos.kills);
    verdict.ordered(&effects, &told.dead, &records);
    verdict.demand("drained in time", is_drained, is_drained, &[told.row.to_string()]);
    verdict.audited(&told, &records);
    chaos.kill_node(&mut fastrand::Rng::with_seed(settings.seed), None)?;
    let (row, balanced) = audit(shared.node.get().context("there is a node")?)?;
    let is_same = balanced && row == told.row;
    verdict.demand("the same after one more kill", is_same, is_same, &[told.row.to_string(), row.to_string()]);
    verdict.print()
}

/// Publishes and kills until the time is up; returns when every publisher has its answer.
fn load(settings: &Settings, shared: &Shared, chaos: &mut Chaos<'_>) -> Result<Vec<Record>> {
    let samples = Samples::default();
    std::thread::scope(|scope| {
        scope.spawn(|| samples.run(shared));
        let start = |number| scope.spawn(move || publish(shared, number, settings.seed));
        let publishers: Vec<_> = (0..PUBLISHERS).map(start).collect();
        let result = chaos.run(settings, &samples);
        // An event in doubt gets its answer from the node that is up now; only a node that is stuck is given up.
        shared.give_up_at.store(clock::after(Duration::from_secs(30)), Ordering::Relaxed);
        shared.is_over.store(true, Ordering::Relaxed);
        let join = |publisher: std::thread::ScopedJoinHandle<'_, Result<Record>>| {
            publisher.join().map_err(|_| anyhow!("a publisher panicked"))?
        };
        let records: Result<Vec<Record>> = publishers.into_iter().map(join).collect();
        result?;
        let records = records?;
        ensure!(records.iter().all(|record| !record.sent.is_empty()), "a publisher sent nothing");
        Ok(records)
    })
}

/// Waits until nothing is left to do; false when that takes too long.
fn drain(shared: &Shared) -> Result<bool> {
    let deadline = clock::after(DRAIN);
    loop {
        let (row, _) = audit(shared.node.get().context("there is a node")?)?;
        if ["waiting", "scheduled", "in_flight"].iter().all(|member| row[member] == 0) {
            return Ok(true);
        }
        if clock::now() > deadline {
            return Ok(false);
        }
        clock::pause(Duration::from_millis(50));
    }
}

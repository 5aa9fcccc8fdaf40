//! Measuring programs: each prints the disk probe, the peers it could start, and what was measured as ratios to them.

mod board;
mod bodies;
mod desk;
mod drive;
mod engine;
mod engine_runs;
mod features;
mod hand;
mod http;
mod http_runs;
mod node;
mod peer;
mod pickup;
mod probe;
mod process;
mod redis;
mod relay;
mod reopen;
mod resp;
mod scaling;
mod servers;
mod spread;
mod stage;
mod steady;
mod ui;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// The one of the node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures what Tidegate does, as ratios to the disk and to peers in the same run.
#[derive(Debug, Parser)]
#[command(name = "tidegate-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The engine in process.
    #[command(subcommand)]
    Engine(engine_runs::Work),
    /// A node over HTTP.
    #[command(subcommand)]
    Http(http_runs::Http),
    /// Pull workers over HTTP.
    Pull(http_runs::Pull),
    /// From HTTP to a webhook.
    Node(http_runs::Whole),
    /// From the acceptance of an event until a handler has it, at a steady rate.
    Pickup(pickup::Pickup),
    /// Opening a large store after kill -9.
    Reopen(reopen::Reopen),
    /// Resident memory of a node, empty and with a large store.
    Memory(reopen::Memory),
    /// A node at half of what it can do, for minutes.
    Steady(steady::Steady),
    /// Tidegate over Redis, PostgreSQL and NATS, against a client by hand on the same server.
    Servers(servers::Servers),
    /// Publishing and consuming with the Redis protocol, on a node and on Redis.
    Resp(resp::Resp),
    /// The relay of an outbox, from PostgreSQL to Redis, while the table grows.
    Relay(relay::Relay),
    /// What limiter, breaker, ledger, order key and dedupe cost.
    Features(features::Features),
    /// What a message costs while everything around it grows.
    Scaling(scaling::Scaling),
    /// A report, a list and a job over many dead letters.
    Desk(desk::Desk),
    /// A step in a process of its own; started by the other commands.
    #[command(subcommand, hide = true)]
    Child(reopen::Child),
    /// A server to compare with; started by the other commands.
    #[command(subcommand, hide = true)]
    Serve(peer::Serve),
}

/// What every measurement takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Settings {
    /// Runs; medians are shown.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Bytes of random data in each event.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Messages of measurements that have a number in place of a time.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// Multiplies what a measurement calls its size.
    #[arg(long, default_value_t = 1)]
    scale: u64,
    /// Where scratch folders are made: on the disk that is meant.
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
    /// Threads that run the engine, or the node.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Leave the peers out.
    #[arg(long)]
    no_peers: bool,
}

impl Settings {
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages.saturating_mul(self.scale)
    }

    pub(crate) fn runtime(&self) -> Result<tokio::runtime::Runtime> {
        let mut builder = match self.threads {
            1 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        Ok(builder.worker_threads(self.threads.max(1)).enable_all().build()?)
    }
}

fn main() -> ExitCode {
    let ran = match Cli::parse().command {
        Command::Engine(work) => work.run(),
        Command::Http(work) => work.run(),
        Command::Pull(ask) => http_runs::pull(&ask),
        Command::Node(ask) => http_runs::whole(&ask),
        Command::Pickup(ask) => ask.run(),
        Command::Reopen(ask) => reopen::reopen(&ask),
        Command::Memory(ask) => reopen::memory(&ask),
        Command::Steady(ask) => ask.run(),
        Command::Servers(ask) => ask.run(),
        Command::Resp(ask) => ask.run(),
        Command::Relay(ask) => ask.run(),
        Command::Features(ask) => ask.run(),
        Command::Scaling(ask) => ask.run(),
        Command::Desk(ask) => ask.run(),
        Command::Child(child) => child.run(),
        Command::Serve(serve) => serve.run(),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui::step(format!("tidegate-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

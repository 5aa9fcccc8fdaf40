//! `tidegate-bench reopen` and `memory`: a large store is built, its process killed, and opened again by another.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_core::{clock::Clock, notice::Notices};

use crate::{
    Settings,
    board::Sense,
    bodies::Bodies,
    engine::{self, BATCH, Fate},
    engine_runs::{PROBE, open, repeat},
    node::{Berth, PULL, configuration, pause},
    process::{Owned, resident_bytes},
    stage::{group_name, group_spec, stream_name, stream_spec},
    ui,
};

const MIB: f64 = 1024.0 * 1024.0;

/// Size of the store that is built.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Size {
    /// Events that are settled and have their entry in the ledger.
    #[arg(long, default_value_t = 10_000_000)]
    settled: u64,
    /// Events that wait.
    #[arg(long, default_value_t = 1_000_000)]
    waiting: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Reopen {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    size: Size,
    /// Take the files out of the memory of the system before they are opened.
    #[arg(long)]
    cold: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Memory {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    size: Size,
    /// Seconds that a node is left alone before its memory is read.
    #[arg(long, default_value_t = 5.0)]
    settle_for: f64,
}

/// Steps that run in a process of their own.
#[derive(Debug, Subcommand)]
pub(crate) enum Child {
    /// Builds a store, says so, and waits to be killed.
    Build {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        size: usize,
        #[command(flatten)]
        count: Size,
    },
    /// Opens a store and tells what it took.
    Open {
        #[arg(long)]
        dir: PathBuf,
    },
}

impl Child {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Build { dir, size, count } => build(&dir, size, count),
            Self::Open { dir } => tell_open(&dir),
        }
    }
}

fn build(dir: &Path, size: usize, count: Size) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let store = tidegate_store::open("embedded", dir, Clock::real(), Notices::default())?;
        store.declare_stream(&stream_spec("events")).await?;
        store.declare_group(&group_spec("work", "events")).await?;
        let bodies = Bodies::new(size);
        engine::fill(&store, &stream_name("events"), &bodies, count.settled + count.waiting).await?;
        // The last batches would overlap the end: less is claimed at a time there.
        let rough = count.settled / 10_000 * 10_000;
        let groups = [group_name("work")];
        engine::settle(&store, &groups, 8, 1000, rough.saturating_sub(10_000), Fate::Done).await?;
        let status = store.group(&groups[0]).await?;
        engine::settle(&store, &groups, 1, BATCH, count.settled.saturating_sub(status.done), Fate::Done).await?;
        ui::line("built");
        // Killed here, as long as the parent lives; its end ends us too.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        anyhow::Ok(())
    })
}

fn tell_open(dir: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let own = std::process::id();
        let clock = Clock::real();
        let before = resident_bytes(own)?;
        let watch = clock.stopwatch();
        let store = tidegate_store::open("embedded", dir, clock.clone(), Notices::default())?;
        let opened = watch.elapsed();
        let first = {
            let ask = tidegate_core::store::Claim {
                group: group_name("work"),
                max: 1,
                lease: Duration::from_secs(60),
                before: None,
            };
            store.claim(&ask).await?;
            watch.elapsed()
        };
        let resident = resident_bytes(own)?;
        let group = store.group(&group_name("work")).await?;
        ensure!(group.difference() == 0, "the accounts differ by {}", group.difference());
        let ledger = store.ledger_status(&group_name("work")).await?;
        let damage = store.status().damage;
        ensure!(damage.is_empty(), "damage after a kill: {damage:?}");
        clock.sleep(Duration::from_secs(3)).await;
        ui::line(
            json!({
                "open_ms": opened.as_secs_f64() * 1e3, "claim_ms": first.as_secs_f64() * 1e3,
                "before": before, "resident": resident, "resident_later": resident_bytes(own)?,
                "accepted": group.accepted, "done": group.done, "waiting": group.waiting + group.in_flight,
                "ledger": ledger.entries, "ledger_memory": ledger.memory_bytes,
            })
            .to_string(),
        );
        store.close().await?;
        anyhow::Ok(())
    })
}

fn child(words: &[&str]) -> Result<(Owned, BufReader<std::process::ChildStdout>)> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.arg("child").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Owned::spawn(&mut command)?;
    let out = process.0.stdout.take().context("a child has no standard output")?;
    Ok((process, BufReader::new(out)))
}

/// Builds a store in another process and kills it.
fn build_and_kill(dir: &Path, size: usize, count: Size) -> Result<()> {
    ui::step(format!("building {} settled and {} waiting events", count.settled, count.waiting));
    let dir = dir.display().to_string();
    let (size, settled, waiting) = (size.to_string(), count.settled.to_string(), count.waiting.to_string());
    let words = ["build", "--dir", &dir, "--size", &size, "--settled", &settled, "--waiting", &waiting];
    let (mut process, mut out) = child(&words)?;
    let mut line = String::new();
    out.read_line(&mut line)?;
    ensure!(line.trim() == "built", "the store was not built");
    process.kill()
}

/// Opens a store in another process; returns what it tells.
fn open_apart(dir: &Path) -> Result<Value> {
    let dir = dir.display().to_string();
    let (_process, mut out) = child(&["open", "--dir", &dir])?;
    let mut line = String::new();
    out.read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("a child said {line:?}"))
}

/// Takes the files of a folder out of the memory of the system.
fn forget_pages(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            forget_pages(&path)?;
            continue;
        }
        let file = fs::File::open(&path)?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

fn folder_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        bytes += if path.is_dir() { folder_bytes(&path)? } else { fs::metadata(&path)?.len() };
    }
    Ok(bytes)
}

pub(crate) fn reopen(ask: &Reopen) -> Result<()> {
    let settings = &ask.settings;
    let mut board = open("reopen", settings);
    // Each run builds its own: how much there is to replay depends on when the last checkpoint was before the kill.
    repeat(&mut board, settings, |board, _| {
        let dir = tempfile::Builder::new().prefix("tidegate-bench-reopen-").tempdir_in(&settings.dir)?;
        let watch = Clock::real().stopwatch();
        build_and_kill(dir.path(), settings.size, ask.size)?;
        board.add("build", "s", watch.elapsed().as_secs_f64());
        board.add("size on disk", "MiB", folder_bytes(dir.path())? as f64 / MIB);
        if ask.cold {
            forget_pages(dir.path())?;
        }
        let told = open_apart(dir.path())?;
        let number = |member: &str| told[member].as_f64().unwrap_or_default();
        let expected = (ask.size.settled as f64, ask.size.waiting as f64);
        ensure!((number("done"), number("waiting")) == expected, "the store came back with {told}");
        board.add("open after kill -9", "s", number("open_ms") / 1e3);
        board.add("first delivery claimed", "s", number("claim_ms") / 1e3);
        board.add("memory when open", "MiB", number("resident") / MIB);
        board.add("memory 3 s later", "MiB", number("resident_later") / MIB);
        board.add("ledger entries", "entries", number("ledger"));
        board.add("ledger in memory", "MiB", number("ledger_memory") / MIB);
        Ok(())
    })?;
    board.expect("reopening after kill -9", "open after kill -9", Sense::AtMost, 2.0, Some(0.5));
    board.print(PROBE);
    Ok(())
}

pub(crate) fn memory(ask: &Memory) -> Result<()> {
    let settings = &ask.settings;
    let mut board = open("memory", settings);
    let settle_for = Duration::from_secs_f64(ask.settle_for);
    repeat(&mut board, settings, |board, _| {
        let berth = Berth::new(&settings.dir, settings.threads, &configuration(PULL, ""))?;
        let node = berth.start()?;
        pause(settle_for);
        board.add("node, idle and empty", "MiB", resident_bytes(node.process.pid())? / MIB);
        drop(node);
        drop(berth);
        let berth = Berth::new(&settings.dir, settings.threads, &configuration(PULL, ""))?;
        build_and_kill(&berth.data(), settings.size, ask.size)?;
        let watch = Clock::real().stopwatch();
        let node = berth.start()?;
        board.add("node, from start to ready", "s", watch.elapsed().as_secs_f64());
        pause(settle_for);
        board.add("node, with the store", "MiB", resident_bytes(node.process.pid())? / MIB);
        ensure!(node.count("waiting")? == ask.size.waiting, "the node does not see what waits");
        Ok(())
    })?;
    board.note(format!(
        "the store: {} settled with their ledger entries, {} waiting",
        ask.size.settled, ask.size.waiting
    ));
    board.expect("memory, idle", "node, idle and empty", Sense::AtMost, 30.0, Some(20.0));
    board.expect("memory, with the store", "node, with the store", Sense::AtMost, 300.0, Some(150.0));
    board.print(PROBE);
    Ok(())
}

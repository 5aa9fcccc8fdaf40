//! `tidegate-bench http …`, `pull` and `node`: the whole node over the network, against servers of the same libraries.

use std::{
    cell::Cell,
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use tidegate_core::clock::Clock;

use crate::{
    Settings,
    board::Board,
    drive::{Dialog, Driven, Plan, drive},
    engine::{BATCH, WARM},
    engine_runs::{PROBE, REDIS_LEDGER, has_redis, open, redis_publish, redis_settle, repeat},
    http::{EVENTS, Limited, Post, Worker},
    node::{Berth, Node, PULL, configuration},
    peer::{Peer, Serve},
    process::{Owned, cpu_seconds},
    redis,
    spread::millis,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Http {
    /// Durable publishes of single events.
    Publish(Publish),
    /// Durable publishes of batches.
    Batch(Batch),
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    settings: Settings,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 64)]
    connections: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Batch {
    #[command(flatten)]
    settings: Settings,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Events per request.
    #[arg(long, default_value_t = BATCH)]
    batch: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    #[command(flatten)]
    settings: Settings,
    /// Workers, each with a connection of its own.
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// Deliveries per claim.
    #[arg(long, default_value_t = BATCH)]
    batch: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Whole {
    #[command(flatten)]
    settings: Settings,
    /// Connections that publish, each with one request at a time.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Workers of the group, which is also how many calls go out at a time.
    #[arg(long, default_value_t = 64)]
    workers: usize,
}

impl Http {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Publish(ask) => publish(&ask),
            Self::Batch(ask) => batch(&ask),
        }
    }
}

/// Drives a server and adds its rate, the times of its answers, and what it cost.
pub(crate) fn measure<D: Dialog>(
    board: &mut Board,
    name: &str,
    server: (&Owned, SocketAddr),
    dialogs: Vec<D>,
    plan: Plan,
) -> Result<Driven> {
    let (process, address) = server;
    let before = cpu_seconds(process.pid())?;
    let driven = drive(address, dialogs, plan)?;
    let cpu = cpu_seconds(process.pid())? - before;
    board.add(name, "1/s", driven.per_second());
    board.add(&format!("{name}: p50"), "ms", millis(driven.spread.share(0.5)));
    board.add(&format!("{name}: p99"), "ms", millis(driven.spread.share(0.99)));
    board.add(&format!("{name}: processor"), "µs/msg", cpu * 1e6 / driven.total.max(1) as f64);
    Ok(driven)
}

/// Adds messages per second of the server's processor time, from the series of what one message costs.
fn add_per_cpu(board: &mut Board, name: &str) {
    if let Some(micros) = board.last(&format!("{name}: processor")).filter(|micros| *micros > 0.0) {
        board.add(&format!("{name}, per CPU-second"), "msg/CPU-s", 1e6 / micros);
    }
}

fn pull_node(settings: &Settings) -> Result<(Berth, Node)> {
    let berth = Berth::new(&settings.dir, settings.threads, &configuration(PULL, ""))?;
    let node = berth.start()?;
    Ok((berth, node))
}

/// Checks that every event that was answered is there: a repeat would cost less than a new one.
fn check_accepted(node: &Node, driven: &Driven) -> Result<()> {
    let accepted = node.count("accepted")?;
    ensure!(accepted == driven.total, "{} events were answered and {accepted} are there", driven.total);
    Ok(())
}

fn publish(ask: &Publish) -> Result<()> {
    let settings = &ask.settings;
    let mut board = open("http publish", settings);
    let has_redis = has_redis(&mut board, settings);
    let redis_name = format!("{}, 64 in flight", redis::NAME);
    let plan = Plan { depth: 1, warm: WARM, time: settings.time(), rate: None };
    let (node_name, bare_name) = (format!("node, {} connections", ask.connections), "bare server".to_owned());
    let dialogs = || (0..ask.connections).map(|number| Post::one(EVENTS, settings.size, number)).collect::<Vec<_>>();
    repeat(&mut board, settings, |board, _| {
        if has_redis {
            redis_publish(board, settings, 64)?;
            add_per_cpu(board, &redis_name);
        }
        let peer = Peer::start(&Serve::Bare { threads: settings.threads })?;
        measure(board, &bare_name, (&peer.process, peer.address), dialogs(), plan)?;
        if let Some(rate) = wrk(settings, peer.address, ask.connections)? {
            board.add("bare server, driven by wrk", "1/s", rate);
        }
        drop(peer);
        let (_berth, node) = pull_node(settings)?;
        let driven = measure(board, &node_name, (&node.process, node.address), dialogs(), plan)?;
        add_per_cpu(board, &node_name);
        check_accepted(&node, &driven)?;
        Ok(())
    })?;
    board.expect_ratio("http publish, single events", &node_name, &bare_name, 0.6, Some(0.8));
    let per_cpu = |name: &str| format!("{name}, per CPU-second");
    board.expect_ratio("http publish, per CPU-second", &per_cpu(&node_name), &per_cpu(&redis_name), 1.0, None);
    board.print(PROBE);
    Ok(())
}

/// Drives the bare server with wrk, when it is installed: shows what our own generator costs.
fn wrk(settings: &Settings, address: SocketAddr, connections: usize) -> Result<Option<f64>> {
    if settings.no_peers
        || Command::new("wrk").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    {
        return Ok(None);
    }
    let dir = tempfile::tempdir_in(&settings.dir)?;
    let script = dir.path().join("post.lua");
    let lua =
        format!("wrk.method=\"POST\"\nwrk.body=string.rep(\"x\",{})\nwrk.headers[\"ce-id\"]=\"1\"\n", settings.size);
    fs::write(&script, lua)?;
    let connections = connections.to_string();
    let output = Command::new("wrk")
        .args(["-t1", "-c", &connections, "-d2s", "-s"])
        .arg(&script)
        .arg(format!("http://{address}{EVENTS}"))
        .output()
        .context("run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok()))
}

fn batch(ask: &Batch) -> Result<()> {
    let settings = &ask.settings;
    let mut board = open("http batch", settings);
    let has_redis = has_redis(&mut board, settings);
    let redis_name = format!("{}, 1024 in flight", redis::NAME);
    let name = format!("node, batches of {} on {} connections", ask.batch, ask.connections);
    board.note("the data of each event of a batch is JSON text of the size; the counts are events");
    repeat(&mut board, settings, |board, _| {
        if has_redis {
            redis_publish(board, settings, 1024)?;
        }
        let (_berth, node) = pull_node(settings)?;
        let dialogs =
            (0..ask.connections).map(|number| Post::batch(EVENTS, settings.size, ask.batch, number)).collect();
        let plan = Plan { depth: 1, warm: WARM, time: settings.time(), rate: None };
        let driven = measure(board, &name, (&node.process, node.address), dialogs, plan)?;
        check_accepted(&node, &driven)?;
        Ok(())
    })?;
    board.expect_ratio("http publish, batches", &name, PROBE, 33.0, Some(45.0));
    board.expect_ratio("http publish, batches", &name, &redis_name, 2.0, None);
    board.note("RabbitMQ (goal: 7 times) is not started by this program");
    board.print(PROBE);
    Ok(())
}

/// Publishes so many events to a node, in batches.
pub(crate) fn fill(node: &Node, size: usize, messages: u64) -> Result<u64> {
    const CONNECTIONS: usize = 8;
    let left = Rc::new(Cell::new(messages));
    let dialogs = (0..CONNECTIONS)
        .map(|number| Limited { post: Post::batch(EVENTS, size, BATCH, number), left: left.clone() })
        .collect();
    let plan = Plan { depth: 1, warm: Duration::ZERO, time: Duration::from_secs(3600), rate: None };
    Ok(drive(node.address, dialogs, plan)?.total)
}

pub(crate) fn pull(ask: &Pull) -> Result<()> {
    let settings = &ask.settings;
    let mut board = open("pull", settings);
    let has_redis = has_redis(&mut board, settings);
    let name = format!("node, claim + settle + ledger, {} × {}", ask.workers, ask.batch);
    repeat(&mut board, settings, |board, _| {
        if has_redis {
            redis_settle(board, settings, ask.workers, ask.batch)?;
        }
        let (_berth, node) = pull_node(settings)?;
        let count = fill(&node, settings.size, settings.messages())?;
        let left = Rc::new(Cell::new(count));
        let dialogs = (0..ask.workers).map(|_| Worker::new("work", ask.batch, "0s", left.clone())).collect();
        let plan = Plan { depth: 1, warm: Duration::ZERO, time: Duration::from_secs(600), rate: None };
        measure(board, &name, (&node.process, node.address), dialogs, plan)?;
        node.wait_for_done(count)?;
        Ok(())
    })?;
    board.expect_ratio("pull workers", &name, REDIS_LEDGER, 2.0, Some(5.0));
    board.print(PROBE);
    Ok(())
}

/// A group whose events go to a webhook at an address, and its target with more settings.
pub(crate) fn to_webhook(group: &str, workers: usize, receiver: SocketAddr, target: &str) -> (String, String) {
    let sink = format!("sink: {{ type: webhook, url: \"http://{receiver}/hook\", target: local }}");
    let targets = format!("targets:\n  local: {{ concurrency: {workers}{target} }}\n");
    (format!("workers: {workers}, {group}{sink}"), targets)
}

/// Publishes to a node for a while and waits until everything is delivered; adds the rate from the first publish until the
/// last event is settled, and what one cost.
pub(crate) fn deliver(
    board: &mut Board,
    settings: &Settings,
    name: &str,
    configuration: &str,
    dialogs: Vec<Post>,
) -> Result<()> {
    let plan = Plan { depth: 1, warm: WARM, time: settings.time(), rate: None };
    let berth = Berth::new(&settings.dir, settings.threads, configuration)?;
    let node = berth.start()?;
    let (watch, before) = (Clock::real().stopwatch(), cpu_seconds(node.process.pid())?);
    let driven = drive(node.address, dialogs, plan)?;
    board.add(&format!("{name}: publish alone while it delivers"), "1/s", driven.per_second());
    node.wait_for_done(driven.total)?;
    let time = watch.elapsed().as_secs_f64();
    let cpu = cpu_seconds(node.process.pid())? - before;
    board.add(name, "1/s", driven.total as f64 / time);
    board.add(&format!("{name}: processor"), "µs/msg", cpu * 1e6 / driven.total.max(1) as f64);
    Ok(())
}

pub(crate) fn whole(ask: &Whole) -> Result<()> {
    let settings = &ask.settings;
    let mut board = open("node", settings);
    let plan = Plan { depth: 1, warm: WARM, time: settings.time(), rate: None };
    let dialogs = || (0..ask.connections).map(|number| Post::one(EVENTS, settings.size, number)).collect::<Vec<_>>();
    let (name, proxy_name) = ("node, HTTP to webhook".to_owned(), "bare proxy".to_owned());
    repeat(&mut board, settings, |board, _| {
        let receiver = Peer::start(&Serve::Bare { threads: 1 })?;
        let proxy = Peer::start(&Serve::Proxy { threads: settings.threads, to: receiver.address })?;
        measure(board, &proxy_name, (&proxy.process, proxy.address), dialogs(), plan)?;
        drop(proxy);
        let (group, targets) = to_webhook("", ask.workers, receiver.address, "");
        deliver(board, settings, &name, &configuration(&group, &targets), dialogs())
    })?;
    board.note("the rate of the node counts from the first publish until the last webhook is settled");
    board.expect_ratio("whole node", &name, &proxy_name, 0.5, Some(0.7));
    board.print(PROBE);
    Ok(())
}

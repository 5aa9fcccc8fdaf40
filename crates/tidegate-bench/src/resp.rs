//! `tidegate-bench resp`: the same program publishes and consumes with the Redis protocol, on a node and on Redis.

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    Settings,
    engine::BATCH,
    engine_runs::{PROBE, REDIS_LEDGER, best_of, has_redis, open, redis_publish, redis_settle, repeat},
    node::{Berth, configuration},
    process::cpu_seconds,
    redis::{self, Form, consume, fill, publish},
};

#[derive(Debug, Args)]
pub(crate) struct Resp {
    #[command(flatten)]
    settings: Settings,
    /// Publishes under way at a time.
    #[arg(long, default_value = "64,1024", value_delimiter = ',')]
    in_flight: Vec<usize>,
    /// Consumers, each with a connection of its own.
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// Entries per XREADGROUP.
    #[arg(long, default_value_t = BATCH)]
    batch: usize,
}

const LISTENERS: &str = "listeners: [{ bind: '127.0.0.1:0' }, { bind: '127.0.0.1:0', protocol: redis }]\n";
const SETTLE: &str = "node, XREADGROUP and XACK";

fn name(in_flight: usize) -> String {
    format!("node, XADD, {in_flight} in flight")
}

fn per_cpu(name: &str) -> String {
    format!("{name}, per CPU-second")
}

impl Resp {
    pub(crate) fn run(&self) -> Result<()> {
        let settings = &self.settings;
        let mut board = open("resp", settings);
        let has_redis = has_redis(&mut board, settings);
        let configuration = configuration("lease: 60s, sink: { type: pull }", LISTENERS);
        repeat(&mut board, settings, |board, _| {
            for &in_flight in &self.in_flight {
                let name = name(in_flight);
                let peer = redis_name(in_flight);
                let berth = Berth::new(&settings.dir, settings.threads, &configuration)?.listening(2);
                let node = berth.start()?;
                let address = *node.addresses.get(1).context("the node has one listener")?;
                let (rate, cpu) = best_of(settings, &node.process, in_flight, |connections, plan| {
                    publish(address, settings.size, connections, plan)
                })?;
                board.add(&name, "1/s", rate);
                board.add(&format!("{name}: processor"), "µs/msg", cpu);
                board.add(&per_cpu(&name), "msg/CPU-s", 1e6 / cpu.max(1e-9));
                if has_redis {
                    redis_publish(board, settings, in_flight)?;
                    let cpu = board.last(&format!("{peer}: processor")).unwrap_or_default();
                    board.add(&per_cpu(&peer), "msg/CPU-s", 1e6 / cpu.max(1e-9));
                }
            }
            let count = settings.messages().min(300_000);
            let berth = Berth::new(&settings.dir, settings.threads, &configuration)?.listening(2);
            let node = berth.start()?;
            let address = *node.addresses.get(1).context("the node has one listener")?;
            fill(address, settings.size, count)?;
            let before = cpu_seconds(node.process.pid())?;
            let driven = consume(address, Form::Node, self.workers, self.batch)?;
            node.wait_for_done(count)?;
            let cpu = cpu_seconds(node.process.pid())? - before;
            board.add(SETTLE, "1/s", driven.per_second());
            board.add(&format!("{SETTLE}: processor"), "µs/msg", cpu * 1e6 / count.max(1) as f64);
            if has_redis {
                redis_settle(board, settings, self.workers, self.batch)?;
            }
            Ok(())
        })?;
        for &in_flight in &self.in_flight {
            let (name, peer) = (name(in_flight), redis_name(in_flight));
            board.expect_ratio("XADD, per CPU-second", &per_cpu(&name), &per_cpu(&peer), 1.0, None);
            board.expect_ratio("XADD", &name, &peer, 1.0, None);
        }
        board.expect_ratio("consume with ledger", SETTLE, REDIS_LEDGER, 1.0, None);
        board
            .note("the node recognises repeats only where an event has an id of its own; these have none, as in Redis");
        board.print(PROBE);
        Ok(())
    }
}

fn redis_name(in_flight: usize) -> String {
    format!("{}, {in_flight} in flight", redis::NAME)
}

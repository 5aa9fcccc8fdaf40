//! `tidegate-bench steady`: a node at half of what it can do, for minutes: what grows, and how long it ever pauses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use tidegate_core::clock::Clock;

use crate::{
    Settings,
    board::{Board, Sense},
    drive::{Driven, Plan, drive},
    engine::BATCH,
    engine_runs::{PROBE, add_probe, open},
    http::{self, EVENTS, Post, Shift, Worker},
    node::{Berth, Node, pause},
    process::{open_files, resident_bytes},
    spread::millis,
    ui,
};

/// Time between two reprocessings of all dead letters.
const AGAIN: Duration = Duration::from_secs(10);
/// Longest time for what is left at the end.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
pub(crate) struct Steady {
    #[command(flatten)]
    settings: Settings,
    /// Minutes of the steady load.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Share of the most that was found.
    #[arg(long, default_value_t = 0.5)]
    load: f64,
    /// Events per second, where the most is known.
    #[arg(long, conflicts_with = "load")]
    rate: Option<f64>,
    /// Events per publish.
    #[arg(long, default_value_t = 10)]
    batch: usize,
    /// Connections that publish.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Pull workers.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Share of deliveries that fail and are tried again.
    #[arg(long, default_value_t = 0.01)]
    retry: f64,
    /// Share of deliveries that become dead letters; all of them are reprocessed every ten seconds.
    #[arg(long, default_value_t = 0.001)]
    reject: f64,
    /// How long settled events, ledger entries and reprocessed dead letters are kept: everything that may grow has grown after
    /// this.
    #[arg(long, default_value = "30s")]
    keep: String,
}

/// Until somebody says that it is over; some deliveries fail until all is calm.
struct UntilTold {
    over: Arc<AtomicBool>,
    calm: Arc<AtomicBool>,
    retry: f64,
    reject: f64,
}

impl Shift for UntilTold {
    fn goes_on(&mut self, _: u64) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn outcome(&mut self) -> &'static str {
        let drawn = fastrand::f64();
        if self.calm.load(Ordering::Relaxed) || drawn >= self.retry + self.reject {
            return "done";
        }
        if drawn < self.reject { "reject" } else { "retry" }
    }
}

/// Puts all dead letters back.
fn reprocess(node: &Node) -> Result<u64> {
    let ask = serde_json::json!({ "all": true, "reason": "bench" });
    let moved = http::post(node.address, "/v1/dlq/events/reprocess", &ask)?;
    moved["reprocessed"].as_u64().with_context(|| format!("no count in {moved}"))
}

impl Steady {
    fn configuration(&self) -> String {
        let keep = &self.keep;
        format!(
            "version: 1\nnode: {{ name: bench, data: ./data, environment: development }}\nengine: embedded\n\
             streams:\n  events: {{ max_backlog: off, retain: {{ age: {keep} }}, dedupe: {{ window: {keep}, entries: 100000 }}, dead_letters: {{ keep: {keep} }} }}\n\
             groups:\n  work: {{ from: events, lease: 60s, ledger: {{ keep: {keep} }}, sink: {{ type: pull }} }}\n"
        )
    }

    /// Publishes and pulls side by side; `rate` in publishes per second. Calls `look` about every second.
    fn work(
        &self,
        node: &Node,
        time: Duration,
        rate: Option<f64>,
        mut look: impl FnMut(Duration) -> Result<()>,
    ) -> Result<Driven> {
        let (over, calm) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (address, group) = (node.address, "work");
        let clock = Clock::real();
        thread::scope(|scope| {
            let pulling = scope.spawn(|| {
                let shift =
                    || UntilTold { over: over.clone(), calm: calm.clone(), retry: self.retry, reject: self.reject };
                let dialogs = (0..self.workers).map(|_| Worker::new(group, BATCH, "1s", shift())).collect();
                drive(
                    address,
                    dialogs,
                    Plan { depth: 1, warm: Duration::ZERO, time: time * 2 + Duration::from_secs(600), rate: None },
                )
            });
            let publishing = scope.spawn(|| {
                let make = |number| Post::batch(EVENTS, self.settings.size, self.batch, number);
                let dialogs = (0..self.connections).map(make).collect();
                drive(address, dialogs, Plan { depth: 1, warm: Duration::from_secs(1), time, rate })
            });
            let watch = clock.stopwatch();
            let mut looked = Ok(());
            while !publishing.is_finished() && looked.is_ok() {
                pause(Duration::from_secs(1));
                looked = look(watch.elapsed());
            }
            let published = publishing.join().map_err(|_| anyhow!("the publisher panicked"))?;
            calm.store(true, Ordering::Relaxed);
            let done = published.as_ref().map_or(Ok(()), |driven| settle_all(node, driven.total));
            over.store(true, Ordering::Relaxed);
            pulling.join().map_err(|_| anyhow!("the workers panicked"))??;
            looked.and(done)?;
            published
        })
    }

    /// Looks for the most that a node can do, in events per second.
    fn most(&self, board: &mut Board) -> Result<f64> {
        ui::step("looking for the most that the node can do");
        let berth = Berth::new(&self.settings.dir, self.settings.threads, &self.configuration())?;
        let node = berth.start()?;
        let watch = Clock::real().stopwatch();
        let most = self.work(&node, self.settings.time(), None, |_| Ok(()))?;
        let most = most.total as f64 / watch.elapsed().as_secs_f64();
        board.add("most, published and settled", "1/s", most);
        Ok(most)
    }

    pub(crate) fn run(&self) -> Result<()> {
        let settings = &self.settings;
        let mut board = open("steady", settings);
        add_probe(&mut board, settings)?;
        let rate = match self.rate {
            Some(rate) => rate,
            None => self.most(&mut board)? * self.load,
        } / self.batch as f64;
        let berth = Berth::new(&settings.dir, settings.threads, &self.configuration())?;
        let node = berth.start()?;
        let time = Duration::from_secs_f64(self.minutes * 60.0);
        ui::step(format!("{:.0} events/s for {:.1} minutes", rate * self.batch as f64, self.minutes));
        let pid = node.process.pid();
        let mut looks: Vec<Look> = Vec::new();
        let (mut again, mut moved) = (AGAIN, 0);
        let driven = self.work(&node, time, Some(rate), |at| {
            if at >= again {
                again = at + AGAIN;
                moved += reprocess(&node)?;
            }
            looks.push(Look {
                at,
                memory: resident_bytes(pid)?,
                files: open_files(pid)? as f64,
                waiting: node.count("waiting")? as f64,
            });
            Ok(())
        })?;
        board.add("load", "1/s", driven.per_second());
        board.add("reprocessed", "events", moved as f64);
        board.add("longest publish", "ms", millis(driven.spread.most()));
        board.add("publish: p50", "ms", millis(driven.spread.share(0.5)));
        board.add("publish: p99", "ms", millis(driven.spread.share(0.99)));
        judge(&mut board, &looks);
        board.note(format!(
            "settled events, ledger entries and reprocessed dead letters are kept for {}; the first third of the time is not judged",
            self.keep
        ));
        board.note("the slope is the line that fits best; ± 1 MiB and ± 1 file in the time judged count as none");
        board.expect("longest publish pause", "longest publish", Sense::AtMost, 100.0, Some(20.0));
        board.print(PROBE);
        Ok(())
    }
}

/// Waits until everything is done, dead letters included.
fn settle_all(node: &Node, published: u64) -> Result<()> {
    // What was lent before all was calm may still fail.
    let watch = Clock::real().stopwatch();
    while watch.elapsed() < PATIENCE {
        reprocess(node)?;
        if node.count("done")? >= published {
            return Ok(());
        }
        pause(Duration::from_millis(200));
    }
    bail!("{} of {published} are done", node.count("done")?)
}

/// What a node looked like at one moment.
struct Look {
    at: Duration,
    memory: f64,
    files: f64,
    waiting: f64,
}

fn judge(board: &mut Board, looks: &[Look]) {
    let looks = &looks[looks.len() / 3..];
    let Some((first, last)) = looks.first().zip(looks.last()) else { return };
    let minutes = (last.at - first.at).as_secs_f64() / 60.0;
    let mib = |look: &Look| look.memory / 1024.0 / 1024.0;
    board.add("memory at the end", "MiB", mib(last));
    board.add("waiting at the end", "events", last.waiting);
    board.add("open files at the end", "files", last.files);
    let points = |value: &dyn Fn(&Look) -> f64| {
        looks.iter().map(|look| (look.at.as_secs_f64() / 60.0, value(look))).collect::<Vec<_>>()
    };
    let (memory, files) = (slope(&points(&mib)), slope(&points(&|look| look.files)));
    board.add("memory, slope", "MiB/min", memory);
    board.add("open files, slope", "files/min", files);
    let tolerance = 1.0 / minutes.max(1.0 / 60.0);
    board.expect("slope of memory", "memory, slope", Sense::AtMost, tolerance, Some(tolerance));
    board.expect("slope of open files", "open files, slope", Sense::AtMost, tolerance, Some(tolerance));
}

/// Returns the slope of the line that fits best.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let along: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    if spread > 0.0 { along / spread } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_found() {
        assert!((slope(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]) - 2.0).abs() < 1e-9);
        assert_eq!(slope(&[(1.0, 4.0)]), 0.0);
        assert_eq!(slope(&[]), 0.0);
    }
}

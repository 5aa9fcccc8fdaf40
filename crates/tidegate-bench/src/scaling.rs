//! `tidegate-bench scaling`: whether what one message costs stays the same while everything around it grows.

use anyhow::Result;
use clap::{Args, ValueEnum};
use tidegate_core::{names::GroupName, names::StreamName};

use crate::{
    Settings,
    board::{Board, Sense},
    bodies::Bodies,
    engine::{self, BATCH, Fate},
    engine_runs::{PROBE, open, repeat},
    process::cpu_seconds,
    stage::{Stage, group_name, group_spec, stream_name, stream_spec},
    ui,
};

#[derive(Debug, Args)]
pub(crate) struct Scaling {
    #[command(flatten)]
    settings: Settings,
    /// What grows; everything when absent.
    #[arg(long, value_delimiter = ',')]
    of: Vec<Growth>,
}

/// Something that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Growth {
    /// Events that are stored and settled.
    Stored,
    /// Streams, each with a group.
    Streams,
    /// Groups of one stream.
    Groups,
    /// Order keys.
    Keys,
    /// Deliveries that wait for their retry.
    Retries,
    /// Dead letters.
    Dead,
}

/// Publishes under way, and workers that settle.
const IN_FLIGHT: usize = 64;
const WORKERS: usize = 8;

/// One size of one growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    growth: Growth,
    size: u64,
}

impl Growth {
    fn word(self) -> &'static str {
        match self {
            Self::Stored => "events stored",
            Self::Streams => "streams",
            Self::Groups => "groups",
            Self::Keys => "order keys",
            Self::Retries => "waiting retries",
            Self::Dead => "dead letters",
        }
    }

    /// Returns the sizes from the smallest to 100 times what is usual; `scale` says how far to go.
    fn sizes(self, scale: u64) -> Vec<u64> {
        let (least, usual) = match self {
            Self::Stored => (100_000, 100_000),
            Self::Streams => (1, 10),
            Self::Keys => (1, 10_000),
            Self::Groups => (1, 1),
            Self::Retries | Self::Dead => (0, 10_000),
        };
        let mut sizes = vec![least];
        sizes.extend([1, 10, 100].into_iter().filter(|factor| *factor <= scale).map(|factor| usual * factor));
        sizes.dedup();
        sizes
    }
}

/// Messages that are settled with a single order key: one after the other, each with a sync of its own.
const ONE_KEY_MESSAGES: u64 = 3_000;

impl Step {
    /// Tells whether there is anything to do side by side; without, the cost of a message is that of a whole commit.
    fn is_parallel(self) -> bool {
        self.growth != Growth::Keys || self.size > 1
    }

    fn name(self, of: &str) -> String {
        format!("{of}, {} {}", self.size, self.growth.word())
    }

    fn of(self, growth: Growth, otherwise: u64) -> u64 {
        if self.growth == growth { self.size } else { otherwise }
    }

    fn streams(self) -> Vec<StreamName> {
        (0..self.of(Growth::Streams, 1)).map(|number| stream_name(&format!("events-{number}"))).collect()
    }

    /// Declares everything and brings the store to its size; returns the groups that are measured.
    async fn prepare(self, stage: &Stage, bodies: &Bodies) -> Result<Vec<GroupName>> {
        let store = &stage.store;
        let mut groups = Vec::new();
        for (number, stream) in self.streams().iter().enumerate() {
            store.declare_stream(&stream_spec(stream.as_str())).await?;
            for group in 0..self.of(Growth::Groups, 1) {
                let name = format!("work-{number}-{group}");
                let mut spec = group_spec(&name, stream.as_str());
                spec.order_by = (self.growth == Growth::Keys).then(|| "subject".parse()).transpose()?;
                store.declare_group(&spec).await?;
                groups.push(group_name(&name));
            }
        }
        let fate = match self.growth {
            Growth::Stored => Fate::Done,
            Growth::Retries => Fate::Retry,
            Growth::Dead => Fate::Buried,
            Growth::Streams | Growth::Groups | Growth::Keys => return Ok(groups),
        };
        engine::fill(store, &stream_name("events-0"), bodies, self.size).await?;
        engine::settle(store, &groups, WORKERS, BATCH, self.size, fate).await?;
        Ok(groups)
    }

    async fn run(self, stage: &Stage, settings: &Settings, board: &mut Board) -> Result<()> {
        let bodies = Bodies::new(settings.size).keyed(self.of(Growth::Keys, 0));
        let groups = self.prepare(stage, &bodies).await?;
        let own = std::process::id();
        let before = cpu_seconds(own)?;
        let publish =
            engine::publish(&stage.store, &self.streams(), &bodies, IN_FLIGHT, settings.time(), || ()).await?;
        // The warm-up is part of the processor time, so it must be part of the count.
        let warm = 1.0 + engine::WARM.as_secs_f64() / publish.time.as_secs_f64().max(1e-9);
        let cpu = (cpu_seconds(own)? - before) / warm;
        board.add(&self.name("publish"), "1/s", publish.per_second());
        board.add(&self.name("publish: processor"), "µs/msg", cpu * 1e6 / publish.count.max(1) as f64);
        let mut waiting = 0;
        for stream in &self.streams() {
            let messages = if self.is_parallel() { settings.messages() } else { ONE_KEY_MESSAGES };
            let share = messages / self.of(Growth::Groups, 1) / self.of(Growth::Streams, 1);
            engine::fill(&stage.store, stream, &bodies, share.max(1)).await?;
            waiting += share.max(1) * self.of(Growth::Groups, 1);
        }
        let before = cpu_seconds(own)?;
        let settle = engine::settle(&stage.store, &groups, WORKERS, BATCH, waiting, Fate::Done).await?;
        let cpu = cpu_seconds(own)? - before;
        board.add(&self.name("settle"), "1/s", settle.per_second());
        board.add(&self.name("settle: processor"), "µs/msg", cpu * 1e6 / settle.count.max(1) as f64);
        Ok(())
    }
}

impl Scaling {
    pub(crate) fn run(&self) -> Result<()> {
        // The scale is how far each growth goes here, not how many messages are settled to measure it.
        let (settings, scale) = (Settings { scale: 1, ..self.settings.clone() }, self.settings.scale);
        let mut board = open("scaling", &settings);
        let runtime = settings.runtime()?;
        let all = if self.of.is_empty() { Growth::value_variants() } else { &self.of };
        repeat(&mut board, &settings, |board, _| {
            for &growth in all {
                for size in growth.sizes(scale) {
                    let step = Step { growth, size };
                    ui::step(format!("  {size} {}", growth.word()));
                    let stage = Stage::open(&settings.dir)?;
                    runtime.block_on(step.run(&stage, &settings, board))?;
                }
            }
            Ok(())
        })?;
        for &growth in all {
            let mut sizes = growth.sizes(scale);
            sizes.retain(|size| Step { growth, size: *size }.is_parallel());
            let Some((&least, more)) = sizes.split_first() else { continue };
            for &size in more {
                for of in ["publish", "settle"] {
                    let (at, base) = (Step { growth, size }, Step { growth, size: least });
                    let change = format!("{of}, {least} → {size} {}: cost added", growth.word());
                    let processor = format!("{of}: processor");
                    board.add_change(&change, &at.name(&processor), &base.name(&processor), 1.0);
                    board.expect(&change, &change, Sense::AtMost, 20.0, None);
                }
            }
        }
        board.note("cost is processor time per message; \"settle\" is claim + settle + ledger, 8 × 100");
        board.note(
            "a single order key has no verdict: its messages are settled one after the other, each with its own sync",
        );
        board.print(PROBE);
        Ok(())
    }
}

//! `tidegate-bench desk`: a report, a list and a job over many parked dead letters.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use tidegate_core::{
    clock::Clock,
    delivery::{Position, Settled, Settlement},
    fault::{Failure, FaultClass},
    store::{Claim, DeadAction, DeadProgress, DeadQuery, DeadState, DeadStep, Store},
};

use crate::{
    Settings,
    bodies::Bodies,
    engine,
    process::resident_bytes,
    stage::{Stage, group_name, group_spec, stream_name, stream_spec},
    ui,
};

/// Signatures that the dead letters have.
const KINDS: u64 = 200;

#[derive(Debug, Args)]
pub(crate) struct Desk {
    #[command(flatten)]
    settings: Settings,
    /// Dead letters that are parked.
    #[arg(long, default_value_t = 1_000_000)]
    parked: u64,
}

impl Desk {
    pub(crate) fn run(&self) -> Result<()> {
        self.settings.runtime()?.block_on(self.measure())
    }

    async fn measure(&self) -> Result<()> {
        let clock = Clock::real();
        let stage = Stage::open(&self.settings.dir)?;
        let store = &stage.store;
        let stream = stream_name("events");
        store.declare_stream(&stream_spec("events")).await?;
        store.declare_group(&group_spec("work", "events")).await?;
        let before = resident_bytes(std::process::id())?;
        engine::fill(store, &stream, &Bodies::new(self.settings.size), self.parked).await?;
        let watch = clock.stopwatch();
        bury(&**store, self.parked).await?;
        let took = watch.elapsed();
        let memory = resident_bytes(std::process::id())? - before;
        tell("parked", self.parked as f64);
        tell("buried per second", self.parked as f64 / took.as_secs_f64());
        tell("resident bytes per dead letter, event cache included", memory / self.parked as f64);
        for run in 0..self.settings.runs {
            let watch = clock.stopwatch();
            let now = clock.now();
            let report = store.dead_report(&stream, now.minus(Duration::from_secs(86_400)), now).await?;
            ensure!(report.total == self.parked && report.signatures.len() as u64 == KINDS, "the report is wrong");
            tell(&format!("report, run {run}, in ms"), ms(watch.elapsed()));
            let watch = clock.stopwatch();
            let groups = store.groups().await?;
            ensure!(groups.first().is_some_and(|group| group.parked == self.parked), "the counts are wrong");
            tell(&format!("what a scrape asks, run {run}, in ms"), ms(watch.elapsed()));
            let watch = clock.stopwatch();
            let query = DeadQuery { state: Some(DeadState::Parked), limit: 20, ..DeadQuery::default() };
            ensure!(store.dead_letters(&stream, &query).await?.items.len() == 20, "the list is short");
            tell(&format!("list of 20, run {run}, in ms"), ms(watch.elapsed()));
        }
        let watch = clock.stopwatch();
        let moved = reprocess(&**store).await?;
        tell("reprocessed per second, in steps of 500", moved as f64 / watch.elapsed().as_secs_f64());
        store.close().await?;
        Ok(())
    }
}

/// Buries everything that waits.
async fn bury(store: &dyn Store, count: u64) -> Result<()> {
    let mut buried = 0;
    while buried < count {
        let ask = Claim { group: group_name("work"), max: 1000, lease: Duration::from_secs(600), before: None };
        let deliveries = store.claim(&ask).await?.deliveries;
        ensure!(!deliveries.is_empty(), "there is nothing more to bury after {buried}");
        let mut settled = Vec::with_capacity(deliveries.len());
        for delivery in &deliveries {
            buried += 1;
            let word = char::from(b'a' + u8::try_from(buried % KINDS % 26)?);
            let kind = format!("{}{word}", "x".repeat(usize::try_from(buried % KINDS / 26)?));
            let failure = Failure::new(FaultClass::Invalid, format!("step {kind} of order {buried} failed"));
            let settlement = Settlement::Bury { failure, config: "bench".into() };
            settled.push(Settled { token: delivery.lease.token, settlement, attempt: None });
        }
        store.settle(settled).await?;
    }
    Ok(())
}

/// Puts everything back, as a job does; returns how many.
async fn reprocess(store: &dyn Store) -> Result<usize> {
    let stream = stream_name("events");
    let (mut after, mut moved) = (Position::START, 0);
    loop {
        let query = DeadQuery { after: Some(after), limit: 500, ..DeadQuery::default() };
        let page = store.dead_entries(&stream, &query).await?;
        let step = DeadStep {
            stream: stream.clone(),
            ids: page.items.iter().map(|entry| entry.id).collect(),
            action: DeadAction::Reprocess { force: false, edited: Vec::new() },
            by: "bench".into(),
            note: "".into(),
            job: "job".into(),
            progress: Some(DeadProgress { key: "desk/job/progress".to_owned(), was: None, value: b"{}".to_vec() }),
        };
        moved += store.move_dead(&step).await?.len();
        let Some(next) = page.next else { return Ok(moved) };
        after = next;
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn tell(what: &str, value: f64) {
    ui::line(format!("{what}: {}", ui::short(value)));
}

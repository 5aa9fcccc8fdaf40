//! The engine in process: publish, settle, and both together, through the seam alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use tidegate_core::{
    clock::{Clock, Timestamp},
    decide::RetryPolicy,
    delivery::{Attempt, Delivery, Outcome, SettleStatus, Settled, Settlement},
    fault::{Failure, FaultClass},
    handler::Handler,
    names::{GroupName, StreamName},
    notice::Notices,
    service::{self, Context, Stopper},
    store::{Claim, GroupSpec, Store},
};
use tidegate_engine::{GroupPolicy, Groups, Publisher, Supervisor};
use tidegate_rules::Stages;
use tokio::task::JoinSet;

use crate::{
    bodies::Bodies,
    spread::Spread,
    stage::{group_name, stream_name},
};

/// Time in which segments, caches and the allocator find their usual state before anything is counted.
pub(crate) const WARM: Duration = Duration::from_millis(500);

/// Deliveries per claim, and settlements per call, where the goals say "× 100".
pub(crate) const BATCH: usize = 100;

/// What a measurement came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rate {
    pub(crate) count: u64,
    pub(crate) time: Duration,
    pub(crate) spread: Spread,
}

impl Rate {
    pub(crate) fn per_second(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Stops loops, and counts what they did.
#[derive(Debug, Default)]
pub(crate) struct Laps {
    over: AtomicBool,
    counting: AtomicBool,
    count: AtomicU64,
}

impl Laps {
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
    }

    /// Waits for the warm-up, then for the time that counts, then ends the loops.
    pub(crate) async fn run(&self, warm: Duration, time: Duration, began: impl FnOnce()) -> (u64, Duration) {
        let clock = Clock::real();
        clock.sleep(warm).await;
        began();
        let (before, watch) = (self.count.load(Ordering::Relaxed), clock.stopwatch());
        self.counting.store(true, Ordering::Relaxed);
        clock.sleep(time).await;
        let (after, took) = (self.count.load(Ordering::Relaxed), watch.elapsed());
        self.over.store(true, Ordering::Relaxed);
        (after - before, took)
    }
}

/// Publishes single events, so many at a time, for a while. `began` is called when counting starts.
pub(crate) async fn publish(
    store: &Arc<dyn Store>,
    streams: &[StreamName],
    bodies: &Bodies,
    in_flight: usize,
    time: Duration,
    began: impl FnOnce(),
) -> Result<Rate> {
    let laps = Arc::new(Laps::default());
    let mut tasks = JoinSet::new();
    for number in 0..in_flight {
        let (store, bodies, laps) = (store.clone(), bodies.clone(), laps.clone());
        let streams: Vec<StreamName> =
            streams.iter().cycle().skip(number).step_by(in_flight).take(streams.len()).cloned().collect();
        tasks.spawn(async move {
            let clock = Clock::real();
            let mut spread = Spread::default();
            for stream in streams.iter().cycle() {
                if laps.is_over() {
                    break;
                }
                let event = bodies.event();
                let watch = clock.stopwatch();
                let appended = store.append(stream, vec![event]).await?;
                ensure!(appended.iter().all(|one| !one.duplicate), "an event of ours was taken for a repeat");
                laps.add(1);
                if laps.counting.load(Ordering::Relaxed) {
                    spread.add(watch.elapsed());
                }
            }
            anyhow::Ok(spread)
        });
    }
    let (count, time) = laps.run(WARM, time, began).await;
    let mut spread = Spread::default();
    while let Some(done) = tasks.join_next().await {
        spread.merge(&done??);
    }
    Ok(Rate { count, time, spread })
}

/// Publishes so many events as fast as it goes, in large batches.
pub(crate) async fn fill(store: &Arc<dyn Store>, stream: &StreamName, bodies: &Bodies, count: u64) -> Result<()> {
    const AT_ONCE: u64 = 1000;
    const SIDE_BY_SIDE: usize = 4;
    let left = Arc::new(AtomicU64::new(count));
    let mut tasks = JoinSet::new();
    for _ in 0..SIDE_BY_SIDE {
        let (store, stream, bodies, left) = (store.clone(), stream.clone(), bodies.clone(), left.clone());
        tasks.spawn(async move {
            loop {
                let take = |left: u64| left.checked_sub(AT_ONCE.min(left)).filter(|_| left > 0);
                let Ok(before) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) else { break };
                let events = bodies.events(usize::try_from(before.min(AT_ONCE))?);
                store.append(&stream, events).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// What becomes of what is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    /// Tried again in an hour.
    Retry,
    /// A dead letter.
    Buried,
}

impl Fate {
    fn of(self, delivery: &Delivery, now: Timestamp) -> Settled {
        let failure = || Failure::new(FaultClass::Transient, "measured".to_owned());
        let (settlement, failed) = match self {
            Self::Done => (Settlement::Done(Vec::new()), false),
            Self::Retry => {
                let at = now.plus(Duration::from_secs(3600));
                (Settlement::RetryAt { at, attempts: delivery.attempt, crashes: 0 }, true)
            }
            Self::Buried => (Settlement::Bury { failure: failure(), config: "bench".into() }, true),
        };
        let attempt = failed.then(|| Attempt {
            at: now,
            took: Duration::from_millis(1),
            class: FaultClass::Transient,
            message: failure().message,
        });
        Settled { token: delivery.lease.token, settlement, attempt }
    }
}

/// Claims and settles until so many are settled, with several workers side by side.
pub(crate) async fn settle(
    store: &Arc<dyn Store>,
    groups: &[GroupName],
    workers: usize,
    batch: usize,
    count: u64,
    fate: Fate,
) -> Result<Rate> {
    let settled = Arc::new(AtomicU64::new(0));
    let watch = Clock::real().stopwatch();
    let mut tasks = JoinSet::new();
    for number in 0..workers {
        let (store, settled) = (store.clone(), settled.clone());
        let groups: Vec<GroupName> = groups.iter().cycle().skip(number).take(groups.len()).cloned().collect();
        tasks.spawn(async move {
            let mut in_vain = 0;
            for group in groups.iter().cycle() {
                let Some(left) = count.checked_sub(settled.load(Ordering::Relaxed)).filter(|left| *left > 0) else {
                    break;
                };
                let max = batch.min(usize::try_from(left)?);
                let ask = Claim { group: group.clone(), max, lease: Duration::from_secs(60), before: None };
                let claimed = store.claim(&ask).await?;
                if claimed.deliveries.is_empty() {
                    // Others hold the rest of this group. Looking again and again would only cost processor time.
                    in_vain += 1;
                    if in_vain >= groups.len() {
                        store.wait(group, Clock::real().now().plus(Duration::from_millis(2))).await;
                    }
                    continue;
                }
                in_vain = 0;
                let now = Clock::real().now();
                let settlements = claimed.deliveries.iter().map(|delivery| fate.of(delivery, now)).collect();
                let statuses = store.settle(settlements).await?;
                ensure!(statuses.iter().all(|status| *status == SettleStatus::Settled), "a lease was lost");
                settled.fetch_add(statuses.len() as u64, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(Rate { count: settled.load(Ordering::Relaxed), time: watch.elapsed(), spread: Spread::default() })
}

/// A handler that does nothing with what it gets.
struct Swallow {
    batch_max: usize,
}

#[async_trait]
impl Handler for Swallow {
    async fn handle(&self, _: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        vec![Outcome::DONE; batch.len()]
    }

    fn batch_max(&self) -> usize {
        self.batch_max
    }
}

/// A group as it is run inside of a node.
pub(crate) struct Crew {
    pub(crate) spec: GroupSpec,
    pub(crate) workers: usize,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) stages: Stages,
}

impl Crew {
    /// Workers that take batches and do nothing with them.
    pub(crate) fn swallowing(spec: GroupSpec, workers: usize, batch_max: usize) -> Self {
        Self { spec, workers, handler: Arc::new(Swallow { batch_max }), stages: Stages::default() }
    }
}

/// What runs groups, as the node wires it.
pub(crate) struct Works {
    pub(crate) cx: Context,
    pub(crate) publisher: Publisher,
    pub(crate) groups: Groups,
    supervisor: Supervisor,
    stopper: Stopper,
}

impl Works {
    pub(crate) async fn start(store: &Arc<dyn Store>, notices: Notices, crew: Crew) -> Result<Self> {
        let (stopper, stop) = service::stop();
        let cx = Context { clock: Clock::real(), stop, notices };
        let supervisor = Supervisor::new(cx.clone());
        let groups = Groups::new(store.clone(), cx.clone(), supervisor.clone(), "bench".into());
        let policy = GroupPolicy {
            name: crew.spec.name.clone(),
            stream: crew.spec.stream.clone(),
            workers: crew.workers,
            timeout: Duration::from_secs(30),
            timeout_max: None,
            lease: Duration::from_secs(60),
            retry: RetryPolicy::default(),
            stages: crew.stages,
            results: None,
        };
        groups.add(&crew.spec, policy, Some(crew.handler)).await?;
        let publisher = Publisher::new(store.clone(), cx.clone());
        Ok(Self { cx, publisher, groups, supervisor, stopper })
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.stopper.drain();
        self.groups.drained().await;
        let left = self.supervisor.join(Duration::from_secs(10)).await;
        ensure!(left.is_empty(), "did not stop: {left:?}");
        Ok(())
    }
}

/// Publishes single events with so many publishers while a group settles them; counts until the last one is settled.
pub(crate) async fn end_to_end(
    store: &Arc<dyn Store>,
    works: &Works,
    bodies: &Bodies,
    publishers: usize,
    time: Duration,
) -> Result<Rate> {
    let (stream, group) = (stream_name("events"), group_name("work"));
    let laps = Arc::new(Laps::default());
    let mut tasks = JoinSet::new();
    for _ in 0..publishers {
        let (publisher, stream, bodies, laps) = (works.publisher.clone(), stream.clone(), bodies.clone(), laps.clone());
        tasks.spawn(async move {
            while !laps.is_over() {
                publisher.publish(&stream, vec![bodies.event()]).await?;
                laps.add(1);
            }
            anyhow::Ok(())
        });
    }
    works.cx.clock.sleep(WARM).await;
    let before = store.group(&group).await?.done;
    let watch = works.cx.clock.stopwatch();
    laps.run(Duration::ZERO, time, || ()).await;
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let wanted = laps.count.load(Ordering::Relaxed);
    let mut status = store.group(&group).await?;
    while status.done < wanted {
        let waited = watch.elapsed();
        ensure!(waited < time + Duration::from_secs(60), "the group stands still at {} of {wanted}", status.done);
        works.cx.clock.sleep(Duration::from_millis(2)).await;
        status = store.group(&group).await?;
    }
    let time = watch.elapsed();
    ensure!(status.difference() == 0, "the accounts differ by {}", status.difference());
    let count = status.done.checked_sub(before).context("done went backwards")?;
    Ok(Rate { count, time, spread: Spread::default() })
}

//! A node without its edges: store, groups, supervisor, and everything that was noticed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidegate_core::{
    clock::{Clock, Timestamp},
    decide::RetryPolicy,
    delivery::{Delivery, Outcome},
    event::Event,
    fault::{Failure, FaultClass},
    guard::{Guard, GuardPolicy},
    handler::Handler,
    names::{GroupName, StreamName, TargetName},
    notice::{Notice, Notices, Tap},
    service::{Context, Stopper, stop},
    store::{DeadLetter, DeadQuery, Durability, GroupSpec, GroupStatus, OnFailure, Retain, Start, Store, StreamSpec},
};
use tidegate_engine::{GroupPolicy, Groups, Publisher, Sides, Supervisor};
use tidegate_rules::Stages;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// Time that a ledger of a test keeps.
pub(crate) const DAY_OF_LEDGER: Duration = Duration::from_secs(86_400);
/// Longer than any test may take, in virtual time.
const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

pub(crate) fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

pub(crate) fn event(id: impl ToString) -> Event {
    Event::new(id.to_string(), "/test", "test.happened")
}

pub(crate) fn keyed(id: impl ToString, key: &str) -> Event {
    event(id).with_subject(key.to_owned())
}

pub(crate) fn fail(class: FaultClass) -> Outcome {
    Outcome::Failed(Failure::new(class, format!("test failure of class {class}")))
}

/// A handler made from a function.
pub(crate) struct Act<F> {
    act: F,
    batch_max: usize,
    guard: Option<Arc<Guard>>,
}

#[async_trait]
impl<F, R> Handler for Act<F>
where
    F: Fn(Vec<Delivery>) -> R + Send + Sync,
    R: Future<Output = Vec<Outcome>> + Send,
{
    async fn handle(&self, _cx: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        (self.act)(batch.to_vec()).await
    }

    fn batch_max(&self) -> usize {
        self.batch_max
    }

    fn guard(&self) -> Option<Arc<Guard>> {
        self.guard.clone()
    }
}

/// A handler that takes one delivery at a time.
pub(crate) fn each<F, R>(act: F) -> Arc<dyn Handler>
where
    F: Fn(Delivery) -> R + Send + Sync + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    let act = move |mut batch: Vec<Delivery>| {
        assert_eq!(batch.len(), 1, "the handler takes one at a time");
        let one = act(batch.remove(0));
        async move { vec![one.await] }
    };
    Arc::new(Act { act, batch_max: 1, guard: None })
}

/// A handler that takes up to `batch_max` deliveries at a time.
pub(crate) fn batches<F, R>(batch_max: usize, act: F) -> Arc<dyn Handler>
where
    F: Fn(Vec<Delivery>) -> R + Send + Sync + 'static,
    R: Future<Output = Vec<Outcome>> + Send + 'static,
{
    Arc::new(Act { act, batch_max, guard: None })
}

/// A handler that calls a target through a guard, as a webhook does.
pub(crate) fn calling<F, R>(guard: &Arc<Guard>, op: F) -> Arc<dyn Handler>
where
    F: Fn(Delivery) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let (through, op) = (guard.clone(), Arc::new(op));
    let act = move |mut batch: Vec<Delivery>| {
        let (guard, op) = (through.clone(), op.clone());
        async move {
            let delivery = batch.remove(0);
            let called = guard.call(delivery.attempt > 1, op(delivery)).await;
            vec![called.map_or_else(Outcome::Failed, |()| Outcome::DONE)]
        }
    };
    Arc::new(Act { act, batch_max: 1, guard: Some(guard.clone()) })
}

/// How a test's group differs from the usual one.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) spec: GroupSpec,
    pub(crate) policy: GroupPolicy,
}

/// The usual group of a test: reads `orders` with four workers, tries four times.
pub(crate) fn asked(name: &str) -> Asked {
    let (name, stream) = (group(name), stream("orders"));
    Asked {
        spec: GroupSpec {
            name: name.clone(),
            stream: stream.clone(),
            start: Start::Earliest,
            end: None,
            order_by: None,
            on_failure: OnFailure::Skip,
            ledger: None,
            after: true,
            priority_step: None,
            mark_claims: false,
        },
        policy: GroupPolicy {
            name,
            stream,
            workers: 4,
            timeout: 60 * SECOND,
            timeout_max: None,
            lease: 30 * SECOND,
            retry: RetryPolicy { attempts: 4, first: SECOND, factor: 2.0, max: MINUTE },
            stages: Stages::default(),
            results: None,
        },
    }
}

impl Asked {
    /// Adds stages, as a configuration writes them.
    pub(crate) fn stages(mut self, stages: serde_json::Value) -> Self {
        self.policy.stages = Stages::new(serde_json::from_value(stages).unwrap());
        self
    }

    pub(crate) fn workers(mut self, workers: usize) -> Self {
        self.policy.workers = workers;
        self
    }

    pub(crate) fn ordered(mut self, on_failure: OnFailure) -> Self {
        self.spec.order_by = Some("subject".parse().unwrap());
        self.spec.on_failure = on_failure;
        self
    }
}

/// What stays when a node ends: the disk and the time.
pub(crate) struct World {
    pub(crate) clock: Clock,
    disk: super::faulty::Disk,
}

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) notices: Notices,
    pub(crate) stopper: Stopper,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) supervisor: Supervisor,
    pub(crate) groups: Groups,
    /// Not restored yet.
    pub(crate) sides: Sides,
    pub(crate) publisher: Publisher,
    tap: Tap,
    pub(crate) seen: Vec<Notice>,
}

impl Scene {
    /// Starts a node on an empty disk, with the stream `orders`.
    pub(crate) async fn new() -> Self {
        let clock = Clock::following_tokio(Timestamp::parse("2026-01-31T08:00:00Z").unwrap());
        Self::on(World { clock, disk: super::faulty::Disk::default() }, |store| store).await
    }

    /// Starts a node whose store is wrapped.
    pub(crate) async fn with(wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        let clock = Clock::following_tokio(Timestamp::parse("2026-01-31T08:00:00Z").unwrap());
        Self::on(World { clock, disk: super::faulty::Disk::default() }, wrap).await
    }

    async fn on(world: World, wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        let notices = Notices::default();
        let tap = notices.tap();
        let (stopper, stop) = stop();
        let cx = Context { clock: world.clock.clone(), stop, notices: notices.clone() };
        let store = wrap(super::faulty::open(&world.disk, &world.clock, &notices));
        let supervisor = Supervisor::new(cx.clone());
        let groups = Groups::new(store.clone(), cx.clone(), supervisor.clone(), "fingerprint".into());
        let sides = Sides::new(store.clone(), cx.clone(), supervisor.clone(), groups.clone());
        let publisher = Publisher::new(store.clone(), cx);
        let scene =
            Self { world, notices, stopper, store, supervisor, groups, sides, publisher, tap, seen: Vec::new() };
        scene.declare("orders").await;
        scene
    }

    pub(crate) async fn declare(&self, name: &str) {
        let spec = StreamSpec {
            name: stream(name),
            durability: Durability::Sync,
            retain: Retain::default(),
            max_backlog: None,
            dedupe: None,
            dead: tidegate_core::store::DeadKeep::default(),
        };
        self.store.declare_stream(&spec).await.unwrap();
    }

    pub(crate) async fn add(&self, asked: Asked, handler: Arc<dyn Handler>) {
        self.groups.add(&asked.spec, asked.policy, Some(handler)).await.unwrap();
    }

    pub(crate) async fn add_pull(&self, asked: Asked) {
        self.groups.add(&asked.spec, asked.policy, None).await.unwrap();
    }

    pub(crate) async fn publish(&self, events: impl IntoIterator<Item = Event>) {
        self.publisher.publish(&stream("orders"), events.into_iter().collect()).await.unwrap();
    }

    pub(crate) fn context(&self) -> Context {
        let (stopper, stop) = stop();
        // It lives as long as the test: a stopper that is gone is an abort.
        std::mem::forget(stopper);
        Context { clock: self.world.clock.clone(), stop, notices: self.notices.clone() }
    }

    pub(crate) fn guard(&self, name: &str, policy: GuardPolicy) -> Arc<Guard> {
        Guard::new(TargetName::new(name).unwrap(), policy, self.world.clock.clone(), self.notices.clone())
    }

    /// Waits until what was seen so far, from the beginning, is as wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&[Notice]) -> bool) {
        let wait = async {
            while !wanted(&self.seen) {
                self.seen.push(self.tap.wait_for(|_| true).await.unwrap());
            }
        };
        if tokio::time::timeout(DAY, wait).await.is_err() {
            panic!("waited in vain until {what}; seen: {:#?}", self.seen.iter().rev().take(40).collect::<Vec<_>>());
        }
    }

    /// Waits until so many settlements of a group with this outcome are durable.
    pub(crate) async fn until_settled(&mut self, name: &str, outcome: &str, count: u64) {
        let what = format!("{count} of {name} are settled as {outcome}");
        self.until(&what, |seen| settled(seen, name, outcome) >= count).await;
    }

    /// Takes in what is there now.
    pub(crate) fn look(&mut self) -> &[Notice] {
        self.seen.extend(self.tap.drain());
        &self.seen
    }

    pub(crate) async fn status(&self, name: &str) -> GroupStatus {
        self.store.group(&group(name)).await.unwrap()
    }

    pub(crate) async fn dead(&self) -> Vec<DeadLetter> {
        let query = DeadQuery { limit: 1000, ..DeadQuery::default() };
        self.store.dead_letters(&stream("orders"), &query).await.unwrap().items
    }

    /// Stops gently, and checks that nothing is left running and every message is accounted for.
    pub(crate) async fn finish(self) -> World {
        self.stopper.drain();
        tokio::time::timeout(MINUTE, self.groups.drained()).await.expect("what was held was finished");
        self.end().await
    }

    /// Stops at once, and checks the same.
    pub(crate) async fn abort(self) -> World {
        self.stopper.drain();
        self.stopper.abort();
        self.end().await
    }

    async fn end(self) -> World {
        assert_eq!(self.supervisor.join(MINUTE).await, Vec::<String>::new(), "everything has ended");
        for status in self.store.groups().await.unwrap() {
            assert_eq!(status.difference(), 0, "every message is accounted for: {status:?}");
        }
        self.store.close().await.unwrap();
        self.world
    }
}

impl World {
    /// Starts a node on what the last one left.
    pub(crate) async fn restart(self) -> Scene {
        Scene::on(self, |store| store).await
    }
}

pub(crate) fn settled(seen: &[Notice], name: &str, outcome: &str) -> u64 {
    let one = |notice: &Notice| match notice {
        Notice::Settled { group, outcome: how, count } if group.as_str() == name && *how == outcome => *count,
        _ => 0,
    };
    seen.iter().map(one).sum()
}

/// Counts notices of a name.
pub(crate) fn count(seen: &[Notice], name: &str) -> usize {
    seen.iter().filter(|notice| notice.name() == name).count()
}

/// A log that handlers write and tests read.
pub(crate) type Log<T> = Arc<parking_lot::Mutex<Vec<T>>>;

pub(crate) fn log<T>() -> Log<T> {
    Arc::default()
}

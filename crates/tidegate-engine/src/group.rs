//! One group: what it shares among its claim loop, workers, settlements and lease renewal.
//!
//! ```text
//!  store ─claim→ claim.rs ─ready→ worker.rs ─attempt.rs─judge.rs→ settle.rs ─settle→ store
//!                    ↑ free workers, gate, pause  ↑ sift.rs: what the stages let through
//!                                                  flight.rs: all that is lent, renewed by renew.rs
//! ```
//!
//! **Invariant:** no more deliveries are lent than there are free workers, and each that is lent is held in
//! [`flight::Flight`] until its settlement is durable.

mod attempt;
mod claim;
mod desired;
mod flight;
mod heed;
mod judge;
mod pull;
mod renew;
mod results;
mod settle;
mod sift;
mod steer;
mod unblock;
mod view;
mod worker;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    decide::RetryPolicy,
    event::Event,
    fault::{Fault, Result},
    guard::{Gate, Guard},
    handler::Handler,
    limits,
    names::{GroupName, StreamName},
    notice::Notice,
    result::ResultsPolicy,
    service::Context,
    store::{Claim, GroupSpec, Store},
};
use tidegate_rules::Stages;
use tokio::sync::{Notify, watch};

pub(crate) use self::desired::{forget_if, forget_wishes, keep_pace};
use self::{
    claim::{Claimer, PULSE_EVERY},
    desired::Desired,
    flight::{Batch, Flight},
    pull::Lent,
    renew::{Renewer, Resumer},
    settle::{Flusher, Settles},
    steer::Pacer,
    worker::{Ready, Worker},
};
pub use self::{
    desired::Pause,
    pull::PullStatus,
    results::Keeper,
    steer::{Drain, Pace, SeekAsk},
    unblock::UnblockAsk,
    view::{Glance, GroupState, GroupView, Running},
};
use crate::supervisor::Supervisor;

/// How a group works.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupPolicy {
    /// The group.
    pub name: GroupName,
    /// The stream it reads.
    pub stream: StreamName,
    /// How many batches are tried at a time. A pull group has its workers outside and does not look at this.
    pub workers: usize,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// The same for an event that asks for more time than that, in its attribute `timeout`; none = it gets no more.
    pub timeout_max: Option<Duration>,
    /// How long a delivery is lent before it must be renewed; workers here renew by themselves.
    pub lease: Duration,
    /// How often and how soon a failed delivery is tried again.
    pub retry: RetryPolicy,
    /// Which events it handles, and as what.
    pub stages: Stages,
    /// How long it keeps what its handler answers; none = it does not.
    pub results: Option<ResultsPolicy>,
}

impl GroupPolicy {
    /// One worker, 30 s for an attempt, eight attempts with a growing wait: what a configuration without settings gives.
    pub fn new(name: GroupName, stream: StreamName) -> Self {
        let (timeout, lease, retry) = (Duration::from_secs(30), Duration::from_secs(60), RetryPolicy::default());
        Self {
            name,
            stream,
            workers: 1,
            timeout,
            timeout_max: None,
            lease,
            retry,
            stages: Stages::default(),
            results: None,
        }
    }

    /// Returns how long one attempt on an event may take.
    fn bound(&self, event: &Event) -> Duration {
        event.timeout().map_or(self.timeout, |asked| asked.min(self.timeout_max.unwrap_or(self.timeout)))
    }

    fn check(&self) -> Result<()> {
        let fail = |why: String| Err(Fault::invalid(format!("group {}: {why}", self.name)));
        check_workers(&self.name, self.workers)?;
        if self.timeout.is_zero() || self.lease.is_zero() {
            return fail("timeout and lease must be longer than nothing".to_owned());
        }
        if self.timeout_max.is_some_and(|most| most < self.timeout) {
            return fail("timeout_max must not be shorter than timeout".to_owned());
        }
        if self.lease.as_secs() > limits::LEASE_SECONDS_MAX {
            return fail(format!("lease is longer than {} s", limits::LEASE_SECONDS_MAX));
        }
        if self.retry.attempts == 0 || self.retry.attempts > limits::ATTEMPTS_MAX {
            return fail(format!("attempts must be between 1 and {}", limits::ATTEMPTS_MAX));
        }
        Ok(())
    }
}

fn check_workers(group: &GroupName, workers: usize) -> Result<()> {
    if workers == 0 || workers > limits::WORKERS_MAX {
        let note = format!("group {group}: workers must be between 1 and {}", limits::WORKERS_MAX);
        return Err(Fault::invalid(note));
    }
    Ok(())
}

/// What the parts of a group share.
pub(crate) struct Group {
    pub(crate) name: GroupName,
    stream: StreamName,
    spec: GroupSpec,
    policy: GroupPolicy,
    /// Fingerprint of the configuration in force.
    config: ByteString,
    store: Arc<dyn Store>,
    /// Whether the store wakes those who wait for work.
    wakes: bool,
    cx: Context,
    supervisor: Supervisor,
    /// None when the workers are outside.
    handler: Option<Arc<dyn Handler>>,
    guard: Option<Arc<Guard>>,
    batch_max: usize,
    desired: watch::Sender<Desired>,
    /// One change of what is desired at a time: first the store, then here.
    changing: tokio::sync::Mutex<()>,
    /// Worker services that were started; idle ones stay when the group is scaled down.
    hired: AtomicUsize,
    /// Batches that workers have or are about to get.
    busy: AtomicUsize,
    /// Room may have come up for a claim.
    freed: Notify,
    ready: Ready,
    flight: Flight,
    settles: Settles,
    /// What workers outside hold.
    lent: Lent,
    /// Where its results are kept; none when it keeps none.
    results: Option<StreamName>,
    pacer: Pacer,
    /// When the next scheduled delivery is due, as the last claim that found nothing said; zero when it said nothing.
    next_due: AtomicI64,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a group is made from.
pub(crate) struct GroupParts {
    pub(crate) spec: GroupSpec,
    pub(crate) policy: GroupPolicy,
    pub(crate) handler: Option<Arc<dyn Handler>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cx: Context,
    pub(crate) supervisor: Supervisor,
    pub(crate) config: ByteString,
}

/// What another group needs to work like one.
pub(crate) struct Model {
    pub(crate) spec: GroupSpec,
    pub(crate) policy: GroupPolicy,
    pub(crate) handler: Option<Arc<dyn Handler>>,
}

impl Group {
    pub(crate) fn model(&self) -> Model {
        Model { spec: self.spec.clone(), policy: self.policy.clone(), handler: self.handler.clone() }
    }

    /// Declares a group and starts everything it needs.
    pub(crate) async fn open(parts: GroupParts) -> Result<Arc<Self>> {
        let GroupParts { spec, policy, handler, store, cx, supervisor, config } = parts;
        policy.check()?;
        let results = policy.results.map(|results| results.spec(&policy.name)).transpose()?;
        if let Some(spec) = &results {
            store.declare_stream(spec).await?;
        }
        store.declare_group(&spec).await?;
        let desired = desired::restore(&*store, &policy.name, policy.workers).await?;
        let group = Arc::new(Self {
            name: policy.name.clone(),
            stream: policy.stream.clone(),
            spec,
            config,
            wakes: store.promises().wakes,
            store,
            cx,
            supervisor,
            guard: handler.as_ref().and_then(|handler| handler.guard()),
            batch_max: handler.as_ref().map_or(1, |handler| handler.batch_max().clamp(1, limits::CLAIM_MAX)),
            handler,
            desired: watch::Sender::new(desired),
            changing: tokio::sync::Mutex::new(()),
            hired: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            freed: Notify::new(),
            ready: Ready::new(),
            flight: Flight::default(),
            settles: Settles::default(),
            lent: Lent::default(),
            results: results.map(|spec| spec.name),
            pacer: Pacer::default(),
            next_due: AtomicI64::new(0),
            policy,
        });
        group.start();
        Ok(group)
    }

    fn start(self: &Arc<Self>) {
        self.supervisor.service(Arc::new(Resumer(self.clone())));
        if self.handler.is_none() {
            return;
        }
        self.supervisor.service(Arc::new(Flusher(self.clone())));
        self.supervisor.service(Arc::new(Renewer(self.clone())));
        self.hire();
        let pulse = self.supervisor.pulse(format!("group/{}", self.name), PULSE_EVERY);
        self.supervisor.service(Arc::new(Claimer { group: self.clone(), pulse }));
    }

    /// Starts workers until there are as many as are wanted.
    fn hire(self: &Arc<Self>) {
        let Some(handler) = &self.handler else { return };
        let wanted = self.desired.borrow().workers;
        while self.hired.load(Ordering::SeqCst) < wanted {
            let number = self.hired.fetch_add(1, Ordering::SeqCst) + 1;
            self.supervisor.service(Arc::new(Worker { group: self.clone(), handler: handler.clone(), number }));
        }
    }

    /// Gives a batch to the next free worker.
    fn seat(&self, batch: Arc<Batch>) {
        self.busy.fetch_add(1, Ordering::SeqCst);
        self.ready.push(batch);
    }

    /// Remembers when the next scheduled delivery is due.
    fn note_due(&self, due: Option<Timestamp>) {
        self.next_due.store(due.map_or(0, Timestamp::as_millis), Ordering::Relaxed);
    }

    fn next_due(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.next_due.load(Ordering::Relaxed))).filter(|due| *due > Timestamp::ZERO)
    }

    /// What a claim asks for.
    fn ask(&self, max: usize) -> Claim {
        let before = self.desired.borrow().drain.as_ref().map(|drain| drain.before);
        Claim { group: self.name.clone(), max, lease: self.policy.lease, before }
    }

    fn busy(&self) -> usize {
        self.busy.load(Ordering::SeqCst)
    }

    fn gate(&self) -> Gate {
        self.guard.as_ref().map_or(Gate::Open, |guard| guard.gate())
    }

    pub(crate) async fn pause(&self, by: &str, reason: &str, until: Option<Timestamp>) -> Result<()> {
        let at = self.cx.clock.now();
        if until.is_some_and(|until| until <= at) {
            return Err(Fault::invalid(format!("group {} cannot be paused until a time that has passed", self.name)));
        }
        self.halt(Pause { by: by.to_owned(), reason: reason.to_owned(), at, until, disabled: false }).await
    }

    /// Stops claiming as this pause says, and keeps it.
    pub(crate) async fn halt(&self, pause: Pause) -> Result<()> {
        let _changing = self.changing.lock().await;
        desired::keep(&*self.store, &self.name, "paused", Some(&pause)).await?;
        self.end_wish_to_drain().await?;
        let Pause { by, reason, until, .. } = pause.clone();
        self.desired.send_modify(|desired| desired.paused = Some(pause));
        self.cx.notices.emit(&Notice::GroupPaused { group: self.name.clone(), by, reason, until });
        Ok(())
    }

    pub(crate) fn halted(&self) -> Option<Pause> {
        self.desired.borrow().paused.clone()
    }

    pub(crate) async fn resume(&self, by: &str) -> Result<()> {
        let _changing = self.changing.lock().await;
        let is_idle = {
            let desired = self.desired.borrow();
            desired.paused.is_none() && desired.drain.is_none()
        };
        if is_idle {
            return Ok(());
        }
        self.go_on(by).await
    }

    /// Resumes when the time of the pause is up; somebody may have paused it anew in the meantime.
    async fn end_pause(self: &Arc<Self>) -> Result<()> {
        let _changing = self.changing.lock().await;
        let now = self.cx.clock.now();
        let over = |pause: &Pause| pause.until.is_some_and(|until| until <= now);
        let Some(pause) = self.halted().filter(over) else { return Ok(()) };
        if desired::end_pause(&*self.store, &self.name, &pause).await? {
            return self.went_on("tidegate").await;
        }
        self.take_over().await
    }

    async fn go_on(&self, by: &str) -> Result<()> {
        desired::keep::<Pause>(&*self.store, &self.name, "paused", None).await?;
        self.went_on(by).await
    }

    async fn went_on(&self, by: &str) -> Result<()> {
        self.end_wish_to_drain().await?;
        self.desired.send_modify(|desired| desired.paused = None);
        self.cx.notices.emit(&Notice::GroupResumed { group: self.name.clone(), by: by.to_owned() });
        Ok(())
    }

    async fn end_wish_to_drain(&self) -> Result<()> {
        if self.desired.borrow().drain.is_some() {
            desired::keep::<Drain>(&*self.store, &self.name, "drain", None).await?;
            self.desired.send_modify(|desired| desired.drain = None);
        }
        Ok(())
    }

    pub(crate) async fn scale(self: &Arc<Self>, workers: usize, by: &str) -> Result<()> {
        check_workers(&self.name, workers)?;
        if self.handler.is_none() {
            return Err(Fault::conflict(format!("group {} has its workers outside of the node", self.name)));
        }
        let _changing = self.changing.lock().await;
        let now = self.cx.clock.now();
        desired::keep_workers(&*self.store, &self.name, workers, self.policy.workers, by, now).await?;
        self.desired.send_modify(|desired| (desired.workers, desired.scaled_by) = (workers, Some(by.to_owned())));
        self.hire();
        let count = workers as u64;
        self.cx.notices.emit(&Notice::GroupScaled { group: self.name.clone(), workers: count, by: by.to_owned() });
        Ok(())
    }

    /// Waits until nothing is lent any more; ends only while the node drains.
    pub(crate) async fn drained(&self) {
        self.cx.stop.draining().await;
        self.flight.emptied().await;
        self.returned().await;
    }
}

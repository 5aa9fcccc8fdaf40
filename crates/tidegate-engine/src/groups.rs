//! All groups of a node: the one thing that the outside (API, actions, wiring) sees of them.

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytestring::ByteString;
use parking_lot::RwLock;
use tidegate_core::{
    clock::Timestamp,
    delivery::{Delivery, LeaseToken, Outcome, Position},
    fault::{Fault, Result},
    handler::Handler,
    names::GroupName,
    seek::{Rehearsal, SeekTo, Sought},
    service::Context,
    store::{GroupSpec, Store},
};

use crate::{
    group::{
        self, Glance, Group, GroupParts, GroupPolicy, GroupView, Keeper, Model, Pace, Pause, PullStatus, Running,
        SeekAsk, UnblockAsk,
    },
    peers::{Heed, Round},
    supervisor::Supervisor,
};

/// All groups of a node. Cheap to clone.
#[derive(Clone)]
pub struct Groups(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    cx: Context,
    supervisor: Supervisor,
    config: ByteString,
    groups: RwLock<BTreeMap<GroupName, Arc<Group>>>,
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Groups").field(&self.names()).finish()
    }
}

impl Groups {
    /// Makes a node's groups, none yet; `config` is the fingerprint that dead letters are stamped with.
    pub fn new(store: Arc<dyn Store>, cx: Context, supervisor: Supervisor, config: ByteString) -> Self {
        Self(Arc::new(Inner { store, cx, supervisor, config, groups: RwLock::default() }))
    }

    /// Declares a group in the store, restores what operators wanted of it and starts it. Without a handler its workers
    /// are outside.
    pub async fn add(&self, spec: &GroupSpec, policy: GroupPolicy, handler: Option<Arc<dyn Handler>>) -> Result<()> {
        let (cx, supervisor) = (self.0.cx.clone(), self.0.supervisor.clone());
        self.add_part(spec, policy, handler, cx, supervisor).await
    }

    /// The same for a group that may stop before the node, as its context says.
    pub(crate) async fn add_part(
        &self,
        spec: &GroupSpec,
        policy: GroupPolicy,
        handler: Option<Arc<dyn Handler>>,
        cx: Context,
        supervisor: Supervisor,
    ) -> Result<()> {
        let name = policy.name.clone();
        if spec.name != name || spec.stream != policy.stream {
            return Err(Fault::bug(format!("group {name} is declared under another name or stream")));
        }
        if self.0.groups.read().contains_key(&name) {
            return Err(Fault::conflict(format!("group {name} exists")));
        }
        let group = Group::open(GroupParts {
            spec: spec.clone(),
            policy,
            handler,
            store: self.0.store.clone(),
            cx,
            supervisor,
            config: self.0.config.clone(),
        })
        .await?;
        self.0.groups.write().insert(name, group);
        Ok(())
    }

    /// Returns what another group needs to work like this one.
    pub(crate) fn model(&self, name: &GroupName) -> Result<Model> {
        Ok(self.get(name)?.model())
    }

    /// Slows a group down that is about to be added.
    pub(crate) async fn keep_pace(&self, name: &GroupName, pace: &Pace) -> Result<()> {
        group::keep_pace(&*self.0.store, name, pace).await
    }

    /// Forgets a group that the store no longer has, and what operators wanted of it.
    pub async fn forget(&self, name: &GroupName) -> Result<()> {
        self.0.groups.write().remove(name);
        group::forget_wishes(&*self.0.store, name).await
    }

    /// Runs a group no more; the store and the other nodes keep it.
    pub(crate) fn leave(&self, name: &GroupName) {
        self.0.groups.write().remove(name);
    }

    /// Waits until nothing of a group is lent any more; ends only when it is told to stop.
    pub(crate) async fn drained_one(&self, name: &GroupName) {
        if let Ok(group) = self.get(name) {
            group.drained().await;
        }
    }

    /// Returns the names of all groups, sorted.
    pub fn names(&self) -> Vec<GroupName> {
        self.0.groups.read().keys().cloned().collect()
    }

    fn get(&self, name: &GroupName) -> Result<Arc<Group>> {
        let group = self.0.groups.read().get(name).cloned();
        group.ok_or_else(|| Fault::missing(format!("there is no group {name}")))
    }

    fn all(&self) -> Vec<Arc<Group>> {
        self.0.groups.read().values().cloned().collect()
    }

    /// Returns what is known of a group without asking the store.
    pub fn glance(&self, name: &GroupName) -> Result<Glance> {
        Ok(self.get(name)?.glance())
    }

    /// Returns the groups that keep results, sorted by name.
    pub fn keepers(&self) -> Vec<Keeper> {
        self.all().iter().filter_map(|group| group.keeper()).collect()
    }

    /// Returns how a group keeps results; none when it keeps none, or this node does not run it.
    pub fn keeper(&self, name: &GroupName) -> Option<Keeper> {
        self.get(name).ok()?.keeper()
    }

    /// Returns where a group stands.
    pub async fn view(&self, name: &GroupName) -> Result<GroupView> {
        self.get(name)?.view().await
    }

    /// Lends deliveries of a pull group, up to `max`; waits up to `wait` for the first. While the group is paused there
    /// is none. `by` is who asks.
    pub async fn claim(&self, name: &GroupName, by: &str, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.get(name)?.pull(by, max, wait).await
    }

    /// Settles deliveries of a pull group; answers in input order.
    pub async fn settle(&self, name: &GroupName, outcomes: Vec<(LeaseToken, Outcome)>) -> Result<Vec<PullStatus>> {
        self.get(name)?.settle_pulled(outcomes).await
    }

    /// Extends leases of a pull group; false where the lease was lost.
    pub async fn extend(&self, name: &GroupName, tokens: &[LeaseToken], by: Duration) -> Result<Vec<bool>> {
        self.get(name)?.extend_pulled(tokens, by).await
    }

    /// Stops a group from claiming, durably; what it holds goes on.
    pub async fn pause(&self, name: &GroupName, by: &str, reason: &str, until: Option<Timestamp>) -> Result<()> {
        self.get(name)?.pause(by, reason, until).await
    }

    /// Stops a group as a pause says, durably; what it holds goes on.
    pub(crate) async fn halt(&self, name: &GroupName, pause: Pause) -> Result<()> {
        self.get(name)?.halt(pause).await
    }

    /// Returns why a group does not claim, when that is somebody's wish.
    pub(crate) fn halted(&self, name: &GroupName) -> Result<Option<Pause>> {
        Ok(self.get(name)?.halted())
    }

    /// Lets a paused group claim again; does nothing when it is not paused.
    pub async fn resume(&self, name: &GroupName, by: &str) -> Result<()> {
        self.get(name)?.resume(by).await
    }

    /// Changes the number of workers, durably, until the configuration asks for another number than today.
    pub async fn scale(&self, name: &GroupName, workers: usize, by: &str) -> Result<()> {
        self.get(name)?.scale(workers, by).await
    }

    /// Finds a place in the stream of a group.
    pub async fn locate(&self, name: &GroupName, place: &SeekTo) -> Result<Position> {
        self.get(name)?.locate(place).await
    }

    /// Counts what would become of the events of a range if the group were there, at most so many of them.
    pub async fn rehearse(&self, name: &GroupName, range: Range<Position>, again: bool, max: u64) -> Result<Rehearsal> {
        self.get(name)?.rehearse(range, again, max).await
    }

    /// Moves a group to another place in its stream, durably, once what is in flight is finished.
    pub async fn seek(&self, name: &GroupName, to: Position, ask: &SeekAsk) -> Result<Sought> {
        self.get(name)?.seek(to, ask).await
    }

    /// Lets deliveries go that wait for other events, or buries them; false for each that does not wait.
    pub async fn unblock(&self, name: &GroupName, ask: &UnblockAsk) -> Result<Vec<bool>> {
        self.get(name)?.unblock(ask).await
    }

    /// Lets a group finish what is there now, at most until a time, and pause then; durably.
    pub async fn drain(&self, name: &GroupName, by: &str, reason: &str, until: Timestamp) -> Result<()> {
        self.get(name)?.drain(by, reason, until).await
    }

    /// Returns what somebody works on, here or outside, the longest-running first.
    pub fn running(&self) -> Vec<Running> {
        let mut running: Vec<_> = self.all().iter().flat_map(|group| group.running()).collect();
        running.sort_by_key(|one| one.since);
        running
    }

    /// Waits until the node drains and nothing is lent any more, here or outside.
    pub async fn drained(&self) {
        self.0.cx.stop.draining().await;
        for group in self.all() {
            group.drained().await;
        }
    }
}

#[async_trait]
impl Heed for Groups {
    fn prefix(&self) -> &'static str {
        "group/"
    }

    async fn heed(&self, round: &Round) -> Result<()> {
        let mut first = Ok(());
        for group in self.all() {
            first = first.and(group.heed(round).await);
        }
        first
    }
}

//! A store in front of another one that tests can make fail, wait or lie.
//!
//! A new verb of the seam is passed on here once; what goes wrong is a [`Hooks`] of a few lines beside the test.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::{LeaseToken, Position, SettleStatus, Settled},
    event::Event,
    fault::Result,
    names::{GroupName, StreamName},
    seek::{Rehearsal, SeekTo, Sought},
    store::{
        Appended, Blocked, Broker, Claim, Claimed, DeadEntry, DeadImport, DeadLetter, DeadLetters, DeadQuery,
        DeadReport, DeadStep, DeadStepStatus, GroupSpec, GroupStatus, Ledger, LedgerEntry, LedgerStatus, Page,
        Promises, Store, StoreStatus, Stored, StreamSpec, StreamStatus, Unblock,
    },
    whereabouts::{Find, Finding, Standing, Steps},
};

/// Verbs before which a test is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Appending events.
    Append,
    /// Lending deliveries.
    Claim,
    /// Extending leases.
    Extend,
    /// Settling deliveries.
    Settle,
    /// Listing streams.
    Streams,
    /// Asking for groups.
    Groups,
}

/// What a test does to the calls that go through.
pub trait Hooks: Send + Sync {
    /// Called before a verb; a fault is its answer.
    fn before(&self, verb: Verb) -> Result<()> {
        let _: Verb = verb;
        Ok(())
    }

    /// Called when somebody waits for work; false ends the wait at once.
    fn waits(&self, group: &GroupName) -> bool {
        let _: &GroupName = group;
        true
    }

    /// Changes what is told of a group in the list of all.
    fn group(&self, status: &mut GroupStatus) {
        let _: &mut GroupStatus = status;
    }

    /// Changes the status of the store.
    fn status(&self, status: StoreStatus) -> StoreStatus {
        status
    }
}

/// A store behind hooks.
pub struct Hooked {
    inner: Arc<dyn Store>,
    hooks: Arc<dyn Hooks>,
}

impl Hooked {
    /// Puts hooks before a store.
    pub fn wrap(inner: Arc<dyn Store>, hooks: Arc<dyn Hooks>) -> Arc<dyn Store> {
        Arc::new(Self { inner, hooks })
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

#[async_trait]
impl Broker for Hooked {
    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    async fn declare_stream(&self, spec: &StreamSpec) -> Result<()> {
        self.inner.declare_stream(spec).await
    }

    async fn declare_group(&self, spec: &GroupSpec) -> Result<()> {
        self.inner.declare_group(spec).await
    }

    async fn remove_group(&self, group: &GroupName) -> Result<()> {
        self.inner.remove_group(group).await
    }

    async fn locate(&self, group: &GroupName, place: &SeekTo) -> Result<Position> {
        self.inner.locate(group, place).await
    }

    async fn seek(&self, group: &GroupName, to: Position, again: bool) -> Result<Sought> {
        self.inner.seek(group, to, again).await
    }

    async fn rehearse(&self, group: &GroupName, range: Range<Position>, max: usize) -> Result<Rehearsal> {
        self.inner.rehearse(group, range, max).await
    }

    async fn append(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        self.hooks.before(Verb::Append)?;
        self.inner.append(stream, events).await
    }

    async fn shed(&self, stream: &StreamName, room: u64) -> Result<u64> {
        self.inner.shed(stream, room).await
    }

    async fn read(&self, stream: &StreamName, from: Position, max: usize) -> Result<Page<Stored>> {
        self.inner.read(stream, from, max).await
    }

    async fn claim(&self, ask: &Claim) -> Result<Claimed> {
        self.hooks.before(Verb::Claim)?;
        self.inner.claim(ask).await
    }

    async fn extend(&self, tokens: &[LeaseToken], until: Timestamp) -> Result<Vec<bool>> {
        self.hooks.before(Verb::Extend)?;
        self.inner.extend(tokens, until).await
    }

    async fn unsettled(&self, group: &GroupName, positions: &[Position]) -> Result<Vec<Option<u32>>> {
        self.inner.unsettled(group, positions).await
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<Vec<SettleStatus>> {
        self.hooks.before(Verb::Settle)?;
        self.inner.settle(settled).await
    }

    async fn blocked(&self, group: &GroupName, from: Position, max: usize) -> Result<Page<Blocked>> {
        self.inner.blocked(group, from, max).await
    }

    async fn unblock(&self, ask: &Unblock) -> Result<Vec<bool>> {
        self.inner.unblock(ask).await
    }

    async fn wait(&self, group: &GroupName, until: Timestamp) {
        if self.hooks.waits(group) {
            self.inner.wait(group, until).await;
        }
    }

    async fn streams(&self) -> Result<Vec<StreamStatus>> {
        self.hooks.before(Verb::Streams)?;
        self.inner.streams().await
    }

    async fn groups(&self) -> Result<Vec<GroupStatus>> {
        self.hooks.before(Verb::Groups)?;
        let mut groups = self.inner.groups().await?;
        groups.iter_mut().for_each(|group| self.hooks.group(group));
        Ok(groups)
    }

    async fn group(&self, group: &GroupName) -> Result<GroupStatus> {
        self.hooks.before(Verb::Groups)?;
        self.inner.group(group).await
    }

    async fn find(&self, ask: &Find) -> Result<Finding> {
        self.inner.find(ask).await
    }

    async fn standing(&self, group: &GroupName, position: Position) -> Result<Standing> {
        self.inner.standing(group, position).await
    }

    async fn steps(&self, stream: &StreamName, position: Position) -> Result<Steps> {
        self.inner.steps(stream, position).await
    }

    fn node(&self) -> Option<&str> {
        self.inner.node()
    }

    async fn swap_state(&self, key: &str, was: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool> {
        self.inner.swap_state(key, was, value).await
    }

    async fn put_state(&self, key: &str, value: Option<&[u8]>) -> Result<()> {
        self.inner.put_state(key, value).await
    }

    async fn states(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        self.inner.states(prefix).await
    }

    async fn upkeep(&self) -> Result<()> {
        self.inner.upkeep().await
    }

    fn status(&self) -> StoreStatus {
        self.hooks.status(self.inner.status())
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[async_trait]
impl Ledger for Hooked {
    async fn done(&self, group: &GroupName, events: &[(ByteString, ByteString)]) -> Result<Vec<bool>> {
        self.inner.done(group, events).await
    }

    async fn forget(&self, group: &GroupName, source: &str, id: &str) -> Result<bool> {
        self.inner.forget(group, source, id).await
    }

    async fn ledger_entry(&self, group: &GroupName, source: &str, id: &str) -> Result<Option<LedgerEntry>> {
        self.inner.ledger_entry(group, source, id).await
    }

    async fn clean_ledger(&self, group: &GroupName, before: Timestamp) -> Result<u64> {
        self.inner.clean_ledger(group, before).await
    }

    async fn ledger_status(&self, group: &GroupName) -> Result<LedgerStatus> {
        self.inner.ledger_status(group).await
    }
}

#[async_trait]
impl DeadLetters for Hooked {
    async fn dead_letters(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadLetter>> {
        self.inner.dead_letters(stream, query).await
    }

    async fn dead_entries(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadEntry>> {
        self.inner.dead_entries(stream, query).await
    }

    async fn dead_letter(&self, stream: &StreamName, id: Position) -> Result<DeadLetter> {
        self.inner.dead_letter(stream, id).await
    }

    async fn move_dead(&self, step: &DeadStep) -> Result<Vec<DeadStepStatus>> {
        self.inner.move_dead(step).await
    }

    async fn dead_report(&self, stream: &StreamName, since: Timestamp, until: Timestamp) -> Result<DeadReport> {
        self.inner.dead_report(stream, since, until).await
    }

    async fn import_dead(&self, stream: &StreamName, letters: Vec<DeadImport>) -> Result<Vec<Appended>> {
        self.inner.import_dead(stream, letters).await
    }
}

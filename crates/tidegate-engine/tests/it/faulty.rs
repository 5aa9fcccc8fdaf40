//! The memory engine of the tests, and a wrapper around it that fails when it is told to.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytestring::ByteString;
use parking_lot::Mutex;
use tidegate_core::{
    clock::{Clock, Timestamp},
    delivery::{LeaseToken, Position, SettleStatus, Settled},
    event::Event,
    fault::{Fault, Origin, Result},
    names::{GroupName, StreamName},
    notice::Notices,
    seek::{Rehearsal, SeekTo, Sought},
    store::*,
    whereabouts::{Find, Finding, Standing, Steps},
};
use tidegate_store::{
    disk::MemoryDisk,
    embedded::{Embedded, EmbeddedOptions},
};

/// What a store leaves when it is closed.
pub(crate) type Disk = MemoryDisk;

/// Opens the engine without threads: what waits on a thread would let virtual time run away.
pub(crate) fn open(disk: &Disk, clock: &Clock, notices: &Notices) -> Arc<dyn Store> {
    let options = EmbeddedOptions {
        disk: Arc::new(disk.clone()),
        clock: clock.clone(),
        notices: notices.clone(),
        threads: false,
        spares: 0,
        ..EmbeddedOptions::new("/memory")
    };
    Embedded::open(options).unwrap()
}

/// What fails now. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Faulty(Arc<Switches>);

#[derive(Default)]
struct Switches {
    claim: AtomicBool,
    extend: AtomicBool,
    settle: Mutex<Option<Fault>>,
    hasty: AtomicBool,
    claims: AtomicU64,
    extends: AtomicU64,
}

struct Wrapped {
    inner: Arc<dyn Store>,
    faulty: Faulty,
}

fn away() -> Fault {
    Fault::unavailable(Origin::Store, "disk is away")
}

impl Faulty {
    pub(crate) fn wrap(&self, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Wrapped { inner, faulty: self.clone() })
    }

    pub(crate) fn fail_claim(&self, fail: bool) {
        self.0.claim.store(fail, Ordering::SeqCst);
    }

    pub(crate) fn fail_extend(&self, fail: bool) {
        self.0.extend.store(fail, Ordering::SeqCst);
    }

    /// Whether waiting for work ends at once, although there is none.
    pub(crate) fn hasty(&self, hasty: bool) {
        self.0.hasty.store(hasty, Ordering::SeqCst);
    }

    /// Claims so far.
    pub(crate) fn claims(&self) -> u64 {
        self.0.claims.load(Ordering::SeqCst)
    }

    /// Extensions of leases so far.
    pub(crate) fn extends(&self) -> u64 {
        self.0.extends.load(Ordering::SeqCst)
    }

    pub(crate) fn fail_settle(&self, fault: Option<Fault>) {
        *self.0.settle.lock() = fault;
    }
}

#[async_trait]
impl Broker for Wrapped {
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

    async fn rehearse(&self, group: &GroupName, from: Position, max: usize) -> Result<Rehearsal> {
        self.inner.rehearse(group, from, max).await
    }

    async fn append(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        self.inner.append(stream, events).await
    }

    async fn shed(&self, stream: &StreamName, room: u64) -> Result<u64> {
        self.inner.shed(stream, room).await
    }

    async fn read(&self, stream: &StreamName, from: Position, max: usize) -> Result<Page<Stored>> {
        self.inner.read(stream, from, max).await
    }

    async fn claim(&self, ask: &Claim) -> Result<Claimed> {
        self.faulty.0.claims.fetch_add(1, Ordering::SeqCst);
        if self.faulty.0.claim.load(Ordering::SeqCst) { Err(away()) } else { self.inner.claim(ask).await }
    }

    async fn extend(&self, tokens: &[LeaseToken], until: Timestamp) -> Result<Vec<bool>> {
        self.faulty.0.extends.fetch_add(1, Ordering::SeqCst);
        if self.faulty.0.extend.load(Ordering::SeqCst) { Err(away()) } else { self.inner.extend(tokens, until).await }
    }

    async fn unsettled(&self, group: &GroupName, positions: &[Position]) -> Result<Vec<Option<u32>>> {
        self.inner.unsettled(group, positions).await
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<Vec<SettleStatus>> {
        let fault = self.faulty.0.settle.lock().clone();
        match fault {
            Some(fault) => Err(fault),
            None => self.inner.settle(settled).await,
        }
    }

    async fn wait(&self, group: &GroupName, until: Timestamp) {
        if !self.faulty.0.hasty.load(Ordering::SeqCst) {
            self.inner.wait(group, until).await;
        }
    }

    async fn streams(&self) -> Result<Vec<StreamStatus>> {
        self.inner.streams().await
    }

    async fn groups(&self) -> Result<Vec<GroupStatus>> {
        self.inner.groups().await
    }

    async fn group(&self, group: &GroupName) -> Result<GroupStatus> {
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
        self.inner.status()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[async_trait]
impl Ledger for Wrapped {
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
impl DeadLetters for Wrapped {
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

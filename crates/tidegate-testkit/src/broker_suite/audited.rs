//! A store that is audited after every step: no event may ever be unaccounted for, not even between two steps.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytestring::ByteString;
use parking_lot::Mutex;
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

/// What was last seen of each group; kept over restarts, because counts must survive them.
pub type Seen = Arc<Mutex<BTreeMap<GroupName, GroupStatus>>>;

/// The wrapper. It fails the test itself, naming the step, when the accounting does not hold.
#[allow(missing_debug_implementations, reason = "a store has nothing to show")]
pub struct Audited {
    /// None between two openings.
    store: Option<Arc<dyn Store>>,
    seen: Seen,
    /// Held by the one audit that may run at a time: counts that were asked for earlier must not be compared later.
    turn: tokio::sync::Mutex<()>,
}

impl Audited {
    /// Wraps a store; `seen` carries what was seen before a restart.
    pub fn new(store: Arc<dyn Store>, seen: Seen) -> Self {
        Self { store: Some(store), seen, turn: tokio::sync::Mutex::default() }
    }

    /// Lets go of the store, so that its place can be opened again.
    pub fn drop_store(&mut self) {
        self.store = None;
    }

    fn store(&self) -> &dyn Store {
        self.store.as_deref().expect("no step happens between two openings")
    }

    /// Checks the accounting of every group.
    pub async fn audit(&self, step: &str) {
        let _turn = self.turn.lock().await;
        let Ok(groups) = self.store().groups().await else { return };
        let mut seen = self.seen.lock();
        let names: Vec<_> = groups.iter().map(|group| group.name.clone()).collect();
        seen.retain(|name, _| names.contains(name));
        for now in groups {
            check_group(step, &now);
            if let Some(before) = seen.get(&now.name) {
                check_growth(step, before, &now);
            }
            seen.insert(now.name.clone(), now);
        }
    }
}

/// Checks what must be true of one group at any time.
pub fn check_group(step: &str, group: &GroupStatus) {
    assert_eq!(group.difference(), 0, "after {step}: events are unaccounted for in {group:?}");
    assert!(group.duplicates <= group.done, "after {step}: more duplicates than done in {group:?}");
    assert!(group.blocked_keys <= group.waiting + group.scheduled, "after {step}: too many blocked keys in {group:?}");
    assert!(group.blocked <= group.waiting, "after {step}: more are blocked than wait in {group:?}");
    assert!(group.oldest_blocked.is_some() == (group.blocked > 0), "after {step}: an age of nothing in {group:?}");
    assert!(group.oldest_waiting.is_none() || group.waiting > 0, "after {step}: an age of nothing in {group:?}");
}

/// Checks that nothing final was taken back.
pub fn check_growth(step: &str, before: &GroupStatus, now: &GroupStatus) {
    let pairs = [
        ("accepted", before.accepted, now.accepted),
        ("done", before.done, now.done),
        ("dead", before.dead, now.dead),
        ("expired", before.expired, now.expired),
        ("dropped", before.dropped, now.dropped),
    ];
    for (count, old, new) in pairs {
        assert!(old <= new, "after {step}: {count} of {} went from {old} to {new}", now.name);
    }
}

#[async_trait]
impl Broker for Audited {
    fn promises(&self) -> Promises {
        self.store().promises()
    }

    async fn declare_stream(&self, spec: &StreamSpec) -> Result<()> {
        let answer = self.store().declare_stream(spec).await;
        self.audit("declare_stream").await;
        answer
    }

    async fn declare_group(&self, spec: &GroupSpec) -> Result<()> {
        let answer = self.store().declare_group(spec).await;
        self.audit("declare_group").await;
        answer
    }

    async fn remove_group(&self, group: &GroupName) -> Result<()> {
        let answer = self.store().remove_group(group).await;
        self.seen.lock().remove(group);
        self.audit("remove_group").await;
        answer
    }

    async fn locate(&self, group: &GroupName, place: &SeekTo) -> Result<Position> {
        self.store().locate(group, place).await
    }

    async fn seek(&self, group: &GroupName, to: Position, again: bool) -> Result<Sought> {
        let answer = self.store().seek(group, to, again).await;
        if answer.is_ok() {
            // Its accounting starts anew.
            self.seen.lock().remove(group);
        }
        self.audit("seek").await;
        answer
    }

    async fn rehearse(&self, group: &GroupName, range: Range<Position>, max: usize) -> Result<Rehearsal> {
        self.store().rehearse(group, range, max).await
    }

    async fn append(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        let count = events.len();
        let answer = self.store().append(stream, events).await;
        if let Ok(appended) = &answer {
            assert_eq!(appended.len(), count, "one answer per event");
        }
        self.audit("append").await;
        answer
    }

    async fn shed(&self, stream: &StreamName, room: u64) -> Result<u64> {
        let answer = self.store().shed(stream, room).await;
        self.audit("shed").await;
        answer
    }

    async fn read(&self, stream: &StreamName, from: Position, max: usize) -> Result<Page<Stored>> {
        self.store().read(stream, from, max).await
    }

    async fn claim(&self, ask: &Claim) -> Result<Claimed> {
        let answer = self.store().claim(ask).await;
        if let Ok(claimed) = &answer {
            assert!(claimed.deliveries.len() <= ask.max, "more deliveries than there are free workers");
        }
        self.audit("claim").await;
        answer
    }

    async fn extend(&self, tokens: &[LeaseToken], until: Timestamp) -> Result<Vec<bool>> {
        let answer = self.store().extend(tokens, until).await;
        if let Ok(extended) = &answer {
            assert_eq!(extended.len(), tokens.len(), "one answer per lease");
        }
        self.audit("extend").await;
        answer
    }

    async fn unsettled(&self, group: &GroupName, positions: &[Position]) -> Result<Vec<Option<u32>>> {
        self.store().unsettled(group, positions).await
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<Vec<SettleStatus>> {
        let count = settled.len();
        let answer = self.store().settle(settled).await;
        if let Ok(statuses) = &answer {
            assert_eq!(statuses.len(), count, "one answer per settlement");
        }
        self.audit("settle").await;
        answer
    }

    async fn blocked(&self, group: &GroupName, from: Position, max: usize) -> Result<Page<Blocked>> {
        self.store().blocked(group, from, max).await
    }

    async fn unblock(&self, ask: &Unblock) -> Result<Vec<bool>> {
        let answer = self.store().unblock(ask).await;
        if let Ok(freed) = &answer {
            assert_eq!(freed.len(), ask.positions.len(), "one answer per delivery");
        }
        self.audit("unblock").await;
        answer
    }

    async fn wait(&self, group: &GroupName, until: Timestamp) {
        self.store().wait(group, until).await;
    }

    async fn streams(&self) -> Result<Vec<StreamStatus>> {
        self.store().streams().await
    }

    async fn groups(&self) -> Result<Vec<GroupStatus>> {
        self.store().groups().await
    }

    async fn group(&self, group: &GroupName) -> Result<GroupStatus> {
        self.store().group(group).await
    }

    async fn find(&self, ask: &Find) -> Result<Finding> {
        self.store().find(ask).await
    }

    async fn standing(&self, group: &GroupName, position: Position) -> Result<Standing> {
        self.store().standing(group, position).await
    }

    async fn steps(&self, stream: &StreamName, position: Position) -> Result<Steps> {
        self.store().steps(stream, position).await
    }

    async fn swap_state(&self, key: &str, was: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool> {
        self.store().swap_state(key, was, value).await
    }

    async fn put_state(&self, key: &str, value: Option<&[u8]>) -> Result<()> {
        self.store().put_state(key, value).await
    }

    async fn states(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        self.store().states(prefix).await
    }

    async fn upkeep(&self) -> Result<()> {
        let answer = self.store().upkeep().await;
        self.audit("upkeep").await;
        answer
    }

    fn status(&self) -> StoreStatus {
        self.store().status()
    }

    async fn close(&self) -> Result<()> {
        self.store().close().await
    }
}

#[async_trait]
impl Ledger for Audited {
    async fn done(&self, group: &GroupName, events: &[(ByteString, ByteString)]) -> Result<Vec<bool>> {
        self.store().done(group, events).await
    }

    async fn forget(&self, group: &GroupName, source: &str, id: &str) -> Result<bool> {
        let answer = self.store().forget(group, source, id).await;
        self.audit("forget").await;
        answer
    }

    async fn ledger_entry(&self, group: &GroupName, source: &str, id: &str) -> Result<Option<LedgerEntry>> {
        self.store().ledger_entry(group, source, id).await
    }

    async fn clean_ledger(&self, group: &GroupName, before: Timestamp) -> Result<u64> {
        self.store().clean_ledger(group, before).await
    }

    async fn ledger_status(&self, group: &GroupName) -> Result<LedgerStatus> {
        self.store().ledger_status(group).await
    }
}

#[async_trait]
impl DeadLetters for Audited {
    async fn dead_letters(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadLetter>> {
        self.store().dead_letters(stream, query).await
    }

    async fn dead_entries(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadEntry>> {
        self.store().dead_entries(stream, query).await
    }

    async fn dead_letter(&self, stream: &StreamName, id: Position) -> Result<DeadLetter> {
        self.store().dead_letter(stream, id).await
    }

    async fn move_dead(&self, step: &DeadStep) -> Result<Vec<DeadStepStatus>> {
        let answer = self.store().move_dead(step).await;
        if let Ok(statuses) = &answer {
            assert_eq!(statuses.len(), step.ids.len(), "one answer per dead letter");
        }
        self.audit("move_dead").await;
        answer
    }

    async fn dead_report(&self, stream: &StreamName, since: Timestamp, until: Timestamp) -> Result<DeadReport> {
        self.store().dead_report(stream, since, until).await
    }

    async fn import_dead(&self, stream: &StreamName, letters: Vec<DeadImport>) -> Result<Vec<Appended>> {
        let count = letters.len();
        let answer = self.store().import_dead(stream, letters).await;
        if let Ok(answers) = &answer {
            assert_eq!(answers.len(), count, "one answer per dead letter");
        }
        self.audit("import_dead").await;
        answer
    }
}

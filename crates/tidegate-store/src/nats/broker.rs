//! The verbs of the seam: carried out here by the node that leads, and there for all others.

use std::ops::Range;

use async_trait::async_trait;
use bytestring::ByteString;
use tidegate_core::{
    clock::{Clock, Timestamp},
    delivery::{LeaseToken, Position, SettleStatus, Settled, Settlement},
    event::Event,
    fault::{Fault, FaultKind, Result},
    names::{GroupName, StreamName},
    seek::{Rehearsal, SeekTo, Sought},
    store::{
        Appended, Blocked, Broker, Claim, Claimed, DeadEntry, DeadImport, DeadLetter, DeadLetters, DeadQuery,
        DeadReport, DeadStep, DeadStepStatus, GroupSpec, GroupStatus, Ledger, LedgerEntry, LedgerStatus, Page, Peer,
        Promises, StoreStatus, Stored, StreamSpec, StreamStatus, Unblock,
    },
    whereabouts::{Find, Finding, Standing, Steps},
};

use super::{
    NatsStore, Role,
    calls::{Answered, What, late},
    verbs as verb,
};

#[async_trait]
impl Broker for NatsStore {
    fn promises(&self) -> Promises {
        self.shared.promises()
    }

    async fn declare_stream(&self, spec: &StreamSpec) -> Result<()> {
        self.call(verb::DeclareStream { spec: spec.clone() }).await?;
        self.shared.declared.lock().streams.insert(spec.name.clone(), spec.clone());
        Ok(())
    }

    async fn declare_group(&self, spec: &GroupSpec) -> Result<()> {
        self.call(verb::DeclareGroup { spec: spec.clone() }).await?;
        self.shared.declared.lock().groups.insert(spec.name.clone(), spec.clone());
        Ok(())
    }

    async fn remove_group(&self, group: &GroupName) -> Result<()> {
        self.shared.declared.lock().groups.remove(group);
        self.call(verb::RemoveGroup { group: group.clone() }).await
    }

    async fn locate(&self, group: &GroupName, place: &SeekTo) -> Result<Position> {
        self.call(verb::Locate { group: group.clone(), place: place.clone() }).await
    }

    async fn seek(&self, group: &GroupName, to: Position, again: bool) -> Result<Sought> {
        self.call(verb::Seek { group: group.clone(), to, again }).await
    }

    async fn rehearse(&self, group: &GroupName, range: Range<Position>, max: usize) -> Result<Rehearsal> {
        self.call(verb::Rehearse { group: group.clone(), range, max }).await
    }

    async fn append(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        self.shared.reach()?;
        self.call(verb::Append { stream: stream.clone(), events }).await
    }

    async fn shed(&self, stream: &StreamName, room: u64) -> Result<u64> {
        self.call(verb::Shed { stream: stream.clone(), room }).await
    }

    async fn read(&self, stream: &StreamName, from: Position, max: usize) -> Result<Page<Stored>> {
        self.call(verb::Read { stream: stream.clone(), from, max }).await
    }

    async fn claim(&self, ask: &Claim) -> Result<Claimed> {
        let Some(leading) = self.shared.leading()? else {
            return self.there(verb::Lend { ask: ask.clone() }).await;
        };
        // What was lent to nobody is given back: it must not wait until its lease runs out.
        let (store, ask) = (std::sync::Arc::clone(&leading.store), ask.clone());
        let mut lending = self.shared.link.work(async move { store.claim(&ask).await });
        match tokio::time::timeout(self.shared.options.timeout, &mut lending).await {
            Ok(lent) => lent.map_err(|error| Fault::bug(format!("claim: {error}")))?,
            Err(_) => {
                self.shared.link.work(async move {
                    let Ok(Ok(claimed)) = lending.await else { return };
                    let release = |delivery: tidegate_core::delivery::Delivery| Settled {
                        token: delivery.lease.token,
                        settlement: Settlement::Release,
                        attempt: None,
                    };
                    let back = claimed.deliveries.into_iter().map(release).collect();
                    drop(leading.store.settle(back).await);
                });
                Err(late(self.shared.link.address(), self.shared.options.timeout))
            }
        }
    }

    async fn extend(&self, tokens: &[LeaseToken], until: Timestamp) -> Result<Vec<bool>> {
        self.call(verb::Extend { tokens: tokens.to_vec(), until }).await
    }

    async fn unsettled(&self, group: &GroupName, positions: &[Position]) -> Result<Vec<Option<u32>>> {
        self.call(verb::Unsettled { group: group.clone(), positions: positions.to_vec() }).await
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<Vec<SettleStatus>> {
        if let Role::Failed(fault) = self.shared.role()
            && fault.kind == FaultKind::Conflict
        {
            // Another process has taken what this one held.
            return Ok(vec![SettleStatus::LeaseLost; settled.len()]);
        }
        self.call(verb::Settle { settled }).await
    }

    async fn blocked(&self, group: &GroupName, from: Position, max: usize) -> Result<Page<Blocked>> {
        self.call(verb::ListBlocked { group: group.clone(), from, max }).await
    }

    async fn unblock(&self, ask: &Unblock) -> Result<Vec<bool>> {
        self.call(verb::LetGo { ask: ask.clone() }).await
    }

    async fn wait(&self, group: &GroupName, until: Timestamp) {
        let clock = Clock::real();
        let waited = match self.shared.leading() {
            Ok(Some(leading)) => {
                leading.store.wait(group, until).await;
                return;
            }
            Ok(None) => self.there(verb::Wait { group: group.clone(), until }).await,
            Err(fault) => Err(fault),
        };
        if waited.is_err() {
            clock.sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    async fn streams(&self) -> Result<Vec<StreamStatus>> {
        self.call(verb::Streams {}).await
    }

    async fn groups(&self) -> Result<Vec<GroupStatus>> {
        self.call(verb::Groups {}).await
    }

    async fn group(&self, group: &GroupName) -> Result<GroupStatus> {
        self.call(verb::Group { group: group.clone() }).await
    }

    async fn find(&self, ask: &Find) -> Result<Finding> {
        self.call(verb::Search { ask: ask.clone() }).await
    }

    async fn standing(&self, group: &GroupName, position: Position) -> Result<Standing> {
        self.call(verb::Stand { group: group.clone(), position }).await
    }

    async fn steps(&self, stream: &StreamName, position: Position) -> Result<Steps> {
        self.call(verb::Trail { stream: stream.clone(), position }).await
    }

    fn node(&self) -> Option<&str> {
        Some(&self.shared.options.node)
    }

    async fn put_state(&self, key: &str, value: Option<&[u8]>) -> Result<()> {
        self.call(verb::PutState { key: key.to_owned(), value: value.map(<[u8]>::to_vec) }).await
    }

    async fn swap_state(&self, key: &str, was: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool> {
        let [was, value] = [was, value].map(|value| value.map(<[u8]>::to_vec));
        self.call(verb::SwapState { key: key.to_owned(), was, value }).await
    }

    async fn states(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        self.call(verb::States { prefix: prefix.to_owned() }).await
    }

    async fn meet(&self, work: &str) -> Result<Vec<Peer>> {
        if self.shared.leading()?.is_some() {
            let (node, now) = (&self.shared.options.node, self.shared.options.clock.now());
            let mut sessions = self.shared.sessions.lock();
            sessions.hear(node, self.shared.boot, now)?;
            return Ok(sessions.meet(node, work.to_owned()));
        }
        match self.shared.ask(What::Meet(work.to_owned()), self.shared.options.timeout).await? {
            Answered::With(answer) => verb::read(&answer),
            Answered::Nobody => Err(self.shared.nobody()),
            Answered::Late => Err(late(self.shared.link.address(), self.shared.options.timeout)),
        }
    }

    async fn upkeep(&self) -> Result<()> {
        self.shared.refresh().await;
        self.call(verb::Upkeep {}).await
    }

    fn status(&self) -> StoreStatus {
        self.shared.status()
    }

    async fn close(&self) -> Result<()> {
        self.end().await
    }
}

#[async_trait]
impl Ledger for NatsStore {
    async fn done(&self, group: &GroupName, events: &[(ByteString, ByteString)]) -> Result<Vec<bool>> {
        self.call(verb::Done { group: group.clone(), events: events.to_vec() }).await
    }

    async fn forget(&self, group: &GroupName, source: &str, id: &str) -> Result<bool> {
        self.call(verb::Forget { group: group.clone(), source: source.to_owned(), id: id.to_owned() }).await
    }

    async fn ledger_entry(&self, group: &GroupName, source: &str, id: &str) -> Result<Option<LedgerEntry>> {
        self.call(verb::Entry { group: group.clone(), source: source.to_owned(), id: id.to_owned() }).await
    }

    async fn clean_ledger(&self, group: &GroupName, before: Timestamp) -> Result<u64> {
        self.call(verb::Clean { group: group.clone(), before }).await
    }

    async fn ledger_status(&self, group: &GroupName) -> Result<LedgerStatus> {
        self.call(verb::LedgerSize { group: group.clone() }).await
    }
}

#[async_trait]
impl DeadLetters for NatsStore {
    async fn dead_letters(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadLetter>> {
        self.call(verb::Letters { stream: stream.clone(), query: query.clone() }).await
    }

    async fn dead_entries(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadEntry>> {
        self.call(verb::Entries { stream: stream.clone(), query: query.clone() }).await
    }

    async fn dead_letter(&self, stream: &StreamName, id: Position) -> Result<DeadLetter> {
        self.call(verb::Letter { stream: stream.clone(), id }).await
    }

    async fn move_dead(&self, step: &DeadStep) -> Result<Vec<DeadStepStatus>> {
        self.call(verb::Move { step: step.clone() }).await
    }

    async fn dead_report(&self, stream: &StreamName, since: Timestamp, until: Timestamp) -> Result<DeadReport> {
        self.call(verb::Report { stream: stream.clone(), since, until }).await
    }

    async fn import_dead(&self, stream: &StreamName, letters: Vec<DeadImport>) -> Result<Vec<Appended>> {
        self.call(verb::Import { stream: stream.clone(), letters }).await
    }
}

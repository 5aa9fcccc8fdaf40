//! What every case of the suite stands on: a fresh store, its clock, and the short words of the cases.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidegate_core::{
    clock::{Clock, Timestamp},
    delivery::{Attempt, Delivery, LeaseToken, Position, SettleStatus, Settled, Settlement},
    event::{Event, PARTITION_KEY},
    fault::{Failure, FaultClass, Result},
    names::{GroupName, StreamName},
    store::{
        Broker as _, Claim, Claimed, DeadAction, DeadLetter, DeadLetters as _, DeadQuery, DeadStep, DeadStepStatus,
        Durability, GroupSpec, GroupStatus, Ledger as _, OnFailure, Retain, Start, Store, Stored, StreamSpec,
        StreamStatus,
    },
};

use super::audited::{Audited, Seen};

/// An engine under test, on a place of its own.
#[async_trait]
pub trait Subject: Send + Sync {
    /// Opens the store; at a later call what the store before it left behind is there.
    async fn open(&self) -> Result<Arc<dyn Store>>;

    /// Does to the place what the death of the process does; the store is dropped already.
    fn kill(&self) {}

    /// The clock that the store reads; a manual one.
    fn clock(&self) -> Clock;
}

/// The lease of every claim that does not ask for another.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// Source of every event that does not ask for another.
pub(super) const SOURCE: &str = "/suite";
/// The group of every case that needs only one; it reads the stream [`STREAM`].
pub(super) const GROUP: &str = "g";
/// The stream of every case that needs only one.
pub(super) const STREAM: &str = "s";

/// One case: a fresh engine and the words to speak to it.
#[allow(missing_debug_implementations, reason = "a store has nothing to show")]
pub struct Case {
    subject: Box<dyn Subject>,
    /// The store, audited.
    pub store: Audited,
    seen: Seen,
}

/// Makes a stream's name.
pub(super) fn stream_name(name: &str) -> StreamName {
    StreamName::new(name).expect("the suite uses good names")
}

/// Makes a group's name.
pub(super) fn group_name(name: &str) -> GroupName {
    GroupName::new(name).expect("the suite uses good names")
}

/// A stream without bounds and without dedupe.
pub(super) fn stream_spec(name: &str) -> StreamSpec {
    StreamSpec {
        name: stream_name(name),
        durability: Durability::Sync,
        retain: Retain::default(),
        max_backlog: None,
        dedupe: None,
        dead: tidegate_core::store::DeadKeep::default(),
    }
}

/// A group from the start of a stream, without order, with a ledger of an hour.
pub(super) fn group_spec(name: &str, stream: &str) -> GroupSpec {
    GroupSpec {
        name: group_name(name),
        stream: stream_name(stream),
        start: Start::Earliest,
        end: None,
        order_by: None,
        on_failure: OnFailure::Skip,
        ledger: Some(Duration::from_secs(3600)),
        after: false,
        priority_step: None,
        mark_claims: false,
    }
}

/// An event of the suite's source.
pub(super) fn event(id: &str) -> Event {
    Event::new(id, SOURCE, "suite.tested")
}

/// An event with an order key.
pub(super) fn keyed(id: &str, key: &str) -> Event {
    event(id).with_extension(PARTITION_KEY, key)
}

/// A settlement that keeps no attempt.
pub(super) fn settled(token: LeaseToken, settlement: Settlement) -> Settled {
    Settled { token, settlement, attempt: None }
}

/// Done, publishing nothing.
pub(super) const DONE: Settlement = Settlement::Done(Vec::new());

/// Into the dead letters, as invalid.
pub(super) fn bury(message: &str) -> Settlement {
    Settlement::Bury { failure: Failure::new(FaultClass::Invalid, message), config: "fingerprint".into() }
}

/// The ids of deliveries, in order.
pub(super) fn ids(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| delivery.event.id.to_string()).collect()
}

impl Case {
    pub(super) async fn open(subject: Box<dyn Subject>) -> Self {
        let seen = Seen::default();
        let store = Audited::new(subject.open().await.expect("a fresh store opens"), Arc::clone(&seen));
        Self { subject, store, seen }
    }

    /// A stream [`STREAM`] and a group [`GROUP`] that reads it.
    pub async fn pair(&self) {
        self.stream(STREAM).await;
        self.group(GROUP, STREAM).await;
    }

    /// Declares a plain stream.
    pub async fn stream(&self, name: &str) {
        self.declare_stream(&stream_spec(name)).await;
    }

    /// Declares a plain group.
    pub async fn group(&self, name: &str, stream: &str) {
        self.declare_group(&group_spec(name, stream)).await;
    }

    /// Declares a stream.
    pub async fn declare_stream(&self, spec: &StreamSpec) {
        self.store.declare_stream(spec).await.expect("the stream is declared");
    }

    /// Declares a group.
    pub async fn declare_group(&self, spec: &GroupSpec) {
        self.store.declare_group(spec).await.expect("the group is declared");
    }

    /// Time of day.
    pub fn now(&self) -> Timestamp {
        self.subject.clock().now()
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.subject.clock().advance(by);
    }

    /// Stops the store in order and opens it again.
    pub async fn restart(&mut self) {
        self.store.close().await.expect("the store closes");
        self.store.drop_store();
        self.reopen().await;
    }

    /// Opens the place again without having stopped the store, as after a kill of the process.
    pub async fn kill(&mut self) {
        self.store.drop_store();
        self.subject.kill();
        self.reopen().await;
    }

    async fn reopen(&mut self) {
        let store = self.subject.open().await.expect("the store opens again");
        self.store = Audited::new(store, Arc::clone(&self.seen));
        self.store.audit("reopening").await;
    }

    /// Publishes events to [`STREAM`], one append for all, and returns their positions.
    pub async fn publish(&self, events: Vec<Event>) -> Vec<Position> {
        self.publish_to(STREAM, events).await
    }

    /// Publishes events and returns their positions.
    pub async fn publish_to(&self, stream: &str, events: Vec<Event>) -> Vec<Position> {
        let appended = self.store.append(&stream_name(stream), events).await.expect("the append is accepted");
        appended.into_iter().map(|answer| answer.position).collect()
    }

    /// Publishes plain events with these ids to [`STREAM`].
    pub async fn publish_ids(&self, ids: &[&str]) -> Vec<Position> {
        self.publish(ids.iter().map(|id| event(id)).collect()).await
    }

    /// Waits until everything that was noticed on the way is settled: writes are acknowledged in order.
    pub(super) async fn barrier(&self) {
        self.store.put_state("suite/barrier", None).await.expect("the store takes writes");
    }

    /// Claims of a group with everything that the claim says. A lease that ran out may need a second claim to be
    /// lent again: the first one only takes it back.
    pub(super) async fn claim_all_of(&self, group: &str, max: usize) -> Claimed {
        let mut all = Claimed::default();
        loop {
            let ask = Claim { group: group_name(group), max: max - all.deliveries.len(), lease: LEASE, before: None };
            let claimed = self.store.claim(&ask).await.expect("the claim is answered");
            for delivery in &claimed.deliveries {
                assert_eq!(delivery.lease.expires_at, self.now().plus(LEASE), "the lease starts now");
                assert_eq!(delivery.lease.token.position, delivery.position);
            }
            self.barrier().await;
            all.deliveries.extend(claimed.deliveries);
            all.duplicates += claimed.duplicates;
            all.expired += claimed.expired;
            all.leases_lost += claimed.leases_lost;
            all.next_due = claimed.next_due;
            if claimed.leases_lost == 0 || all.deliveries.len() == max {
                return all;
            }
        }
    }

    /// Does upkeep until it led to what is wanted; an engine may do it in the background.
    pub(super) async fn upkeep_until(&self, what: &str, wanted: impl AsyncFn() -> bool) {
        for _ in 0..2000 {
            self.store.upkeep().await.expect("upkeep is done");
            self.barrier().await;
            if wanted().await {
                return;
            }
            Clock::real().sleep(Duration::from_millis(5)).await;
        }
        panic!("upkeep never led to this: {what}");
    }

    /// Claims of [`GROUP`].
    pub async fn claim(&self, max: usize) -> Vec<Delivery> {
        self.claim_all_of(GROUP, max).await.deliveries
    }

    /// Claims one delivery of [`GROUP`], which must be the one with this id.
    pub async fn claim_one(&self, id: &str) -> Delivery {
        let mut deliveries = self.claim(1).await;
        assert_eq!(ids(&deliveries), [id], "the next delivery");
        deliveries.remove(0)
    }

    /// Asserts that [`GROUP`] has nothing to lend now.
    pub async fn claim_nothing(&self) {
        assert_eq!(ids(&self.claim(100).await), [] as [&str; 0], "nothing should be lent");
    }

    /// Settles one delivery, which must succeed.
    pub async fn settle(&self, delivery: &Delivery, settlement: Settlement) {
        assert_eq!(self.try_settle(delivery, settlement).await, SettleStatus::Settled, "{}", delivery.event.id);
    }

    /// Settles one delivery.
    pub async fn try_settle(&self, delivery: &Delivery, settlement: Settlement) -> SettleStatus {
        let answer = self.store.settle(vec![settled(delivery.lease.token, settlement)]).await;
        answer.expect("the settle is answered")[0]
    }

    /// Settles one delivery with the attempt that just ended.
    pub async fn settle_attempt(&self, delivery: &Delivery, settlement: Settlement, attempt: Attempt) {
        let settled = Settled { token: delivery.lease.token, settlement, attempt: Some(attempt) };
        assert_eq!(self.store.settle(vec![settled]).await.expect("settled"), [SettleStatus::Settled]);
    }

    /// Settles as done, in one commit.
    pub async fn done(&self, deliveries: &[Delivery]) {
        let all = deliveries.iter().map(|delivery| settled(delivery.lease.token, DONE)).collect();
        let statuses = self.store.settle(all).await.expect("the settle is answered");
        assert!(statuses.iter().all(|status| *status == SettleStatus::Settled), "{statuses:?}");
    }

    /// A retry after a time, with the attempts of this delivery spent.
    pub fn retry(&self, delivery: &Delivery, after: Duration) -> Settlement {
        Settlement::RetryAt { at: self.now().plus(after), attempts: delivery.attempt, crashes: delivery.crashes }
    }

    /// Counts of [`GROUP`].
    pub async fn status(&self) -> GroupStatus {
        self.status_of(GROUP).await
    }

    /// Counts of a group, which one group and the list must tell alike. An engine may work in the background between
    /// the two questions, so they are compared when the first one has the same answer before and after.
    pub async fn status_of(&self, group: &str) -> GroupStatus {
        let name = group_name(group);
        let one = async || self.store.group(&name).await.expect("the group is there");
        for _ in 0..100 {
            let before = one().await;
            let all = self.store.groups().await.expect("groups are listed");
            let after = one().await;
            if before == after {
                assert_eq!(all.iter().find(|other| other.name == name), Some(&after), "one group and the list agree");
                return after;
            }
        }
        panic!("the counts of {group} never stood still");
    }

    /// Waiting, scheduled, in flight, done and dead of [`GROUP`].
    pub async fn counts(&self) -> [u64; 5] {
        let now = self.status().await;
        [now.waiting, now.scheduled, now.in_flight, now.done, now.dead]
    }

    /// Counts of a stream.
    pub async fn stream_status(&self, stream: &str) -> StreamStatus {
        let all = self.store.streams().await.expect("streams are listed");
        all.into_iter().find(|status| status.name == stream_name(stream)).expect("the stream is listed")
    }

    /// Everything kept of a stream, read page by page.
    pub async fn read_all(&self, stream: &str) -> Vec<Stored> {
        let mut all = Vec::new();
        let mut from = Position::START;
        loop {
            let page = self.store.read(&stream_name(stream), from, 7).await.expect("the page is read");
            all.extend(page.items);
            match page.next {
                Some(next) => from = next,
                None => return all,
            }
        }
    }

    /// Ids of everything kept of a stream.
    pub async fn kept(&self, stream: &str) -> Vec<String> {
        self.read_all(stream).await.into_iter().map(|stored| stored.event.id.to_string()).collect()
    }

    /// Whether the ledger of [`GROUP`] knows an event.
    pub async fn known(&self, id: &str) -> bool {
        let asked = [(SOURCE.into(), id.into())];
        self.store.done(&group_name(GROUP), &asked).await.expect("the ledger answers")[0]
    }

    /// Publishes one event, claims it and buries it; returns the dead letter.
    pub async fn bury_new(&self, id: &str, message: &str) -> DeadLetter {
        self.publish_ids(&[id]).await;
        let delivery = self.claim_one(id).await;
        self.settle(&delivery, bury(message)).await;
        let newest = self.dead(&DeadQuery { limit: 1, ..DeadQuery::default() }).await;
        assert_eq!(newest[0].event.id, id, "the newest dead letter");
        newest.into_iter().next().expect("there is one")
    }

    /// Lists dead letters of [`STREAM`].
    pub async fn dead(&self, query: &DeadQuery) -> Vec<DeadLetter> {
        self.store.dead_letters(&stream_name(STREAM), query).await.expect("dead letters are listed").items
    }

    /// Moves dead letters of [`STREAM`].
    pub async fn move_dead(&self, ids: &[Position], action: DeadAction) -> Vec<DeadStepStatus> {
        self.store.move_dead(&step(ids, action)).await.expect("the step is answered")
    }
}

/// A step on dead letters of [`STREAM`].
pub(super) fn step(ids: &[Position], action: DeadAction) -> DeadStep {
    DeadStep {
        stream: stream_name(STREAM),
        ids: ids.to_vec(),
        action,
        by: "somebody".into(),
        note: "because".into(),
        job: "job".into(),
        progress: None,
    }
}

/// Back into the stream, once.
pub(super) const REPROCESS: DeadAction = DeadAction::Reprocess { force: false, edited: Vec::new() };

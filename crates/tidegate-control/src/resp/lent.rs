//! What consumers hold: the tokens of their leases, which this protocol has no place for, by the ids that it knows instead.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    time::Duration,
};

use bytestring::ByteString;
use parking_lot::Mutex;
use tidegate_core::{
    clock::Timestamp,
    delivery::{Delivery, LeaseToken, Position},
    names::GroupName,
};

/// One delivery that a consumer holds.
#[derive(Debug, Clone)]
pub(super) struct Loan {
    pub(super) position: Position,
    pub(super) token: LeaseToken,
    pub(super) consumer: ByteString,
    /// Since when, or when it was last claimed.
    pub(super) since: Timestamp,
    /// Number of the attempt.
    pub(super) attempt: u32,
    /// How long a lease of its group lasts.
    pub(super) lease: Duration,
    ends: Timestamp,
}

/// What all consumers hold, by group.
#[derive(Debug, Default)]
pub(crate) struct Lent(Mutex<HashMap<GroupName, BTreeMap<Position, Loan>>>);

impl Lent {
    pub(super) fn add(&self, group: &GroupName, consumer: &ByteString, deliveries: &[Delivery], now: Timestamp) {
        let mut all = self.0.lock();
        let of_group = all.entry(group.clone()).or_default();
        of_group.retain(|_, loan| loan.ends > now);
        for delivery in deliveries {
            let ends = delivery.lease.expires_at;
            let loan = Loan {
                position: delivery.position,
                token: delivery.lease.token,
                consumer: consumer.clone(),
                since: now,
                attempt: delivery.attempt,
                lease: ends.since(now),
                ends,
            };
            of_group.insert(delivery.position, loan);
        }
    }

    /// Returns what is held from an id on, oldest first.
    pub(super) fn from(&self, group: &GroupName, from: Bound<Position>, now: Timestamp) -> Vec<Loan> {
        let all = self.0.lock();
        let of_group = all.get(group).into_iter().flat_map(|loans| loans.range((from, Bound::Unbounded)));
        of_group.map(|(_, loan)| loan).filter(|loan| loan.ends > now).cloned().collect()
    }

    /// Returns what is held of some ids.
    pub(super) fn of(&self, group: &GroupName, ids: &[Position]) -> Vec<Loan> {
        let all = self.0.lock();
        let Some(loans) = all.get(group) else { return Vec::new() };
        ids.iter().filter_map(|id| loans.get(id)).cloned().collect()
    }

    /// Forgets loans that ended, unless they are others by now.
    pub(super) fn forget(&self, group: &GroupName, ended: &[Loan]) {
        let mut all = self.0.lock();
        let Some(loans) = all.get_mut(group) else { return };
        for loan in ended {
            if loans.get(&loan.position).is_some_and(|now| now.token == loan.token) {
                loans.remove(&loan.position);
            }
        }
    }

    /// Hands loans whose leases were extended to a consumer.
    pub(super) fn hand_over(&self, group: &GroupName, loans: &[Loan], to: &ByteString, now: Timestamp) {
        let mut all = self.0.lock();
        let Some(of_group) = all.get_mut(group) else { return };
        for loan in loans {
            if let Some(held) = of_group.get_mut(&loan.position).filter(|held| held.token == loan.token) {
                (held.consumer, held.since, held.ends) = (to.clone(), now, now.plus(held.lease));
            }
        }
    }
}

//! What is lent, by the time at which it runs out.
//!
//! All of one claim run out together, and nearly all are settled before: so a time and a count are kept for each claim, and
//! who it was is asked of the entries when the time comes.

use std::collections::BTreeMap;

use tidegate_core::clock::Timestamp;

/// Leases by the time at which they run out.
#[derive(Debug, Default)]
pub(crate) struct Leases(BTreeMap<Timestamp, Lot>);

#[derive(Debug, Default)]
struct Lot {
    /// How many still run out then.
    count: usize,
    /// Who was lent until then; some were settled, extended or given back since.
    seqs: Vec<u64>,
}

impl Leases {
    pub(super) fn insert(&mut self, expires: Timestamp, seq: u64) {
        let lot = self.0.entry(expires).or_default();
        lot.count += 1;
        lot.seqs.push(seq);
    }

    /// Takes one out that was lent until then.
    pub(super) fn remove(&mut self, expires: Timestamp) {
        if let Some(lot) = self.0.get_mut(&expires) {
            lot.count -= 1;
            if lot.count == 0 {
                self.0.remove(&expires);
            }
        }
    }

    /// Returns when the next runs out.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.0.first_key_value().map(|(expires, _)| *expires)
    }

    /// Takes out those that ran out next; returns when that was, and who may have been lent until then.
    pub(crate) fn take_run_out(&mut self, now: Timestamp) -> Option<(Timestamp, Vec<u64>)> {
        let first = self.0.first_entry().filter(|lot| *lot.key() <= now)?;
        let (expires, lot) = first.remove_entry();
        Some((expires, lot.seqs))
    }

    /// Returns how many ran out and were not taken out yet.
    pub(crate) fn count_run_out(&self, now: Timestamp) -> usize {
        self.0.range(..=now).map(|(_, lot)| lot.count).sum()
    }

    /// Returns who may be among them, each with its time.
    pub(super) fn run_out(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, u64)> {
        self.0.range(..=now).flat_map(|(expires, lot)| lot.seqs.iter().map(|seq| (*expires, *seq)))
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

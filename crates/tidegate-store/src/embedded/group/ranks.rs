//! Deliveries that may be lent, in the order of their priority.
//!
//! What may be lent is looked at, in the order of the stream, before it gets its rank; there it takes its order key or stands
//! behind who has it. So of each key at most one has a rank, and within a key the order of the stream stands. Nothing of
//! this is written down.

use tidegate_core::clock::Timestamp;

use super::{Entry, GroupInner, State};

impl GroupInner {
    /// Looks anew at everything that has a rank.
    pub(super) fn unrank(&mut self) {
        for (_, seq) in std::mem::take(&mut self.ranked) {
            self.attach(seq, State::Ready);
        }
    }

    /// Takes an order key from one that is not lent yet, for one that stands before it in the stream.
    pub(crate) fn overtake(&mut self, seq: u64, key: u64) -> bool {
        let Some(held) = self.keys.get_mut(&key) else { return false };
        let later = held.holder.filter(|holder| *holder > seq);
        let free = |entry: &Entry| matches!(entry.state, State::Ready | State::Ranked(_));
        let Some(later) = later.filter(|later| self.entries.get(*later).is_some_and(free)) else { return false };
        held.holder = Some(seq);
        let at = held.queue.partition_point(|other| *other < later);
        held.queue.insert(at, later);
        self.change(later, State::Blocked);
        true
    }

    /// Returns how many go before one of a rank.
    pub(crate) fn before(&self, rank: i64, seq: u64) -> u64 {
        self.ranked.range(..(rank, seq)).count() as u64
    }

    /// Returns the first in the stream of those that may be lent, whose lease ran out among them.
    pub(crate) fn first_ready(&self, now: Timestamp) -> Option<u64> {
        let ranked = self.ranked.iter().map(|(_, seq)| *seq).min();
        let is_his = |(expired, seq): &(Timestamp, u64)| {
            let state = self.entries.get(*seq).map(|entry| entry.state);
            matches!(state, Some(State::Leased { expires, .. }) if expires == *expired)
        };
        let run_out = self.leases.run_out(now).filter(is_his).map(|(_, seq)| seq).min();
        self.ready.first().copied().into_iter().chain(ranked).chain(run_out).min()
    }
}

//! Where a group stands in its stream: moving it, and what follows from having been moved.

use tidegate_core::{clock::Timestamp, event::Fingerprint};

use super::{Counts, GroupInner};

impl GroupInner {
    /// Starts anew at another place. Whoever still holds a lease has lost it.
    pub(crate) fn seek(&mut self, to: u64, high: u64, again: Option<(u64, i64)>) {
        self.high = high;
        self.again = again.or(self.again);
        (self.start, self.cursor) = (to, to);
        self.entries.clear();
        self.ready.clear();
        self.due.clear();
        self.leases.clear();
        self.keys.clear();
        self.busy.clear();
        (self.blocked, self.in_flight) = (0, 0);
        self.counts = Counts::default();
        (self.hint, self.seeking) = (None, None);
    }

    /// Tells whether the ledger knows an event as done. One that somebody wants to run although it was done runs once,
    /// not each time that it is looked at.
    pub(crate) fn is_known(&self, seq: u64, fingerprint: Fingerprint, forced: bool, now: Timestamp) -> bool {
        // A ledger that cannot be read must not stop the group: the effect may be repeated, and the store says so.
        let mark = self.ledger.as_ref().and_then(|seen| seen.get(fingerprint, now).ok().flatten());
        mark.is_some_and(|mark| {
            let again = self.again.is_some_and(|(before, at)| seq < before && mark.at <= at);
            !again && (!forced || mark.number >= seq)
        })
    }

    /// Returns the oldest event that must stay for it beside those in `entries`.
    pub(crate) fn floor(&self) -> u64 {
        self.seeking.map_or(self.cursor, |to| to.min(self.cursor))
    }
}

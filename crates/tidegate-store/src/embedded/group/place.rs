//! Where a group stands in its stream: moving it, and what follows from having been moved.

use tidegate_core::{clock::Timestamp, event::Fingerprint};

use super::{
    super::{seen::Mark, segment::Lsn},
    Counts, Entry, GroupInner, State,
};

impl GroupInner {
    /// Starts anew at another place. Whoever still holds a lease has lost it.
    pub(crate) fn seek(&mut self, to: u64, high: u64, again: Option<(u64, i64)>) {
        self.high = high;
        self.again = again.or(self.again);
        (self.start, self.cursor) = (to, to);
        self.entries.clear();
        self.ready.clear();
        self.ranked.clear();
        self.due.clear();
        self.leases.clear();
        self.keys.clear();
        self.busy.clear();
        (self.blocked, self.in_flight) = (0, 0);
        self.waits.clear();
        self.counts = Counts::default();
        (self.hint, self.seeking) = (None, None);
    }

    /// Tells whether the ledger knows an event as done. One that somebody wants to run although it was done runs once,
    /// not each time that it is looked at.
    pub(crate) fn is_known(&self, seq: u64, fingerprint: Fingerprint, forced: bool, now: Timestamp) -> bool {
        // A ledger that cannot be read must not stop the group: the effect may be repeated, and the store says so.
        let mark = self.ledger.as_ref().and_then(|seen| seen.get(fingerprint, now).ok().flatten());
        mark.filter(Mark::is_done).is_some_and(|mark| {
            let again = self.again.is_some_and(|(before, at)| seq < before && mark.at <= at);
            !again && (!forced || mark.number >= seq)
        })
    }

    /// Returns where its business ends in a stream that ends at `last`, what was sent back to it aside.
    pub(crate) fn end(&self, last: u64) -> u64 {
        (last + 1).min(self.end)
    }

    /// Returns how many events it has not looked at.
    pub(crate) fn unseen(&self, last: u64) -> u64 {
        self.end(last).saturating_sub(self.cursor)
    }

    /// Returns how many events became its business.
    pub(crate) fn accepted(&self, last: u64) -> u64 {
        self.end(last).saturating_sub(self.start) + self.counts.sent_back
    }

    /// Takes in an event that was sent back to it. Before its end it comes to it by itself.
    pub(crate) fn send_back(&mut self, seq: u64, at: Lsn) {
        if seq >= self.end {
            self.counts.sent_back += 1;
            self.entries.insert(seq, Entry::new(at));
            self.attach(seq, State::Ready);
        }
    }

    /// Makes the accounts add up again after damage: what is missing is dropped, what is too much was not done.
    pub(crate) fn balance(&mut self, last: u64) {
        let accepted = self.accepted(last);
        let open = self.entries.len() as u64 + self.unseen(last);
        let settled = |counts: &Counts| counts.done + counts.dead + counts.expired + counts.dropped;
        let missing = accepted.saturating_sub(open + settled(&self.counts));
        self.counts.dropped += missing;
        let mut over = (open + settled(&self.counts)).saturating_sub(accepted);
        let counts = &mut self.counts;
        for count in [&mut counts.done, &mut counts.dropped, &mut counts.dead, &mut counts.expired] {
            let less = over.min(*count);
            *count -= less;
            over -= less;
        }
        counts.duplicates = counts.duplicates.min(counts.done);
        counts.skipped = counts.skipped.min(counts.done - counts.duplicates);
    }

    /// Returns the oldest event that must stay for it beside those in `entries`.
    pub(crate) fn floor(&self) -> u64 {
        if self.cursor >= self.end {
            return u64::MAX;
        }
        self.seeking.map_or(self.cursor, |to| to.min(self.cursor))
    }
}

//! Deliveries that wait until other events are done in their group.
//!
//! Nothing of this is written down: after a restart a delivery is looked at again, and the ledger says what is done.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;
use tidegate_core::{clock::Timestamp, event::Fingerprint, fault::Result};

use super::{super::seen::Mark, GroupInner, State};

/// What one waits for.
#[derive(Debug, Clone)]
pub(crate) struct Wait {
    /// The events that are not done.
    pub(crate) on: SmallVec<[Fingerprint; 1]>,
    pub(crate) accepted_at: Timestamp,
    /// When nobody needs it any more.
    pub(crate) expires_at: Option<Timestamp>,
}

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    by_seq: BTreeMap<u64, Wait>,
    /// Pairs of one that is waited for and one that waits: what is held in memory is counted by them.
    by_event: BTreeSet<(Fingerprint, u64)>,
    expiries: BTreeSet<(Timestamp, u64)>,
}

impl Waits {
    pub(crate) fn len(&self) -> usize {
        self.by_seq.len()
    }

    /// Returns since when the oldest of them is there.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.by_seq.first_key_value().map(|(_, wait)| wait.accepted_at)
    }

    /// Returns those from a place on.
    pub(crate) fn from(&self, seq: u64) -> impl Iterator<Item = u64> {
        self.by_seq.range(seq..).map(|(seq, _)| *seq)
    }

    /// Returns when the next of them expires.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.first().map(|(at, _)| *at)
    }

    fn insert(&mut self, seq: u64, wait: Wait) {
        self.by_event.extend(wait.on.iter().map(|on| (*on, seq)));
        self.expiries.extend(wait.expires_at.map(|at| (at, seq)));
        self.by_seq.insert(seq, wait);
    }

    pub(super) fn remove(&mut self, seq: u64) {
        let Some(wait) = self.by_seq.remove(&seq) else { return };
        if let Some(at) = wait.expires_at {
            self.expiries.remove(&(at, seq));
        }
        for on in wait.on {
            self.by_event.remove(&(on, seq));
        }
    }

    /// Takes out an event that is done; returns those that wait for nothing more.
    fn met(&mut self, of: Fingerprint) -> Vec<u64> {
        // Most groups have none that wait: then this is all that it costs.
        let mut free: Vec<u64> = self.by_event.range((of, 0)..=(of, u64::MAX)).map(|(_, seq)| *seq).collect();
        free.retain(|seq| {
            self.by_event.remove(&(of, *seq));
            let wait = self.by_seq.get_mut(seq);
            wait.is_none_or(|wait| {
                wait.on.retain(|on| *on != of);
                wait.on.is_empty()
            })
        });
        free
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Mark {
    /// Set in the number of an event that the group's stages did not let through: nobody waits for it, and it is not done.
    const SKIPPED: u64 = 1 << 63;

    fn skipped(seq: u64, at: Timestamp) -> Self {
        Self { number: seq | Self::SKIPPED, at: at.as_millis() }
    }

    /// Tells whether the event was done.
    pub(crate) fn is_done(&self) -> bool {
        self.number & Self::SKIPPED == 0
    }

    /// Returns where the event stands.
    pub(crate) fn seq(&self) -> u64 {
        self.number & !Self::SKIPPED
    }
}

impl GroupInner {
    /// Lets a delivery wait for events.
    pub(crate) fn wait_for(&mut self, seq: u64, wait: Wait) {
        self.change(seq, State::After);
        self.waits.insert(seq, wait);
    }

    /// Lets those go on that wait for nothing but an event that is done now; they are looked at again.
    pub(super) fn wake_waiters(&mut self, of: Fingerprint) {
        for seq in self.waits.met(of) {
            self.change(seq, State::Ready);
        }
    }

    /// Looks anew at everything that waits.
    pub(super) fn wake_all_waiters(&mut self) {
        let all: Vec<u64> = self.waits.from(0).collect();
        for seq in all {
            self.change(seq, State::Ready);
        }
    }

    /// Looks anew at what nobody needs any more.
    pub(crate) fn wake_expired(&mut self, now: Timestamp) {
        while let Some((at, seq)) = self.waits.expiries.first().copied() {
            if at > now {
                return;
            }
            self.change(seq, State::Ready);
        }
    }

    /// Remembers that the stages did not let an event through, unless it is known as done.
    pub(super) fn remember_skip(&mut self, seq: u64, at: Timestamp, fingerprint: Fingerprint) {
        if let Some(seen) = &mut self.ledger
            // A ledger that cannot be read: better that somebody waits than that something is done twice.
            && seen.get(fingerprint, at).is_ok_and(|known| known.is_none_or(|mark| !mark.is_done()))
        {
            seen.insert(fingerprint, Mark::skipped(seq, at));
        }
    }

    /// Tells whether nobody has to wait for an event any more.
    pub(crate) fn is_met(&self, fingerprint: Fingerprint, now: Timestamp) -> Result<bool> {
        let Some(seen) = &self.ledger else { return Ok(true) };
        let Some(mark) = seen.get(fingerprint, now)? else { return Ok(false) };
        // The group went back to do it once more, and has not come to that yet.
        let seq = mark.seq();
        let again = self.again.is_some_and(|(before, at)| seq < before && mark.at <= at);
        Ok(!again || seq < self.cursor && !self.entries.contains(seq))
    }

    /// Lets a delivery wait for nobody any more.
    pub(crate) fn let_go(&mut self, seq: u64) {
        if seq < self.start {
            return;
        }
        self.cover(seq + 1);
        let Some(entry) = self.entries.get_mut(seq) else { return };
        entry.freed = true;
        if entry.state == State::After {
            self.change(seq, State::Ready);
        }
    }

    /// Returns how many deliveries in memory hold the group back from looking further; one that waits for several counts as often.
    pub(crate) fn held_back(&self) -> usize {
        self.blocked + self.waits.by_event.len() + self.ranked.len()
    }
}

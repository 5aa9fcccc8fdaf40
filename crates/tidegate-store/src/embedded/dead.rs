//! Index of a dead-letter stream: state and keys of every entry; the entry itself lies in the journal.
//!
//! **Invariant:** what is counted by group here is changed with the entries, so that nobody walks them to know it.

mod image;
mod report;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    fault::FaultClass,
    signature,
    store::{DeadChange, DeadQuery, DeadState},
};

use self::words::Words;
use super::{
    body::{DeadHead, DeadMove},
    segment::Lsn,
};

pub(crate) use self::image::DeadImage;

/// One dead letter, without its event. There may be millions: 72 bytes each.
#[derive(Debug, Clone)]
pub(crate) struct DeadEntry {
    pub(crate) at: Lsn,
    pub(crate) origin_seq: u64,
    pub(crate) failed_at: Timestamp,
    /// Where it went when it was reprocessed; 0 = nowhere.
    pub(crate) went: u64,
    pub(crate) changed: Option<Arc<Change>>,
    pub(crate) group: u32,
    pub(crate) origin: u32,
    signature: u32,
    kind: u32,
    pub(crate) state: DeadState,
    pub(crate) class: FaultClass,
    /// A step on it is on its way to the journal.
    pub(crate) moving: bool,
}

/// Who changed the state of entries; shared among all that one step moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at: Timestamp,
    pub(crate) by: ByteString,
    pub(crate) note: ByteString,
    pub(crate) job: ByteString,
}

#[derive(Debug, Default)]
pub(crate) struct DeadIndex {
    pub(crate) entries: BTreeMap<u64, DeadEntry>,
    /// By the event that died: number, stream, group, and then the letter. Imported ones have no event. 24 bytes each.
    origins: BTreeSet<(u64, u32, u32, u64)>,
    words: Words,
    /// Parked entries by group.
    pub(crate) parked: BTreeMap<u32, u64>,
    /// No parked entry was buried before this time.
    parked_since: Option<Timestamp>,
    /// No other entry was changed before this time.
    changed_since: Option<Timestamp>,
}

/// Keeps the earlier of two times, one of which may be unknown.
fn earlier(slot: &mut Option<Timestamp>, at: Timestamp) {
    *slot = Some(slot.map_or(at, |known| known.min(at)));
}

impl DeadEntry {
    /// Says which event it was made of, and which letter it is.
    fn died(&self, seq: u64) -> (u64, u32, u32, u64) {
        (self.origin_seq, self.origin, self.group, seq)
    }

    /// Returns who changed it.
    pub(crate) fn change(&self) -> Option<DeadChange> {
        self.changed.as_ref().map(|change| DeadChange {
            at: change.at,
            by: change.by.clone(),
            note: change.note.clone(),
            job: change.job.clone(),
            position: (self.went > 0).then(|| Position::number(self.went)),
        })
    }
}

impl DeadIndex {
    /// Takes in a buried or imported event.
    pub(crate) fn bury(&mut self, head: &DeadHead, kind: &str, at: Lsn) {
        let (state, changed) = match &head.imported {
            None => (DeadState::Parked, None),
            Some(imported) => (imported.state, imported.change.clone().map(Arc::new)),
        };
        let entry = DeadEntry {
            at,
            origin_seq: head.origin_seq,
            failed_at: head.failed_at,
            went: 0,
            changed,
            group: head.group,
            origin: head.origin,
            signature: self.words.take(&signature(&head.message)),
            kind: self.words.take(kind),
            state,
            class: head.class,
            moving: false,
        };
        self.add(head.seq, entry);
    }

    fn add(&mut self, seq: u64, entry: DeadEntry) {
        self.count(&entry, true);
        if entry.origin_seq > 0 {
            self.origins.insert(entry.died(seq));
        }
        self.entries.insert(seq, entry);
    }

    /// Returns the newest letter that was made of an event.
    pub(crate) fn newest_of(&self, origin: u32, origin_seq: u64, group: u32) -> Option<(u64, &DeadEntry)> {
        let all = (origin_seq, origin, group, 0)..=(origin_seq, origin, group, u64::MAX);
        let (.., seq) = self.origins.range(all).next_back()?;
        Some((*seq, self.entries.get(seq)?))
    }

    /// Keeps the counts by group and the two times.
    fn count(&mut self, entry: &DeadEntry, is_coming: bool) {
        if entry.state != DeadState::Parked {
            if is_coming {
                earlier(&mut self.changed_since, entry.changed.as_ref().map_or(entry.failed_at, |change| change.at));
            }
            return;
        }
        let parked = self.parked.entry(entry.group).or_default();
        *parked = if is_coming { *parked + 1 } else { parked.saturating_sub(1) };
        if is_coming {
            earlier(&mut self.parked_since, entry.failed_at);
        }
    }

    /// Carries out a change of state.
    pub(crate) fn moved(&mut self, step: &DeadMove) {
        let change =
            Arc::new(Change { at: step.at, by: step.by.clone(), note: step.note.clone(), job: step.job.clone() });
        for (seq, went) in &step.entries {
            let Some(state) = step.state else {
                self.remove(*seq);
                continue;
            };
            let Some(mut entry) = self.entries.get(seq).cloned() else { continue };
            self.count(&entry, false);
            entry.state = state;
            entry.moving = false;
            entry.went = *went;
            entry.changed = Some(Arc::clone(&change));
            self.add(*seq, entry);
        }
    }

    fn remove(&mut self, seq: u64) {
        let Some(entry) = self.entries.remove(&seq) else { return };
        self.count(&entry, false);
        self.origins.remove(&entry.died(seq));
        self.words.give_back(entry.signature);
        self.words.give_back(entry.kind);
    }

    /// Forgets entries that are settled and were changed before `horizon`.
    pub(crate) fn forget(&mut self, horizon: Timestamp) {
        if self.changed_since.is_none_or(|since| since >= horizon) {
            return;
        }
        let mut since = None;
        let mut gone = Vec::new();
        for (seq, entry) in &self.entries {
            let changed_at = entry.changed.as_ref().map_or(entry.failed_at, |change| change.at);
            if entry.state == DeadState::Parked {
            } else if changed_at < horizon && !entry.moving {
                gone.push(*seq);
            } else {
                earlier(&mut since, changed_at);
            }
        }
        self.changed_since = since;
        for seq in gone {
            self.remove(seq);
        }
    }

    /// Marks parked entries that were buried before `horizon` as moving and returns them, at most `max`.
    pub(crate) fn overdue(&mut self, horizon: Timestamp, max: usize) -> Vec<u64> {
        if self.parked_since.is_none_or(|since| since >= horizon) {
            return Vec::new();
        }
        let mut overdue = Vec::new();
        let mut since = None;
        for (seq, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.state == DeadState::Parked) {
            if entry.failed_at < horizon && !entry.moving && overdue.len() < max {
                entry.moving = true;
                overdue.push(*seq);
            } else {
                earlier(&mut since, entry.failed_at);
            }
        }
        self.parked_since = since;
        overdue
    }

    /// Takes back the mark of entries whose step could not be written.
    pub(crate) fn unmark(&mut self, seqs: &[u64]) {
        for seq in seqs {
            if let Some(entry) = self.entries.get_mut(seq) {
                entry.moving = false;
                if entry.state == DeadState::Parked {
                    earlier(&mut self.parked_since, entry.failed_at);
                }
            }
        }
    }

    /// Returns the sequence numbers that a query asks for, in its order, and whether there are more.
    pub(crate) fn select(&self, query: &DeadQuery, group: Option<u32>) -> (Vec<u64>, bool) {
        let before = query.before.map_or(u64::MAX, |before| before.low);
        let wanted = |entry: &DeadEntry| {
            query.state.is_none_or(|state| state == entry.state)
                && group.is_none_or(|group| group == entry.group)
                && query.since.is_none_or(|since| entry.failed_at >= since)
                && query.until.is_none_or(|until| entry.failed_at < until)
        };
        let take = |found: &mut dyn Iterator<Item = (&u64, &DeadEntry)>| {
            let mut found = found.filter(|(_, entry)| wanted(entry)).map(|(seq, _)| *seq);
            let seqs = found.by_ref().take(query.limit).collect();
            (seqs, found.next().is_some())
        };
        match query.after {
            None => take(&mut self.entries.range(..before).rev()),
            Some(after) if after.low.saturating_add(1) < before => take(&mut self.entries.range(after.low + 1..before)),
            Some(_) => (Vec::new(), false),
        }
    }
}

//! A group in memory: its cursor, what it lent, what waits for a time, an order key or a retry.
//!
//! **Invariant:** every sequence number below the cursor that is not in `entries` is settled. Everything at or above
//! the cursor has not been looked at. What survives a restart comes from applied records alone; leases do not survive.

mod decl;
mod image;
mod leases;
mod place;
mod ranks;
mod waits;
mod window;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Timestamp,
    delivery::{Attempt, LeaseToken},
    event::Fingerprint,
    fault::FaultClass,
    limits,
    names::GroupName,
    store::GroupSpec,
};

use super::{
    body::{How, Settle},
    seen::{FastMap, Mark, Seen},
    segment::Lsn,
    stream::{Hint, Stream},
};

pub(crate) use self::{decl::GroupDecl, image::GroupImage, waits::Wait};
use self::{leases::Leases, waits::Waits, window::Window};

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: u32,
    pub(crate) name: GroupName,
    pub(crate) stream: Arc<Stream>,
    /// First sequence number that is its business.
    pub(crate) start: u64,
    pub(crate) spec: RwLock<GroupSpec>,
    pub(crate) inner: Mutex<GroupInner>,
    /// First sequence number less everything settled before the cursor: what the backlog is counted from. Publishes
    /// read it without the lock.
    pub(crate) passed: AtomicU64,
    pub(crate) wake: tokio::sync::Notify,
    pub(crate) drain: Mutex<DrainRate>,
}

/// How fast the group settles, measured by the upkeep.
#[derive(Debug, Default)]
pub(crate) struct DrainRate {
    pub(crate) settled: u64,
    pub(crate) at: Option<Timestamp>,
    pub(crate) per_second: f64,
}

/// What is known of one delivery that is not settled and below the cursor.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) state: State,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) key: Option<u64>,
    pub(crate) attempts: u32,
    pub(crate) crashes: u32,
    pub(crate) at: Lsn,
    /// Past attempts.
    #[expect(clippy::box_collection, reason = "most deliveries have none, and there may be millions")]
    pub(crate) history: Option<Box<Vec<Note>>>,
    /// The journal says until when it waits.
    pub(crate) journaled: bool,
    /// It is lent to a handler that may kill the process, and the journal says so.
    pub(crate) marked: bool,
    /// Its history already holds that of its earlier life.
    pub(crate) recalled: bool,
    /// Somebody let it go: it waits for no other event.
    pub(crate) freed: bool,
}

/// A past attempt with its message shared among all that failed alike.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    at: Timestamp,
    took: Duration,
    class: FaultClass,
    message: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Is being looked at for the first time.
    New,
    /// May be lent.
    Ready,
    /// May be lent, and its rank by priority is known: only in groups that go by it.
    Ranked(i64),
    /// Stands in the queue of its order key.
    Blocked,
    /// Waits until another event is done; see [`Waits`].
    After,
    /// Waits for a time.
    Due(Timestamp),
    /// Is lent.
    Leased { epoch: u64, expires: Timestamp },
    /// Its settlement is on the way to the journal.
    Settling,
}

/// An order key that is held, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Key {
    pub(crate) holder: Option<u64>,
    pub(crate) queue: VecDeque<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) done: u64,
    pub(crate) duplicates: u64,
    pub(crate) skipped: u64,
    pub(crate) dead: u64,
    pub(crate) expired: u64,
    pub(crate) dropped: u64,
    /// Sent back to it behind its end.
    pub(crate) sent_back: u64,
}

#[derive(Debug)]
pub(crate) struct GroupInner {
    pub(crate) start: u64,
    /// Nothing from here on is its business, but for what is sent back to it; that stands in `entries`.
    pub(crate) end: u64,
    pub(crate) cursor: u64,
    pub(crate) entries: Window<Entry>,
    pub(crate) ready: BTreeSet<u64>,
    pub(crate) ranked: BTreeSet<(i64, u64)>,
    pub(crate) due: BTreeSet<(Timestamp, u64)>,
    pub(crate) leases: Leases,
    pub(crate) keys: FastMap<u64, Key>,
    pub(crate) blocked: usize,
    pub(crate) waits: Waits,
    /// Fingerprints that are lent or being settled: the same event is never lent twice at a time.
    pub(crate) busy: FastMap<Fingerprint, u64>,
    pub(crate) in_flight: u64,
    pub(crate) counts: Counts,
    pub(crate) leases_lost: u64,
    pub(crate) epoch: u64,
    pub(crate) ledger: Option<Seen>,
    pub(crate) applied: Lsn,
    pub(crate) hint: Option<Hint>,
    pub(crate) removed: bool,
    /// Events before this one were its business before it was moved back: they do not count as backlog.
    pub(crate) high: u64,
    /// Events before the first are processed again whatever the ledger knew at the time that is the second.
    pub(crate) again: Option<(u64, i64)>,
    /// Where it is about to be moved: nothing is lent until that is durable or has failed.
    pub(crate) seeking: Option<u64>,
    messages: BTreeMap<Arc<str>, ()>,
}

impl Group {
    pub(crate) fn new(id: u32, spec: GroupSpec, stream: Arc<Stream>, start: u64) -> Self {
        let inner = GroupInner::new(start, &spec);
        let passed = if spec.end.is_some() { u64::MAX } else { start };
        Self {
            id,
            name: spec.name.clone(),
            stream,
            start,
            spec: RwLock::new(spec),
            inner: Mutex::new(inner),
            passed: AtomicU64::new(passed),
            wake: tokio::sync::Notify::new(),
            drain: Mutex::default(),
        }
    }

    /// Returns how many events wait for it that publishers wait for too: none for a group that has an end.
    pub(crate) fn backlog(&self, last: u64) -> u64 {
        (last + 1).saturating_sub(self.passed.load(Ordering::Acquire))
    }

    /// Shows to publishers how much is settled; called when that has changed.
    pub(crate) fn show_passed(&self, inner: &GroupInner) {
        if inner.end < u64::MAX {
            return;
        }
        let from = inner.cursor.max(inner.high);
        self.passed.store(from.saturating_sub(inner.entries.len() as u64), Ordering::Release);
    }

    /// Changes the settings of a group that exists.
    pub(crate) fn respec(&self, spec: GroupSpec) {
        let mut inner = self.inner.lock();
        match (&mut inner.ledger, spec.ledger) {
            (Some(seen), Some(keep)) => seen.keep = keep,
            (slot, Some(keep)) => *slot = Some(Seen::new(keep, u64::MAX, limits::LEDGER_ACTIVE_MAX)),
            (slot, None) => *slot = None,
        }
        inner.wake_all_waiters();
        inner.unrank();
        *self.spec.write() = spec;
    }
}

impl Entry {
    pub(crate) fn new(at: Lsn) -> Self {
        Self {
            state: State::Ready,
            fingerprint: 0,
            key: None,
            attempts: 0,
            crashes: 0,
            at,
            history: None,
            journaled: false,
            marked: false,
            recalled: false,
            freed: false,
        }
    }

    pub(crate) fn attempts_made(&self) -> Vec<Attempt> {
        let attempt = |note: &Note| Attempt {
            at: note.at,
            took: note.took,
            class: note.class,
            message: note.message.as_ref().to_owned(),
        };
        self.history.iter().flat_map(|notes| notes.iter()).map(attempt).collect()
    }
}

impl GroupInner {
    fn new(start: u64, spec: &GroupSpec) -> Self {
        Self {
            start,
            end: spec.end.map_or(u64::MAX, |end| end.low),
            cursor: start,
            entries: Window::default(),
            ready: BTreeSet::new(),
            ranked: BTreeSet::new(),
            due: BTreeSet::new(),
            leases: Leases::default(),
            keys: FastMap::default(),
            blocked: 0,
            waits: Waits::default(),
            busy: FastMap::default(),
            in_flight: 0,
            counts: Counts::default(),
            leases_lost: 0,
            epoch: 0,
            ledger: spec.ledger.map(|keep| Seen::new(keep, u64::MAX, limits::LEDGER_ACTIVE_MAX)),
            applied: Lsn::default(),
            hint: None,
            removed: false,
            high: 0,
            again: None,
            seeking: None,
            messages: BTreeMap::new(),
        }
    }

    /// Takes a delivery out of whatever set its state kept it in.
    fn leave(&mut self, seq: u64, state: State, key: Option<u64>) {
        match state {
            State::New => {}
            State::Ready => {
                self.ready.remove(&seq);
            }
            State::Ranked(rank) => {
                self.ranked.remove(&(rank, seq));
            }
            State::Blocked => {
                if let Some(queue) = key.and_then(|key| self.keys.get_mut(&key)).map(|key| &mut key.queue)
                    && let Some(at) = queue.iter().position(|other| *other == seq)
                {
                    queue.remove(at);
                    self.blocked -= 1;
                }
            }
            State::After => self.waits.remove(seq),
            State::Due(at) => {
                self.due.remove(&(at, seq));
            }
            State::Leased { expires, .. } => {
                self.leases.remove(expires);
                self.in_flight -= 1;
            }
            State::Settling => self.in_flight -= 1,
        }
    }

    fn enter(&mut self, seq: u64, state: State) {
        match state {
            State::New | State::After => {}
            State::Ready => {
                self.ready.insert(seq);
            }
            State::Ranked(rank) => {
                self.ranked.insert((rank, seq));
            }
            State::Blocked => self.blocked += 1,
            State::Due(at) => {
                self.due.insert((at, seq));
            }
            State::Leased { expires, .. } => {
                self.leases.insert(expires, seq);
                self.in_flight += 1;
            }
            State::Settling => self.in_flight += 1,
        }
    }

    /// Gives the entry a state, where no set holds it under its old one.
    pub(crate) fn attach(&mut self, seq: u64, state: State) {
        let Some(entry) = self.entries.get_mut(seq) else { return };
        entry.state = state;
        self.enter(seq, state);
    }

    pub(crate) fn change(&mut self, seq: u64, state: State) {
        let Some(entry) = self.entries.get_mut(seq) else { return };
        let (before, key) = (std::mem::replace(&mut entry.state, state), entry.key);
        self.leave(seq, before, key);
        self.enter(seq, state);
    }

    /// Takes back a delivery as if it had not been lent. It keeps its order key, and so its place.
    pub(crate) fn give_back(&mut self, token: &LeaseToken) {
        let seq = token.position.low;
        let Some(entry) = self.entries.get_mut(seq) else { return };
        if !matches!(entry.state, State::Leased { epoch, .. } if epoch == token.epoch) {
            return;
        }
        entry.marked = false;
        let fingerprint = entry.fingerprint;
        self.leave_busy(fingerprint, seq);
        self.change(seq, State::Ready);
    }

    /// Lets go of the order key that `seq` holds, or was about to take: the next in its queue may run.
    pub(crate) fn release_key(&mut self, seq: u64, key: Option<u64>) {
        let Some(key) = key else { return };
        let Some(held) = self.keys.get_mut(&key) else { return };
        if held.holder.is_some_and(|holder| holder != seq) {
            return;
        }
        held.holder = None;
        let next = held.queue.pop_front();
        if next.is_none() {
            self.keys.remove(&key);
        }
        if let Some(next) = next {
            // It keeps its place before all later ones of the key: those see a queue or a holder until it is lent.
            self.blocked -= 1;
            self.attach(next, State::Ready);
        }
    }

    /// Tells whether a delivery is one that nobody has looked at, and near enough to look at all before it.
    pub(crate) fn within_reach(&self, seq: u64) -> bool {
        seq >= self.cursor && seq - self.cursor < limits::ORDER_LOOKAHEAD_MAX as u64
    }

    /// Makes sure that everything below `upto` has been looked at; what has not becomes ready.
    pub(crate) fn cover(&mut self, upto: u64) {
        let upto = upto.min(self.end);
        while self.cursor < upto {
            let seq = self.cursor;
            self.cursor += 1;
            self.entries.insert(seq, Entry::new(Lsn::default()));
            self.ready.insert(seq);
        }
    }

    /// Carries out a settlement that is durable. The same for a live commit and for replay after a crash.
    pub(crate) fn settle(&mut self, settle: &Settle, block: bool) {
        if settle.seq < self.start {
            return;
        }
        self.cover(settle.seq + 1);
        match &settle.how {
            How::Retry { at: due, attempts, crashes, key, attempt } => {
                self.retry(settle.seq, *due, (*attempts, *crashes), *key, attempt.as_ref(), block);
            }
            how @ (How::Done { .. } | How::Duplicate | How::Expired | How::NotMine | How::Skipped { .. }) => {
                let Some(entry) = self.entries.remove(settle.seq) else { return };
                match how {
                    How::Done { at, ledger } => {
                        self.counts.done += 1;
                        if let (Some(seen), Some(fingerprint)) = (&mut self.ledger, ledger) {
                            seen.insert(*fingerprint, Mark { number: settle.seq, at: at.as_millis() });
                            self.wake_waiters(*fingerprint);
                        }
                    }
                    How::Duplicate | How::NotMine => {
                        self.counts.done += 1;
                        self.counts.duplicates += 1;
                    }
                    How::Skipped { told } => {
                        self.counts.done += 1;
                        self.counts.skipped += 1;
                        if let Some((at, fingerprint)) = told {
                            self.remember_skip(settle.seq, *at, *fingerprint);
                            self.wake_waiters(*fingerprint);
                        }
                    }
                    How::Expired => self.counts.expired += 1,
                    How::Retry { .. } => {}
                }
                self.forget(settle.seq, &entry);
            }
        }
    }

    /// Counts a delivery as dead; it is in the dead letters.
    pub(crate) fn bury(&mut self, seq: u64) {
        if seq < self.start {
            return;
        }
        self.cover(seq + 1);
        if self.entries.contains(seq) {
            self.counts.dead += 1;
            self.finish(seq);
        }
    }

    /// Drops the unsettled deliveries in a range but for those that were lent at the time; returns how many.
    pub(crate) fn drop_range(&mut self, from: u64, to: u64, lent: &[u64]) -> u64 {
        let (from, to) = (from.max(self.start), to.min(self.end).max(self.start));
        if let Some(newest) = lent.iter().max() {
            self.cover(newest + 1);
        }
        let skipped = to.saturating_sub(self.cursor.max(from));
        let mut dropped = 0;
        if from <= self.cursor {
            dropped = skipped;
            self.cursor = self.cursor.max(to);
            self.hint = None;
        } else {
            self.cover(to);
        }
        let gone: Vec<u64> =
            self.entries.range(from..to).map(|(seq, _)| seq).filter(|seq| !lent.contains(seq)).collect();
        dropped += gone.len() as u64;
        for seq in gone {
            self.finish(seq);
        }
        if self.again.is_some() && dropped > 0 {
            // What nobody had looked at has no name yet.
            self.wake_all_waiters();
        }
        self.counts.dropped += dropped;
        dropped
    }

    /// Forgets a delivery that is settled.
    pub(crate) fn finish(&mut self, seq: u64) {
        if let Some(entry) = self.entries.remove(seq) {
            self.forget(seq, &entry);
        }
    }

    /// Says that a delivery is no longer the one of its event that is worked on.
    fn leave_busy(&mut self, fingerprint: Fingerprint, seq: u64) {
        // It mostly is: then this is one look-up.
        if let Some(other) = self.busy.remove(&fingerprint).filter(|other| *other != seq) {
            self.busy.insert(fingerprint, other);
        }
    }

    fn forget(&mut self, seq: u64, entry: &Entry) {
        self.leave(seq, entry.state, entry.key);
        if self.again.is_some() {
            // It was done before the group went back: however it left, nobody waits for it any longer.
            self.wake_waiters(entry.fingerprint);
        }
        self.leave_busy(entry.fingerprint, seq);
        self.release_key(seq, entry.key);
    }

    fn retry(
        &mut self,
        seq: u64,
        due: Timestamp,
        (attempts, crashes): (u32, u32),
        key: Option<u64>,
        attempt: Option<&Attempt>,
        block: bool,
    ) {
        let note = attempt.map(|attempt| self.note(attempt));
        let Some(entry) = self.entries.get_mut(seq) else { return };
        entry.attempts = attempts;
        entry.crashes = crashes;
        entry.marked = false;
        entry.journaled = true;
        entry.key = entry.key.or(key);
        if let Some(note) = note {
            let history = entry.history.get_or_insert_default();
            if history.len() >= limits::HISTORY_MAX {
                history.remove(0);
            }
            history.push(note);
        }
        let (key, fingerprint) = (entry.key, entry.fingerprint);
        self.leave_busy(fingerprint, seq);
        self.change(seq, State::Due(due));
        if block {
            if let Some(key) = key {
                self.keys.entry(key).or_default().holder = Some(seq);
            }
        } else {
            self.release_key(seq, key);
        }
    }

    fn note(&mut self, attempt: &Attempt) -> Note {
        let message = match self.messages.get_key_value(attempt.message.as_str()) {
            Some((message, ())) => Arc::clone(message),
            None => {
                if self.messages.len() >= 4096 {
                    self.messages.retain(|message, ()| Arc::strong_count(message) > 1);
                }
                let message: Arc<str> = Arc::from(attempt.message.as_str());
                self.messages.insert(Arc::clone(&message), ());
                message
            }
        };
        Note { at: attempt.at, took: attempt.took, class: attempt.class, message }
    }

    /// Gives a redriven event its past.
    pub(crate) fn recall(&mut self, seq: u64, past: &[Attempt]) {
        if past.is_empty() || self.entries.get(seq).is_none_or(|entry| entry.recalled) {
            return;
        }
        let mut notes: Vec<Note> = past.iter().map(|attempt| self.note(attempt)).collect();
        if let Some(entry) = self.entries.get_mut(seq) {
            entry.recalled = true;
            notes.append(entry.history.get_or_insert_default());
            notes.drain(..notes.len().saturating_sub(limits::HISTORY_MAX));
            entry.history = Some(Box::new(notes));
        }
    }

    /// Returns the deliveries in a range that are lent or being settled.
    pub(crate) fn lent(&self, from: u64, to: u64) -> Vec<u64> {
        let lent = |entry: &Entry| matches!(entry.state, State::Leased { .. } | State::Settling);
        self.entries.range(from..to.max(from)).filter(|(_, entry)| lent(entry)).map(|(seq, _)| seq).collect()
    }

    /// Notes that the journal names a claim. Not before: a checkpoint would count it, and its record again in the replay.
    pub(crate) fn mark(&mut self, seq: u64) {
        if let Some(entry) = self.entries.get_mut(seq) {
            entry.marked = matches!(entry.state, State::Leased { .. } | State::Settling);
        }
    }

    /// Counts a claim after which the process died: the handler may have killed it.
    pub(crate) fn recall_claim(&mut self, seq: u64) {
        if seq < self.start {
            return;
        }
        self.cover(seq + 1);
        if let Some(entry) = self.entries.get_mut(seq) {
            entry.attempts += 1;
            entry.crashes += 1;
        }
    }
}

//! Claiming: which deliveries a group is lent next.

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_core::{
    clock::Timestamp,
    delivery::{Attempt, Delivery, Lease, LeaseToken, Position},
    event::{DELIVER_AT, EXPIRY_TIME, Event, FingerprintKey, Reader},
    fault::{FaultClass, FaultKind, Result},
    limits, priority,
    store::{Claim, Claimed, GroupSpec, OnFailure, Stored},
};

use super::{
    after::unmet,
    body::{AppendHead, DeadHead, How, Settle},
    frame::Kind,
    group::{Entry, Group, GroupInner, State, Wait},
    journal::JournalReader,
    stream::{Found, OpenIndex},
};

/// How long an event waits whose twin is being processed right now.
const TWIN_WAIT: std::time::Duration = std::time::Duration::from_millis(200);

/// What a claim leaves to be written to the journal.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    pub(crate) settles: Vec<Settle>,
    /// Ranges that do not read back, and what of them was lent at the time.
    pub(crate) lost: Vec<(u64, u64)>,
    /// Claims of handlers that may kill the process.
    pub(crate) marks: Vec<u64>,
}

impl Aside {
    pub(crate) fn is_empty(&self) -> bool {
        self.settles.is_empty() && self.lost.is_empty() && self.marks.is_empty()
    }
}

/// One claim under the lock of its group.
pub(crate) struct Claiming<'a> {
    pub(crate) group: &'a Group,
    pub(crate) inner: &'a mut GroupInner,
    pub(crate) spec: &'a GroupSpec,
    pub(crate) ask: &'a Claim,
    pub(crate) now: Timestamp,
    pub(crate) owner: u64,
    pub(crate) key: &'a FingerprintKey,
    pub(crate) reader: &'a JournalReader,
    pub(crate) open: &'a OpenIndex,
    pub(crate) out: Claimed,
    pub(crate) aside: Aside,
    pub(crate) bytes: usize,
    /// Only what lies before it is lent.
    pub(crate) end: u64,
    /// The next delivery does not fit the bytes of one claim.
    pub(crate) full: bool,
    /// What may be lent gets its rank, and is not lent yet.
    pub(crate) ranking: bool,
}

/// What is in a record that can be delivered.
pub(crate) struct Parsed {
    pub(crate) event: Event,
    pub(crate) accepted_at: Timestamp,
    pub(crate) for_group: Option<u32>,
    past: Vec<Attempt>,
    pub(crate) forced: bool,
}

impl Claiming<'_> {
    pub(crate) fn run(&mut self) -> Result<()> {
        if self.inner.seeking.is_some() {
            return Ok(());
        }
        self.reap();
        self.wake_due();
        let taken = match self.spec.priority_step {
            None => self.take_ready().and_then(|()| self.scan()),
            Some(_) => self.take_ranked(),
        };
        if self.out.deliveries.is_empty() {
            self.out.next_due = self.inner.due.first().map(|(at, _)| *at);
        }
        // What was lent before the disk failed is lent; the next claim meets the failure again.
        if self.out.deliveries.is_empty() { taken } else { Ok(()) }
    }

    fn room(&self) -> usize {
        if self.ranking {
            return limits::ORDER_LOOKAHEAD_MAX;
        }
        let room = self.ask.max.min(limits::CLAIM_MAX).saturating_sub(self.out.deliveries.len());
        let in_flight = usize::try_from(self.inner.in_flight).unwrap_or(usize::MAX);
        if self.full { 0 } else { room.min(limits::IN_FLIGHT_MAX.saturating_sub(in_flight)) }
    }

    /// Takes back what was lent and neither settled nor extended in time.
    fn reap(&mut self) {
        while let Some((expired, seqs)) = self.inner.leases.take_run_out(self.now) {
            for seq in seqs {
                self.reap_one(seq, expired);
            }
        }
    }

    fn reap_one(&mut self, seq: u64, expired: Timestamp) {
        let is_his = |entry: &&Entry| matches!(entry.state, State::Leased { expires, .. } if expires == expired);
        let Some(entry) = self.inner.entries.get(seq).filter(is_his) else { return };
        let message = "the worker neither settled nor extended its lease in time".to_owned();
        let attempt = Attempt { at: self.now, took: self.ask.lease, class: FaultClass::Poison, message };
        let how = How::Retry {
            at: self.now,
            attempts: entry.attempts + 1,
            crashes: entry.crashes + 1,
            key: entry.key,
            attempt: Some(attempt),
        };
        self.aside.settles.push(Settle { group: self.group.id, seq, how });
        self.inner.change(seq, State::Settling);
        self.inner.leases_lost += 1;
        self.out.leases_lost += 1;
    }

    fn wake_due(&mut self) {
        while let Some((_, seq)) = self.inner.due.first().copied().filter(|(at, _)| *at <= self.now) {
            self.inner.change(seq, State::Ready);
        }
        self.inner.wake_expired(self.now);
    }

    /// Lends what was looked at before: rescued, retried and unblocked deliveries, oldest first.
    fn take_ready(&mut self) -> Result<()> {
        while self.room() > 0 {
            let Some(first) = self.inner.ready.first().copied().filter(|first| *first < self.end) else {
                return Ok(());
            };
            let known = self.inner.entries.get(first).map(|entry| entry.at).unwrap_or_default();
            let run = self.inner.ready.iter().zip(first..self.end);
            let run = run.take(self.room()).take_while(|(seq, next)| *seq == next);
            let run = run.count();
            let found = if run == 1 || known != super::segment::Lsn::default() {
                match self.group.stream.read_one(first, known, self.reader, self.open) {
                    Ok(found) => vec![found],
                    Err(fault) if fault.kind == FaultKind::Corrupt => Vec::new(),
                    Err(fault) => return Err(fault),
                }
            } else {
                self.group.stream.read(first, run, limits::CLAIM_BYTES_MAX, &mut None, self.reader, self.open)?
            };
            let end = found.first().map_or(first + 1, |found| found.seq);
            if end > first {
                // Ready deliveries before the first readable one do not read back.
                for lost in first..end.min(first + run as u64) {
                    self.inner.change(lost, State::Settling);
                    self.aside.lost.push((lost, lost + 1));
                }
            }
            for found in found {
                if self.room() == 0 || !self.inner.ready.contains(&found.seq) {
                    break;
                }
                self.consider(&found);
            }
        }
        Ok(())
    }

    /// Gives a rank to everything that may be lent, as far as the group looks, and lends in their order.
    fn take_ranked(&mut self) -> Result<()> {
        if self.room() == 0 {
            return Ok(());
        }
        self.look(true)?;
        loop {
            // One that needs no handler let the next of its key go.
            self.look(false)?;
            let next = self.inner.ranked.iter().map(|(_, seq)| *seq).find(|seq| *seq < self.end);
            let Some(seq) = next.filter(|_| self.room() > 0) else { return Ok(()) };
            let at = self.inner.entries.get(seq).map(|entry| entry.at).unwrap_or_default();
            match self.group.stream.read_one(seq, at, self.reader, self.open) {
                Ok(found) => self.consider(&found),
                Err(fault) if fault.kind == FaultKind::Corrupt => {
                    self.inner.change(seq, State::Settling);
                    self.aside.lost.push((seq, seq + 1));
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Gives a rank to what may be lent; `further`: also to what was not looked at yet.
    fn look(&mut self, further: bool) -> Result<()> {
        self.ranking = true;
        let mut looked = self.take_ready();
        if further && looked.is_ok() {
            looked = self.scan();
        }
        self.ranking = false;
        looked
    }

    /// Gives a delivery its rank, unless others of its order key come first.
    fn rank(&mut self, seq: u64, key: Option<u64>, parsed: &Parsed) {
        if let Some(key) = key
            && !self.take_key(seq, key)
        {
            return;
        }
        let step = self.spec.priority_step.unwrap_or_default();
        self.inner.change(seq, State::Ranked(priority::rank(&parsed.event, parsed.accepted_at, step)));
    }

    /// Looks at events for the first time, from the cursor on.
    fn scan(&mut self) -> Result<()> {
        loop {
            let room = self.room();
            let last = self.inner.end(self.group.stream.last()).min(self.end) - 1;
            if room == 0 || self.inner.cursor > last || self.inner.held_back() >= limits::ORDER_LOOKAHEAD_MAX {
                return Ok(());
            }
            let mut hint = self.inner.hint.take();
            let from = self.inner.cursor;
            let bytes = limits::CLAIM_BYTES_MAX.saturating_sub(self.bytes).max(1);
            let room = room.min(usize::try_from(last - from + 1).unwrap_or(usize::MAX));
            let room = room.min(limits::ORDER_LOOKAHEAD_MAX.saturating_sub(self.inner.held_back()));
            let found = self.group.stream.read(from, room, bytes, &mut hint, self.reader, self.open)?;
            let reached = found.first().map_or(last + 1, |found| found.seq);
            if reached > from {
                // The cursor moves on when the loss is in the journal, so that it is counted once and for good.
                self.aside.lost.push((from, reached));
                return Ok(());
            }
            for found in &found {
                if found.seq != self.inner.cursor || self.room() == 0 {
                    hint = None;
                    break;
                }
                self.inner.cursor += 1;
                let entry = Entry { state: State::New, ..Entry::new(found.at) };
                self.inner.entries.insert(found.seq, entry);
                self.consider(found);
            }
            self.inner.hint = hint;
        }
    }

    /// Decides about one ready delivery: lend it, let it wait, or settle it on the way.
    fn consider(&mut self, found: &Found) {
        let seq = found.seq;
        let Ok(parsed) = parse(found) else {
            self.inner.change(seq, State::Settling);
            self.aside.lost.push((seq, seq + 1));
            return;
        };
        let fingerprint = self.key.of(&parsed.event.source, &parsed.event.id);
        let key = self.spec.order_by.as_ref().and_then(|order| order.key(&parsed.event));
        let before = self.inner.entries.get(seq).and_then(|entry| entry.key);
        if before.is_some() && before != key {
            // The group's order was changed meanwhile: what it held under the old one is free.
            self.inner.release_key(seq, before);
        }
        if let Some(entry) = self.inner.entries.get_mut(seq) {
            entry.at = found.at;
            entry.fingerprint = fingerprint;
            entry.key = key;
        }
        self.inner.recall(seq, &parsed.past);
        if let Some(how) = self.settle_now(seq, &parsed, fingerprint) {
            self.inner.change(seq, State::Settling);
            self.aside.settles.push(Settle { group: self.group.id, seq, how });
            // No handler runs for it, now or after a crash: those behind it need not wait until that is durable.
            if let Some(entry) = self.inner.entries.get_mut(seq) {
                entry.key = None;
            }
            self.inner.release_key(seq, key);
            return;
        }
        if let Some(at) = instant(&parsed.event, DELIVER_AT).filter(|at| *at > self.now) {
            self.schedule(seq, at);
            return;
        }
        if self.waits(seq, key, &parsed) {
            return;
        }
        if self.ranking {
            self.rank(seq, key, &parsed);
            return;
        }
        if !self.out.deliveries.is_empty() && self.bytes + parsed.event.size() > limits::CLAIM_BYTES_MAX {
            self.full = true;
            self.inner.change(seq, State::Ready);
            return;
        }
        if let Some(key) = key
            && !self.take_key(seq, key)
        {
            return;
        }
        let twin = self.inner.ledger.is_some() && self.inner.busy.get(&fingerprint).is_some_and(|other| *other != seq);
        if twin {
            // It keeps its order key: waiting for the twin's outcome is part of its turn.
            self.inner.change(seq, State::Due(self.now.plus(TWIN_WAIT)));
            return;
        }
        self.lend(seq, parsed, fingerprint);
    }

    /// Lets a delivery wait for its time; it stands in the journal, so that it need not be looked at again.
    fn schedule(&mut self, seq: u64, at: Timestamp) {
        self.inner.change(seq, State::Settling);
        let Some(entry) = self.inner.entries.get_mut(seq) else { return };
        // It does not hold its order key while it waits.
        let key = entry.key.take();
        let how = How::Retry { at, attempts: entry.attempts, crashes: entry.crashes, key: None, attempt: None };
        self.aside.settles.push(Settle { group: self.group.id, seq, how });
        self.inner.release_key(seq, key);
    }

    /// Returns how a delivery is settled that needs no handler.
    fn settle_now(&mut self, seq: u64, parsed: &Parsed, fingerprint: u128) -> Option<How> {
        if parsed.for_group.is_some_and(|group| group != self.group.id) {
            return Some(How::NotMine);
        }
        if self.inner.is_known(seq, fingerprint, parsed.forced, self.now) {
            self.out.duplicates += 1;
            return Some(How::Duplicate);
        }
        if instant(&parsed.event, EXPIRY_TIME).is_some_and(|at| at <= self.now) {
            self.out.expired += 1;
            return Some(How::Expired);
        }
        None
    }

    /// Lets a delivery wait when it names events that are not done; false when there are none.
    fn waits(&mut self, seq: u64, key: Option<u64>, parsed: &Parsed) -> bool {
        if !self.spec.after {
            return false;
        }
        let on = match self.inner.entries.get(seq).filter(|entry| entry.may_wait()) {
            Some(_) => unmet(self.inner, self.key, &parsed.event, self.now),
            None => Ok(Vec::new()),
        };
        let on: SmallVec<[_; 1]> = match on {
            Ok(unmet) => unmet.into_iter().map(|(_, on)| on).collect(),
            Err(_) => {
                // The ledger cannot be read now: perhaps a little later.
                self.inner.change(seq, State::Due(self.now.plus(TWIN_WAIT)));
                return true;
            }
        };
        if on.is_empty() {
            return false;
        }
        // It stands in its line as one that failed: it holds its key, or lets the others pass.
        match (self.spec.on_failure, key) {
            (OnFailure::Block, Some(key)) if !self.take_key(seq, key) => return true,
            (OnFailure::Block, _) => {}
            (OnFailure::Skip, _) => {
                if let Some(entry) = self.inner.entries.get_mut(seq) {
                    entry.key = None;
                }
                self.inner.release_key(seq, key);
            }
        }
        let expires_at = instant(&parsed.event, EXPIRY_TIME);
        self.inner.wait_for(seq, Wait { on, accepted_at: parsed.accepted_at, expires_at });
        true
    }

    /// Takes the order key for a delivery, or puts it into the key's queue in stream order.
    fn take_key(&mut self, seq: u64, key: u64) -> bool {
        if self.ranking && self.inner.overtake(seq, key) {
            return true;
        }
        let held = self.inner.keys.entry(key).or_default();
        let first = held.queue.front().is_none_or(|front| *front > seq);
        if held.holder == Some(seq) || held.holder.is_none() && first {
            held.holder = Some(seq);
            return true;
        }
        let at = held.queue.partition_point(|other| *other < seq);
        held.queue.insert(at, seq);
        let free = held.holder.is_none();
        self.inner.change(seq, State::Blocked);
        if free {
            // Nobody holds the key, so its first in line may run.
            let held = self.inner.keys.get_mut(&key);
            if let Some(next) = held.and_then(|held| held.queue.pop_front()) {
                self.inner.blocked -= 1;
                self.inner.attach(next, State::Ready);
            }
        }
        false
    }

    fn lend(&mut self, seq: u64, parsed: Parsed, fingerprint: u128) {
        self.inner.epoch += 1;
        let epoch = self.inner.epoch;
        let expires = self.now.plus(self.ask.lease);
        self.inner.change(seq, State::Leased { epoch, expires });
        self.inner.busy.insert(fingerprint, seq);
        let Some(entry) = self.inner.entries.get_mut(seq) else { return };
        entry.marked = false;
        entry.journaled = false;
        if self.spec.mark_claims {
            self.aside.marks.push(seq);
        }
        self.bytes += parsed.event.size();
        let position = Position::number(seq);
        self.out.deliveries.push(Delivery {
            event: parsed.event,
            stream: self.group.stream.name.clone(),
            position,
            accepted_at: parsed.accepted_at,
            attempt: entry.attempts + 1,
            crashes: entry.crashes,
            history: entry.attempts_made(),
            lease: Lease {
                token: LeaseToken { owner: self.owner, group: self.group.id, position, epoch },
                expires_at: expires,
            },
        });
    }
}

pub(crate) fn instant(event: &Event, name: &str) -> Option<Timestamp> {
    Timestamp::parse(event.extension(name)?).ok()
}

pub(crate) fn parse(found: &Found) -> Result<Parsed> {
    let mut read = Reader { bytes: found.body.clone() };
    let head = if found.kind == Kind::Dead {
        AppendHead { accepted_at: DeadHead::read(&mut read)?.failed_at, ..AppendHead::default() }
    } else {
        AppendHead::read(&mut read)?
    };
    let AppendHead { accepted_at, for_group, past, forced, .. } = head;
    Ok(Parsed { event: Event::decode(read.bytes)?, accepted_at, for_group, past, forced })
}

/// Returns the stored event behind the head of a record.
pub(crate) fn event_bytes(found: &Found) -> Result<Bytes> {
    let mut read = Reader { bytes: found.body.clone() };
    if found.kind == Kind::Dead {
        DeadHead::read(&mut read)?;
    } else {
        AppendHead::read(&mut read)?;
    }
    Ok(read.bytes)
}

impl Parsed {
    /// Tells whether it was tried in an earlier life.
    pub(crate) fn was_tried(&self) -> bool {
        !self.past.is_empty()
    }

    pub(crate) fn stored(self, seq: u64) -> Stored {
        Stored { position: Position::number(seq), accepted_at: self.accepted_at, event: self.event }
    }
}

/// Returns event and acceptance time of a record.
pub(crate) fn stored(found: &Found) -> Result<(Timestamp, Event)> {
    let parsed = parse(found)?;
    Ok((parsed.accepted_at, parsed.event))
}

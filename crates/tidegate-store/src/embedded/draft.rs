//! A frame in the making: numbers its events, finds repeats, and applies it once it is durable.
//!
//! What is written was known a moment before, so applying a live frame reads nothing back; it must do exactly what
//! `State::apply` does with the same records after a crash.

use std::{
    collections::hash_map,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use parking_lot::MutexGuard;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::{Fingerprint, put_number},
    store::{Appended, OnFailure},
};

use super::{
    body::{self, AppendHead, DeadHead},
    commit::{Answers, Item, Step},
    frame::{self, FrameBuilder, Kind},
    group::{Group, GroupInner},
    seen::{FastMap, Mark},
    segment::{Footer, Lsn},
    state::{State, index_record},
    stream::{Stream, StreamInner},
};

/// A stream that a frame brings events to.
#[derive(Debug)]
struct Slot {
    stream: Arc<Stream>,
    /// Newest sequence number given out.
    assigned: u64,
    deduped: bool,
    /// Events of this very frame.
    fresh: FastMap<Fingerprint, u64>,
}

/// A record of the frame and what it is.
#[derive(Debug)]
struct Placed {
    offset: u32,
    len: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    /// An event from outside.
    Append { slot: usize, seq: u64, fingerprint: Fingerprint },
    /// A settlement: step and item, and the group among those touched.
    Settle { step: usize, item: usize, group: usize },
    /// Anything else; read back from the frame.
    Other,
}

/// A frame in the making. Kept from frame to frame for its memory.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    now: Timestamp,
    slots: Vec<Slot>,
    slot_of: FastMap<u64, usize>,
    spare: Vec<FastMap<Fingerprint, u64>>,
    placed: Vec<Placed>,
    /// Groups whose deliveries are settled here.
    groups: Vec<(u32, Option<Arc<Group>>)>,
    answers: Vec<Answers>,
}

impl Draft {
    /// Starts a new frame.
    pub(crate) fn start(&mut self, now: Timestamp) {
        self.now = now;
        for slot in self.slots.drain(..) {
            let mut fresh = slot.fresh;
            fresh.clear();
            self.spare.push(fresh);
        }
        self.spare.truncate(8);
        self.slot_of.clear();
        self.placed.clear();
        self.groups.clear();
        self.answers.clear();
    }

    pub(crate) fn take_answers(&mut self) -> Vec<Answers> {
        std::mem::take(&mut self.answers)
    }

    fn slot(&mut self, stream: &Arc<Stream>) -> usize {
        match self.slot_of.entry(u64::from(stream.id)) {
            hash_map::Entry::Occupied(known) => *known.get(),
            hash_map::Entry::Vacant(free) => {
                let deduped = stream.spec.read().dedupe.is_some();
                let fresh = self.spare.pop().unwrap_or_default();
                self.slots.push(Slot { stream: Arc::clone(stream), assigned: stream.last(), deduped, fresh });
                *free.insert(self.slots.len() - 1)
            }
        }
    }

    fn touch(&mut self, group: u32, state: &State) -> usize {
        if let Some(at) = self.groups.iter().rposition(|(known, _)| *known == group) {
            return at;
        }
        self.groups.push((group, state.registry.read().groups.get(&group).map(Arc::clone)));
        self.groups.len() - 1
    }

    fn place(&mut self, frame: &FrameBuilder, offset: usize, what: What) {
        let len = frame.bytes.len() - offset;
        // A frame is bounded far below four gigabytes.
        self.placed.push(Placed { offset: offset as u32, len: len as u32, what });
    }

    /// Adds the records of one step.
    pub(crate) fn encode(&mut self, step: &Step, frame: &mut FrameBuilder, state: &State) {
        let mut answers = Answers::new();
        for (index, item) in step.items.iter().enumerate() {
            match item {
                Item::Append { stream, start, end, fingerprint, redriven } => {
                    let event = &step.arena[*start as usize..*end as usize];
                    let slot = self.slot(stream);
                    answers.push(match redriven {
                        None => self.append(slot, event, *fingerprint, frame),
                        Some(head) => self.redrive(slot, event, head, frame),
                    });
                }
                Item::Settle(settle) => {
                    let group = self.touch(settle.group, state);
                    let offset = frame.push(Kind::Settle, |out| settle.encode(out));
                    self.place(frame, offset, What::Settle { step: self.answers.len(), item: index, group });
                }
                Item::Dead { stream, head, event } => {
                    self.touch(head.group, state);
                    let slot = self.slot(stream);
                    self.slots[slot].assigned += 1;
                    let seq = self.slots[slot].assigned;
                    let mut head = DeadHead { stream: stream.id, seq, ..(**head).clone() };
                    if head.imported.is_some() {
                        answers.push(Appended { position: Position::number(seq), duplicate: false });
                    } else {
                        head.failed_at = self.now;
                    }
                    let offset = frame.push(Kind::Dead, |out| {
                        head.encode(out);
                        out.extend_from_slice(event);
                    });
                    self.place(frame, offset, What::Other);
                }
                Item::DeadMove(step) => {
                    let mut step = (**step).clone();
                    step.at = self.now;
                    for (_, went) in &mut step.entries {
                        let index = usize::try_from(*went).unwrap_or(0).checked_sub(1);
                        let answer: Option<&Appended> = index.and_then(|index| answers.get(index));
                        *went = answer.map_or(0, |answer| answer.position.low);
                    }
                    let offset = frame.push(Kind::DeadMove, |out| step.encode(out));
                    self.place(frame, offset, What::Other);
                }
                Item::Raw(kind, body) => {
                    if matches!(kind, Kind::Drop | Kind::Mark | Kind::LetGo | Kind::Forget | Kind::Seek)
                        && let Some((group, _)) = body::peek_seq(body)
                    {
                        self.touch(group, state);
                    }
                    let offset = frame.push(*kind, |out| out.extend_from_slice(body));
                    self.place(frame, offset, What::Other);
                }
            }
        }
        self.answers.push(answers);
    }

    /// Adds an event, or finds under which number it was accepted before.
    fn append(&mut self, slot: usize, event: &[u8], fingerprint: Fingerprint, frame: &mut FrameBuilder) -> Appended {
        let now = self.now;
        let Slot { stream, assigned, deduped, fresh } = &mut self.slots[slot];
        if *deduped && let Some(seq) = known(stream, fingerprint, fresh, now) {
            stream.duplicates.fetch_add(1, Ordering::Relaxed);
            return Appended { position: Position::number(seq), duplicate: true };
        }
        *assigned += 1;
        let seq = *assigned;
        if *deduped {
            fresh.insert(fingerprint, seq);
        }
        let id = u64::from(stream.id);
        let offset = frame.push(Kind::Append, |out| {
            put_number(out, id);
            put_number(out, seq);
            put_number(out, now.as_millis().max(0).unsigned_abs());
            out.push(0);
            out.extend_from_slice(event);
        });
        self.place(frame, offset, What::Append { slot, seq, fingerprint });
        Appended { position: Position::number(seq), duplicate: false }
    }

    fn redrive(&mut self, slot: usize, event: &[u8], head: &AppendHead, frame: &mut FrameBuilder) -> Appended {
        let Slot { stream, assigned, .. } = &mut self.slots[slot];
        *assigned += 1;
        let seq = *assigned;
        let head = AppendHead { stream: stream.id, seq, accepted_at: self.now, ..head.clone() };
        let offset = frame.push(Kind::Append, |out| {
            head.encode(out);
            out.extend_from_slice(event);
        });
        self.place(frame, offset, What::Other);
        Appended { position: Position::number(seq), duplicate: false }
    }

    /// Takes the events into the index of the segment.
    pub(crate) fn index(&self, footer: &mut Footer, at: Lsn, bytes: &Bytes, salt: u32) {
        for placed in &self.placed {
            let place = at.offset() + u64::from(placed.offset);
            match &placed.what {
                What::Append { slot, seq, .. } => {
                    let span = footer.span(self.slots[*slot].stream.id);
                    span.add(*seq, place, u64::from(placed.len), self.now.as_millis());
                }
                What::Settle { .. } => {}
                What::Other => {
                    if let Ok(record) = frame::read_record(bytes, placed.offset as usize, salt) {
                        index_record(footer, Lsn(at.0 + u64::from(placed.offset)), &record);
                    }
                }
            }
        }
    }

    /// Applies the durable frame; returns the groups that may have work now.
    pub(crate) fn apply(&self, steps: &[Step], state: &State, at: Lsn, bytes: &Bytes, salt: u32) -> Vec<Arc<Group>> {
        let mut held = Held::None;
        for placed in &self.placed {
            let place = Lsn(at.0 + u64::from(placed.offset));
            match &placed.what {
                What::Append { slot, seq, fingerprint } => {
                    let stream = &self.slots[*slot].stream;
                    let inner = held.stream(stream);
                    stream.applied(inner, *seq, place);
                    inner.applied = place;
                    if let Some(seen) = &mut inner.dedupe {
                        seen.insert(*fingerprint, Mark { number: *seq, at: self.now.as_millis() });
                    }
                }
                What::Settle { step, item, group } => {
                    let Some(group) = &self.groups[*group].1 else { continue };
                    if let Some(Item::Settle(settle)) = steps.get(*step).and_then(|step| step.items.get(*item)) {
                        let (inner, block) = held.group(group);
                        inner.settle(settle, block);
                        inner.applied = place;
                    }
                }
                What::Other => {
                    held = Held::None;
                    let applied = match frame::read_record(bytes, placed.offset as usize, salt) {
                        Ok(record) => state.apply(place, &record, false).map_err(|fault| fault.note().to_owned()),
                        Err(why) => Err(format!("a record just written reads as {why:?}")),
                    };
                    if let Err(what) = applied {
                        state.report_damage("journal in memory", &what);
                    }
                }
            }
        }
        drop(held);
        let mut wake: Vec<Arc<Group>> = self.groups.iter().filter_map(|(_, group)| group.clone()).collect();
        wake.iter().for_each(|group| group.show_passed(&group.inner.lock()));
        for slot in &self.slots {
            wake.extend(slot.stream.groups.read().iter().map(Arc::clone));
        }
        wake
    }
}

/// The one lock that is held while records that follow each other are applied.
enum Held<'a> {
    None,
    Stream(u32, MutexGuard<'a, StreamInner>),
    Group(u32, bool, MutexGuard<'a, GroupInner>),
}

impl<'a> Held<'a> {
    fn stream(&mut self, stream: &'a Stream) -> &mut StreamInner {
        if !matches!(self, Self::Stream(id, _) if *id == stream.id) {
            *self = Self::None;
            *self = Self::Stream(stream.id, stream.inner.lock());
        }
        match self {
            Self::Stream(_, inner) => inner,
            Self::None | Self::Group(..) => unreachable!("it was locked just now"),
        }
    }

    fn group(&mut self, group: &'a Group) -> (&mut GroupInner, bool) {
        if !matches!(self, Self::Group(id, ..) if *id == group.id) {
            *self = Self::None;
            let block = group.spec.read().on_failure == OnFailure::Block;
            *self = Self::Group(group.id, block, group.inner.lock());
        }
        match self {
            Self::Group(_, block, inner) => (inner, *block),
            Self::None | Self::Stream(..) => unreachable!("it was locked just now"),
        }
    }
}

/// Returns the number under which an event was accepted before, inside the dedupe window.
fn known(stream: &Stream, fingerprint: Fingerprint, fresh: &FastMap<Fingerprint, u64>, now: Timestamp) -> Option<u64> {
    if let Some(seq) = fresh.get(&fingerprint) {
        return Some(*seq);
    }
    // A window that cannot be read lets the repeat in: the ledger of each group still catches it.
    let inner = stream.inner.lock();
    inner.dedupe.as_ref()?.get(fingerprint, now).ok().flatten().map(|mark| mark.number)
}

//! Answers for people who ask where an event is and why it does not run. Reads only; takes each lock shortly.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytestring::ByteString;
use tidegate_core::{
    after::EventName,
    clock::Timestamp,
    delivery::Position,
    event::{DELIVER_AT, Event, Reader},
    fault::{FaultKind, Result},
    limits,
    store::{DeadState, Stored},
    whereabouts::{Find, Finding, Place, Sighting, Standing, Step, StepKind, Steps, Wait},
};

use super::{
    Embedded,
    body::{self, AppendHead, DeadHead, How, Settle},
    claim::stored,
    frame::{Kind, Record, Start},
    group::{Entry, Group, GroupInner, State},
    journal::Records,
    seen::{Mark, Seen},
    segment::{DATA_START, Lsn},
    stream::Stream,
};

/// Events that are read in one step of a search.
const SLICE: u64 = 256;
/// Newest events of each stream that are looked at before the indexes are asked for the sources that they show.
const GLANCE: u64 = 1024;
/// Most sources for which the indexes are asked.
const SOURCES_MAX: usize = 64;

/// A search on its way.
struct Hunt<'a> {
    ask: &'a Find,
    streams: Vec<Arc<Stream>>,
    /// How far down each stream has been looked at: its newest unseen position.
    down_to: BTreeMap<u32, u64>,
    sources: BTreeSet<ByteString>,
    asked: BTreeSet<ByteString>,
    places: BTreeMap<(u32, u64), Sighting>,
    looked: u64,
}

impl Hunt<'_> {
    fn see(&mut self, stream: &Stream, stored: Stored) {
        let event = &stored.event;
        let fits = self.ask.source.as_ref().is_none_or(|source| *source == event.source);
        if event.id == self.ask.id && fits && self.places.len() < limits::FIND_PLACES_MAX {
            let position = stored.position;
            let sighting = Sighting { stream: stream.name.clone(), position, stored: Some(stored) };
            self.places.insert((stream.id, position.low), sighting);
        } else if self.ask.source.is_none() && self.sources.len() < SOURCES_MAX {
            self.sources.insert(event.source.clone());
        }
    }

    fn left(&self) -> u64 {
        self.ask.look_max.saturating_sub(self.looked)
    }

    fn is_whole(&self) -> bool {
        self.streams.iter().all(|stream| self.down_to.get(&stream.id).is_some_and(|down| *down < stream.first().max(1)))
    }

    fn finish(mut self) -> Finding {
        let whole = self.is_whole();
        let mut sightings = Vec::with_capacity(self.places.len());
        for stream in &self.streams {
            let of_stream = self.places.extract_if((stream.id, 0)..=(stream.id, u64::MAX), |_, _| true);
            let mut of_stream: Vec<_> = of_stream.map(|(_, sighting)| sighting).collect();
            of_stream.reverse();
            sightings.append(&mut of_stream);
        }
        Finding { sightings, looked: self.looked, whole }
    }
}

impl Embedded {
    /// Finds an event by its id.
    pub(crate) async fn find_event(&self, ask: &Find) -> Result<Finding> {
        let wanted = ask.stream.as_ref().map(tidegate_core::names::StreamName::origin);
        if let Some(name) = &wanted {
            self.state.stream(name)?;
        }
        let all: Vec<Arc<Stream>> = self.state.registry.read().streams.values().map(Arc::clone).collect();
        let of_interest = all.into_iter().filter(|one| wanted.as_ref().is_none_or(|name| one.name.origin() == *name));
        let (letters, streams): (Vec<_>, Vec<_>) = of_interest.partition(|stream| stream.name.is_dead_letters());
        let mut hunt = Hunt {
            ask,
            down_to: streams.iter().chain(&letters).map(|stream| (stream.id, stream.last())).collect(),
            streams,
            sources: ask.source.iter().cloned().collect(),
            asked: BTreeSet::new(),
            places: BTreeMap::new(),
            looked: 0,
        };
        self.ask_indexes(&mut hunt)?;
        for most in [GLANCE, u64::MAX] {
            for stream in hunt.streams.clone() {
                if hunt.places.is_empty() {
                    self.look_down(&mut hunt, &stream, most).await?;
                }
            }
            self.ask_indexes(&mut hunt)?;
        }
        hunt.streams.extend(letters.iter().map(Arc::clone));
        for stream in letters {
            if hunt.places.is_empty() {
                self.look_down(&mut hunt, &stream, u64::MAX).await?;
            }
        }
        Ok(hunt.finish())
    }

    /// Looks at events of a stream, newest first, at most so many and as many as the search may still look at.
    async fn look_down(&self, hunt: &mut Hunt<'_>, stream: &Stream, most: u64) -> Result<()> {
        let first = stream.first().max(1);
        let mut left = most.min(hunt.left());
        loop {
            let to = hunt.down_to.get(&stream.id).copied().unwrap_or(0);
            if to < first || left == 0 {
                return Ok(());
            }
            let from = first.max((to + 1).saturating_sub(SLICE.min(left)));
            self.look_at(hunt, stream, from, to)?;
            let count = to + 1 - from;
            left -= count;
            hunt.looked += count;
            hunt.down_to.insert(stream.id, from - 1);
            // Others have work to do while somebody searches.
            tokio::task::yield_now().await;
        }
    }

    fn look_at(&self, hunt: &mut Hunt<'_>, stream: &Stream, from: u64, to: u64) -> Result<()> {
        let (mut next, mut hint) = (from, None);
        while next <= to {
            let max = usize::try_from(to + 1 - next).unwrap_or(usize::MAX);
            let (reader, open) = (&self.state.reader, &self.state.open);
            let found = stream.read(next, max, limits::CLAIM_BYTES_MAX, &mut hint, reader, open)?;
            let Some(last) = found.last().map(|found| found.seq) else { return Ok(()) };
            for found in found.iter().filter(|found| found.seq <= to) {
                if let Ok((accepted_at, event)) = stored(found) {
                    hunt.see(stream, Stored { position: Position::number(found.seq), accepted_at, event });
                }
            }
            next = last + 1;
        }
        Ok(())
    }

    /// Asks dedupe windows, ledgers and what is lent for every source that was not asked for yet.
    fn ask_indexes(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        let now = self.state.clock.now();
        let fresh: Vec<ByteString> = hunt.sources.difference(&hunt.asked).cloned().collect();
        for source in fresh {
            let fingerprint = self.state.key.of(&source, &hunt.ask.id);
            let known = |seen: &Option<Seen>| -> Result<Option<u64>> {
                let mark = seen.as_ref().map(|seen| seen.get(fingerprint, now)).transpose()?.flatten();
                Ok(mark.map(|mark| mark.seq()))
            };
            for stream in hunt.streams.clone() {
                let mut seqs: BTreeSet<u64> = known(&stream.inner.lock().dedupe)?.into_iter().collect();
                for group in stream.groups.read().iter() {
                    let inner = group.inner.lock();
                    seqs.extend(known(&inner.ledger)?);
                    seqs.extend(inner.busy.get(&fingerprint));
                }
                for seq in seqs {
                    let kept = self.event_at(&stream, seq)?.filter(|(_, event)| event.id == hunt.ask.id);
                    let position = Position::number(seq);
                    let stored = kept.map(|(head, event)| Stored { position, accepted_at: head.accepted_at, event });
                    let sighting = Sighting { stream: stream.name.clone(), position, stored };
                    hunt.places.insert((stream.id, seq), sighting);
                }
            }
            hunt.asked.insert(source);
        }
        Ok(())
    }

    /// Reads an event with what stands before it; none when it is not kept.
    fn event_at(&self, stream: &Stream, seq: u64) -> Result<Option<(AppendHead, Event)>> {
        if seq < stream.first() || seq > stream.last() {
            return Ok(None);
        }
        let found = match stream.read_one(seq, Lsn::default(), &self.state.reader, &self.state.open) {
            Ok(found) => found,
            Err(fault) if fault.kind == FaultKind::Corrupt => return Ok(None),
            Err(fault) => return Err(fault),
        };
        if found.kind == Kind::Dead {
            let (accepted_at, event) = stored(&found)?;
            return Ok(Some((AppendHead { accepted_at, ..AppendHead::default() }, event)));
        }
        let mut read = Reader { bytes: found.body };
        let head = AppendHead::read(&mut read)?;
        Ok(Some((head, Event::decode(read.bytes)?)))
    }

    /// Says where an event stands in a group.
    pub(crate) fn standing_of(&self, group: &Group, seq: u64) -> Result<Standing> {
        if seq == 0 || seq > group.stream.last() {
            return Ok(Place::Absent.into());
        }
        let kept = self.event_at(&group.stream, seq)?;
        let only = kept.as_ref().and_then(|(head, _)| head.for_group);
        let (start, end) = {
            let inner = group.inner.lock();
            (inner.start, inner.end)
        };
        if seq < start || only.is_some_and(|only| only != group.id) || only.is_none() && seq >= end {
            return Ok(Place::Foreign.into());
        }
        let event = kept.as_ref().map(|(_, event)| event);
        let unread = kept.as_ref().filter(|(head, _)| head.past.is_empty());
        let waits_for = unread.map(|(_, event)| self.waits_for(group, seq, event)).transpose()?.unwrap_or_default();
        {
            let inner = group.inner.lock();
            if let Some(entry) = inner.entries.get(seq) {
                let place = match waits_for.is_empty() {
                    true => open_place(&inner, seq, entry, event, self.state.clock.now()),
                    false => Place::After { waits_for },
                };
                let (attempts, crashes, history) = (entry.attempts, entry.crashes, entry.attempts_made());
                return Ok(Standing { place, attempts, crashes, history });
            }
            if seq >= inner.cursor && seq < inner.end {
                let order = group.spec.read().order_by.clone();
                let key = order.zip(event).and_then(|(order, event)| order.key(event));
                // What is behind it may be more urgent.
                let upto = if group.spec.read().priority_step.is_some() { group.stream.last().max(seq) } else { seq };
                return Ok(unseen_place(&inner, upto, key, waits_for).into());
            }
        }
        self.settled_place(group, seq, event).map(Standing::from)
    }

    /// Says how an event was settled, by what remembers it: the dead letters, the ledger, the journal.
    fn settled_place(&self, group: &Group, seq: u64, event: Option<&Event>) -> Result<Place> {
        if let Some((id, state, at)) = self.letter_of(group, seq) {
            return Ok(Place::Dead { id, state, at });
        }
        if let Some(event) = event {
            let fingerprint = self.state.key.of(&event.source, &event.id);
            let inner = group.inner.lock();
            let seen = inner.ledger.as_ref().map(|seen| seen.get(fingerprint, self.state.clock.now()));
            if let Some(mark) = seen.transpose()?.flatten().filter(Mark::is_done) {
                let at = Timestamp::from_millis(mark.at);
                return Ok(match mark.seq().cmp(&seq) {
                    std::cmp::Ordering::Less => Place::Duplicate { of: Position::number(mark.seq()), at },
                    std::cmp::Ordering::Equal => Place::Done { at: Some(at) },
                    // It was done once more later, by force.
                    std::cmp::Ordering::Greater => Place::Done { at: None },
                });
            }
        }
        let steps = self.steps_of(&group.stream, seq)?;
        let last = steps.items.iter().rev().find(|step| step.group == group.name && step.what.is_final());
        Ok(last.map_or(Place::Settled, |step| match &step.what {
            StepKind::Done => Place::Done { at: Some(step.at) },
            StepKind::Duplicate => Place::Done { at: None },
            StepKind::Expired => Place::Expired,
            StepKind::Foreign => Place::Foreign,
            StepKind::Skipped => Place::Skipped,
            StepKind::Dropped => Place::Dropped,
            // The letter itself is forgotten.
            StepKind::Dead { id, .. } => Place::Dead { id: *id, state: DeadState::Expired, at: step.at },
            StepKind::Lent | StepKind::Unblocked { .. } | StepKind::PutOff { .. } => Place::Settled,
        }))
    }

    /// Finds the newest dead letter that was made of an event.
    fn letter_of(&self, group: &Group, seq: u64) -> Option<(Position, DeadState, Timestamp)> {
        let stream = self.state.dead_stream(&group.stream.name).ok()?;
        let inner = stream.inner.lock();
        let (id, letter) = inner.dead.as_ref()?.newest_of(group.stream.id, seq, group.id)?;
        Some((Position::number(id), letter.state, letter.failed_at))
    }

    /// Reads what the journal says of an event.
    pub(crate) fn steps_of(&self, stream: &Stream, seq: u64) -> Result<Steps> {
        let reader = &self.state.reader;
        let groups = stream.groups.read();
        let mut open: BTreeMap<u32, Arc<Group>> = groups.iter().map(|group| (group.id, Arc::clone(group))).collect();
        drop(groups);
        let found = match stream.read_one(seq, Lsn::default(), reader, &self.state.open) {
            Ok(found) if seq >= stream.first() => found,
            Ok(_) => return Ok(Steps::default()),
            Err(fault) if fault.kind == FaultKind::Corrupt => return Ok(Steps::default()),
            Err(fault) => return Err(fault),
        };
        // A copy stands later than what was written of the event before it was copied.
        let moved = reader.record(found.at)?.kind == Kind::Moved;
        let mut steps = Steps { items: Vec::new(), whole: !moved };
        let mut at = stored(&found)?.0;
        let mut bytes = 0;
        let numbers: Vec<u64> = reader.segments.read().range(found.at.segment()..).map(|(number, _)| *number).collect();
        for number in numbers {
            let from = if number == found.at.segment() { found.at } else { Lsn::new(number, DATA_START) };
            let mut records = Records::new(reader, from);
            while let Some((_, record)) = records.next()? {
                if open.is_empty() {
                    return Ok(steps);
                }
                bytes += record.len;
                if bytes > limits::STEPS_BYTES_MAX {
                    steps.whole = false;
                    return Ok(steps);
                }
                if record.kind == Kind::Start {
                    at = Start::read(&record).map_or(at, |start| Timestamp::from_millis(start.at));
                }
                let Some((id, what)) = step_in(&record, stream.id, seq)? else { continue };
                let Some(group) = open.get(&id) else { continue };
                let (name, is_final) = (group.name.clone(), what.is_final());
                steps.items.push(Step { at, group: name, what });
                if is_final {
                    open.remove(&id);
                }
            }
        }
        Ok(steps)
    }
}

/// Says where an event is that the group has looked at and not settled.
fn open_place(inner: &GroupInner, seq: u64, entry: &Entry, event: Option<&Event>, now: Timestamp) -> Place {
    let waiting = || Place::Waiting { ahead: inner.ready.range(..seq).count() as u64, held_up: false };
    match entry.state {
        State::New | State::Ready => waiting(),
        State::Ranked(rank) => Place::Waiting { ahead: inner.before(rank, seq), held_up: false },
        State::Blocked => {
            let key = entry.key.and_then(|key| inner.keys.get(&key));
            let by = key.and_then(|key| key.holder.or_else(|| key.queue.front().copied()));
            Place::Blocked { by: by.filter(|by| *by != seq).map(Position::number) }
        }
        // What it waits for was done just now.
        State::After => waiting(),
        State::Due(until) => {
            let twin = inner.busy.get(&entry.fingerprint).filter(|other| **other != seq && !entry.journaled);
            let wanted = event.and_then(|event| Timestamp::parse(event.extension(DELIVER_AT)?).ok());
            match twin {
                Some(twin) => Place::Scheduled { until, wait: Wait::Twin(Position::number(*twin)) },
                None if until <= now => waiting(),
                None if wanted == Some(until) => Place::Scheduled { until, wait: Wait::DeliverAt },
                None => Place::Scheduled { until, wait: Wait::Retry },
            }
        }
        State::Leased { expires, .. } => Place::Lent { until: expires },
        State::Settling => Place::Settling,
    }
}

/// Says where an event is that the group has not looked at; `upto`: the last one that can go before it is the one before.
fn unseen_place(inner: &GroupInner, upto: u64, key: Option<u64>, waits_for: Vec<EventName>) -> Place {
    if !waits_for.is_empty() {
        return Place::After { waits_for };
    }
    let held = key.and_then(|key| inner.keys.get(&key));
    if let Some(by) = held.and_then(|key| key.holder.or_else(|| key.queue.front().copied())) {
        return Place::Blocked { by: Some(Position::number(by)) };
    }
    let held_up = inner.held_back() >= limits::ORDER_LOOKAHEAD_MAX;
    Place::Waiting { ahead: (inner.ready.len() + inner.ranked.len()) as u64 + (upto - inner.cursor), held_up }
}

/// Returns what a record says of an event, and of which group.
fn step_in(record: &Record, stream: u32, seq: u64) -> Result<Option<(u32, StepKind)>> {
    match record.kind {
        Kind::Settle => {
            if body::peek_seq(&record.body).is_none_or(|(_, number)| number != seq) {
                return Ok(None);
            }
            let settle = Settle::read(&record.body)?;
            let what = match settle.how {
                How::Done { .. } => StepKind::Done,
                How::Duplicate => StepKind::Duplicate,
                How::Expired => StepKind::Expired,
                How::NotMine => StepKind::Foreign,
                How::Skipped { .. } => StepKind::Skipped,
                How::Retry { at, attempts, attempt, .. } => StepKind::PutOff { until: at, attempts, attempt },
            };
            Ok(Some((settle.group, what)))
        }
        Kind::Dead => {
            let head = DeadHead::read(&mut Reader { bytes: record.body.clone() })?;
            if (head.origin, head.origin_seq) != (stream, seq) {
                return Ok(None);
            }
            let attempts = u32::try_from(head.attempts.len()).unwrap_or(u32::MAX);
            let (id, class, message) = (Position::number(head.seq), head.class, head.message);
            Ok(Some((head.group, StepKind::Dead { id, class, message, attempts })))
        }
        Kind::Mark => {
            let (group, seqs) = body::read_numbers(&record.body)?;
            Ok(seqs.contains(&seq).then_some((group, StepKind::Lent)))
        }
        Kind::LetGo => {
            let (group, seqs, by, reason) = body::read_let_go(&record.body)?;
            Ok(seqs.contains(&seq).then_some((group, StepKind::Unblocked { by, reason })))
        }
        Kind::Drop => {
            let (group, numbers) = body::read_numbers(&record.body)?;
            let [from, to, lent @ ..] = numbers.as_slice() else { return Ok(None) };
            let dropped = (*from..*to).contains(&seq) && !lent.contains(&seq);
            Ok(dropped.then_some((group, StepKind::Dropped)))
        }
        Kind::Start | Kind::End | Kind::Append | Kind::DeadMove | Kind::Stream | Kind::Group => Ok(None),
        Kind::Ungroup | Kind::State | Kind::Forget | Kind::Clean | Kind::Seek | Kind::Moved | Kind::Footer => Ok(None),
    }
}

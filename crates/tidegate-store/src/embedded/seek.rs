//! Moving a group to another place in its stream, and counting beforehand what that would mean.

use std::{ops::Range, sync::Arc};

use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::EXPIRY_TIME,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    seek::{Rehearsal, SeekTo, Sought},
    store::Durability,
};

use super::{
    Embedded, body,
    claim::{Parsed, instant, parse},
    commit::{Item, Step},
    frame::Kind,
    group::Group,
};

impl Embedded {
    /// Finds the sequence number of a place.
    pub(crate) fn find_place(&self, group: &Group, place: &SeekTo) -> Result<u64> {
        let first = group.stream.first();
        let latest = group.inner.lock().end(group.stream.last()).max(first);
        Ok(match place {
            SeekTo::Earliest => first,
            SeekTo::Latest => latest,
            SeekTo::At(position) if position.high > 0 => {
                return Err(Fault::invalid(format!("{position} is not a position of this engine")));
            }
            SeekTo::At(position) => position.low.clamp(first, latest),
            SeekTo::Back(count) => group.inner.lock().cursor.saturating_sub(*count).max(first),
            SeekTo::Since(at) => self.first_since(group, *at, first, latest)?,
            SeekTo::Event(_) => return Err(Fault::bug("an engine was asked to look for an event")),
        })
    }

    /// Finds the first event of a range that was accepted at a time or later; the clock went only forward meanwhile.
    fn first_since(&self, group: &Group, at: Timestamp, mut from: u64, mut to: u64) -> Result<u64> {
        while from < to {
            let middle = from + (to - from) / 2;
            let found = group.stream.read(middle, 1, usize::MAX, &mut None, &self.state.reader, &self.state.open)?;
            // What does not read back says nothing of its time; the next one that does stands for it.
            let Some(found) = found.first().filter(|found| found.seq < to) else {
                to = middle;
                continue;
            };
            if parse(found)?.accepted_at < at { from = found.seq + 1 } else { to = middle }
        }
        Ok(from)
    }

    /// Moves a group.
    pub(crate) async fn move_group(&self, group: Arc<Group>, to: u64, again: bool) -> Result<Sought> {
        self.state.check_failed()?;
        let mut step = Step::new(Durability::Sync);
        let from = self.stage_seek(&group, to)?;
        let mut body = Vec::new();
        let mut numbers = vec![to, group.inner.lock().high.max(from)];
        if again {
            numbers.extend([group.stream.last() + 1, self.state.clock.now().as_millis().cast_unsigned()]);
        }
        body::put_numbers(&mut body, group.id, &numbers);
        step.items.push(Item::Raw(Kind::Seek, body));
        step.seeking = Some(group);
        self.commit(step).await?;
        Ok(Sought { from: Position::number(from), to: Position::number(to) })
    }

    /// Holds back claims and retention, so that what was true of the new place stays true until it is durable.
    fn stage_seek(&self, group: &Group, to: u64) -> Result<u64> {
        // Whoever moves the start of the stream on reads this list meanwhile.
        let _still = group.stream.groups.write();
        let (first, last) = (group.stream.first(), group.stream.last());
        if to < first || to > last + 1 {
            let note = format!(
                "position {to} is not kept: stream {:?} has {first} to {last}, and {} stands behind the newest",
                group.stream.name.as_str(),
                last + 1
            );
            return Err(Fault::invalid(note));
        }
        let now = self.state.clock.now();
        let mut inner = group.inner.lock();
        if inner.end < u64::MAX {
            let note = format!("group {:?} has an end and is not moved", group.name.as_str());
            return Err(Fault::conflict(note));
        }
        let run_out = inner.leases.count_run_out(now) as u64;
        let in_flight = inner.in_flight - run_out;
        if in_flight > 0 || inner.seeking.is_some() {
            let note =
                format!("group {:?} has {in_flight} deliveries in flight and stays where it is", group.name.as_str());
            return Err(Fault::new(FaultKind::Conflict, Origin::Caller, Retry::Later, note));
        }
        inner.seeking = Some(to);
        Ok(inner.cursor)
    }

    /// Counts what would become of events without lending any.
    pub(crate) fn count_ahead(&self, group: &Group, range: Range<u64>, max: usize) -> Result<Rehearsal> {
        let now = self.state.clock.now();
        let from = range.start.max(group.stream.first());
        let end = range.end.min(group.inner.lock().end(group.stream.last()));
        let room = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
        if room == 0 {
            return Ok(Rehearsal::default());
        }
        let max = max.clamp(1, limits::PAGE_MAX).min(room);
        let reader = &self.state.reader;
        let found = group.stream.read(from, max, limits::CLAIM_BYTES_MAX, &mut None, reader, &self.state.open)?;
        let mut counted = Rehearsal::default();
        let events: Vec<(u64, Parsed)> = found
            .iter()
            .take_while(|found| found.seq < end)
            .map(|found| Ok((found.seq, parse(found)?)))
            .collect::<Result<_>>()?;
        let inner = group.inner.lock();
        for (seq, parsed) in &events {
            let fingerprint = self.state.key.of(&parsed.event.source, &parsed.event.id);
            let is_known = inner.is_known(*seq, fingerprint, parsed.forced, now);
            let is_expired = instant(&parsed.event, EXPIRY_TIME).is_some_and(|at| at <= now);
            counted.count(parsed.for_group.map(|id| id == group.id), is_known, is_expired);
        }
        let next = found.last().map(|found| found.seq + 1).filter(|next| *next < end);
        counted.next = next.map(Position::number);
        Ok(counted)
    }
}

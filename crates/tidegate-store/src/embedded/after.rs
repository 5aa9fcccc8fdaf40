//! Events that wait for others: what of their `after` is not done, who waits, and letting them go by hand.

use std::sync::Arc;

use tidegate_core::{
    after::{self, EventName},
    clock::Timestamp,
    delivery::Position,
    event::{Event, Fingerprint, FingerprintKey},
    fault::{FaultKind, Result},
    limits,
    store::{Blocked, Durability, Page, Unblock, UnblockHow},
};

use super::{
    Embedded, body,
    claim::parse,
    commit::{Item, Step},
    frame::Kind,
    group::{Entry, Group, GroupInner, State},
    segment::Lsn,
};

/// Returns the events that an event names and that are not done.
pub(crate) fn unmet(
    inner: &GroupInner,
    key: &FingerprintKey,
    event: &Event,
    now: Timestamp,
) -> Result<Vec<(EventName, Fingerprint)>> {
    let mut unmet = Vec::new();
    // What was stored before the attribute had its meaning may be no list: then it names nobody.
    for name in after::names(event).unwrap_or_default() {
        let fingerprint = key.of(&name.source, &name.id);
        if !inner.is_met(fingerprint, now)? {
            unmet.push((name, fingerprint));
        }
    }
    Ok(unmet)
}

impl Entry {
    /// Tells whether it may wait for other events: not when it was tried before, or let go by hand.
    pub(crate) fn may_wait(&self) -> bool {
        !self.freed && self.attempts == 0 && self.history.is_none()
    }
}

impl Embedded {
    /// Returns what a delivery waits for that is looked at, or could be; nothing when it may run or is out of its line.
    pub(crate) fn waits_for(&self, group: &Group, seq: u64, event: &Event) -> Result<Vec<EventName>> {
        if !group.spec.read().after {
            return Ok(Vec::new());
        }
        let inner = group.inner.lock();
        let waits = match inner.entries.get(seq) {
            Some(entry) => match entry.state {
                State::After => true,
                // Nobody has looked at it since the store was opened, or it is about to be looked at again.
                State::New | State::Ready => entry.may_wait(),
                State::Ranked(_) | State::Blocked | State::Due(_) | State::Leased { .. } | State::Settling => false,
            },
            None => (inner.cursor..inner.end(group.stream.last())).contains(&seq),
        };
        if !waits {
            return Ok(Vec::new());
        }
        let unmet = unmet(&inner, &self.state.key, event, self.state.clock.now())?;
        Ok(unmet.into_iter().map(|(name, _)| name).collect())
    }

    /// Reads the event of a delivery that waits, with what it waits for; none when it does not.
    fn blocked_at(&self, group: &Group, seq: u64) -> Result<Option<Blocked>> {
        let at = {
            let inner = group.inner.lock();
            match inner.entries.get(seq) {
                // While the group is moved to another position, nothing of it is settled.
                _ if inner.seeking.is_some() => return Ok(None),
                Some(entry) => entry.at,
                // Nobody has looked at it, and what lies before it would have to be looked at too.
                None if inner.within_reach(seq) => Lsn::default(),
                None => return Ok(None),
            }
        };
        let parsed = match group.stream.read_one(seq, at, &self.state.reader, &self.state.open) {
            Ok(found) => parse(&found)?,
            Err(fault) if fault.kind == FaultKind::Corrupt => return Ok(None),
            Err(fault) => return Err(fault),
        };
        if parsed.was_tried() {
            return Ok(None);
        }
        let waits_for = self.waits_for(group, seq, &parsed.event)?;
        let stored = parsed.stored(seq);
        Ok((!waits_for.is_empty()).then_some(Blocked { stored, waits_for }))
    }

    pub(crate) fn list_blocked(&self, group: &Group, from: u64, max: usize) -> Result<Page<Blocked>> {
        let max = max.clamp(1, limits::PAGE_MAX);
        let mut seqs: Vec<u64> = group.inner.lock().waits.from(from).take(max + 1).collect();
        let next = if seqs.len() > max { seqs.pop() } else { None };
        let mut items = Vec::with_capacity(seqs.len());
        for seq in seqs {
            items.extend(self.blocked_at(group, seq)?);
        }
        Ok(Page { items, next: next.map(Position::number) })
    }

    /// Lets deliveries go or buries them, those that wait.
    pub(crate) async fn unblock_some(&self, group: Arc<Group>, seqs: &[u64], ask: &Unblock) -> Result<Vec<bool>> {
        self.state.check_failed()?;
        let mut found = Vec::with_capacity(seqs.len());
        for (index, seq) in seqs.iter().enumerate() {
            found.push(if seqs[..index].contains(seq) { None } else { self.blocked_at(&group, *seq)? });
        }
        let mut step = Step::new(Durability::Sync);
        let waiting = |found: &[Option<Blocked>]| found.iter().map(Option::is_some).collect::<Vec<bool>>();
        let chosen: Vec<u64> =
            seqs.iter().zip(&found).filter(|(_, found)| found.is_some()).map(|(seq, _)| *seq).collect();
        match &ask.how {
            _ if chosen.is_empty() => return Ok(waiting(&found)),
            UnblockHow::Run => {
                let mut body = Vec::new();
                body::put_let_go(&mut body, group.id, &chosen, &ask.by, &ask.reason);
                step.items.push(Item::Raw(Kind::LetGo, body));
            }
            UnblockHow::Bury { failure, config } => {
                let mut staging = self.staging(&group, true);
                let dead = staging.dead.clone();
                for (seq, slot) in seqs.iter().zip(&mut found) {
                    if slot.is_some() && staging.inner.within_reach(*seq) {
                        staging.inner.cover(seq + 1);
                    }
                    // It may have become free, or lent, since it was looked at.
                    let waits = slot.as_ref().is_some_and(|blocked| self.still_waits(&staging.inner, *seq, blocked));
                    let entry = staging.inner.entries.get(*seq).filter(|_| waits);
                    let letter = (failure, config);
                    let item = entry.map(|entry| self.dead_item(&group, entry, *seq, letter, None, dead.clone()));
                    // What cannot be read now stays where it is.
                    let Some(Ok(item)) = item else {
                        *slot = None;
                        continue;
                    };
                    step.items.push(item);
                    staging.inner.change(*seq, State::Settling);
                    // What could not be written is looked at again, and waits again.
                    step.staged.push((Arc::clone(&group), *seq, State::Ready));
                }
            }
        }
        if !step.items.is_empty() {
            self.commit(step).await?;
        }
        Ok(waiting(&found))
    }

    fn still_waits(&self, inner: &GroupInner, seq: u64, blocked: &Blocked) -> bool {
        let free = |entry: &Entry| matches!(entry.state, State::After | State::Ready) && entry.may_wait();
        let now = self.state.clock.now();
        let open = |name: &EventName| {
            let fingerprint = self.state.key.of(&name.source, &name.id);
            inner.is_met(fingerprint, now).is_ok_and(|met| !met)
        };
        inner.seeking.is_none() && inner.entries.get(seq).is_some_and(free) && blocked.waits_for.iter().any(open)
    }
}

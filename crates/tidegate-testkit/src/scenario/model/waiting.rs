//! What of a group may be lent, and what may wait.

use tidegate_core::store::Claimed;

use super::*;

impl GroupModel {
    /// Tells why this delivery may end without being lent.
    pub(in crate::scenario) fn unrun(&self, stream: &StreamModel, position: Position, now: Timestamp) -> Unrun {
        let Some(facts) = stream.events.get(&position) else { return Unrun::default() };
        let foreign = facts.only_for.as_ref().is_some_and(|only| *only != self.spec.name);
        Unrun {
            duplicate: foreign
                || self.ledger.get(&facts.identity).is_some_and(|(done, at)| {
                    let again = self.again.is_some_and(|(last, since)| position <= last && *at <= since);
                    !again && (!facts.forced || *done >= position)
                }),
            expired: facts.expires_at.is_some_and(|at| at <= now),
            dropped: stream.may_drop(position),
        }
    }

    /// Tells whether it may be lent, as far as time goes.
    pub(in crate::scenario) fn may_be_due(&self, stream: &StreamModel, position: Position, now: Timestamp) -> bool {
        let in_doubt = self.lives.get(&position).is_some_and(|life| matches!(life.state, State::MaybeDue(_)));
        let facts = stream.events.get(&position);
        self.is_due(stream, position, now)
            || in_doubt && facts.and_then(|facts| facts.deliver_at).is_none_or(|at| at <= now)
    }

    /// Tells whether nothing but its order key keeps it from being lent.
    pub(in crate::scenario) fn is_due(&self, stream: &StreamModel, position: Position, now: Timestamp) -> bool {
        let due = match self.lives.get(&position).map(|life| life.state) {
            Some(State::Waiting) => true,
            Some(State::Due(at) | State::MaybeDue(at)) => at <= now,
            Some(State::Lent { .. } | State::Done | State::Dead) | None => false,
        };
        let facts = stream.events.get(&position);
        due && facts.and_then(|facts| facts.deliver_at).is_none_or(|at| at <= now)
    }

    /// Tells whether it has to wait for other events, and whether it may: what is not known for sure is both.
    pub(in crate::scenario) fn waits(&self, stream: &StreamModel, position: Position, now: Timestamp) -> (bool, bool) {
        let life = self.lives.get(&position).filter(|life| !life.is_over() && life.freed != Freed::Yes);
        let (Some(life), Some(facts)) = (life, stream.events.get(&position)) else { return (false, false) };
        if !self.spec.after || self.spec.ledger.is_none() {
            return (false, false);
        }
        let (mut must, mut may) = (false, false);
        for name in &facts.after {
            let Some((at, when)) = self.ledger.get(name).or_else(|| self.skips.get(name)) else {
                (must, may) = (true, true);
                continue;
            };
            // It is to be done once more, unless the store found that nobody has to.
            let again = self.again.is_some_and(|(last, since)| at <= &last && when <= &since);
            if again && self.lives.get(at).is_some_and(|life| !life.is_over()) {
                must |= !self.unrun(stream, *at, now).any();
                may = true;
            }
        }
        // Who was tried before does not wait again.
        let fresh = life.attempts.most == 0 && life.history.most == 0 && life.freed == Freed::No;
        let untried = life.attempts.least == 0 && life.history.least == 0;
        (must && fresh, may && untried)
    }

    /// Tells why the order of keys forbids to lend this delivery now; none when it may be lent.
    pub(in crate::scenario) fn blocked_by(
        &self,
        stream: &StreamModel,
        position: Position,
        now: Timestamp,
    ) -> Option<Position> {
        let key = self.lives.get(&position)?.key?;
        let lent = |life: &Life| matches!(life.state, State::Lent { .. });
        let busy = |other: Position, life: &Life| other != position && life.key == Some(key) && lent(life);
        if let Some((other, _)) = self.lives.iter().find(|(other, life)| busy(**other, life)) {
            return Some(*other);
        }
        let blocks = |other: Position, life: &Life| match (self.spec.on_failure, life.state) {
            _ if self.unrun(stream, other, now).any() => false,
            // It left the order of its key when it was put off.
            _ if stream.events.get(&other).is_some_and(|facts| facts.deliver_at.is_some()) => false,
            // It holds its key while it waits for others, or lets those behind it pass.
            (on_failure, _) if self.waits(stream, other, now).1 => {
                on_failure == OnFailure::Block && self.waits(stream, other, now).0
            }
            // An event for later holds nobody back; a failed one does when the group says so.
            (on_failure, State::Due(_) | State::MaybeDue(_)) => on_failure == OnFailure::Block,
            (OnFailure::Skip | OnFailure::Block, _) => self.is_due(stream, other, now),
        };
        let earlier = self.lives.range(..position).filter(|(_, life)| life.key == Some(key));
        earlier.filter(|(_, life)| !life.is_over()).find(|(other, life)| blocks(**other, life)).map(|(other, _)| *other)
    }

    /// Returns what could be lent now.
    pub(in crate::scenario) fn eligible(&self, stream: &StreamModel, now: Timestamp) -> Vec<Position> {
        let may = |position: &Position| {
            self.is_due(stream, *position, now)
                && !self.unrun(stream, *position, now).any()
                && !self.waits(stream, *position, now).1
                && self.blocked_by(stream, *position, now).is_none()
                && !self.has_twin(stream, *position)
                && !self.may_wait(stream, *position, now)
        };
        self.lives.keys().copied().filter(may).collect()
    }

    /// Returns one that was lent before another that is more urgent and could be lent.
    pub(in crate::scenario) fn overtaken(
        &self,
        stream: &StreamModel,
        claimed: &Claimed,
        now: Timestamp,
    ) -> Option<(Position, Position)> {
        // What was taken back in this claim is lent by the next one.
        let step = self.spec.priority_step.filter(|_| claimed.leases_lost == 0)?;
        let rank = |position: &Position| {
            let facts = stream.events.get(position);
            (facts.map(|facts| priority::rank(&facts.event, facts.accepted_at, step)), *position)
        };
        let last = claimed.deliveries.iter().map(|one| one.position).max_by_key(rank)?;
        // A failed one that may run again takes its place in the line of its key.
        let held = |position: &Position| {
            let key = self.lives.get(position).and_then(|life| life.key);
            let back = |life: &Life| life.key == key && matches!(life.state, State::Due(_) | State::MaybeDue(_));
            let mut earlier = self.lives.range(..position).filter(|(_, life)| back(life));
            key.is_some() && earlier.any(|(other, _)| self.may_be_due(stream, *other, now))
        };
        let next = self.eligible(stream, now).into_iter().filter(|next| !held(next)).min_by_key(rank)?;
        (rank(&next) < rank(&last)).then_some((last, next))
    }

    /// Tells whether an earlier one of the key may hold it although nobody has to run it: the store has not noticed yet,
    /// or it is one for later that failed.
    fn may_wait(&self, stream: &StreamModel, position: Position, now: Timestamp) -> bool {
        let key = self.lives.get(&position).and_then(|life| life.key);
        let put_off = |other: &Position| stream.events.get(other).is_some_and(|facts| facts.deliver_at.is_some());
        key.is_some()
            && self.lives.iter().any(|(other, life)| {
                let odd = put_off(&position)
                    || put_off(other)
                    || self.unrun(stream, *other, now).any()
                    || self.waits(stream, *other, now).1;
                *other != position && life.key == key && !life.is_over() && odd
            })
    }

    /// Tells whether another event of the same name is in the group: the ledger lets them run one after the other.
    pub(in crate::scenario) fn has_twin(&self, stream: &StreamModel, position: Position) -> bool {
        let name = |position: &Position| stream.events.get(position).map(|facts| &facts.identity);
        self.spec.ledger.is_some()
            && self.lives.keys().any(|other| *other != position && name(other) == name(&position))
    }

    /// Describes everything open with the order key of one delivery, for the one who has to understand a failure.
    pub(in crate::scenario) fn peers(&self, stream: &StreamModel, position: Position, now: Timestamp) -> Vec<String> {
        let key = self.lives.get(&position).and_then(|life| life.key);
        let open = self.lives.iter().filter(|(_, life)| life.key == key && !life.is_over());
        let describe = |(other, life): (&Position, &Life)| {
            let facts = stream.events.get(other);
            let name = facts.map(|facts| facts.event.id.clone());
            let only = facts.and_then(|facts| facts.only_for.clone());
            format!("{other} {name:?} only {only:?} {:?} {:?}", life.state, self.unrun(stream, *other, now))
        };
        open.map(describe).collect()
    }

    /// Returns how many events are not settled, as far as the model knows: without and with what may be unrun.
    pub(in crate::scenario) fn backlog(&self, stream: &StreamModel, now: Timestamp) -> (u64, u64) {
        let open = self.lives.iter().filter(|(_, life)| !life.is_over());
        let (mut least, mut most) = (0, 0);
        for (position, _) in open {
            most += 1;
            let counts = *position > self.moved_at && !self.unrun(stream, *position, now).any();
            least += u64::from(counts);
        }
        (least, most)
    }
}

//! The reference: what a store must hold after the operations that it acknowledged, in the simplest form.
//!
//! It knows no disk and no order of commits. What an engine may decide for itself is kept as a range or as a set of
//! candidates: which events it already looked at, and on which of them it noticed by itself that nobody has to run them.

mod letters;
mod waiting;

use std::collections::{BTreeMap, VecDeque};

use tidegate_core::{
    after,
    clock::Timestamp,
    delivery::{Attempt, LeaseToken, Position, Settlement},
    event::{DELIVER_AT, EXPIRY_TIME, Event},
    limits,
    names::{GroupName, StreamName},
    priority,
    store::{DeadAction, DeadProgress, DeadState, DeadStep, GroupSpec, OnFailure, Start, Stored, StreamSpec},
};

pub(super) use self::letters::{Letter, REJECTED};

/// Source and id: what the ledger and the dedupe window know an event by.
pub(super) type Identity = (String, String);

pub(super) fn identity(event: &Event) -> Identity {
    (event.source.to_string(), event.id.to_string())
}

/// A number of which only bounds are known until somebody looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Range {
    pub(super) least: u32,
    pub(super) most: u32,
}

impl Range {
    pub(super) fn exactly(number: u32) -> Self {
        Self { least: number, most: number }
    }

    pub(super) fn contains(self, number: u32) -> bool {
        self.least <= number && number <= self.most
    }

    fn widen(&mut self, other: Self) {
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
    }

    pub(super) fn add(&mut self, number: u32) {
        self.least += number;
        self.most += number;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Due(Timestamp),
    /// Due at this time, or at once: a retry whose settle was never answered.
    MaybeDue(Timestamp),
    Lent {
        token: LeaseToken,
        until: Timestamp,
    },
    Done,
    Dead,
}

/// One event for one group.
#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) state: State,
    pub(super) attempts: Range,
    pub(super) crashes: Range,
    pub(super) history: Range,
    /// Whether somebody let it go, so that it waits for no other event.
    pub(super) freed: Freed,
    /// Order key, as the group sees it.
    key: Option<u64>,
}

/// Whether somebody let a delivery go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freed {
    No,
    /// Whoever asked for it got no answer.
    Maybe,
    Yes,
}

impl Life {
    fn new(facts: &Facts, spec: &GroupSpec) -> Self {
        let key = spec.order_by.as_ref().and_then(|order| order.key(&facts.event));
        let (attempts, crashes) = (Range::default(), Range::default());
        Self { state: State::Waiting, attempts, crashes, history: facts.past, freed: Freed::No, key }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Dead)
    }

    fn remember(&mut self) {
        let most = u32::try_from(limits::HISTORY_MAX).unwrap_or(u32::MAX);
        self.history.least = (self.history.least + 1).min(most);
        self.history.most = (self.history.most + 1).min(most);
    }

    /// What a lease that ran out, or a process that died with a marked claim, leaves behind.
    fn crash(&mut self) {
        self.attempts.add(1);
        self.crashes.add(1);
    }
}

/// An event in a stream.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) event: Event,
    pub(super) only_for: Option<GroupName>,
    /// Somebody wants it to run although it is done.
    forced: bool,
    past: Range,
    identity: Identity,
    deliver_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    accepted_at: Timestamp,
    /// What must be done before it.
    after: Vec<Identity>,
}

impl Facts {
    fn new(event: &Event, accepted_at: Timestamp, only_for: Option<&GroupName>, past: Range) -> Self {
        Self {
            event: event.clone(),
            only_for: only_for.cloned(),
            forced: false,
            past,
            identity: identity(event),
            deliver_at: instant(event, DELIVER_AT),
            expires_at: instant(event, EXPIRY_TIME),
            accepted_at,
            after: after::names(event)
                .expect("events of a run name others")
                .into_iter()
                .map(|name| (name.source.to_string(), name.id.to_string()))
                .collect(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct StreamModel {
    pub(super) spec: StreamSpec,
    pub(super) events: BTreeMap<Position, Facts>,
    /// Oldest kept position, as last seen.
    pub(super) first: Position,
    pub(super) dedupe: BTreeMap<Identity, (Position, Timestamp)>,
}

impl StreamModel {
    pub(super) fn last(&self) -> Position {
        self.events.keys().next_back().copied().unwrap_or(Position::START)
    }

    /// Tells whether retention may take an event that nobody settled.
    fn may_drop(&self, position: Position) -> bool {
        let retain = self.spec.retain;
        let kept = retain.count.unwrap_or(u64::MAX);
        retain.drop_unsettled && position.low.saturating_add(kept) <= self.last().low
    }
}

#[derive(Debug, Clone)]
pub(super) struct GroupModel {
    pub(super) spec: GroupSpec,
    pub(super) lives: BTreeMap<Position, Life>,
    pub(super) done: u64,
    pub(super) skipped: u64,
    pub(super) dead: u64,
    pub(super) leases_lost: u64,
    /// How many of them a refused settle may have added on top.
    pub(super) leases_lost_maybe: u64,
    /// What it has done: where that stood, and when it was done.
    pub(super) ledger: BTreeMap<Identity, (Position, Timestamp)>,
    /// The same of what its stages did not let through, where others may wait for it.
    pub(super) skips: BTreeMap<Identity, (Position, Timestamp)>,
    /// Events up to the position run again whatever was done up to the time.
    pub(super) again: Option<(Position, Timestamp)>,
    /// Events up to here were there when it was moved: they need not count as backlog.
    pub(super) moved_at: Position,
}

/// One settlement, with the group that the token belongs to.
pub(super) type Settling = (GroupName, LeaseToken, Settlement, Option<Attempt>);

/// Something asked of the store, with all that is needed to say what it leads to.
#[derive(Debug, Clone)]
pub(super) enum Op {
    DeclareStream(StreamSpec),
    DeclareGroup(GroupSpec),
    RemoveGroup(GroupName),
    Append(StreamName, Vec<Event>),
    Claim(GroupName),
    Settle(Vec<Settling>),
    MoveDead(DeadStep),
    /// Deliveries that wait are let go, or buried.
    Unblock(GroupName, Vec<Position>, bool),
    PutState(String, Option<Vec<u8>>),
    Forget(GroupName, Identity),
    Seek(GroupName, Position, bool),
    Upkeep,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    /// Closing failed, nobody knows where.
    HalfClosed,
    Died,
}

/// Events that the store shows beyond the last known one of each stream.
pub(super) type Fresh = BTreeMap<StreamName, VecDeque<Stored>>;

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) streams: BTreeMap<StreamName, StreamModel>,
    pub(super) groups: BTreeMap<GroupName, GroupModel>,
    /// By the stream that the dead came from, oldest first.
    pub(super) letters: BTreeMap<StreamName, Vec<Letter>>,
    pub(super) states: BTreeMap<String, Vec<u8>>,
}

fn instant(event: &Event, name: &str) -> Option<Timestamp> {
    Timestamp::parse(event.extension(name)?).ok()
}

impl Model {
    /// Says what an acknowledged operation leads to. An error is a promise that the store broke.
    pub(super) fn apply(&mut self, op: &Op, now: Timestamp, fresh: &mut Fresh) -> Result<(), String> {
        match op {
            Op::DeclareStream(spec) => self.declare_stream(spec),
            Op::DeclareGroup(spec) => self.declare_group(spec),
            Op::RemoveGroup(name) => drop(self.groups.remove(name)),
            Op::Append(stream, events) => {
                for event in events {
                    self.append(stream, event, now, fresh)?;
                }
            }
            Op::Claim(group) => self.reap(group, now),
            Op::Settle(settled) => {
                for (group, token, settlement, attempt) in settled {
                    self.settle(group, *token, settlement, attempt.as_ref(), now, fresh)?;
                }
            }
            Op::MoveDead(step) => self.move_dead(step, fresh)?,
            Op::Unblock(group, positions, false) => {
                for position in positions {
                    if let Some(life) = self.group(group).lives.get_mut(position) {
                        life.freed = Freed::Yes;
                    }
                }
            }
            Op::Unblock(group, positions, true) => {
                for position in positions {
                    self.bury(group, *position, REJECTED);
                }
            }
            Op::PutState(key, Some(value)) => drop(self.states.insert(key.clone(), value.clone())),
            Op::PutState(key, None) => drop(self.states.remove(key)),
            Op::Forget(group, identity) => {
                self.group(group).ledger.remove(identity);
            }
            Op::Seek(group, to, again) => self.seek(group, *to, again.then_some(now)),
            Op::Upkeep => {}
        }
        Ok(())
    }

    pub(super) fn group(&mut self, name: &GroupName) -> &mut GroupModel {
        self.groups.get_mut(name).expect("operations name groups that exist")
    }

    fn stream(&mut self, name: &StreamName) -> &mut StreamModel {
        self.streams.get_mut(name).expect("operations name streams that exist")
    }

    fn declare_stream(&mut self, spec: &StreamSpec) {
        let fresh = || StreamModel {
            spec: spec.clone(),
            events: BTreeMap::new(),
            first: Position::START,
            dedupe: BTreeMap::new(),
        };
        self.streams.entry(spec.name.clone()).or_insert_with(fresh).spec = spec.clone();
    }

    fn declare_group(&mut self, spec: &GroupSpec) {
        if let Some(group) = self.groups.get_mut(&spec.name) {
            group.spec = spec.clone();
            return;
        }
        let stream = self.stream(&spec.stream);
        let mut lives = BTreeMap::new();
        if spec.start == Start::Earliest {
            for (position, facts) in stream.events.range(stream.first..) {
                lives.insert(*position, Life::new(facts, spec));
            }
        }
        let group = GroupModel {
            spec: spec.clone(),
            lives,
            done: 0,
            skipped: 0,
            dead: 0,
            leases_lost: 0,
            leases_lost_maybe: 0,
            ledger: BTreeMap::new(),
            skips: BTreeMap::new(),
            again: None,
            moved_at: Position::START,
        };
        self.groups.insert(spec.name.clone(), group);
    }

    /// Whether a publish now would be a repeat: for sure, for sure not, or none because the window is just ending.
    pub(super) fn is_repeat(&self, stream: &StreamName, event: &Event, now: Timestamp) -> Option<bool> {
        let stream = self.streams.get(stream)?;
        let Some(window) = &stream.spec.dedupe else { return Some(false) };
        let Some((_, at)) = stream.dedupe.get(&identity(event)) else { return Some(false) };
        let age = now.since(*at);
        // A slow disk moves the clock while an operation runs.
        let slack = std::time::Duration::from_secs(5);
        if age + slack < window.window {
            Some(true)
        } else if age > window.window + slack {
            Some(false)
        } else {
            None
        }
    }

    fn append(&mut self, name: &StreamName, event: &Event, now: Timestamp, fresh: &mut Fresh) -> Result<(), String> {
        let repeat = match self.is_repeat(name, event, now) {
            Some(repeat) => repeat,
            // Only the store knows; what it shows decides.
            None => fresh.get(name).and_then(VecDeque::front).is_none_or(|stored| stored.event != *event),
        };
        if repeat {
            return Ok(());
        }
        let position = self.take(name, event, None, Range::default(), fresh)?;
        self.stream(name).dedupe.insert(identity(event), (position, now));
        Ok(())
    }

    /// Takes in the next new event that the store shows; it must be this one.
    fn take(
        &mut self,
        name: &StreamName,
        event: &Event,
        only_for: Option<&GroupName>,
        past: Range,
        fresh: &mut Fresh,
    ) -> Result<Position, String> {
        let Some(stored) = fresh.get_mut(name).and_then(VecDeque::pop_front) else {
            return Err(format!("event {} is missing at the end of {name}", event.id));
        };
        if stored.event != *event {
            return Err(format!("{name} holds {} where {} should be", stored.event.id, event.id));
        }
        let facts = Facts::new(event, stored.accepted_at, only_for, past);
        for group in self.groups.values_mut().filter(|group| group.spec.stream == *name) {
            group.lives.insert(stored.position, Life::new(&facts, &group.spec));
        }
        self.stream(name).events.insert(stored.position, facts);
        Ok(stored.position)
    }

    /// A group starts anew at another place.
    fn seek(&mut self, name: &GroupName, to: Position, again: Option<Timestamp>) {
        let group = self.group(name);
        let (stream, spec) = (group.spec.stream.clone(), group.spec.clone());
        let stream = self.stream(&stream);
        let lives = stream.events.range(to..).map(|(position, facts)| (*position, Life::new(facts, &spec))).collect();
        let last = stream.last();
        let group = self.group(name);
        (group.lives, group.done, group.skipped, group.dead, group.moved_at) = (lives, 0, 0, 0, last);
        group.again = again.map(|at| (last, at)).or(group.again);
    }

    /// Takes back what was lent for too long.
    pub(super) fn reap(&mut self, group: &GroupName, now: Timestamp) {
        let group = self.group(group);
        for life in group.lives.values_mut() {
            if matches!(life.state, State::Lent { until, .. } if until <= now) {
                life.state = State::Due(now);
                life.crash();
                life.remember();
                group.leases_lost += 1;
            }
        }
    }

    fn settle(
        &mut self,
        name: &GroupName,
        token: LeaseToken,
        settlement: &Settlement,
        attempt: Option<&Attempt>,
        now: Timestamp,
        fresh: &mut Fresh,
    ) -> Result<(), String> {
        let group = self.group(name);
        let stream = group.spec.stream.clone();
        let Some(life) = group.lives.get_mut(&token.position) else {
            // The group was moved past it.
            group.leases_lost += 1;
            return Ok(());
        };
        if !matches!(life.state, State::Lent { token: held, .. } if held == token) {
            group.leases_lost += 1;
            return Ok(());
        }
        match settlement {
            Settlement::Done(outputs) => {
                life.state = State::Done;
                group.done += 1;
                let keeps = group.spec.ledger.is_some();
                let event = self.stream(&stream).events[&token.position].event.clone();
                if keeps {
                    let group = self.group(name);
                    group.ledger.insert(identity(&event), (token.position, now));
                    group.skips.remove(&identity(&event));
                }
                for (to, event) in outputs {
                    self.append(to, event, now, fresh)?;
                }
            }
            Settlement::Skip => {
                life.state = State::Done;
                group.done += 1;
                group.skipped += 1;
                let told = group.spec.after && group.spec.ledger.is_some();
                let name_of = identity(&self.stream(&stream).events[&token.position].event);
                let group = self.group(name);
                if told && !group.ledger.contains_key(&name_of) {
                    group.skips.insert(name_of, (token.position, now));
                }
            }
            Settlement::Release => life.state = State::Waiting,
            Settlement::RetryAt { at, attempts, crashes } => {
                life.state = State::Due(*at);
                life.attempts = Range::exactly(*attempts);
                life.crashes = Range::exactly(*crashes);
                if attempt.is_some() {
                    life.remember();
                }
            }
            Settlement::Bury { failure, .. } => {
                if attempt.is_some() {
                    life.remember();
                }
                self.bury(name, token.position, &failure.message);
            }
        }
        Ok(())
    }

    /// The process went away: nobody holds a lease any more. A dead one leaves its mark where claims are marked.
    pub(super) fn reopen(&mut self, end: End) {
        if end != End::Closed {
            // How far retention came is only a matter of space: it may have to come there again.
            self.streams.values_mut().for_each(|stream| stream.first = Position::START);
        }
        for group in self.groups.values_mut() {
            let marks = group.spec.mark_claims;
            (group.leases_lost, group.leases_lost_maybe) = (0, 0);
            for life in group.lives.values_mut() {
                if matches!(life.state, State::Lent { .. }) {
                    life.state = State::Waiting;
                    match end {
                        End::Died if marks => life.crash(),
                        End::HalfClosed if marks => {
                            life.attempts.most += 1;
                            life.crashes.most += 1;
                        }
                        End::Died | End::HalfClosed | End::Closed => {}
                    }
                }
            }
        }
    }

    /// A settle was refused: whether lost leases in it were counted is up to the store.
    pub(super) fn doubt_settle(&mut self, settled: &[Settling]) {
        for (name, token, ..) in settled {
            let Some(group) = self.groups.get_mut(name) else { continue };
            let state = group.lives.get(&token.position).map(|life| life.state);
            let holds = matches!(state, Some(State::Lent { token: held, .. }) if held == *token);
            group.leases_lost_maybe += u64::from(!holds);
        }
    }

    /// Takes in what also may be: a settle that shows in no count happened or did not.
    pub(super) fn blur(&mut self, other: &Self) {
        for (name, group) in &mut self.groups {
            let Some(other) = other.groups.get(name) else { continue };
            for (position, life) in &mut group.lives {
                let Some(other) = other.lives.get(position) else { continue };
                for (range, other) in [
                    (&mut life.attempts, other.attempts),
                    (&mut life.crashes, other.crashes),
                    (&mut life.history, other.history),
                ] {
                    range.widen(other);
                }
                if life.freed != other.freed {
                    life.freed = Freed::Maybe;
                }
                if let (State::Waiting | State::Due(_), State::Due(at)) = (life.state, other.state)
                    && life.state != other.state
                {
                    life.state = State::MaybeDue(at);
                }
            }
        }
    }

    /// Leases were taken back while the disk was full: that may not be on record, and may have to be done again.
    pub(super) fn doubt_reaping(&mut self, group: &GroupName, reaped: &[Position]) {
        let group = self.group(group);
        for position in reaped {
            let Some(life) = group.lives.get_mut(position) else { continue };
            for range in [&mut life.attempts, &mut life.crashes, &mut life.history] {
                range.least = range.least.saturating_sub(1);
            }
            group.leases_lost_maybe += 1;
        }
    }

    /// Returns what was lent for too long.
    pub(super) fn overdue(&self, group: &GroupName, now: Timestamp) -> Vec<Position> {
        let late = |life: &Life| matches!(life.state, State::Lent { until, .. } if until <= now);
        let lives = self.groups.get(group).into_iter().flat_map(|group| &group.lives);
        lives.filter(|(_, life)| late(life)).map(|(position, _)| *position).collect()
    }

    /// A claim was asked for and nobody knows what became of it: the store may have noticed what it notices in a claim.
    pub(super) fn doubt_claim(&mut self, group: &GroupName, now: Timestamp) {
        let group = self.group(group);
        let marks = group.spec.mark_claims;
        for life in group.lives.values_mut() {
            let reaped = matches!(life.state, State::Lent { until, .. } if until <= now);
            group.leases_lost_maybe += u64::from(reaped);
            let marked = marks && !life.is_over();
            for range in [&mut life.attempts, &mut life.crashes] {
                range.most += u32::from(reaped) + u32::from(marked);
            }
            life.history.most += u32::from(reaped);
        }
    }
}

/// Why a delivery may be settled by the store itself, without being lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Unrun {
    pub(super) duplicate: bool,
    pub(super) expired: bool,
    pub(super) dropped: bool,
}

impl Unrun {
    pub(super) fn any(self) -> bool {
        self.duplicate || self.expired || self.dropped
    }
}

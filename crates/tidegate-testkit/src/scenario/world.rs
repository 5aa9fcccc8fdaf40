//! A store, its disk, its clock and the model beside it: carries out operations and judges every answer.

use std::{sync::Arc, time::Duration};

use tidegate_core::{
    clock::{Clock, Timestamp},
    delivery::{Delivery, LeaseToken, Position, SettleStatus, Settled, Settlement},
    fault::{Failure, Fault, FaultClass, FaultKind},
    names::GroupName,
    store::{Appended, Claim, Claimed, DeadAction, DeadState, DeadStepStatus, Store, Unblock, UnblockHow},
};

use super::{
    Open, at_once,
    expect::{self, promise},
    model::{End, Model, Op, REJECTED, State},
};
use crate::sim_disk::{DiskFault, SimDisk};

/// What the store answered.
#[derive(Debug)]
pub(super) enum Answer {
    Nothing,
    Appended(Vec<Appended>),
    Claimed(Claimed),
    Settled(Vec<SettleStatus>),
    Moved(Vec<DeadStepStatus>),
    Unblocked(Vec<bool>),
    Forgotten(bool),
}

pub(super) type Judged<T = ()> = Result<T, String>;

pub(super) struct World<'a> {
    open: &'a Open,
    pub(super) disk: SimDisk,
    pub(super) clock: Clock,
    pub(super) rng: fastrand::Rng,
    store: Option<Arc<dyn Store>>,
    pub(super) model: Model,
    /// The last operation, when nobody knows what became of it.
    doubt: Option<(Op, Timestamp)>,
    /// Tokens that are worth nothing any more.
    pub(super) stale: Vec<(GroupName, LeaseToken)>,
    /// What happened, for the one who has to understand it.
    pub(super) log: Vec<String>,
    pub(super) lease: Duration,
    max_in_claim: usize,
}

impl<'a> World<'a> {
    pub(super) fn new(seed: u64, open: &'a Open) -> Judged<Self> {
        let disk = SimDisk::new(seed);
        let clock = Clock::manual(Timestamp::from_millis(1_767_225_600_000));
        let mut world = Self {
            open,
            disk,
            clock,
            rng: fastrand::Rng::with_seed(seed),
            store: None,
            model: Model::default(),
            doubt: None,
            stale: Vec::new(),
            log: Vec::new(),
            lease: Duration::from_secs(30),
            max_in_claim: 0,
        };
        world.open_store()?;
        Ok(world)
    }

    /// Lets a copy of the machine die right now and looks what it comes back with: whatever was acknowledged so far.
    pub(super) fn probe(&mut self) -> Judged {
        let disk = self.disk.fork();
        disk.make_room();
        let seed = self.rng.u64(..);
        disk.crash(seed);
        let mut copy = World {
            open: self.open,
            disk,
            clock: Clock::manual(self.now()),
            rng: fastrand::Rng::with_seed(seed),
            store: None,
            model: self.model.clone(),
            doubt: self.doubt.clone(),
            stale: Vec::new(),
            log: Vec::new(),
            lease: self.lease,
            max_in_claim: 0,
        };
        let judged = copy.reopen(End::Died).and_then(|()| {
            copy.clock.advance(Duration::from_secs(60));
            let groups: Vec<GroupName> = copy.model.groups.keys().cloned().collect();
            groups.into_iter().try_for_each(|group| copy.perform(&Op::Claim(group)).map(drop))
        });
        judged.map_err(|what| format!("a copy of the machine that dies here: {what}\n    {}", copy.log.join("\n    ")))
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(self.store.as_ref().expect("operations come between opening and closing"))
    }

    fn note(&mut self, what: String) {
        self.log.push(format!("{} {what}", self.now()));
    }

    fn note_op(&mut self, op: &Op) {
        let what = match op {
            Op::Append(stream, events) => {
                let ids: Vec<&str> = events.iter().map(|event| &*event.id).collect();
                format!("append to {stream}: {ids:?}")
            }
            Op::Settle(settled) => {
                let one = |(group, token, settlement, _): &super::model::Settling| {
                    let how = match settlement {
                        Settlement::Done(outputs) => format!("done +{}", outputs.len()),
                        Settlement::Skip => "skip".to_owned(),
                        Settlement::Release => "release".to_owned(),
                        Settlement::RetryAt { at, attempts, crashes } => format!("retry {at} #{attempts} !{crashes}"),
                        Settlement::Bury { .. } => "bury".to_owned(),
                    };
                    format!("{group} {} {how}", token.position)
                };
                format!("settle {:?}", settled.iter().map(one).collect::<Vec<_>>())
            }
            other @ (Op::DeclareStream(_)
            | Op::DeclareGroup(_)
            | Op::RemoveGroup(_)
            | Op::Claim(_)
            | Op::MoveDead(_)
            | Op::Unblock(..)
            | Op::PutState(..)
            | Op::Forget(..)
            | Op::Seek(..)
            | Op::Upkeep) => format!("{other:?}"),
        };
        self.note(what);
    }

    /// Whether the store said that it takes nothing more.
    pub(super) fn is_failed(&self) -> bool {
        self.store().status().failed.is_some()
    }

    /// Carries out an operation and judges answer and consequences. None when it was refused.
    pub(super) fn perform(&mut self, op: &Op) -> Judged<Option<Answer>> {
        let now = self.now();
        self.note_op(op);
        match self.call(op) {
            Ok(_) if matches!(op, Op::Claim(_)) && (self.is_failed() || self.disk.is_off()) => {
                // What a claim notices on the way is written behind its back, and that failed.
                self.note("answered, but the store failed meanwhile".to_owned());
                self.doubt.get_or_insert((op.clone(), now));
                Ok(None)
            }
            Ok(answer) => {
                self.judge(op, &answer, now)?;
                let mut fresh = expect::fresh(&*self.store(), &self.model)?;
                let overdue = if let Op::Claim(group) = op { self.model.overdue(group, now) } else { Vec::new() };
                self.model.apply(op, now, &mut fresh)?;
                expect::nothing_more(&fresh)?;
                if let (Op::Claim(group), Answer::Claimed(claimed)) = (op, &answer) {
                    if self.disk.is_full() {
                        self.model.doubt_reaping(group, &overdue);
                    }
                    self.judge_claim(group, claimed, now)?;
                }
                if let Op::RemoveGroup(name) = op {
                    self.stale.retain(|(group, _)| group != name);
                }
                self.check_counts()?;
                Ok(Some(answer))
            }
            Err(fault) => {
                self.note(format!("refused: {fault:?}"));
                self.refused(op, &fault, now)?;
                Ok(None)
            }
        }
    }

    fn call(&mut self, op: &Op) -> Result<Answer, Fault> {
        let store = self.store();
        Ok(match op {
            Op::DeclareStream(spec) => at_once(store.declare_stream(spec)).map(|()| Answer::Nothing)?,
            Op::DeclareGroup(spec) => at_once(store.declare_group(spec)).map(|()| Answer::Nothing)?,
            Op::RemoveGroup(name) => at_once(store.remove_group(name)).map(|()| Answer::Nothing)?,
            Op::Append(stream, events) => Answer::Appended(at_once(store.append(stream, events.clone()))?),
            Op::Claim(group) => {
                self.max_in_claim = self.rng.usize(1..12);
                let ask = Claim { group: group.clone(), max: self.max_in_claim, lease: self.lease, before: None };
                Answer::Claimed(at_once(store.claim(&ask))?)
            }
            Op::Settle(settled) => {
                let settled = settled.iter().map(|(_, token, settlement, attempt)| Settled {
                    token: *token,
                    settlement: settlement.clone(),
                    attempt: attempt.clone(),
                });
                Answer::Settled(at_once(store.settle(settled.collect()))?)
            }
            Op::MoveDead(step) => Answer::Moved(at_once(store.move_dead(step))?),
            Op::Unblock(group, positions, bury) => {
                let failure = Failure::new(FaultClass::Invalid, REJECTED);
                let how = if *bury { UnblockHow::Bury { failure, config: "sim".into() } } else { UnblockHow::Run };
                let (group, positions) = (group.clone(), positions.clone());
                let ask = Unblock { group, positions, how, by: "sim".into(), reason: "because".into() };
                Answer::Unblocked(at_once(store.unblock(&ask))?)
            }
            Op::PutState(key, value) => at_once(store.put_state(key, value.as_deref())).map(|()| Answer::Nothing)?,
            Op::Forget(group, (source, id)) => Answer::Forgotten(at_once(store.forget(group, source, id))?),
            Op::Seek(group, to, again) => at_once(store.seek(group, *to, *again)).map(|_| Answer::Nothing)?,
            Op::Upkeep => at_once(store.upkeep()).map(|()| Answer::Nothing)?,
        })
    }

    /// Judges what an answer says by itself, against the model as it was before.
    fn judge(&mut self, op: &Op, answer: &Answer, now: Timestamp) -> Judged {
        match (op, answer) {
            (Op::Append(stream, events), Answer::Appended(appended)) => {
                promise!(appended.len() == events.len(), "{} answers for {} events", appended.len(), events.len());
                let known = &self.model.streams[stream];
                for (event, answer) in events.iter().zip(appended) {
                    let repeat = self.model.is_repeat(stream, event, now);
                    // The same name twice in one batch is a repeat of the first, which the model does not know yet.
                    let twin =
                        known.spec.dedupe.is_some() && events.iter().filter(|other| other.id == event.id).count() > 1;
                    let fits = twin || repeat.is_none_or(|repeat| repeat == answer.duplicate);
                    promise!(fits, "{} was answered with {answer:?}, repeat is {repeat:?}", event.id);
                    if answer.duplicate && repeat == Some(true) {
                        let first = known.dedupe[&super::model::identity(event)].0;
                        promise!(answer.position == first, "{} repeats {first}, not {}", event.id, answer.position);
                    }
                }
                self.judge_backlog(stream, events.len() as u64, true, now)
            }
            (Op::Settle(settled), Answer::Settled(statuses)) => {
                promise!(statuses.len() == settled.len(), "{} answers to {}", statuses.len(), settled.len());
                for ((group, token, ..), status) in settled.iter().zip(statuses) {
                    let life = self.model.groups[group].lives.get(&token.position);
                    let holds = life
                        .is_some_and(|life| matches!(life.state, State::Lent { token: held, .. } if held == *token));
                    let wanted = if holds { SettleStatus::Settled } else { SettleStatus::LeaseLost };
                    promise!(*status == wanted, "{token} of {group} was answered with {status:?}, not {wanted:?}");
                    self.stale.push((group.clone(), *token));
                }
                Ok(())
            }
            (Op::MoveDead(step), Answer::Moved(statuses)) => {
                let letters = &self.model.letters[&step.stream.origin()];
                for (id, status) in step.ids.iter().zip(statuses) {
                    let letter = letters.iter().find(|letter| letter.id == Some(*id));
                    judge_move(&step.action, letter.map(|letter| letter.state), *status)
                        .map_err(|what| format!("dead letter {id}: {what}"))?;
                }
                Ok(())
            }
            (Op::Unblock(group, positions, _), Answer::Unblocked(freed)) => {
                // They were listed right before.
                promise!(freed.iter().all(|freed| *freed), "{positions:?} of {group} were answered with {freed:?}");
                Ok(())
            }
            (Op::Forget(group, identity), Answer::Forgotten(known)) => {
                let expected = self.model.groups[group].ledger.contains_key(identity);
                promise!(*known == expected, "forgetting {identity:?} was answered with {known}, not {expected}");
                Ok(())
            }
            (Op::Seek(group, to, _), _) => {
                promise!(self.may_seek(group, *to, now), "{group} was moved to {to}, which cannot be");
                let lent = super::steps::lent(self).into_iter().filter(|(name, _)| name == group);
                self.stale.extend(lent);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Tells whether a group can be moved: to what is kept, and while nobody holds a lease that is alive.
    fn may_seek(&self, name: &GroupName, to: Position, now: Timestamp) -> bool {
        let group = &self.model.groups[name];
        let stream = &self.model.streams[&group.spec.stream];
        let kept = stream.first.low.max(1) <= to.low && to.low <= stream.last().low + 1;
        let held = |state: State| matches!(state, State::Lent { until, .. } if until > now);
        kept && !group.lives.values().any(|life| held(life.state))
    }

    /// A bounded stream takes what fits and refuses what does not.
    fn judge_backlog(&self, name: &tidegate_core::names::StreamName, more: u64, taken: bool, now: Timestamp) -> Judged {
        let stream = &self.model.streams[name];
        let Some(most) = stream.spec.max_backlog else { return Ok(()) };
        let groups = self.model.groups.values().filter(|group| group.spec.stream == *name);
        let backlogs: Vec<(u64, u64)> = groups.map(|group| group.backlog(stream, now)).collect();
        let least = backlogs.iter().map(|(least, _)| *least).max().unwrap_or(0);
        let largest = backlogs.iter().map(|(_, most)| *most).max().unwrap_or(0);
        if taken {
            promise!(least + more <= most, "{name} took {more} events over its backlog: {least} of {most}");
        } else {
            promise!(largest + more > most, "{name} refused {more} events with a backlog of {largest} of {most}");
        }
        Ok(())
    }

    /// Judges what was lent: each may run now, nobody may run before it, and nothing that may run was left out.
    fn judge_claim(&mut self, name: &GroupName, claimed: &Claimed, now: Timestamp) -> Judged {
        let most = self.max_in_claim;
        let lent = &claimed.deliveries;
        promise!(lent.len() <= most, "{} deliveries were lent, {most} asked for", lent.len());
        let names: Vec<_> =
            lent.iter().map(|one| format!("{}@{}#{}", one.event.id, one.position, one.attempt)).collect();
        self.note(format!("lent {names:?}, {} leases lost", claimed.leases_lost));
        for delivery in lent {
            self.take_delivery(name, delivery, now)
                .map_err(|what| format!("{name} was lent {} at {}: {what}", delivery.event.id, delivery.position))?;
        }
        let group = &self.model.groups[name];
        let stream = &self.model.streams[&group.spec.stream];
        // What was taken back in this claim is lent by the next one.
        if lent.len() < most && claimed.leases_lost == 0 {
            let left = group.eligible(stream, now);
            let peers = left.first().map(|position| group.peers(stream, *position, now)).unwrap_or_default();
            promise!(left.is_empty(), "{name} was lent {} of {most} while {left:?} could run: {peers:#?}", lent.len());
        }
        let wrong = group.overtaken(stream, claimed, now);
        promise!(wrong.is_none(), "{name} was lent the first of {wrong:?}, and the second is more urgent");
        Ok(())
    }

    fn take_delivery(&mut self, name: &GroupName, delivery: &Delivery, now: Timestamp) -> Judged {
        let group = self.model.groups.get(name).ok_or("the group is gone")?;
        let stream = &self.model.streams[&group.spec.stream];
        let position = delivery.position;
        let facts = stream.events.get(&position).ok_or("there is no such event")?;
        promise!(delivery.event == facts.event, "the event is {:?}, not {:?}", delivery.event, facts.event);
        let life = group.lives.get(&position).ok_or("it is not the business of the group")?;
        promise!(!life.is_over(), "it is settled: {:?}", life.state);
        promise!(!matches!(life.state, State::Lent { .. }), "somebody else holds it: {:?}", life.state);
        promise!(group.may_be_due(stream, position, now), "it is not due: {:?}", life.state);
        let unrun = group.unrun(stream, position, now);
        promise!(!unrun.duplicate && !unrun.expired, "nobody has to run it: {unrun:?}");
        let (waits, _) = group.waits(stream, position, now);
        promise!(!waits, "it waits for {:?}", tidegate_core::after::names(&facts.event));
        let blocked = group.blocked_by(stream, position, now);
        promise!(blocked.is_none(), "{blocked:?} of the same key comes first");
        let (attempts, history) = (delivery.attempt.wrapping_sub(1), delivery.history.len() as u32);
        promise!(life.attempts.contains(attempts), "attempt {} after {:?}", delivery.attempt, life.attempts);
        promise!(life.crashes.contains(delivery.crashes), "{} crashes, not {:?}", delivery.crashes, life.crashes);
        promise!(life.history.contains(history), "{history} past attempts, not {:?}", life.history);
        let life = self.model.group(name).lives.get_mut(&position).ok_or("it is gone")?;
        life.attempts = super::model::Range::exactly(attempts);
        life.crashes = super::model::Range::exactly(delivery.crashes);
        life.history = super::model::Range::exactly(history);
        life.state = State::Lent { token: delivery.lease.token, until: delivery.lease.expires_at };
        Ok(())
    }

    /// Extends a lease of the model's choice.
    pub(super) fn extend(&mut self, group: &GroupName, token: LeaseToken, until: Timestamp) -> Judged {
        self.note(format!("extend {token} of {group} to {until}"));
        let now = self.now();
        let Some(life) = self.model.group(group).lives.get_mut(&token.position) else { return Ok(()) };
        let State::Lent { token: held, until: ends } = life.state else { return Ok(()) };
        let Ok(answer) = at_once(self.store().extend(&[token], until)) else { return Ok(()) };
        let holds = held == token;
        // Whether a lease that ran out, but was not taken back yet, can be saved is up to the store.
        promise!(answer[0] == holds || holds && ends <= now, "extending {token} was answered with {}", answer[0]);
        if answer[0] {
            let life = self.model.group(group).lives.get_mut(&token.position).ok_or("it is gone")?;
            life.state = State::Lent { token, until };
        }
        self.check_counts()
    }

    pub(super) fn check_counts(&mut self) -> Judged {
        let now = self.now();
        expect::counts(&*self.store(), &mut self.model, now)
    }

    pub(super) fn check_everything(&mut self) -> Judged {
        let (store, now) = (self.store(), self.now());
        let fresh = expect::fresh(&*store, &self.model)?;
        expect::nothing_more(&fresh)?;
        expect::everything(&*store, &mut self.model, now)
    }

    pub(super) fn learn_letters(&mut self) -> Judged {
        expect::learn_letters(&*self.store(), &mut self.model)
    }

    /// Judges a refusal: it needs a cause, and it must have changed nothing, or the store must say that it failed.
    fn refused(&mut self, op: &Op, fault: &Fault, now: Timestamp) -> Judged {
        let met_bound = self.disk.is_full();
        let struck = self.disk.struck();
        let status = self.store().status();
        if status.failed.is_some() || struck.contains(&DiskFault::PowerOff) || self.disk.is_off() {
            self.doubt.get_or_insert((op.clone(), now));
            return Ok(());
        }
        let bounded = matches!(op, Op::Append(stream, _) if self.model.streams[stream].spec.max_backlog.is_some());
        if let Op::Append(stream, events) = op
            && bounded
            && fault.kind == FaultKind::Limited
            && status.refusing.is_none()
        {
            self.judge_backlog(stream, events.len() as u64, false, now)?;
        } else if let Op::Seek(group, to, _) = op
            && matches!(fault.kind, FaultKind::Conflict | FaultKind::Invalid)
        {
            promise!(!self.may_seek(group, *to, now), "{group} can be moved to {to} and was not: {fault:?}");
        } else {
            let full = status.refusing.is_some() || met_bound;
            promise!(full || !struck.is_empty(), "it was refused without a cause: {fault:?}");
            let publishes = matches!(op, Op::Append(..));
            promise!(publishes || !struck.is_empty() || met_bound, "only publishes are refused: {fault:?}");
        }
        match op {
            Op::Settle(settled) => self.model.doubt_settle(settled),
            Op::Claim(group) => self.model.doubt_claim(group, now),
            Op::DeclareStream(_) | Op::DeclareGroup(_) | Op::RemoveGroup(_) | Op::Append(..) => {}
            Op::MoveDead(_) | Op::Unblock(..) | Op::PutState(..) | Op::Forget(..) => {}
            Op::Seek(..) | Op::Upkeep => {}
        }
        let fresh = expect::fresh(&*self.store(), &self.model)?;
        expect::nothing_more(&fresh).map_err(|what| format!("refused, and yet {what}"))?;
        self.check_counts().map_err(|what| format!("refused, and yet {what}"))
    }

    /// A store that failed takes nothing more until it is opened again.
    pub(super) fn check_refuses(&mut self) -> Judged {
        if !self.is_failed() {
            return Ok(());
        }
        let store = self.store();
        let put = at_once(store.put_state("after the failure", Some(b"x")));
        promise!(put.is_err(), "the store failed and takes control state all the same");
        if let Some(stream) = self.model.streams.keys().next() {
            let event = tidegate_core::event::Event::new("after the failure", "/sim", "sim");
            let append = at_once(store.append(stream, vec![event]));
            promise!(append.is_err(), "the store failed and takes events all the same");
        }
        Ok(())
    }

    /// Closes in order and opens again.
    pub(super) fn restart(&mut self) -> Judged {
        self.note("restart".to_owned());
        if self.disk.is_off() {
            return self.crash(false);
        }
        let closed = at_once(self.store().close());
        let failed = closed.is_err();
        promise!(!failed || self.disk.had_faults(), "closing failed without a cause: {closed:?}");
        self.store = None;
        if self.disk.is_off() {
            let seed = self.rng.u64(..);
            self.disk.crash(seed);
        }
        self.reopen(if failed { End::HalfClosed } else { End::Closed })
    }

    /// Lets the process die and opens again.
    pub(super) fn kill(&mut self) -> Judged {
        self.note("kill".to_owned());
        if self.disk.is_off() {
            return self.crash(false);
        }
        self.store = None;
        self.reopen(End::Died)
    }

    /// Lets the machine die and opens again; `twice` lets it die once more while it opens.
    pub(super) fn crash(&mut self, twice: bool) -> Judged {
        self.note(format!("crash, twice: {twice}"));
        self.store = None;
        let seed = self.rng.u64(..);
        self.disk.crash(seed);
        if twice {
            self.disk.arm(DiskFault::PowerOff, self.rng.u64(0..25));
            let opened = (self.open)(&self.disk, &self.clock);
            self.note(format!("opening while the power goes off: {:?}", opened.as_ref().map(|_| ())));
            drop(opened);
            let seed = self.rng.u64(..);
            self.disk.crash(seed);
        }
        self.reopen(End::Died)
    }

    fn open_store(&mut self) -> Judged {
        self.disk.disarm();
        self.disk.struck();
        let store =
            (self.open)(&self.disk, &self.clock).map_err(|fault| format!("the store does not open: {fault:?}"))?;
        self.store = Some(store);
        Ok(())
    }

    fn reopen(&mut self, end: End) -> Judged {
        self.open_store()?;
        let damage = self.damage();
        if !damage.is_empty() {
            self.note(format!("opened with {damage:?}"));
        }
        for (name, group) in &self.model.groups {
            for life in group.lives.values() {
                if let State::Lent { token, .. } = life.state {
                    self.stale.push((name.clone(), token));
                }
            }
        }
        self.resolve(end)
    }

    /// Finds out whether the operation in doubt happened: all of it or nothing.
    fn resolve(&mut self, end: End) -> Judged {
        let (store, now) = (self.store(), self.now());
        let fresh = expect::fresh(&*store, &self.model)?;
        let doubt = self.doubt.take();
        let mut without = self.model.clone();
        if let Some((Op::Claim(group), at)) = &doubt {
            without.doubt_claim(group, *at);
        }
        without.reopen(end);
        let first = expect::nothing_more(&fresh).and_then(|()| expect::everything(&*store, &mut without, now));
        let Some((op, at)) = doubt else {
            self.model = without;
            return first;
        };
        let (mut with, mut fresh) = (self.model.clone(), fresh);
        let second = with.apply(&op, at, &mut fresh).and_then(|()| promise_kept(&*store, &mut with, &fresh, end, now));
        match (first, second) {
            (Ok(()), Ok(())) => {
                without.blur(&with);
                self.model = without;
            }
            (Ok(()), Err(_)) => self.model = without,
            (Err(_), Ok(())) => {
                self.note("the operation in doubt happened".to_owned());
                self.model = with;
            }
            (Err(first), Err(second)) => {
                let what = "happened by half.\nas if it had not happened";
                return Err(format!("{op:?} {what}: {first}\nas if it had: {second}"));
            }
        }
        Ok(())
    }

    /// Damage that the store knows of.
    pub(super) fn damage(&self) -> Vec<String> {
        self.store().status().damage
    }

    /// Opens after bits were flipped; an error is a report.
    pub(super) fn open_damaged(&mut self) -> Result<(), Fault> {
        self.store = None;
        self.store = Some((self.open)(&self.disk, &self.clock)?);
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        self.store.is_some()
    }

    pub(super) fn drop_store(&mut self) {
        self.store = None;
    }
}

/// Checks everything against the model as it is after opening.
fn promise_kept(store: &dyn Store, model: &mut Model, fresh: &super::model::Fresh, end: End, now: Timestamp) -> Judged {
    expect::nothing_more(fresh)?;
    model.reopen(end);
    expect::everything(store, model, now)
}

fn judge_move(action: &DeadAction, state: Option<DeadState>, status: DeadStepStatus) -> Judged {
    let Some(state) = state else {
        promise!(status == DeadStepStatus::Missing, "there is none, and the answer is {status:?}");
        return Ok(());
    };
    let parked = state == DeadState::Parked;
    let moves = match action {
        DeadAction::Reprocess { force, .. } => parked || *force && state == DeadState::Reprocessed,
        DeadAction::Resolve | DeadAction::Discard => parked,
        DeadAction::Recall => state == DeadState::Reprocessed,
        DeadAction::Purge => !parked,
    };
    let fits = match status {
        DeadStepStatus::Moved(went) => moves && went.is_some() == matches!(action, DeadAction::Reprocess { .. }),
        DeadStepStatus::Refused(seen) => !moves && seen == state,
        DeadStepStatus::Missing => false,
    };
    promise!(fits, "{action:?} of one that is {state:?} was answered with {status:?}");
    Ok(())
}

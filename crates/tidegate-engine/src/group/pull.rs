//! Groups whose workers are outside: they claim, extend and settle over the API.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
    time::Duration,
};

use bytestring::ByteString;
use parking_lot::Mutex;
use tidegate_core::{
    clock::Timestamp,
    decide::{Tally, triage},
    delivery::{Delivery, LeaseToken, Outcome, SettleStatus, Settled},
    event::Event,
    fault::{Fault, Origin, Result},
    limits,
    service::StopPhase,
};
use tokio::sync::Notify;

use super::{
    Group, Pace, Running,
    claim::Idle,
    judge::{Ended, Returned, Subject, announce, judge, report},
    sift::sift,
};

/// What became of a settlement from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStatus {
    /// It is durable.
    Settled,
    /// The lease was lost before; nothing was done.
    LeaseLost,
    /// The token is not one of this group.
    Unknown,
}

/// What workers outside hold.
#[derive(Debug, Default)]
pub(crate) struct Lent {
    held: Mutex<Held>,
    returned: Notify,
    /// Workers that wait for an answer.
    asking: AtomicUsize,
    /// When the last one asked; 0 = none has.
    asked_at: AtomicI64,
}

/// A worker that waits for an answer.
struct Asking<'a>(&'a AtomicUsize);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lent {
    fn ask(&self, now: Timestamp) -> Asking<'_> {
        self.asked_at.store(now.as_millis(), Ordering::Relaxed);
        self.asking.fetch_add(1, Ordering::Relaxed);
        Asking(&self.asking)
    }

    pub(super) fn asking(&self) -> usize {
        self.asking.load(Ordering::Relaxed)
    }

    pub(super) fn asked_at(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.asked_at.load(Ordering::Relaxed))).filter(|at| *at > Timestamp::ZERO)
    }
}

#[derive(Debug, Default)]
struct Held {
    deliveries: HashMap<LeaseToken, Holding>,
    /// Number of the group in its engine, once a token has shown it.
    group: Option<u32>,
    swept_at: Timestamp,
}

#[derive(Debug, Clone)]
struct Holding {
    event: ByteString,
    /// The event without its data, when the group keeps results.
    head: Option<Box<Event>>,
    by: ByteString,
    tally: Tally,
    wanted_at: Timestamp,
    since: Timestamp,
    expires_at: Timestamp,
    /// When its lease ends for good, when the event bounds its attempt.
    deadline: Option<Timestamp>,
}

/// An outcome from outside for something that is held.
struct Pulled {
    index: usize,
    token: LeaseToken,
    holding: Holding,
    outcome: Outcome,
}

/// What a look for work found, beside what it lends.
enum Looked {
    /// Deliveries that nobody is lent: there may be more right behind them.
    Sifted,
    /// Nothing more before this time.
    Due(Option<Timestamp>),
}

/// How long a lease that ran out is remembered, so that a late settle is told from a settle of nothing.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Time between two looks for leases to forget.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Time between two looks of a claim that waits, whatever the hints say.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Group {
    fn check_pull(&self) -> Result<()> {
        match self.handler {
            None => Ok(()),
            Some(_) => Err(Fault::conflict(format!("group {} has its workers inside of the node", self.name))),
        }
    }

    /// Lends deliveries to a worker outside; waits up to `wait` for the first.
    pub(crate) async fn pull(&self, by: &str, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.check_pull()?;
        if self.cx.stop.phase() != StopPhase::Running {
            return Err(Fault::unavailable(Origin::Tidegate, "node is stopping and lends nothing more"));
        }
        let _asking = self.lent.ask(self.cx.clock.now());
        let by = ByteString::from(by);
        let until = self.cx.clock.now().plus(wait.min(limits::CLAIM_WAIT_MAX));
        let mut desired = self.desired.subscribe();
        let mut idle = Idle::default();
        loop {
            let (paused, paced) = {
                let desired = desired.borrow_and_update();
                let room = |pace: &Pace| self.pacer.room(pace.rate, self.cx.clock.now());
                (desired.holds_back(), desired.pace.as_ref().map(room))
            };
            let mut next_due = None;
            if let Some((0, at)) = paced {
                next_due = Some(at);
            } else if !paused {
                let max = paced.map_or(max, |(room, _)| max.min(room));
                let _claiming = self.flight.claiming();
                if self.cx.stop.phase() != StopPhase::Running {
                    return Ok(Vec::new());
                }
                let (deliveries, looked) = self.pull_once(&by, max).await?;
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
                match looked {
                    Looked::Sifted if self.cx.clock.now() < until => {
                        idle.found();
                        continue;
                    }
                    Looked::Sifted => {}
                    Looked::Due(due) => next_due = due,
                }
            }
            let now = self.cx.clock.now();
            if now >= until {
                return Ok(Vec::new());
            }
            let look = until.min(now.plus(LOOK_EVERY)).min(next_due.unwrap_or(until));
            let work = async {
                if paused {
                    self.cx.clock.sleep_until(until).await;
                } else if paced.is_some_and(|(room, _)| room == 0) {
                    self.cx.clock.sleep_until(look).await;
                } else {
                    idle.wait(self, look).await;
                }
            };
            tokio::select! {
                () = work => {}
                _ = desired.changed() => {}
                () = self.cx.stop.draining() => return Ok(Vec::new()),
            }
        }
    }

    async fn pull_once(&self, by: &ByteString, max: usize) -> Result<(Vec<Delivery>, Looked)> {
        let mut claimed = self.store.claim(&self.ask(max.clamp(1, limits::CLAIM_MAX))).await?;
        self.tell_claimed(&claimed);
        let deadlines = self.bound_leases(&mut claimed.deliveries).await;
        let newest = claimed.deliveries.last().map(|delivery| delivery.position);
        let none_due = newest.is_none() && claimed.next_due.is_none();
        self.paced(claimed.deliveries.len(), newest, none_due).await?;
        if newest.is_none() {
            self.note_due(claimed.next_due);
        }
        let mut deliveries = Vec::with_capacity(claimed.deliveries.len());
        let mut stopped = Vec::new();
        for mut delivery in claimed.deliveries {
            match self.triaged(&delivery).or_else(|| sift(self, &mut delivery)) {
                None => deliveries.push(delivery),
                Some(settled) => stopped.push((delivery, settled)),
            }
        }
        let looked = if stopped.is_empty() { Looked::Due(claimed.next_due) } else { Looked::Sifted };
        if !stopped.is_empty() {
            self.settle_stopped(stopped).await?;
        }
        self.lend(by, &deliveries, &deadlines);
        announce(self, self.cx.clock.now(), deliveries.iter().map(Subject::from));
        Ok((deliveries, looked))
    }

    /// Ends the leases of events that bound their attempt when that time is over; returns when that is.
    async fn bound_leases(&self, deliveries: &mut [Delivery]) -> HashMap<LeaseToken, Timestamp> {
        let now = self.cx.clock.now();
        let deadline = |delivery: &Delivery| Some((delivery.lease.token, now.plus(delivery.event.timeout()?)));
        let deadlines: HashMap<LeaseToken, Timestamp> = deliveries.iter().filter_map(deadline).collect();
        for Delivery { lease, .. } in deliveries {
            if let Some(until) = deadlines.get(&lease.token).copied().filter(|until| *until < lease.expires_at)
                // A store that cannot do that now lets it go on for as long as any other lease.
                && self.store.extend(&[lease.token], until).await.is_ok()
            {
                lease.expires_at = until;
            }
        }
        deadlines
    }

    fn triaged(&self, delivery: &Delivery) -> Option<Settled> {
        let tally = Tally { attempt: delivery.attempt, crashes: delivery.crashes };
        let settlement = triage(tally, &self.policy.retry, &self.config)?;
        Some(Settled { token: delivery.lease.token, settlement, attempt: None })
    }

    /// Settles what is not lent to anybody: what died too often, and what the stages do not let through.
    async fn settle_stopped(&self, stopped: Vec<(Delivery, Settled)>) -> Result<()> {
        let settled: Vec<Settled> = stopped.iter().map(|(_, settled)| settled.clone()).collect();
        let statuses = self.store.settle(settled).await?;
        let returned = stopped.iter().zip(statuses).map(|((delivery, settled), status)| Returned {
            event: &delivery.event.id,
            position: delivery.position,
            attempt: delivery.attempt,
            settlement: &settled.settlement,
            status: Some(status),
        });
        report(self, returned);
        Ok(())
    }

    fn lend(&self, by: &ByteString, deliveries: &[Delivery], deadlines: &HashMap<LeaseToken, Timestamp>) {
        let now = self.cx.clock.now();
        let mut held = self.lent.held.lock();
        if now.since(held.swept_at) >= SWEEP_EVERY {
            held.swept_at = now;
            held.deliveries.retain(|_, holding| holding.expires_at.plus(REMEMBERED) > now);
        }
        for delivery in deliveries {
            let subject = Subject::from(delivery);
            let holding = Holding {
                event: subject.event.clone(),
                head: self.head_of(&delivery.event),
                by: by.clone(),
                tally: subject.tally,
                wanted_at: subject.wanted_at,
                since: now,
                expires_at: delivery.lease.expires_at,
                deadline: deadlines.get(&delivery.lease.token).copied(),
            };
            held.group = Some(delivery.lease.token.group);
            held.deliveries.insert(delivery.lease.token, holding);
        }
    }

    /// Settles deliveries that workers outside hold; answers in input order.
    ///
    /// What is settled stays held until that is durable: a caller that leaves in between can ask again.
    pub(crate) async fn settle_pulled(&self, outcomes: Vec<(LeaseToken, Outcome)>) -> Result<Vec<PullStatus>> {
        self.check_pull()?;
        let mut answers = Vec::with_capacity(outcomes.len());
        let mut known = Vec::with_capacity(outcomes.len());
        {
            let held = self.lent.held.lock();
            for (index, (token, outcome)) in outcomes.into_iter().enumerate() {
                if let Some(holding) = held.deliveries.get(&token) {
                    known.push(Pulled { index, token, holding: holding.clone(), outcome });
                }
                // A token that is not held was settled before, or lent by another run of the node.
                let ours = held.group.is_none_or(|group| group == token.group);
                answers.push(if ours { PullStatus::LeaseLost } else { PullStatus::Unknown });
            }
        }
        let late = answers.iter().filter(|answer| **answer == PullStatus::LeaseLost).count() - known.len();
        self.tell_lost(late as u64);
        let indices: Vec<usize> = known.iter().map(|one| one.index).collect();
        for (index, status) in indices.into_iter().zip(self.settle_known(known).await?) {
            if let (Some(answer), SettleStatus::Settled) = (answers.get_mut(index), status) {
                *answer = PullStatus::Settled;
            }
        }
        Ok(answers)
    }

    async fn settle_known(&self, mut known: Vec<Pulled>) -> Result<Vec<SettleStatus>> {
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.cx.clock.now();
        let settled: Vec<Settled> = known
            .iter_mut()
            .map(|one| {
                let Holding { ref event, ref head, tally, wanted_at, since, .. } = one.holding;
                let (head, position) = (head.as_deref(), one.token.position);
                let subject = Subject { event, head, position, token: one.token, tally, wanted_at };
                let outcome = std::mem::replace(&mut one.outcome, Outcome::Interrupted);
                judge(self, &subject, Ended { outcome, at: since, took: now.since(since) })
            })
            .collect();
        let statuses = self.store.settle(settled.clone()).await?;
        {
            let mut held = self.lent.held.lock();
            for one in &known {
                held.deliveries.remove(&one.token);
            }
        }
        self.lent.returned.notify_waiters();
        let returned = known.iter().zip(&settled).zip(&statuses).map(|((one, settled), status)| Returned {
            event: &one.holding.event,
            position: one.token.position,
            attempt: one.holding.tally.attempt,
            settlement: &settled.settlement,
            status: Some(*status),
        });
        report(self, returned);
        Ok(statuses)
    }

    /// Extends leases that workers outside hold, but not beyond the time that an event allows for its attempt; false
    /// where the lease was lost.
    pub(crate) async fn extend_pulled(&self, tokens: &[LeaseToken], by: Duration) -> Result<Vec<bool>> {
        self.check_pull()?;
        let now = self.cx.clock.now();
        let until = now.plus(by.min(Duration::from_secs(limits::LEASE_SECONDS_MAX)));
        let mut ends: BTreeMap<Timestamp, Vec<usize>> = BTreeMap::new();
        {
            let held = self.lent.held.lock();
            for (index, token) in tokens.iter().enumerate() {
                let deadline = held.deliveries.get(token).and_then(|holding| holding.deadline);
                let end = deadline.map_or(until, |deadline| deadline.min(until));
                ends.entry(end).or_default().push(index);
            }
        }
        let mut extended = vec![false; tokens.len()];
        for (until, indices) in ends.into_iter().filter(|(until, _)| *until > now) {
            let some: Vec<LeaseToken> = indices.iter().filter_map(|index| tokens.get(*index).copied()).collect();
            let answers = self.store.extend(&some, until).await?;
            let mut held = self.lent.held.lock();
            for ((index, token), answer) in indices.iter().zip(&some).zip(answers) {
                if let Some(slot) = extended.get_mut(*index) {
                    *slot = answer;
                }
                if let Some(holding) = held.deliveries.get_mut(token).filter(|_| answer) {
                    holding.expires_at = until;
                }
            }
        }
        Ok(extended)
    }

    /// Waits until workers outside hold nothing whose lease is alive.
    pub(super) async fn returned(&self) {
        loop {
            let returned = self.lent.returned.notified();
            tokio::pin!(returned);
            // Listening starts before the look, so that the last settle is not missed in between.
            returned.as_mut().enable();
            let now = self.cx.clock.now();
            let next = self
                .lent
                .held
                .lock()
                .deliveries
                .values()
                .map(|holding| holding.expires_at)
                .filter(|at| *at > now)
                .min();
            let Some(next) = next else { return };
            tokio::select! {
                () = returned => {}
                () = self.cx.clock.sleep_until(next) => {}
            }
        }
    }

    pub(super) fn lent_now(&self) -> Vec<Running> {
        let now = self.cx.clock.now();
        let held = self.lent.held.lock();
        let alive = held.deliveries.iter().filter(|(_, holding)| holding.expires_at > now);
        alive
            .map(|(token, holding)| Running {
                group: self.name.clone(),
                event: holding.event.clone(),
                position: token.position,
                by: Some(holding.by.clone()),
                attempt: holding.tally.attempt,
                since: holding.since,
            })
            .collect()
    }
}

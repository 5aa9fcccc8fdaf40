//! The only way out of the process: deadline → bulkhead → rate → breaker → retry budget, one guard per target.
//!
//! **Invariant:** a call that the guard refuses has had no effect and spends no attempt: it is refused as
//! `throttled` or `dependency_down`, never as a class that counts against the message.

mod breaker;
mod budget;
mod bulkhead;
mod rate;
mod view;
mod wish;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::watch;

use self::{
    breaker::{Breaker, Change, State},
    budget::RetryBudget,
    bulkhead::{Bulkhead, Place},
    rate::RateWindow,
};
pub use self::{
    breaker::{BreakerPolicy, Gate},
    budget::RetryBudgetPolicy,
    rate::{Rate, Share},
    view::{BreakerState, BreakerView, ConcurrencyView, GuardView, HandChange, LastError, RateView, WaitsView},
    wish::{GuardWish, Shut},
};
use crate::{
    clock::{Clock, Stopwatch, Timestamp},
    fault::{Failure, FaultClass},
    names::TargetName,
    notice::{Notice, Notices},
};

/// What a guard allows.
#[derive(Debug, Clone, PartialEq)]
pub struct GuardPolicy {
    /// Most calls at a time.
    pub concurrency: usize,
    /// Most calls in any stretch of time.
    pub rate: Option<Rate>,
    /// Longest time of one call; and, apart from it, the longest wait for a place and the rate. A handler's own
    /// time limit must leave room for both.
    pub timeout: Duration,
    /// When the breaker opens.
    pub breaker: BreakerPolicy,
    /// How many of the calls may be retries.
    pub retry_budget: RetryBudgetPolicy,
}

impl Default for GuardPolicy {
    fn default() -> Self {
        Self {
            concurrency: 16,
            rate: None,
            timeout: Duration::from_secs(10),
            breaker: BreakerPolicy::default(),
            retry_budget: RetryBudgetPolicy::default(),
        }
    }
}

/// End of a breaker that stays open until somebody resets it: 9999-12-31T23:59:59Z.
const FOREVER: Timestamp = Timestamp::from_millis(253_402_300_799_000);

/// Waits from here on are counted as waits; below it is what passing the guard itself takes.
const WAIT_COUNTED: Duration = Duration::from_millis(1);

/// Stands before a target. Shared by all who call it.
#[derive(Debug)]
pub struct Guard {
    target: TargetName,
    policy: GuardPolicy,
    // The order of the next fields is the order in which a call passes them.
    timeout: Duration,
    bulkhead: Bulkhead,
    rate: Mutex<RateWindow>,
    breaker: Mutex<Breaker>,
    budget: Mutex<RetryBudget>,
    wish: Mutex<GuardWish>,
    share: Mutex<Share>,
    seen: Mutex<Seen>,
    changes: watch::Sender<u64>,
    clock: Clock,
    /// Runs since the guard was made; rate and budget need finer steps than the clock's milliseconds.
    watch: Stopwatch,
    notices: Notices,
}

#[derive(Debug, Default)]
struct Seen {
    calls: u64,
    refused: u64,
    waits: u64,
    waited: Duration,
    waited_most: Duration,
    last_error: Option<LastError>,
    by_hand: Option<HandChange>,
}

impl Guard {
    /// Makes a guard that lets calls through.
    pub fn new(target: TargetName, policy: GuardPolicy, clock: Clock, notices: Notices) -> Arc<Self> {
        Arc::new(Self {
            timeout: policy.timeout,
            bulkhead: Bulkhead::new(policy.concurrency),
            rate: Mutex::new(RateWindow::new(policy.rate)),
            breaker: Mutex::new(Breaker::new(policy.breaker, clock.now())),
            budget: Mutex::new(RetryBudget::new(policy.retry_budget)),
            wish: Mutex::default(),
            share: Mutex::new(Share::WHOLE),
            seen: Mutex::default(),
            changes: watch::Sender::new(0),
            watch: clock.stopwatch(),
            target,
            policy,
            clock,
            notices,
        })
    }

    /// Returns the target it stands before.
    pub fn target(&self) -> &TargetName {
        &self.target
    }

    /// Makes a call, or refuses it. `retry` says that the same was tried before, which the retry budget bounds.
    pub async fn call<T>(&self, retry: bool, op: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let pass = match self.admit(retry).await {
            Ok(pass) => pass,
            Err(refusal) => {
                self.seen.lock().refused += 1;
                return Err(refusal);
            }
        };
        let result = match tokio::time::timeout(self.timeout, op).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Failure::new(
                FaultClass::Timeout,
                format!("no answer from {} within {:?}", self.target, self.timeout),
            )),
        };
        pass.end(result.as_ref().err());
        result
    }

    /// Lets a call pass, or says why not. Not generic, so that it is compiled once.
    async fn admit(&self, retry: bool) -> Result<Pass<'_>, Failure> {
        // Each look at the clock costs more than all the rest of a call that need not wait; so it has one of each.
        let (came, at) = (self.watch.elapsed(), self.clock.now());
        // Whoever would be refused in the end is refused before it waits.
        self.breaker.lock().check(at)?;
        let (place, entered) = match self.bulkhead.try_enter() {
            Some(place) => (place, came),
            None => (self.enter().await?, self.watch.elapsed()),
        };
        let start = self.await_rate(came, entered).await?;
        let has_waited = entered > came || start > entered;
        let (started, at) = if has_waited { (self.watch.elapsed(), self.clock.now()) } else { (came, at) };
        let admitted = self.breaker.lock().admit(at, self.timeout);
        let probe = admitted.inspect_err(|_| self.rate.lock().give_back(start))?;
        if probe {
            self.tell(Change::Probing);
        } else if let Err(wait) = self.pay(retry) {
            self.rate.lock().give_back(start);
            return Err(
                Failure::new(FaultClass::Throttled, format!("retry budget of {} is spent", self.target)).after(wait)
            );
        }
        let waited = started.saturating_sub(came);
        Ok(Pass { guard: self, _place: place, probe, waited, started, at, ended: false })
    }

    async fn enter(&self) -> Result<Place<'_>, Failure> {
        tokio::time::timeout(self.timeout, self.bulkhead.enter()).await.map_err(|_elapsed| {
            Failure::new(
                FaultClass::Throttled,
                format!("no free place for a call to {} within {:?}", self.target, self.timeout),
            )
        })
    }

    async fn await_rate(&self, came: Duration, now: Duration) -> Result<Duration, Failure> {
        let patience = (came + self.timeout).saturating_sub(now);
        let booked = self.rate.lock().book(now, patience);
        let start = booked.map_err(|wait| {
            Failure::new(FaultClass::Throttled, format!("rate of {} is booked out", self.target)).after(wait)
        })?;
        if start > now {
            let booking = Booking { guard: self, start: Some(start) };
            self.clock.sleep(start - now).await;
            booking.keep();
        }
        Ok(start)
    }

    fn pay(&self, retry: bool) -> Result<(), Duration> {
        let mut budget = self.budget.lock();
        if retry {
            return budget.retry(self.watch.elapsed());
        }
        budget.first_try();
        Ok(())
    }

    /// Returns what a group may do now. The rate closes the gate too: when a call would wait for more than half of the
    /// timeout, claiming more would only lend deliveries to workers who cannot start on them.
    pub fn gate(&self) -> Gate {
        let gate = self.breaker.lock().gate(self.clock.now());
        if gate != Gate::Open {
            return gate;
        }
        let wait = self.rate.lock().wait(self.watch.elapsed()).saturating_sub(self.timeout / 2);
        if wait.is_zero() { Gate::Open } else { Gate::ClosedUntil(self.clock.now().plus(wait)) }
    }

    /// Returns a receiver that changes whenever the gate may have changed other than by time.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Opens the breaker by hand; it stays open until it is reset.
    pub fn trip(&self, by: &str, reason: &str) {
        let (at, by, reason) = (self.clock.now(), by.to_owned(), reason.to_owned());
        self.shut(Shut::Tripped { at, by, reason });
    }

    /// Takes note that the target wants nothing any more; nothing is sent to it until it is reset.
    pub fn disable(&self, message: &str) {
        self.shut(Shut::Disabled { at: self.clock.now(), message: message.to_owned() });
    }

    fn shut(&self, why: Shut) {
        let (at, state, failure) = match &why {
            Shut::Tripped { at, by, reason } => {
                let message = format!("tripped by {by}: {reason}");
                (*at, State::Tripped, Failure::new(FaultClass::DependencyDown, message))
            }
            Shut::Disabled { at, message } => (*at, State::Disabled, Failure::new(FaultClass::Auth, message.clone())),
        };
        {
            let mut wish = self.wish.lock();
            if !self.breaker.lock().shut(at, state, failure.clone()) {
                return;
            }
            wish.shut = Some(why.clone());
        }
        match why {
            Shut::Tripped { by, reason, .. } => {
                self.by_hand("trip", &by, &reason);
                self.tell(Change::Opened { until: FOREVER, failure });
            }
            Shut::Disabled { message, .. } => {
                self.notices.emit(&Notice::TargetDisabled { target: self.target.clone(), message });
                self.tell(Change::Gate);
            }
        }
    }

    /// Closes the breaker by hand and forgets failures, a wish for silence and a disabling.
    pub fn reset(&self, by: &str, reason: &str) {
        let change = {
            let mut wish = self.wish.lock();
            wish.shut = None;
            self.breaker.lock().reset(self.clock.now())
        };
        if change != Change::None {
            self.by_hand("reset", by, reason);
        }
        self.tell(change);
    }

    /// Changes the limits; none goes back to what the policy says.
    pub fn limit(&self, concurrency: Option<usize>, rate: Option<Rate>) {
        let (calls, bound) = (concurrency.unwrap_or(self.policy.concurrency), rate.or(self.policy.rate));
        let is_new = {
            let mut wish = self.wish.lock();
            let is_new = (wish.concurrency, wish.rate) != (concurrency, rate);
            (wish.concurrency, wish.rate) = (concurrency, rate);
            self.bulkhead.resize(calls);
            is_new
        };
        self.bound_rate();
        if is_new {
            let (target, rate) =
                (self.target.clone(), bound.map_or_else(|| "none".to_owned(), |rate| rate.to_string()));
            self.notices.emit(&Notice::TargetLimited { target, concurrency: calls as u64, rate });
        }
        self.tell(Change::Gate);
    }

    fn bound_rate(&self) {
        let (rate, share) = (self.wish.lock().rate.or(self.policy.rate), *self.share.lock());
        self.rate.lock().set(rate.map(|rate| rate.part(share)));
    }

    /// Uses only a part of the rate from now on: other nodes use the rest.
    pub fn share(&self, share: Share) {
        if std::mem::replace(&mut *self.share.lock(), share) != share {
            self.bound_rate();
            self.tell(Change::Gate);
        }
    }

    /// Starts no call that a rate bounds for a while: the others do not know yet that there is one more.
    pub fn hold(&self, time: Duration) {
        self.rate.lock().hold(self.watch.elapsed() + time);
    }

    /// Returns what is wanted beyond the policy.
    pub fn wish(&self) -> GuardWish {
        self.wish.lock().clone()
    }

    /// Wants again what was wanted before a restart.
    pub fn restore(&self, wish: GuardWish) {
        self.limit(wish.concurrency, wish.rate);
        if let Some(why) = wish.shut {
            self.shut(why);
        }
    }

    /// Wants what was told to another node, where nothing else was wanted here since `was` was true of both.
    pub fn take_over(&self, was: &GuardWish, told: &GuardWish, by: &str) {
        let now = self.wish();
        if now.shut == was.shut && now.shut != told.shut {
            match told.shut.clone() {
                None => self.reset(by, ""),
                Some(why) => {
                    self.shut(why.clone());
                    // It may be shut already, by somebody else and for another reason.
                    self.wish.lock().shut = Some(why);
                }
            }
        }
        let limits = |wish: &GuardWish| (wish.concurrency, wish.rate);
        if limits(&now) == limits(was) && limits(&now) != limits(told) {
            self.limit(told.concurrency, told.rate);
        }
    }

    /// Returns what it allows when nothing else is wanted.
    pub fn policy(&self) -> &GuardPolicy {
        &self.policy
    }

    fn by_hand(&self, what: &'static str, by: &str, reason: &str) {
        let change = HandChange { at: self.clock.now(), what, by: by.to_owned(), reason: reason.to_owned() };
        self.seen.lock().by_hand = Some(change);
    }

    fn tell(&self, change: Change) {
        let target = || self.target.clone();
        match change {
            Change::None => return,
            Change::Gate => {}
            Change::Opened { until, failure: Failure { class, message, .. } } => {
                self.notices.emit(&Notice::BreakerOpened { target: target(), class, message, until });
            }
            Change::Probing => self.notices.emit(&Notice::BreakerProbing { target: target() }),
            Change::Closed { open_for } => self.notices.emit(&Notice::BreakerClosed { target: target(), open_for }),
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// Returns where it stands.
    pub fn view(&self) -> GuardView {
        let gate = self.gate();
        let occupancy = self.bulkhead.occupancy();
        let breaker = self.breaker_view();
        let seen = self.seen.lock();
        GuardView {
            name: self.target.clone(),
            gate,
            breaker,
            rate: RateView {
                limit: self.wish.lock().rate.or(self.policy.rate),
                share: *self.share.lock(),
                wait: self.rate.lock().wait(self.watch.elapsed()),
            },
            concurrency: ConcurrencyView {
                limit: occupancy.limit,
                in_use: occupancy.in_use,
                waiting: occupancy.waiting,
            },
            waits: WaitsView { count: seen.waits, total: seen.waited, longest: seen.waited_most },
            retries_allowed: self.budget.lock().tokens(),
            timeout: self.timeout,
            calls: seen.calls,
            refused: seen.refused,
            last_error: seen.last_error.clone(),
            by_hand: seen.by_hand.clone(),
        }
    }

    fn breaker_view(&self) -> BreakerView {
        let now = self.clock.now();
        let breaker = self.breaker.lock();
        let (state, until) = match breaker.state {
            State::Closed => (BreakerState::Closed, None),
            State::Open { until } if now < until => (BreakerState::Open, Some(until)),
            State::Open { .. } | State::Probing { .. } => (BreakerState::HalfOpen, None),
            State::Tripped | State::Disabled => (BreakerState::Open, None),
        };
        BreakerView {
            state,
            since: breaker.since,
            failures: breaker.failures,
            until,
            tripped: breaker.state == State::Tripped,
            disabled: breaker.state == State::Disabled,
            reason: breaker.reason.as_ref().map(|failure| failure.message.clone()),
            held_until: breaker.held_until.filter(|until| *until > now),
        }
    }
}

/// A call on its way. Dropped without an end, it counts as one that was given up on: no answer in time.
struct Pass<'a> {
    guard: &'a Guard,
    _place: Place<'a>,
    probe: bool,
    waited: Duration,
    started: Duration,
    /// The same by the clock.
    at: Timestamp,
    ended: bool,
}

impl Pass<'_> {
    fn end(mut self, failure: Option<&Failure>) {
        self.record(failure);
    }

    fn record(&mut self, failure: Option<&Failure>) {
        self.ended = true;
        let guard = self.guard;
        let took = guard.watch.elapsed().saturating_sub(self.started);
        let change = guard.breaker.lock().record(self.at.plus(took), self.probe, failure);
        {
            let mut seen = guard.seen.lock();
            seen.calls += 1;
            if self.waited >= WAIT_COUNTED {
                seen.waits += 1;
                seen.waited += self.waited;
                seen.waited_most = seen.waited_most.max(self.waited);
            }
            if let Some(failure) = failure {
                let (class, message) = (failure.class, failure.message.clone());
                seen.last_error = Some(LastError { at: guard.clock.now(), class, message });
            }
        }
        let result = failure.map_or("done", |failure| failure.class.as_str());
        let target = guard.target.clone();
        guard.notices.emit(&Notice::TargetCalled { target, result, waited: self.waited, took });
        guard.tell(change);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let message = format!("caller gave up on {} before it answered", self.guard.target);
            self.record(Some(&Failure::new(FaultClass::Timeout, message)));
        }
    }
}

/// A booked start that is given back when the caller leaves before it.
struct Booking<'a> {
    guard: &'a Guard,
    start: Option<Duration>,
}

impl Booking<'_> {
    fn keep(mut self) {
        self.start = None;
    }
}

impl Drop for Booking<'_> {
    fn drop(&mut self) {
        if let Some(start) = self.start {
            self.guard.rate.lock().give_back(start);
        }
    }
}

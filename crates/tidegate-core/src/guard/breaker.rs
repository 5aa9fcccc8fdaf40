//! Stops calls to a target that is not there, and lets one call through now and then to see whether it is back.
//!
//! Pure: every step takes the time and returns what changed; [`super::Guard`] keeps it behind a lock and tells others.

use std::time::Duration;

use crate::{
    clock::Timestamp,
    fault::{Failure, FaultClass},
};

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Calls in a row without an answer that open it.
    pub failures: u32,
    /// How long it stays open before one call may try.
    pub cooldown: Duration,
    /// The cooldown doubles with each failed try, up to this.
    pub cooldown_max: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failures: 5, cooldown: Duration::from_secs(30), cooldown_max: Duration::from_secs(300) }
    }
}

/// What a group may do for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Claim.
    Open,
    /// Claim a single delivery, to see whether the target is back.
    Probe,
    /// Claim nothing before this time, unless the gate changes earlier.
    ClosedUntil(Timestamp),
    /// Claim nothing until somebody resets the target.
    Disabled,
}

/// What a step changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// The gate differs, the state does not.
    Gate,
    Opened {
        until: Timestamp,
        failure: Failure,
    },
    Probing,
    Closed {
        open_for: Duration,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    Open {
        until: Timestamp,
    },
    /// One call is on its way; at `deadline` it has an outcome for sure.
    Probing {
        deadline: Timestamp,
    },
    /// Opened by hand; stays so.
    Tripped,
    /// The target wants nothing any more; stays so.
    Disabled,
}

#[derive(Debug)]
pub(super) struct Breaker {
    policy: BreakerPolicy,
    pub(super) state: State,
    pub(super) since: Timestamp,
    /// Calls without an answer in a row.
    pub(super) failures: u32,
    /// Why it is not closed.
    pub(super) reason: Option<Failure>,
    /// The target asked for silence until then.
    pub(super) held_until: Option<Timestamp>,
    cooldown: Duration,
    opened_at: Timestamp,
}

impl Breaker {
    pub(super) fn new(policy: BreakerPolicy, now: Timestamp) -> Self {
        Self {
            cooldown: policy.cooldown,
            policy,
            state: State::Closed,
            since: now,
            failures: 0,
            reason: None,
            held_until: None,
            opened_at: now,
        }
    }

    pub(super) fn gate(&self, now: Timestamp) -> Gate {
        match self.state {
            State::Tripped | State::Disabled => Gate::Disabled,
            State::Probing { deadline } => Gate::ClosedUntil(deadline),
            State::Open { until } if now < until => Gate::ClosedUntil(until),
            State::Open { .. } => Gate::Probe,
            State::Closed => match self.held_until {
                Some(until) if now < until => Gate::ClosedUntil(until),
                Some(_) | None => Gate::Open,
            },
        }
    }

    /// Lets a call pass, or says why not; true when the call is the probe, which must be recorded.
    pub(super) fn admit(&mut self, now: Timestamp, timeout: Duration) -> Result<bool, Failure> {
        self.check(now)?;
        let probe = self.state != State::Closed;
        if probe {
            self.state = State::Probing { deadline: now.plus(timeout) };
            self.since = now;
        }
        Ok(probe)
    }

    /// Says why a call may not pass.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), Failure> {
        match self.gate(now) {
            Gate::Open | Gate::Probe => Ok(()),
            Gate::ClosedUntil(until) if self.state == State::Closed => {
                Err(Failure::new(FaultClass::Throttled, "target asked for silence").after(until.since(now)))
            }
            Gate::ClosedUntil(_) | Gate::Disabled => {
                // No wait is named: the group waits at the gate, and its deliveries go as soon as that opens.
                let why = self.reason.as_ref().map_or("", |reason| &reason.message);
                Err(Failure::new(FaultClass::DependencyDown, format!("breaker is open: {why}")))
            }
        }
    }

    /// Counts how a call ended; `failure` is none when it ended well.
    pub(super) fn record(&mut self, now: Timestamp, probe: bool, failure: Option<&Failure>) -> Change {
        let open_again = probe && matches!(self.state, State::Probing { .. });
        if !open_again && self.state != State::Closed {
            // A call that started before the breaker opened ended after it: nothing new.
            return Change::None;
        }
        let Some(failure) = failure else { return self.answered(now) };
        match failure.class {
            FaultClass::Auth => self.open(now, failure),
            FaultClass::DependencyDown | FaultClass::Timeout => {
                self.failures = self.failures.saturating_add(1);
                if open_again || self.failures >= self.policy.failures { self.open(now, failure) } else { Change::None }
            }
            // Whether it answered is unknown: as a probe it proves nothing, as a call it counts for nothing.
            FaultClass::Ambiguous if open_again => self.open(now, failure),
            FaultClass::Ambiguous => Change::None,
            FaultClass::Throttled => {
                let closed = self.answered(now);
                let until = now.plus(failure.after.unwrap_or(Duration::from_secs(1)));
                self.held_until = self.held_until.max(Some(until));
                if closed == Change::None { Change::Gate } else { closed }
            }
            // An answer, if a bad one: the target is there.
            FaultClass::Transient | FaultClass::Invalid | FaultClass::Poison => self.answered(now),
        }
    }

    fn answered(&mut self, now: Timestamp) -> Change {
        self.failures = 0;
        if self.state == State::Closed { Change::None } else { self.close(now) }
    }

    fn open(&mut self, now: Timestamp, failure: &Failure) -> Change {
        if self.state == State::Closed {
            self.opened_at = now;
            self.cooldown = self.policy.cooldown;
        } else {
            self.cooldown = (self.cooldown * 2).min(self.policy.cooldown_max.max(self.policy.cooldown));
        }
        let until = now.plus(self.cooldown);
        self.state = State::Open { until };
        self.since = now;
        self.reason = Some(failure.clone());
        Change::Opened { until, failure: failure.clone() }
    }

    fn close(&mut self, now: Timestamp) -> Change {
        self.state = State::Closed;
        self.since = now;
        self.reason = None;
        self.failures = 0;
        Change::Closed { open_for: now.since(self.opened_at) }
    }

    /// Closes it for good: by hand, or because the target wants nothing any more. False when it was so already.
    pub(super) fn shut(&mut self, now: Timestamp, state: State, reason: Failure) -> bool {
        if self.state == state {
            return false;
        }
        if self.state == State::Closed {
            self.opened_at = now;
        }
        self.state = state;
        self.since = now;
        self.reason = Some(reason);
        true
    }

    /// Forgets every failure.
    pub(super) fn reset(&mut self, now: Timestamp) -> Change {
        self.failures = 0;
        let held = self.held_until.take().is_some_and(|until| until > now);
        match self.state {
            State::Closed if held => Change::Gate,
            State::Closed => Change::None,
            State::Open { .. } | State::Probing { .. } | State::Tripped | State::Disabled => self.close(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(10);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn breaker() -> Breaker {
        let policy =
            BreakerPolicy { failures: 3, cooldown: Duration::from_secs(30), cooldown_max: Duration::from_secs(100) };
        Breaker::new(policy, at(0))
    }

    fn fail(class: FaultClass) -> Failure {
        Failure::new(class, "x")
    }

    /// How many calls that end so open it, when it takes less than ten.
    fn opens_after(class: FaultClass) -> Option<u32> {
        let mut breaker = breaker();
        (1..10).find(|_| matches!(breaker.record(at(1), false, Some(&fail(class))), Change::Opened { .. }))
    }

    #[test]
    fn every_class_opens_as_it_should() {
        use FaultClass::*;
        for class in FaultClass::ALL {
            let expect = match class {
                Auth => Some(1),
                DependencyDown | Timeout => Some(3),
                Transient | Throttled | Invalid | Poison | Ambiguous => None,
            };
            assert_eq!(opens_after(class), expect, "{class}");
        }
    }

    #[test]
    fn an_answer_ends_the_row() {
        let mut breaker = breaker();
        for _ in 0..5 {
            breaker.record(at(1), false, Some(&fail(FaultClass::Timeout)));
            breaker.record(at(1), false, Some(&fail(FaultClass::Timeout)));
            breaker.record(at(1), false, Some(&fail(FaultClass::Transient)));
        }
        assert_eq!(breaker.gate(at(1)), Gate::Open);
    }

    #[test]
    fn one_probe_passes_and_each_failed_one_doubles_the_wait() {
        let mut breaker = breaker();
        breaker.record(at(0), false, Some(&fail(FaultClass::Auth)));
        let mut now = 0;
        for cooldown in [30, 60, 100, 100] {
            assert_eq!(breaker.gate(at(now)), Gate::ClosedUntil(at(now + cooldown)));
            assert!(breaker.admit(at(now + cooldown - 1), T).is_err());
            now += cooldown;
            assert_eq!(breaker.gate(at(now)), Gate::Probe);
            assert_eq!(breaker.admit(at(now), T), Ok(true));
            assert_eq!(breaker.admit(at(now), T).expect_err("the probe is out").class, FaultClass::DependencyDown);
            assert_eq!(breaker.gate(at(now)), Gate::ClosedUntil(at(now + 10)));
            assert!(matches!(breaker.record(at(now), true, Some(&fail(FaultClass::Auth))), Change::Opened { .. }));
        }
        now += 100;
        assert_eq!(breaker.admit(at(now), T), Ok(true));
        let open_for = Duration::from_secs(now.unsigned_abs());
        assert_eq!(breaker.record(at(now), true, None), Change::Closed { open_for });
        assert_eq!(breaker.gate(at(now)), Gate::Open);
    }

    #[test]
    fn a_probe_ends_open_or_closed_whatever_its_class() {
        for class in FaultClass::ALL {
            let mut breaker = breaker();
            breaker.record(at(0), false, Some(&fail(FaultClass::Auth)));
            breaker.admit(at(30), T).expect("the cooldown is over");
            breaker.record(at(30), true, Some(&fail(class)));
            let answered = matches!(
                class,
                FaultClass::Transient | FaultClass::Throttled | FaultClass::Invalid | FaultClass::Poison
            );
            let expect = if answered { State::Closed } else { State::Open { until: at(90) } };
            assert_eq!(breaker.state, expect, "{class}");
        }
    }

    #[test]
    fn late_ends_of_calls_from_before_change_nothing() {
        let mut breaker = breaker();
        breaker.record(at(0), false, Some(&fail(FaultClass::Auth)));
        assert_eq!(breaker.record(at(1), false, None), Change::None);
        assert_eq!(breaker.record(at(1), false, Some(&fail(FaultClass::Timeout))), Change::None);
        assert_eq!(breaker.gate(at(1)), Gate::ClosedUntil(at(30)));
    }

    #[test]
    fn throttled_closes_the_gate_for_as_long_as_asked_and_counts_nothing() {
        let mut breaker = breaker();
        let told = fail(FaultClass::Throttled).after(Duration::from_secs(77));
        assert_eq!(breaker.record(at(0), false, Some(&told)), Change::Gate);
        breaker.record(at(1), false, Some(&fail(FaultClass::Throttled).after(Duration::from_secs(5))));
        assert_eq!(breaker.gate(at(1)), Gate::ClosedUntil(at(77)), "a shorter wish does not shorten a longer one");
        let refused = breaker.admit(at(7), T).expect_err("silence was asked for");
        assert_eq!((refused.class, refused.after), (FaultClass::Throttled, Some(Duration::from_secs(70))));
        assert_eq!(breaker.gate(at(77)), Gate::Open);
        assert_eq!(breaker.failures, 0);
    }

    #[test]
    fn what_is_shut_by_hand_stays_shut_until_reset() {
        for state in [State::Tripped, State::Disabled] {
            let mut breaker = breaker();
            assert!(breaker.shut(at(5), state.clone(), fail(FaultClass::DependencyDown)));
            assert!(!breaker.shut(at(6), state, fail(FaultClass::DependencyDown)));
            assert_eq!(breaker.gate(at(1_000_000)), Gate::Disabled);
            assert!(breaker.admit(at(1_000_000), T).is_err());
            assert_eq!(breaker.record(at(7), false, None), Change::None);
            assert_eq!(breaker.reset(at(9)), Change::Closed { open_for: Duration::from_secs(4) });
            assert_eq!(breaker.gate(at(9)), Gate::Open);
        }
    }
}

//! The law: what an outcome leads to. Pure; the whole retry and dead-letter policy is here.

use std::time::Duration;

use bytestring::ByteString;

use crate::{
    clock::Timestamp,
    delivery::{Outcome, Settlement},
    fault::{Failure, FaultClass},
    limits,
};

/// How often and how soon a failed delivery is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub attempts: u32,
    /// Wait after the first failed attempt.
    pub first: Duration,
    /// What each further wait is multiplied by.
    pub factor: f64,
    /// Longest wait.
    pub max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 8, first: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(300) }
    }
}

impl RetryPolicy {
    /// Returns the wait after `spent` attempts; `jitter` in `0.0..1.0` shortens it by up to a fifth, so that
    /// deliveries that failed together do not come back together.
    pub fn wait(&self, spent: u32, jitter: f64) -> Duration {
        let exponent = i32::try_from(spent.saturating_sub(1)).unwrap_or(i32::MAX);
        let wait = (self.first.as_secs_f64() * self.factor.powi(exponent)).min(self.max.as_secs_f64());
        Duration::try_from_secs_f64(wait * (1.0 - 0.2 * jitter.clamp(0.0, 1.0))).unwrap_or(self.max).min(self.max)
    }
}

/// What is known of a delivery when its outcome comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Number of the attempt that just ended, from 1.
    pub attempt: u32,
    /// Crashes before this attempt.
    pub crashes: u32,
}

/// Decides what an outcome leads to.
pub fn decide(
    outcome: Outcome,
    tally: Tally,
    policy: &RetryPolicy,
    config: &ByteString,
    now: Timestamp,
    jitter: f64,
) -> Settlement {
    let spent_before = tally.attempt.saturating_sub(1);
    let bury = |failure: Failure| Settlement::Bury { failure, config: config.clone() };
    match outcome {
        Outcome::Done(outputs) | Outcome::Answered { outputs, .. } => Settlement::Done(outputs),
        Outcome::Interrupted => Settlement::Release,
        Outcome::Snooze(wait) => {
            Settlement::RetryAt { at: now.plus(wait), attempts: spent_before, crashes: tally.crashes }
        }
        Outcome::Reject(failure) => bury(failure),
        Outcome::Failed(failure) => {
            let crashes = tally.crashes + u32::from(failure.class == FaultClass::Poison);
            let attempts = spent_before + u32::from(failure.class.spends_attempt());
            let over = match failure.class {
                FaultClass::Invalid => true,
                FaultClass::Poison => crashes >= limits::CRASHES_MAX || attempts >= policy.attempts,
                FaultClass::Transient | FaultClass::Timeout => attempts >= policy.attempts,
                FaultClass::Throttled | FaultClass::Auth | FaultClass::DependencyDown | FaultClass::Ambiguous => false,
            };
            if over {
                return bury(failure);
            }
            let wait = match failure.class {
                FaultClass::Throttled => failure.after.unwrap_or(policy.first),
                // The guard holds the group back; the delivery itself may go as soon as the guard lets it.
                FaultClass::Auth | FaultClass::DependencyDown => failure.after.unwrap_or(Duration::ZERO),
                FaultClass::Transient
                | FaultClass::Timeout
                | FaultClass::Ambiguous
                | FaultClass::Poison
                | FaultClass::Invalid => {
                    let wait = policy.wait(attempts.max(1), jitter);
                    failure.after.map_or(wait, |asked| asked.max(wait))
                }
            };
            Settlement::RetryAt { at: now.plus(wait), attempts, crashes }
        }
    }
}

/// Decides about a delivery before it is tried: a handler that died on it too often gets it no more.
pub fn triage(tally: Tally, policy: &RetryPolicy, config: &ByteString) -> Option<Settlement> {
    let failure = if tally.crashes >= limits::CRASHES_MAX {
        Failure::new(FaultClass::Poison, format!("handler died on it {} times", tally.crashes))
    } else if tally.attempt > policy.attempts {
        Failure::new(
            FaultClass::Poison,
            format!("all {} attempts are spent, the last by a handler that died", policy.attempts),
        )
    } else {
        return None;
    };
    Some(Settlement::Bury { failure, config: config.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Answer;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn policy() -> RetryPolicy {
        RetryPolicy { attempts: 3, first: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(3) }
    }

    fn run(outcome: Outcome, attempt: u32, crashes: u32) -> Settlement {
        decide(outcome, Tally { attempt, crashes }, &policy(), &"cfg".into(), NOW, 0.0)
    }

    fn retry(wait_ms: u64, attempts: u32, crashes: u32) -> Settlement {
        Settlement::RetryAt { at: NOW.plus(Duration::from_millis(wait_ms)), attempts, crashes }
    }

    /// Every class, on the first, the middle and the last attempt.
    #[test]
    fn every_class_at_every_attempt() {
        use FaultClass::*;
        #[derive(Debug, PartialEq)]
        enum Then {
            Retry(u64, u32, u32),
            Bury,
        }
        use Then::{Bury, Retry};
        let table = [
            (Transient, [Retry(1000, 1, 0), Retry(2000, 2, 0), Bury]),
            (Timeout, [Retry(1000, 1, 0), Retry(2000, 2, 0), Bury]),
            (Throttled, [Retry(1000, 0, 0), Retry(1000, 1, 0), Retry(1000, 2, 0)]),
            (Auth, [Retry(0, 0, 0), Retry(0, 1, 0), Retry(0, 2, 0)]),
            (DependencyDown, [Retry(0, 0, 0), Retry(0, 1, 0), Retry(0, 2, 0)]),
            (Invalid, [Bury, Bury, Bury]),
            (Poison, [Retry(1000, 1, 1), Retry(2000, 2, 1), Bury]),
            (Ambiguous, [Retry(1000, 0, 0), Retry(1000, 1, 0), Retry(2000, 2, 0)]),
        ];
        assert_eq!(table.len(), FaultClass::ALL.len());
        for (class, expected) in table {
            for (index, expect) in expected.into_iter().enumerate() {
                let attempt = u32::try_from(index).unwrap() + 1;
                let got = match run(Outcome::Failed(Failure::new(class, "x")), attempt, 0) {
                    Settlement::RetryAt { at, attempts, crashes } => {
                        Retry(u64::try_from(at.since(NOW).as_millis()).unwrap(), attempts, crashes)
                    }
                    Settlement::Bury { failure, config } => {
                        assert_eq!((failure.class, &*config), (class, "cfg"));
                        Bury
                    }
                    other @ (Settlement::Done(_) | Settlement::Skip | Settlement::Release) => {
                        panic!("{class} at attempt {attempt} led to {other:?}")
                    }
                };
                assert_eq!(got, expect, "{class} at attempt {attempt}");
            }
        }
    }

    #[test]
    fn outcomes_that_are_no_failures() {
        assert_eq!(run(Outcome::DONE, 3, 0), Settlement::Done(Vec::new()));
        assert_eq!(run(Outcome::answered(Answer::text("yes")), 3, 0), Settlement::Done(Vec::new()));
        assert_eq!(run(Outcome::Interrupted, 3, 2), Settlement::Release);
        assert_eq!(run(Outcome::Snooze(Duration::from_secs(9)), 3, 1), retry(9000, 2, 1));
        let rejected = run(Outcome::Reject(Failure::new(FaultClass::Transient, "no")), 1, 0);
        assert!(matches!(rejected, Settlement::Bury { .. }));
    }

    #[test]
    fn three_crashes_quarantine_whatever_the_attempts() {
        let many = RetryPolicy { attempts: 100, ..policy() };
        let crash = || Outcome::Failed(Failure::new(FaultClass::Poison, "panic"));
        let go = |crashes| decide(crash(), Tally { attempt: 1, crashes }, &many, &"c".into(), NOW, 0.0);
        assert!(matches!(go(1), Settlement::RetryAt { crashes: 2, .. }));
        assert!(matches!(go(2), Settlement::Bury { .. }));
    }

    #[test]
    fn triage_stops_what_kills_its_handler() {
        let check = |attempt, crashes| triage(Tally { attempt, crashes }, &policy(), &"c".into()).is_some();
        assert!(!check(1, 0));
        assert!(!check(3, 2));
        assert!(check(1, 3));
        assert!(check(4, 1));
    }

    #[test]
    fn throttled_waits_for_what_it_was_told() {
        let failure = Failure::new(FaultClass::Throttled, "429").after(Duration::from_secs(77));
        assert_eq!(run(Outcome::Failed(failure), 1, 0), retry(77_000, 0, 0));
    }

    #[test]
    fn waits_grow_to_the_cap_and_jitter_only_shortens() {
        let policy = policy();
        assert_eq!(policy.wait(1, 0.0), Duration::from_secs(1));
        assert_eq!(policy.wait(2, 0.0), Duration::from_secs(2));
        assert_eq!(policy.wait(3, 0.0), Duration::from_secs(3));
        assert_eq!(policy.wait(1000, 0.0), Duration::from_secs(3));
        assert_eq!(policy.wait(1, 1.0), Duration::from_millis(800));
    }
}

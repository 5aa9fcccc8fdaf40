//! Bounds the share of calls that are retries, so that a struggling target is not hit harder than a healthy one.

use std::time::Duration;

/// How many of the calls may be retries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudgetPolicy {
    /// Retries allowed per first try: 0.2 lets one retry through for five first tries.
    pub share: f64,
    /// Retries per second that are always allowed, so that little traffic can retry at all.
    pub floor: u32,
}

impl Default for RetryBudgetPolicy {
    fn default() -> Self {
        Self { share: 0.2, floor: 10 }
    }
}

/// Seconds of the floor that may be saved up while nothing is retried.
const SAVED_SECONDS: f64 = 10.0;

/// Tokens for retries.
#[derive(Debug)]
pub(super) struct RetryBudget {
    policy: RetryBudgetPolicy,
    tokens: f64,
    counted_at: Duration,
}

impl RetryBudget {
    pub(super) fn new(policy: RetryBudgetPolicy) -> Self {
        let mut budget = Self { policy, tokens: 0.0, counted_at: Duration::ZERO };
        budget.tokens = budget.most();
        budget
    }

    fn most(&self) -> f64 {
        (f64::from(self.policy.floor) * SAVED_SECONDS).max(1.0)
    }

    /// Pays for a retry, or returns how long to wait until one can be paid.
    pub(super) fn retry(&mut self, now: Duration) -> Result<(), Duration> {
        let floor = f64::from(self.policy.floor);
        let earned = now.saturating_sub(self.counted_at).as_secs_f64() * floor;
        self.tokens = (self.tokens + earned).min(self.most());
        self.counted_at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // Without a floor only first tries earn anything; nobody knows when they come.
        let wait = if floor > 0.0 { (1.0 - self.tokens) / floor } else { SAVED_SECONDS };
        Err(Duration::from_secs_f64(wait))
    }

    /// Earns a share of a retry by a first try.
    pub(super) fn first_try(&mut self) {
        self.tokens = (self.tokens + self.policy.share).min(self.most());
    }

    pub(super) fn tokens(&self) -> f64 {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(policy: RetryBudgetPolicy) -> RetryBudget {
        let mut budget = RetryBudget::new(policy);
        while budget.retry(Duration::ZERO).is_ok() {}
        budget
    }

    #[test]
    fn five_first_tries_pay_for_one_retry() {
        let mut budget = spent(RetryBudgetPolicy { share: 0.2, floor: 0 });
        for _ in 0..4 {
            budget.first_try();
        }
        assert!(budget.retry(Duration::ZERO).is_err());
        budget.first_try();
        assert!(budget.retry(Duration::ZERO).is_ok());
    }

    #[test]
    fn the_floor_pays_with_time_and_says_how_long_to_wait() {
        let mut budget = spent(RetryBudgetPolicy { share: 0.0, floor: 10 });
        let wait = budget.retry(Duration::ZERO).expect_err("nothing is left");
        assert_eq!(wait, Duration::from_millis(100));
        assert!(budget.retry(wait).is_ok());
        let hour = Duration::from_secs(3600);
        let burst = std::iter::from_fn(|| budget.retry(hour).ok()).count();
        assert_eq!(burst, 100, "ten seconds of the floor are saved, not an hour");
    }
}

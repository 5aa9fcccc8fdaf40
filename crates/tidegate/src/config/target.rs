//! Settings of a target and of the guard before it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    config::{RateText, Spot, Time},
    guard::{BreakerPolicy, GuardPolicy, Rate, RetryBudgetPolicy},
    limits,
};

/// An outside destination. All who call it share its guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TargetConfig {
    /// Most calls at a time.
    pub concurrency: usize,
    /// Most calls in any stretch of time; absent = unlimited.
    pub rate: Option<RateText>,
    /// Longest time of one call; and, apart from it, longest wait for a place and for the rate.
    pub timeout: Time,
    /// When calls stop because the target is not there.
    pub breaker: BreakerConfig,
    /// How many of the calls may be retries.
    pub retry_budget: RetryBudgetConfig,
}

impl Default for TargetConfig {
    fn default() -> Self {
        let policy = GuardPolicy::default();
        Self {
            concurrency: policy.concurrency,
            rate: None,
            timeout: time(policy.timeout),
            breaker: BreakerConfig::default(),
            retry_budget: RetryBudgetConfig::default(),
        }
    }
}

/// When calls to a target stop because it is not there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// Calls in a row without an answer that open it.
    pub failures: u32,
    /// How long it stays open before one call may try.
    pub cooldown: Time,
    /// The cooldown doubles with each failed try, up to this.
    pub cooldown_max: Time,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        let policy = BreakerPolicy::default();
        Self { failures: policy.failures, cooldown: time(policy.cooldown), cooldown_max: time(policy.cooldown_max) }
    }
}

/// How many of the calls to a target may be retries, so that retries cannot keep it down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBudgetConfig {
    /// Retries allowed per first try: 0.2 lets one retry through for five first tries.
    pub share: f64,
    /// Retries per second that are always allowed.
    pub floor: u32,
}

impl Default for RetryBudgetConfig {
    fn default() -> Self {
        let policy = RetryBudgetPolicy::default();
        Self { share: policy.share, floor: policy.floor }
    }
}

fn time(duration: std::time::Duration) -> Time {
    Time::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

impl TargetConfig {
    /// Returns what the guard allows.
    pub fn policy(&self) -> GuardPolicy {
        GuardPolicy {
            concurrency: self.concurrency,
            rate: self.rate.map(|rate| Rate { count: rate.count, per: rate.per }),
            timeout: self.timeout.get(),
            breaker: BreakerPolicy {
                failures: self.breaker.failures,
                cooldown: self.breaker.cooldown.get(),
                cooldown_max: self.breaker.cooldown_max.get(),
            },
            retry_budget: RetryBudgetPolicy { share: self.retry_budget.share, floor: self.retry_budget.floor },
        }
    }

    pub(super) fn check(&self, here: &Spot<'_>) {
        here.at("concurrency").require((1..=limits::IN_FLIGHT_MAX).contains(&self.concurrency), || {
            format!("must be 1 to {}", limits::IN_FLIGHT_MAX)
        });
        here.at("timeout").require(!self.timeout.is_zero(), || "must be more than zero".to_owned());
        let breaker = here.at("breaker");
        breaker.at("failures").require(self.breaker.failures > 0, || "must be at least 1".to_owned());
        breaker.at("cooldown").require(!self.breaker.cooldown.is_zero(), || "must be more than zero".to_owned());
        breaker.at("cooldown_max").require(self.breaker.cooldown <= self.breaker.cooldown_max, || {
            format!("must not be shorter than the cooldown of {}", self.breaker.cooldown)
        });
        let share = self.retry_budget.share;
        here.at("retry_budget")
            .at("share")
            .require(share.is_finite() && (0.0..=1000.0).contains(&share), || "must be 0 to 1000".to_owned());
    }
}

//! What an operator sees of a guard.

use std::time::Duration;

use super::{Gate, Rate, Share};
use crate::{clock::Timestamp, fault::FaultClass, names::TargetName};

/// Where a guard stands.
#[derive(Debug, Clone, PartialEq)]
pub struct GuardView {
    /// The target.
    pub name: TargetName,
    /// What a group may do now.
    pub gate: Gate,
    /// The breaker.
    pub breaker: BreakerView,
    /// The rate.
    pub rate: RateView,
    /// The bulkhead.
    pub concurrency: ConcurrencyView,
    /// Waiting before calls.
    pub waits: WaitsView,
    /// Retries that the budget would let through now.
    pub retries_allowed: f64,
    /// Longest time of one call.
    pub timeout: Duration,
    /// Calls that were made.
    pub calls: u64,
    /// Calls that were refused before they were made.
    pub refused: u64,
    /// The last call that ended badly.
    pub last_error: Option<LastError>,
    /// The last trip or reset by hand.
    pub by_hand: Option<HandChange>,
}

/// State of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls pass.
    Closed,
    /// Calls are refused.
    Open,
    /// One call may pass, or is on its way, to see whether the target is back.
    HalfOpen,
}

impl BreakerState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// Returns the word used in metrics, JSON and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerView {
    /// State.
    pub state: BreakerState,
    /// Since when.
    pub since: Timestamp,
    /// Calls in a row without an answer.
    pub failures: u32,
    /// When it lets a call through to see; none when closed, or when it stays open until somebody resets it.
    pub until: Option<Timestamp>,
    /// Opened by hand.
    pub tripped: bool,
    /// The target wants nothing any more.
    pub disabled: bool,
    /// Why it is not closed.
    pub reason: Option<String>,
    /// The target asked for silence until then.
    pub held_until: Option<Timestamp>,
}

/// A rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateView {
    /// The part of it that this node may use.
    pub share: Share,
    /// The rate in force.
    pub limit: Option<Rate>,
    /// How long a call that came now would wait for it.
    pub wait: Duration,
}

/// A bulkhead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConcurrencyView {
    /// Most calls at a time.
    pub limit: usize,
    /// Calls that run.
    pub in_use: usize,
    /// Calls that wait for a place.
    pub waiting: usize,
}

/// Waiting of all calls so far, for a place and for the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitsView {
    /// Calls that had to wait.
    pub count: u64,
    /// Their waiting together.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

/// A call that ended badly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// How it was judged.
    pub class: FaultClass,
    /// What happened.
    pub message: String,
}

/// A trip or reset by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandChange {
    /// When.
    pub at: Timestamp,
    /// `trip` or `reset`.
    pub what: &'static str,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

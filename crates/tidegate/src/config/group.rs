//! Settings of a group.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    config::{Bytes, Check as _, Spot, Switch, Time},
    decide::RetryPolicy,
    limits,
    names::{GroupName, StreamName, TargetName},
    order::OrderBy,
    result::ResultsPolicy,
    store,
};
use tidegate_modules::SinkConfig;
use tidegate_rules::{EventExpr, EventMap, Stage, Stages};

use super::target::TargetConfig;

/// A group: who processes the events of a stream, and how. Every group gets every event once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Stream whose events it processes.
    pub from: StreamName,
    /// Deliveries that are processed at a time. With 1 and no `order_by`, events are processed in the order of the stream.
    #[serde(default = "workers")]
    pub workers: usize,
    /// Expression that is true of the events that the group handles, such as `type.startsWith("order.")`. The others are
    /// done without an attempt and counted as skipped. Absent = all. The language is described in `docs/expressions.md`.
    #[serde(default, rename = "where")]
    pub filter: Option<EventExpr>,
    /// What the handler sees in place of the event: an expression for its data, or a mapping with expressions for `data`,
    /// `type`, `subject` and `extensions`. The event in the stream and in the dead letters stays as it came.
    #[serde(default)]
    pub map: Option<EventMap>,
    /// Filters and changes in an order of your own, in place of `where` and `map`: a list of `where: EXPRESSION` and
    /// `map: EXPRESSION`, each of which sees what the one before has left.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// Order key: a CloudEvents attribute such as `subject`, or a path such as `data.customer.id`. Events of one key are
    /// processed one at a time in stream order, different keys at the same time. Absent = no order.
    #[serde(default)]
    pub order_by: Option<OrderBy>,
    /// What a failed event does to those behind it with the same order key.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Where a new group starts in its stream.
    #[serde(default)]
    pub start: Start,
    /// Longest time of one attempt; a handler that takes longer is stopped and the attempt counts as failed. An event can
    /// ask for less, or for more up to `timeout_max`, with its extension attribute `timeout`, such as `90s`. A pull worker
    /// keeps its own time: it is lent an event that has this attribute for no longer than that.
    #[serde(default = "timeout")]
    pub timeout: Time,
    /// Longest time of one attempt that an event can ask for. Absent = `timeout`.
    #[serde(default)]
    pub timeout_max: Option<Time>,
    /// How long a delivery is lent. Inside the node it is renewed while the handler runs; a pull worker extends it itself.
    #[serde(default = "lease")]
    pub lease: Time,
    /// How often and how soon a failed event is tried again.
    #[serde(default)]
    pub retry: RetryConfig,
    /// How long the group remembers what it has done, so that a repeated event is not processed again.
    #[serde(default)]
    pub ledger: Switch<LedgerConfig>,
    /// Keeps what the sink answers to each event, so that it can be asked for by the event's id. Absent = it is not kept.
    /// The results lie in a stream of the group's name with the ending `.results`, which comes with it.
    #[serde(default)]
    pub results: Option<ResultsConfig>,
    /// Whether an event waits until those that its extension attribute `after` names are done in this group. Absent =
    /// `wait` in a group with a ledger and without a filter, `ignore` in any other.
    #[serde(default)]
    pub after: Option<After>,
    /// Takes what is more urgent first, by the extension attribute `priority` of an event: 0 to 9, 4 when absent. An event goes
    /// before those of a priority lower by one that were accepted up to this time before it, so that none waits for ever: the
    /// shorter, the sooner the less urgent ones have their turn. Within a key of `order_by` the order of the stream stands.
    /// Absent = the order of the stream.
    #[serde(default)]
    pub priority_step: Option<Time>,
    /// What processes the events.
    pub sink: SinkConfig,
}

fn workers() -> usize {
    1
}

fn timeout() -> Time {
    Time::from_secs(30)
}

fn lease() -> Time {
    Time::from_secs(60)
}

/// How often and how soon a failed event is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Attempts in all, the first included. Only faults of the kinds `transient`, `timeout` and `poison` spend one.
    pub attempts: u32,
    /// Wait after the first failed attempt.
    pub first: Time,
    /// What each further wait is multiplied by.
    pub factor: f64,
    /// Longest wait.
    pub max: Time,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { attempts: 8, first: Time::from_secs(1), factor: 2.0, max: Time::from_secs(300) }
    }
}

/// What a group remembers of what it has done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerConfig {
    /// How long.
    pub keep: Time,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self { keep: Time::from_secs(7 * 86_400) }
    }
}

/// How long a group keeps what its sink answers: until the first bound is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResultsConfig {
    /// How long.
    pub keep: Time,
    /// Most results.
    #[serde(default = "results_count")]
    pub count: u64,
    /// Most bytes of results.
    #[serde(default = "results_bytes")]
    pub bytes: Bytes,
}

const RESULTS: ResultsPolicy = ResultsPolicy::new(std::time::Duration::ZERO);

fn results_count() -> u64 {
    RESULTS.count
}

fn results_bytes() -> Bytes {
    Bytes::new(RESULTS.bytes)
}

impl ResultsConfig {
    /// Returns what the engine is asked for.
    pub fn policy(&self) -> ResultsPolicy {
        ResultsPolicy { keep: self.keep.get(), count: self.count, bytes: self.bytes.get() }
    }

    fn check(&self, here: &Spot<'_>) {
        here.at("keep").require(!self.keep.is_zero(), || "must be more than zero".to_owned());
        let most = limits::RESULTS_MAX;
        here.at("count").require((1..=most).contains(&self.count), || format!("must be 1 to {most}"));
        here.at("bytes").require(self.bytes.get() > 0, || "must be more than zero".to_owned());
    }
}

/// What a failed event does to those behind it with the same order key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// They may run while it waits for its retry.
    #[default]
    Skip,
    /// They wait until it is done or dead.
    Block,
}

/// What a group does with events that name others in their `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// They wait until those are done, or not let through by the group's filter. The ledger says so, as long as it keeps it;
    /// what a filter does not let through costs an entry of it too.
    Wait,
    /// They run in their turn.
    Ignore,
}

/// Where a new group starts in its stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At the oldest kept event.
    #[default]
    Earliest,
    /// After the newest event.
    Latest,
}

/// Shortest lease; renewing it takes a third of it.
const LEASE_MIN: Time = Time::from_secs(1);
/// Longest lease.
const LEASE_MAX: Time = Time::from_secs(limits::LEASE_SECONDS_MAX);
/// Longest time of waiting that one step of priority is worth.
const PRIORITY_STEP_MAX: Time = Time::from_secs(limits::PRIORITY_STEP_SECONDS_MAX);

impl GroupConfig {
    /// Returns what the engine is asked for. `mark_claims`: whether a handler can take the whole process down.
    pub fn spec(&self, name: &GroupName, mark_claims: bool) -> store::GroupSpec {
        store::GroupSpec {
            name: name.clone(),
            stream: self.from.clone(),
            start: match self.start {
                Start::Earliest => store::Start::Earliest,
                Start::Latest => store::Start::Latest,
            },
            end: None,
            order_by: self.order_by.clone(),
            on_failure: match self.on_failure {
                OnFailure::Skip => store::OnFailure::Skip,
                OnFailure::Block => store::OnFailure::Block,
            },
            ledger: self.ledger.on().map(|ledger| ledger.keep.get()),
            after: self.after.map_or(self.ledger.on().is_some() && !self.filters(), |after| after == After::Wait),
            priority_step: self.priority_step.map(Into::into),
            mark_claims,
        }
    }

    /// Tells whether it lets some events pass without an attempt.
    fn filters(&self) -> bool {
        self.filter.is_some() || self.stages.iter().any(|stage| matches!(stage, Stage::Where(_)))
    }

    /// Returns the law of its retries.
    pub fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            attempts: self.retry.attempts,
            first: self.retry.first.get(),
            factor: self.retry.factor,
            max: self.retry.max.get(),
        }
    }

    /// Returns what stands between the stream and the sink.
    pub fn stages(&self) -> Stages {
        let filter = self.filter.clone().map(Stage::Where);
        let map = self.map.clone().map(Stage::Map);
        Stages::new(filter.into_iter().chain(self.stages.iter().cloned()).chain(map).collect())
    }

    /// Checks that an attempt leaves room for the longest wait before a call and the longest call.
    pub(super) fn check_room(&self, target: &TargetConfig, name: &TargetName, here: &Spot<'_>) {
        let needed = target.timeout.get().saturating_mul(2);
        here.require(self.timeout.get() >= needed, || {
            format!(
                "{} leaves no room for two times the timeout of target {name}, {}: once to wait and once to call",
                self.timeout, target.timeout
            )
        });
    }

    pub(super) fn check(&self, here: &Spot<'_>) {
        here.at("workers").require((1..=limits::WORKERS_MAX).contains(&self.workers), || {
            format!("must be 1 to {}", limits::WORKERS_MAX)
        });
        let alone = self.stages.is_empty() || (self.filter.is_none() && self.map.is_none());
        here.at("stages").require(alone, || "stands in place of where and map: move them into the list".to_owned());
        here.at("stages")
            .require(self.stages.len() <= limits::STAGES_MAX, || format!("must be at most {}", limits::STAGES_MAX));
        here.at("timeout").require(!self.timeout.is_zero(), || "must be more than zero".to_owned());
        let most = self.timeout_max.unwrap_or(self.timeout);
        here.at("timeout_max")
            .require(most >= self.timeout, || format!("must not be shorter than timeout, {}", self.timeout));
        here.at("lease")
            .require((LEASE_MIN..=LEASE_MAX).contains(&self.lease), || format!("must be {LEASE_MIN} to {LEASE_MAX}"));
        here.at("on_failure").require(self.on_failure == OnFailure::Skip || self.order_by.is_some(), || {
            "block needs order_by: without an order key nothing waits behind a failed event".to_owned()
        });
        here.at("after").require(self.after != Some(After::Wait) || self.ledger.on().is_some(), || {
            "wait needs the ledger, which says what is done".to_owned()
        });
        let most = PRIORITY_STEP_MAX;
        here.at("priority_step").require(self.priority_step.is_none_or(|step| !step.is_zero() && step <= most), || {
            format!("must be more than zero and at most {most}")
        });
        let retry = here.at("retry");
        retry.at("attempts").require((1..=limits::ATTEMPTS_MAX).contains(&self.retry.attempts), || {
            format!("must be 1 to {}", limits::ATTEMPTS_MAX)
        });
        retry.at("first").require(!self.retry.first.is_zero(), || "must be more than zero".to_owned());
        let factor = self.retry.factor;
        retry.at("factor").require((1.0..=100.0).contains(&factor), || "must be 1 to 100".to_owned());
        retry.at("max").require(self.retry.first <= self.retry.max, || {
            format!("must not be shorter than the first wait of {}", self.retry.first)
        });
        if let Some(ledger) = self.ledger.on() {
            here.at("ledger")
                .at("keep")
                .require(!ledger.keep.is_zero(), || "must be more than zero; ledger: off ends it".to_owned());
        }
        if let Some(results) = &self.results {
            results.check(&here.at("results"));
        }
        self.sink.check(&here.at("sink"));
    }
}

//! Targets: where each guard stands, and trip, reset and limit by hand.

use std::sync::Arc;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Timestamp,
    config::RateText,
    fault::{Fault, Result},
    guard::{Guard, GuardView, Rate},
    limits,
};
use utoipa::ToSchema;

use crate::{
    call::{Call, json, parse},
    problem::Problem,
};

/// All targets.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Targets {
    targets: Vec<Target>,
}

/// A target and its guard.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Target {
    name: String,
    /// What groups may do: `open`, `probe`, `closed` or `disabled`.
    gate: &'static str,
    breaker: Breaker,
    rate: RateLimit,
    concurrency: Concurrency,
    waits: Waits,
    /// Calls that were made since the start.
    calls: u64,
    /// Calls that were refused before they were made, since the start.
    refused: u64,
    /// Longest time of one call.
    #[schema(example = "10s")]
    timeout: String,
    last_error: Option<LastError>,
    /// The last trip or reset by hand.
    by_hand: Option<ByHand>,
}

/// The breaker of a target.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Breaker {
    /// `closed`, `open` or `half_open`.
    state: &'static str,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Calls in a row without an answer.
    failures: u32,
    /// When it lets a call through to see.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// Opened by hand; stays so until it is reset.
    tripped: bool,
    /// The target wants nothing any more; stays so until it is reset.
    disabled: bool,
    /// Why it is not closed.
    reason: Option<String>,
    /// The target asked for silence until then.
    #[schema(value_type = Option<String>, format = DateTime)]
    held_until: Option<Timestamp>,
}

/// The rate of a target.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RateLimit {
    /// The rate in force; none when there is no limit.
    #[schema(example = "50/s")]
    limit: Option<String>,
    /// What of it is this node's: nodes on one engine share it.
    #[schema(example = "25/s")]
    share: Option<String>,
    /// How long a call that came now would wait.
    wait_seconds: f64,
}

/// Calls at a time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Concurrency {
    limit: usize,
    in_use: usize,
    waiting: usize,
}

/// Waiting before calls since the start.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Waits {
    count: u64,
    total_seconds: f64,
    longest_seconds: f64,
}

/// A call that ended badly.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LastError {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    class: &'static str,
    message: String,
}

/// A trip or reset by hand.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ByHand {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    what: &'static str,
    by: String,
    reason: String,
}

impl From<GuardView> for Target {
    fn from(view: GuardView) -> Self {
        Self {
            name: view.name.into(),
            gate: super::groups::gate_word(view.gate),
            breaker: Breaker {
                state: view.breaker.state.as_str(),
                since: view.breaker.since,
                failures: view.breaker.failures,
                until: view.breaker.until,
                tripped: view.breaker.tripped,
                disabled: view.breaker.disabled,
                reason: view.breaker.reason,
                held_until: view.breaker.held_until,
            },
            rate: RateLimit {
                limit: view.rate.limit.map(|rate| rate.to_string()),
                share: view.rate.limit.map(|rate| rate.part(view.rate.share).to_string()),
                wait_seconds: view.rate.wait.as_secs_f64(),
            },
            concurrency: Concurrency {
                limit: view.concurrency.limit,
                in_use: view.concurrency.in_use,
                waiting: view.concurrency.waiting,
            },
            waits: Waits {
                count: view.waits.count,
                total_seconds: view.waits.total.as_secs_f64(),
                longest_seconds: view.waits.longest.as_secs_f64(),
            },
            calls: view.calls,
            refused: view.refused,
            timeout: super::duration_text(view.timeout),
            last_error: view.last_error.map(|error| LastError {
                at: error.at,
                class: error.class.as_str(),
                message: error.message,
            }),
            by_hand: view.by_hand.map(|change| ByHand {
                at: change.at,
                what: change.what,
                by: change.by,
                reason: change.reason,
            }),
        }
    }
}

#[utoipa::path(
    get, path = "/v1/targets", tag = "targets", operation_id = "targets_list",
    summary = "List targets",
    responses((status = 200, description = "All targets.", body = Targets))
)]
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    json(&Targets { targets: call.api.guards.iter().map(|guard| guard.view().into()).collect() })
}

#[utoipa::path(
    get, path = "/v1/targets/{target}", tag = "targets", operation_id = "targets_show",
    summary = "Show a target",
    params(("target" = String, Path, description = "Name of the target.")),
    responses((status = 200, description = "The target.", body = Target))
)]
pub(crate) async fn show(call: Call) -> Result<Response, Problem> {
    json(&Target::from(call.api.guard(&call.target()?)?.view()))
}

/// Why something is done by hand.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ReasonAsk {
    /// Why.
    reason: String,
}

/// New limits of a target; what is absent goes back to what the configuration says.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitAsk {
    /// Most calls at a time.
    #[schema(minimum = 1)]
    concurrency: Option<usize>,
    /// Most calls in a stretch of time.
    #[schema(value_type = Option<String>, example = "50/s")]
    rate: Option<RateText>,
    /// Why.
    reason: String,
}

/// What was done to a target, and where it stands now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TargetAction {
    /// Id of this action.
    action: String,
    /// What was done.
    result: &'static str,
    target: Target,
}

fn done(
    call: &Call,
    guard: &Arc<Guard>,
    what: &'static str,
    result: &'static str,
    reason: &str,
) -> Result<Response, Problem> {
    let action = call.action(what, guard.target().as_str(), reason);
    json(&TargetAction { action, result, target: guard.view().into() })
}

#[utoipa::path(
    post, path = "/v1/targets/{target}/trip", tag = "targets", operation_id = "targets_trip",
    summary = "Open the breaker by hand",
    description = "Groups stop claiming for the target until it is reset.",
    params(("target" = String, Path, description = "Name of the target.")),
    request_body = ReasonAsk,
    responses((status = 200, description = "It is open.", body = TargetAction))
)]
pub(crate) async fn trip(mut call: Call) -> Result<Response, Problem> {
    let body = call.json_body().await?;
    let ask: ReasonAsk = parse(&body)?;
    let guard = Arc::clone(call.api.guard(&call.target()?)?);
    guard.trip(&call.actor.name, &ask.reason);
    done(&call, &guard, "target.trip", "tripped", &ask.reason)
}

#[utoipa::path(
    post, path = "/v1/targets/{target}/reset", tag = "targets", operation_id = "targets_reset",
    summary = "Close the breaker by hand",
    params(("target" = String, Path, description = "Name of the target.")),
    request_body = ReasonAsk,
    responses((status = 200, description = "It is closed.", body = TargetAction))
)]
pub(crate) async fn reset(mut call: Call) -> Result<Response, Problem> {
    let body = call.json_body().await?;
    let ask: ReasonAsk = parse(&body)?;
    let guard = Arc::clone(call.api.guard(&call.target()?)?);
    guard.reset(&call.actor.name, &ask.reason);
    done(&call, &guard, "target.reset", "reset", &ask.reason)
}

#[utoipa::path(
    post, path = "/v1/targets/{target}/limit", tag = "targets", operation_id = "targets_limit",
    summary = "Change the limits of a target, over restarts, until the configuration names others",
    params(("target" = String, Path, description = "Name of the target.")),
    request_body = LimitAsk,
    responses((status = 200, description = "They are in force.", body = TargetAction))
)]
pub(crate) async fn limit(mut call: Call) -> Result<Response, Problem> {
    let body = call.json_body().await?;
    let ask: LimitAsk = parse(&body)?;
    let guard = Arc::clone(call.api.guard(&call.target()?)?);
    if ask.concurrency.is_some_and(|calls| calls == 0 || calls > limits::WORKERS_MAX) {
        let note =
            format!("concurrency of a target must be between 1 and {}; to stop it, trip it", limits::WORKERS_MAX);
        return Err(Fault::invalid(note).into());
    }
    let rate = ask.rate.map(|rate| Rate { count: rate.count, per: rate.per });
    guard.limit(ask.concurrency, rate);
    done(&call, &guard, "target.limit", "limited", &ask.reason)
}

//! What an operator does with dead letters: back into the stream, taken care of, given up, forgotten. Each is a job.

use std::time::Duration;

use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use tidegate_core::{
    config::{RateText, Time},
    delivery::Position,
    fault::{Fault, Result},
    limits,
    names::{GroupName, StreamName},
};
use tidegate_engine::{JobAsk, JobVerb, Patch};
use tidegate_rules::Expr;
use utoipa::ToSchema;

use super::{AskedState, jobs::Job};
use crate::{
    call::{Call, json, parse},
    problem::Problem,
};

/// How long an answer waits for the end of a job when the request does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(10);

/// Which dead letters are moved, and how.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MoveAsk {
    /// These, at most 10000. Exactly one of `ids`, `where` and `all` is given.
    #[schema(value_type = Option<Vec<String>>)]
    ids: Option<Vec<Position>>,
    /// Those for which this expression is true. It sees the event (`id`, `source`, `type`, `subject`, `time`, `data`,
    /// `ext`) and `fault.class`, `fault.message`, `fault.signature`, `group`, `stream`, `state`, `failed_at`, `attempts`.
    #[serde(rename = "where")]
    #[schema(value_type = Option<String>)]
    filter: Option<Expr>,
    /// All that `state`, `group` and `older` allow.
    all: bool,
    /// With `all` or `where`: only in this state; `parked` when absent, for purge `all` that are not parked.
    state: Option<AskedState>,
    /// With `all` or `where`: only of this group.
    #[schema(value_type = Option<String>)]
    group: Option<GroupName>,
    /// With `all` or `where`: only those buried longer ago than this.
    #[schema(value_type = Option<String>)]
    older: Option<Time>,
    /// Only count.
    dry_run: bool,
    /// For reprocess: also those that were reprocessed before.
    force: bool,
    /// At most so many in a time, such as `10/s`.
    #[schema(value_type = Option<String>)]
    rate: Option<RateText>,
    /// For reprocess: so many first; when one of them fails, the job stops before all others. At most 1000.
    canary: u64,
    /// For reprocess: stop when more than this part of the last ones fails again, 0 to 1. At most 100 are then on their
    /// way at a time.
    stop_on_fail_rate: Option<f64>,
    /// For reprocess: changes each event before it goes back; `id` and `source` stay, the dead letter keeps the original.
    /// An object is a JSON merge patch of the CloudEvent, an array a JSON Patch.
    #[schema(value_type = Option<Object>)]
    patch: Option<Value>,
    /// How long the answer waits for the end of the job, at most 45s; 10s when absent.
    #[schema(value_type = Option<String>)]
    wait: Option<Time>,
    /// Why.
    reason: String,
}

#[utoipa::path(
    post, path = "/v1/dlq/{stream}/reprocess", tag = "dlq", operation_id = "dlq_reprocess",
    summary = "Put dead letters back into their stream",
    description = "With the same event, order key and history, for the group that buried them. Never twice, unless forced. \
        The answer is a job; one that has not ended within `wait` is `running` and goes on, over restarts too.",
    params(("stream" = String, Path, description = "The stream, its `.dlq`, or an alias of that.")),
    request_body = MoveAsk,
    responses((status = 200, description = "What became of them.", body = Job))
)]
pub(crate) async fn reprocess(call: Call) -> Result<Response, Problem> {
    work(call, JobVerb::Reprocess).await
}

#[utoipa::path(
    post, path = "/v1/dlq/{stream}/resolve", tag = "dlq", operation_id = "dlq_resolve",
    summary = "Note that somebody took care of dead letters elsewhere",
    params(("stream" = String, Path, description = "The stream, its `.dlq`, or an alias of that.")),
    request_body = MoveAsk,
    responses((status = 200, description = "What became of them.", body = Job))
)]
pub(crate) async fn resolve(call: Call) -> Result<Response, Problem> {
    work(call, JobVerb::Resolve).await
}

#[utoipa::path(
    post, path = "/v1/dlq/{stream}/discard", tag = "dlq", operation_id = "dlq_discard",
    summary = "Give dead letters up",
    params(("stream" = String, Path, description = "The stream, its `.dlq`, or an alias of that.")),
    request_body = MoveAsk,
    responses((status = 200, description = "What became of them.", body = Job))
)]
pub(crate) async fn discard(call: Call) -> Result<Response, Problem> {
    work(call, JobVerb::Discard).await
}

#[utoipa::path(
    post, path = "/v1/dlq/{stream}/purge", tag = "dlq", operation_id = "dlq_purge",
    summary = "Forget dead letters that are not parked, for good",
    params(("stream" = String, Path, description = "The stream, its `.dlq`, or an alias of that.")),
    request_body = MoveAsk,
    responses((status = 200, description = "What became of them.", body = Job))
)]
pub(crate) async fn purge(call: Call) -> Result<Response, Problem> {
    work(call, JobVerb::Purge).await
}

async fn work(mut call: Call, verb: JobVerb) -> Result<Response, Problem> {
    let stream = call.dead_of()?.origin();
    let body = call.json_body().await?;
    let ask: MoveAsk = parse(&body)?;
    let wait = wait(ask.wait)?;
    let (reason, dry_run) = (ask.reason.clone(), ask.dry_run);
    let ask = asked(&call, &stream, ask, verb)?;
    let desk = call.api.desk.clone();
    let id =
        if dry_run { uuid::Uuid::new_v4().to_string() } else { call.action(verb.as_str(), stream.as_str(), &reason) };
    desk.begin(id.clone(), ask).await?;
    json(&Job::new(&desk.wait(&id, wait).await?))
}

/// Returns how long an answer waits.
pub(super) fn wait(asked: Option<Time>) -> Result<Duration> {
    let most = Duration::from_secs(limits::REQUEST_SECONDS_MAX * 3 / 4);
    let wait = asked.map_or(WAIT_DEFAULT, |time| time.get());
    if wait > most {
        return Err(Fault::invalid(format!("wait is longer than {}", super::super::duration_text(most))));
    }
    Ok(wait)
}

fn asked(call: &Call, stream: &StreamName, ask: MoveAsk, verb: JobVerb) -> Result<JobAsk> {
    let wrong = |note: &str| Err(Fault::invalid(note.to_owned()));
    let ways = [ask.ids.is_some(), ask.filter.is_some(), ask.all];
    match ways.into_iter().filter(|given| *given).count() {
        0 => return wrong("which dead letters: give ids, where, or all"),
        1 => {}
        _ => return wrong("give one of ids, where and all, not several"),
    }
    if ask.ids.is_some() && (ask.group.is_some() || ask.state.is_some() || ask.older.is_some()) {
        return wrong("state, group and older choose among all; ids say it already");
    }
    let again = verb == JobVerb::Reprocess && ask.force;
    let parked = AskedState::Parked;
    let state = match (verb, ask.state) {
        (JobVerb::Purge, Some(AskedState::Parked)) => {
            return wrong("parked dead letters are not purged: discard them first");
        }
        (JobVerb::Purge, state) => state.unwrap_or(AskedState::All),
        (_, Some(state)) if state != parked && !again => {
            return wrong("only parked dead letters can be moved; reprocess moves others with force");
        }
        (_, state) => state.unwrap_or(if again && ask.ids.is_some() { AskedState::All } else { parked }),
    };
    Ok(JobAsk {
        stream: stream.clone(),
        verb,
        state: if ask.ids.is_some() { None } else { state.state() },
        ids: ask.ids,
        group: ask.group,
        filter: ask.filter,
        until: ask.older.map(|older| call.api.cx.clock.now().minus(older.get())),
        dry_run: ask.dry_run,
        force: ask.force,
        rate: ask.rate,
        canary: ask.canary,
        stop_on_fail_rate: ask.stop_on_fail_rate,
        patch: ask.patch.map(Patch::try_from).transpose()?,
        reason: ask.reason,
        by: call.actor.name.to_string(),
    })
}

//! One event: its life, and why it is where it is.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    fault::Fault,
    limits,
    names::{GroupName, StreamName},
    store::GroupStatus,
    whereabouts::Find,
};
use utoipa::{IntoParams, ToSchema};

use crate::{
    call::{Call, json},
    explain::Reason,
    life::{self, Happening, Life},
    problem::Problem,
};

/// Which event is meant, and for which group.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventQuery {
    /// Its source, where the id alone is not enough; it also lets the indexes find an old event.
    source: Option<String>,
    /// Only in this stream.
    #[param(value_type = Option<String>)]
    stream: Option<StreamName>,
    /// Only this group.
    #[param(value_type = Option<String>)]
    group: Option<GroupName>,
}

/// The life of an event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Trace {
    id: String,
    source: Option<String>,
    stream: String,
    /// Its newest position.
    position: String,
    /// What happened, oldest first.
    timeline: Vec<Happening>,
    /// Whether that is all: older steps may no longer be kept.
    complete: bool,
}

/// Why an event is where it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Explanation {
    id: String,
    source: Option<String>,
    stream: Option<String>,
    position: Option<String>,
    /// Where it stands in the group that was asked for, or in the one that has not finished it.
    state: &'static str,
    /// Why; the strongest reason first.
    because: Vec<Reason>,
    /// The same for each group.
    groups: Vec<GroupExplanation>,
}

/// Why an event is where it is in one group.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct GroupExplanation {
    group: String,
    position: String,
    /// `waiting`, `blocked`, `scheduled`, `in_flight`, `done`, `dead`, `expired`, `dropped`, `foreign` or `settled`.
    state: &'static str,
    because: Vec<Reason>,
}

async fn find(call: &Call, query: &EventQuery) -> Result<(String, Life), Problem> {
    let id = call.id()?.into_owned();
    if let Some(group) = &query.group {
        // A wrong name is told apart from an event that is not there.
        call.api.store.group(group).await?;
    }
    let ask = Find {
        id: id.as_str().into(),
        source: query.source.as_deref().map(Into::into),
        stream: query.stream.clone(),
        look_max: limits::FIND_LOOK_MAX,
    };
    let life = Life::find(&call.api, &ask).await?;
    Ok((id, life))
}

fn source(life: &Life, query: &EventQuery) -> Option<String> {
    life.event().map(|event| event.source.to_string()).or_else(|| query.source.clone())
}

#[utoipa::path(
    get, path = "/v1/events/{id}/trace", tag = "events", operation_id = "events_trace",
    summary = "Tell the life of an event",
    description = "Looks in dedupe windows and ledgers, then at the newest kept events, and reads the journal from the \
        event on, within bounds.",
    params(("id" = String, Path, description = "Its id."), EventQuery),
    responses((status = 200, description = "Its life.", body = Trace))
)]
pub(crate) async fn trace(call: Call) -> Result<Response, Problem> {
    let query: EventQuery = call.query()?;
    let (id, life) = find(&call, &query).await?;
    let Some(newest) = life.spots.last() else { return Err(Fault::missing(life.search(&id)).into()) };
    let (timeline, complete) = life::timeline(&call.api, &life, query.group.as_ref()).await?;
    let (stream, position) = (newest.stream.to_string(), newest.position.to_string());
    json(&Trace { source: source(&life, &query), id, stream, position, timeline, complete })
}

#[utoipa::path(
    get, path = "/v1/events/{id}/explain", tag = "events", operation_id = "events_explain",
    summary = "Say why an event is where it is",
    params(("id" = String, Path, description = "Its id."), EventQuery),
    responses((status = 200, description = "Why; `unknown` when there is no such event.", body = Explanation))
)]
pub(crate) async fn explain(call: Call) -> Result<Response, Problem> {
    let query: EventQuery = call.query()?;
    let (id, life) = find(&call, &query).await?;
    let mut answer = Explanation {
        source: source(&life, &query),
        stream: life.spots.last().map(|spot| spot.stream.to_string()),
        position: life.spots.last().map(|spot| spot.position.to_string()),
        state: "unknown",
        because: Vec::new(),
        groups: Vec::new(),
        id,
    };
    if life.spots.is_empty() {
        answer.because = unknown(&call, &life, &answer.id);
        return json(&answer);
    }
    let groups: Vec<GroupStatus> = call.api.store.groups().await?;
    let wanted = groups.iter().filter(|group| query.group.as_ref().is_none_or(|only| *only == group.name));
    for group in wanted {
        if let Some((position, verdict)) = life::explain_in(&call.api, &life, group).await? {
            answer.groups.push(GroupExplanation {
                group: group.name.to_string(),
                position: position.to_string(),
                state: verdict.state,
                because: verdict.because,
            });
        }
    }
    // Whoever has several groups asks for the one that keeps the event.
    let rank = |one: &&GroupExplanation| match one.state {
        "waiting" | "blocked" | "scheduled" => 0,
        "in_flight" => 1,
        "dead" => 2,
        "foreign" => 4,
        _ => 3,
    };
    match answer.groups.iter().min_by_key(rank) {
        Some(first) => (answer.state, answer.because) = (first.state, first.because.clone()),
        None => {
            answer.state = "kept";
            let detail = match &query.group {
                Some(group) => format!("group {group} does not read the stream of this event"),
                None => "no group reads its stream: it is kept until retention removes it".to_owned(),
            };
            answer.because = vec![Reason::new("no_group", detail)];
        }
    }
    json(&answer)
}

/// Why nothing is known of an event.
fn unknown(call: &Call, life: &Life, id: &str) -> Vec<Reason> {
    let mut because = vec![Reason::new("not_found", life.search(id))];
    let status = call.api.store.status();
    if let Some(why) = status.failed {
        because.push(Reason::new("store_failed", format!("the store takes nothing until it is started again: {why}")));
    } else if let Some(why) = status.refusing {
        because.push(Reason::new("store_refusing", format!("publishes are refused for now: {why}")));
    }
    because
}

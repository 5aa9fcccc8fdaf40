//! Deliveries that wait for other events: which, for what, since when; and letting them go by hand.

use std::collections::BTreeMap;

use axum::response::Response;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    after::EventName,
    clock::Timestamp,
    delivery::Position,
    fault::{Fault, Result},
    limits,
    names::GroupName,
    whereabouts::{Find, Place},
};
use tidegate_engine::UnblockAsk as EngineAsk;
use utoipa::{IntoParams, ToSchema};

use super::bounded;
use crate::{
    awaited::Seeker,
    call::{Call, json, parse},
    explain::word,
    life::{Life, stand_in},
    problem::Problem,
};

/// Which deliveries that wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BlockedQuery {
    /// Where to begin; the oldest when absent.
    #[param(value_type = Option<String>)]
    from: Option<Position>,
    /// Most entries, at most 1000; 100 when absent.
    limit: Option<usize>,
}

/// Deliveries that wait for other events.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BlockedPage {
    /// Oldest first. Those that the group has not looked at since the node was started are not among them.
    blocked: Vec<Waiter>,
    /// Where to go on.
    #[schema(value_type = Option<String>)]
    next: Option<Position>,
}

/// A delivery that waits for other events.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Waiter {
    id: String,
    source: String,
    #[schema(value_type = String)]
    position: Position,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    age_seconds: f64,
    waits_for: Vec<WaitedFor>,
}

/// An event that is not done and that another one waits for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WaitedFor {
    id: String,
    source: String,
    /// `waiting`, `blocked`, `scheduled`, `in_flight`, `dead`, `expired`, `dropped`, `foreign`, `settled` (without being
    /// known as done), `unknown`, `done` just now, or `not_sought` when the answer looked for enough others.
    state: &'static str,
}

#[utoipa::path(
    get, path = "/v1/groups/{group}/blocked", tag = "groups", operation_id = "groups_blocked",
    summary = "List deliveries that wait for other events",
    params(("group" = String, Path, description = "Name of the group."), BlockedQuery),
    responses((status = 200, description = "What waits, and for what.", body = BlockedPage))
)]
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let query: BlockedQuery = call.query()?;
    let limit = bounded("limit", query.limit.unwrap_or(100), limits::PAGE_MAX)?;
    let stream = call.api.store.group(&group).await?.stream;
    let page = call.api.store.blocked(&group, query.from.unwrap_or(Position::START), limit).await?;
    let now = call.api.cx.clock.now();
    let mut seeker = Seeker::new(&call.api, &group, &stream);
    let mut states: BTreeMap<EventName, &'static str> = BTreeMap::new();
    let mut blocked = Vec::with_capacity(page.items.len());
    for one in page.items {
        let mut waits_for = Vec::with_capacity(one.waits_for.len());
        for name in one.waits_for {
            let state = match states.get(&name) {
                Some(state) => state,
                None => seeker.seek(&name).await?.as_str(),
            };
            states.insert(name.clone(), state);
            waits_for.push(WaitedFor { id: name.id.to_string(), source: name.source.to_string(), state });
        }
        blocked.push(Waiter {
            id: one.stored.event.id.to_string(),
            source: one.stored.event.source.to_string(),
            position: one.stored.position,
            since: one.stored.accepted_at,
            age_seconds: now.since(one.stored.accepted_at).as_secs_f64(),
            waits_for,
        });
    }
    json(&BlockedPage { blocked, next: page.next })
}

/// Which deliveries wait no longer, and what becomes of them. Either `id` or `waits_for` says which.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnblockAsk {
    /// The one of this id.
    #[serde(default)]
    id: Option<String>,
    /// All that wait for the event of this id.
    #[serde(default)]
    waits_for: Option<String>,
    /// Source of the event of that id, where the id alone is not enough.
    #[serde(default)]
    source: Option<String>,
    /// `run`, or `reject` for the dead letters.
    #[serde(default)]
    outcome: UnblockOutcome,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// What becomes of deliveries that wait for other events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnblockOutcome {
    /// They run as soon as there is a worker, and never wait again.
    #[default]
    Run,
    /// Into the dead letters.
    Reject,
}

/// What was let go or rejected.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Unblocked {
    /// Id of this action.
    action: String,
    /// `unblocked` or `rejected`.
    result: &'static str,
    group: String,
    /// Ids of the events.
    events: Vec<String>,
}

#[utoipa::path(
    post, path = "/v1/groups/{group}/unblock", tag = "groups", operation_id = "groups_unblock",
    summary = "Let deliveries go that wait for other events, or reject them",
    description = "Answers when it is durable. An event that does not wait is answered with 409 and where it stands.",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = UnblockAsk,
    responses((status = 200, description = "They wait no longer.", body = Unblocked))
)]
pub(crate) async fn unblock(mut call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let body = call.json_body().await?;
    let ask: UnblockAsk = parse(&body)?;
    let chosen = match (&ask.id, &ask.waits_for) {
        (Some(id), None) => vec![one(&call, &group, id, ask.source.as_deref()).await?],
        (None, Some(id)) => all_after(&call, &group, id, ask.source.as_deref()).await?,
        _ => return Err(Fault::invalid("say which: either id or waits_for").into()),
    };
    let reject = ask.outcome == UnblockOutcome::Reject;
    let mut events = Vec::with_capacity(chosen.len());
    // One step of the store after the other; what is done stays done.
    for some in chosen.chunks(limits::DEAD_STEP_MAX) {
        let (by, reason) = (call.actor.name.to_string(), ask.reason.clone());
        let asked = EngineAsk { chosen: some.to_vec(), reject, by, reason };
        let freed = call.api.groups.unblock(&group, &asked).await?;
        events.extend(some.iter().zip(freed).filter(|(_, freed)| *freed).map(|((_, id), _)| id.to_string()));
    }
    if events.is_empty() {
        return Err(Fault::conflict(format!(
            "nothing of it in group {group} waits any more, or the group has not come to it yet"
        ))
        .into());
    }
    let (what, result) = if reject { ("group.reject", "rejected") } else { ("group.unblock", "unblocked") };
    let action = call.action(what, group.as_str(), &ask.reason);
    json(&Unblocked { action, result, group: group.into(), events })
}

/// Finds the delivery of an event that waits.
async fn one(call: &Call, group: &GroupName, id: &str, source: Option<&str>) -> Result<(Position, ByteString)> {
    let api = &call.api;
    let stream = api.store.group(group).await?.stream;
    let ask = Find {
        id: id.into(),
        source: source.map(Into::into),
        stream: Some(stream.clone()),
        look_max: limits::FIND_LOOK_MAX,
    };
    let life = Life::find(api, &ask).await?;
    let Some((spot, standing)) = stand_in(api, &life, group, &stream).await? else {
        return Err(Fault::missing(life.search(id)));
    };
    if matches!(standing.place, Place::After { .. }) {
        return Ok((spot.position, id.into()));
    }
    let now = word(&standing.place);
    Err(Fault::conflict(format!("event {id:?} waits for no other event in group {group}; there it is {now}")))
}

/// Finds all deliveries that wait for an event.
async fn all_after(
    call: &Call,
    group: &GroupName,
    id: &str,
    source: Option<&str>,
) -> Result<Vec<(Position, ByteString)>> {
    let mut all = Vec::new();
    let mut from = Some(Position::START);
    while let Some(at) = from {
        let page = call.api.store.blocked(group, at, limits::PAGE_MAX).await?;
        let meant = |name: &EventName| *name.id == *id && source.is_none_or(|source| *name.source == *source);
        let those = page.items.into_iter().filter(|one| one.waits_for.iter().any(meant));
        all.extend(those.map(|one| (one.stored.position, one.stored.event.id)));
        from = page.next;
    }
    if all.is_empty() {
        return Err(Fault::missing(format!("nothing in group {group} waits for an event of the id {id:?}")));
    }
    Ok(all)
}

//! Results over HTTP: asked for by the id of an event, or as the answer to the request that brings the event.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Timestamp,
    cloudevents,
    config::Time,
    delivery::Position,
    event::Event,
    fault::{Fault, Result},
    limits,
    names::{GroupName, StreamName},
    result::is_too_large,
    store::Appended,
};
use tidegate_engine::Keeper;
use utoipa::{IntoParams, ToSchema};

use super::streams::read_events;
use crate::{
    Intake, Reply,
    call::{Call, escape, json},
    problem::Problem,
    result::{Ask, Found, Look},
};

/// Time that a request keeps for its own answer, at the end of what a request may take.
const MARGIN: Duration = Duration::from_secs(5);
/// Longest wait before asking again that is proposed.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Which result, and how long to wait for it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ResultQuery {
    /// Source of the event. With it the result is found by an index however old it is; without it the newest 10000 events
    /// and results of each stream are looked at.
    source: Option<String>,
    /// Its stream.
    #[param(value_type = Option<String>)]
    stream: Option<StreamName>,
    /// Its position in the stream, as the publish answered it; with `stream` it finds an event however old it is.
    #[param(value_type = Option<String>)]
    position: Option<Position>,
    /// The group that answers, when several do.
    #[param(value_type = Option<String>)]
    group: Option<GroupName>,
    /// How long to wait while there is no result, at most 30 s; not at all when absent.
    #[param(value_type = Option<String>, example = "10s")]
    wait: Option<Time>,
}

/// An event that has no result yet.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pending {
    id: String,
    source: Option<String>,
    stream: String,
    position: Option<String>,
    /// The group that will answer.
    group: String,
    /// `waiting`, `blocked`, `scheduled` or `in_flight`.
    state: &'static str,
    /// When it goes on, when it waits for a time.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// Where the result will be.
    result: String,
}

#[utoipa::path(
    get, path = "/v1/events/{id}/result", tag = "events", operation_id = "events_result",
    summary = "Get the result of an event",
    description = "What a group that keeps results answered to the event: the body as the handler gave it, with its content \
        type, or the whole result as a CloudEvent to those who accept `application/cloudevents+json`. An event that ended \
        without an answer is a problem of the kind `unanswered` with `state`, `class` and `dead_letter`: 422 when the \
        handler refused it or the group does not take it, 504 when it expired, 502 otherwise.",
    params(("id" = String, Path, description = "Id of the event."), ResultQuery),
    responses(
        (status = 200, description = "The answer.", body = String, content_type = "*/*"),
        (status = 202, description = "Not yet. `Retry-After` says when to ask again.", body = Pending),
        (status = 404, description = "No such event is known, or its result is no longer kept."),
    )
)]
pub(crate) async fn result(call: Call) -> Result<Response, Problem> {
    let query: ResultQuery = call.query()?;
    let wait = query.wait.map_or(Duration::ZERO, |wait| wait.get());
    if wait > limits::CLAIM_WAIT_MAX {
        let most = limits::CLAIM_WAIT_SECONDS_MAX;
        return Err(Fault::invalid(format!("wait is longer than the most, {most}s")).into());
    }
    if query.position.is_some() && query.stream.is_none() {
        return Err(Fault::invalid("position is a place in a stream: say stream too").into());
    }
    let ask = Ask {
        id: call.id()?.into_owned().into(),
        source: query.source.map(Into::into),
        stream: query.stream,
        group: query.group,
        position: query.position,
    };
    let until = call.api.cx.clock.now().plus(wait);
    let mut found = ask.locate(&call.api).await?;
    let look = if wait.is_zero() {
        found.look(&call.api).await?
    } else {
        call.api.waiters.seat()?.wait(&call.api, &mut found, until).await?
    };
    respond(&call, &found, look)
}

/// Takes an event in and answers with its result, or with where that will be.
pub(crate) async fn reply(mut call: Call, intake: &Intake, reply: &Reply) -> Result<Response, Problem> {
    let watch = call.api.cx.clock.stopwatch();
    let came = call.api.cx.clock.now();
    let ended = replied(&mut call, intake, reply, came).await;
    let outcome = match &ended {
        Ok(response) if response.status() == StatusCode::OK => "answered",
        Ok(_) => "accepted",
        Err(problem) if problem.is_unanswered() => "unanswered",
        Err(_) => "refused",
    };
    call.api.metrics.replied(&intake.name, outcome, watch.elapsed());
    ended
}

async fn replied(call: &mut Call, intake: &Intake, reply: &Reply, came: Timestamp) -> Result<Response, Problem> {
    let kind = call.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if kind.is_some_and(cloudevents::is_batch) {
        let note = format!(
            "a batch cannot be answered with one result: send events to {:?} one at a time, or a batch to \
             /v1/streams/{}/events and ask for each result",
            intake.path, intake.stream
        );
        return Err(Fault::invalid(note).into());
    }
    let body = call.body().await?;
    let api = Arc::clone(&call.api);
    let events = read_events(call.headers(), body, &intake.defaults, &api.cx.clock)?;
    let Some(event) = events.first() else { return Err(Fault::bug("a request of one event holds none").into()) };
    let keeper =
        api.groups.keeper(&reply.group).ok_or_else(|| Fault::bug(format!("group {} keeps no results", reply.group)))?;
    let mut found = of(keeper, event, None);
    // What was answered before is answered again, however long ago its event was forgotten.
    if let Some(kept) = found.kept(&api).await? {
        return respond(call, &found, Look::Kept(kept));
    }
    // Before the event is accepted, so that nothing of a refused request is kept.
    let mut seat = api.waiters.seat()?;
    let appended = api.publisher.publish(&intake.stream, events).await?;
    let Some(Appended { position, duplicate }) = appended.first().copied() else {
        return Err(Fault::bug("an event was accepted at no position").into());
    };
    found.position = Some(position);
    if duplicate {
        // With a dedupe key of its own the first one may have another id.
        let read = api.store.read(&intake.stream, position, 1).await?.items.into_iter().next();
        if let Some(first) = read.filter(|stored| stored.position == position) {
            found = of(found.keeper, &first.event, Some(position));
        }
    }
    let last = came.plus(Duration::from_secs(limits::REQUEST_SECONDS_MAX).saturating_sub(MARGIN));
    let until = api.cx.clock.now().plus(reply.wait).min(last);
    let look = seat.wait(&api, &mut found, until).await?;
    respond(call, &found, look)
}

fn of(keeper: Keeper, event: &Event, position: Option<Position>) -> Found {
    Found { keeper, id: event.id.clone(), source: Some(event.source.clone()), position }
}

fn respond(call: &Call, found: &Found, look: Look) -> Result<Response, Problem> {
    match look {
        Look::Kept(kept) if is_too_large(&kept.event) => {
            let why =
                format!("it is done, but its answer of more than {} bytes was not kept", limits::RESULT_BYTES_MAX);
            Err(Problem::unanswered(found.ended("done", &why)))
        }
        Look::Kept(kept) => Ok(answer(call, found, &kept.event)),
        Look::Open { state, until } => pending(call, found, state, until),
        Look::Ended(ended) => Err(Problem::unanswered(ended)),
        Look::Gone(note) => Err(Fault::missing(note).into()),
    }
}

fn answer(call: &Call, found: &Found, result: &Event) -> Response {
    let wants = call.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let (body, kind) = if wants.contains(cloudevents::STRUCTURED) {
        let mut out = Vec::with_capacity(result.size() + 256);
        cloudevents::write_json(result, &mut out);
        (out.into(), Some(HeaderValue::from_static(cloudevents::STRUCTURED)))
    } else {
        let kind = result.content_type.as_deref().and_then(|kind| HeaderValue::from_str(kind).ok());
        let otherwise = || HeaderValue::from_static("application/octet-stream");
        (result.data.bytes(), kind.or_else(|| (!result.data.is_empty()).then(otherwise)))
    };
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    if let Some(kind) = kind {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    // Handlers decide what this is: a browser must not run it as a page of the node.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    insert(headers, header::CONTENT_LOCATION, &place(found));
    response
}

fn pending(call: &Call, found: &Found, state: &'static str, until: Option<Timestamp>) -> Result<Response, Problem> {
    let place = place(found);
    let mut response = json(&Pending {
        id: found.id.to_string(),
        source: found.source.as_ref().map(ToString::to_string),
        stream: found.keeper.stream.to_string(),
        position: found.position.map(|position| position.to_string()),
        group: found.keeper.group.to_string(),
        state,
        until,
        result: place.clone(),
    })?;
    let after = until.map_or(Duration::ZERO, |until| until.since(call.api.cx.clock.now())).min(AGAIN_MAX);
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, (after + Duration::from_millis(999)).as_secs().max(1).into());
    insert(headers, header::LOCATION, &place);
    Ok(response)
}

fn insert(headers: &mut http::HeaderMap, name: header::HeaderName, value: &str) {
    // What is escaped is visible ASCII.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Where the result is, or will be.
fn place(found: &Found) -> String {
    let Keeper { stream, group, .. } = &found.keeper;
    let mut place = format!("/v1/events/{}/result?stream={stream}&group={group}", escape(&found.id));
    if let Some(source) = &found.source {
        place.push_str(&format!("&source={}", escape(source)));
    }
    if let Some(position) = found.position {
        place.push_str(&format!("&position={position}"));
    }
    place
}

//! Streams: what there is, what is in them, and the way in.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use bytestring::ByteString;
use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Clock,
    cloudevents::{self, PlainDefaults},
    delivery::Position,
    event::Event,
    fault::{Fault, Result},
    limits,
    names::StreamName,
    store::{Appended, StreamStatus},
};
use utoipa::{IntoParams, ToSchema};

use super::bounded;
use crate::{
    Intake,
    call::{Call, json, json_bytes, write_shown, write_string},
    problem::Problem,
};

/// Events that are read from the store in one step: a page is never held in memory beyond its bytes and one step.
const READ_STEP: usize = 64;

/// Most events that one request looks at when it filters by type.
const LOOK_MAX: usize = 10_000;

/// Events of a page when the request does not say.
const PAGE_DEFAULT: usize = 100;

/// All streams.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Streams {
    streams: Vec<Stream>,
}

/// A stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Stream {
    name: String,
    /// Oldest kept position.
    first: Option<String>,
    /// Newest position.
    last: Option<String>,
    /// Kept events.
    count: u64,
    /// Bytes of kept events.
    bytes: u64,
    /// Events ever accepted.
    accepted: u64,
    /// Publishes answered as duplicates since the start.
    duplicates: u64,
    /// Positions lost to damage of the store.
    quarantined: u64,
    /// Unsettled events of the slowest group.
    backlog: u64,
    /// Groups that read it.
    groups: Vec<String>,
}

impl From<StreamStatus> for Stream {
    fn from(status: StreamStatus) -> Self {
        Self {
            name: status.name.into(),
            first: status.first.map(|position| position.to_string()),
            last: status.last.map(|position| position.to_string()),
            count: status.count,
            bytes: status.bytes,
            accepted: status.accepted,
            duplicates: status.duplicates,
            quarantined: status.quarantined,
            backlog: status.backlog,
            groups: status.groups.into_iter().map(String::from).collect(),
        }
    }
}

#[utoipa::path(
    get, path = "/v1/streams", tag = "streams", operation_id = "streams_list",
    summary = "List streams",
    responses((status = 200, description = "All streams, dead letters included.", body = Streams))
)]
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    json(&Streams { streams: call.api.store.streams().await?.into_iter().map(Stream::from).collect() })
}

#[utoipa::path(
    get, path = "/v1/streams/{stream}", tag = "streams", operation_id = "streams_show",
    summary = "Show a stream",
    params(("stream" = String, Path, description = "Name of the stream.")),
    responses((status = 200, description = "The stream.", body = Stream))
)]
pub(crate) async fn show(call: Call) -> Result<Response, Problem> {
    let name = call.stream()?;
    let found = call.api.store.streams().await?.into_iter().find(|stream| stream.name == name);
    let found = found.ok_or_else(|| Fault::missing(format!("there is no stream {:?}", name.as_str())))?;
    json(&Stream::from(found))
}

/// Which events are read.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadQuery {
    /// Position to start at; the oldest kept event when absent.
    #[param(value_type = Option<String>)]
    from: Option<Position>,
    /// Most events, at most 1000; 100 when absent.
    limit: Option<usize>,
    /// Only events of this CloudEvents type.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// A page of events; `next` goes into `from` for the next page, and is null at the end.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the shape of an answer that is written by hand")]
pub(crate) struct EventPage {
    events: Vec<PositionedEvent>,
    next: Option<String>,
}

/// An event at its place.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the shape of an answer that is written by hand")]
pub(crate) struct PositionedEvent {
    position: String,
    #[schema(format = DateTime)]
    accepted_at: String,
    /// The CloudEvent.
    event: serde_json::Value,
}

#[utoipa::path(
    get, path = "/v1/streams/{stream}/events", tag = "streams", operation_id = "streams_read",
    summary = "Read events",
    params(("stream" = String, Path, description = "Name of the stream."), ReadQuery),
    responses((status = 200, description = "A page of events.", body = EventPage))
)]
pub(crate) async fn read(call: Call) -> Result<Response, Problem> {
    let stream = call.stream()?;
    let query: ReadQuery = call.query()?;
    let limit = bounded("limit", query.limit.unwrap_or(PAGE_DEFAULT), limits::PAGE_MAX)?;
    let mut page = EventWriter::new(limit);
    let mut from = query.from.unwrap_or(Position::START);
    loop {
        let step = call.api.store.read(&stream, from, READ_STEP).await?;
        for stored in &step.items {
            if page.is_full() {
                return Ok(json_bytes(page.finish(Some(stored.position))));
            }
            page.looked += 1;
            if query.kind.as_ref().is_none_or(|kind| **kind == *stored.event.kind) {
                page.add(stored);
            }
        }
        match step.next {
            Some(next) if !page.is_full() => from = next,
            next => return Ok(json_bytes(page.finish(next))),
        }
    }
}

/// Writes a page of events.
struct EventWriter {
    out: Vec<u8>,
    limit: usize,
    taken: usize,
    looked: usize,
}

impl EventWriter {
    fn new(limit: usize) -> Self {
        Self { out: b"{\"events\":[".to_vec(), limit, taken: 0, looked: 0 }
    }

    fn is_full(&self) -> bool {
        self.taken >= self.limit || self.looked >= LOOK_MAX || self.out.len() >= limits::CLAIM_BYTES_MAX
    }

    fn add(&mut self, stored: &tidegate_core::store::Stored) {
        if self.taken > 0 {
            self.out.push(b',');
        }
        self.taken += 1;
        self.out.extend_from_slice(b"{\"position\":");
        write_shown(stored.position, &mut self.out);
        self.out.extend_from_slice(b",\"accepted_at\":");
        write_shown(stored.accepted_at, &mut self.out);
        self.out.extend_from_slice(b",\"event\":");
        cloudevents::write_json(&stored.event, &mut self.out);
        self.out.push(b'}');
    }

    fn finish(mut self, next: Option<Position>) -> Vec<u8> {
        self.out.extend_from_slice(b"],\"next\":");
        match next {
            Some(next) => write_shown(next, &mut self.out),
            None => self.out.extend_from_slice(b"null"),
        }
        self.out.push(b'}');
        self.out
    }
}

/// What was accepted, in input order.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the shape of an answer that is written by hand")]
pub(crate) struct Accepted {
    accepted: Vec<AcceptedEvent>,
}

/// An event that is durable.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the shape of an answer that is written by hand")]
pub(crate) struct AcceptedEvent {
    /// CloudEvents `id`.
    id: String,
    /// Its position; of the first one when it is a duplicate.
    position: String,
    /// Whether it was accepted before.
    duplicate: bool,
}

#[utoipa::path(
    post, path = "/v1/streams/{stream}/events", tag = "streams", operation_id = "streams_publish",
    summary = "Publish events",
    description = "Takes one event (structured mode), an array of events, an event in headers and body (binary mode), \
        or a plain body of any content type, whose `Idempotency-Key` becomes the id. Answers when all are durable; a \
        batch is accepted as a whole or not at all.",
    params(("stream" = String, Path, description = "Name of the stream.")),
    request_body(description = "The events.", content(
        (serde_json::Value = "application/cloudevents+json"),
        (Vec<serde_json::Value> = "application/cloudevents-batch+json"),
        (String = "*/*"),
    )),
    responses((status = 200, description = "All events are durable.", body = Accepted))
)]
pub(crate) async fn publish(mut call: Call) -> Result<Response, Problem> {
    let stream = call.stream()?;
    take(&mut call, &stream, &PlainDefaults::default()).await
}

/// Takes events in on the path of a source.
pub(crate) async fn take_in(mut call: Call, intake: Arc<Intake>) -> Result<Response, Problem> {
    intake.entrance.check()?;
    if let Some(reply) = &intake.reply {
        return super::results::reply(call, &intake, reply).await;
    }
    take(&mut call, &intake.stream, &intake.defaults).await
}

async fn take(call: &mut Call, stream: &StreamName, defaults: &PlainDefaults) -> Result<Response, Problem> {
    let body = call.body().await?;
    let events = read_events(call.headers(), body, defaults, &call.api.cx.clock)?;
    let ids: Vec<ByteString> = events.iter().map(|event| event.id.clone()).collect();
    let appended = call.api.publisher.publish(stream, events).await?;
    Ok(json_bytes(write_accepted(&ids, &appended)))
}

pub(super) fn read_events(
    headers: &HeaderMap,
    body: Bytes,
    defaults: &PlainDefaults,
    clock: &Clock,
) -> Result<Vec<Event>, Problem> {
    for (name, value) in headers {
        let read = name.as_str().starts_with("ce-") || *name == header::CONTENT_TYPE;
        if read && value.to_str().is_err() {
            let note = format!("header {:?} is not ASCII; other characters are percent-encoded", name.as_str());
            return Err(Fault::invalid(note).into());
        }
    }
    let named = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    cloudevents::from_http(named, body, defaults, clock).map_err(|fault| {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind.is_some_and(|kind| !cloudevents::is_readable(kind)) {
            return Problem::unsupported(fault.note().to_owned());
        }
        fault.into()
    })
}

fn write_accepted(ids: &[ByteString], appended: &[Appended]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + ids.len() * 96);
    out.extend_from_slice(b"{\"accepted\":[");
    for (index, (id, Appended { position, duplicate })) in ids.iter().zip(appended).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"id\":");
        write_string(id, &mut out);
        out.extend_from_slice(b",\"position\":");
        write_shown(position, &mut out);
        out.extend_from_slice(if *duplicate { b",\"duplicate\":true}" } else { b",\"duplicate\":false}" });
    }
    out.extend_from_slice(b"]}");
    out
}

//! The schema of a stream: what it asks, and whether an event fits it.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_core::{
    event::{Data, Event},
    fault::{Fault, Result, Violation},
    limits,
    names::StreamName,
    whereabouts::Find,
};
use tidegate_rules::Schema;
use utoipa::ToSchema;

use crate::{
    call::{Call, json, parse},
    problem::Problem,
};

/// The schema of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamSchema<'a> {
    stream: &'a str,
    /// The JSON Schema as it was configured.
    schema: &'a Value,
}

/// What is checked: stored events by their id, or data that is given here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SchemaAsk {
    /// CloudEvents `id` of a stored event.
    id: Option<String>,
    /// Its CloudEvents `source`; any when absent.
    source: Option<String>,
    /// Data of an event that need not exist.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Value>)]
    data: Option<Value>,
}

/// Tells data that is null from data that is not given.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// Whether events fit the schema of their stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SchemaCheck {
    stream: String,
    /// Whether all of them fit.
    valid: bool,
    events: Vec<CheckedEvent>,
}

/// Whether an event fits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckedEvent {
    /// Position of a stored event.
    position: Option<String>,
    id: Option<String>,
    valid: bool,
    /// What is wrong with it, at most 100 places.
    violations: Vec<SchemaViolation>,
}

/// A value that does not fit.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SchemaViolation {
    /// JSON pointer of the value; empty for the whole of the data.
    #[schema(example = "/items/2/price")]
    pointer: String,
    message: String,
}

impl From<Violation> for SchemaViolation {
    fn from(violation: Violation) -> Self {
        Self { pointer: violation.pointer, message: violation.message }
    }
}

fn checked(schema: &Schema, position: Option<String>, event: &Event) -> CheckedEvent {
    let violations: Vec<SchemaViolation> =
        schema.violations(event, limits::VIOLATIONS_MAX).into_iter().map(SchemaViolation::from).collect();
    let id = position.is_some().then(|| event.id.to_string());
    CheckedEvent { position, id, valid: violations.is_empty(), violations }
}

fn schema_of<'a>(call: &'a Call, stream: &StreamName) -> Result<&'a Schema> {
    call.api.schemas.get(stream).ok_or_else(|| Fault::missing(format!("stream {stream} has no schema")))
}

#[utoipa::path(
    get, path = "/v1/streams/{stream}/schema", tag = "streams", operation_id = "streams_schema",
    summary = "Show the schema of a stream",
    params(("stream" = String, Path, description = "Name of the stream.")),
    responses((status = 200, description = "The schema.", body = StreamSchema<'_>))
)]
pub(crate) async fn show(call: Call) -> Result<Response, Problem> {
    let stream = call.stream()?;
    let schema = schema_of(&call, &stream)?.document();
    json(&StreamSchema { stream: stream.as_str(), schema })
}

#[utoipa::path(
    post, path = "/v1/streams/{stream}/schema/check", tag = "streams", operation_id = "streams_schema_check",
    summary = "Check events against the schema of a stream",
    description = "Changes nothing. Stored events are found by their id, also when they are older than the schema.",
    params(("stream" = String, Path, description = "Name of the stream.")),
    request_body = SchemaAsk,
    responses((status = 200, description = "Whether they fit.", body = SchemaCheck))
)]
pub(crate) async fn check(mut call: Call) -> Result<Response, Problem> {
    let stream = call.stream()?;
    let body = call.json_body().await?;
    let ask: SchemaAsk = parse(&body)?;
    let schema = schema_of(&call, &stream)?;
    let events = match (ask.id, ask.data) {
        (None, Some(data)) => {
            let event = Event::new("given", "given", "given").with_data(Data::Json(data.to_string().into()));
            vec![checked(schema, None, &event)]
        }
        (Some(id), None) => stored(&call, &stream, schema, id, ask.source).await?,
        (Some(_), Some(_)) | (None, None) => {
            return Err(Fault::invalid("body: give either the id of a stored event or data").into());
        }
    };
    json(&SchemaCheck { stream: stream.into(), valid: events.iter().all(|event| event.valid), events })
}

async fn stored(
    call: &Call,
    stream: &StreamName,
    schema: &Schema,
    id: String,
    source: Option<String>,
) -> Result<Vec<CheckedEvent>> {
    let ask = Find {
        id: id.clone().into(),
        source: source.map(Into::into),
        stream: Some(stream.clone()),
        look_max: limits::FIND_LOOK_MAX,
    };
    let found = call.api.store.find(&ask).await?;
    let kept = found.sightings.into_iter().filter_map(|sighting| sighting.stored);
    let events: Vec<CheckedEvent> =
        kept.map(|stored| checked(schema, Some(stored.position.to_string()), &stored.event)).collect();
    if events.is_empty() {
        return Err(Fault::missing(format!("stream {stream} keeps no event with the id {id:?}")));
    }
    Ok(events)
}

//! Profiles `markdown-manager-…`: how an editor of documents with an outbox, a relay and consumers over Redis Streams was
//! operated. Each role had a listener of its own with the same paths; a node mounts as many of them as it plays.

pub(super) mod backend;
pub(super) mod consumer;
mod documents;
mod health;
pub(super) mod relay;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde::Deserialize;
use serde_json::{Map, Value};
use tidegate_core::{fault::Fault, notice::Notice};

use crate::{
    call::{Call, json},
    metrics::{scrape, text},
    problem::Problem,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    format: Option<String>,
}

/// JSON, unless the text format is asked for by `format` or, as a scraper does, by `Accept`.
async fn metrics_in(call: &Call, document: Map<String, Value>) -> Result<Response, Problem> {
    let Form { format } = call.query()?;
    let accept = call.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let is_text = match format.as_deref() {
        Some("prometheus") => true,
        Some("json") => false,
        Some(other) => {
            return Err(Fault::invalid(format!("format is {other:?}; there are json and prometheus")).into());
        }
        None => accept.contains("text/plain") || accept.contains("openmetrics"),
    };
    if is_text { page(call).await } else { json(&document) }
}

async fn prometheus(call: Call) -> Result<Response, Problem> {
    page(&call).await
}

async fn page(call: &Call) -> Result<Response, Problem> {
    let page = scrape::page(&call.api, call.profile.as_deref()).await?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(text::CONTENT_TYPE))], page).into_response())
}

/// What the services wrote of their health, and operators search for.
fn health_phrase(notice: &Notice) -> Option<String> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the older system said nothing of the others")]
    match notice {
        Notice::HealthChanged { component, to: "healthy", .. } => Some(format!("{component} is healthy again")),
        Notice::HealthChanged { component, to, cause, .. } => Some(format!("{component} is {to}: {cause}")),
        Notice::StoreFailed { reason } => Some(format!("store is unhealthy: {reason}")),
        _ => None,
    }
}

fn buried(notice: &Notice) -> Option<String> {
    let Notice::DeadLettered { stream, event, message, attempts, .. } = notice else { return None };
    Some(format!("Moved event {event} to DLQ {stream}.dlq after {attempts} attempts: {message}"))
}

//! What published the rows of the outbox.

use axum::response::Response;
use tidegate_core::notice::Notice;

use super::{buried, documents, health, health_phrase, metrics_in, prometheus};
use crate::{
    api::routes,
    call::Call,
    health::components,
    problem::Problem,
    profile::{PLAIN, Profile},
};

pub(in crate::profile) static PROFILE: Profile = Profile {
    name: "markdown-manager-relay",
    summary: "health, JSON metrics and metric names of the relay of an outbox",
    port: Some(8080),
    figures: documents::RELAY,
    count: |api, _| Box::pin(documents::relay(api)),
    routes: ROUTES,
    phrase,
    ..PLAIN
};

routes! {
    static ROUTES;
    Get "/health" Anyone => basic;
    Get "/health/detailed" Viewer => detailed;
    Get "/metrics" Viewer => metrics;
    Get "/metrics/prometheus" Viewer => prometheus;
}

const SERVICE: &str = "relay-service";

async fn basic(call: Call) -> Result<Response, Problem> {
    health::basic(&call.api, SERVICE)
}

async fn detailed(call: Call) -> Result<Response, Problem> {
    let metrics = documents::relay_document(&call.api).await?;
    let components = components(&call.api);
    let mut services = health::services(&call.api, &components);
    services.push(health::outbox(&call.api));
    health::answer(&call.api, SERVICE, &components, services, metrics)
}

async fn metrics(call: Call) -> Result<Response, Problem> {
    let document = documents::relay_document(&call.api).await?;
    metrics_in(&call, document).await
}

fn phrase(notice: &Notice) -> Option<String> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are those of every role")]
    match notice {
        Notice::InputRejected { module, place, why } => Some(format!("Moved event {place} of {module} to DLQ: {why}")),
        Notice::Refused { stream, reason } => Some(format!("Failed to publish to {stream}: {reason}")),
        Notice::DeadLettered { .. } => buried(notice),
        other => health_phrase(other),
    }
}

//! What processed the events of a stream.

use axum::response::Response;
use tidegate_core::{names::GroupName, notice::Notice};

use super::{buried, documents, health, health_phrase, metrics_in, prometheus};
use crate::{
    api::routes,
    call::Call,
    health::components,
    problem::Problem,
    profile::{PLAIN, Profile},
};

pub(in crate::profile) static PROFILE: Profile = Profile {
    name: "markdown-manager-consumer",
    summary: "health, JSON metrics and metric names of a consumer group",
    port: Some(8081),
    of_group: true,
    figures: documents::CONSUMER,
    count: |api, group| Box::pin(documents::consumer(api, group)),
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

async fn basic(call: Call) -> Result<Response, Problem> {
    health::basic(&call.api, &service(&call))
}

async fn detailed(call: Call) -> Result<Response, Problem> {
    let groups = documents::groups(&call.api, group(&call).as_ref()).await?;
    let components = components(&call.api);
    let mut services = health::services(&call.api, &components);
    services.push(health::consumer(&call.api, &components, &groups));
    let metrics = documents::consumer_document(&call.api, &groups);
    health::answer(&call.api, &service(&call), &components, services, metrics)
}

async fn metrics(call: Call) -> Result<Response, Problem> {
    let groups = documents::groups(&call.api, group(&call).as_ref()).await?;
    metrics_in(&call, documents::consumer_document(&call.api, &groups)).await
}

/// The group that a listener is about.
fn group(call: &Call) -> Option<GroupName> {
    call.profile.as_ref()?.group.clone()
}

fn service(call: &Call) -> String {
    group(call).map_or_else(|| "consumer-service".to_owned(), |group| group.to_string())
}

fn phrase(notice: &Notice) -> Option<String> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are those of every role")]
    match notice {
        Notice::AttemptFailed { group, event, message, attempt, .. } => {
            Some(format!("Failed to process event {event} in {group}, attempt {attempt}: {message}"))
        }
        Notice::QueueLate { group, queue, latency, depth } => {
            Some(format!("consumer {group} lag is {} s: {depth} events of {queue} wait", latency.as_secs()))
        }
        Notice::DeadLettered { .. } => buried(notice),
        other => health_phrase(other),
    }
}

//! The service that took requests.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Map, Value, json};
use tidegate_core::notice::Notice;

use super::{documents, health, health_phrase};
use crate::{
    api::{Api, routes},
    call::{Call, json as answer_json},
    health::components,
    problem::Problem,
    profile::{PLAIN, Profile},
};

pub(in crate::profile) static PROFILE: Profile = Profile {
    name: "markdown-manager-backend",
    summary: "health and request metrics of the backend of a document editor",
    port: Some(8000),
    routes: ROUTES,
    phrase,
    ..PLAIN
};

routes! {
    static ROUTES;
    Get "/health" Anyone => basic;
    Get "/health/detailed" Viewer => detailed;
    Get "/monitoring/health" Anyone => basic;
    Get "/monitoring/health/detailed" Viewer => detailed;
    Get "/monitoring/metrics" Viewer => metrics;
}

const SERVICE: &str = "backend";

async fn basic(call: Call) -> Result<Response, Problem> {
    health::basic(&call.api, SERVICE)
}

async fn detailed(call: Call) -> Result<Response, Problem> {
    let components = components(&call.api);
    let services = health::services(&call.api, &components);
    health::answer(&call.api, SERVICE, &components, services, document(&call.api))
}

async fn metrics(call: Call) -> Result<Response, Problem> {
    answer_json(&document(&call.api))
}

fn document(api: &Arc<Api>) -> Map<String, Value> {
    let by_class: Vec<(&str, u64)> = api.requests.each().collect();
    let all: u64 = by_class.iter().map(|(_, count)| count).sum();
    let errors: u64 = by_class.iter().filter(|(class, _)| *class == "5xx").map(|(_, count)| count).sum();
    let responses: Map<String, Value> = by_class.into_iter().map(|(class, n)| (class.to_owned(), n.into())).collect();
    let figures = json!({
        "requests_total": all,
        "responses_total": responses,
        "error_rate": documents::percent(errors, all).unwrap_or(0.0),
        "recent_errors": api.memory.witness().map(|witness| witness.refused()),
    });
    documents::document(api, figures)
}

fn phrase(notice: &Notice) -> Option<String> {
    if let Notice::Refused { stream, reason } = notice {
        return Some(format!("{stream} takes no events: {reason}"));
    }
    health_phrase(notice)
}

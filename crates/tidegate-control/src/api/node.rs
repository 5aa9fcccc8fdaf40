//! The node itself: is it well, what does it count, what is it.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tidegate_core::fault::{Fault, Origin};
use utoipa::ToSchema;

use crate::{
    call::{Call, json},
    health::{self, HealthDetail, State},
    metrics::{scrape, text},
    problem::Problem,
};

/// One word.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Status {
    status: &'static str,
}

#[utoipa::path(
    get, path = "/livez", tag = "node", operation_id = "node_livez",
    summary = "Tell whether the node makes progress",
    description = "503 when a part that must not stand still has not moved for too long, or the store cannot be \
        written until the node is started again. What is wrong outside of the node never makes it unalive.",
    responses((status = 200, description = "It does.", body = Status))
)]
pub(crate) async fn livez(call: Call) -> Result<Response, Problem> {
    match health::stuck(&call.api) {
        None => json(&Status { status: "live" }),
        Some(cause) => Err(Fault::unavailable(Origin::Tidegate, cause).into()),
    }
}

#[utoipa::path(
    get, path = "/readyz", tag = "node", operation_id = "node_readyz",
    summary = "Tell whether the node takes requests",
    description = "503 while it stops, or when the store failed. A full disk does not make it unready: workers must \
        still be able to settle.",
    responses((status = 200, description = "It does.", body = Status))
)]
pub(crate) async fn readyz(call: Call) -> Result<Response, Problem> {
    match health::unready(&call.api) {
        None => json(&Status { status: "ready" }),
        Some(cause) => Err(Fault::unavailable(Origin::Tidegate, cause).into()),
    }
}

#[utoipa::path(
    get, path = "/health", tag = "node", operation_id = "node_health",
    summary = "Tell how the node is in one word",
    responses(
        (status = 200, description = "`healthy` or `degraded`.", body = Status),
        (status = 503, description = "`unhealthy`.", body = Status),
    )
)]
pub(crate) async fn health(call: Call) -> Result<Response, Problem> {
    let state = health::state(&call.api);
    with_state(state, json(&Status { status: state.as_str() })?)
}

#[utoipa::path(
    get, path = "/health/detailed", tag = "node", operation_id = "node_health_detailed",
    summary = "Tell how each part of the node is, and why",
    responses(
        (status = 200, description = "The node is healthy or degraded.", body = HealthDetail),
        (status = 503, description = "The node is unhealthy.", body = HealthDetail),
    )
)]
pub(crate) async fn health_detailed(call: Call) -> Result<Response, Problem> {
    let detail = health::detail(&call.api);
    with_state(detail.state(), json(&detail)?)
}

fn with_state(state: State, mut response: Response) -> Result<Response, Problem> {
    if state == State::Unhealthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

#[utoipa::path(
    get, path = "/metrics", tag = "node", operation_id = "node_metrics",
    summary = "Show metrics in the text format of Prometheus",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain"))
)]
pub(crate) async fn metrics(call: Call) -> Result<Response, Problem> {
    let page = scrape::page(&call.api, call.profile.as_deref()).await?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(text::CONTENT_TYPE))], page).into_response())
}

#[utoipa::path(
    get, path = "/openapi.json", tag = "node", operation_id = "node_openapi",
    summary = "Show this document",
    responses((status = 200, description = "OpenAPI 3.1.", body = serde_json::Value))
)]
pub(crate) async fn openapi(_call: Call) -> Result<Response, Problem> {
    let mut response = Response::new(Body::from(crate::openapi::openapi()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// What runs here.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    name: &'static str,
    version: String,
    node: String,
    environment: Option<String>,
    /// Fingerprint of the configuration in force.
    config: String,
}

#[utoipa::path(
    get, path = "/version", tag = "node", operation_id = "node_version",
    summary = "Tell what runs here",
    responses((status = 200, description = "What runs.", body = Version))
)]
pub(crate) async fn version(call: Call) -> Result<Response, Problem> {
    let node = &call.api.node;
    json(&Version {
        name: "tidegate",
        version: node.version.clone(),
        node: node.name.clone(),
        environment: node.environment.clone(),
        config: call.api.config.to_string(),
    })
}

//! What the node needs outside, and whether it is there.

use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    call::{Call, json},
    problem::Problem,
    upstream::Probed,
};

/// Everything outside that the node needs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UpstreamList {
    /// Whether all that were tried were reached.
    ok: bool,
    upstreams: Vec<Probed>,
}

impl From<Vec<Probed>> for UpstreamList {
    fn from(upstreams: Vec<Probed>) -> Self {
        Self { ok: upstreams.iter().all(|one| one.reachable != Some(false)), upstreams }
    }
}

#[utoipa::path(
    get, path = "/v1/upstreams", tag = "upstreams", operation_id = "upstreams_list",
    summary = "List what the node needs outside, as it was tried last",
    responses((status = 200, description = "What is needed.", body = UpstreamList))
)]
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    json(&UpstreamList::from(call.api.upstreams.list()))
}

#[utoipa::path(
    post, path = "/v1/upstreams/{upstream}/probe", tag = "upstreams", operation_id = "upstreams_probe",
    summary = "Try now to reach what a group's sink needs",
    params(("upstream" = String, Path, description = "Name of the group, or of the target behind it.")),
    responses((status = 200, description = "What it came to.", body = UpstreamList))
)]
pub(crate) async fn probe(call: Call) -> Result<Response, Problem> {
    let probed = call.api.upstreams.probe(&call.upstream()?, &call.api.cx).await?;
    json(&UpstreamList::from(probed))
}

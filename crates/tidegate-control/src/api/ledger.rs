//! What a group remembers of what it has done.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use tidegate_core::fault::Fault;
use utoipa::ToSchema;

use crate::{
    call::{Call, json, parse},
    problem::Problem,
};

/// Size and cost of the ledger of a group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ledger {
    group: String,
    /// Events that it remembers as done.
    entries: u64,
    disk_bytes: u64,
    memory_bytes: u64,
}

#[utoipa::path(
    get, path = "/v1/ledger/{group}", tag = "ledger", operation_id = "ledger_show",
    summary = "Show size and cost of a group's ledger",
    params(("group" = String, Path, description = "Name of the group.")),
    responses((status = 200, description = "The ledger.", body = Ledger))
)]
pub(crate) async fn show(call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let status = call.api.store.ledger_status(&group).await?;
    json(&Ledger {
        group: group.into(),
        entries: status.entries,
        disk_bytes: status.disk_bytes,
        memory_bytes: status.memory_bytes,
    })
}

/// Which entry is forgotten.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForgetAsk {
    /// CloudEvents `source` of the event.
    source: String,
    /// CloudEvents `id` of the event.
    id: String,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// What was forgotten.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Forgotten {
    /// Id of this action.
    action: String,
    group: String,
    source: String,
    id: String,
    /// Always true; an entry that is not there is answered with 404.
    forgotten: bool,
}

#[utoipa::path(
    post, path = "/v1/ledger/{group}/forget", tag = "ledger", operation_id = "ledger_forget",
    summary = "Forget that an event is done, so that it may run again",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = ForgetAsk,
    responses((status = 200, description = "It is forgotten.", body = Forgotten))
)]
pub(crate) async fn forget(mut call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let body = call.json_body().await?;
    let ask: ForgetAsk = parse(&body)?;
    if !call.api.store.forget(&group, &ask.source, &ask.id).await? {
        let note =
            format!("ledger of {:?} has no entry of source {:?} and id {:?}", group.as_str(), ask.source, ask.id);
        return Err(Fault::missing(note).into());
    }
    let action = call.action("ledger.forget", group.as_str(), &ask.reason);
    json(&Forgotten { action, group: group.into(), source: ask.source, id: ask.id, forgotten: true })
}

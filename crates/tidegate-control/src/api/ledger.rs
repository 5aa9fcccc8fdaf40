//! What a group remembers of what it has done.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use tidegate_core::{clock::Timestamp, config::Time, fault::Fault};
use utoipa::{IntoParams, ToSchema};

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

/// What groups have done, in numbers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LedgerStats {
    ledgers: Vec<LedgerCounts>,
}

/// What one group has done, in numbers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LedgerCounts {
    group: String,
    stream: String,
    /// Deliveries that a handler has done.
    success: u64,
    /// Deliveries that were buried in the dead letters.
    failure: u64,
    /// Deliveries that were skipped, because the ledger knew their event or they were meant for another group.
    skipped: u64,
    /// Events that the ledger remembers as done.
    entries: u64,
    disk_bytes: u64,
    memory_bytes: u64,
}

#[utoipa::path(
    get, path = "/v1/ledger", tag = "ledger", operation_id = "ledger_stats",
    summary = "Show what each group has done, skipped and failed",
    responses((status = 200, description = "The ledgers.", body = LedgerStats))
)]
pub(crate) async fn stats(call: Call) -> Result<Response, Problem> {
    let mut ledgers = Vec::new();
    for group in call.api.store.groups().await? {
        let status = call.api.store.ledger_status(&group.name).await?;
        ledgers.push(LedgerCounts {
            group: group.name.into(),
            stream: group.stream.into(),
            success: group.done.saturating_sub(group.duplicates),
            failure: group.dead,
            skipped: group.duplicates,
            entries: status.entries,
            disk_bytes: status.disk_bytes,
            memory_bytes: status.memory_bytes,
        });
    }
    json(&LedgerStats { ledgers })
}

/// Which entry is shown.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EntryQuery {
    /// CloudEvents `source` of the event.
    source: String,
    /// CloudEvents `id` of the event.
    id: String,
}

/// What a ledger remembers of one event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LedgerEntry)]
pub(crate) struct EntryShown {
    group: String,
    source: String,
    id: String,
    /// Always `success`: what failed or was skipped leaves no entry and changes none.
    result: &'static str,
    /// When it was done; of several times the last one.
    #[schema(value_type = String, format = DateTime)]
    done_at: Timestamp,
    /// Position of the delivery that was done.
    position: String,
}

#[utoipa::path(
    get, path = "/v1/ledger/{group}/entry", tag = "ledger", operation_id = "ledger_entry",
    summary = "Show what a group remembers of one event",
    params(("group" = String, Path, description = "Name of the group."), EntryQuery),
    responses((status = 200, description = "The entry.", body = EntryShown))
)]
pub(crate) async fn entry(call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let EntryQuery { source, id } = call.query()?;
    let found = call.api.store.ledger_entry(&group, &source, &id).await?;
    let found = found.ok_or_else(|| {
        Fault::missing(format!("ledger of {:?} has no entry of source {source:?} and id {id:?}", group.as_str()))
    })?;
    let position = found.position.to_string();
    json(&EntryShown { group: group.into(), source, id, result: "success", done_at: found.at, position })
}

/// What is forgotten.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CleanupAsk {
    /// Everything that was done longer ago than this, such as `30d`.
    #[schema(value_type = String)]
    older: Time,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// What was forgotten.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CleanedUp {
    /// Id of this action.
    action: String,
    group: String,
    /// Entries that this freed at once; others that lie on disk beside newer ones count no more and are freed with them.
    freed: u64,
    /// Everything before this time is forgotten.
    #[schema(value_type = String, format = DateTime)]
    before: Timestamp,
}

#[utoipa::path(
    post, path = "/v1/ledger/{group}/cleanup", tag = "ledger", operation_id = "ledger_cleanup",
    summary = "Forget what was done long ago",
    description = "A ledger does so by itself after its `keep`; this is for sooner. What is forgotten may run again.",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = CleanupAsk,
    responses((status = 200, description = "It is forgotten.", body = CleanedUp))
)]
pub(crate) async fn cleanup(mut call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let body = call.json_body().await?;
    let ask: CleanupAsk = parse(&body)?;
    let before = call.api.cx.clock.now().minus(ask.older.get());
    let freed = call.api.store.clean_ledger(&group, before).await?;
    let action = call.action("ledger.cleanup", group.as_str(), &ask.reason);
    json(&CleanedUp { action, group: group.into(), freed, before })
}

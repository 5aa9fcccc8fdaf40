//! The accounting: every event of every group is somewhere, or the node is wrong.

use axum::response::Response;
use serde::Serialize;
use tidegate_core::store::GroupStatus;
use utoipa::ToSchema;

use crate::{
    call::{Call, json},
    problem::Problem,
};

/// The accounting of all groups.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Audit {
    /// Whether nothing is missing anywhere.
    balanced: bool,
    /// One row per stream and group.
    rows: Vec<AuditRow>,
}

/// `accepted = done + waiting + scheduled + in_flight + dead + expired + dropped + difference`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditRow {
    stream: String,
    group: String,
    accepted: u64,
    done: u64,
    /// Of those done, those that the group's stages did not let through.
    skipped: u64,
    waiting: u64,
    scheduled: u64,
    in_flight: u64,
    dead: u64,
    expired: u64,
    dropped: u64,
    /// What is missing; anything but 0 is a fault of Tidegate.
    difference: i64,
}

impl From<GroupStatus> for AuditRow {
    fn from(status: GroupStatus) -> Self {
        Self {
            difference: status.difference(),
            stream: status.stream.into(),
            group: status.name.into(),
            accepted: status.accepted,
            done: status.done,
            skipped: status.skipped,
            waiting: status.waiting,
            scheduled: status.scheduled,
            in_flight: status.in_flight,
            dead: status.dead,
            expired: status.expired,
            dropped: status.dropped,
        }
    }
}

#[utoipa::path(
    get, path = "/v1/audit/messages", tag = "audit", operation_id = "audit_messages",
    summary = "Account for every message",
    responses((status = 200, description = "The accounting.", body = Audit))
)]
pub(crate) async fn messages(call: Call) -> Result<Response, Problem> {
    let rows: Vec<AuditRow> = call.api.store.groups().await?.into_iter().map(AuditRow::from).collect();
    json(&Audit { balanced: rows.iter().all(|row| row.difference == 0), rows })
}

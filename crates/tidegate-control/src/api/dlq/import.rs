//! Dead letters from a file: JSON lines in the shape in which they are listed.

use std::time::Duration;

use axum::response::Response;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_core::{
    clock::Timestamp,
    cloudevents,
    delivery::Attempt,
    fault::{Fault, FaultClass, Result},
    limits,
    names::GroupName,
    store::{DeadChange, DeadImport, DeadState},
};
use utoipa::ToSchema;

use crate::{
    call::{Call, json},
    problem::Problem,
};

/// Letters that are taken in with one commit.
const STEP: usize = 500;

/// A dead letter in a line; other members of a listed one are ignored.
#[derive(Debug, Deserialize)]
struct Line {
    group: GroupName,
    #[serde(default)]
    state: Option<DeadState>,
    event: Box<RawValue>,
    fault: LineFault,
    #[serde(default)]
    attempts: Vec<LineAttempt>,
    failed_at: Timestamp,
    #[serde(default)]
    config: ByteString,
    #[serde(default)]
    note: Option<ByteString>,
    #[serde(default)]
    by: Option<ByteString>,
    #[serde(default)]
    job: Option<ByteString>,
    #[serde(default)]
    changed_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct LineFault {
    class: String,
    message: ByteString,
}

#[derive(Debug, Deserialize)]
struct LineAttempt {
    at: Timestamp,
    took_ms: u64,
    class: String,
    message: String,
}

fn class(word: &str) -> Result<FaultClass> {
    let found = FaultClass::ALL.into_iter().find(|class| class.as_str() == word);
    found.ok_or_else(|| Fault::invalid(format!("{word:?} is not a class of fault")))
}

impl Line {
    fn letter(self) -> Result<DeadImport> {
        let attempt = |attempt: LineAttempt| {
            Ok(Attempt {
                at: attempt.at,
                took: Duration::from_millis(attempt.took_ms),
                class: class(&attempt.class)?,
                message: attempt.message,
            })
        };
        let change = |at| DeadChange {
            at,
            by: self.by.unwrap_or_default(),
            note: self.note.unwrap_or_default(),
            job: self.job.unwrap_or_default(),
            position: None,
        };
        if self.fault.message.len() > limits::FAULT_BYTES_MAX {
            return Err(Fault::invalid(format!("fault.message is longer than {} bytes", limits::FAULT_BYTES_MAX)));
        }
        Ok(DeadImport {
            group: self.group,
            state: self.state.unwrap_or(DeadState::Parked),
            event: cloudevents::from_json(self.event.get().to_owned().into())?,
            class: class(&self.fault.class)?,
            message: self.fault.message,
            attempts: self.attempts.into_iter().map(attempt).collect::<Result<_>>()?,
            failed_at: self.failed_at,
            config: self.config,
            changed: self.changed_at.map(change),
        })
    }
}

/// What was taken in.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Imported {
    /// New ones.
    imported: u64,
    /// Those that were there already.
    duplicates: u64,
    /// Ids, in input order.
    ids: Vec<String>,
}

#[utoipa::path(
    post, path = "/v1/dlq/{stream}/import", tag = "dlq", operation_id = "dlq_import",
    summary = "Take dead letters in",
    description = "One JSON document in each line, in the shape in which dead letters are listed. One whose event, group \
        and time of burial are there already is not taken in twice. The group must exist and read the stream. When a line \
        is wrong, nothing is taken in.",
    params(("stream" = String, Path, description = "The stream, its `.dlq`, or an alias of that.")),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, description = "What was taken in.", body = Imported))
)]
pub(crate) async fn import(mut call: Call) -> Result<Response, Problem> {
    let stream = call.dead_of()?;
    let body = call.body().await?;
    let mut letters = Vec::new();
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let at = || format!("line {}", index + 1);
        let line: Line =
            serde_json::from_slice(line).map_err(|error| Fault::invalid(error.to_string()).within(at()))?;
        letters.push(line.letter().map_err(|fault| fault.within(at()))?);
    }
    let mut told = Imported::default();
    let mut rest = letters.into_iter();
    loop {
        let step: Vec<DeadImport> = rest.by_ref().take(STEP).collect();
        if step.is_empty() {
            break;
        }
        for answer in call.api.store.import_dead(&stream, step).await? {
            told.ids.push(answer.position.to_string());
            *if answer.duplicate { &mut told.duplicates } else { &mut told.imported } += 1;
        }
    }
    call.action("dlq.import", stream.as_str(), "");
    json(&told)
}

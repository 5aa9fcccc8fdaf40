//! A dead letter as the outside sees it.

use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_core::{
    clock::Timestamp,
    cloudevents,
    event::Event,
    fault::{Fault, FaultClass, Result},
    store::DeadLetter,
};
use utoipa::ToSchema;

/// A dead letter: the untouched event and everything known of its death.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct Entry {
    id: String,
    /// Stream it came from.
    stream: String,
    /// Group that could not process it.
    group: String,
    /// Its place in the stream it came from.
    position: String,
    /// `parked`, `reprocessed`, `resolved`, `discarded` or `expired`.
    state: &'static str,
    /// The CloudEvent, untouched.
    #[schema(value_type = Object)]
    event: Box<RawValue>,
    fault: EntryFault,
    /// Attempts, oldest first; of many only the last ones are kept.
    attempts: Vec<EntryAttempt>,
    /// When it was buried.
    #[schema(value_type = String, format = DateTime)]
    failed_at: Timestamp,
    /// Fingerprint of the configuration at that time.
    config: String,
    /// Why its state was changed.
    note: Option<String>,
    /// Who changed its state.
    by: Option<String>,
    /// The job that changed its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    /// When its state was changed.
    #[schema(value_type = Option<String>, format = DateTime)]
    changed_at: Option<Timestamp>,
    /// Where it went, when it was reprocessed.
    reprocessed_to: Option<String>,
}

/// The last fault.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EntryFault {
    class: &'static str,
    message: String,
    /// The message without its variable parts.
    signature: String,
    /// Whose fault it is: `target` or `handler`.
    origin: &'static str,
}

/// A past attempt.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EntryAttempt {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    took_ms: u64,
    class: &'static str,
    message: String,
}

impl Entry {
    pub(crate) fn new(dead: DeadLetter) -> Result<Self> {
        let (at, by, note, job, to) = match dead.changed {
            Some(change) => (Some(change.at), Some(change.by), Some(change.note), Some(change.job), change.position),
            None => (None, None, None, None, None),
        };
        let attempts = dead.attempts.into_iter().map(|attempt| EntryAttempt {
            at: attempt.at,
            took_ms: u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
            class: attempt.class.as_str(),
            message: attempt.message,
        });
        Ok(Self {
            id: dead.id.to_string(),
            stream: dead.stream.into(),
            group: dead.group.into(),
            position: dead.position.to_string(),
            state: dead.state.as_str(),
            event: raw_event(&dead.event)?,
            fault: EntryFault {
                class: dead.class.as_str(),
                message: dead.message.to_string(),
                signature: dead.signature.to_string(),
                origin: origin(dead.class),
            },
            attempts: attempts.collect(),
            failed_at: dead.failed_at,
            config: dead.config.to_string(),
            note: note.map(|note| note.to_string()),
            by: by.map(|by| by.to_string()),
            job: job.filter(|job| !job.is_empty()).map(|job| job.to_string()),
            changed_at: at,
            reprocessed_to: to.map(|position| position.to_string()),
        })
    }
}

fn origin(class: FaultClass) -> &'static str {
    if class.blames_target() { "target" } else { "handler" }
}

fn raw_event(event: &Event) -> Result<Box<RawValue>> {
    let mut out = Vec::with_capacity(event.size() + 256);
    cloudevents::write_json(event, &mut out);
    let text = String::from_utf8(out).map_err(|err| Fault::corrupt("event is not UTF-8 as JSON").because(err))?;
    RawValue::from_string(text).map_err(|err| Fault::corrupt("data of an event is not JSON").because(err))
}

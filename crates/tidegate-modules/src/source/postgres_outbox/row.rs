//! A row of the outbox and the event that it becomes. Pure.

use bytes::Bytes;
use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    cloudevents,
    event::{Attribute, Data, Event, PARTITION_KEY},
    limits,
    order::OrderBy,
};

use super::OutboxConfig;

/// Bytes of a payload that are kept with a row that is rejected.
const REJECTED_BYTES: usize = 64 * 1024;
/// Letters of a reason that fit an attribute and a row.
const WHY_CHARS: usize = 500;
/// Type of the events of parked rows.
const REJECTED_KIND: &str = "tidegate.row.rejected";

/// A row, as it was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) event_id: Option<String>,
    pub(super) event_type: Option<String>,
    pub(super) aggregate_type: Option<String>,
    pub(super) aggregate_id: Option<String>,
    /// None when it is NULL, or larger than an event.
    pub(super) payload: Option<String>,
    /// Bytes of the payload.
    pub(super) size: i64,
    pub(super) created_at: Option<String>,
    pub(super) attempts: i32,
    /// Values of the further attributes, in their order in the settings.
    pub(super) attributes: Vec<Option<String>>,
}

impl Row {
    /// What keeps its order; rows without an aggregate have none.
    pub(super) fn aggregate(&self) -> Option<(Option<&str>, &str)> {
        Some((self.aggregate_type.as_deref(), self.aggregate_id.as_deref()?))
    }

    /// Makes the event, or says why the row is none.
    pub(super) fn event(&self, config: &OutboxConfig) -> Result<Event, String> {
        let columns = &config.columns;
        let needed = |value: &Option<String>, column: &str| {
            value.clone().filter(|text| !text.is_empty()).ok_or_else(|| format!("column {column} is empty"))
        };
        let id = needed(&self.event_id, &columns.event_id)?;
        let kind = needed(&self.event_type, &columns.event_type)?;
        let mut event = Event::new(id, config.source_uri(), kind);
        event.time = self.created_at.clone().map(Into::into);
        if let Some(aggregate) = self.aggregate_id.clone().filter(|text| !text.is_empty()) {
            event = event.with_extension(PARTITION_KEY, aggregate.clone()).with_subject(aggregate);
        }
        if let Some(kind) = self.aggregate_type.clone() {
            event = event.with_extension("aggregatetype", kind);
        }
        for (name, value) in config.attributes.keys().zip(&self.attributes) {
            if let Some(value) = value.clone().filter(|value| !value.is_empty()) {
                event = event.with_extension(name.clone(), value);
            }
        }
        if usize::try_from(self.size).unwrap_or(0) > limits::EVENT_BYTES_MAX {
            let most = limits::EVENT_BYTES_MAX;
            return Err(format!("column {} of {} bytes is larger than an event of {most}", columns.payload, self.size));
        }
        if let Some(payload) = self.payload.clone() {
            let payload = Bytes::from(payload);
            cloudevents::check_json(&payload).map_err(|fault| format!("column {}: {fault}", columns.payload))?;
            event.content_type = Some(ByteString::from_static("application/json"));
            event.data = Data::Json(payload);
        }
        for (name, path) in config.attributes.iter().filter(|(_, from)| super::is_path(from)) {
            let value = path.parse::<OrderBy>().ok().and_then(|path| path.text(&event));
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                event = event.with_extension(name.clone(), value);
            }
        }
        event.check().map_err(|fault| fault.note().to_owned())?;
        Ok(event)
    }

    /// Where it is found.
    pub(super) fn place(&self, config: &OutboxConfig) -> String {
        format!("{}:{}", config.table, self.id)
    }

    /// Makes the event that keeps a row which is parked.
    pub(super) fn rejected(&self, config: &OutboxConfig, why: &str, now: Timestamp) -> Event {
        let place = self.place(config);
        let mut event = Event::new(format!("{place}@{}", self.attempts), config.source_uri(), REJECTED_KIND)
            .with_extension("reason", plain(why))
            .with_extension("place", plain(&place))
            .with_extension("attempts", (self.attempts + 1).to_string());
        if let Some(id) = &self.event_id {
            event = event.with_extension("eventid", plain(id));
        }
        event.time = Some(now.to_string().into());
        if let Some(payload) = &self.payload {
            let mut end = payload.len().min(REJECTED_BYTES);
            while !payload.is_char_boundary(end) {
                end -= 1;
            }
            event.content_type = Some(ByteString::from_static("text/plain"));
            event.data = Data::Text(payload.get(..end).unwrap_or_default().into());
        }
        event.extensions.retain(|(_, value)| !matches!(value, Attribute::Text(text) if text.is_empty()));
        event
    }
}

/// A reason as it stands in an attribute and in the table.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WHY_CHARS).collect()
}

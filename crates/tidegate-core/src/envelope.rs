//! Envelope v1: the fields as which programs beside the node read and write events in a Redis stream.

use bytes::Bytes;
use bytestring::ByteString;

use crate::{
    clock::Timestamp,
    event::{Attribute, CORRELATION_ID, Data, ENVELOPE_FAULT, Event, PARTITION_KEY},
    limits,
    names::StreamName,
};

/// All fields of envelope v1.
pub const FIELDS: [&str; 10] = [
    "event_id",
    "event_type",
    "topic",
    "schema_version",
    "occurred_at",
    "tenant_id",
    "aggregate_id",
    "aggregate_type",
    "correlation_id",
    "payload",
];
/// Stands for an identifier that an event does not have.
const NO_ID: &str = "00000000-0000-0000-0000-000000000000";

fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

/// Writes an event of a stream as an envelope. `payload` is its data, in the form that the readers expect.
pub fn write(event: &Event, topic: &StreamName, now: Timestamp, payload: Bytes) -> Vec<(&'static str, Bytes)> {
    let attribute = |name: &str, other: &str| event.attribute(name).map_or_else(|| text(other), |value| text(&value));
    let occurred_at = event.time.as_ref().map_or_else(|| now.to_string(), ToString::to_string);
    let mut all = Vec::with_capacity(FIELDS.len());
    all.push(("event_id", text(&event.id)));
    all.push(("event_type", text(&event.kind)));
    all.push(("topic", text(topic.as_str())));
    all.push(("schema_version", attribute("schemaversion", "1")));
    all.push(("occurred_at", occurred_at.into()));
    all.push(("tenant_id", attribute("tenantid", NO_ID)));
    all.push(("aggregate_id", aggregate(event)));
    all.push(("aggregate_type", attribute("aggregatetype", "event")));
    if let Some(story) = event.attribute(CORRELATION_ID) {
        all.push(("correlation_id", text(&story)));
    }
    all.push(("payload", payload));
    all
}

/// Writes a dead letter as such programs read it. `created` is when its event was accepted.
pub fn write_letter(
    event: &Event,
    message: &str,
    attempts: usize,
    (failed_at, created): (Timestamp, Timestamp),
    payload: Bytes,
) -> Vec<(&'static str, Bytes)> {
    let created = event.time.as_ref().map_or_else(|| created.to_string(), ToString::to_string);
    vec![
        ("original_event_id", text(&event.id)),
        ("event_type", text(&event.kind)),
        ("aggregate_id", aggregate(event)),
        ("payload", payload),
        ("error_message", text(message)),
        ("attempts", attempts.to_string().into()),
        ("failed_at", failed_at.to_string().into()),
        ("created_at", created.into()),
    ]
}

/// The identifier of what an event is about.
fn aggregate(event: &Event) -> Bytes {
    event.attribute("aggregateid").or_else(|| event.attribute("subject")).map_or_else(|| text(NO_ID), |id| text(&id))
}

/// Makes an event of fields that another program wrote, as well as they fit; `otherwise` is its id when they have none.
/// Fields without a payload are themselves its data. What keeps them from being an envelope is in an attribute.
pub fn read(fields: &[(Bytes, Bytes)], stream: &StreamName, otherwise: impl Into<ByteString>) -> Event {
    let find = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
    let word = |name: &str| find(name).and_then(|value| std::str::from_utf8(value).ok()).and_then(attribute_text);
    let id = word("event_id").unwrap_or_else(|| otherwise.into());
    let kind = word("event_type").unwrap_or_else(|| ByteString::from_static("redis.entry"));
    let mut event = Event::new(id, format!("/redis/{stream}"), kind);
    event.time = word("occurred_at").filter(|time| Timestamp::parse(time).is_ok());
    event.subject = word("aggregate_id");
    let names = [
        ("tenantid", "tenant_id"),
        ("aggregatetype", "aggregate_type"),
        ("schemaversion", "schema_version"),
        (CORRELATION_ID, "correlation_id"),
        (PARTITION_KEY, "aggregate_id"),
    ];
    for (name, field) in names {
        if let Some(value) = word(field) {
            event.extensions.push((ByteString::from_static(name), Attribute::Text(value)));
        }
    }
    if let Some(fault) = fault(fields, &event) {
        event.extensions.push((ByteString::from_static(ENVELOPE_FAULT), Attribute::Text(fault)));
    }
    event.data = match find("payload") {
        Some(payload) if serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() => {
            Data::Json(payload.clone())
        }
        Some(payload) => match ByteString::try_from(payload.clone()) {
            Ok(words) => Data::Text(words),
            Err(_) => Data::Binary(payload.clone()),
        },
        None => Data::Json(as_json(fields)),
    };
    event
}

/// What keeps fields from being an envelope and cannot be seen in their event: there, some of what is missing is made up.
fn fault(fields: &[(Bytes, Bytes)], event: &Event) -> Option<ByteString> {
    let has = |name: &str| fields.iter().any(|(field, _)| field == name);
    let needed = ["event_id", "event_type", "topic", "schema_version", "occurred_at"];
    let missing = needed.into_iter().filter(|name| !has(name)).map(|name| format!("{name} is missing"));
    let unread = event.time.is_none() && has("occurred_at");
    let unread = unread.then(|| "occurred_at is no date-time".to_owned());
    let unknown = fields.iter().map(|(name, _)| name).find(|name| FIELDS.iter().all(|known| name != known));
    let unknown = unknown.map(|name| format!("{:?} is no field of it", String::from_utf8_lossy(name)));
    let all: Vec<String> = missing.chain(unread).chain(unknown).collect();
    let words = all.join(", ");
    if all.is_empty() { None } else { attribute_text(&words).or_else(|| Some("it has odd fields".into())) }
}

/// A text that may stand in an attribute.
fn attribute_text(value: &str) -> Option<ByteString> {
    let fits = !value.is_empty() && value.len() <= limits::ATTRIBUTE_BYTES_MAX && !value.chars().any(char::is_control);
    fits.then(|| value.into())
}

/// All fields as the members of a JSON object, in their order; what is not UTF-8 is replaced.
pub fn as_json(fields: &[(Bytes, Bytes)]) -> Bytes {
    let mut out = vec![b'{'];
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(name, &mut out);
        out.push(b':');
        write_text(value, &mut out);
    }
    out.push(b'}');
    out.into()
}

fn write_text(bytes: &[u8], out: &mut Vec<u8>) {
    let written = serde_json::to_writer(out, &String::from_utf8_lossy(bytes));
    debug_assert!(written.is_ok(), "a vector takes every text");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Vec<(Bytes, Bytes)> {
        pairs.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn an_envelope_is_read_as_it_was_written() {
        let stream = StreamName::new("users").unwrap();
        let mut event = Event::new("e1", "/redis/users", "user.created").with_data(Data::Json("{\"a\":1}".into()));
        event.time = Some("2026-01-31T08:00:00Z".into());
        event.subject = Some("u1".into());
        for (name, value) in [
            ("tenantid", "t"),
            ("aggregatetype", "user"),
            ("schemaversion", "2"),
            (CORRELATION_ID, "c"),
            (PARTITION_KEY, "u1"),
        ] {
            event = event.with_extension(name, value);
        }
        let written = write(&event, &stream, Timestamp::ZERO, event.data.bytes());
        let names: Vec<&str> = written.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, FIELDS);
        let fields: Vec<_> = written.into_iter().map(|(name, value)| (text(name), value)).collect();
        assert_eq!(read(&fields, &stream, "other"), event);
    }

    #[test]
    fn what_is_no_envelope_says_why_and_keeps_its_fields_in_order() {
        let stream = StreamName::new("users").unwrap();
        let event = read(&fields(&[("z", "1"), ("a", "x\"y"), ("z", "2")]), &stream, "7-0");
        assert_eq!((&*event.id, &*event.kind), ("7-0", "redis.entry"));
        assert_eq!(event.data, Data::Json(r#"{"z":"1","a":"x\"y","z":"2"}"#.into()));
        let why = event.extension(ENVELOPE_FAULT).unwrap();
        assert!(why.contains("event_id is missing") && why.contains("\"z\" is no field of it"), "{why}");
    }
}

//! An event as an entry of a Redis stream: the fields of envelope v1, which other programs read, and one field of ours
//! that holds what they do not.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    after::{self, AFTER},
    clock::Timestamp,
    delivery::{Attempt, Position},
    event::{Attribute, CORRELATION_ID, Data, Event, PARTITION_KEY, Reader, put_bytes, put_number},
    fault::{Fault, FaultClass, Result},
    limits,
    names::StreamName,
};

use super::{
    reply::{RawEntry, id_text},
    script::Ask,
};

/// The field that holds what envelope v1 has no field for.
pub(crate) const OWN: &str = "tidegate";
/// Stands for an identifier that an event does not have.
const NO_ID: &str = "00000000-0000-0000-0000-000000000000";
const DATA_IN_PAYLOAD: u8 = 1;
const HAS_HEAD: u8 = 2;

/// Refuses an event that is none, and one that asks for what this engine does not do: it must not run before its time
/// without a word.
pub(crate) fn check(event: &Event) -> Result<()> {
    event.check()?;
    if !after::names(event)?.is_empty() {
        let note = format!("attribute {AFTER:?}: the engine on Redis holds no event back for others");
        return Err(Fault::invalid(note));
    }
    Ok(())
}

/// What goes with an event that was reprocessed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The only group that it is for; 0 = for all.
    pub(crate) group: u32,
    /// It runs even if the ledger knows it.
    pub(crate) forced: bool,
    /// Its attempts so far, one line each.
    pub(crate) past: String,
}

/// An event that was read.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    pub(crate) position: Position,
    /// Its number in its stream; none when another program wrote it.
    pub(crate) number: Option<u64>,
    pub(crate) event: Event,
    pub(crate) head: Head,
}

impl Parsed {
    /// When it was accepted: the time in its position.
    pub(crate) fn accepted_at(&self) -> Timestamp {
        accepted_at(self.position)
    }
}

/// The time in a position.
pub(crate) fn accepted_at(position: Position) -> Timestamp {
    Timestamp::from_millis(i64::try_from(position.high).unwrap_or(i64::MAX))
}

/// Fields of an entry on their way to a script.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(Vec<(&'static str, Bytes)>);

impl Fields {
    pub(crate) fn put(&mut self, name: &'static str, value: impl Into<Bytes>) {
        self.0.push((name, value.into()));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    pub(crate) fn pass(&self, ask: &mut Ask) {
        ask.number(self.0.len() * 2);
        for (name, value) in &self.0 {
            ask.text(name).bytes(value);
        }
    }
}

fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

/// Writes an event for a stream.
pub(crate) fn fields(event: &Event, stream: &StreamName, now: Timestamp, head: Option<&Head>) -> Fields {
    let attribute = |name: &str, other: &str| event.attribute(name).map_or_else(|| text(other), |value| text(&value));
    let occurred_at = event.time.as_ref().map_or_else(|| now.to_string(), ToString::to_string);
    let mut all = Fields::default();
    all.put("event_id", text(&event.id));
    all.put("event_type", text(&event.kind));
    all.put("topic", text(stream.as_str()));
    all.put("schema_version", attribute("schemaversion", "1"));
    all.put("occurred_at", occurred_at);
    all.put("tenant_id", attribute("tenantid", NO_ID));
    all.put("aggregate_id", aggregate(event));
    all.put("aggregate_type", attribute("aggregatetype", "event"));
    if let Some(story) = event.attribute(CORRELATION_ID) {
        all.put("correlation_id", text(&story));
    }
    all.put("payload", payload(event));
    all.put(OWN, own(event, head));
    all
}

/// The identifier of what an event is about.
pub(crate) fn aggregate(event: &Event) -> Bytes {
    event.attribute("aggregateid").or_else(|| event.attribute("subject")).map_or_else(|| text(NO_ID), |id| text(&id))
}

/// The data for programs that expect JSON.
pub(crate) fn payload(event: &Event) -> Bytes {
    match &event.data {
        Data::Json(json) => json.clone(),
        Data::None | Data::Text(_) | Data::Binary(_) => Bytes::from_static(b"{}"),
    }
}

/// Everything of an event that the payload does not hold.
pub(crate) fn own(event: &Event, head: Option<&Head>) -> Bytes {
    let is_json = matches!(event.data, Data::Json(_));
    let mut out = vec![u8::from(is_json) * DATA_IN_PAYLOAD + u8::from(head.is_some()) * HAS_HEAD];
    if let Some(head) = head {
        put_number(&mut out, u64::from(head.group));
        out.push(u8::from(head.forced));
        put_bytes(&mut out, head.past.as_bytes());
    }
    match is_json {
        true => Event { data: Data::None, ..event.clone() }.encode(&mut out),
        false => event.encode(&mut out),
    }
    out.into()
}

/// Reads an entry: one of ours as it was, and one of another program as well as it fits.
pub(crate) fn parse(entry: &RawEntry, stream: &StreamName) -> Result<Parsed> {
    let position = entry.position;
    let find = |name: &str| entry.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
    if let Some((number, blob)) = find(OWN).and_then(|own| split_own(own, position)) {
        let (event, head) = read_own(blob, find("payload"))?;
        return Ok(Parsed { position, number: Some(number), event, head });
    }
    Ok(Parsed { position, number: None, event: foreign(entry, stream), head: Head::default() })
}

/// Takes number and position off our field; none when it was copied from another entry.
fn split_own(own: &Bytes, position: Position) -> Option<(u64, Bytes)> {
    let bar = own.iter().position(|byte| *byte == b'|')?;
    let (number, id) = std::str::from_utf8(own.get(..bar)?).ok()?.split_once(':')?;
    (id == id_text(position)).then_some(())?;
    Some((number.parse().ok()?, own.slice(bar + 1..)))
}

fn read_own(blob: Bytes, payload: Option<&Bytes>) -> Result<(Event, Head)> {
    let mut read = Reader { bytes: blob };
    let [flags] = read.array::<1>()?;
    let mut head = Head::default();
    if flags & HAS_HEAD != 0 {
        head.group = u32::try_from(read.number()?).map_err(|_| Fault::corrupt("a group has an impossible number"))?;
        head.forced = read.array::<1>()? != [0];
        head.past = read.text()?.to_string();
    }
    let mut event = Event::decode(read.bytes)?;
    if flags & DATA_IN_PAYLOAD != 0 {
        let payload = payload.ok_or_else(|| Fault::corrupt("an entry has lost its payload"))?;
        event.data = Data::Json(payload.clone());
    }
    Ok((event, head))
}

/// Makes an event of an entry that another program wrote.
fn foreign(entry: &RawEntry, stream: &StreamName) -> Event {
    let find = |name: &str| entry.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
    let word = |name: &str| find(name).and_then(|value| std::str::from_utf8(value).ok()).and_then(attribute_text);
    let id = word("event_id").unwrap_or_else(|| id_text(entry.position).into());
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
    event.data = match find("payload") {
        Some(payload) if serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() => {
            Data::Json(payload.clone())
        }
        Some(payload) => match ByteString::try_from(payload.clone()) {
            Ok(words) => Data::Text(words),
            Err(_) => Data::Binary(payload.clone()),
        },
        None => Data::Json(all_fields(entry)),
    };
    event
}

/// A text that may stand in an attribute.
fn attribute_text(value: &str) -> Option<ByteString> {
    let fits = !value.is_empty() && value.len() <= limits::ATTRIBUTE_BYTES_MAX && !value.chars().any(char::is_control);
    fits.then(|| value.into())
}

fn all_fields(entry: &RawEntry) -> Bytes {
    let words =
        entry.fields.iter().map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
    let words: std::collections::BTreeMap<_, _> = words.collect();
    let mut json = BytesMut::new();
    json.extend_from_slice(&serde_json::to_vec(&words).unwrap_or_default());
    json.freeze()
}

/// A past attempt as a line of JSON.
#[derive(Serialize, Deserialize)]
struct Line {
    at: i64,
    /// In microseconds.
    took: u64,
    class: u8,
    message: String,
}

/// Writes an attempt as a line.
pub(crate) fn line(attempt: &Attempt) -> String {
    let line = Line {
        at: attempt.at.as_millis(),
        took: u64::try_from(attempt.took.as_micros()).unwrap_or(u64::MAX),
        class: attempt.class.code(),
        message: attempt.message.clone(),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

/// Reads attempts, oldest first; a line that is not one is passed over.
pub(crate) fn attempts(lines: &str) -> Vec<Attempt> {
    let read = |text: &str| {
        let line: Line = serde_json::from_str(text).ok()?;
        Some(Attempt {
            at: Timestamp::from_millis(line.at),
            took: std::time::Duration::from_micros(line.took),
            class: FaultClass::from_code(line.class)?,
            message: line.message,
        })
    };
    lines.lines().filter_map(read).collect()
}

/// Writes attempts as lines.
pub(crate) fn lines(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| line(attempt) + "\n").collect()
}

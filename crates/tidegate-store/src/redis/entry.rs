//! An event as an entry of a Redis stream: the fields of envelope v1, which other programs read, and beside it what these
//! cannot hold.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::{Attribute, CORRELATION_ID, Data, ENVELOPE_FAULT, Event, PARTITION_KEY, Reader, put_bytes, put_number},
    fault::{Fault, Result},
    limits,
    names::StreamName,
};

use super::{
    reply::{RawEntry, id_text, odd},
    script::Ask,
};
pub(crate) use crate::served::lines::{attempts, line, lines};

/// All fields of envelope v1.
const ENVELOPE: [&str; 10] = [
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
const DATA_IN_PAYLOAD: u8 = 1;
const HAS_HEAD: u8 = 2;

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
    /// Its number in its stream; none when it was not counted.
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
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    shown: Vec<(&'static str, Bytes)>,
    /// What lies beside the entry.
    own: Bytes,
}

impl Fields {
    pub(crate) fn new(own: Bytes) -> Self {
        Self { shown: Vec::new(), own }
    }

    pub(crate) fn put(&mut self, name: &'static str, value: impl Into<Bytes>) {
        self.shown.push((name, value.into()));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.shown.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + self.own.len()
    }

    pub(crate) fn pass(&self, ask: &mut Ask) {
        ask.number(self.shown.len() * 2 + 1);
        for (name, value) in &self.shown {
            ask.text(name).bytes(value);
        }
        ask.bytes(&self.own);
    }
}

fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

/// Writes an event for a stream.
pub(crate) fn fields(event: &Event, stream: &StreamName, now: Timestamp, head: Option<&Head>) -> Fields {
    let attribute = |name: &str, other: &str| event.attribute(name).map_or_else(|| text(other), |value| text(&value));
    let occurred_at = event.time.as_ref().map_or_else(|| now.to_string(), ToString::to_string);
    let mut all = Fields::new(own(event, head, matches!(event.data, Data::Json(_))));
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

/// Everything of an event, or all of it that the payload does not hold.
pub(crate) fn own(event: &Event, head: Option<&Head>, data_in_payload: bool) -> Bytes {
    let mut out = vec![u8::from(data_in_payload) * DATA_IN_PAYLOAD + u8::from(head.is_some()) * HAS_HEAD];
    if let Some(head) = head {
        put_number(&mut out, u64::from(head.group));
        out.push(u8::from(head.forced));
        put_bytes(&mut out, head.past.as_bytes());
    }
    match data_in_payload {
        true => Event { data: Data::None, ..event.clone() }.encode(&mut out),
        false => event.encode(&mut out),
    }
    out.into()
}

/// Reads an entry: one of ours as it was, and one of another program as well as it fits.
pub(crate) fn parse(entry: &RawEntry, stream: &StreamName) -> Result<Parsed> {
    let position = entry.position;
    let (number, blob) = split_own(&entry.own)?;
    let Some(blob) = blob else {
        return Ok(Parsed { position, number, event: foreign(entry, stream), head: Head::default() });
    };
    let payload = entry.fields.iter().find(|(field, _)| field == "payload").map(|(_, value)| value);
    let (event, head) = read_own(blob, payload)?;
    Ok(Parsed { position, number, event, head })
}

/// The number of an event, and what is known of it when it is one of ours.
fn split_own(own: &Bytes) -> Result<(Option<u64>, Option<Bytes>)> {
    if own.is_empty() {
        return Ok((None, None));
    }
    let bar = own.iter().position(|byte| *byte == b'|');
    let number = own.get(..bar.unwrap_or(own.len())).and_then(|digits| std::str::from_utf8(digits).ok());
    let number = number.and_then(|digits| digits.parse().ok()).ok_or_else(odd)?;
    Ok((Some(number), bar.map(|bar| own.slice(bar + 1..))))
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
    if let Some(fault) = envelope_fault(entry, &event) {
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
        None => Data::Json(all_fields(entry)),
    };
    event
}

/// What keeps an entry from being an envelope and cannot be seen in its event: there, some of what is missing is made up.
fn envelope_fault(entry: &RawEntry, event: &Event) -> Option<ByteString> {
    let has = |name: &str| entry.fields.iter().any(|(field, _)| field == name);
    let needed = ["event_id", "event_type", "topic", "schema_version", "occurred_at"];
    let missing = needed.into_iter().filter(|name| !has(name)).map(|name| format!("{name} is missing"));
    let unread = event.time.is_none() && has("occurred_at");
    let unread = unread.then(|| "occurred_at is no date-time".to_owned());
    let unknown = entry.fields.iter().map(|(name, _)| name).find(|name| ENVELOPE.iter().all(|known| name != known));
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

fn all_fields(entry: &RawEntry) -> Bytes {
    let words =
        entry.fields.iter().map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
    let words: std::collections::BTreeMap<_, _> = words.collect();
    let mut json = BytesMut::new();
    json.extend_from_slice(&serde_json::to_vec(&words).unwrap_or_default());
    json.freeze()
}

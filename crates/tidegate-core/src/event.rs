//! One immutable fact: a CloudEvents 1.0 event, cheap to clone, with its stored form.
//!
//! The stored form (`encode`/`decode`) is versioned by its first byte and is part of the on-disk format.
//! The forms seen by the outside (JSON, HTTP headers) live in `cloudevents.rs`.

mod told;

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;

use crate::{
    config::Time,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
};

/// A CloudEvents 1.0 event. Strings and data are slices of shared memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// CloudEvents `id`; with `source` it names the event in the whole world.
    pub id: ByteString,
    /// CloudEvents `source`.
    pub source: ByteString,
    /// CloudEvents `type`; "kind" because `type` is a keyword.
    pub kind: ByteString,
    /// CloudEvents `subject`.
    pub subject: Option<ByteString>,
    /// CloudEvents `time`, as it was written.
    pub time: Option<ByteString>,
    /// CloudEvents `datacontenttype`.
    pub content_type: Option<ByteString>,
    /// CloudEvents `dataschema`.
    pub schema: Option<ByteString>,
    /// Extension attributes in the order in which they came.
    pub extensions: Vec<(ByteString, Attribute)>,
    /// The data.
    pub data: Data,
}

/// Value of an extension attribute, in the types that JSON tells apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// Text, and everything that is written as text (URI, timestamp, binary).
    Text(ByteString),
    /// Integer.
    Integer(i32),
    /// Boolean.
    Boolean(bool),
}

/// Data of an event, with what is known of its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// There is none.
    None,
    /// A JSON value, as it was written; checked to be valid JSON when it came in.
    Json(Bytes),
    /// UTF-8 text.
    Text(ByteString),
    /// Anything else.
    Binary(Bytes),
}

impl Data {
    /// Returns the raw bytes, empty when there is no data.
    pub fn bytes(&self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::Json(bytes) | Self::Binary(bytes) => bytes.clone(),
            Self::Text(text) => text.as_bytes().clone(),
        }
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Json(bytes) | Self::Binary(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
        }
    }

    /// Tells whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Fingerprint of `source` and `id`: the identity of an event for dedupe and ledger.
///
/// It is a keyed SipHash of 128 bits. The key is fixed per store, so that nobody who publishes
/// can make up two events with one fingerprint.
pub type Fingerprint = u128;

/// Key of fingerprints; one per store.
#[derive(Debug, Clone, Copy)]
pub struct FingerprintKey(pub [u8; 16]);

impl FingerprintKey {
    /// Returns the fingerprint of an event's `source` and `id`.
    pub fn of(&self, source: &str, id: &str) -> Fingerprint {
        use std::hash::Hasher;

        use siphasher::sip128::{Hasher128, SipHasher13};
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write_u32(u32::try_from(source.len()).unwrap_or(u32::MAX));
        hasher.write(source.as_bytes());
        hasher.write(id.as_bytes());
        hasher.finish128().as_u128()
    }

    /// Returns the fingerprint of values that stand in for `source` and `id`; it is never that of an identity.
    pub fn of_values(&self, values: &[Vec<u8>]) -> Fingerprint {
        use std::hash::Hasher;

        use siphasher::sip128::{Hasher128, SipHasher13};
        let mut hasher = SipHasher13::new_with_key(&self.0);
        // No source is as long as this.
        hasher.write_u32(u32::MAX);
        for value in values {
            hasher.write_u64(value.len() as u64);
            hasher.write(value);
        }
        hasher.finish128().as_u128()
    }
}

/// Extension attribute that names the order key by default.
pub const PARTITION_KEY: &str = "partitionkey";
/// Extension attribute that says when to deliver (RFC 3339).
pub const DELIVER_AT: &str = "deliverat";
/// Extension attribute that says when the event is worthless (RFC 3339).
pub const EXPIRY_TIME: &str = "expirytime";
/// Extension attribute that bounds one attempt on the event (a duration such as `90s`).
pub const TIMEOUT: &str = "timeout";
/// Extension attribute of W3C trace context.
pub const TRACE_PARENT: &str = "traceparent";
/// Extension attribute of an event that another program wrote past the node: what keeps it from being an envelope v1.
pub const ENVELOPE_FAULT: &str = "envelopefault";
/// Extension attribute that ties events of one story together.
pub const CORRELATION_ID: &str = "correlationid";

/// Names that no extension attribute may have: each stands for a member of its own.
pub const CORE_NAMES: [&str; 9] =
    ["id", "source", "type", "specversion", "subject", "time", "datacontenttype", "dataschema", "data"];

const FORM: u8 = 1;
const HAS_SUBJECT: u8 = 1;
const HAS_TIME: u8 = 2;
const HAS_CONTENT_TYPE: u8 = 4;
const HAS_SCHEMA: u8 = 8;
const HAS_EXTENSIONS: u8 = 16;

impl Event {
    /// Makes an event with the required attributes and no data.
    pub fn new(id: impl Into<ByteString>, source: impl Into<ByteString>, kind: impl Into<ByteString>) -> Self {
        Self {
            id: id.into(),
            source: source.into(),
            kind: kind.into(),
            subject: None,
            time: None,
            content_type: None,
            schema: None,
            extensions: Vec::new(),
            data: Data::None,
        }
    }

    /// Sets the data.
    #[must_use]
    pub fn with_data(mut self, data: Data) -> Self {
        self.data = data;
        self
    }

    /// Sets the subject.
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<ByteString>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Adds or replaces an extension attribute of text.
    #[must_use]
    pub fn with_extension(mut self, name: impl Into<ByteString>, value: impl Into<ByteString>) -> Self {
        let name = name.into();
        self.extensions.retain(|(other, _)| *other != name);
        self.extensions.push((name, Attribute::Text(value.into())));
        self
    }

    /// Returns an extension attribute that is text.
    pub fn extension(&self, name: &str) -> Option<&ByteString> {
        self.extensions.iter().find(|(other, _)| &**other == name).and_then(|(_, value)| match value {
            Attribute::Text(text) => Some(text),
            Attribute::Integer(_) | Attribute::Boolean(_) => None,
        })
    }

    /// Returns any context attribute as text, by its CloudEvents name.
    pub fn attribute(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
        use std::borrow::Cow;
        let known = match name {
            "id" => Some(&self.id),
            "source" => Some(&self.source),
            "type" => Some(&self.kind),
            "subject" => self.subject.as_ref(),
            "time" => self.time.as_ref(),
            "datacontenttype" => self.content_type.as_ref(),
            "dataschema" => self.schema.as_ref(),
            _ => {
                return self.extensions.iter().find(|(other, _)| &**other == name).map(|(_, value)| match value {
                    Attribute::Text(text) => Cow::Borrowed(&**text),
                    Attribute::Integer(number) => Cow::Owned(number.to_string()),
                    Attribute::Boolean(truth) => Cow::Owned(truth.to_string()),
                });
            }
        };
        known.map(|text| Cow::Borrowed(&**text))
    }

    /// Returns how long one attempt on it may take, when the event says so.
    pub fn timeout(&self) -> Option<Duration> {
        let asked: Time = self.extension(TIMEOUT)?.parse().ok()?;
        Some(asked.get()).filter(|asked| !asked.is_zero())
    }

    /// Checks everything that the specification and the limits ask of an event.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [("id", &self.id), ("source", &self.source), ("type", &self.kind)] {
            if value.is_empty() {
                return Err(Fault::invalid(format!("attribute {name:?} is required and must not be empty")));
            }
            check_length(name, value)?;
        }
        let optional = [
            ("subject", &self.subject),
            ("time", &self.time),
            ("datacontenttype", &self.content_type),
            ("dataschema", &self.schema),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                if value.is_empty() {
                    return Err(Fault::invalid(format!("attribute {name:?} must not be empty when it is given")));
                }
                check_length(name, value)?;
            }
        }
        for (name, value) in [("time", self.time.as_ref())]
            .into_iter()
            .chain([DELIVER_AT, EXPIRY_TIME].into_iter().map(|name| (name, self.extension(name))))
        {
            if let Some(value) = value {
                crate::clock::Timestamp::parse(value).map_err(|fault| fault.within(format!("attribute {name:?}")))?;
            }
        }
        if self.attribute(TIMEOUT).is_some() && self.timeout().is_none() {
            let given = self.attribute(TIMEOUT).unwrap_or_default();
            return Err(Fault::invalid(format!(
                "attribute {TIMEOUT:?}: {given:?} is not a duration of more than zero such as \"500ms\", \"30s\" or \"5m\""
            )));
        }
        crate::after::names(self)?;
        crate::priority::of(self)?;
        if self.extensions.len() > limits::EXTENSIONS_MAX {
            return Err(Fault::invalid(format!("more than {} extension attributes", limits::EXTENSIONS_MAX)));
        }
        for (name, value) in &self.extensions {
            let named = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            if !named {
                return Err(Fault::invalid(format!(
                    "extension attribute name {name:?} may hold only lower-case letters and digits"
                )));
            }
            if CORE_NAMES.contains(&&**name) {
                return Err(Fault::invalid(format!("extension attribute {name:?} has the name of a core attribute")));
            }
            if let Attribute::Text(text) = value {
                check_length(name, text)?;
            }
        }
        let size = self.size();
        if size > limits::EVENT_BYTES_MAX {
            return Err(Fault::new(
                FaultKind::Limited,
                Origin::Caller,
                Retry::Never,
                format!("event of {size} bytes is larger than the limit of {} bytes", limits::EVENT_BYTES_MAX),
            ));
        }
        Ok(())
    }

    /// Returns the number of bytes of attributes and data together.
    pub fn size(&self) -> usize {
        let text = |value: &Option<ByteString>| value.as_ref().map_or(0, |text| text.len());
        let extensions: usize = self
            .extensions
            .iter()
            .map(|(name, value)| {
                name.len()
                    + match value {
                        Attribute::Text(text) => text.len(),
                        Attribute::Integer(_) => 4,
                        Attribute::Boolean(_) => 1,
                    }
            })
            .sum();
        self.id.len()
            + self.source.len()
            + self.kind.len()
            + text(&self.subject)
            + text(&self.time)
            + text(&self.content_type)
            + text(&self.schema)
            + extensions
            + self.data.len()
    }

    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut flags = 0;
        for (flag, present) in [
            (HAS_SUBJECT, self.subject.is_some()),
            (HAS_TIME, self.time.is_some()),
            (HAS_CONTENT_TYPE, self.content_type.is_some()),
            (HAS_SCHEMA, self.schema.is_some()),
            (HAS_EXTENSIONS, !self.extensions.is_empty()),
        ] {
            if present {
                flags |= flag;
            }
        }
        let form = match &self.data {
            Data::None => 0,
            Data::Json(_) => 1,
            Data::Text(_) => 2,
            Data::Binary(_) => 3,
        };
        out.extend_from_slice(&[FORM, flags, form]);
        put_bytes(out, self.id.as_bytes());
        put_bytes(out, self.source.as_bytes());
        put_bytes(out, self.kind.as_bytes());
        for value in [&self.subject, &self.time, &self.content_type, &self.schema].into_iter().flatten() {
            put_bytes(out, value.as_bytes());
        }
        if !self.extensions.is_empty() {
            put_number(out, self.extensions.len() as u64);
            for (name, value) in &self.extensions {
                put_bytes(out, name.as_bytes());
                match value {
                    Attribute::Text(text) => {
                        out.push(0);
                        put_bytes(out, text.as_bytes());
                    }
                    Attribute::Integer(number) => {
                        out.push(1);
                        out.extend_from_slice(&number.to_le_bytes());
                    }
                    Attribute::Boolean(truth) => out.extend_from_slice(&[2, u8::from(*truth)]),
                }
            }
        }
        match &self.data {
            Data::None => {}
            Data::Json(bytes) | Data::Binary(bytes) => out.extend_from_slice(bytes),
            Data::Text(text) => out.extend_from_slice(text.as_bytes()),
        }
    }

    /// Reads the stored form; the result shares the memory of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let mut read = Reader { bytes };
        let [form, flags, data_form] = read.array::<3>()?;
        if form != FORM {
            return Err(Fault::corrupt(format!("stored event has form {form}, known is {FORM}")));
        }
        let id = read.text()?;
        let source = read.text()?;
        let kind = read.text()?;
        let mut optional = |flag: u8| if flags & flag == 0 { Ok(None) } else { read.text().map(Some) };
        let subject = optional(HAS_SUBJECT)?;
        let time = optional(HAS_TIME)?;
        let content_type = optional(HAS_CONTENT_TYPE)?;
        let schema = optional(HAS_SCHEMA)?;
        let mut extensions = Vec::new();
        if flags & HAS_EXTENSIONS != 0 {
            let count = usize::try_from(read.number()?).unwrap_or(usize::MAX);
            if count > limits::EXTENSIONS_MAX {
                return Err(short());
            }
            for _ in 0..count {
                let name = read.text()?;
                let [kind] = read.array::<1>()?;
                let value = match kind {
                    0 => Attribute::Text(read.text()?),
                    1 => Attribute::Integer(i32::from_le_bytes(read.array()?)),
                    2 => Attribute::Boolean(read.array::<1>()? != [0]),
                    _ => return Err(short()),
                };
                extensions.push((name, value));
            }
        }
        let data = match data_form {
            0 => Data::None,
            1 => Data::Json(read.bytes),
            2 => Data::Text(ByteString::try_from(read.bytes).map_err(|_| short())?),
            3 => Data::Binary(read.bytes),
            _ => return Err(short()),
        };
        Ok(Self { id, source, kind, subject, time, content_type, schema, extensions, data })
    }
}

fn check_length(name: &str, value: &str) -> Result<()> {
    if value.len() > limits::ATTRIBUTE_BYTES_MAX {
        return Err(Fault::invalid(format!("attribute {name:?} is longer than {} bytes", limits::ATTRIBUTE_BYTES_MAX)));
    }
    if value.chars().any(char::is_control) {
        return Err(Fault::invalid(format!("attribute {name:?} holds a control character")));
    }
    Ok(())
}

fn short() -> Fault {
    Fault::corrupt("stored event is not readable")
}

/// Appends a number, seven bits a byte, least significant first.
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number as u8) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends bytes behind their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what the `put` functions wrote; every read is checked.
#[derive(Debug, Clone)]
pub struct Reader {
    /// What is left to read.
    pub bytes: Bytes,
}

impl Reader {
    /// Reads a number written by [`put_number`].
    pub fn number(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for (index, &byte) in self.bytes.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                return Err(short());
            }
            number |= bits << (7 * index);
            if byte & 0x80 == 0 {
                bytes::Buf::advance(&mut self.bytes, index + 1);
                return Ok(number);
            }
        }
        Err(short())
    }

    /// Takes the next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<Bytes> {
        if count > self.bytes.len() {
            return Err(short());
        }
        Ok(self.bytes.split_to(count))
    }

    /// Reads bytes written by [`put_bytes`].
    pub fn bytes(&mut self) -> Result<Bytes> {
        let count = self.number()?;
        self.take(usize::try_from(count).map_err(|_| short())?)
    }

    /// Reads text written by [`put_bytes`].
    pub fn text(&mut self) -> Result<ByteString> {
        ByteString::try_from(self.bytes()?).map_err(|_| short())
    }

    /// Reads a fixed number of bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (&head, _) = self.bytes.split_first_chunk::<N>().ok_or_else(short)?;
        bytes::Buf::advance(&mut self.bytes, N);
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Event {
        let mut event = Event::new("17", "/shop", "order.placed")
            .with_subject("customer-9")
            .with_extension("partitionkey", "customer-9")
            .with_data(Data::Json(Bytes::from_static(b"{\"n\":1}")));
        event.time = Some("2026-01-31T08:00:00Z".into());
        event.content_type = Some("application/json".into());
        event.schema = Some("https://example.com/schema".into());
        event.extensions.push(("count".into(), Attribute::Integer(-3)));
        event.extensions.push(("urgent".into(), Attribute::Boolean(true)));
        event
    }

    #[test]
    fn stored_form_returns_the_same_event() {
        let forms = [Data::None, Data::Text("ä".into()), Data::Binary(Bytes::from_static(&[0, 255])), full().data];
        for data in forms {
            let event = full().with_data(data);
            let mut out = Vec::new();
            event.encode(&mut out);
            assert_eq!(Event::decode(out.into()).unwrap(), event);
        }
    }

    #[test]
    fn a_cut_stored_form_is_refused_and_never_panics() {
        let mut out = Vec::new();
        full().encode(&mut out);
        let data = full().data.len();
        for cut in 0..out.len() - data {
            assert!(Event::decode(Bytes::copy_from_slice(&out[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn rules_of_the_specification_are_checked() {
        assert!(full().check().is_ok());
        let bad = |change: fn(&mut Event), word: &str| {
            let mut event = full();
            change(&mut event);
            let note = event.check().unwrap_err().note().to_owned();
            assert!(note.contains(word), "{note:?} does not name {word:?}");
        };
        bad(|event| event.id = "".into(), "id");
        bad(|event| event.source = "".into(), "source");
        bad(|event| event.time = Some("noon".into()), "time");
        bad(|event| event.extensions.push(("Upper".into(), Attribute::Boolean(true))), "Upper");
        bad(|event| event.extensions.push(("deliverat".into(), Attribute::Text("soon".into()))), "deliverat");
        bad(|event| event.data = Data::Binary(vec![0; limits::EVENT_BYTES_MAX].into()), "larger");
        bad(|event| event.kind = "a\nb".into(), "control");
        bad(|event| event.extensions.push(("data".into(), Attribute::Boolean(true))), "core attribute");
    }

    #[test]
    fn the_time_of_an_attempt_is_a_duration() {
        let with = |value: Attribute| {
            let mut event = full();
            event.extensions.push((TIMEOUT.into(), value));
            event
        };
        let text = |text: &str| with(Attribute::Text(text.to_owned().into()));
        assert_eq!(full().timeout(), None);
        assert_eq!(text("90s").timeout(), Some(Duration::from_secs(90)));
        assert!(text("90s").check().is_ok());
        for bad in [text("soon"), text("0s"), text("-1s"), text(""), with(Attribute::Integer(30))] {
            let note = bad.check().unwrap_err().note().to_owned();
            assert!(note.starts_with("attribute \"timeout\": "), "{note}");
            assert_eq!(bad.timeout(), None, "what stands in an older store is as good as nothing");
        }
    }

    #[test]
    fn fingerprints_tell_source_and_id_apart() {
        let key = FingerprintKey([7; 16]);
        assert_eq!(key.of("a", "b"), key.of("a", "b"));
        assert_ne!(key.of("a", "bc"), key.of("ab", "c"));
        assert_ne!(key.of("a", "b"), FingerprintKey([8; 16]).of("a", "b"));
    }

    #[test]
    fn numbers_read_back() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(Reader { bytes: out.into() }.number().unwrap(), number);
        }
        assert!(Reader { bytes: Bytes::from_static(&[0xff; 10]) }.number().is_err());
    }
}

//! Reads the JSON format of CloudEvents. Data stays as it was written, and shares the memory of the body.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    fmt,
};

use base64::Engine as _;
use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::value::RawValue;

use super::media::Media;
use crate::{
    event::{Attribute, Data, Event},
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
};

/// The version of the specification that is understood.
pub(super) const SPEC_VERSION: &str = "1.0";

/// Reads one event in the JSON format.
pub fn from_json(bytes: Bytes) -> Result<Event> {
    admit(&bytes)?;
    let here = Here { body: &bytes, index: Cell::new(None), member: RefCell::default() };
    let event = here.read(|json| OneEvent(&here).deserialize(json))?;
    event.check()?;
    Ok(event)
}

/// Reads a list of events in the JSON batch format.
pub fn from_json_batch(bytes: Bytes) -> Result<Vec<Event>> {
    admit(&bytes)?;
    let here = Here { body: &bytes, index: Cell::new(None), member: RefCell::default() };
    let events = here.read(|json| json.deserialize_seq(EventList(&here)))?;
    if events.len() > limits::BATCH_EVENTS_MAX {
        return Err(too_large(format!("batch of more than the limit of {} events", limits::BATCH_EVENTS_MAX)));
    }
    for (index, event) in events.iter().enumerate() {
        event.check().map_err(|fault| fault.within(format_args!("event {index} of the batch")))?;
    }
    Ok(events)
}

/// Refuses a body that is larger than the limit.
pub(super) fn admit(body: &Bytes) -> Result<()> {
    if body.len() > limits::BODY_BYTES_MAX {
        let size = body.len();
        return Err(too_large(format!(
            "body of {size} bytes is larger than the limit of {} bytes",
            limits::BODY_BYTES_MAX
        )));
    }
    Ok(())
}

fn too_large(note: String) -> Fault {
    Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note)
}

/// Checks that bytes are one JSON value that is not nested too deeply.
pub fn check(bytes: &[u8]) -> Result<()> {
    // Skipping a value takes no stack, so depth is no danger here; it is one to those who read the data later.
    let value: &RawValue =
        serde_json::from_slice(bytes).map_err(|error| Fault::invalid(format!("not JSON: {error}")))?;
    if !is_within(limits::JSON_DEPTH_MAX, value.get().as_bytes()) {
        return Err(Fault::invalid(format!("JSON is nested deeper than {} levels", limits::JSON_DEPTH_MAX)));
    }
    Ok(())
}

/// Tells whether valid JSON has at most so many levels.
fn is_within(levels: usize, json: &[u8]) -> bool {
    // Few data have more brackets than levels are allowed, and counting them takes a tenth of the time.
    let brackets = json.iter().filter(|&&byte| byte == b'{' || byte == b'[').count();
    brackets <= levels || depth(json) <= levels
}

/// Returns how deeply valid JSON is nested.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(inside) = bytes.next() {
                    match inside {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// Where reading stands, for errors, and the body whose memory is shared.
struct Here<'b> {
    body: &'b Bytes,
    index: Cell<Option<usize>>,
    member: RefCell<String>,
}

impl<'b> Here<'b> {
    fn read<T>(
        &self,
        read: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::SliceRead<'b>>) -> serde_json::Result<T>,
    ) -> Result<T> {
        let mut json = serde_json::Deserializer::from_slice(self.body);
        let result = read(&mut json).and_then(|value| {
            self.member.borrow_mut().clear();
            self.index.set(None);
            json.end().map(|()| value)
        });
        result.map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &serde_json::Error) -> Fault {
        let mut fault = Fault::invalid(error.to_string());
        let member = self.member.borrow();
        if !member.is_empty() {
            let prefix = self.index.get().map(|index| format!("/{index}")).unwrap_or_default();
            let pointer = format!("{prefix}/{}", member.replace('~', "~0").replace('/', "~1"));
            fault = fault.within(format_args!("member {pointer:?}"));
        }
        if let Some(index) = self.index.get() {
            fault = fault.within(format_args!("event {index} of the batch"));
        }
        fault
    }

    /// Shares the memory of a part of the body.
    fn share(&self, part: &str) -> ByteString {
        ByteString::try_from(self.body.slice_ref(part.as_bytes())).unwrap_or_else(|_| ByteString::from(part))
    }
}

struct EventList<'h, 'b>(&'h Here<'b>);

impl<'b> Visitor<'b> for EventList<'_, 'b> {
    type Value = Vec<Event>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of CloudEvents")
    }

    fn visit_seq<A: SeqAccess<'b>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        loop {
            self.0.index.set(Some(events.len()));
            let Some(event) = items.next_element_seed(OneEvent(self.0))? else { return Ok(events) };
            self.0.member.borrow_mut().clear();
            events.push(event);
            if events.len() > limits::BATCH_EVENTS_MAX {
                // The caller says so; what follows is not looked at.
                while items.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                return Ok(events);
            }
        }
    }
}

struct OneEvent<'h, 'b>(&'h Here<'b>);

impl<'b> DeserializeSeed<'b> for OneEvent<'_, 'b> {
    type Value = Event;

    fn deserialize<D: Deserializer<'b>>(self, from: D) -> Result<Event, D::Error> {
        from.deserialize_map(self)
    }
}

/// Members as they are found, in any order.
#[derive(Default)]
struct Members<'b> {
    version: Option<ByteString>,
    id: Option<ByteString>,
    source: Option<ByteString>,
    kind: Option<ByteString>,
    subject: Option<ByteString>,
    time: Option<ByteString>,
    content_type: Option<ByteString>,
    schema: Option<ByteString>,
    data: Option<&'b RawValue>,
    data_base64: Option<ByteString>,
    extensions: Vec<(ByteString, Attribute)>,
    /// Members that are there but `null`, which means that they are not there.
    unset: Vec<String>,
}

impl<'b> Visitor<'b> for OneEvent<'_, 'b> {
    type Value = Event;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a CloudEvent as a JSON object")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<Event, A::Error> {
        let here = self.0;
        let mut members = Members::default();
        while let Some(name) = map.next_key_seed(Name)? {
            here.member.borrow_mut().replace_range(.., &name);
            members.take(&name, &mut map, here)?;
        }
        members.event(here)
    }
}

impl<'b> Members<'b> {
    fn take<A: MapAccess<'b>>(&mut self, name: &str, map: &mut A, here: &Here<'b>) -> Result<(), A::Error> {
        let slot = match name {
            "specversion" => &mut self.version,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.kind,
            "subject" => &mut self.subject,
            "time" => &mut self.time,
            "datacontenttype" => &mut self.content_type,
            "dataschema" => &mut self.schema,
            "data_base64" => &mut self.data_base64,
            "data" => {
                return match self.data.replace(map.next_value()?) {
                    None => Ok(()),
                    Some(_) => Err(twice(name)),
                };
            }
            _ => return self.extension(name, map, here),
        };
        if slot.is_some() || self.unset.iter().any(|other| other == name) {
            return Err(twice(name));
        }
        *slot = map.next_value_seed(OptionalText(here))?;
        if slot.is_none() {
            self.unset.push(name.to_owned());
        }
        Ok(())
    }

    fn extension<A: MapAccess<'b>>(&mut self, name: &str, map: &mut A, here: &Here<'b>) -> Result<(), A::Error> {
        if self.extensions.iter().any(|(other, _)| **other == *name) || self.unset.iter().any(|other| other == name) {
            return Err(twice(name));
        }
        if self.extensions.len() + self.unset.len() > limits::EXTENSIONS_MAX {
            return Err(A::Error::custom(format_args!("more than {} extension attributes", limits::EXTENSIONS_MAX)));
        }
        match map.next_value_seed(Extension(here))? {
            Some(value) => self.extensions.push((name.into(), value)),
            None => self.unset.push(name.to_owned()),
        }
        Ok(())
    }

    fn event<E: Error>(self, here: &Here<'b>) -> Result<Event, E> {
        here.member.borrow_mut().clear();
        let required = |name: &'static str, value: Option<ByteString>| {
            value.ok_or_else(|| E::custom(format_args!("attribute {name:?} is required")))
        };
        let version = required("specversion", self.version)?;
        if &*version != SPEC_VERSION {
            return Err(E::custom(format_args!("specversion {version:?} is not understood, {SPEC_VERSION:?} is")));
        }
        let data = match (self.data, self.data_base64) {
            (None, None) => Data::None,
            (Some(_), Some(_)) => return Err(E::custom("both \"data\" and \"data_base64\" are given")),
            (None, Some(text)) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_bytes());
                Data::Binary(
                    bytes.map_err(|error| E::custom(format_args!("\"data_base64\" is not base64: {error}")))?.into(),
                )
            }
            (Some(raw), None) => data_of(raw, self.content_type.as_deref(), here)?,
        };
        Ok(Event {
            id: required("id", self.id)?,
            source: required("source", self.source)?,
            kind: required("type", self.kind)?,
            subject: self.subject,
            time: self.time,
            content_type: self.content_type,
            schema: self.schema,
            extensions: self.extensions,
            data,
        })
    }
}

/// Takes the member `data`: a string of a content type that is not JSON stands for the text in it.
fn data_of<'b, E: Error>(raw: &'b RawValue, content_type: Option<&str>, here: &Here<'b>) -> Result<Data, E> {
    let json = raw.get();
    let is_text = json.starts_with('"') && content_type.is_some_and(|content_type| !Media::is_json(content_type));
    if is_text {
        let text = Text(here).deserialize(&mut serde_json::Deserializer::from_str(json));
        return text.map(Data::Text).map_err(|error| E::custom(format_args!("\"data\": {error}")));
    }
    // The event itself is one level.
    if !is_within(limits::JSON_DEPTH_MAX - 1, json.as_bytes()) {
        return Err(E::custom(format_args!("\"data\" is nested deeper than {} levels", limits::JSON_DEPTH_MAX)));
    }
    Ok(Data::Json(here.share(json).into_bytes()))
}

fn twice<E: Error>(name: &str) -> E {
    E::custom(format_args!("{name:?} is given twice"))
}

/// The name of a member; only one written with escapes takes memory of its own.
struct Name;

impl<'b> DeserializeSeed<'b> for Name {
    type Value = Cow<'b, str>;

    fn deserialize<D: Deserializer<'b>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'b> Visitor<'b> for Name {
    type Value = Cow<'b, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'b str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Text that shares the memory of the body when it is written without escapes.
struct Text<'h, 'b>(&'h Here<'b>);

impl<'b> DeserializeSeed<'b> for Text<'_, 'b> {
    type Value = ByteString;

    fn deserialize<D: Deserializer<'b>>(self, from: D) -> Result<ByteString, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'b> Visitor<'b> for Text<'_, 'b> {
    type Value = ByteString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'b str) -> Result<ByteString, E> {
        Ok(self.0.share(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ByteString, E> {
        Ok(text.into())
    }
}

/// Text, or `null` for nothing.
struct OptionalText<'h, 'b>(&'h Here<'b>);

impl<'b> DeserializeSeed<'b> for OptionalText<'_, 'b> {
    type Value = Option<ByteString>;

    fn deserialize<D: Deserializer<'b>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_option(self)
    }
}

impl<'b> Visitor<'b> for OptionalText<'_, 'b> {
    type Value = Option<ByteString>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'b>>(self, from: D) -> Result<Self::Value, D::Error> {
        Text(self.0).deserialize(from).map(Some)
    }
}

/// The value of an extension attribute, or `null` for nothing.
struct Extension<'h, 'b>(&'h Here<'b>);

impl<'b> DeserializeSeed<'b> for Extension<'_, 'b> {
    type Value = Option<Attribute>;

    fn deserialize<D: Deserializer<'b>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'b> Visitor<'b> for Extension<'_, 'b> {
    type Value = Option<Attribute>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a boolean or a whole number of 32 bits, as extension attributes are")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'b str) -> Result<Self::Value, E> {
        Ok(Some(Attribute::Text(self.0.share(text))))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Attribute::Text(text.into())))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(Some(Attribute::Boolean(truth)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        let number = i32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?;
        Ok(Some(Attribute::Integer(number)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        let number = i32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))?;
        Ok(Some(Attribute::Integer(number)))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

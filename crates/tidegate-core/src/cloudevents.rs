//! The forms in which the outside sees an event: JSON, a JSON batch, and HTTP in its four forms.
//!
//! | form | content type | where the attributes are |
//! |---|---|---|
//! | structured | `application/cloudevents+json` | in the JSON object, the data too |
//! | batch | `application/cloudevents-batch+json` | a list of such objects; all are taken or none |
//! | binary | that of the data | in headers that begin with `ce-`; the body is the data |
//! | plain | that of the data, no `ce-` header | none: they come from [`PlainDefaults`], `Idempotency-Key` and the clock |
//!
//! **Invariant:** JSON data is never written anew: it leaves as the bytes that came in.

mod headers;
mod json;
mod media;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod write;

use bytes::Bytes;
use bytestring::ByteString;

use self::{headers::PREFIX, media::Media};
pub use self::{
    headers::to_http_headers,
    json::{check as check_json, from_json, from_json_batch},
    media::{STRUCTURED, data_of},
    write::write_json,
};
use crate::{
    clock::{Clock, Timestamp},
    event::{Event, TRACE_PARENT},
    fault::{Fault, Result},
    limits,
};

/// Attributes given to a plain body, which has none of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlainDefaults {
    /// CloudEvents `source`; none = `/`.
    pub source: Option<ByteString>,
    /// CloudEvents `type`; none = `plain`.
    pub kind: Option<ByteString>,
    /// CloudEvents `subject`.
    pub subject: Option<ByteString>,
}

const PLAIN_SOURCE: &str = "/";
const PLAIN_KIND: &str = "plain";

/// What the headers of a request say of its events.
#[derive(Default)]
struct Head<'h> {
    content_type: Option<&'h str>,
    idempotency_key: Option<&'h str>,
    trace_parent: Option<&'h str>,
    /// Headers of attributes, in lower case and without their prefix.
    attributes: Vec<(String, &'h str)>,
}

/// Reads the events of an HTTP request in any of the four forms.
///
/// Content types that cannot be read are refused with a note that begins with `unsupported content type`; what is too
/// large is refused as limited, with the limit, and never worth another try.
pub fn from_http<'h>(
    headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    body: Bytes,
    defaults: &PlainDefaults,
    clock: &Clock,
) -> Result<Vec<Event>> {
    json::admit(&body)?;
    let head = Head::read(headers)?;
    match head.content_type.map(Media::of).transpose()? {
        Some(Media::Batch) => from_json_batch(body),
        Some(Media::Structured) => Ok(vec![from_json(body)?]),
        Some(Media::Json | Media::Text | Media::Binary) | None if head.attributes.is_empty() => {
            Ok(vec![plain(&head, body, defaults, clock)?])
        }
        Some(Media::Json | Media::Text | Media::Binary) | None => {
            Ok(vec![headers::from_headers(&head.attributes, head.content_type, body)?])
        }
    }
}

/// Tells whether data of this content type is JSON.
pub fn is_json(content_type: &str) -> bool {
    Media::is_json(content_type)
}

/// Tells whether a body of this content type is a batch of events.
pub fn is_batch(content_type: &str) -> bool {
    matches!(Media::of(content_type), Ok(Media::Batch))
}

/// Tells whether a body of this content type can be read at all; [`from_http`] refuses the others.
pub fn is_readable(content_type: &str) -> bool {
    Media::of(content_type).is_ok()
}

impl<'h> Head<'h> {
    fn read(headers: impl IntoIterator<Item = (&'h str, &'h str)>) -> Result<Self> {
        let mut head = Self::default();
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            let slot = match name.as_str() {
                "content-type" => &mut head.content_type,
                "idempotency-key" => &mut head.idempotency_key,
                TRACE_PARENT => {
                    head.trace_parent = Some(value);
                    continue;
                }
                _ => {
                    if let Some(attribute) = name.strip_prefix(PREFIX) {
                        head.attributes.push((attribute.to_owned(), value));
                        if head.attributes.len() > limits::HEADERS_MAX {
                            return Err(Fault::invalid(format!("more than {} headers", limits::HEADERS_MAX)));
                        }
                    }
                    continue;
                }
            };
            if slot.replace(value.trim()).is_some() {
                return Err(Fault::invalid(format!("header {name:?} is given twice")));
            }
        }
        head.content_type = head.content_type.filter(|content_type| !content_type.is_empty());
        Ok(head)
    }
}

/// Makes an event of a plain body.
fn plain(head: &Head<'_>, body: Bytes, defaults: &PlainDefaults, clock: &Clock) -> Result<Event> {
    let now = clock.now();
    let id = match head.idempotency_key {
        // The header's standard writes it in quotes, most senders do not.
        Some(key) => key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key).into(),
        None => fresh_id(now),
    };
    if id.is_empty() {
        return Err(Fault::invalid("header \"idempotency-key\" is empty"));
    }
    let or = |given: &Option<ByteString>, usual: &'static str| given.clone().unwrap_or(ByteString::from_static(usual));
    let mut event = Event::new(id, or(&defaults.source, PLAIN_SOURCE), or(&defaults.kind, PLAIN_KIND));
    event.subject.clone_from(&defaults.subject);
    event.time = Some(now.to_string().into());
    event.content_type = head.content_type.map(ByteString::from);
    // Trace context is a courtesy: one that cannot be an attribute is left out and refuses nothing.
    if let Some(trace) =
        head.trace_parent.filter(|trace| trace.len() == 55 && trace.bytes().all(|b| b.is_ascii_graphic()))
    {
        event = event.with_extension(TRACE_PARENT, trace);
    }
    event.data = data_of(event.content_type.as_deref(), body)?;
    event.check()?;
    Ok(event)
}

/// Returns an id that nobody else has and that sorts by time: a UUID of version 7.
pub fn fresh_id(now: Timestamp) -> ByteString {
    let millis = u64::try_from(now.as_millis()).unwrap_or(0);
    let nanos = u32::try_from(millis % 1000).unwrap_or(0) * 1_000_000;
    let at = uuid::Timestamp::from_unix_time(millis / 1000, nanos, 0, 0);
    uuid::Uuid::new_v7(at).to_string().into()
}

//! Results: what the handler of a group answered to an event, kept for a while as an event of its own.
//!
//! A result goes into the stream `<group>.results` in the commit that settles the event. Its `id` is that of the event,
//! its `source` names the group and the event's own source. So the dedupe window of that stream, which is as long as
//! results are kept, is the index by which they are found, and what keeps a second answer from being stored.
//!
//! **Invariant:** of one event, the first answer of a group stays for as long as it is kept.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    cloudevents::{data_of, is_json},
    dedupe::DedupeKey,
    event::{Attribute, CORRELATION_ID, Data, Event, FingerprintKey, TRACE_PARENT},
    fault::{Fault, Result},
    limits,
    names::{GroupName, StreamName},
    store::{DedupeWindow, Retain, StreamSpec},
};

/// Ending of the stream that keeps the results of a group.
pub const RESULTS_SUFFIX: &str = ".results";
/// CloudEvents `type` of a result.
pub const RESULT_KIND: &str = "tidegate.result";
const JSON: &str = "application/json";
/// Extension attribute of a result whose answer was too large to be kept.
const TOO_LARGE: &str = "toolarge";

/// What a handler gives back when an event is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    content_type: Option<ByteString>,
    data: Data,
    too_large: bool,
}

impl Answer {
    /// Nothing: it is done, and there is no more to say.
    pub const NOTHING: Self = Self { content_type: None, data: Data::None, too_large: false };

    /// Makes an answer of a body. One of more than [`limits::RESULT_BYTES_MAX`] is not kept, and that is what is kept
    /// of it.
    pub fn new(content_type: Option<&str>, body: Bytes) -> Self {
        if body.len() > limits::RESULT_BYTES_MAX {
            return Self::too_large();
        }
        let fits = |text: &&str| !text.is_empty() && text.len() <= limits::ATTRIBUTE_BYTES_MAX;
        let content_type = content_type.map(str::trim).filter(fits);
        // Whoever says JSON and writes something else is still heard: it is kept as the bytes that came.
        let data = data_of(content_type, body.clone()).unwrap_or(Data::Binary(body));
        Self { content_type: content_type.map(ByteString::from), data, too_large: false }
    }

    /// Makes an answer of anything that can be written as JSON.
    pub fn json(value: &impl Serialize) -> Result<Self> {
        let body =
            serde_json::to_vec(value).map_err(|error| Fault::invalid("an answer cannot be JSON").because(error))?;
        Ok(Self::new(Some(JSON), body.into()))
    }

    /// Makes an answer of a JSON value, which is how workers send it. When its type is none of JSON, the value is a
    /// string and the answer is what that string holds.
    pub fn of_json(value: &RawValue, content_type: Option<&str>) -> Result<Self> {
        let kind = content_type.unwrap_or(JSON);
        if is_json(kind) {
            return Ok(Self::new(Some(kind), Bytes::copy_from_slice(value.get().as_bytes())));
        }
        match serde_json::from_str::<String>(value.get()) {
            Ok(text) => Ok(Self::new(Some(kind), text.into())),
            Err(_) => Err(Fault::invalid(format!("a result of type {kind:?} is given as a string"))),
        }
    }

    /// Makes an answer of text.
    pub fn text(text: impl Into<ByteString>) -> Self {
        Self::new(Some("text/plain; charset=utf-8"), text.into().into_bytes())
    }

    /// Says that there was an answer, of more than is kept.
    pub fn too_large() -> Self {
        Self { too_large: true, ..Self::NOTHING }
    }
}

/// How long a group keeps what its handler answers. The first bound that is reached ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultsPolicy {
    /// Longest time.
    pub keep: Duration,
    /// Most results.
    pub count: u64,
    /// Most bytes of results.
    pub bytes: u64,
}

impl ResultsPolicy {
    /// Keeps results for so long; at most a million of them, and at most 1 GiB.
    pub const fn new(keep: Duration) -> Self {
        Self { keep, count: 1_000_000, bytes: 1 << 30 }
    }

    /// Returns the stream that keeps them.
    pub fn spec(&self, group: &GroupName) -> Result<StreamSpec> {
        let retain =
            Retain { age: Some(self.keep), count: Some(self.count), bytes: Some(self.bytes), drop_unsettled: false };
        let dedupe = DedupeWindow { key: DedupeKey::IDENTITY, window: self.keep, entries: self.count };
        Ok(StreamSpec { retain, max_backlog: None, dedupe: Some(dedupe), ..StreamSpec::new(results_stream(group)?) })
    }
}

/// Returns the stream that keeps the results of a group.
pub fn results_stream(group: &GroupName) -> Result<StreamName> {
    StreamName::new(&format!("{group}{RESULTS_SUFFIX}"))
}

/// Returns the `source` of the result of an event with this source.
pub fn result_source(group: &GroupName, source: &str) -> ByteString {
    let own = format!("/groups/{group}/{source}");
    if own.len() <= limits::ATTRIBUTE_BYTES_MAX {
        return own.into();
    }
    // No other source has this form. The key is no secret, but nobody guesses his way to 128 bits.
    let short = FingerprintKey([0; 16]).of(source, "");
    format!("/groups/{group}?{short:032x}").into()
}

/// Returns the `source` of the event that this is the result of; none when the group cannot tell.
pub fn request_source<'a>(group: &GroupName, result: &'a Event) -> Option<&'a str> {
    result.source.strip_prefix("/groups/")?.strip_prefix(group.as_str())?.strip_prefix('/')
}

/// Makes the result of an event.
pub fn result_event(group: &GroupName, of: &Event, answer: Answer, at: Timestamp) -> Event {
    let mut event = Event::new(of.id.clone(), result_source(group, &of.source), RESULT_KIND);
    event.subject.clone_from(&of.subject);
    event.time = Some(at.to_string().into());
    event.content_type = answer.content_type;
    event.data = answer.data;
    for name in [CORRELATION_ID, TRACE_PARENT] {
        if let Some(value) = of.extension(name) {
            event.extensions.push((name.into(), Attribute::Text(value.clone())));
        }
    }
    if answer.too_large {
        event.extensions.push((TOO_LARGE.into(), Attribute::Boolean(true)));
    }
    event
}

/// Tells whether the answer was too large to be kept.
pub fn is_too_large(result: &Event) -> bool {
    result.extensions.iter().any(|(name, value)| &**name == TOO_LARGE && *value == Attribute::Boolean(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> GroupName {
        GroupName::new("answer").unwrap()
    }

    fn made(of: &Event, answer: Answer) -> Event {
        let event = result_event(&group(), of, answer, Timestamp::ZERO);
        event.check().unwrap();
        event
    }

    #[test]
    fn a_result_names_its_event() {
        let of = Event::new("1", "/shop", "question").with_subject("c-17").with_extension(CORRELATION_ID, "story");
        let event = made(&of, Answer::json(&[1, 2]).unwrap());
        assert_eq!((&*event.id, &*event.source, &*event.kind), ("1", "/groups/answer//shop", RESULT_KIND));
        assert_eq!(request_source(&group(), &event), Some("/shop"));
        assert_eq!(request_source(&GroupName::new("answ").unwrap(), &event), None);
        assert_eq!(event.subject.as_deref(), Some("c-17"));
        assert_eq!(event.extension(CORRELATION_ID).map(|text| &**text), Some("story"));
        assert_eq!(event.data, Data::Json(Bytes::from_static(b"[1,2]")));
        assert!(!is_too_large(&event));
    }

    #[test]
    fn what_an_answer_says_of_itself_is_checked() {
        let check = |kind: Option<&str>, body: &'static [u8], expect: Data| {
            assert_eq!(Answer::new(kind, Bytes::from_static(body)).data, expect, "{kind:?}");
        };
        check(None, b"", Data::None);
        check(None, b"{}", Data::Binary(Bytes::from_static(b"{}")));
        check(Some("application/json"), b"{}", Data::Json(Bytes::from_static(b"{}")));
        check(Some("application/json"), b"{", Data::Binary(Bytes::from_static(b"{")));
        check(Some("application/cloudevents"), b"x", Data::Binary(Bytes::from_static(b"x")));
        check(Some("text/html"), b"<p>", Data::Text("<p>".into()));
        check(Some("text/html"), b"\xff", Data::Binary(Bytes::from_static(b"\xff")));
        assert_eq!(Answer::new(Some(" "), Bytes::new()), Answer::NOTHING);
    }

    #[test]
    fn workers_send_json_or_text() {
        let of = |value: &str, kind| {
            let value = RawValue::from_string(value.to_owned()).unwrap();
            Answer::of_json(&value, kind).map(|answer| (answer.content_type, answer.data)).map_err(drop)
        };
        let json = |text: &'static str| Data::Json(Bytes::from_static(text.as_bytes()));
        assert_eq!(of("{\"a\": 1}", None), Ok((Some(JSON.into()), json("{\"a\": 1}"))));
        assert_eq!(of("\"a\"", Some("text/json")), Ok((Some("text/json".into()), json("\"a\""))));
        assert_eq!(of("\"a\\n\"", Some("text/plain")), Ok((Some("text/plain".into()), Data::Text("a\n".into()))));
        assert_eq!(of("1", Some("text/plain")), Err(()));
    }

    #[test]
    fn the_largest_answer_to_the_largest_event_is_an_event() {
        let long = "x".repeat(limits::ATTRIBUTE_BYTES_MAX);
        let mut of = Event::new(long.clone(), long.clone(), long.clone()).with_subject(long.clone());
        for name in [CORRELATION_ID, TRACE_PARENT] {
            of = of.with_extension(name, long.clone());
        }
        let event = made(&of, Answer::new(Some(&long), Bytes::from(vec![0; limits::RESULT_BYTES_MAX])));
        assert_eq!(event.data.len(), limits::RESULT_BYTES_MAX);
        let over = made(&of, Answer::new(None, Bytes::from(vec![0; limits::RESULT_BYTES_MAX + 1])));
        assert!(is_too_large(&over) && over.data.is_empty());
    }

    #[test]
    fn sources_are_told_apart() {
        let source = |source: &str| result_source(&group(), source);
        assert_ne!(source("/a"), source("a"));
        let long = |end: &str| format!("{}{end}", "x".repeat(limits::ATTRIBUTE_BYTES_MAX - 1));
        assert_ne!(source(&long("a")), source(&long("b")));
        assert!(source(&long("a")).len() <= limits::ATTRIBUTE_BYTES_MAX);
    }

    #[test]
    fn the_window_is_as_long_as_results_are_kept() {
        let spec = ResultsPolicy::new(Duration::from_secs(60)).spec(&group()).unwrap();
        let dedupe = spec.dedupe.unwrap();
        assert_eq!(spec.name.as_str(), "answer.results");
        assert_eq!((Some(dedupe.window), Some(dedupe.entries)), (spec.retain.age, spec.retain.count));
        let long = GroupName::new(&"g".repeat(limits::NAME_BYTES_MAX)).unwrap();
        assert!(results_stream(&long).is_err());
    }
}

//! Lines of JSON on their way to events: what the sources `file` and `stdin` share.
//!
//! **Invariant:** a line that is no event is counted, told with its place, and never holds back those behind it.

mod split;

use bytes::Bytes;
use bytestring::ByteString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Clock,
    cloudevents::{self, PlainDefaults},
    config::{self, Spot},
    event::{Data, Event},
    fault::{Fault, FaultKind, Result},
    limits,
    names::StreamName,
    source::Feed,
};

pub(super) use self::split::{Line, Splitter};

/// Most lines in one publish.
pub(super) const BATCH_LINES: usize = 1_000;
/// Most bytes of lines in one publish.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of a rejected line that are kept in its event.
const REJECTED_BYTES: usize = 64 * 1024;
/// Type of the events of rejected lines.
const REJECTED_KIND: &str = "tidegate.line.rejected";
/// Letters of a reason that fit an attribute.
const WHY_CHARS: usize = 500;

/// What a line holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineFormat {
    /// Any JSON value, which becomes the data of an event.
    #[default]
    Json,
    /// A CloudEvent in its JSON format, with an id of its own.
    Cloudevents,
}

/// Attributes given to events of plain lines.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LineDefaults {
    /// CloudEvents `source`; default: `/` and the name of the source.
    pub source: Option<String>,
    /// CloudEvents `type`; default: `line`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// CloudEvents `subject`.
    pub subject: Option<String>,
}

impl LineDefaults {
    pub(super) fn check(&self, here: &Spot<'_>) {
        for (name, value) in [("source", &self.source), ("type", &self.kind), ("subject", &self.subject)] {
            let fits = value.as_ref().is_none_or(|text| !text.is_empty() && text.len() <= limits::ATTRIBUTE_BYTES_MAX);
            here.at(name).require(fits, || format!("must be 1 to {} bytes", limits::ATTRIBUTE_BYTES_MAX));
        }
    }
}

/// Returns the longest line by default: the largest event.
pub(super) fn line_max() -> config::Bytes {
    config::Bytes::new(limits::EVENT_BYTES_MAX as u64)
}

pub(super) fn check_line_max(line_max: config::Bytes, here: &Spot<'_>) {
    let most = limits::EVENT_BYTES_MAX as u64;
    here.require((1..=most).contains(&line_max.get()), || format!("must be 1B to {}", config::Bytes::new(most)));
}

/// How lines become events, and where they go.
#[derive(Debug, Clone)]
pub(super) struct LineRules {
    pub(super) to: StreamName,
    pub(super) format: LineFormat,
    pub(super) defaults: PlainDefaults,
    /// Where lines go that are no events; none: they are only counted and told.
    pub(super) rejects: Option<StreamName>,
    pub(super) clock: Clock,
}

impl LineRules {
    pub(super) fn new(
        name: &str,
        to: &StreamName,
        format: LineFormat,
        given: &LineDefaults,
        rejects: Option<&StreamName>,
        clock: Clock,
    ) -> Self {
        let source = given.source.clone().unwrap_or_else(|| format!("/{name}"));
        let kind = given.kind.clone().unwrap_or_else(|| "line".to_owned());
        let subject = given.subject.clone().map(Into::into);
        let defaults = PlainDefaults { source: Some(source.into()), kind: Some(kind.into()), subject };
        Self { to: to.clone(), format, defaults, rejects: rejects.cloned(), clock }
    }

    /// Brings a batch of lines; false when the source is told to stop before all of it is durable. `file` names the input
    /// in places and `mark` in ids.
    pub(super) async fn bring(&self, feed: &Feed, file: &str, mark: &str, lines: &[Line]) -> Result<bool> {
        let mut events = Vec::with_capacity(lines.len());
        let mut rejected = Vec::new();
        for line in lines {
            match self.event(mark, line) {
                Ok(event) => events.push((line, event)),
                Err(why) => rejected.push((line, why)),
            }
        }
        if !events.is_empty() && !self.deliver(feed, events, &mut rejected).await? {
            return Ok(false);
        }
        if rejected.is_empty() {
            return Ok(true);
        }
        if let Some(stream) = &self.rejects {
            let events = rejected.iter().map(|(line, why)| self.rejected(file, mark, line, why)).collect();
            if feed.deliver(stream, events).await?.is_none() {
                return Ok(false);
            }
        }
        // Told after they are safe: a line that is repeated after a stop is told once.
        for (line, why) in rejected {
            feed.reject(format!("{file}:{}", line.number), why);
        }
        Ok(true)
    }

    async fn deliver<'l>(
        &self,
        feed: &Feed,
        events: Vec<(&'l Line, Event)>,
        rejected: &mut Vec<(&'l Line, String)>,
    ) -> Result<bool> {
        let all = events.iter().map(|(_, event)| event.clone()).collect();
        match feed.deliver(&self.to, all).await {
            Ok(delivered) => return Ok(delivered.is_some()),
            Err(fault) if fault.kind != FaultKind::Invalid => return Err(fault),
            Err(_) => {}
        }
        // The stream refuses one of them, such as by its schema: the others do not pay for it.
        for (line, event) in events {
            match feed.deliver(&self.to, vec![event]).await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(false),
                Err(fault) if fault.kind == FaultKind::Invalid => rejected.push((line, fault.note().to_owned())),
                Err(fault) => return Err(fault),
            }
        }
        Ok(true)
    }

    fn event(&self, mark: &str, line: &Line) -> Result<Event, String> {
        if line.is_cut {
            return Err("longer than line_max".to_owned());
        }
        let why = |fault: Fault| fault.note().to_owned();
        match self.format {
            LineFormat::Cloudevents => cloudevents::from_json(line.text.clone()).map_err(why),
            LineFormat::Json => {
                let id = id(mark, line);
                let headers = [("content-type", "application/json"), ("idempotency-key", id.as_str())];
                let mut events =
                    cloudevents::from_http(headers, line.text.clone(), &self.defaults, &self.clock).map_err(why)?;
                events.pop().ok_or_else(|| "no event".to_owned())
            }
        }
    }

    /// Makes the event that keeps a line which is none.
    fn rejected(&self, file: &str, mark: &str, line: &Line, why: &str) -> Event {
        let source = self.defaults.source.clone().unwrap_or(ByteString::from_static("/"));
        let plain = |text: &str| -> String {
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WHY_CHARS).collect()
        };
        let head = line.text.slice(..line.text.len().min(REJECTED_BYTES));
        let (kind, data) = match ByteString::try_from(head.clone()) {
            Ok(text) => ("text/plain", Data::Text(text)),
            Err(_) => ("application/octet-stream", Data::Binary(head)),
        };
        let mut event = Event::new(id(mark, line), source, REJECTED_KIND)
            .with_extension("place", plain(&format!("{file}:{}", line.number)))
            .with_extension("reason", plain(why));
        event.time = Some(self.clock.now().to_string().into());
        event.content_type = Some(ByteString::from_static(kind));
        event.data = data;
        event
    }
}

fn id(mark: &str, line: &Line) -> String {
    format!("{mark}:{}", line.at)
}

/// Lines that are brought together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<Line>,
    bytes: usize,
}

impl Batch {
    /// Adds a line; empty ones bring nothing.
    pub(super) fn add(&mut self, line: Line) {
        self.bytes += line.text.len() + 128;
        self.lines.push(line);
    }

    pub(super) fn is_full(&self) -> bool {
        self.lines.len() >= BATCH_LINES || self.bytes >= BATCH_BYTES
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.bytes = 0;
    }
}

/// Tells whether a line holds nothing but white space.
fn is_blank(text: &Bytes) -> bool {
    text.iter().all(u8::is_ascii_whitespace)
}

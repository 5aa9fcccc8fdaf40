//! What an expression sees: the attributes and the data of one event, and what the caller adds.

use std::cell::OnceCell;

use serde_json::Value as Json;
use tidegate_core::event::{Data, Event};

use crate::expr::reads::Reads;

/// Names under which an expression finds the parts of an event.
///
/// An attribute that the event does not have is the empty text. `ext` is a map of the extension attributes, `data` the
/// parsed JSON, the text or the bytes of the data, and `event` a map of everything.
pub const EVENT_NAMES: [&str; 9] =
    ["id", "source", "type", "subject", "time", "datacontenttype", "data", "ext", "event"];

/// What an expression sees. The data of the event is parsed once, and only when an expression looks at it.
#[derive(Debug, Default)]
pub struct Scope<'a> {
    pub(crate) event: Option<&'a Event>,
    pub(crate) added: Vec<(&'static str, Json)>,
    data: OnceCell<Result<Json, String>>,
    /// What of the data is built; none = all of it.
    reads: Option<&'a Reads>,
}

impl<'a> Scope<'a> {
    /// A scope with the names of [`EVENT_NAMES`].
    pub fn event(event: &'a Event) -> Self {
        Self { event: Some(event), ..Self::default() }
    }

    /// The same for a single expression, which looks at no more of the data than that.
    pub(crate) fn reading(event: &'a Event, reads: &'a Reads) -> Self {
        Self { reads: Some(reads), ..Self::event(event) }
    }

    /// Adds a name; it hides a part of the event that is called the same.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Json) -> Self {
        self.added.push((name, value));
        self
    }

    /// Returns the JSON of the event's data; none when the data is no JSON.
    pub(crate) fn json(&self) -> Option<Result<&Json, &str>> {
        let Data::Json(bytes) = &self.event?.data else { return None };
        let parsed = self.data.get_or_init(|| {
            self.reads
                .unwrap_or(&Reads::All)
                .read(bytes)
                .map_err(|error| format!("the data of the event is not readable: {error}"))
        });
        Some(parsed.as_ref().map_err(String::as_str))
    }
}

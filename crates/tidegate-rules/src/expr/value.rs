//! Values of a running expression: they borrow from the event and from the expression wherever they can.

use std::{cmp::Ordering, ops::Deref, rc::Rc};

use serde_json::Value as Json;
use tidegate_core::clock::Timestamp;

/// A value. Cloning one copies no contents.
#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Text<'a>),
    Bytes(&'a [u8]),
    /// A list of the data.
    Array(&'a [Json]),
    /// A map of the data.
    Object(&'a serde_json::Map<String, Json>),
    /// A list that the expression made.
    List(Rc<Vec<Self>>),
    /// A map that the expression made.
    Map(Rc<Vec<(Self, Self)>>),
    Time(Timestamp),
    /// A duration in milliseconds.
    Span(i64),
    Type(&'static str),
}

/// Text that is borrowed or shared.
#[derive(Debug, Clone)]
pub(super) enum Text<'a> {
    Borrowed(&'a str),
    Shared(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl<'a> Value<'a> {
    pub(super) fn borrowed(text: &'a str) -> Self {
        Self::Text(Text::Borrowed(text))
    }

    pub(super) fn shared(text: impl Into<Rc<str>>) -> Self {
        Self::Text(Text::Shared(text.into()))
    }

    /// Returns a value of the data. Whole numbers are `int` as long as they fit.
    pub(super) fn of_json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(truth) => Self::Bool(*truth),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Self::Int(number),
                (None, Some(number)) => Self::Uint(number),
                (None, None) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::borrowed(text),
            Json::Array(items) => Self::Array(items),
            Json::Object(map) => Self::Object(map),
        }
    }

    /// Returns the name of its type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Array(_) | Self::List(_) => "list",
            Self::Object(_) | Self::Map(_) => "map",
            Self::Time(_) => "timestamp",
            Self::Span(_) => "duration",
            Self::Type(_) => "type",
        }
    }

    /// Returns the number of elements of a list.
    pub(super) fn list_len(&self) -> Option<usize> {
        match self {
            Self::Array(items) => Some(items.len()),
            Self::List(items) => Some(items.len()),
            _ => None,
        }
    }

    /// Returns an element of a list, or the key of a map at that place: what a macro goes through.
    pub(super) fn nth(&self, index: usize) -> Option<Self> {
        match self {
            Self::Array(items) => items.get(index).map(Self::of_json),
            Self::List(items) => items.get(index).cloned(),
            Self::Map(entries) => entries.get(index).map(|(key, _)| key.clone()),
            _ => None,
        }
    }

    /// Returns a number as a double.
    pub(super) fn as_double(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(*number as f64),
            Self::Uint(number) => Some(*number as f64),
            Self::Double(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns a whole number, wide enough for both kinds.
    pub(super) fn as_whole(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(i128::from(*number)),
            Self::Uint(number) => Some(i128::from(*number)),
            _ => None,
        }
    }

    /// Orders two values of kinds that have an order between them; a number that is none has none.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        if let (Some(one), Some(two)) = (self.as_whole(), other.as_whole()) {
            return Some(one.cmp(&two));
        }
        if let (Some(one), Some(two)) = (self.as_double(), other.as_double()) {
            return one.partial_cmp(&two);
        }
        match (self, other) {
            (Self::Text(one), Self::Text(two)) => Some((**one).cmp(&**two)),
            (Self::Bytes(one), Self::Bytes(two)) => Some(one.cmp(two)),
            (Self::Bool(one), Self::Bool(two)) => Some(one.cmp(two)),
            (Self::Time(one), Self::Time(two)) => Some(one.cmp(two)),
            (Self::Span(one), Self::Span(two)) => Some(one.cmp(two)),
            _ => None,
        }
    }
}

//! Order keys: where in an event the key stands that puts it in order with others.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    event::{Data, Event},
    fault::{Fault, Result},
};

/// Where the order key stands: a CloudEvents attribute, or a path in JSON data that starts with `data.`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OrderBy {
    /// A context attribute by its CloudEvents name.
    Attribute(String),
    /// Names of members from the top of the JSON data.
    Data(Vec<String>),
}

impl OrderBy {
    /// Returns a hash of the event's key; none when the event has no key and so no order.
    ///
    /// Two keys with one hash are put in order with each other, which costs some parallelism and nothing else.
    pub fn key(&self, event: &Event) -> Option<u64> {
        self.with_value(event, hash)
    }

    /// Returns what stands at the place as text: a string of JSON without its quotes, anything else as it is written.
    pub fn text(&self, event: &Event) -> Option<String> {
        let written = self.with_value(event, |value| String::from_utf8_lossy(value).into_owned())?;
        match self {
            Self::Data(_) => Some(serde_json::from_str::<String>(&written).unwrap_or(written)),
            Self::Attribute(_) => Some(written),
        }
    }

    /// Hands what stands at the place to `take`, JSON as it is written; none when nothing stands there.
    pub(crate) fn with_value<R>(&self, event: &Event, take: impl FnOnce(&[u8]) -> R) -> Option<R> {
        match self {
            Self::Attribute(name) => event.attribute(name).map(|key| take(key.as_bytes())),
            Self::Data(path) => {
                let Data::Json(bytes) = &event.data else { return None };
                let mut value: &serde_json::value::RawValue = serde_json::from_slice(bytes).ok()?;
                for name in path {
                    let members: std::collections::BTreeMap<String, &serde_json::value::RawValue> =
                        serde_json::from_str(value.get()).ok()?;
                    value = members.get(name.as_str()).copied()?;
                }
                (value.get() != "null").then(|| take(value.get().as_bytes()))
            }
        }
    }
}

fn hash(key: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(key);
    hasher.finish()
}

impl FromStr for OrderBy {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self> {
        let word = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
        if let Some(path) = text.strip_prefix("data.") {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            if path.iter().all(|part| word(part)) {
                return Ok(Self::Data(path));
            }
        } else if !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) {
            return Ok(Self::Attribute(text.to_owned()));
        }
        Err(Fault::invalid(format!(
            "order_by {text:?} is neither a CloudEvents attribute such as \"subject\" nor a path such as \"data.customer.id\""
        )))
    }
}

impl TryFrom<String> for OrderBy {
    type Error = Fault;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<OrderBy> for String {
    fn from(order: OrderBy) -> Self {
        order.to_string()
    }
}

impl fmt::Display for OrderBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(name) => f.write_str(name),
            Self::Data(path) => write!(f, "data.{}", path.join(".")),
        }
    }
}

impl schemars::JsonSchema for OrderBy {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OrderBy".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "title": "order key", "examples": ["subject", "partitionkey", "data.customer.id"] })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn keys_come_from_attributes_and_data() {
        let event = Event::new("1", "/a", "t")
            .with_subject("s")
            .with_extension("partitionkey", "p")
            .with_data(Data::Json(Bytes::from_static(b"{\"a\":{\"b\":7},\"n\":null}")));
        let key = |by: &str| by.parse::<OrderBy>().unwrap().key(&event);
        assert_eq!(key("subject"), Some(hash(b"s")));
        assert_eq!(key("partitionkey"), Some(hash(b"p")));
        assert_eq!(key("data.a.b"), Some(hash(b"7")));
        assert_eq!(key("data.n"), None);
        assert_eq!(key("data.a.c"), None);
        assert_eq!(key("data.a.b.c"), None);
        assert_eq!(key("missing"), None);
    }

    #[test]
    fn wrong_paths_are_refused() {
        for bad in ["", "data.", "data.a..b", "Subject", "a b"] {
            assert!(bad.parse::<OrderBy>().is_err(), "{bad:?}");
        }
    }
}

//! What makes two events the same inside of a dedupe window.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    event::{Event, Fingerprint, FingerprintKey},
    fault::{Fault, Result},
    order::OrderBy,
};

/// Most parts of a dedupe key.
const PARTS_MAX: usize = 8;

/// What makes two events the same: the values at these places, or `source` and `id` when there are none.
///
/// Values of the data are compared as they are written. An event that lacks one of them is compared by `source` and
/// `id`, so that nothing is taken for a repeat because both lack a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DedupeKey(Vec<OrderBy>);

impl DedupeKey {
    /// `source` and `id`.
    pub const IDENTITY: Self = Self(Vec::new());

    /// Makes a key of paths such as `subject` or `data.order.id`; without any, it is `source` and `id`.
    pub fn new<S: AsRef<str>>(paths: impl IntoIterator<Item = S>) -> Result<Self> {
        let parts: Vec<OrderBy> = paths.into_iter().map(|path| part(path.as_ref())).collect::<Result<_>>()?;
        if parts.len() > PARTS_MAX {
            return Err(Fault::invalid(format!("a dedupe key has at most {PARTS_MAX} parts")));
        }
        Ok(Self(parts))
    }

    /// Returns the paths.
    pub fn paths(&self) -> Vec<String> {
        self.0.iter().map(OrderBy::to_string).collect()
    }

    /// Returns the fingerprint by which an event is recognised.
    pub fn fingerprint(&self, key: &FingerprintKey, event: &Event) -> Fingerprint {
        if self.0.is_empty() {
            return key.of(&event.source, &event.id);
        }
        let values: Option<Vec<Vec<u8>>> = self.0.iter().map(|part| part.with_value(event, <[u8]>::to_vec)).collect();
        match values {
            Some(values) => key.of_values(&values),
            None => key.of(&event.source, &event.id),
        }
    }
}

fn part(path: &str) -> Result<OrderBy> {
    path.parse().map_err(|_| {
        Fault::invalid(format!(
            "dedupe key {path:?} is neither a CloudEvents attribute such as \"subject\" nor a path such as \"data.order.id\""
        ))
    })
}

impl Serialize for DedupeKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.paths().serialize(to)
    }
}

impl<'de> Deserialize<'de> for DedupeKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = DedupeKey;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path such as data.order.id, or a list of such paths")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DedupeKey, E> {
                DedupeKey::new([text]).map_err(E::custom)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut parts: A) -> Result<DedupeKey, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = parts.next_element::<String>()? {
                    paths.push(path);
                }
                DedupeKey::new(paths).map_err(serde::de::Error::custom)
            }
        }

        if from.is_human_readable() { from.deserialize_any(Either) } else { from.deserialize_seq(Either) }
    }
}

impl schemars::JsonSchema for DedupeKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "dedupe_key".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "title": "dedupe key",
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            "examples": ["data.order.id"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Data;

    #[test]
    fn values_make_the_same_and_what_lacks_one_is_itself() {
        let key = FingerprintKey([7; 16]);
        let event = |id: &str, subject: &str, data: &str| {
            Event::new(id.to_owned(), "/a", "t")
                .with_subject(subject.to_owned())
                .with_data(Data::Json(data.to_owned().into()))
        };
        let by = |paths: &[&str], event: &Event| DedupeKey::new(paths).unwrap().fingerprint(&key, event);
        let (one, two) = (event("1", "s", r#"{"n":5}"#), event("2", "s", r#"{"n":5,"x":1}"#));
        assert_ne!(by(&[], &one), by(&[], &two));
        assert_eq!(by(&["data.n"], &one), by(&["data.n"], &two));
        assert_eq!(by(&["subject", "data.n"], &one), by(&["subject", "data.n"], &two));
        assert_ne!(by(&["subject", "data.n"], &one), by(&["subject", "data.n"], &event("1", "s", r#"{"n":6}"#)));
        assert_ne!(
            by(&["subject", "source"], &event("1", "/", "1")),
            by(&["source", "subject"], &event("1", "/", "1"))
        );
        let lacks = event("3", "s", r#"{"m":5}"#);
        assert_eq!(by(&["data.n"], &lacks), by(&[], &lacks));
        assert_ne!(by(&["subject"], &one), key.of("", "s"), "a value is never taken for an identity");
    }

    #[test]
    fn keys_are_one_path_or_several() {
        let read = |text: &str| serde_json::from_str::<DedupeKey>(text);
        assert_eq!(read("\"data.n\"").unwrap(), read("[\"data.n\"]").unwrap());
        assert_eq!(read("[]").unwrap(), DedupeKey::IDENTITY);
        for bad in ["\"Data\"", "[\"data.\"]", "7", "[1]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

//! Which parts of the data an expression looks at: only those are built when the data is read.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

use super::node::Node;

/// What is looked at: all of a value, or some of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reads {
    All,
    /// Each key once. Of a value that is no map, only its kind is looked at.
    Keys(Vec<(String, Self)>),
}

impl Reads {
    /// Returns what an expression looks at in the data.
    pub(super) fn of(root: &Node) -> Self {
        let mut reads = Self::Keys(Vec::new());
        reads.look(root);
        reads
    }

    fn look(&mut self, node: &Node) {
        if let Some(path) = path(node) {
            self.add(&path);
            return;
        }
        match node {
            Node::Null
            | Node::Bool(_)
            | Node::Int(_)
            | Node::Uint(_)
            | Node::Double(_)
            | Node::Text(_)
            | Node::Bytes(_)
            | Node::Type(_)
            | Node::Local(_) => {}
            Node::Name(name) => {
                // The data with all the rest.
                if name == "event" {
                    *self = Self::All;
                }
            }
            Node::Field(of, _)
            | Node::Has(of, _)
            | Node::Not(of)
            | Node::Negate(of)
            | Node::Matches(of, _)
            | Node::Gather(_, of)
            | Node::NotFalse(of) => self.look(of),
            Node::Index(both) | Node::And(both) | Node::Or(both) | Node::Binary(_, both) => {
                both.iter().for_each(|node| self.look(node));
            }
            Node::If(three) => three.iter().for_each(|node| self.look(node)),
            Node::List(nodes) | Node::Call(_, nodes) => nodes.iter().for_each(|node| self.look(node)),
            Node::Map(entries) => entries.iter().for_each(|(key, value)| {
                self.look(key);
                self.look(value);
            }),
            Node::Loop(looped) => {
                [&looped.range, &looped.start, &looped.go_on, &looped.step, &looped.result]
                    .into_iter()
                    .for_each(|node| self.look(node));
            }
        }
    }

    fn add(&mut self, path: &[&str]) {
        let Self::Keys(keys) = self else { return };
        let Some((first, rest)) = path.split_first() else {
            *self = Self::All;
            return;
        };
        match keys.iter_mut().find(|(key, _)| key == first) {
            Some((_, reads)) => reads.add(rest),
            None => {
                let mut reads = Self::Keys(Vec::new());
                reads.add(rest);
                keys.push(((*first).to_owned(), reads));
            }
        }
    }

    /// Reads of a JSON text what is looked at. All of it must be JSON.
    pub(crate) fn read(&self, text: &[u8]) -> serde_json::Result<Json> {
        let mut from = serde_json::Deserializer::from_slice(text);
        let json = self.deserialize(&mut from)?;
        from.end()?;
        Ok(json)
    }
}

/// Returns the keys that lead into the data, where a node is such a way; it goes no further than the keys are known.
fn path(node: &Node) -> Option<Vec<&str>> {
    let (of, key) = match node {
        Node::Name(name) if name == "data" => return Some(Vec::new()),
        Node::Field(of, key) | Node::Has(of, key) => (&**of, key),
        Node::Index(both) => match &**both {
            [of, Node::Text(key)] => (of, key),
            _ => return None,
        },
        _ => return None,
    };
    let mut path = path(of)?;
    path.push(key);
    Some(path)
}

impl<'de> DeserializeSeed<'de> for &Reads {
    type Value = Json;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Json, D::Error> {
        match self {
            Reads::All => serde::Deserialize::deserialize(from),
            Reads::Keys(keys) => from.deserialize_any(Keyed(keys)),
        }
    }
}

/// Builds a map with some of its keys; of another value, something of its kind.
struct Keyed<'r>(&'r [(String, Reads)]);

impl<'de> Visitor<'de> for Keyed<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut map = Map::new();
        while let Some(known) = entries.next_key_seed(Which(self.0))? {
            match known {
                Some((key, reads)) => {
                    let value = entries.next_value_seed(reads)?;
                    map.insert(key.clone(), value);
                }
                None => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Json::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Json::Array(Vec::new()))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Json, E> {
        Ok(Json::String(String::new()))
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Json, E> {
        Ok(Json::Bool(truth))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Json, E> {
        Ok(Json::from(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        Ok(Json::from(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Json, E> {
        Ok(Json::from(number))
    }
}

/// Finds a key among those that are looked at.
struct Which<'r>(&'r [(String, Reads)]);

impl<'de, 'r> DeserializeSeed<'de> for Which<'r> {
    type Value = Option<&'r (String, Reads)>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'r> Visitor<'_> for Which<'r> {
    type Value = Option<&'r (String, Reads)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|(known, _)| known == key))
    }
}

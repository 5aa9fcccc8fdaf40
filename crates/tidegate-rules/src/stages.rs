//! Stages: what stands between a stream and a handler, in order. Each lets an event through, changes it, or holds it off.

use std::{collections::BTreeMap, fmt};

use bytestring::ByteString;
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value as Json;
use tidegate_core::{
    event::{Attribute, CORE_NAMES, Data, Event},
    fault::{Fault, Result},
};

use crate::{expr::EventExpr, schema::Schema, scope::Scope};

/// One stage: either a filter or a change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OneOf")]
pub enum Stage {
    /// An expression that is true of the events that go on; the others are done without an attempt, counted as skipped.
    Where(EventExpr),
    /// What the handler sees in place of the event as it came.
    Map(EventMap),
}

/// A stage: either a filter or a change.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OneOf {
    /// An expression that is true of the events that go on; the others are done without an attempt, counted as skipped.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    filter: Option<EventExpr>,
    /// What the later stages and the handler see in place of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    map: Option<EventMap>,
}

impl TryFrom<OneOf> for Stage {
    type Error = &'static str;
    fn try_from(one: OneOf) -> Result<Self, &'static str> {
        match (one.filter, one.map) {
            (Some(expr), None) => Ok(Self::Where(expr)),
            (None, Some(map)) => Ok(Self::Map(map)),
            (None, None) => Err("a stage is either where or map"),
            (Some(_), Some(_)) => Err("a stage is either where or map; two stages say which comes first"),
        }
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let one = match self.clone() {
            Self::Where(expr) => OneOf { filter: Some(expr), map: None },
            Self::Map(map) => OneOf { filter: None, map: Some(map) },
        };
        one.serialize(to)
    }
}

impl JsonSchema for Stage {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Stage".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        OneOf::json_schema(generator)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Where(expr) => write!(f, "where {}", expr.expr()),
            Self::Map(map) => f.write_str(&map.words()),
        }
    }
}

/// What the handler sees in place of the event. The event in the store and in the dead letters stays as it came.
///
/// A single expression gives the data. A mapping gives data, attributes and extensions apart, each by its own
/// expression; what it does not name stays. `id` and `source` always stay: they name the event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventMap {
    data: Option<EventExpr>,
    kind: Option<EventExpr>,
    subject: Option<EventExpr>,
    extensions: BTreeMap<ExtensionName, EventExpr>,
}

/// Expressions for the parts of an event; what is not named stays.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Parts {
    /// Expression for the data, which becomes JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<EventExpr>,
    /// Expression for the attribute `type`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<EventExpr>,
    /// Expression for the attribute `subject`; null takes it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<EventExpr>,
    /// Expressions for extension attributes by name; null takes one away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    extensions: BTreeMap<ExtensionName, EventExpr>,
}

/// Name of an extension attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(transparent)]
struct ExtensionName(String);

impl<'de> Deserialize<'de> for ExtensionName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !plain || CORE_NAMES.contains(&name.as_str()) {
            return Err(D::Error::custom(format_args!(
                "{name:?} is no name for an extension attribute: it holds only lower-case letters and digits and is none of the core attributes"
            )));
        }
        Ok(Self(name))
    }
}

impl EventMap {
    /// A map that gives the data.
    pub fn of_data(data: EventExpr) -> Self {
        Self { data: Some(data), ..Self::default() }
    }

    fn words(&self) -> String {
        let parts = [("data", &self.data), ("type", &self.kind), ("subject", &self.subject)];
        let given = parts.into_iter().filter_map(|(name, expr)| Some((name, expr.as_ref()?)));
        let extensions = self.extensions.iter().map(|(name, expr)| (name.0.as_str(), expr));
        let words: Vec<String> =
            given.chain(extensions).map(|(name, expr)| format!("{name}: {}", expr.expr())).collect();
        format!("map {}", words.join(", "))
    }

    fn apply(&self, event: &Event) -> Result<Event> {
        let scope = Scope::event(event);
        let mut mapped = event.clone();
        if let Some(expr) = &self.data {
            mapped.data = Data::Json(expr.expr().value(&scope)?.to_string().into());
            mapped.content_type = Some(ByteString::from_static("application/json"));
        }
        if let Some(expr) = &self.kind {
            mapped.kind = text("type", expr, &scope)?.ok_or_else(|| wrong("type", expr, "null"))?;
        }
        if let Some(expr) = &self.subject {
            mapped.subject = text("subject", expr, &scope)?.filter(|text| !text.is_empty());
        }
        for (ExtensionName(name), expr) in &self.extensions {
            let attribute = match expr.expr().value(&scope)? {
                Json::Null => None,
                Json::String(text) => Some(Attribute::Text(text.into())),
                Json::Bool(truth) => Some(Attribute::Boolean(truth)),
                Json::Number(number) => {
                    let small = number.as_i64().and_then(|number| i32::try_from(number).ok());
                    Some(Attribute::Integer(
                        small.ok_or_else(|| wrong(name, expr, "a number that is no 32-bit integer"))?,
                    ))
                }
                Json::Array(_) => return Err(wrong(name, expr, "a list")),
                Json::Object(_) => return Err(wrong(name, expr, "a map")),
            };
            mapped.extensions.retain(|(other, _)| **other != *name);
            mapped.extensions.extend(attribute.map(|attribute| (name.as_str().into(), attribute)));
        }
        mapped.check().map_err(|fault| fault.within("the mapped event is not valid"))?;
        Ok(mapped)
    }
}

fn text(name: &str, expr: &EventExpr, scope: &Scope<'_>) -> Result<Option<ByteString>> {
    match expr.expr().value(scope)? {
        Json::Null => Ok(None),
        Json::String(text) => Ok(Some(text.into())),
        Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => Err(wrong(name, expr, "no text")),
    }
}

fn wrong(name: &str, expr: &EventExpr, what: &str) -> Fault {
    Fault::invalid(format!("expression `{}` for {name} gives {what}", expr.expr()))
}

impl Serialize for EventMap {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { data, kind, subject, extensions } = self.clone();
        match data {
            Some(data) if kind.is_none() && subject.is_none() && extensions.is_empty() => data.serialize(to),
            data => Parts { data, kind, subject, extensions }.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for EventMap {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = EventMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression, or a mapping with data, type, subject and extensions")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<EventMap, E> {
                text.parse().map(EventMap::of_data).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<EventMap, A::Error> {
                let Parts { data, kind, subject, extensions } =
                    Parts::deserialize(MapAccessDeserializer::new(entries))?;
                Ok(EventMap { data, kind, subject, extensions })
            }
        }

        from.deserialize_any(Either)
    }
}

impl JsonSchema for EventMap {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EventMap".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (expr, parts) = (generator.subschema_for::<EventExpr>(), generator.subschema_for::<Parts>());
        schemars::json_schema!({ "anyOf": [expr, parts] })
    }
}

/// Stages in order. Without any, every event goes on as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stages {
    /// What the data must fit before anything else happens.
    schema: Option<Schema>,
    stages: Vec<Stage>,
}

/// What became of an event on its way through the stages.
#[derive(Debug, Clone, PartialEq)]
pub enum Passage {
    /// It goes on as it came.
    Unchanged,
    /// It goes on as another.
    Changed(Box<Event>),
    /// It goes no further.
    Skipped,
}

impl Stages {
    /// Puts stages into their order.
    pub fn new(stages: Vec<Stage>) -> Self {
        Self { schema: None, stages }
    }

    /// Asks that the data of every event fits a schema, before the first stage.
    #[must_use]
    pub fn checked(mut self, schema: Option<Schema>) -> Self {
        self.schema = schema;
        self
    }

    /// Asks for the same schema as other stages do, in place of its own.
    #[must_use]
    pub fn with_schema_of(self, other: &Self) -> Self {
        self.checked(other.schema.clone())
    }

    /// Returns them in words, in order.
    pub fn words(&self) -> Vec<String> {
        let schema = self.schema.iter().map(|_| "schema of the stream".to_owned());
        schema.chain(self.stages.iter().map(Stage::to_string)).collect()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.schema.is_none() && self.stages.is_empty()
    }

    /// Sends an event through. A later stage sees what an earlier one has made of it.
    pub fn pass(&self, event: &Event) -> Result<Passage> {
        if let Some(schema) = &self.schema {
            schema.check(event)?;
        }
        let mut changed: Option<Box<Event>> = None;
        for stage in &self.stages {
            let seen = changed.as_deref().unwrap_or(event);
            match stage {
                Stage::Where(expr) => {
                    if !expr.expr().test_event(seen)? {
                        return Ok(Passage::Skipped);
                    }
                }
                Stage::Map(map) => changed = Some(Box::new(map.apply(seen)?)),
            }
        }
        Ok(changed.map_or(Passage::Unchanged, Passage::Changed))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stages(document: Json) -> Stages {
        Stages::new(serde_json::from_value(document).unwrap())
    }

    fn event(kind: &str, subject: &str, data: &str) -> Event {
        Event::new("1", "/camera/3", kind)
            .with_subject(subject.to_owned())
            .with_data(Data::Json(data.to_owned().into()))
    }

    /// One stream, several groups, each with its own way of choosing.
    #[test]
    fn routes_choose_by_prefix_pattern_type_and_list() {
        let routes = [
            ("prefix", json!([{"where": "subject.startsWith('!help')"}])),
            ("pattern", json!([{"where": "subject.matches('^![0-9]+$')"}])),
            ("type", json!([{"where": "type == 'chat.message'"}])),
            ("allowed", json!([{"where": "data.from in ['+491', '+492']"}])),
            (
                "ordered",
                json!([{"where": "has(data.from)"}, {"map": "{'n': size(data.from)}"}, {"where": "data.n > 2"}]),
            ),
            ("all", json!([])),
        ];
        let cases = [
            (event("chat.message", "!help me", r#"{"from":"+491"}"#), "prefix type allowed ordered all"),
            (event("chat.message", "!42", r#"{"from":"+49"}"#), "pattern type ordered all"),
            (event("chat.receipt", "!42x", r#"{"from":"x"}"#), "all"),
        ];
        for (event, expect) in cases {
            let goes =
                |(_, document): &&(&str, Json)| stages(document.clone()).pass(&event).unwrap() != Passage::Skipped;
            let took: Vec<&str> = routes.iter().filter(goes).map(|(name, _)| *name).collect();
            assert_eq!(took.join(" "), expect, "{}", event.subject.as_deref().unwrap_or_default());
        }
    }

    #[test]
    fn a_map_changes_what_it_names() {
        let event = event("a", "b", r#"{"order":{"id":7}}"#).with_extension("partitionkey", "k");
        let map = stages(json!([{"map": {
            "data": "data.order", "type": "type + '.mapped'", "subject": "null",
            "extensions": {"partitionkey": "null", "orderid": "data.order.id"},
        }}]));
        let Passage::Changed(mapped) = map.pass(&event).unwrap() else { panic!("the event is changed") };
        assert_eq!((&*mapped.id, &*mapped.source), (&*event.id, &*event.source));
        assert_eq!(
            (&*mapped.kind, &mapped.subject, &mapped.data),
            ("a.mapped", &None, &Data::Json(r#"{"id":7}"#.into()))
        );
        assert_eq!(mapped.extensions, [("orderid".into(), Attribute::Integer(7))]);
        let text = serde_json::to_value(&map.stages).unwrap();
        assert_eq!(stages(text), map);
    }

    #[test]
    fn faults_name_the_expression() {
        let event = event("a", "b", "{}");
        let cases = [
            (json!({"where": "data.x == 1"}), "expression `data.x == 1`: there is no key \"x\""),
            (json!({"where": "1"}), "gives int, not true or false"),
            (json!({"map": {"type": "1"}}), "expression `1` for type gives no text"),
            (json!({"map": {"type": "''"}}), "the mapped event is not valid: attribute \"type\""),
            (json!({"map": {"extensions": {"a": "[1]"}}}), "for a gives a list"),
        ];
        for (stage, expect) in cases {
            let fault = stages(json!([stage])).pass(&event).unwrap_err();
            assert!(fault.note().contains(expect), "{}", fault.note());
        }
        for bad in [json!({"map": {"id": "1"}}), json!({"map": {"extensions": {"data": "1"}}}), json!({"where": "typ"})]
        {
            assert!(serde_json::from_value::<Stage>(bad).is_err());
        }
    }
}

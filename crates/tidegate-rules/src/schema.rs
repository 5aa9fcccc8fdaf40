//! JSON Schema: whether the data of an event has the form that its stream asks for, or the event as a whole that of an
//! envelope.

use std::{fmt, sync::Arc};

use serde_json::{Map, Value as Json, json};
use tidegate_core::{
    event::{CORRELATION_ID, Data, ENVELOPE_FAULT, Event},
    fault::{Fault, Result, Violation},
    limits,
};

/// A compiled JSON Schema. Cheap to clone.
#[derive(Clone)]
pub struct Schema(Arc<Compiled>);

struct Compiled {
    document: Json,
    validator: jsonschema::Validator,
    of: Of,
}

/// What is held against a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Data,
    Envelope,
}

/// Largest compiled form of one pattern in a schema.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
/// Keyword or whatever stands for a value in a message: the value itself may be long, or nobody's business.
const VALUE: &str = "the value";

impl Schema {
    /// Compiles a schema. References lead only inside of it: nothing is fetched.
    pub fn compile(document: &Json) -> Result<Self> {
        Self::compiled(document, Of::Data)
    }

    /// The schema of an event that is an envelope of version 1, as its fields are named there.
    pub fn envelope_v1() -> Result<Self> {
        let uuid = json!({"type": "string", "format": "uuid"});
        let word = json!({"type": "string", "minLength": 1});
        let document = json!({
            "title": "envelope v1",
            "type": "object",
            "required": ["event_id", "event_type", "schema_version", "tenant_id", "aggregate_id", "payload"],
            "additionalProperties": false,
            "properties": {
                "event_id": uuid, "event_type": word, "schema_version": {"type": "integer", "minimum": 1},
                "occurred_at": {"type": "string", "format": "date-time"}, "tenant_id": uuid, "aggregate_id": uuid,
                "aggregate_type": word, "correlation_id": uuid, "payload": {"type": "object"},
            },
        });
        Self::compiled(&document, Of::Envelope)
    }

    fn compiled(document: &Json, of: Of) -> Result<Self> {
        let size = document.to_string().len();
        if size > limits::SCHEMA_BYTES_MAX {
            return Err(Fault::invalid(format!("schema of {size} bytes is larger than {}", limits::SCHEMA_BYTES_MAX)));
        }
        let patterns =
            jsonschema::PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
        let validator = jsonschema::options()
            .offline()
            .with_pattern_options(patterns)
            .should_validate_formats(true)
            .build(document)
            .map_err(|error| {
                let place = error.instance_path().as_str();
                let place = if place.is_empty() { "the schema".to_owned() } else { format!("the schema at {place}") };
                Fault::invalid(format!("{place} is not right: {}", error.masked_with(VALUE)))
            })?;
        Ok(Self(Arc::new(Compiled { document: document.clone(), validator, of })))
    }

    /// Returns the schema as it was written.
    pub fn document(&self) -> &Json {
        &self.0.document
    }

    /// Checks the data of an event; the fault names the first value that is wrong.
    pub fn check(&self, event: &Event) -> Result<()> {
        let data = self.instance(event)?;
        if self.0.validator.is_valid(&data) {
            return Ok(());
        }
        let first = self.violations_of(&data, 1).pop();
        let none = Violation { pointer: String::new(), index: None, message: String::new() };
        Err(self.0.of.fault(first.unwrap_or(none)))
    }

    /// What is held against the schema.
    fn instance(&self, event: &Event) -> Result<Json> {
        match self.0.of {
            Of::Data => parsed(&event.data, Of::Data),
            Of::Envelope => envelope(event),
        }
    }

    /// Returns what is wrong with the data of an event, at most `max` places.
    pub fn violations(&self, event: &Event, max: usize) -> Vec<Violation> {
        match self.instance(event) {
            Ok(data) => self.violations_of(&data, max),
            Err(fault) => fault.violation().cloned().into_iter().collect(),
        }
    }

    fn violations_of(&self, data: &Json, max: usize) -> Vec<Violation> {
        let errors = self.0.validator.iter_errors(data).take(max);
        errors
            .map(|error| Violation {
                pointer: error.instance_path().as_str().to_owned(),
                index: None,
                message: error.masked_with(VALUE).to_string(),
            })
            .collect()
    }
}

/// An event as an envelope of version 1. What a stream fills in by itself, its own name and the time, may be missing.
fn envelope(event: &Event) -> Result<Json> {
    if let Some(odd) = event.extension(ENVELOPE_FAULT) {
        let violation = Violation { pointer: String::new(), index: None, message: odd.to_string() };
        return Err(Of::Envelope.fault(violation));
    }
    let mut fields = Map::new();
    let mut put = |name: &str, value: Option<&str>| {
        fields.extend(value.map(|value| (name.to_owned(), Json::from(value))));
    };
    put("event_id", Some(&event.id));
    put("event_type", Some(&event.kind));
    put("occurred_at", event.time.as_deref());
    put("tenant_id", event.attribute("tenantid").as_deref());
    put("aggregate_id", event.attribute("aggregateid").or_else(|| event.attribute("subject")).as_deref());
    put("aggregate_type", event.attribute("aggregatetype").as_deref());
    put("correlation_id", event.attribute(CORRELATION_ID).as_deref());
    let version = event.attribute("schemaversion");
    let version = version.as_deref().map_or(Json::from(1), |text| text.parse::<i64>().map_or(text.into(), Json::from));
    fields.insert("schema_version".to_owned(), version);
    fields.insert("payload".to_owned(), parsed(&event.data, Of::Envelope)?);
    Ok(Json::Object(fields))
}

fn parsed(data: &Data, of: Of) -> Result<Json> {
    let pointer = if of == Of::Envelope { "/payload" } else { "" };
    let wrong =
        |message: &str| of.fault(Violation { pointer: pointer.to_owned(), index: None, message: message.to_owned() });
    match data {
        Data::Json(bytes) => {
            serde_json::from_slice(bytes).map_err(|error| wrong(&format!("it is not readable: {error}")))
        }
        Data::None => Err(wrong("there is no data")),
        Data::Text(_) | Data::Binary(_) => Err(wrong("the data is not JSON")),
    }
}

impl Of {
    fn fault(self, violation: Violation) -> Fault {
        let (whole, schema) = match self {
            Self::Data => ("the data", "the schema"),
            Self::Envelope => ("the event", "envelope v1"),
        };
        let at = if violation.pointer.is_empty() { whole } else { &violation.pointer };
        Fault::invalid(format!("{at} does not fit {schema}: {}", violation.message)).violates(violation)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.0.document)
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.document() == other.document() && self.0.of == other.0.of
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn order() -> Schema {
        Schema::compile(&json!({
            "type": "object",
            "required": ["id"],
            "properties": {
                "id": {"type": "string", "pattern": "^o-[0-9]+$"},
                "total": {"type": "number", "minimum": 0},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
                "at": {"type": "string", "format": "date-time"},
            },
            "$defs": {"line": {"type": "object", "required": ["sku"], "additionalProperties": false, "properties": {"sku": {"type": "string"}}}},
        }))
        .unwrap()
    }

    fn checked(data: Data) -> Result<(), String> {
        order().check(&Event::new("1", "/", "t").with_data(data)).map_err(|fault| {
            let violation = fault.violation().expect("a schema says where");
            format!("{} {}", violation.pointer, fault.note())
        })
    }

    #[test]
    fn the_first_wrong_value_is_named_by_its_pointer() {
        let json = |text: &str| Data::Json(text.to_owned().into());
        assert_eq!(checked(json(r#"{"id":"o-1","total":3,"lines":[{"sku":"a"}]}"#)), Ok(()));
        let cases = [
            (json(r#"{"id":"o-1","total":-3}"#), "/total /total does not fit the schema: the value is less than"),
            (json(r#"{"id":"o-1","lines":[{"sku":"a"},{"sku":7}]}"#), "/lines/1/sku "),
            (json(r#"{"id":"o-1","lines":[{"sku":"a","x":1}]}"#), "/lines/0 "),
            (json(r#"{"id":"x"}"#), "/id "),
            (json(r#"{"id":"o-1","at":"noon"}"#), "/at "),
            (json("{}"), " the data does not fit the schema: \"id\" is a required"),
            (json("[]"), " the data does not fit"),
            (Data::None, " the data does not fit the schema: there is no data"),
            (Data::Text("{}".into()), " the data does not fit the schema: the data is not JSON"),
        ];
        for (data, expect) in cases {
            let error = checked(data).unwrap_err();
            assert!(error.starts_with(expect), "{error} does not begin with {expect}");
        }
    }

    #[test]
    fn an_envelope_is_checked_field_by_field() {
        const ID: &str = "0191f8f2-1111-7000-8000-000000000001";
        let good = || {
            let event = Event::new(ID, "/s", "UserCreated").with_subject(ID).with_extension("tenantid", ID);
            event.with_data(Data::Json("{}".into()))
        };
        let odd = |name: &str, value: &str| good().with_extension(name, value.to_owned());
        let schema = Schema::envelope_v1().unwrap();
        schema.check(&good()).unwrap();
        schema.check(&odd("schemaversion", "2")).unwrap();
        let cases = [
            (Event { id: "1".into(), ..good() }, "/event_id does not fit envelope v1: "),
            (Event { subject: None, ..good() }, "the event does not fit envelope v1: \"aggregate_id\" is a required"),
            (odd("schemaversion", "0"), "/schema_version "),
            (odd("schemaversion", "one"), "/schema_version "),
            (odd("correlationid", "x"), "/correlation_id "),
            (good().with_data(Data::Json("[]".into())), "/payload "),
            (good().with_data(Data::Text("{".into())), "/payload does not fit envelope v1: the data is not JSON"),
            (Event { time: Some("noon".into()), ..good() }, "/occurred_at "),
            (odd(ENVELOPE_FAULT, "topic is missing"), "the event does not fit envelope v1: topic is missing"),
        ];
        for (event, expect) in cases {
            let fault = schema.check(&event).unwrap_err();
            assert!(fault.note().starts_with(expect), "{} does not begin with {expect}", fault.note());
        }
    }

    #[test]
    fn wrong_and_far_reaching_schemas_are_refused() {
        let cases = [
            (json!({"type": "objekt"}), "the schema at /type is not right"),
            (json!({"minimum": "x"}), "the schema at /minimum is not right"),
            (json!({"pattern": "("}), "is not right"),
            (json!({"$ref": "https://example.com/other.json"}), "is not right"),
            (json!({"$ref": "#/$defs/none"}), "is not right"),
            (json!(7), "is not right"),
            (json!({"description": "x".repeat(limits::SCHEMA_BYTES_MAX)}), "is larger than"),
        ];
        for (document, expect) in cases {
            let error = Schema::compile(&document).unwrap_err();
            assert!(error.note().contains(expect), "{}", error.note());
        }
    }

    #[test]
    fn all_violations_are_listed_up_to_a_bound() {
        let event = Event::new("1", "/", "t").with_data(Data::Json(r#"{"id":1,"total":-1,"lines":[1,2,3]}"#.into()));
        let pointers: Vec<String> = order().violations(&event, 9).into_iter().map(|one| one.pointer).collect();
        assert_eq!(pointers.len(), 5, "{pointers:?}");
        assert_eq!(order().violations(&event, 2).len(), 2);
    }
}

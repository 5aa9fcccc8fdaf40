//! JSON Schema: whether the data of an event has the form that its stream asks for.

use std::{fmt, sync::Arc};

use serde_json::Value as Json;
use tidegate_core::{
    event::{Data, Event},
    fault::{Fault, Result, Violation},
    limits,
};

/// A compiled JSON Schema. Cheap to clone.
#[derive(Clone)]
pub struct Schema(Arc<Compiled>);

struct Compiled {
    document: Json,
    validator: jsonschema::Validator,
}

/// Largest compiled form of one pattern in a schema.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
/// Keyword or whatever stands for a value in a message: the value itself may be long, or nobody's business.
const VALUE: &str = "the value";

impl Schema {
    /// Compiles a schema. References lead only inside of it: nothing is fetched.
    pub fn compile(document: &Json) -> Result<Self> {
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
        Ok(Self(Arc::new(Compiled { document: document.clone(), validator })))
    }

    /// Returns the schema as it was written.
    pub fn document(&self) -> &Json {
        &self.0.document
    }

    /// Checks the data of an event; the fault names the first value that is wrong.
    pub fn check(&self, event: &Event) -> Result<()> {
        let data = parsed(&event.data)?;
        if self.0.validator.is_valid(&data) {
            return Ok(());
        }
        let first = self.violations_of(&data, 1).pop();
        Err(fault_of(first.unwrap_or_else(|| Violation {
            pointer: String::new(),
            index: None,
            message: String::new(),
        })))
    }

    /// Returns what is wrong with the data of an event, at most `max` places.
    pub fn violations(&self, event: &Event, max: usize) -> Vec<Violation> {
        match parsed(&event.data) {
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

fn parsed(data: &Data) -> Result<Json> {
    let wrong =
        |message: &str| fault_of(Violation { pointer: String::new(), index: None, message: message.to_owned() });
    match data {
        Data::Json(bytes) => {
            serde_json::from_slice(bytes).map_err(|error| wrong(&format!("it is not readable: {error}")))
        }
        Data::None => Err(wrong("there is no data")),
        Data::Text(_) | Data::Binary(_) => Err(wrong("the data is not JSON")),
    }
}

fn fault_of(violation: Violation) -> Fault {
    let at = if violation.pointer.is_empty() { "the data" } else { &violation.pointer };
    Fault::invalid(format!("{at} does not fit the schema: {}", violation.message)).violates(violation)
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.0.document)
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.document() == other.document()
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

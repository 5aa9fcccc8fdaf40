//! Changes of an event before it goes back: a JSON merge patch (RFC 7396) or a JSON Patch (RFC 6902) of its CloudEvent.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_core::{
    cloudevents,
    event::Event,
    fault::{Fault, Result},
};

/// A change of an event. An object is a merge patch, an array a JSON Patch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Patch(Form);

#[derive(Debug, Clone, PartialEq)]
enum Form {
    Merge(Value),
    Steps(Vec<Step>),
}

/// A step of a JSON Patch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Step {
    Add { path: String, value: Value },
    Remove { path: String },
    Replace { path: String, value: Value },
    Move { from: String, path: String },
    Copy { from: String, path: String },
    Test { path: String, value: Value },
}

impl TryFrom<Value> for Patch {
    type Error = Fault;
    fn try_from(value: Value) -> Result<Self> {
        match value {
            Value::Object(_) => Ok(Self(Form::Merge(value))),
            Value::Array(steps) => {
                let read = |(index, step)| {
                    serde_json::from_value(step)
                        .map_err(|error| Fault::invalid(format!("step {index} of the patch: {error}")))
                };
                steps.into_iter().enumerate().map(read).collect::<Result<_>>().map(|steps| Self(Form::Steps(steps)))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(Fault::invalid(
                "a patch is an object (JSON merge patch) or an array of steps (JSON Patch), over the whole CloudEvent",
            )),
        }
    }
}

impl From<Patch> for Value {
    fn from(patch: Patch) -> Self {
        match patch.0 {
            Form::Merge(value) => value,
            Form::Steps(steps) => serde_json::to_value(steps).unwrap_or_default(),
        }
    }
}

impl Patch {
    /// Returns the changed event; `id` and `source` must stay.
    pub fn apply(&self, event: &Event) -> Result<Event> {
        let mut bytes = Vec::with_capacity(event.size() + 256);
        cloudevents::write_json(event, &mut bytes);
        let mut document: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Fault::corrupt("the event is not readable as JSON").because(error))?;
        match &self.0 {
            Form::Merge(patch) => merge(&mut document, patch),
            Form::Steps(steps) => {
                for (index, step) in steps.iter().enumerate() {
                    apply(&mut document, step).map_err(|fault| fault.within(format!("step {index}")))?;
                }
            }
        }
        let changed = cloudevents::from_json(document.to_string().into())?;
        if changed.id != event.id || changed.source != event.source {
            return Err(Fault::invalid("an edited event must keep its id and source"));
        }
        changed.check()?;
        Ok(changed)
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(known) = target else { return };
    for (name, value) in members {
        if value.is_null() {
            known.remove(name);
        } else {
            merge(known.entry(name.as_str()).or_insert(Value::Null), value);
        }
    }
}

fn apply(document: &mut Value, step: &Step) -> Result<()> {
    match step {
        Step::Add { path, value } => add(document, path, value.clone()),
        Step::Remove { path } => take(document, path).map(drop),
        Step::Replace { path, value } => {
            *find(document, path)? = value.clone();
            Ok(())
        }
        Step::Move { from, path } => {
            if path.strip_prefix(from.as_str()).is_some_and(|rest| rest.starts_with('/')) {
                return Err(Fault::invalid(format!("{from:?} cannot be moved into itself")));
            }
            let value = take(document, from)?;
            add(document, path, value)
        }
        Step::Copy { from, path } => {
            let value = find(document, from)?.clone();
            add(document, path, value)
        }
        Step::Test { path, value } if find(document, path)? == value => Ok(()),
        Step::Test { path, .. } => Err(Fault::invalid(format!("{path:?} has another value"))),
    }
}

fn missing(path: &str) -> Fault {
    Fault::invalid(format!("there is nothing at {path:?}"))
}

fn find<'a>(document: &'a mut Value, path: &str) -> Result<&'a mut Value> {
    document.pointer_mut(path).ok_or_else(|| missing(path))
}

/// Splits a JSON pointer into what holds its last part, and that part.
fn split(path: &str) -> Result<(&str, String)> {
    let (parent, last) =
        path.rsplit_once('/').ok_or_else(|| Fault::invalid(format!("{path:?} is not a JSON pointer")))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn index(last: &str, most: usize) -> Option<usize> {
    let is_plain = last == "0" || !last.starts_with(['0', '+']);
    last.parse().ok().filter(|index| is_plain && *index <= most)
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<()> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    match find(document, parent)? {
        Value::Object(members) => drop(members.insert(last, value)),
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(&last, items.len()).ok_or_else(|| missing(path))?;
            items.insert(at, value);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(missing(path)),
    }
    Ok(())
}

fn take(document: &mut Value, path: &str) -> Result<Value> {
    let (parent, last) = split(path)?;
    match find(document, parent)? {
        Value::Object(members) => members.remove(&last).ok_or_else(|| missing(path)),
        Value::Array(items) => {
            let at = items.len().checked_sub(1).and_then(|most| index(&last, most)).ok_or_else(|| missing(path))?;
            Ok(items.remove(at))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(missing(path)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_core::event::Data;

    use super::*;

    fn patched(patch: Value) -> Result<Value> {
        let patch: Patch = serde_json::from_value(patch).map_err(|error| Fault::invalid(error.to_string()))?;
        let event = Event::new("1", "/test", "order").with_data(Data::Json(r#"{"n":1,"tags":["a"]}"#.into()));
        let mut out = Vec::new();
        cloudevents::write_json(&patch.apply(&event)?, &mut out);
        Ok(serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn merge_patches_change_data_and_attributes() {
        let event = patched(json!({ "data": { "n": null, "m": { "x": 2 } }, "subject": "s" })).unwrap();
        assert_eq!(event["data"], json!({ "tags": ["a"], "m": { "x": 2 } }));
        assert_eq!((&event["subject"], &event["id"]), (&json!("s"), &json!("1")));
    }

    #[test]
    fn json_patches_go_step_by_step() {
        let event = patched(json!([
            { "op": "test", "path": "/data/n", "value": 1 },
            { "op": "replace", "path": "/data/n", "value": 2 },
            { "op": "add", "path": "/data/tags/-", "value": "b" },
            { "op": "add", "path": "/data/tags/0", "value": "z" },
            { "op": "copy", "from": "/data/n", "path": "/data/m~1n" },
            { "op": "move", "from": "/data/tags", "path": "/data/words" },
            { "op": "remove", "path": "/data/n" },
        ]));
        assert_eq!(event.unwrap()["data"], json!({ "m/n": 2, "words": ["z", "a", "b"] }));
    }

    #[test]
    fn patches_that_do_not_fit_say_why() {
        let check = |patch: Value, wanted: &str| {
            let fault = patched(patch.clone()).unwrap_err().to_string();
            assert!(fault.contains(wanted), "{patch}: {fault}");
        };
        check(json!({ "id": "2" }), "must keep its id and source");
        check(json!({ "type": "" }), "type");
        check(json!([{ "op": "test", "path": "/data/n", "value": 7 }]), "step 0: \"/data/n\" has another value");
        check(json!([{ "op": "remove", "path": "/data/x" }]), "nothing at \"/data/x\"");
        check(json!([{ "op": "add", "path": "/data/tags/7", "value": 1 }]), "nothing at");
        check(json!([{ "op": "move", "from": "/data", "path": "/data/x" }]), "into itself");
        check(json!([{ "op": "grow", "path": "/data" }]), "step 0 of the patch");
        check(json!("x"), "merge patch");
    }
}

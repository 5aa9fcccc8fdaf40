//! Pages of the reference, generated from code, so that they cannot say anything else than the program does.

use std::collections::VecDeque;

use schemars::Schema;
use serde_json::{Map, Value};

use crate::limits;

const GENERATED: &str = "Generated from the code; `xtask docs` writes it anew.";

/// Returns a Markdown page of all settings of a schema: a section for each mapping, a row for each key.
pub fn settings_page(title: &str, schema: &Schema) -> String {
    let empty = Map::new();
    let root = schema.as_value();
    let definitions = root.get("$defs").and_then(Value::as_object).unwrap_or(&empty);
    let mut page = Page { definitions, out: format!("# {title}\n\n{GENERATED}\n"), sections: VecDeque::new() };
    page.sections.push_back((String::new(), root));
    while let Some((path, schema)) = page.sections.pop_front() {
        let rest = std::mem::take(&mut page.sections);
        page.section(&path, schema);
        // What is inside a mapping follows it at once.
        page.sections.extend(rest);
    }
    page.kinds();
    page.out
}

/// Returns the Markdown page of all limits.
pub fn limits_page() -> String {
    let mut out = format!("# Limits\n\n{GENERATED}\n\n| limit | value | what it bounds |\n|---|---|---|\n");
    for limit in limits::ALL {
        let value = grouped(limit.value);
        out.push_str(&format!("| `{}` | {value} {} | {} |\n", limit.name, limit.unit, cell(limit.about)));
    }
    out
}

struct Page<'s> {
    definitions: &'s Map<String, Value>,
    out: String,
    /// Paths of mappings that are still to be described.
    sections: VecDeque<(String, &'s Value)>,
}

impl<'s> Page<'s> {
    /// Follows references to the definition.
    fn resolve(&self, schema: &'s Value) -> &'s Value {
        let mut schema = schema;
        // Definitions do not lead in circles, but a page is no reason to hang if one day they do.
        for _ in 0..16 {
            let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
            let Some(definition) = name.and_then(|name| self.definitions.get(name)) else { break };
            schema = definition;
        }
        schema
    }

    /// Describes the types of text that have a form of their own.
    fn kinds(&mut self) {
        let mut rows = Vec::new();
        for definition in self.definitions.values() {
            let examples = definition.get("examples").and_then(Value::as_array).into_iter().flatten();
            let examples: Vec<String> =
                examples.filter_map(Value::as_str).map(|example| format!("`{example}`")).collect();
            if let (Some(title), false) = (text(definition, "title"), examples.is_empty()) {
                rows.push(format!("| {title} | {} |\n", examples.join(", ")));
            }
        }
        rows.sort();
        if !rows.is_empty() {
            self.out.push_str(&format!("\n## Types of text\n\n| type | examples |\n|---|---|\n{}", rows.concat()));
        }
    }

    fn section(&mut self, path: &str, schema: &'s Value) {
        let schema = self.resolve(schema);
        for form in forms(schema, "oneOf") {
            let kind = form.pointer("/properties/type/const").and_then(Value::as_str);
            self.mapping(&format!("`{path}` with `type: {}`", kind.unwrap_or_default()), path, form);
        }
        if schema.get("properties").is_some() {
            let heading = if path.is_empty() { "Top level".to_owned() } else { format!("`{path}`") };
            self.mapping(&heading, path, schema);
        }
    }

    /// Describes the keys of one mapping.
    fn mapping(&mut self, heading: &str, path: &str, schema: &'s Value) {
        self.out.push_str(&format!("\n## {heading}\n\n"));
        if let Some(about) = text(schema, "description") {
            self.out.push_str(&format!("{}\n\n", about.replace('\n', " ")));
        }
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        // What must be given comes first, then by name: the order must not depend on how the schema keeps its keys.
        let mut keys: Vec<(&String, &Value)> = schema_properties(schema);
        keys.sort_by_key(|(key, _)| (!required.contains(&key.as_str()), key.as_str()));
        keys.retain(|(key, property)| *key != "type" || property.get("const").is_none());
        if keys.is_empty() || properties.is_empty() {
            self.out.push_str("No settings.\n");
            return;
        }
        self.out.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
        for (key, property) in keys {
            let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let kind = self.words(property, &below);
            let default = if required.contains(&key.as_str()) {
                "**required**".to_owned()
            } else {
                property.get("default").map(shown).unwrap_or_default()
            };
            let about = cell(&self.about(property));
            self.out.push_str(&format!("| `{key}` | {} | {default} | {about} |\n", cell(&kind)));
        }
    }

    /// Returns what a key means, with the words that it may be.
    fn about(&self, property: &'s Value) -> String {
        let mut about = text(property, "description").unwrap_or_default().to_owned();
        for form in forms(self.resolve(property), "oneOf") {
            if let (Some(word), Some(meaning)) = (text(form, "const"), text(form, "description")) {
                about.push_str(&format!(" `{word}`: {meaning}"));
            }
        }
        about
    }

    /// Says of which type a value is, and queues the sections of the mappings in it.
    fn words(&mut self, schema: &'s Value, path: &str) -> String {
        let schema = self.resolve(schema);
        if let Some(word) = text(schema, "const") {
            return format!("`{word}`");
        }
        for several in ["anyOf", "oneOf"] {
            let forms = forms(schema, several);
            if forms.iter().any(|form| form.get("properties").is_some()) {
                self.sections.push_back((path.to_owned(), schema));
                return "mapping by `type`".to_owned();
            }
            if !forms.is_empty() {
                let kinds = forms.into_iter().filter(|form| text(form, "type") != Some("null"));
                let words: Vec<String> = kinds.map(|form| self.words(form, path)).collect();
                return words.join(" or ");
            }
        }
        if let Some(title) = text(schema, "title").filter(|_| schema.get("properties").is_none()) {
            return title.to_owned();
        }
        // An optional value of a simple type is written as a list of types.
        let listed = || schema.get("type").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        match text(schema, "type").or_else(|| listed().find(|kind| *kind != "null")) {
            Some("object") => self.mapping_words(schema, path),
            Some("array") => match schema.get("items") {
                Some(items) => format!("list of {}", self.words(items, &format!("{path}[]"))),
                None => "list".to_owned(),
            },
            Some("integer") => "whole number".to_owned(),
            Some("number") => "number".to_owned(),
            Some("boolean") => "true or false".to_owned(),
            Some("string") => "text".to_owned(),
            Some(_) | None => "any".to_owned(),
        }
    }

    fn mapping_words(&mut self, schema: &'s Value, path: &str) -> String {
        let by_pattern = schema.get("patternProperties").and_then(Value::as_object).and_then(|all| all.values().next());
        let by_name = by_pattern.or_else(|| schema.get("additionalProperties").filter(|value| value.is_object()));
        match by_name {
            Some(value) => format!("mapping of names to {}", self.words(value, &format!("{path}.<name>"))),
            None => {
                self.sections.push_back((path.to_owned(), schema));
                "mapping".to_owned()
            }
        }
    }
}

fn schema_properties(schema: &Value) -> Vec<(&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten().collect()
}

fn forms<'s>(schema: &'s Value, several: &str) -> Vec<&'s Value> {
    schema.get(several).and_then(Value::as_array).into_iter().flatten().collect()
}

fn text<'s>(schema: &'s Value, key: &str) -> Option<&'s str> {
    schema.get(key).and_then(Value::as_str)
}

/// Shows a default; that of a mapping stands in its own section.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Object(_) => String::new(),
        Value::Array(items) if items.is_empty() => String::new(),
        Value::String(text) => format!("`{text}`"),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_)) => format!("`{other}`"),
    }
}

/// Writes text so that it fits a cell of a table.
fn cell(text: &str) -> String {
    text.trim().replace('|', "\\|").replace('\n', " ")
}

/// Writes a number with a thin gap between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('_');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lamp.
    #[derive(serde::Serialize, schemars::JsonSchema, Default)]
    #[serde(default, deny_unknown_fields)]
    struct Lamp {
        /// How long it burns | or glows.
        burn: super::super::Time,
        /// What it looks like.
        colours: Vec<Colour>,
        /// Its parts.
        parts: std::collections::BTreeMap<String, Part>,
    }

    #[derive(serde::Serialize, schemars::JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Colour {
        /// Like blood.
        Red,
    }

    /// A part.
    #[derive(serde::Serialize, schemars::JsonSchema)]
    struct Part {
        weight: Option<u32>,
        name: String,
    }

    #[test]
    fn pages_show_every_key() {
        let page = settings_page("Lamp", &schemars::schema_for!(Lamp));
        let lines = [
            "## Top level",
            "| `burn` | duration | `0s` | How long it burns \\| or glows. |",
            "| `colours` | list of `red` |  | What it looks like. |",
            "| `parts` | mapping of names to mapping |  | Its parts. |",
            "## `parts.<name>`",
            "A part.",
            "| `name` | text | **required** |  |",
            "| `weight` | whole number |  |  |",
            "## Types of text",
            "| duration | `500ms`, `30s`, `7d` |",
        ];
        for line in lines {
            assert!(page.lines().any(|other| other == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn limits_show_their_numbers() {
        let page = limits_page();
        assert!(page.contains("| `EVENT_BYTES_MAX` | 1_048_576 bytes | Largest stored event"), "{page}");
        assert_eq!(page.lines().filter(|line| line.starts_with("| `")).count(), limits::ALL.len());
    }
}

//! An expression: parsed once, checked and bounded; run on many events.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "in a language without static types, an operation has one answer for all kinds that it does not take"
)]

mod calls;
mod compile;
mod node;
pub(crate) mod reads;
mod run;
mod value;

#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;
use tidegate_core::{event::Event, fault::Fault};

use self::{node::Node, reads::Reads, value::Value};
use crate::scope::{EVENT_NAMES, Scope};

/// A parsed expression of the Common Expression Language. Cheap to clone.
#[derive(Clone)]
pub struct Expr(Arc<Parsed>);

struct Parsed {
    source: String,
    root: Node,
    names: Vec<String>,
    reads: Reads,
}

impl FromStr for Expr {
    type Err = Fault;

    fn from_str(source: &str) -> Result<Self, Fault> {
        let compiled = compile::compile(source).map_err(|error| Fault::invalid(format!("expression: {error}")))?;
        let reads = Reads::of(&compiled.root);
        Ok(Self(Arc::new(Parsed { source: source.to_owned(), root: compiled.root, names: compiled.names, reads })))
    }
}

impl Expr {
    /// Returns the expression as it was written.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Returns the names that the expression looks at, each once.
    pub fn names(&self) -> &[String] {
        &self.0.names
    }

    /// Refuses an expression that looks at a name outside of `known`, saying where.
    pub fn require(&self, known: &[&str]) -> Result<(), Fault> {
        match self.names().iter().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(Fault::invalid(format!(
                "expression: {}: there is no {name:?}; known are {}",
                compile::place_of(self.source(), name),
                known.join(", ")
            ))),
        }
    }

    /// Runs the expression on an event, which must give true or false. Of the data, only what it looks at is built.
    pub fn test_event(&self, event: &Event) -> Result<bool, Fault> {
        self.test(&Scope::reading(event, &self.0.reads))
    }

    /// Runs the expression, which must give true or false.
    pub fn test(&self, scope: &Scope<'_>) -> Result<bool, Fault> {
        let mut run = run::Run::new(scope);
        match run.value(&self.0.root) {
            Ok(Value::Bool(truth)) => Ok(truth),
            Ok(other) => Err(self.failed(&format!("gives {}, not true or false", other.kind()))),
            Err(stop) => Err(self.failed(&stop.to_string())),
        }
    }

    /// Runs the expression and returns what it gives.
    pub fn value(&self, scope: &Scope<'_>) -> Result<Json, Fault> {
        let mut run = run::Run::new(scope);
        run.value(&self.0.root).and_then(|value| run.json(&value)).map_err(|stop| self.failed(&stop.to_string()))
    }

    fn failed(&self, what: &str) -> Fault {
        const SHOWN: usize = 120;
        let source = self.source();
        match source.char_indices().nth(SHOWN) {
            None => Fault::invalid(format!("expression `{source}`: {what}")),
            Some((end, _)) => Fault::invalid(format!("expression `{}…`: {what}", &source[..end])),
        }
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expr({:?})", self.source())
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source())
    }
}

impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

impl Eq for Expr {}

impl Serialize for Expr {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.source())
    }
}

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Expr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Expression".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "maxLength": tidegate_core::limits::EXPRESSION_BYTES_MAX })
    }
}

/// An expression that looks at an event and at nothing else: another name is refused when it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventExpr(Expr);

impl EventExpr {
    /// Returns the expression.
    pub fn expr(&self) -> &Expr {
        &self.0
    }
}

impl FromStr for EventExpr {
    type Err = Fault;

    fn from_str(source: &str) -> Result<Self, Fault> {
        let expr: Expr = source.parse()?;
        expr.require(&EVENT_NAMES)?;
        Ok(Self(expr))
    }
}

impl Serialize for EventExpr {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for EventExpr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for EventExpr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        Expr::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Expr::json_schema(generator)
    }
}

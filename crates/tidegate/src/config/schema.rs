//! What a stream asks of the data of its events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::config::{FileText, Spot};
use tidegate_rules::Schema;

/// JSON Schema that the data of the events of a stream must fit, or the form of the event as a whole. Any draft;
/// references lead only inside of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaConfig {
    /// File that holds the schema as JSON; relative to the directory of this configuration.
    #[serde(default)]
    pub file: Option<FileText>,
    /// The schema itself, in place of a file.
    #[serde(default)]
    pub inline: Option<serde_json::Value>,
    /// In place of both: each event must be an envelope of this version. Its id, subject (or `aggregateid`) and `tenantid` are
    /// UUIDs, `schemaversion` is a whole number from 1 on, and its data are a JSON object. For streams that programs read
    /// which check that; see `docs/redis.md`.
    #[serde(default)]
    pub envelope: Option<EnvelopeVersion>,
    /// When events are checked.
    #[serde(default)]
    pub on: SchemaOn,
}

/// A version of the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnvelopeVersion {
    /// Version 1.
    V1,
}

/// When events are checked against the schema of their stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchemaOn {
    /// Before they are accepted: a publish that does not fit is refused as a whole, with 422 and the JSON pointer of the
    /// value that is wrong.
    #[default]
    Publish,
    /// Before a group handles them: an event that does not fit goes to the dead letters as `invalid`.
    Consume,
    /// Both: for events that were accepted before the schema, or by other ways.
    Both,
}

impl SchemaConfig {
    /// Returns the compiled schema, or the key that is wrong and why.
    pub(crate) fn compile(&self) -> Result<Schema, (&'static str, String)> {
        if let Some(EnvelopeVersion::V1) = self.envelope {
            if self.file.is_some() || self.inline.is_some() {
                return Err(("envelope", "stands beside a schema; one of the two is what events must fit".to_owned()));
            }
            return Schema::envelope_v1().map_err(|fault| ("envelope", fault.note().to_owned()));
        }
        match (&self.file, &self.inline) {
            (Some(file), None) => {
                let document = serde_json::from_str(&file.text)
                    .map_err(|error| ("file", format!("{} is no JSON: {error}", file.path)))?;
                Schema::compile(&document).map_err(|fault| ("file", format!("{}: {}", file.path, fault.note())))
            }
            (None, Some(document)) => Schema::compile(document).map_err(|fault| ("inline", fault.note().to_owned())),
            (None, None) => Err(("file", "one of file, inline and envelope is needed".to_owned())),
            (Some(_), Some(_)) => Err(("inline", "stands beside file; one of the two is the schema".to_owned())),
        }
    }

    /// Tells whether a publish is checked.
    pub(crate) fn at_publish(&self) -> bool {
        matches!(self.on, SchemaOn::Publish | SchemaOn::Both)
    }

    /// Tells whether a delivery is checked.
    pub(crate) fn at_consume(&self) -> bool {
        matches!(self.on, SchemaOn::Consume | SchemaOn::Both)
    }

    pub(super) fn check(&self, here: &Spot<'_>) {
        if let Err((key, why)) = self.compile() {
            here.at(key).error(why);
        }
    }
}

//! Source `stream`: brings the events of another stream. Behind it is a group with the sink `stream`, so that its place,
//! its retries and its accounting are those of every group.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{config::Spot, fault::Result, names::StreamName};

use crate::{
    registry::{ModuleKind, ModuleSpec, OpenSource, SourceParts, SourceSettings},
    sink::stream::{Forward, Where},
};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "stream",
    kind: ModuleKind::Source,
    summary: "brings the events of another stream",
    schema: || schemars::schema_for!(StreamSourceConfig),
};

/// Brings the events of another stream, in its order, each exactly once. It runs as a group with the name of the source
/// behind `source.`, which shows how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamSourceConfig {
    /// Stream whose events are brought.
    pub from: StreamName,
    /// Where that stream is.
    #[serde(default)]
    pub engine: Where,
    /// Stream into which they go.
    pub to: StreamName,
}

impl SourceSettings for StreamSourceConfig {
    fn to(&self) -> &StreamName {
        &self.to
    }

    fn more_streams(&self) -> Vec<(&'static str, &StreamName)> {
        vec![("from", &self.from)]
    }

    fn check(&self, here: &Spot<'_>) {
        here.at("to")
            .require(self.from != self.to, || "is the stream that is read: its events would go in a ring".to_owned());
    }

    fn open(&self, parts: SourceParts) -> Result<OpenSource> {
        let forward = Forward { name: parts.name, to: self.to.clone() };
        Ok(OpenSource::Forwards { from: self.from.clone(), handler: std::sync::Arc::new(forward) })
    }
}

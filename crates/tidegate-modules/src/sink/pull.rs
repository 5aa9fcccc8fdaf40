//! Sink `pull`: workers in any language claim, extend and settle over HTTP; nothing runs in this process.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{config::Spot, fault::Result, handler::Sink};

use crate::registry::{ModuleKind, ModuleSpec, SinkParts, SinkSettings};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "pull",
    kind: ModuleKind::Sink,
    summary: "lends deliveries to workers in any language over HTTP",
    schema: || schemars::schema_for!(PullConfig),
};

/// Workers ask for deliveries themselves; there is nothing to set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PullConfig {}

impl SinkSettings for PullConfig {
    fn check(&self, _: &Spot<'_>) {}

    fn open(&self, _: SinkParts) -> Result<Option<Arc<dyn Sink>>> {
        Ok(None)
    }
}

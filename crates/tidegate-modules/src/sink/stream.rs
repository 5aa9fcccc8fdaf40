//! Sink `stream`: forwards events into another stream, in the commit that settles them.
//!
//! **Invariant:** an event keeps its `source` and `id`, and never goes through one stream twice.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    config::Spot,
    delivery::{Delivery, Outcome},
    event::Event,
    fault::{Failure, FaultClass, Result},
    handler::{Handler, Probe, Sink},
    names::{ModuleName, StreamName},
    notice::Notice,
    service::Context,
};

use crate::registry::{ModuleKind, ModuleSpec, SinkParts, SinkSettings};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "stream",
    kind: ModuleKind::Sink,
    summary: "forwards events into another stream",
    schema: || schemars::schema_for!(StreamSinkConfig),
};

/// Extension attribute with the streams through which an event was forwarded.
const PATH: &str = "tidegatepath";
/// Streams through which an event may be forwarded.
const HOPS_MAX: usize = 16;
/// Events that are forwarded together.
const BATCH: usize = 64;

/// Forwards each event into another stream, in the same commit that settles it: it is there exactly once. It keeps its
/// `source` and `id`, so that the dedupe of the other stream knows it. An event that was in the other stream before, by
/// its attribute `tidegatepath`, is settled and not forwarded again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamSinkConfig {
    /// Stream into which events go.
    pub to: StreamName,
    /// Where that stream is.
    #[serde(default)]
    pub engine: Where,
}

/// Where a stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Where {
    /// In the engine of this node.
    #[default]
    Own,
}

impl SinkSettings for StreamSinkConfig {
    fn streams(&self) -> Vec<(&'static str, &StreamName)> {
        vec![("to", &self.to)]
    }

    fn check(&self, _: &Spot<'_>) {}

    fn open(&self, parts: SinkParts) -> Result<Option<Arc<dyn Sink>>> {
        Ok(Some(Arc::new(Forward { name: parts.name, to: self.to.clone() })))
    }
}

/// Forwards events.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) name: ModuleName,
    pub(crate) to: StreamName,
}

#[async_trait]
impl Handler for Forward {
    async fn handle(&self, cx: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        batch.iter().map(|delivery| self.forward(cx, delivery)).collect()
    }

    fn batch_max(&self) -> usize {
        BATCH
    }

    fn in_process(&self) -> bool {
        // It copies an event and can break on none.
        false
    }
}

impl Forward {
    fn forward(&self, cx: &Context, delivery: &Delivery) -> Outcome {
        let from = delivery.stream.as_str();
        let path = delivery.event.extension(PATH).map_or("", |path| &**path);
        let hops = path.split(',').filter(|hop| !hop.is_empty());
        if self.to.as_str() == from || hops.clone().any(|hop| hop == self.to.as_str()) || hops.count() >= HOPS_MAX {
            let what =
                format!("event {} went through {} before ({path}): not forwarded again", delivery.event.id, self.to);
            cx.notices.emit(&Notice::ModuleReported { module: self.name.clone(), what });
            return Outcome::DONE;
        }
        let path = if path.is_empty() { from.to_owned() } else { format!("{path},{from}") };
        let event: Event = delivery.event.clone().with_extension(PATH, path);
        match event.check() {
            Ok(()) => Outcome::Done(vec![(self.to.clone(), event)]),
            // Its attribute can make an event larger than allowed.
            Err(fault) => Outcome::Reject(Failure::new(FaultClass::Invalid, fault.note().to_owned())),
        }
    }
}

#[async_trait]
impl Probe for Forward {
    async fn probe(&self, _: &Context) -> Result<()> {
        Ok(())
    }
}

//! Sink `stream`: forwards events into another stream, of this node in the commit that settles them, or of an engine beside
//! it.
//!
//! **Invariant:** an event keeps its `source` and `id`, and never goes through one stream of the node twice.

mod across;

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tidegate_core::{
    config::Spot,
    delivery::{Delivery, Outcome},
    event::Event,
    fault::{Failure, Fault, FaultClass, Result},
    handler::{Handler, Probe, Sink},
    names::{EngineName, ModuleName, StreamName, TargetName},
    notice::Notice,
    service::Context,
};

use self::across::Across;
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
pub(crate) const BATCH: usize = 64;

/// Forwards each event into another stream. It keeps its `source` and `id`, so that the dedupe of the other stream knows it.
/// Into a stream of this node it goes in the same commit that settles it: it is there exactly once. An event that was in the
/// other stream before, by its attribute `tidegatepath`, is settled and not forwarded again. Into a stream of another engine
/// it goes before it is settled: after a crash in between it is sent again, and the window of the other stream knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamSinkConfig {
    /// Stream into which events go. One of another engine is made when it is missing there: as the stream of its name is
    /// here, or else with a window of one day.
    pub to: StreamName,
    /// Where that stream is: `own`, or a name in `engines`.
    #[serde(default)]
    pub engine: Where,
    /// Target whose guard stands before the other engine; needed with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
}

/// Where a stream is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Where {
    /// In the engine of this node.
    #[default]
    Own,
    /// In an engine beside it.
    Beside(EngineName),
}

impl Where {
    const OWN: &str = "own";

    pub(crate) fn beside(&self) -> Option<&EngineName> {
        match self {
            Self::Own => None,
            Self::Beside(name) => Some(name),
        }
    }
}

impl Serialize for Where {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.beside().map_or(Self::OWN, EngineName::as_str))
    }
}

impl<'de> Deserialize<'de> for Where {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text == Self::OWN {
            return Ok(Self::Own);
        }
        EngineName::new(&text).map(Self::Beside).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Where {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Where".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "title": "engine", "default": "own" })
    }
}

impl SinkSettings for StreamSinkConfig {
    fn streams(&self) -> Vec<(&'static str, &StreamName)> {
        if self.engine == Where::Own { vec![("to", &self.to)] } else { Vec::new() }
    }

    fn engine(&self) -> Option<&EngineName> {
        self.engine.beside()
    }

    fn target(&self) -> Option<&TargetName> {
        self.target.as_ref()
    }

    fn check(&self, here: &Spot<'_>) {
        let is_beside = self.engine != Where::Own;
        let fits = self.target.is_some() == is_beside;
        here.at("target").require(fits, || {
            let needed = "is needed: its guard stands before the other engine";
            if is_beside { needed } else { "is for a stream of another engine" }.to_owned()
        });
        here.at("to").require(!is_beside || !self.to.is_dead_letters(), || {
            "is where dead letters of the other engine lie: only that engine puts them there".to_owned()
        });
    }

    fn open(&self, parts: SinkParts) -> Result<Option<Arc<dyn Sink>>> {
        let forward = Forward { name: parts.name, to: self.to.clone() };
        if self.engine == Where::Own {
            return Ok(Some(Arc::new(forward)));
        }
        let (beside, guard) = parts.beside.zip(parts.guard).ok_or_else(|| {
            Fault::bug("a sink into another engine was opened without the engine, or without a guard")
        })?;
        Ok(Some(Arc::new(Across::new(forward, beside, guard))))
    }
}

/// Forwards events.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) name: ModuleName,
    pub(crate) to: StreamName,
}

/// Why an event is not forwarded.
pub(crate) enum Stays {
    /// It was there before.
    Been(String),
    /// It can never be.
    Never(Failure),
}

#[async_trait]
impl Handler for Forward {
    async fn handle(&self, cx: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        let forward = |delivery: &Delivery| match self.prepare(delivery, true) {
            Ok(event) => Outcome::Done(vec![(self.to.clone(), event)]),
            Err(stays) => self.stay(cx, stays),
        };
        batch.iter().map(forward).collect()
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
    /// Returns the event as it is forwarded. Names of streams of another engine say nothing: with `is_own` false only the
    /// number of hops counts.
    pub(crate) fn prepare(&self, delivery: &Delivery, is_own: bool) -> Result<Event, Stays> {
        let from = delivery.stream.as_str();
        let path = delivery.event.extension(PATH).map_or("", |path| &**path);
        let hops = path.split(',').filter(|hop| !hop.is_empty());
        let is_here = |hop: &str| is_own && hop == self.to.as_str();
        if is_here(from) || hops.clone().any(is_here) || hops.count() >= HOPS_MAX {
            let id = &delivery.event.id;
            return Err(Stays::Been(format!(
                "event {id} went through {} before ({path}): not forwarded again",
                self.to
            )));
        }
        let path = if path.is_empty() { from.to_owned() } else { format!("{path},{from}") };
        let event: Event = delivery.event.clone().with_extension(PATH, path);
        // Its attribute can make an event larger than allowed.
        let never = |fault: Fault| Stays::Never(Failure::new(FaultClass::Invalid, fault.note().to_owned()));
        event.check().map_err(never)?;
        Ok(event)
    }

    /// Says what becomes of an event that is not forwarded.
    fn stay(&self, cx: &Context, stays: Stays) -> Outcome {
        match stays {
            Stays::Been(what) => {
                cx.notices.emit(&Notice::ModuleReported { module: self.name.clone(), what });
                Outcome::DONE
            }
            Stays::Never(failure) => Outcome::Reject(failure),
        }
    }
}

#[async_trait]
impl Probe for Forward {
    async fn probe(&self, _: &Context) -> Result<()> {
        Ok(())
    }
}

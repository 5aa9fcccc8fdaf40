//! Source `stream`: brings the events of another stream. In the node's own engine a group with the sink `stream` stands behind
//! it, so that its place, its retries and its accounting are those of every group; in an engine beside it, a group there.

mod bring;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    config::{Spot, Time},
    fault::{Fault, Result},
    names::{EngineName, GroupName, StreamName},
};

use self::bring::Bring;
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

/// How long a stream must know repeats: what was brought and not settled in the other engine comes again after a crash.
const DEDUPE_MIN: Time = Time::from_secs(3600);

/// Brings the events of another stream, in its order. From a stream of this node each comes exactly once: a group with the
/// name of the source behind `source.` does the work, and shows how far it is. From a stream of another engine, a group there
/// lends them; they are durable here before they are settled there, and the window of the stream knows what comes again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamSourceConfig {
    /// Stream whose events are brought.
    pub from: StreamName,
    /// Where that stream is: `own`, or a name in `engines`.
    #[serde(default)]
    pub engine: Where,
    /// Group of the other engine that lends them: one that is there goes on where it stands, retries and all, so nobody else
    /// may work for it. Absent = one of its own, `source.` and the name of the source, from the oldest event on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Stream into which they go.
    pub to: StreamName,
}

impl SourceSettings for StreamSourceConfig {
    fn to(&self) -> &StreamName {
        &self.to
    }

    fn more_streams(&self) -> Vec<(&'static str, &StreamName)> {
        if self.engine == Where::Own { vec![("from", &self.from)] } else { Vec::new() }
    }

    fn engine(&self) -> Option<&EngineName> {
        self.engine.beside()
    }

    fn dedupe_min(&self) -> Option<Time> {
        self.engine.beside().map(|_| DEDUPE_MIN)
    }

    fn check(&self, here: &Spot<'_>) {
        let is_own = self.engine == Where::Own;
        here.at("to").require(!is_own || self.from != self.to, || {
            "is the stream that is read: its events would go in a ring".to_owned()
        });
        here.at("group").require(!is_own || self.group.is_none(), || "is for a stream of another engine".to_owned());
        here.at("from").require(is_own || !self.from.is_dead_letters(), || {
            "is where dead letters of the other engine lie: reprocess them there first".to_owned()
        });
    }

    fn open(&self, parts: SourceParts) -> Result<OpenSource> {
        if self.engine == Where::Own {
            let forward = Forward { name: parts.name, to: self.to.clone() };
            return Ok(OpenSource::Forwards { from: self.from.clone(), handler: Arc::new(forward) });
        }
        let beside = parts.beside.ok_or_else(|| Fault::bug("a source from another engine was opened without it"))?;
        let group = match &self.group {
            Some(group) => group.clone(),
            None => GroupName::new(&format!("source.{}", parts.name))?,
        };
        Ok(OpenSource::Runs(Arc::new(Bring::new(parts.name, beside, self, group))))
    }
}

//! What is declared: streams and groups with their settings, as a server keeps them and as this process knows them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tidegate_core::{
    dedupe::DedupeKey,
    delivery::Position,
    fault::{Fault, Result},
    names::{GroupName, StreamName},
    order::OrderBy,
    store::{DeadKeep, DedupeWindow, Durability, GroupSpec, OnFailure, Retain, Start, StreamSpec},
};

/// What this process knows of streams and groups; read anew when a name is not in it.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) streams: BTreeMap<StreamName, Arc<StreamHead>>,
    pub(crate) groups: BTreeMap<GroupName, Arc<GroupHead>>,
}

/// A stream as it is declared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StreamHead {
    pub(crate) id: u32,
    pub(crate) spec: StreamSpec,
}

/// A group as it is declared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupHead {
    pub(crate) id: u32,
    pub(crate) spec: GroupSpec,
}

/// Settings of a stream as its server keeps them.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredStream {
    durability: Option<u64>,
    age: Option<u64>,
    count: Option<u64>,
    bytes: Option<u64>,
    drop_unsettled: bool,
    max_backlog: Option<u64>,
    dedupe: Option<(DedupeKey, u64, u64)>,
    parked: Option<u64>,
    settled: u64,
}

/// Settings of a group as its server keeps them.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredGroup {
    stream: StreamName,
    order_by: Option<String>,
    block: bool,
    ledger: Option<u64>,
    mark_claims: bool,
    #[serde(default)]
    end: Option<Position>,
    #[serde(default)]
    after: bool,
    /// In milliseconds.
    #[serde(default)]
    priority_step: Option<u64>,
}

impl Registry {
    /// Returns the numbers of all streams and groups.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let streams = self.streams.values().map(|head| head.id);
        streams.chain(self.groups.values().map(|head| head.id)).collect()
    }

    /// Returns the numbers of the groups that read a stream.
    pub(crate) fn readers(&self, stream: u32) -> Vec<u32> {
        let Some(head) = self.streams.values().find(|head| head.id == stream) else { return Vec::new() };
        let name = &head.spec.name;
        self.groups.values().filter(|group| group.spec.stream == *name).map(|group| group.id).collect()
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(1 << 52)
}

impl StoredStream {
    pub(crate) fn new(spec: &StreamSpec) -> Self {
        let Retain { age, count, bytes, drop_unsettled } = spec.retain;
        Self {
            durability: match spec.durability {
                Durability::Sync => Some(0),
                Durability::Interval(every) => Some(millis(every)),
                Durability::Os => None,
            },
            age: age.map(millis),
            count,
            bytes,
            drop_unsettled,
            max_backlog: spec.max_backlog,
            dedupe: spec.dedupe.as_ref().map(|window| (window.key.clone(), millis(window.window), window.entries)),
            parked: spec.dead.parked.map(millis),
            settled: millis(spec.dead.settled),
        }
    }

    pub(crate) fn spec(self, name: StreamName) -> StreamSpec {
        let Self { age, count, bytes, drop_unsettled, .. } = self;
        let time = Duration::from_millis;
        StreamSpec {
            name,
            durability: match self.durability {
                Some(0) => Durability::Sync,
                Some(every) => Durability::Interval(time(every)),
                None => Durability::Os,
            },
            retain: Retain { age: age.map(time), count, bytes, drop_unsettled },
            max_backlog: self.max_backlog,
            dedupe: self.dedupe.map(|(key, window, entries)| DedupeWindow { key, window: time(window), entries }),
            dead: DeadKeep { parked: self.parked.map(time), settled: time(self.settled) },
        }
    }
}

impl StoredGroup {
    pub(crate) fn new(spec: &GroupSpec) -> Self {
        Self {
            stream: spec.stream.clone(),
            order_by: spec.order_by.as_ref().map(OrderBy::to_string),
            block: spec.on_failure == OnFailure::Block,
            ledger: spec.ledger.map(millis),
            mark_claims: spec.mark_claims,
            end: spec.end,
            after: spec.after,
            priority_step: spec.priority_step.map(millis),
        }
    }

    pub(crate) fn spec(self, name: GroupName) -> GroupSpec {
        GroupSpec {
            name,
            stream: self.stream,
            start: Start::Earliest,
            end: self.end,
            order_by: self.order_by.and_then(|text| text.parse().ok()),
            on_failure: if self.block { OnFailure::Block } else { OnFailure::Skip },
            ledger: self.ledger.map(Duration::from_millis),
            after: self.after,
            priority_step: self.priority_step.map(Duration::from_millis),
            mark_claims: self.mark_claims,
        }
    }
}

/// A number for a new stream or group. Never one that was given before, also not by a server that has lost that since: a
/// node that still knows it must not write into something else.
pub(crate) fn fresh_number() -> u32 {
    fastrand::u32(1..1 << 31)
}

impl Registry {
    /// Returns a group by its number.
    pub(crate) fn group_by_id(&self, id: u32) -> Option<Arc<GroupHead>> {
        self.groups.values().find(|head| head.id == id).map(Arc::clone)
    }

    /// Returns the name of a group by its number.
    pub(crate) fn group_name(&self, id: u32) -> Option<GroupName> {
        self.group_by_id(id).map(|head| head.spec.name.clone())
    }
}

/// Settings as the server keeps them.
pub(crate) fn written(name: &str, settings: &impl Serialize) -> Result<String> {
    serde_json::to_string(settings).map_err(|error| Fault::bug(format!("declare {name}: {error}")))
}

/// The dead-letter stream that comes with a stream.
pub(crate) fn dead_spec(spec: &StreamSpec) -> StreamSpec {
    StreamSpec {
        name: spec.name.dead_letters(),
        durability: Durability::Sync,
        retain: Retain::default(),
        max_backlog: None,
        dedupe: None,
        dead: spec.dead,
    }
}

/// Refuses to declare a stream by the name of one that comes with another.
pub(crate) fn check_name(spec: &StreamSpec) -> Result<()> {
    if spec.name.is_dead_letters() {
        return Err(Fault::invalid(format!(
            "stream {:?}: names that end in .dlq are made by the streams whose dead letters they keep",
            spec.name.as_str()
        )));
    }
    Ok(())
}

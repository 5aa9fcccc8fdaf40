//! What is declared: streams and groups with their settings, as they lie in Redis and as this process knows them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tidegate_core::{
    dedupe::DedupeKey,
    delivery::Position,
    fault::{Fault, FaultKind, Result},
    names::{GroupName, StreamName},
    order::OrderBy,
    store::{DeadKeep, DedupeWindow, Durability, GroupSpec, OnFailure, Retain, Start, StreamSpec},
};

use super::{
    RedisStore,
    link::Trouble,
    reply::{Reply, id_text, odd},
    script::SCRIPTS,
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

/// Settings of a stream in Redis.
#[derive(Serialize, Deserialize)]
struct StoredStream {
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

/// Settings of a group in Redis.
#[derive(Serialize, Deserialize)]
struct StoredGroup {
    stream: StreamName,
    order_by: Option<String>,
    block: bool,
    ledger: Option<u64>,
    mark_claims: bool,
    #[serde(default)]
    end: Option<Position>,
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
    fn new(spec: &StreamSpec) -> Self {
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

    fn spec(self, name: StreamName) -> StreamSpec {
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
    fn new(spec: &GroupSpec) -> Self {
        Self {
            stream: spec.stream.clone(),
            order_by: spec.order_by.as_ref().map(OrderBy::to_string),
            block: spec.on_failure == OnFailure::Block,
            ledger: spec.ledger.map(millis),
            mark_claims: spec.mark_claims,
            end: spec.end,
        }
    }

    fn spec(self, name: GroupName) -> GroupSpec {
        GroupSpec {
            name,
            stream: self.stream,
            start: Start::Earliest,
            end: self.end,
            order_by: self.order_by.and_then(|text| text.parse().ok()),
            on_failure: if self.block { OnFailure::Block } else { OnFailure::Skip },
            ledger: self.ledger.map(Duration::from_millis),
            after: false,
            priority_step: None,
            mark_claims: self.mark_claims,
        }
    }
}

/// A number for a new stream or group. Never one that was given before, also not by a server that has lost that since: a
/// node that still knows it must not write into something else.
fn fresh_number() -> u32 {
    fastrand::u32(1..1 << 31)
}

/// Splits a stored declaration into its number and its settings.
fn split<T: serde::de::DeserializeOwned>(stored: &str) -> Result<(u32, T)> {
    let (id, settings) = stored.split_once(' ').ok_or_else(odd)?;
    let settings = serde_json::from_str(settings).map_err(|_| odd())?;
    Ok((id.parse().map_err(|_| odd())?, settings))
}

impl RedisStore {
    /// Reads what is declared, by this process and by others.
    pub(crate) async fn load_registry(&self) -> Result<()> {
        let read = async |key: &str| {
            let mut command = redis::cmd("HGETALL");
            command.arg(format!("{}tidegate:{key}", self.options.prefix));
            let answer = self.link.command(&command).await;
            let pairs = Reply::new(answer.map_err(|trouble| trouble.fault("read what is declared"))?)
                .each(|pair| Ok((pair.text()?, pair.text()?)))?;
            Ok::<_, Fault>(pairs)
        };
        let (streams, groups) = (read("streams").await?, read("groups").await?);
        // A server that has lost everything must not make this process forget what it declared.
        if streams.is_empty() && !self.registry.read().streams.is_empty() {
            return self.restore().await.map(drop);
        }
        let mut fresh = Registry::default();
        for (name, stored) in streams {
            let name = StreamName::new(&name)?;
            let (id, settings) = split::<StoredStream>(&stored)?;
            fresh.streams.insert(name.clone(), Arc::new(StreamHead { id, spec: settings.spec(name) }));
        }
        for (name, stored) in groups {
            let name = GroupName::new(&name)?;
            let (id, settings) = split::<StoredGroup>(&stored)?;
            fresh.groups.insert(name.clone(), Arc::new(GroupHead { id, spec: settings.spec(name) }));
        }
        *self.registry.write() = fresh;
        Ok(())
    }

    /// Returns a stream by its name.
    pub(crate) async fn stream_head(&self, name: &StreamName) -> Result<Arc<StreamHead>> {
        let known = || self.registry.read().streams.get(name).map(Arc::clone);
        if let Some(head) = known() {
            return Ok(head);
        }
        self.load_registry().await?;
        known().ok_or_else(|| Fault::missing(format!("there is no stream {:?}", name.as_str())))
    }

    /// Returns a group by its name.
    pub(crate) async fn group_head(&self, name: &GroupName) -> Result<Arc<GroupHead>> {
        let known = || self.registry.read().groups.get(name).map(Arc::clone);
        if let Some(head) = known() {
            return Ok(head);
        }
        self.load_registry().await?;
        known().ok_or_else(|| Fault::missing(format!("there is no group {:?}", name.as_str())))
    }

    /// Returns the dead letters of a stream, by either name.
    pub(crate) async fn dead_head(&self, name: &StreamName) -> Result<Arc<StreamHead>> {
        // A name that nobody declared is told as it was asked for.
        self.stream_head(&name.origin().dead_letters()).await.map_err(|fault| {
            let missing = || Fault::missing(format!("there is no stream {:?}", name.as_str()));
            if fault.kind == FaultKind::Missing { missing() } else { fault }
        })
    }

    /// Returns the name of a group by its number.
    pub(crate) fn group_name(&self, id: u32) -> Option<GroupName> {
        self.registry.read().groups.values().find(|head| head.id == id).map(|head| head.spec.name.clone())
    }

    /// Declares one stream.
    pub(crate) async fn declare_one(&self, spec: &StreamSpec) -> Result<()> {
        if self.registry.read().streams.get(&spec.name).is_some_and(|head| head.spec == *spec) {
            return Ok(());
        }
        self.declare_anew(spec).await
    }

    /// Declares a stream whatever is known of it.
    pub(crate) async fn declare_anew(&self, spec: &StreamSpec) -> Result<()> {
        let settings = serde_json::to_string(&StoredStream::new(spec))
            .map_err(|error| Fault::bug(format!("declare stream {}: {error}", spec.name)))?;
        let window = spec.dedupe.as_ref();
        loop {
            let mut ask = self.ask(&SCRIPTS.declare_stream);
            ask.number(fresh_number())
                .text(spec.name.as_str())
                .text(&settings)
                .maybe(window.map(|window| millis(window.window)))
                .maybe(window.map(|window| window.entries))
                .number(u8::from(spec.name.is_dead_letters()));
            let answer = match self.link.run_again(&ask).await {
                Err(trouble) if trouble.code() == Some("TGAGAIN") => continue,
                answer => answer.map_err(|trouble| trouble.fault("declare a stream"))?,
            };
            let mut answer = Reply::new(answer);
            let (id, behind) = (answer.number()?, answer.flag()?);
            let head = Arc::new(StreamHead { id, spec: spec.clone() });
            self.registry.write().streams.insert(spec.name.clone(), head);
            if !behind {
                return Ok(());
            }
        }
    }

    /// Declares a group.
    pub(crate) async fn declare_one_group(&self, spec: &GroupSpec) -> Result<()> {
        self.stream_head(&spec.stream).await?;
        let declared = GroupSpec { start: Start::Earliest, after: false, priority_step: None, ..spec.clone() };
        if self.registry.read().groups.get(&spec.name).is_some_and(|head| head.spec == declared) {
            return Ok(());
        }
        self.declare_group_anew(spec).await
    }

    /// Declares a group whatever is known of it; its stream is known.
    pub(crate) async fn declare_group_anew(&self, spec: &GroupSpec) -> Result<()> {
        let stream = self.registry.read().streams.get(&spec.stream).map(Arc::clone);
        let stream = stream.ok_or_else(|| Fault::missing(format!("there is no stream {:?}", spec.stream.as_str())))?;
        let declared = GroupSpec { start: Start::Earliest, after: false, priority_step: None, ..spec.clone() };
        let settings = serde_json::to_string(&StoredGroup::new(spec))
            .map_err(|error| Fault::bug(format!("declare group {}: {error}", spec.name)))?;
        let start = match spec.start {
            Start::Earliest => "earliest".to_owned(),
            Start::Latest => "latest".to_owned(),
            Start::At(position) => id_text(position),
        };
        let id = loop {
            let mut ask = self.ask(&SCRIPTS.declare_group);
            ask.number(fresh_number())
                .text(spec.name.as_str())
                .number(stream.id)
                .text(&settings)
                .text(&start)
                .number(u8::from(spec.on_failure == OnFailure::Block))
                .maybe(spec.ledger.map(millis))
                .number(u8::from(spec.mark_claims))
                .maybe_position(spec.end);
            match self.link.run_again(&ask).await {
                Ok(answer) => break Reply::new(answer).number()?,
                Err(trouble) if trouble.code() == Some("TGAGAIN") => {}
                Err(trouble) => return Err(not_declared(spec, trouble)),
            }
        };
        let head = Arc::new(GroupHead { id, spec: declared });
        self.registry.write().groups.insert(spec.name.clone(), head);
        Ok(())
    }
}

/// Says why a group was not declared.
fn not_declared(spec: &GroupSpec, trouble: Trouble) -> Fault {
    let (name, stream) = (spec.name.as_str(), spec.stream.as_str());
    match trouble {
        Trouble::Told { code, detail } if code == "TGCONFLICT" && detail == "end" => {
            Fault::conflict(format!("group {name:?} cannot change its end: remove it first"))
        }
        Trouble::Told { code, detail } if code == "TGCONFLICT" => Fault::conflict(format!(
            "group {name:?} reads stream {detail:?} and cannot change to {stream:?}: remove it first"
        )),
        Trouble::Told { code, detail } if code == "TGPENDING" => {
            let (pending, most) = detail.split_once(' ').unwrap_or((&detail, ""));
            Fault::conflict(format!(
                "group {name:?} cannot take over the consumer group of that name: {pending} entries of stream \
                 {stream:?} are pending in it, more than {most}"
            ))
        }
        Trouble::Told { code, detail } if code == "TGINVALID" => {
            let (first, last) = detail.split_once(' ').unwrap_or((&detail, ""));
            Fault::invalid(format!(
                "group {name:?} cannot start or end there: stream {stream:?} is kept from {first} to {last}"
            ))
        }
        trouble @ (Trouble::Gone(_) | Trouble::Late(_) | Trouble::Told { .. }) => {
            trouble.fault(&format!("declare group {name:?}"))
        }
    }
}

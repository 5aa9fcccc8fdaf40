//! What is declared: streams and groups with their settings, as they lie in Redis and as this process knows them.

use std::sync::Arc;

use tidegate_core::{
    fault::{Fault, FaultKind, Result},
    names::{GroupName, StreamName},
    store::{GroupSpec, OnFailure, Start, StreamSpec},
};

use super::{
    RedisStore,
    link::Trouble,
    reply::{Reply, id_text, odd},
    script::SCRIPTS,
};
pub(crate) use crate::served::declared::{GroupHead, Registry, StreamHead, millis};
use crate::served::declared::{StoredGroup, StoredStream, fresh_number, written};

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
        self.registry.read().group_name(id)
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
        let settings = written(spec.name.as_str(), &StoredStream::new(spec))?;
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
        let declared = GroupSpec { start: Start::Earliest, ..spec.clone() };
        if self.registry.read().groups.get(&spec.name).is_some_and(|head| head.spec == declared) {
            return Ok(());
        }
        self.declare_group_anew(spec).await
    }

    /// Declares a group whatever is known of it; its stream is known.
    pub(crate) async fn declare_group_anew(&self, spec: &GroupSpec) -> Result<()> {
        let stream = self.registry.read().streams.get(&spec.stream).map(Arc::clone);
        let stream = stream.ok_or_else(|| Fault::missing(format!("there is no stream {:?}", spec.stream.as_str())))?;
        let declared = GroupSpec { start: Start::Earliest, ..spec.clone() };
        let settings = written(spec.name.as_str(), &StoredGroup::new(&declared))?;
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
                .maybe_position(spec.end)
                .number(u8::from(spec.after))
                .maybe(spec.priority_step.map(millis));
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

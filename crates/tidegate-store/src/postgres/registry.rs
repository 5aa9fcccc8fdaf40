//! What is declared: streams and groups with their settings, as they lie in the database and as this process knows them.

use std::sync::Arc;

use tidegate_core::{
    fault::{Fault, FaultKind, Result},
    names::{GroupName, StreamName},
    store::{Durability, GroupSpec, OnFailure, Start, StreamSpec},
};

use super::{
    PostgresStore,
    link::{CONFLICT, Lane, NOT_KEPT, Trouble, Values},
    row::{get, number, odd},
};
use crate::served::declared::{
    GroupHead, Registry, StoredGroup, StoredStream, StreamHead, fresh_number, millis, written,
};

/// A time as a number of the server.
pub(crate) fn time(time: std::time::Duration) -> i64 {
    i64::try_from(millis(time)).unwrap_or(i64::MAX)
}

fn read<T: serde::de::DeserializeOwned>(settings: &str) -> Result<T> {
    serde_json::from_str(settings).map_err(|_| odd())
}

impl PostgresStore {
    /// Reads what is declared, by this process and by others.
    pub(crate) async fn load_registry(&self) -> Result<()> {
        let statement =
            "SELECT true AS is_stream, id, name, spec FROM streams UNION ALL SELECT false, id, name, spec FROM groups";
        let rows = match self.link.ask(Lane::Look, statement, &[]).await {
            Ok(rows) => rows,
            Err(trouble) if trouble.is_lost() => return self.restore().await.map(drop),
            Err(trouble) => return Err(trouble.fault("read what is declared")),
        };
        // A server that has lost everything must not make this process forget what it declared.
        if rows.is_empty() && !self.registry.read().streams.is_empty() {
            return self.restore().await.map(drop);
        }
        let mut fresh = Registry::default();
        for row in rows {
            let id = get::<i32>(&row, "id")?.cast_unsigned();
            let (name, settings): (&str, &str) = (get(&row, "name")?, get(&row, "spec")?);
            if get(&row, "is_stream")? {
                let name = StreamName::new(name)?;
                let spec = read::<StoredStream>(settings)?.spec(name.clone());
                fresh.streams.insert(name, Arc::new(StreamHead { id, spec }));
            } else {
                let name = GroupName::new(name)?;
                let spec = read::<StoredGroup>(settings)?.spec(name.clone());
                fresh.groups.insert(name, Arc::new(GroupHead { id, spec }));
            }
        }
        *self.registry.write() = fresh;
        Ok(())
    }

    /// Returns a stream by its name.
    pub(crate) async fn stream_head(&self, name: &StreamName) -> Result<Arc<StreamHead>> {
        self.check_open()?;
        let known = || self.registry.read().streams.get(name).map(Arc::clone);
        if let Some(head) = known() {
            return Ok(head);
        }
        self.load_registry().await?;
        known().ok_or_else(|| Fault::missing(format!("there is no stream {:?}", name.as_str())))
    }

    /// Returns a group by its name.
    pub(crate) async fn group_head(&self, name: &GroupName) -> Result<Arc<GroupHead>> {
        self.check_open()?;
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

    /// Declares one stream.
    pub(crate) async fn declare_one(&self, spec: &StreamSpec) -> Result<()> {
        self.check_open()?;
        if self.registry.read().streams.get(&spec.name).is_some_and(|head| head.spec == *spec) {
            return Ok(());
        }
        self.declare_anew(spec).await
    }

    /// Declares a stream whatever is known of it.
    pub(crate) async fn declare_anew(&self, spec: &StreamSpec) -> Result<()> {
        let settings = written(spec.name.as_str(), &StoredStream::new(spec))?;
        let window = spec.dedupe.as_ref().map(|window| time(window.window));
        let entries = spec.dedupe.as_ref().map(|window| i64::try_from(window.entries).unwrap_or(i64::MAX));
        let backlog = spec.max_backlog.map(|most| i64::try_from(most).unwrap_or(i64::MAX));
        let is_durable = spec.durability == Durability::Sync;
        let statement = "SELECT tg_declare_stream($1, $2, $3, $4, $5, $6, $7, $8) AS id";
        let row = loop {
            let (fresh, is_dead) = (fresh_number().cast_signed(), spec.name.is_dead_letters());
            let name = spec.name.as_str();
            let values: Values<'_> = &[&fresh, &name, &settings, &window, &entries, &backlog, &is_durable, &is_dead];
            match self.link.ask_one(Lane::Settle, statement, values).await {
                // The number is another one's.
                Err(Trouble::Told { code, .. }) if code == "23505" => {}
                answer => break answer.map_err(|trouble| trouble.fault("declare a stream"))?,
            }
        };
        let head = StreamHead { id: get::<i32>(&row, "id")?.cast_unsigned(), spec: spec.clone() };
        self.registry.write().streams.insert(spec.name.clone(), Arc::new(head));
        Ok(())
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
        let settings = written(spec.name.as_str(), &StoredGroup::new(spec))?;
        let start = match spec.start {
            Start::Earliest => Some(0),
            Start::Latest => None,
            Start::At(position) => Some(number(position).max(1)),
        };
        let (name, order) = (spec.name.as_str(), spec.order_by.as_ref().map(ToString::to_string));
        let (is_block, ledger) = (spec.on_failure == OnFailure::Block, spec.ledger.map(time));
        let (step, end) = (spec.priority_step.map(time), spec.end.map(number));
        let statement = "SELECT tg_declare_group($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS id";
        let row = loop {
            let (fresh, stream) = (fresh_number().cast_signed(), stream.id.cast_signed());
            let values: Values<'_> = &[
                &fresh,
                &name,
                &stream,
                &settings,
                &start,
                &order,
                &is_block,
                &ledger,
                &spec.mark_claims,
                &spec.after,
                &step,
                &end,
            ];
            match self.link.ask_one(Lane::Settle, statement, values).await {
                Err(Trouble::Told { code, .. }) if code == "23505" => {}
                Err(trouble) => return Err(not_declared(spec, trouble)),
                Ok(row) => break row,
            }
        };
        let declared = GroupSpec { start: Start::Earliest, ..spec.clone() };
        let head = GroupHead { id: get::<i32>(&row, "id")?.cast_unsigned(), spec: declared };
        self.registry.write().groups.insert(spec.name.clone(), Arc::new(head));
        Ok(())
    }
}

/// Says why a group was not declared.
fn not_declared(spec: &GroupSpec, trouble: Trouble) -> Fault {
    let (name, stream) = (spec.name.as_str(), spec.stream.as_str());
    match trouble {
        Trouble::Told { code, note } if code == CONFLICT && note == "end" => {
            Fault::conflict(format!("group {name:?} cannot change its end: remove it first"))
        }
        Trouble::Told { code, note } if code == CONFLICT => Fault::conflict(format!(
            "group {name:?} reads stream {note:?} and cannot change to {stream:?}: remove it first"
        )),
        Trouble::Told { code, note } if code == NOT_KEPT => {
            let (first, last) = note.split_once(' ').unwrap_or((&note, ""));
            Fault::invalid(format!(
                "group {name:?} cannot start or end there: stream {stream:?} is kept from {first} to {last}"
            ))
        }
        trouble @ (Trouble::Gone(_) | Trouble::Late(_) | Trouble::Told { .. }) => {
            trouble.fault(&format!("declare group {name:?}"))
        }
    }
}

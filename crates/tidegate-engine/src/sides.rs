//! Side groups: each handles a range of a stream once more, beside the groups of the configuration, with a ledger of its
//! own, and goes when that is done.
//!
//! **Invariant:** what is wanted of a side group is durable before its group is declared, and that it is over is durable
//! before its group is forgotten. A node that dies in between neither begins a range anew nor leaves a group behind.

mod heed;
mod watch;

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    fault::{Fault, FaultKind, Result},
    guard::Rate,
    limits,
    names::{GroupName, StreamName},
    notice::Notice,
    seek::SeekTo,
    service::{Context, Stopper},
    store::{GroupSpec, Start, Store},
};

use self::watch::Watch;
use crate::{
    group::{GroupPolicy, Pace},
    groups::Groups,
    supervisor::Supervisor,
};

/// Keys of side groups in the control state.
const PREFIX: &str = "side/";
/// How long what is in flight may take to finish when a side group is removed.
const FINISH: Duration = Duration::from_secs(10);

fn key(name: &GroupName) -> String {
    format!("{PREFIX}{name}")
}

/// What is asked of a side group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SideAsk {
    /// The group whose stream it reads.
    pub of: GroupName,
    /// The group whose handler and settings it has.
    pub with: GroupName,
    /// First event that it handles.
    pub from: Position,
    /// First event that it no longer handles.
    pub before: Position,
    /// Most deliveries.
    pub rate: Option<Rate>,
    /// Whether it stays when it is done, until somebody removes it.
    pub keep: bool,
    /// Who asks.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A side group as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    ask: SideAsk,
    at: Timestamp,
    /// When all of its range was handled.
    ended_at: Option<Timestamp>,
    /// It is being forgotten.
    over: bool,
}

/// A side group that is there.
struct Live {
    kept: Kept,
    /// Stops it before the node; none when nothing of it runs here.
    stopper: Option<Stopper>,
    /// It is over, and this node forgets it for all.
    forgets: bool,
}

/// A side group as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct SideView {
    /// What was asked.
    pub ask: SideAsk,
    /// When.
    pub at: Timestamp,
    /// When all of its range was handled.
    pub ended_at: Option<Timestamp>,
    /// Whether it runs: not when the configuration no longer names what it runs like.
    pub runs: bool,
}

/// All side groups of a node. Cheap to clone.
#[derive(Clone)]
pub struct Sides(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    cx: Context,
    supervisor: Supervisor,
    groups: Groups,
    live: Mutex<BTreeMap<GroupName, Live>>,
    /// Whether there are other nodes, which learn a little later what is wanted.
    has_peers: AtomicBool,
    /// One coming or going at a time.
    changing: tokio::sync::Mutex<()>,
    /// Streams into which handlers write, by group.
    writes: OnceLock<BTreeMap<GroupName, Vec<StreamName>>>,
}

impl fmt::Debug for Sides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.live.lock().keys()).finish()
    }
}

impl Sides {
    /// Makes a node's side groups, none yet.
    pub fn new(store: Arc<dyn Store>, cx: Context, supervisor: Supervisor, groups: Groups) -> Self {
        Self(Arc::new(Inner {
            store,
            cx,
            supervisor,
            groups,
            live: Mutex::default(),
            has_peers: AtomicBool::new(false),
            changing: tokio::sync::Mutex::new(()),
            writes: OnceLock::new(),
        }))
    }

    /// Takes up the side groups that were there when the node stopped, once the groups of the configuration are there.
    /// `writes` says into which streams their handlers write.
    pub async fn restore(&self, writes: BTreeMap<GroupName, Vec<StreamName>>) -> Result<()> {
        self.0.writes.set(writes).map_err(|_| Fault::bug("side groups were restored twice"))?;
        for (key, value) in self.0.store.states(PREFIX).await? {
            let (name, kept) = read(&key, &value)?;
            if kept.over {
                self.0.forget(&name).await?;
            } else {
                self.0.open(name, kept).await?;
            }
        }
        Ok(())
    }

    /// Finds the range between two places for a group; an event that is named as the end belongs to it, and what was
    /// accepted at a time that is named does not. Without an end: all that is there now.
    pub async fn range(&self, of: &GroupName, from: &SeekTo, to: Option<&SeekTo>) -> Result<Range<Position>> {
        let groups = &self.0.groups;
        let start = groups.locate(of, from).await?;
        let latest = groups.locate(of, &SeekTo::Latest).await?;
        let end = match to {
            None => latest,
            Some(place @ (SeekTo::At(_) | SeekTo::Event(_))) => {
                let last = groups.locate(of, place).await?;
                Position { low: last.low.saturating_add(1), ..last }.min(latest)
            }
            Some(place) => groups.locate(of, place).await?,
        };
        if start >= end {
            return Err(Fault::invalid(format!("no event lies from {start} on and before {end}")));
        }
        Ok(start..end)
    }

    /// Starts a side group; it is durable when this returns.
    pub async fn begin(&self, name: &GroupName, ask: SideAsk) -> Result<()> {
        let inner = &self.0;
        let _changing = inner.changing.lock().await;
        inner.admit(name, &ask).await?;
        let kept = Kept { ask, at: inner.cx.clock.now(), ended_at: None, over: false };
        inner.keep(name, &kept).await?;
        if let Some(rate) = kept.ask.rate {
            let pace = Pace { rate, before: kept.ask.before };
            inner.groups.keep_pace(name, &pace).await?;
        }
        if let Err(fault) = inner.open(name.clone(), kept.clone()).await {
            inner.forget(name).await?;
            return Err(fault);
        }
        let SideAsk { of, with, from, before, by, reason, .. } = kept.ask;
        let group = name.clone();
        inner.cx.notices.emit(&Notice::ReplayStarted { group, of, with, from, before, by, reason });
        Ok(())
    }

    /// Ends a side group before its time, or one that was kept. What is in flight is finished first, if that is soon.
    pub async fn remove(&self, name: &GroupName, by: &str, reason: &str) -> Result<()> {
        let _changing = self.0.changing.lock().await;
        if !self.0.live.lock().contains_key(name) {
            return Err(Fault::missing(format!("there is no side group {name}")));
        }
        self.0.end(name, by, reason).await
    }

    /// Returns a side group; none when the group is none.
    pub fn get(&self, name: &GroupName) -> Option<SideView> {
        self.0.live.lock().get(name).map(view)
    }

    /// Returns all side groups.
    pub fn list(&self) -> BTreeMap<GroupName, SideView> {
        self.0.live.lock().iter().map(|(name, live)| (name.clone(), view(live))).collect()
    }
}

fn read(key: &str, value: &[u8]) -> Result<(GroupName, Kept)> {
    let unreadable = || format!("stored state of side group {key} is not readable");
    let kept = serde_json::from_slice(value).map_err(|err| Fault::corrupt(unreadable()).because(err))?;
    Ok((GroupName::new(key.strip_prefix(PREFIX).unwrap_or_default())?, kept))
}

fn view(live: &Live) -> SideView {
    let Kept { ask, at, ended_at, .. } = live.kept.clone();
    SideView { ask, at, ended_at, runs: live.stopper.is_some() }
}

impl Inner {
    async fn admit(&self, name: &GroupName, ask: &SideAsk) -> Result<()> {
        {
            let live = self.live.lock();
            if live.len() >= limits::SIDE_GROUPS_MAX {
                let note = format!("{} side groups are there already; remove one first", live.len());
                return Err(Fault::conflict(note));
            }
            if let Some(side) = [&ask.of, &ask.with].into_iter().find(|group| live.contains_key(*group)) {
                return Err(Fault::conflict(format!("group {side} is a side group itself")));
            }
        }
        let (of, with) = (self.groups.model(&ask.of)?, self.groups.model(&ask.with)?);
        let writes = self.writes.get().and_then(|writes| writes.get(&ask.with));
        if writes.is_some_and(|streams| streams.contains(&of.spec.stream)) {
            let note = format!(
                "the handler of {} writes into stream {}, which would be read: its events would go in a ring",
                with.spec.name, of.spec.stream
            );
            return Err(Fault::conflict(note));
        }
        match self.store.group(name).await {
            Ok(_) => Err(Fault::conflict(format!("group {name} exists; a side group needs a name of its own"))),
            Err(fault) if fault.kind == FaultKind::Missing => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    async fn keep(&self, name: &GroupName, kept: &Kept) -> Result<()> {
        let value = serde_json::to_vec(kept).map_err(|err| Fault::bug("write what a side group is").because(err))?;
        self.store.put_state(&key(name), Some(&value)).await
    }

    /// Declares the group of a side group and starts it, where the groups that it is like are there.
    async fn open(self: &Arc<Self>, name: GroupName, kept: Kept) -> Result<()> {
        let models = self.groups.model(&kept.ask.of).and_then(|of| Ok((of, self.groups.model(&kept.ask.with)?)));
        let Ok((of, with)) = models else {
            self.live.lock().insert(name, Live { kept, stopper: None, forgets: false });
            return Ok(());
        };
        let (start, end) = (Start::At(kept.ask.from), Some(kept.ask.before));
        let stream = of.spec.stream;
        // What its events wait for may lie outside of the range, and was done when it was their turn.
        let spec = GroupSpec { name: name.clone(), stream: stream.clone(), start, end, after: false, ..with.spec };
        let stages = with.policy.stages.with_schema_of(&of.policy.stages);
        // A stream of results would outlive it, and those of its model stay as they are.
        let policy = GroupPolicy { name: name.clone(), stream, stages, results: None, ..with.policy };
        let (stopper, stop) = self.cx.stop.part();
        let cx = Context { stop, ..self.cx.clone() };
        let supervisor = self.supervisor.part(cx.clone());
        self.groups.add_part(&spec, policy, with.handler, cx, supervisor.clone()).await?;
        self.live.lock().insert(name.clone(), Live { kept, stopper: Some(stopper), forgets: false });
        self.supervisor.service(Arc::new(Watch { sides: self.clone(), name }));
        Ok(())
    }

    /// Notes that all of a range was handled, and tells it.
    async fn ended(&self, name: &GroupName) -> Result<()> {
        let _changing = self.changing.lock().await;
        let Some(known) = self.live.lock().get(name).map(|live| live.kept.clone()) else { return Ok(()) };
        if known.ended_at.is_some() {
            return Ok(());
        }
        let kept = Kept { ended_at: Some(self.cx.clock.now()), ..known.clone() };
        let of = kept.ask.of.clone();
        // Of several nodes that see it one tells it.
        if !self.swap(name, &known, kept).await? {
            return Ok(());
        }
        let status = self.store.group(name).await?;
        self.cx.notices.emit(&Notice::ReplayEnded {
            group: name.clone(),
            of,
            done: status.done,
            duplicates: status.duplicates,
            skipped: status.skipped,
            dead: status.dead,
            expired: status.expired,
            dropped: status.dropped,
        });
        Ok(())
    }

    /// Stops a side group and forgets it; called by whoever holds `changing`.
    async fn end(&self, name: &GroupName, by: &str, reason: &str) -> Result<()> {
        let Some(known) = self.live.lock().get(name).map(|live| live.kept.clone()) else { return Ok(()) };
        // Whoever writes that it is over forgets it; the others let go of what they hold of it.
        if !self.swap(name, &known, Kept { over: true, ..known.clone() }).await? {
            return self.take_in(name).await;
        }
        if let Some(live) = self.live.lock().get_mut(name) {
            live.forgets = true;
        }
        self.wipe(name).await?;
        let (group, by, reason) = (name.clone(), by.to_owned(), reason.to_owned());
        self.cx.notices.emit(&Notice::GroupRemoved { group, by, reason });
        Ok(())
    }

    /// Forgets a side group that is over, once nobody works on it.
    async fn wipe(&self, name: &GroupName) -> Result<()> {
        self.wind_down(name).await;
        self.others_let_go(name).await?;
        self.forget(name).await
    }

    /// Lets what is in flight here finish, if that is soon.
    async fn wind_down(&self, name: &GroupName) {
        let runs = self.live.lock().get(name).is_some_and(|live| {
            live.stopper.iter().for_each(Stopper::drain);
            live.stopper.is_some()
        });
        if runs {
            tokio::select! {
                () = self.groups.drained_one(name) => {}
                () = self.cx.clock.sleep(FINISH) => {}
            }
        }
    }

    /// Forgets everything of a side group.
    async fn forget(&self, name: &GroupName) -> Result<()> {
        match self.store.remove_group(name).await {
            Err(fault) if fault.kind != FaultKind::Missing => return Err(fault),
            Ok(()) | Err(_) => {}
        }
        self.groups.forget(name).await?;
        // What still runs of it is dropped with the stopper: nobody is left to settle for.
        self.live.lock().remove(name);
        self.store.put_state(&key(name), None).await
    }
}

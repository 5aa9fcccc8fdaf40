//! Moving a group through its stream by hand: seek it to another place, let it finish what is there, slow it down.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    guard::Rate,
    limits,
    names::StreamName,
    notice::Notice,
    seek::{Rehearsal, SeekTo, Sought},
    store::Store,
    whereabouts::{Find, Sighting},
};

use super::{Group, Pause, desired};
use crate::peers::ROUND_EVERY;

/// A group that finishes what was there when somebody asked, and then pauses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Who asked.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// When it pauses, whatever is left.
    pub until: Timestamp,
    /// What lies before this position is finished.
    pub before: Position,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drained {
    /// What is left of what was there.
    left: u64,
    /// Whether all that could be finished was.
    in_time: bool,
}

/// A group that is slowed down until it has caught up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Most deliveries.
    pub rate: Rate,
    /// It ends when the group comes to this position.
    pub before: Position,
}

/// How a group is moved.
#[derive(Debug, Clone, Default)]
pub struct SeekAsk {
    /// Also what the ledger knows as done is processed again.
    pub again: bool,
    /// Most deliveries until the group has come back to where it was.
    pub rate: Option<Rate>,
    /// How long what is in flight may take to finish first.
    pub wait: Duration,
    /// Who asks.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Between two looks at whether what is to be finished is finished.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Lets through what a rate allows.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    saved: Mutex<(f64, Timestamp)>,
    /// How many other nodes keep to the same rate with this one.
    others: AtomicUsize,
}

impl Pacer {
    /// Returns how many may be lent now, and when the next may be when there is none.
    pub(super) fn room(&self, rate: Rate, now: Timestamp) -> (usize, Timestamp) {
        let mut state = self.saved.lock();
        let nodes = self.others.load(Ordering::Relaxed) as f64 + 1.0;
        let per_second = f64::from(rate.count.max(1)) / rate.per.as_secs_f64().max(0.001) / nodes;
        // What is saved up is worth a tenth of a second: a quiet time is not followed by a flood.
        let most = (per_second / 10.0).max(1.0);
        state.0 = (state.0 + now.since(state.1).as_secs_f64() * per_second).min(most);
        state.1 = now;
        let missing = Duration::from_secs_f64((1.0 - state.0).max(0.0) / per_second);
        (state.0 as usize, now.plus(missing.max(Duration::from_millis(1))))
    }

    fn take(&self, count: usize) {
        self.saved.lock().0 -= count as f64;
    }

    /// Says how many nodes keep to the rate together.
    pub(super) fn share(&self, nodes: usize) {
        self.others.store(nodes.saturating_sub(1), Ordering::Relaxed);
    }
}

/// Holds a group's claims back for as long as it lives.
struct Held<'a>(&'a Group);

impl<'a> Held<'a> {
    fn new(group: &'a Group) -> Self {
        group.desired.send_modify(|desired| desired.moving = true);
        Self(group)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.desired.send_modify(|desired| desired.moving = false);
    }
}

impl Group {
    /// Finds a place in the stream of this group.
    pub(crate) async fn locate(&self, place: &SeekTo) -> Result<Position> {
        match place {
            SeekTo::Event(id) => find_event(&*self.store, &self.stream, id).await,
            SeekTo::Earliest | SeekTo::Latest | SeekTo::At(_) | SeekTo::Back(_) | SeekTo::Since(_) => {
                self.store.locate(&self.name, place).await
            }
        }
    }

    /// Counts what would become of the events of a range, at most so many of them.
    pub(crate) async fn rehearse(&self, range: Range<Position>, again: bool, max: u64) -> Result<Rehearsal> {
        let mut counted = Rehearsal { next: Some(range.start), ..Rehearsal::default() };
        while let Some(next) = counted.next.filter(|_| counted.total() < max) {
            let page = usize::try_from(max - counted.total()).unwrap_or(usize::MAX).min(limits::PAGE_MAX);
            let mut more = self.store.rehearse(&self.name, next..range.end, page).await?;
            if again {
                more.run += std::mem::take(&mut more.skipped);
            }
            counted.add(&more);
            // Others get their turn between two pages.
            tokio::task::yield_now().await;
        }
        Ok(counted)
    }

    /// Moves the group, once what is in flight is finished.
    pub(crate) async fn seek(&self, to: Position, ask: &SeekAsk) -> Result<Sought> {
        let _changing = self.changing.lock().await;
        if self.desired.borrow().drain.is_some() {
            let note = format!("group {} drains; resume it or wait for the end of that before it is moved", self.name);
            return Err(Fault::conflict(note));
        }
        let held = Held::new(self);
        let until = self.cx.clock.now().plus(ask.wait);
        let sought = loop {
            let finished = async {
                self.flight.emptied().await;
                self.returned().await;
            };
            tokio::select! {
                biased;
                () = finished => {}
                () = self.cx.clock.sleep_until(until) => {}
            }
            match self.store.seek(&self.name, to, ask.again).await {
                // A claim that was on its way when the group was held back came through.
                Err(fault)
                    if fault.kind == FaultKind::Conflict
                        && fault.retry != Retry::Never
                        && self.cx.clock.now() < until =>
                {
                    self.cx.clock.sleep(LOOK_EVERY).await;
                }
                sought => break sought?,
            }
        };
        let pace = ask.rate.map(|rate| Pace { rate, before: sought.from }).filter(|pace| to < pace.before);
        self.set_pace(pace).await?;
        drop(held);
        self.cx.notices.emit(&Notice::GroupSought {
            group: self.name.clone(),
            from: sought.from,
            to: sought.to,
            by: ask.by.clone(),
            reason: ask.reason.clone(),
        });
        Ok(sought)
    }

    async fn set_pace(&self, pace: Option<Pace>) -> Result<()> {
        if self.desired.borrow().pace == pace {
            return Ok(());
        }
        desired::keep(&*self.store, &self.name, "pace", pace.as_ref()).await?;
        self.desired.send_modify(|desired| desired.pace = pace);
        Ok(())
    }

    /// Takes from the pace what was lent, and ends it where the group has caught up.
    pub(super) async fn paced(&self, count: usize, newest: Option<Position>, none_due: bool) -> Result<()> {
        let Some(before) = self.desired.borrow().pace.as_ref().map(|pace| pace.before) else { return Ok(()) };
        self.pacer.take(count);
        let over = newest.is_some_and(|newest| newest >= before);
        if over || none_due && self.store.group(&self.name).await?.next >= before {
            self.set_pace(None).await?;
        }
        Ok(())
    }

    /// Lets the group finish what is there now, at most until a time, and pause then.
    pub(crate) async fn drain(&self, by: &str, reason: &str, until: Timestamp) -> Result<()> {
        let _changing = self.changing.lock().await;
        if self.desired.borrow().paused.is_some() {
            let note = format!("group {} is paused and finishes nothing; resume it first", self.name);
            return Err(Fault::conflict(note));
        }
        let before = self.store.locate(&self.name, &SeekTo::Latest).await?;
        let (by, reason, at) = (by.to_owned(), reason.to_owned(), self.cx.clock.now());
        let drain = Drain { by: by.clone(), reason: reason.clone(), at, until, before };
        desired::keep(&*self.store, &self.name, "drain", Some(&drain)).await?;
        self.desired.send_modify(|desired| desired.drain = Some(drain));
        self.cx.notices.emit(&Notice::GroupDraining { group: self.name.clone(), by, reason, until });
        Ok(())
    }

    /// Waits until a drain is over.
    pub(super) async fn drain_over(&self, drain: &Drain) -> Result<Drained> {
        // Nodes that have not heard of it yet take up what came since.
        let hearing = if self.store.promises().shared { ROUND_EVERY * 2 } else { Duration::ZERO };
        let heard_at = drain.at.plus(hearing);
        loop {
            let status = self.store.group(&self.name).await?;
            let beyond = if status.next >= drain.before { status.unseen } else { 0 };
            let waiting = status.waiting - beyond + status.in_flight;
            // What is scheduled for after the deadline is not waited for.
            let next_due = self.next_due();
            let later = status.scheduled == 0 || next_due.is_some_and(|due| due > drain.until);
            // When nothing else is left, nothing comes that would let go what waits for other events.
            let is_over = self.cx.clock.now() >= heard_at;
            if is_over && status.next >= drain.before && waiting == status.blocked && later {
                return Ok(Drained { left: waiting, in_time: true });
            }
            if self.cx.clock.now() >= drain.until {
                return Ok(Drained { left: waiting + status.scheduled, in_time: false });
            }
            self.cx.clock.sleep(LOOK_EVERY).await;
        }
    }

    /// Ends a drain: the group is paused, and says how far it came.
    pub(super) async fn end_drain(self: &Arc<Self>, drain: &Drain, drained: Drained) -> Result<()> {
        let _changing = self.changing.lock().await;
        if self.desired.borrow().drain.as_ref() != Some(drain) {
            return Ok(());
        }
        let wanted = desired::restore(&*self.store, &self.name, self.policy.workers).await?;
        if wanted.drain.as_ref() != Some(drain) {
            // Another node came first, or was told something else.
            return self.take_over().await;
        }
        let Drained { left, in_time } = drained;
        let mut reason = match (left, in_time) {
            (0, _) => "drained".to_owned(),
            (_, true) => format!("drained but for {left} that wait for other events"),
            (_, false) => format!("drained until its deadline, {left} left"),
        };
        if !drain.reason.is_empty() {
            reason = format!("{reason}: {}", drain.reason);
        }
        let pause = Pause { by: drain.by.clone(), reason, at: self.cx.clock.now(), until: None, disabled: false };
        desired::keep(&*self.store, &self.name, "paused", Some(&pause)).await?;
        desired::keep::<Drain>(&*self.store, &self.name, "drain", None).await?;
        self.desired.send_modify(|desired| (desired.paused, desired.drain) = (Some(pause), None));
        let by = drain.by.clone();
        self.cx.notices.emit(&Notice::GroupDrained { group: self.name.clone(), left, by });
        Ok(())
    }
}

/// Finds an event of a stream by its id; of several the oldest.
async fn find_event(store: &dyn Store, stream: &StreamName, id: &ByteString) -> Result<Position> {
    let ask = Find { id: id.clone(), source: None, stream: Some(stream.clone()), look_max: limits::SCAN_EVENTS_MAX };
    let found = store.find(&ask).await?;
    let kept = |sighting: &&Sighting| sighting.stream == *stream && sighting.stored.is_some();
    if let Some(oldest) = found.sightings.iter().filter(kept).map(|sighting| sighting.position).min() {
        return Ok(oldest);
    }
    if !found.whole {
        let note = format!("event {id:?} is not among {} events of stream {stream}; name a time instead", found.looked);
        return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
    }
    Err(Fault::missing(format!("stream {stream} keeps no event with the id {id:?}")))
}

//! The way into a stream for every source: checks events, appends them, tells.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::RwLock;
use tidegate_core::{
    event::Event,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    names::StreamName,
    notice::Notice,
    service::{Context, StopPhase},
    store::{Appended, Store},
};
use tidegate_rules::Schema;

use crate::{
    group::Pause,
    peers::{ELSEWHERE, Heed, Round, States},
};

/// What becomes of a publish into a stream whose backlog is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFull {
    /// It is refused.
    #[default]
    Reject,
    /// It waits for room, within bounds.
    Block,
    /// The oldest events that wait make room for it; each is counted as dropped.
    Shed,
}

/// Between two tries of a publish that waits for room.
const ROOM_EVERY: Duration = Duration::from_millis(20);
/// Where the pause of the intake is kept.
const INTAKE: &str = "node/intake";

/// Appends events to streams. Cheap to clone.
#[derive(Clone)]
pub struct Publisher(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    cx: Context,
    /// Streams that do something else than to refuse.
    on_full: RwLock<BTreeMap<StreamName, OnFull>>,
    paused: RwLock<Option<Pause>>,
    /// One change of the pause at a time: first the store, then here.
    changing: tokio::sync::Mutex<()>,
    schemas: OnceLock<BTreeMap<StreamName, Schema>>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    /// Makes a publisher; it refuses everything once `cx.stop` drains.
    pub fn new(store: Arc<dyn Store>, cx: Context) -> Self {
        Self(Arc::new(Inner {
            store,
            cx,
            on_full: RwLock::default(),
            paused: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
            schemas: OnceLock::new(),
        }))
    }

    /// Asks, once and of all clones of this publisher, that what is published into these streams fits their schemas.
    pub fn ask_for(&self, schemas: BTreeMap<StreamName, Schema>) -> Result<()> {
        self.0.schemas.set(schemas).map_err(|_| Fault::bug("a publisher was given schemas twice"))
    }

    /// Says what becomes of publishes into a stream that is full.
    pub fn set_on_full(&self, stream: StreamName, on_full: OnFull) {
        self.0.on_full.write().insert(stream, on_full);
    }

    /// Takes over from the store whether somebody paused the intake.
    pub async fn restore(&self) -> Result<()> {
        let pause = self.stored().await?;
        *self.0.paused.write() = pause;
        Ok(())
    }

    async fn stored(&self) -> Result<Option<Pause>> {
        told(&self.0.store.states(INTAKE).await?.into_iter().collect())
    }

    /// Refuses what sources that can refuse bring, durably. The others go on storing.
    pub async fn pause(&self, pause: Pause) -> Result<()> {
        let value =
            serde_json::to_vec(&pause).map_err(|err| Fault::bug("write the pause of the intake").because(err))?;
        let _changing = self.0.changing.lock().await;
        self.0.store.put_state(INTAKE, Some(&value)).await?;
        self.set(Some(pause), "");
        Ok(())
    }

    fn set(&self, pause: Option<Pause>, resumed_by: &str) {
        self.0.paused.write().clone_from(&pause);
        self.0.cx.notices.emit(&match pause {
            Some(Pause { by, reason, until, .. }) => Notice::IntakePaused { by, reason, until },
            None => Notice::IntakeResumed { by: resumed_by.to_owned() },
        });
    }

    /// Takes events again.
    pub async fn resume(&self, by: &str) -> Result<()> {
        let _changing = self.0.changing.lock().await;
        if self.0.paused.read().is_some() {
            self.0.store.put_state(INTAKE, None).await?;
            self.set(None, by);
        }
        Ok(())
    }

    /// Returns why no events are taken, at somebody's wish.
    pub fn paused(&self) -> Option<Pause> {
        let pause = self.0.paused.read().clone()?;
        pause.until.is_none_or(|until| until > self.0.cx.clock.now()).then_some(pause)
    }

    /// Appends events, all or none; returns when they are durable, in input order. Refused while the intake is paused.
    pub async fn publish(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        let taken = match self.paused() {
            None => self.append(stream, events).await,
            Some(pause) => {
                let retry = match pause.until {
                    Some(until) => Retry::After(until.since(self.0.cx.clock.now())),
                    None => Retry::Later,
                };
                let note = format!("intake is paused by {}: {}", pause.by, pause.reason);
                Err(Fault::new(FaultKind::Unavailable, Origin::Tidegate, retry, note))
            }
        };
        self.tell(stream, taken)
    }

    /// The same for sources that cannot refuse what comes: a pause of the intake does not stop them.
    pub async fn keep(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        let taken = self.append(stream, events).await;
        self.tell(stream, taken)
    }

    async fn append(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        self.check(stream, &events)?;
        let on_full = self.0.on_full.read().get(stream).copied().unwrap_or_default();
        if on_full == OnFull::Reject {
            return self.0.store.append(stream, events).await;
        }
        let until = self.0.cx.clock.now().plus(limits::CLAIM_WAIT_MAX);
        loop {
            let fault = match self.0.store.append(stream, events.clone()).await {
                Err(fault) if fault.kind == FaultKind::Limited && fault.retry != Retry::Never => fault,
                taken => return taken,
            };
            let shed = match on_full {
                OnFull::Shed => self.0.store.shed(stream, events.len() as u64).await?,
                OnFull::Block | OnFull::Reject => 0,
            };
            if shed > 0 {
                self.0.cx.notices.emit(&Notice::Shed { stream: stream.clone(), count: shed });
                continue;
            }
            if on_full == OnFull::Shed || self.0.cx.clock.now() >= until {
                return Err(fault);
            }
            tokio::select! {
                () = self.0.cx.clock.sleep(ROOM_EVERY) => {}
                () = self.0.cx.stop.draining() => return Err(fault),
            }
        }
    }

    fn tell(&self, stream: &StreamName, taken: Result<Vec<Appended>>) -> Result<Vec<Appended>> {
        match &taken {
            Ok(appended) => {
                let count = appended.len() as u64;
                let duplicates = appended.iter().filter(|one| one.duplicate).count() as u64;
                self.0.cx.notices.emit(&Notice::Accepted { stream: stream.clone(), count, duplicates });
            }
            Err(fault) => {
                let reason = fault.note().to_owned();
                self.0.cx.notices.emit(&Notice::Refused { stream: stream.clone(), reason });
            }
        }
        taken
    }

    fn check(&self, stream: &StreamName, events: &[Event]) -> Result<()> {
        if self.0.cx.stop.phase() != StopPhase::Running {
            return Err(Fault::unavailable(Origin::Tidegate, "node is stopping and takes no more events"));
        }
        if events.len() > limits::BATCH_EVENTS_MAX {
            let note = format!("{} events in one publish, the limit is {}", events.len(), limits::BATCH_EVENTS_MAX);
            return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
        }
        let schema = self.0.schemas.get().and_then(|schemas| schemas.get(stream));
        for (index, event) in events.iter().enumerate() {
            event.check().map_err(|fault| fault.within(format_args!("event {index}")))?;
            if let Some(schema) = schema {
                schema.check(event).map_err(|fault| fault.at_index(index).within(format_args!("event {index}")))?;
            }
        }
        Ok(())
    }
}

/// Finds the pause of the intake.
fn told(states: &States) -> Result<Option<Pause>> {
    let read = states.get(INTAKE).map(|value| serde_json::from_slice(value)).transpose();
    read.map_err(|err| Fault::corrupt("stored pause of the intake is not readable").because(err))
}

#[async_trait]
impl Heed for Publisher {
    fn prefix(&self) -> &'static str {
        INTAKE
    }

    async fn heed(&self, round: &Round) -> Result<()> {
        if told(&round.told)? == *self.0.paused.read() {
            return Ok(());
        }
        let _changing = self.0.changing.lock().await;
        let wanted = self.stored().await?;
        if wanted != *self.0.paused.read() {
            self.set(wanted, ELSEWHERE);
        }
        Ok(())
    }
}

//! What brings events in from inside the node, and what it is given: a way into streams, a memory, time and its stop.
//!
//! **Invariant:** a source sees no store. What it brings is durable when [`Feed::deliver`] returns it, and what it keeps
//! is small and its own.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    clock::{Clock, Timestamp},
    event::Event,
    fault::{Fault, Result, Retry},
    handler::Probe,
    names::{ModuleName, StreamName},
    notice::{Notice, Notices},
    service::{Stop, StopPhase},
    store::Appended,
};

/// Wait before a refused publish is tried again; doubles with each refusal.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
/// Longest such wait.
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// A module that brings events in and runs inside the node.
#[async_trait]
pub trait Source: Probe {
    /// Runs until `feed.stop` drains. To return well before that says that there is nothing more to bring; an error is a
    /// crash, after which it is started again.
    async fn run(&self, feed: &Feed) -> Result<()>;

    /// Whether what is not taken in waits where it comes from. A source that cannot wait goes on reading into its stream
    /// while it is paused.
    fn can_wait(&self) -> bool {
        true
    }

    /// What it knows of itself that is worth showing, such as its next fires; nothing by default.
    fn details(&self) -> Value {
        Value::Null
    }
}

/// What stands behind a feed: the node's streams, and a small durable memory of the source's own.
#[async_trait]
pub trait Inlet: Send + Sync {
    /// Appends events, all or none; returns when they are durable, in input order.
    async fn publish(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>>;

    /// Returns what was kept under a key.
    async fn recall(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// Keeps a value under a key; returns when it is durable.
    async fn keep(&self, key: &str, value: &[u8]) -> Result<()>;
}

/// What a source is given. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    /// The source's name in the configuration.
    pub name: ModuleName,
    /// Time.
    pub clock: Clock,
    /// When to stop: the node stops, or somebody paused or disabled the source.
    pub stop: Stop,
    /// Where to tell what happens.
    pub notices: Notices,
    inlet: Arc<dyn Inlet>,
    brought: Arc<Brought>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a source has brought since the node was started.
#[derive(Debug, Default)]
pub struct Brought {
    accepted: AtomicU64,
    duplicates: AtomicU64,
    rejected: AtomicU64,
    last: Mutex<Last>,
}

/// The last of each kind.
#[derive(Debug, Default, Clone)]
struct Last {
    accepted_at: Option<Timestamp>,
    refused: Option<String>,
    away: Option<String>,
    rejected: Option<(Timestamp, String)>,
}

/// What a source has brought, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BroughtView {
    /// Events accepted; duplicates included.
    pub accepted: u64,
    /// Of those, events that were there already.
    pub duplicates: u64,
    /// Pieces of input that are no events.
    pub rejected: u64,
    /// When events were accepted last.
    pub accepted_at: Option<Timestamp>,
    /// Why the stream takes nothing just now; none when it does.
    pub refused: Option<String>,
    /// Why what it reads cannot be reached just now; none when it can.
    pub away: Option<String>,
    /// The last piece of input that was no event: when, where and why.
    pub rejected_last: Option<(Timestamp, String)>,
}

impl Brought {
    /// Returns the numbers.
    pub fn view(&self) -> BroughtView {
        let last = self.last.lock().clone();
        BroughtView {
            accepted: self.accepted.load(Ordering::Relaxed),
            duplicates: self.duplicates.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            accepted_at: last.accepted_at,
            refused: last.refused,
            away: last.away,
            rejected_last: last.rejected,
        }
    }
}

impl Feed {
    /// Makes the feed of a source.
    pub fn new(
        name: ModuleName,
        clock: Clock,
        stop: Stop,
        notices: Notices,
        inlet: Arc<dyn Inlet>,
        brought: Arc<Brought>,
    ) -> Self {
        Self { name, clock, stop, notices, inlet, brought }
    }

    /// Publishes events, all or none, and tries again while the stream is full or the store is away. None when the source
    /// is told to stop before they are durable; an error when they can never be published.
    pub async fn deliver(&self, stream: &StreamName, events: Vec<Event>) -> Result<Option<Vec<Appended>>> {
        let mut wait = AGAIN_FIRST;
        loop {
            if self.stop.phase() != StopPhase::Running {
                return Ok(None);
            }
            let fault = match self.inlet.publish(stream, events.clone()).await {
                Ok(appended) => {
                    self.count(&appended);
                    return Ok(Some(appended));
                }
                Err(fault) => fault,
            };
            let again = match fault.retry {
                Retry::Never => return Err(fault),
                Retry::Later => wait,
                Retry::After(after) => after.clamp(wait, AGAIN_MAX),
            };
            self.brought.last.lock().refused = Some(fault.note().to_owned());
            if !self.sleep(again).await {
                return Ok(None);
            }
            wait = (wait * 2).min(AGAIN_MAX);
        }
    }

    fn count(&self, appended: &[Appended]) {
        let duplicates = appended.iter().filter(|one| one.duplicate).count() as u64;
        self.brought.accepted.fetch_add(appended.len() as u64, Ordering::Relaxed);
        self.brought.duplicates.fetch_add(duplicates, Ordering::Relaxed);
        let mut last = self.brought.last.lock();
        last.accepted_at = Some(self.clock.now());
        last.refused = None;
    }

    /// Waits; false when the source is told to stop in the meantime.
    pub async fn sleep(&self, time: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.draining() => false,
            () = self.clock.sleep(time) => true,
        }
    }

    /// Counts and tells a piece of input that is no event.
    pub fn reject(&self, place: String, why: String) {
        self.brought.rejected.fetch_add(1, Ordering::Relaxed);
        self.brought.last.lock().rejected = Some((self.clock.now(), format!("{place}: {why}")));
        self.notices.emit(&Notice::InputRejected { module: self.name.clone(), place, why });
    }

    /// Says that what the source reads cannot be reached, or that it can again: health is degraded in between.
    pub fn away(&self, why: Option<&str>) {
        self.brought.last.lock().away = why.map(str::to_owned);
    }

    /// Tells something that the source's own documents explain.
    pub fn report(&self, what: impl Into<String>) {
        self.notices.emit(&Notice::ModuleReported { module: self.name.clone(), what: what.into() });
    }

    /// Returns what was kept under a key.
    pub async fn recall<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.inlet.recall(key).await? else { return Ok(None) };
        serde_json::from_slice(&value).map(Some).map_err(|error| {
            Fault::corrupt(format!("what source {} kept under {key:?} is not readable", self.name)).because(error)
        })
    }

    /// Keeps a small value under a key; returns when it is durable.
    pub async fn keep<T: Serialize + Sync>(&self, key: &str, value: &T) -> Result<()> {
        let value = serde_json::to_vec(value)
            .map_err(|error| Fault::bug(format!("what source {} keeps is no JSON", self.name)).because(error))?;
        self.inlet.keep(key, &value).await
    }
}

//! For tests: what modules are given, without a node behind them.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidegate_core::{
    clock::{Clock, Timestamp},
    config::Environment,
    delivery::Position,
    event::Event,
    fault::{Fault, Result},
    names::{ModuleName, StreamName},
    notice::{Notice, Notices, Tap},
    service::{Stopper, stop},
    source::{Brought, Feed, Inlet, Source},
    store::Appended,
};

/// An environment whose every variable has one value.
pub(crate) struct Variable(pub(crate) String);

impl Environment for Variable {
    fn variable(&self, _: &str) -> Result<String, String> {
        Ok(self.0.clone())
    }
    fn file(&self, _: &str, _: bool) -> Result<String, String> {
        Err("there are no files".to_owned())
    }
}

/// Streams and memory that outlive a source; the streams know an event again for ever.
#[derive(Default)]
pub(crate) struct Pond {
    events: Mutex<Vec<(StreamName, Event)>>,
    seen: Mutex<HashSet<(String, String)>>,
    kept: Mutex<HashMap<String, Vec<u8>>>,
    /// Publishes that are still to be refused.
    pub(crate) refuse: AtomicUsize,
    /// Memories that are still to fail, as a crash before the write would.
    pub(crate) forget: AtomicUsize,
}

fn take_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[async_trait]
impl Inlet for Pond {
    async fn publish(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        if take_one(&self.refuse) {
            return Err(Fault::limited("the stream is full", Duration::from_secs(1)));
        }
        for event in &events {
            event.check()?;
        }
        let append = |event: Event| {
            let duplicate = !self.seen.lock().insert((event.source.to_string(), event.id.to_string()));
            let mut all = self.events.lock();
            if !duplicate {
                all.push((stream.clone(), event));
            }
            Appended { position: Position::number(all.len() as u64), duplicate }
        };
        Ok(events.into_iter().map(append).collect())
    }

    async fn recall(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.kept.lock().get(key).cloned())
    }

    async fn keep(&self, key: &str, value: &[u8]) -> Result<()> {
        if take_one(&self.forget) {
            return Err(Fault::unavailable(tidegate_core::fault::Origin::Store, "gone before it was written"));
        }
        self.kept.lock().insert(key.to_owned(), value.to_vec());
        Ok(())
    }
}

impl Pond {
    /// Events of a stream, in order.
    pub(crate) fn events(&self, stream: &str) -> Vec<Event> {
        self.events.lock().iter().filter(|(name, _)| name.as_str() == stream).map(|(_, event)| event.clone()).collect()
    }
}

/// A source that runs beside its test.
pub(crate) struct Run {
    stopper: Stopper,
    pub(crate) brought: Arc<Brought>,
    pub(crate) tap: Tap,
    running: tokio::task::JoinHandle<Result<()>>,
}

impl Run {
    /// Starts a source over a pond.
    #[expect(clippy::disallowed_methods, reason = "the test plays the supervisor")]
    pub(crate) fn start(source: Arc<dyn Source>, pond: &Arc<Pond>, clock: &Clock) -> Self {
        let (stopper, stop) = stop();
        let notices = Notices::default();
        let tap = notices.tap();
        let brought = Arc::<Brought>::default();
        let name = ModuleName::new("trial").unwrap();
        let feed = Feed::new(name, clock.clone(), stop, notices, pond.clone(), brought.clone());
        let running = tokio::spawn(async move { source.run(&feed).await });
        Self { stopper, brought, tap, running }
    }

    /// Stops the source gently and waits for its end.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stopper.drain();
        self.running.await.unwrap()
    }

    /// Ends the source wherever it is, as a crash does.
    pub(crate) async fn kill(self) {
        self.running.abort();
        drop(self.running.await);
    }

    /// Waits for an end that the source comes to by itself.
    pub(crate) async fn end(self) -> Result<()> {
        self.running.await.unwrap()
    }

    /// What was reported so far.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a test looks for some notices among all")]
    pub(crate) fn told(&mut self) -> Vec<String> {
        let told = self.tap.drain().into_iter().filter_map(|notice| match notice {
            Notice::ModuleReported { what, .. } => Some(what),
            Notice::InputRejected { place, why, .. } => Some(format!("{place}: {why}")),
            _ => None,
        });
        told.collect()
    }
}

/// A clock in virtual time.
pub(crate) fn clock(at: &str) -> Clock {
    Clock::following_tokio(Timestamp::parse(at).unwrap())
}

//! Forwards events into a stream of another engine: they are durable there before they are settled here.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tidegate_core::{
    delivery::{Delivery, Outcome},
    event::Event,
    fault::{Failure, Fault, FaultClass, FaultKind, Result},
    guard::Guard,
    handler::{Handler, Probe},
    service::Context,
    store::{Beside, Store},
};
use tokio::sync::Mutex;

use super::{BATCH, Forward};

/// Forwards events into another engine.
pub(super) struct Across {
    forward: Forward,
    beside: Arc<dyn Beside>,
    guard: Arc<Guard>,
    /// The store in which the stream is known to be.
    ready: Mutex<Option<Arc<dyn Store>>>,
}

impl fmt::Debug for Across {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Across").field(&self.forward).finish()
    }
}

impl Across {
    pub(super) fn new(forward: Forward, beside: Arc<dyn Beside>, guard: Arc<Guard>) -> Self {
        Self { forward, beside, guard, ready: Mutex::default() }
    }

    /// Returns the other store, with the stream in it.
    async fn store(&self) -> Result<Arc<dyn Store>> {
        let mut ready = self.ready.lock().await;
        let store = self.beside.store().await?;
        // It may have been opened anew.
        if !ready.as_ref().is_some_and(|known| Arc::ptr_eq(known, &store)) {
            let to = &self.forward.to;
            // Who has it already has its reasons for its settings.
            if !store.streams().await?.iter().any(|stream| stream.name == *to) {
                store.declare_stream(&self.beside.spec(to)).await?;
            }
            *ready = Some(store.clone());
        }
        Ok(store)
    }

    async fn append(&self, events: Vec<Event>) -> Result<(), Failure> {
        let append = async {
            let appended = async { self.store().await?.append(&self.forward.to, events).await }.await;
            appended.map(drop).map_err(|fault| self.failure(&fault))
        };
        self.guard.call(false, append).await
    }

    fn failure(&self, fault: &Fault) -> Failure {
        let class = match fault.kind {
            FaultKind::Invalid => FaultClass::Invalid,
            FaultKind::Limited => FaultClass::Throttled,
            FaultKind::Denied => FaultClass::Auth,
            // It may be there; the window of the stream knows it then.
            FaultKind::Timeout => FaultClass::Ambiguous,
            FaultKind::Missing | FaultKind::Conflict | FaultKind::Unavailable | FaultKind::Corrupt | FaultKind::Bug => {
                FaultClass::DependencyDown
            }
        };
        Failure::new(class, format!("engine {}: {}", self.beside.name(), fault.note()))
    }
}

#[async_trait]
impl Handler for Across {
    async fn handle(&self, cx: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        let prepared: Vec<_> = batch.iter().map(|delivery| self.forward.prepare(delivery, false)).collect();
        let events: Vec<Event> = prepared.iter().flatten().cloned().collect();
        let together = if events.is_empty() { Ok(()) } else { self.append(events).await };
        let mut outcomes = Vec::with_capacity(batch.len());
        for prepared in prepared {
            let done = match prepared {
                Err(stays) => {
                    outcomes.push(self.forward.stay(cx, stays));
                    continue;
                }
                // One that cannot go must not keep the others back.
                Ok(event) => match &together {
                    Err(failure) if failure.class == FaultClass::Invalid && batch.len() > 1 => {
                        self.append(vec![event]).await
                    }
                    other => other.clone(),
                },
            };
            outcomes.push(done.map_or_else(Outcome::Failed, |()| Outcome::DONE));
        }
        outcomes
    }

    fn batch_max(&self) -> usize {
        BATCH
    }

    fn guard(&self) -> Option<Arc<Guard>> {
        Some(self.guard.clone())
    }

    fn in_process(&self) -> bool {
        false
    }
}

#[async_trait]
impl Probe for Across {
    async fn probe(&self, _: &Context) -> Result<()> {
        self.store().await.map(drop).map_err(|fault| fault.within(format!("engine {}", self.beside.name())))
    }
}

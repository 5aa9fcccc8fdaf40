//! The way into a stream for every source: checks events, appends them, tells.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

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

/// Appends events to streams. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    store: Arc<dyn Store>,
    cx: Context,
    schemas: Arc<OnceLock<BTreeMap<StreamName, Schema>>>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    /// Makes a publisher; it refuses everything once `cx.stop` drains.
    pub fn new(store: Arc<dyn Store>, cx: Context) -> Self {
        Self { store, cx, schemas: Arc::default() }
    }

    /// Asks, once and of all clones of this publisher, that what is published into these streams fits their schemas.
    pub fn ask_for(&self, schemas: BTreeMap<StreamName, Schema>) -> Result<()> {
        self.schemas.set(schemas).map_err(|_| Fault::bug("a publisher was given schemas twice"))
    }

    /// Appends events, all or none; returns when they are durable, in input order.
    pub async fn publish(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        let appended = match self.check(stream, &events) {
            Ok(()) => self.store.append(stream, events).await,
            Err(fault) => Err(fault),
        };
        match &appended {
            Ok(appended) => {
                let count = appended.len() as u64;
                let duplicates = appended.iter().filter(|one| one.duplicate).count() as u64;
                self.cx.notices.emit(&Notice::Accepted { stream: stream.clone(), count, duplicates });
            }
            Err(fault) => {
                let reason = fault.note().to_owned();
                self.cx.notices.emit(&Notice::Refused { stream: stream.clone(), reason });
            }
        }
        appended
    }

    fn check(&self, stream: &StreamName, events: &[Event]) -> Result<()> {
        if self.cx.stop.phase() != StopPhase::Running {
            return Err(Fault::unavailable(Origin::Tidegate, "node is stopping and takes no more events"));
        }
        if events.len() > limits::BATCH_EVENTS_MAX {
            let note = format!("{} events in one publish, the limit is {}", events.len(), limits::BATCH_EVENTS_MAX);
            return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
        }
        let schema = self.schemas.get().and_then(|schemas| schemas.get(stream));
        for (index, event) in events.iter().enumerate() {
            event.check().map_err(|fault| fault.within(format_args!("event {index}")))?;
            if let Some(schema) = schema {
                schema.check(event).map_err(|fault| fault.at_index(index).within(format_args!("event {index}")))?;
            }
        }
        Ok(())
    }
}

//! Keeps what is wanted of guards over restarts: a target that somebody tripped stays tripped.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    fault::{Fault, Result},
    guard::{Guard, GuardWish, Rate},
    service::{Context, Service},
    store::Store,
};

use crate::supervisor::Supervisor;

/// Keeps the wishes of one guard in the store.
pub struct GuardKeeper {
    guard: Arc<Guard>,
    store: Arc<dyn Store>,
    kept: Mutex<GuardWish>,
}

impl fmt::Debug for GuardKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GuardKeeper").field(self.guard.target()).finish()
    }
}

/// Stored form of wishes.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    wish: GuardWish,
    /// Limits of the configuration then: when they are changed, the change is what somebody wants now.
    concurrency: usize,
    rate: Option<Rate>,
}

impl GuardKeeper {
    /// Restores what was wanted of a guard, and keeps it from now on.
    pub async fn start(guard: Arc<Guard>, store: Arc<dyn Store>, supervisor: &Supervisor) -> Result<()> {
        let kept = restore(&guard, &*store).await?;
        supervisor.service(Arc::new(Self { guard, store, kept: Mutex::new(kept) }));
        Ok(())
    }

    async fn keep(&self) -> Result<()> {
        let wish = self.guard.wish();
        if wish == *self.kept.lock() {
            return Ok(());
        }
        let policy = self.guard.policy();
        let kept = Kept { wish: wish.clone(), concurrency: policy.concurrency, rate: policy.rate };
        let value = (wish != GuardWish::default()).then(|| serde_json::to_vec(&kept)).transpose();
        let value = value.map_err(|err| Fault::bug("wishes of a guard cannot be written as JSON").because(err))?;
        self.store.put_state(&key(&self.guard), value.as_deref()).await?;
        *self.kept.lock() = wish;
        Ok(())
    }
}

fn key(guard: &Guard) -> String {
    format!("target/{}/wish", guard.target())
}

async fn restore(guard: &Guard, store: &dyn Store) -> Result<GuardWish> {
    let key = key(guard);
    let states = store.states(&key).await?;
    let Some((_, value)) = states.iter().find(|(name, _)| *name == key) else { return Ok(GuardWish::default()) };
    let kept: Kept = serde_json::from_slice(value).map_err(|err| {
        Fault::corrupt(format!("stored state of target {} is not readable", guard.target())).because(err)
    })?;
    let policy = guard.policy();
    let mut wish = kept.wish;
    if (kept.concurrency, kept.rate) != (policy.concurrency, policy.rate) {
        (wish.concurrency, wish.rate) = (None, None);
    }
    guard.restore(wish.clone());
    Ok(wish)
}

#[async_trait]
impl Service for GuardKeeper {
    fn name(&self) -> String {
        format!("target/{}/keep", self.guard.target())
    }

    async fn run(&self, cx: Context) -> Result<()> {
        let mut changes = self.guard.changes();
        loop {
            // What changes from here on is seen by the wait below.
            changes.mark_unchanged();
            self.keep().await?;
            tokio::select! {
                _ = changes.changed() => {}
                () = cx.stop.draining() => return self.keep().await,
            }
        }
    }
}

//! Keeps what is wanted of guards over restarts, and for all nodes: a target that somebody tripped stays tripped.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tidegate_core::{
    fault::{Fault, Result},
    guard::{Guard, GuardWish, Rate, Shut},
    service::{Context, Service},
    store::Store,
};

use crate::{
    peers::{ELSEWHERE, Heed, Round, States},
    supervisor::Supervisor,
};

/// Keeps the wishes of all guards of a node in the store.
#[derive(Debug)]
pub struct GuardKeepers(Vec<Arc<GuardKeeper>>);

/// Keeps the wishes of one guard in the store.
struct GuardKeeper {
    guard: Arc<Guard>,
    store: Arc<dyn Store>,
    /// What the store has, as far as it is known here.
    kept: tokio::sync::Mutex<GuardWish>,
}

impl fmt::Debug for GuardKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GuardKeeper").field(self.guard.target()).finish()
    }
}

/// Limits set by hand, as they are stored.
#[derive(Debug, Serialize, Deserialize)]
struct Limited {
    concurrency: Option<usize>,
    rate: Option<Rate>,
    /// Limits of the configuration then: when they are changed, the change is what somebody wants now.
    configured: (usize, Option<Rate>),
}

impl GuardKeepers {
    /// Restores what was wanted of guards, and keeps it from now on.
    pub async fn start(guards: &[Arc<Guard>], store: &Arc<dyn Store>, supervisor: &Supervisor) -> Result<Self> {
        let mut keepers = Vec::new();
        for guard in guards {
            let (guard, store) = (guard.clone(), store.clone());
            let kept = restore(&guard, &*store).await?;
            guard.restore(kept.clone());
            let keeper = Arc::new(GuardKeeper { guard, store, kept: tokio::sync::Mutex::new(kept) });
            supervisor.service(keeper.clone());
            keepers.push(keeper);
        }
        Ok(Self(keepers))
    }
}

fn limits(wish: &GuardWish) -> (Option<usize>, Option<Rate>) {
    (wish.concurrency, wish.rate)
}

impl GuardKeeper {
    async fn keep(&self) -> Result<()> {
        let mut kept = self.kept.lock().await;
        let wish = self.guard.wish();
        // One does not overwrite the other, which may have been changed through another node.
        if wish.shut != kept.shut {
            self.put("shut", wish.shut.as_ref()).await?;
            kept.shut.clone_from(&wish.shut);
        }
        let (concurrency, rate) = limits(&wish);
        if (concurrency, rate) != limits(&kept) {
            let policy = self.guard.policy();
            let limited = Limited { concurrency, rate, configured: (policy.concurrency, policy.rate) };
            self.put("limits", (concurrency.is_some() || rate.is_some()).then_some(&limited)).await?;
            (kept.concurrency, kept.rate) = (concurrency, rate);
        }
        Ok(())
    }

    async fn put<T: Serialize>(&self, what: &str, wish: Option<&T>) -> Result<()> {
        let value = wish.map(serde_json::to_vec).transpose();
        let value = value.map_err(|err| Fault::bug("wishes of a guard cannot be written as JSON").because(err))?;
        self.store.put_state(&key(&self.guard, what), value.as_deref()).await
    }

    async fn heed(&self, told: &States) -> Result<()> {
        if read(&self.guard, told)? == *self.kept.lock().await {
            return Ok(());
        }
        let mut kept = self.kept.lock().await;
        let wanted = restore(&self.guard, &*self.store).await?;
        self.guard.take_over(&kept, &wanted, ELSEWHERE);
        // Where something else was wanted here meanwhile, that is kept next.
        *kept = wanted;
        Ok(())
    }
}

fn key(guard: &Guard, what: &str) -> String {
    format!("target/{}/{what}", guard.target())
}

async fn restore(guard: &Guard, store: &dyn Store) -> Result<GuardWish> {
    read(guard, &store.states(&key(guard, "")).await?.into_iter().collect())
}

fn read(guard: &Guard, states: &States) -> Result<GuardWish> {
    let shut: Option<Shut> = find(guard, states, "shut")?;
    let limited: Option<Limited> = find(guard, states, "limits")?;
    let policy = guard.policy();
    let limited = limited.filter(|limited| limited.configured == (policy.concurrency, policy.rate));
    let (concurrency, rate) = limited.map_or((None, None), |limited| (limited.concurrency, limited.rate));
    Ok(GuardWish { shut, concurrency, rate })
}

fn find<T: DeserializeOwned>(guard: &Guard, states: &States, what: &str) -> Result<Option<T>> {
    let read = states.get(&key(guard, what)).map(|value| serde_json::from_slice(value)).transpose();
    read.map_err(|err| {
        Fault::corrupt(format!("stored state of target {} is not readable", guard.target())).because(err)
    })
}

#[async_trait]
impl Heed for GuardKeepers {
    fn prefix(&self) -> &'static str {
        "target/"
    }

    async fn heed(&self, round: &Round) -> Result<()> {
        let mut first = Ok(());
        for keeper in &self.0 {
            keeper.guard.share(round.share);
            first = first.and(keeper.heed(&round.told).await);
        }
        first
    }
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

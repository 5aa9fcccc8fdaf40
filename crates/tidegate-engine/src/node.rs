//! A node without its edges: a store, what runs on it, and how all of it stops.

use std::{fmt, sync::Arc, time::Duration};

use bytestring::ByteString;
use tidegate_core::{
    clock::Clock,
    fault::Result,
    notice::Notices,
    service::{self, Context, Stopper},
    store::Store,
};

use crate::{
    group::Running,
    groups::Groups,
    modules::Modules,
    publisher::Publisher,
    sides::Sides,
    supervisor::Supervisor,
    task::{TaskRunner, Upkeep},
};

/// Period of the store's upkeep.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// How long what is told to stop may take once nothing is processed any more.
const JOIN: Duration = Duration::from_secs(3);

/// A store, the groups and services that run on it, and how they stop.
///
/// This is what a program embeds; the binary adds listeners, sources and sinks to it.
pub struct Node {
    /// Publishes with notices.
    pub publisher: Publisher,
    /// The groups, none at the start.
    pub groups: Groups,
    /// Sources and sinks by name, none at the start.
    pub modules: Modules,
    /// Groups that handle a range once more; none until they are restored.
    pub sides: Sides,
    /// What runs.
    pub supervisor: Supervisor,
    /// What services of this node are given.
    pub cx: Context,
    store: Arc<dyn Store>,
    stopper: Stopper,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("groups", &self.groups).finish_non_exhaustive()
    }
}

/// How draining ended.
#[derive(Debug)]
pub struct Drained {
    /// What was still running when there was no more time; empty when everything was finished.
    pub running: Vec<Running>,
    /// Whether nothing had to be dropped.
    pub is_clean: bool,
}

impl Node {
    /// Runs a store. `config` is the fingerprint that dead letters are stamped with.
    pub fn start(store: Arc<dyn Store>, clock: Clock, notices: Notices, config: ByteString) -> Self {
        let (stopper, stop) = service::stop();
        let cx = Context { clock, stop, notices };
        let supervisor = Supervisor::new(cx.clone());
        let groups = Groups::new(store.clone(), cx.clone(), supervisor.clone(), config);
        // Kept by the supervisor.
        drop(TaskRunner::start(Upkeep::new(store.clone(), UPKEEP_EVERY), &supervisor));
        let publisher = Publisher::new(store.clone(), cx.clone());
        let modules = Modules::new(store.clone(), cx.clone(), supervisor.clone(), publisher.clone(), groups.clone());
        let sides = Sides::new(store.clone(), cx.clone(), supervisor.clone(), groups.clone());
        Self { publisher, groups, modules, sides, supervisor, cx, store, stopper }
    }

    /// Takes no new work and lets what is held finish until `grace` is over or `hurry` comes; drops the rest, which
    /// will be tried again.
    pub async fn drain(&self, grace: Duration, hurry: impl Future<Output = ()>) -> Drained {
        self.stopper.drain();
        let is_clean = tokio::select! {
            () = self.groups.drained() => true,
            () = self.cx.clock.sleep(grace) => false,
            () = hurry => false,
        };
        let running = if is_clean { Vec::new() } else { self.groups.running() };
        if !is_clean {
            self.stopper.abort();
        }
        Drained { running, is_clean }
    }

    /// Waits for what was told to stop, and closes the store. Returns the names of those that had to be dropped;
    /// `abort_edges` drops what the caller has added and stops by other means.
    pub async fn close(&self, abort_edges: impl FnOnce()) -> Result<Vec<String>> {
        let left = self.supervisor.join(JOIN).await;
        if !left.is_empty() {
            self.stopper.abort();
            abort_edges();
            drop(self.supervisor.join(JOIN).await);
        }
        self.store.close().await?;
        Ok(left)
    }
}

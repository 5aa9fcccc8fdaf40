//! The other nodes on a shared engine: who is there, and what operators told any of them.
//!
//! **Invariant:** what one node is told is kept in the engine before it is done, and every node does what it finds there.
//! So nobody has to know to whom it was told, and a node that was away learns it when it is back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidegate_core::{
    fault::Result,
    service::Context,
    store::{Peer, Store},
};

use crate::{
    supervisor::Supervisor,
    task::{Task, TaskRunner},
};

/// Time between two looks at the others, and at what they were told.
pub(crate) const ROUND_EVERY: Duration = Duration::from_secs(2);
/// Who did something that carries no name: it was done through another node.
pub(crate) const ELSEWHERE: &str = "another node";

/// Control state by key, as it was a moment ago.
pub type States = BTreeMap<String, Vec<u8>>;

/// A part of the node that does what operators told any node.
#[async_trait]
pub trait Heed: Send + Sync {
    /// How the keys begin that it looks at.
    fn prefix(&self) -> &'static str;

    /// Does what is wanted and was not told to this node. What is handed in may be older than what was done here since, so
    /// where it differs a part reads again under its own lock.
    async fn heed(&self, told: &States) -> Result<()>;
}

/// The nodes on one engine, this one included. Cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    /// Fingerprint of what nodes that share an engine must have in common.
    work: String,
    met: Mutex<Vec<Peer>>,
    parts: Mutex<Vec<Arc<dyn Heed>>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peers").field(&*self.0.met.lock()).finish()
    }
}

impl Peers {
    /// Knows nobody yet; `work` is the fingerprint of what nodes on one engine must have in common.
    pub fn new(store: Arc<dyn Store>, work: String) -> Self {
        Self(Arc::new(Inner { store, work, met: Mutex::default(), parts: Mutex::default() }))
    }

    /// Lets a part of the node hear of what the others are told.
    pub fn tell(&self, part: Arc<dyn Heed>) {
        self.0.parts.lock().push(part);
    }

    /// Looks at the others on a period, where there can be any. The parts are there by now.
    pub fn start(&self, supervisor: &Supervisor) {
        if self.0.store.promises().shared {
            // Kept by the supervisor.
            drop(TaskRunner::start(Arc::new(Rounds(self.0.clone())), supervisor));
        }
    }

    /// How many other nodes there are.
    pub fn others(&self) -> usize {
        let own = self.0.store.node().unwrap_or_default();
        self.0.met.lock().iter().filter(|peer| peer.node != own).count()
    }

    /// Says which nodes work differently, when some do.
    pub fn disagreement(&self) -> Option<String> {
        differing(&self.0.met.lock(), self.0.store.node().unwrap_or_default(), &self.0.work)
    }
}

fn differing(met: &[Peer], own: &str, work: &str) -> Option<String> {
    let mut by_work: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for peer in met.iter().filter(|peer| peer.node != own && peer.work != work) {
        by_work.entry(short(&peer.work)).or_default().insert(&peer.node);
    }
    if by_work.is_empty() {
        return None;
    }
    let others = by_work
        .into_iter()
        .map(|(work, nodes)| format!("{} ({work})", nodes.into_iter().collect::<Vec<_>>().join(", ")));
    let others = others.collect::<Vec<_>>().join("; ");
    Some(format!(
        "streams, groups or targets are configured differently on {others} than here ({}): give all nodes the same",
        short(work)
    ))
}

/// The beginning of a fingerprint tells two apart.
fn short(work: &str) -> String {
    work.chars().take(12).collect()
}

/// Looks at the others on a period.
struct Rounds(Arc<Inner>);

#[async_trait]
impl Task for Rounds {
    fn name(&self) -> String {
        "meet".to_owned()
    }

    fn every(&self) -> Duration {
        ROUND_EVERY
    }

    async fn activate(&self, _: &Context) -> Result<()> {
        let met = self.0.store.meet(&self.0.work).await?;
        *self.0.met.lock() = met;
        let parts = self.0.parts.lock().clone();
        let mut first = Ok(());
        for part in parts {
            let told = self.0.store.states(part.prefix()).await?.into_iter().collect();
            // What one part cannot do keeps no other from its own.
            let heeded = part.heed(&told).await;
            first = first.and(heeded);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_differs_is_named() {
        let peer = |node: &str, work: &str| Peer { node: node.to_owned(), work: work.to_owned() };
        let met = [peer("a", "1"), peer("b", "1"), peer("c", "2222222222222"), peer("d", "3")];
        let said = differing(&met, "a", "1").unwrap();
        assert!(said.contains("on c (222222222222); d (3) than here (1)"), "{said}");
        assert_eq!(differing(&[peer("a", "old"), peer("b", "1")], "a", "1"), None);
    }
}

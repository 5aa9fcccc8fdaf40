//! The other nodes on a shared engine: who is there, and what operators told any of them.
//!
//! **Invariant:** what one node is told is kept in the engine before it is done, and every node does what it finds there.
//! So nobody has to know to whom it was told, and a node that was away learns it when it is back.
//!
//! **Invariant:** a node takes less of a rate as soon as it hears of one more node, and more of it only when all others have
//! heard that one is gone: together they stay within the rate.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidegate_core::{
    clock::Timestamp,
    fault::Result,
    guard::{Guard, Share},
    service::Context,
    store::{Peer, Store},
};

use crate::{
    supervisor::Supervisor,
    task::{Task, TaskRunner},
};

/// Time between two looks at the others, and at what they were told.
pub(crate) const ROUND_EVERY: Duration = Duration::from_secs(2);
/// How long a change must last before a node takes more of a rate than before, and how long a new node waits before it takes
/// any: two rounds, in which the others hear of it, and what they started before is over for rates per second.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// Who did something that carries no name: it was done through another node.
pub(crate) const ELSEWHERE: &str = "another node";

/// Control state by key, as it was a moment ago.
pub type States = BTreeMap<String, Vec<u8>>;

/// What one look at the others found.
#[derive(Debug, Clone)]
pub struct Round {
    /// The control state that a part asked for.
    pub told: States,
    /// The nodes that are there, this one included.
    pub nodes: BTreeSet<String>,
    /// The part of each rate that is this node's.
    pub share: Share,
}

/// A part of the node that does what operators told any node.
#[async_trait]
pub trait Heed: Send + Sync {
    /// How the keys begin that it looks at.
    fn prefix(&self) -> &'static str;

    /// Does what is wanted and was not told to this node. What is handed in may be older than what was done here since, so
    /// where it differs a part reads again under its own lock.
    async fn heed(&self, round: &Round) -> Result<()>;
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
    shares: Mutex<Shares>,
}

/// Which part of each rate is this node's, and which it will be when nothing changes for a while.
#[derive(Debug)]
struct Shares {
    now: Share,
    next: Share,
    /// Since when that is so.
    since: Timestamp,
}

impl Shares {
    fn look(&mut self, met: &BTreeSet<String>, own: &str, now: Timestamp) -> Share {
        let index = met.iter().take_while(|node| node.as_str() < own).count();
        let seen = Share { index, of: met.len().max(1) };
        if seen != self.next {
            (self.next, self.since) = (seen, now);
        }
        if seen.of > self.now.of || now.since(self.since) >= SETTLED_AFTER {
            self.now = seen;
        }
        self.now
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peers").field(&*self.0.met.lock()).finish()
    }
}

impl Peers {
    /// Knows nobody yet; `work` is the fingerprint of what nodes on one engine must have in common.
    pub fn new(store: Arc<dyn Store>, work: String) -> Self {
        let shares = Shares { now: Share::WHOLE, next: Share::WHOLE, since: Timestamp::ZERO };
        Self(Arc::new(Inner {
            store,
            work,
            met: Mutex::default(),
            parts: Mutex::default(),
            shares: Mutex::new(shares),
        }))
    }

    /// Lets a part of the node hear of what the others are told.
    pub fn tell(&self, part: Arc<dyn Heed>) {
        self.0.parts.lock().push(part);
    }

    /// Takes its place among the others, before it does any work. What bounds calls by a rate shares it with them, and waits
    /// until they know.
    pub async fn join(&self, guards: &[Arc<Guard>], now: Timestamp) -> Result<()> {
        if !self.0.store.promises().shared {
            return Ok(());
        }
        let (_, share) = self.0.meet(now).await?;
        for guard in guards.iter().filter(|_| share.of > 1) {
            guard.share(share);
            guard.hold(SETTLED_AFTER);
        }
        Ok(())
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

impl Inner {
    /// Says that this node is there, and returns who is, and its part of each rate.
    async fn meet(&self, now: Timestamp) -> Result<(BTreeSet<String>, Share)> {
        let met = self.store.meet(&self.work).await?;
        let nodes: BTreeSet<String> = met.iter().map(|peer| peer.node.clone()).collect();
        *self.met.lock() = met;
        let share = self.shares.lock().look(&nodes, self.store.node().unwrap_or_default(), now);
        Ok((nodes, share))
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

    async fn activate(&self, cx: &Context) -> Result<()> {
        let (nodes, share) = self.0.meet(cx.clock.now()).await?;
        let mut round = Round { told: States::new(), nodes, share };
        let parts = self.0.parts.lock().clone();
        let mut first = Ok(());
        for part in parts {
            round.told = self.0.store.states(part.prefix()).await?.into_iter().collect();
            // What one part cannot do keeps no other from its own.
            let heeded = part.heed(&round).await;
            first = first.and(heeded);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_is_taken_at_once_and_more_when_it_is_settled() {
        let mut shares = Shares { now: Share::WHOLE, next: Share::WHOLE, since: Timestamp::ZERO };
        let mut look = |met: &[&str], second: i64| {
            let met = met.iter().map(|node| (*node).to_owned()).collect();
            let share = shares.look(&met, "b", Timestamp::from_millis(1_000_000 + second * 1000));
            (share.index, share.of)
        };
        assert_eq!(look(&["b"], 0), (0, 1));
        assert_eq!(look(&["a", "b"], 2), (1, 2));
        assert_eq!(look(&["a", "b", "c"], 4), (1, 3));
        assert_eq!(look(&["b"], 6), (1, 3), "the others may be there still");
        assert_eq!(look(&["b", "c"], 8), (1, 3), "it is not settled");
        assert_eq!(look(&["b", "c"], 12), (1, 3));
        assert_eq!(look(&["b", "c"], 13), (0, 2));
        assert_eq!(look(&["b", "c", "d"], 14), (0, 3));
    }

    #[test]
    fn who_differs_is_named() {
        let peer = |node: &str, work: &str| Peer { node: node.to_owned(), work: work.to_owned() };
        let met = [peer("a", "1"), peer("b", "1"), peer("c", "2222222222222"), peer("d", "3")];
        let said = differing(&met, "a", "1").unwrap();
        assert!(said.contains("on c (222222222222); d (3) than here (1)"), "{said}");
        assert_eq!(differing(&[peer("a", "old"), peer("b", "1")], "a", "1"), None);
    }
}

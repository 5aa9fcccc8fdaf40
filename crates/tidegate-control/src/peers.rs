//! The other nodes on a shared engine: nodes that share the work of a group must do the same with it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidegate_core::{fault::Result, service::Context, store::Peer};
use tidegate_engine::Task;

use crate::api::Api;

/// Time between two looks.
const MEET_EVERY: Duration = Duration::from_secs(2);

/// What the nodes said last, this one included.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<Vec<Peer>>);

impl Peers {
    /// How many other nodes there are.
    pub(crate) fn others(&self, own: &str) -> usize {
        self.0.lock().iter().filter(|peer| peer.node != own).count()
    }

    /// Says which nodes work differently, when some do.
    pub(crate) fn disagreement(&self, own: &str, work: &str) -> Option<String> {
        let mut by_work: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for peer in self.0.lock().iter().filter(|peer| peer.node != own && peer.work != work) {
            by_work.entry(short(&peer.work)).or_default().push(peer.node.clone());
        }
        if by_work.is_empty() {
            return None;
        }
        let others = by_work.into_iter().map(|(work, nodes)| format!("{} ({work})", nodes.join(", ")));
        let others = others.collect::<Vec<_>>().join("; ");
        Some(format!(
            "streams, groups or targets are configured differently on {others} than here ({}): give all nodes the same",
            short(work)
        ))
    }
}

/// The beginning of a fingerprint tells two apart.
fn short(work: &str) -> String {
    work.chars().take(12).collect()
}

/// Looks at the others on a period.
pub(crate) struct Meeting(pub(crate) Arc<Api>);

#[async_trait]
impl Task for Meeting {
    fn name(&self) -> String {
        "meet".to_owned()
    }

    fn every(&self) -> Duration {
        MEET_EVERY
    }

    async fn activate(&self, _: &Context) -> Result<()> {
        let met = self.0.store.meet(&self.0.work).await?;
        *self.0.peers.0.lock() = met;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_differs_is_named() {
        let peer = |node: &str, work: &str| Peer { node: node.to_owned(), work: work.to_owned() };
        let peers = Peers(Mutex::new(vec![peer("a", "1"), peer("b", "1"), peer("c", "2222222222222"), peer("d", "3")]));
        assert_eq!(peers.others("a"), 3);
        let said = peers.disagreement("a", "1").unwrap();
        assert!(said.contains("on c (222222222222); d (3) than here (1)"), "{said}");
        assert_eq!(Peers(Mutex::new(vec![peer("a", "old"), peer("b", "1")])).disagreement("a", "1"), None);
    }
}

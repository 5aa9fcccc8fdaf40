//! The sign of life of a node among those that share a store: what a node holds that is gone, the others work off.

use std::{sync::Arc, time::Duration};

use tidegate_core::clock::Clock;

use super::{
    RedisOptions, begin, hex,
    link::{Link, Trouble},
    registry::millis,
    reply::Reply,
    script::{Ask, SCRIPTS},
};

/// Most of the time between two signs of life.
const EVERY: Duration = Duration::from_secs(1);
/// Signs of life in the time after which a node counts as gone: a few may be late.
const SIGNS: u32 = 5;

/// Shows signs of life for a session.
pub(crate) struct Beat {
    pub(crate) link: Arc<Link>,
    pub(crate) options: RedisOptions,
    pub(crate) owner: u64,
    pub(crate) key: [u8; 16],
}

impl Beat {
    /// Beats until it is stopped.
    pub(crate) async fn run(self) {
        // Nodes must agree on it whatever clock a test gives the store, so it goes by real time.
        let clock = Clock::real();
        loop {
            self.beat().await;
            clock.sleep(EVERY.min(self.options.takeover / SIGNS)).await;
        }
    }

    async fn beat(&self) {
        let mut ask = Ask::new(&SCRIPTS.beat, &self.options.prefix);
        ask.text(&self.options.node).text(&hex(self.owner)).number(millis(self.options.takeover));
        match self.link.run_again(&ask).await {
            Ok(answer) => {
                let gone = Reply::new(answer).each(Reply::text).unwrap_or_default();
                for node in gone {
                    tracing::warn!("node {node:?} shows no sign of life: what it held is lent again");
                }
            }
            // Others have taken over what it held, or the server lost it: here it is again.
            Err(Trouble::Told { code, .. }) if code == "TGLEFT" => {
                match begin(&self.link, &self.options, self.owner, self.key).await {
                    Ok(_) => tracing::warn!("this node was silent for too long: what it held was lent again"),
                    Err(fault) => tracing::warn!("this node is not among the others: {fault}"),
                }
            }
            // Whoever needs the server meets the same trouble and says so.
            Err(_) => {}
        }
    }
}

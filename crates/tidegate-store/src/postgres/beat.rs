//! The sign of life of a node among those that share a store: what a node holds that is gone, the others work off.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tidegate_core::clock::Clock;

use super::{
    PostgresOptions, begin,
    link::{LEFT, Lane, Link, Trouble},
};
use crate::served::declared::millis;

/// Most of the time between two signs of life.
const EVERY: Duration = Duration::from_secs(1);
/// Signs of life in the time after which a node counts as gone: a few may be late.
const SIGNS: u32 = 5;

/// Shows signs of life for a session.
pub(crate) struct Beat {
    pub(crate) link: Arc<Link>,
    pub(crate) options: PostgresOptions,
    pub(crate) owner: u64,
    /// Whether there are other nodes, who want to hear of news. Nobody knows at first.
    pub(crate) others: Arc<AtomicBool>,
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
        let silence = i64::try_from(millis(self.options.takeover)).unwrap_or(i64::MAX);
        let statement = "SELECT o_gone, o_others FROM tg_beat($1, $2, $3)";
        let owner = self.owner.cast_signed();
        match self.link.ask_one(Lane::Beat, statement, &[&self.options.node, &owner, &silence]).await {
            Ok(row) => {
                let gone: Vec<String> = row.try_get(0).unwrap_or_default();
                self.others.store(row.try_get(1).unwrap_or(1_i64) > 0, Ordering::Release);
                for node in gone {
                    tracing::warn!("node {node:?} shows no sign of life: what it held is lent again");
                }
            }
            // Others have taken over what it held, or the server lost it: here it is again.
            Err(Trouble::Told { code, .. }) if code == LEFT => {
                match begin(&self.link, &self.options, self.owner).await {
                    Ok(_) => tracing::warn!("this node was silent for too long: what it held was lent again"),
                    Err(fault) => tracing::warn!("this node is not among the others: {fault}"),
                }
            }
            // Whoever needs the server meets the same trouble and says so.
            Err(_) => {}
        }
    }
}

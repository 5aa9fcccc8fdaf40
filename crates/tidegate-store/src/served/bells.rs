//! The bells of all groups: who waits for work of a group hears its bell.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The bells, by number of the group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bells(Arc<Mutex<BTreeMap<u32, Arc<Notify>>>>);

impl Bells {
    /// The bell of a group.
    pub(crate) fn of(&self, group: u32) -> Arc<Notify> {
        Arc::clone(self.0.lock().entry(group).or_default())
    }

    /// Rings for those who wait for work of these groups.
    pub(crate) fn ring(&self, groups: &[u32]) {
        let bells = self.0.lock();
        for bell in groups.iter().filter_map(|group| bells.get(group)) {
            bell.notify_waiters();
        }
    }
}

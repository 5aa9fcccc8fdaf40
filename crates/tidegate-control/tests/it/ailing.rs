//! What can be wrong with the store of a node under test.

use parking_lot::Mutex;
use tidegate_core::{
    fault::{Fault, Result},
    names::GroupName,
    store::{GroupStatus, StoreStatus},
};
use tidegate_testkit::{Hooks, Verb};
use tokio::sync::Notify;

/// What is wrong with it.
#[derive(Clone, Default)]
pub(crate) enum Illness {
    #[default]
    None,
    /// Listing streams and appending panic.
    Panic,
    /// Appending, listing streams and asking for groups fail with this fault.
    Fault(Fault),
    /// Its status is this.
    Status(StoreStatus),
    /// Nothing is accounted for: each group has lost one event.
    Unbalanced,
}

/// A store that can be made to ail: everything goes to the real one, but for what a test asks for.
#[derive(Default)]
pub(crate) struct Ailing {
    illness: Mutex<Illness>,
    /// Told whenever somebody waits for work of the group `deliver`.
    pub(crate) waited: Notify,
}

impl Ailing {
    pub(crate) fn ail(&self, illness: Illness) {
        *self.illness.lock() = illness;
    }
}

impl Hooks for Ailing {
    fn before(&self, verb: Verb) -> Result<()> {
        match (verb, &*self.illness.lock()) {
            (Verb::Append | Verb::Streams, Illness::Panic) => panic!("the store is upset"),
            (Verb::Append | Verb::Streams | Verb::Groups, Illness::Fault(fault)) => Err(fault.clone()),
            _ => Ok(()),
        }
    }

    fn waits(&self, group: &GroupName) -> bool {
        if group.as_str() == "deliver" {
            self.waited.notify_one();
        }
        true
    }

    fn group(&self, status: &mut GroupStatus) {
        status.accepted += u64::from(matches!(&*self.illness.lock(), Illness::Unbalanced));
    }

    fn status(&self, status: StoreStatus) -> StoreStatus {
        match &*self.illness.lock() {
            Illness::Status(wanted) => wanted.clone(),
            Illness::None | Illness::Panic | Illness::Fault(_) | Illness::Unbalanced => status,
        }
    }
}

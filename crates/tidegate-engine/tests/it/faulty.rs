//! The memory engine of the tests, and a wrapper around it that fails when it is told to.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tidegate_core::{
    clock::Clock,
    fault::{Fault, Origin, Result},
    names::GroupName,
    notice::Notices,
    store::Store,
};
use tidegate_store::{
    disk::MemoryDisk,
    embedded::{Embedded, EmbeddedOptions},
};
use tidegate_testkit::{Hooked, Hooks, Verb};

/// What a store leaves when it is closed.
pub(crate) type Disk = MemoryDisk;

/// Opens the engine without threads: what waits on a thread would let virtual time run away.
pub(crate) fn open(disk: &Disk, clock: &Clock, notices: &Notices) -> Arc<dyn Store> {
    let options = EmbeddedOptions {
        disk: Arc::new(disk.clone()),
        clock: clock.clone(),
        notices: notices.clone(),
        threads: false,
        spares: 0,
        ..EmbeddedOptions::new("/memory")
    };
    Embedded::open(options).unwrap()
}

/// What fails now. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Faulty(Arc<Switches>);

#[derive(Default)]
struct Switches {
    claim: AtomicBool,
    extend: AtomicBool,
    settle: Mutex<Option<Fault>>,
    hasty: AtomicBool,
    claims: AtomicU64,
    extends: AtomicU64,
}

fn away() -> Fault {
    Fault::unavailable(Origin::Store, "disk is away")
}

impl Faulty {
    pub(crate) fn wrap(&self, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Hooked::wrap(inner, Arc::new(self.clone()))
    }

    pub(crate) fn fail_claim(&self, fail: bool) {
        self.0.claim.store(fail, Ordering::SeqCst);
    }

    pub(crate) fn fail_extend(&self, fail: bool) {
        self.0.extend.store(fail, Ordering::SeqCst);
    }

    /// Whether waiting for work ends at once, although there is none.
    pub(crate) fn hasty(&self, hasty: bool) {
        self.0.hasty.store(hasty, Ordering::SeqCst);
    }

    /// Claims so far.
    pub(crate) fn claims(&self) -> u64 {
        self.0.claims.load(Ordering::SeqCst)
    }

    /// Extensions of leases so far.
    pub(crate) fn extends(&self) -> u64 {
        self.0.extends.load(Ordering::SeqCst)
    }

    pub(crate) fn fail_settle(&self, fault: Option<Fault>) {
        *self.0.settle.lock() = fault;
    }
}

impl Hooks for Faulty {
    fn before(&self, verb: Verb) -> Result<()> {
        let Switches { claim, extend, settle, claims, extends, .. } = &*self.0;
        let is_away = match verb {
            Verb::Claim => {
                claims.fetch_add(1, Ordering::SeqCst);
                claim.load(Ordering::SeqCst)
            }
            Verb::Extend => {
                extends.fetch_add(1, Ordering::SeqCst);
                extend.load(Ordering::SeqCst)
            }
            Verb::Settle => return settle.lock().clone().map_or(Ok(()), Err),
            Verb::Append | Verb::Streams | Verb::Groups => false,
        };
        if is_away { Err(away()) } else { Ok(()) }
    }

    fn waits(&self, _: &GroupName) -> bool {
        !self.0.hasty.load(Ordering::SeqCst)
    }
}

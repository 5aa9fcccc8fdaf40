//! Deliveries of a group between claim and settlement: whose leases are renewed, and what a stop waits for.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tidegate_core::{clock::Timestamp, delivery::Delivery};
use tokio::sync::Notify;

/// Deliveries that are tried together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) deliveries: Vec<Delivery>,
    number: u64,
    /// When a handler got it; when it was claimed, before that.
    since: AtomicI64,
    lease_until: AtomicI64,
}

impl Batch {
    pub(crate) fn start(&self, now: Timestamp) {
        self.since.store(now.as_millis(), Ordering::Relaxed);
    }

    pub(crate) fn since(&self) -> Timestamp {
        Timestamp::from_millis(self.since.load(Ordering::Relaxed))
    }

    pub(crate) fn lease_until(&self) -> Timestamp {
        Timestamp::from_millis(self.lease_until.load(Ordering::Relaxed))
    }

    pub(crate) fn extended(&self, until: Timestamp) {
        self.lease_until.store(until.as_millis(), Ordering::Relaxed);
    }
}

/// What a group holds. A batch is let go only when its settlement is durable, or was given up.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    batches: Mutex<HashMap<u64, Arc<Batch>>>,
    next: AtomicI64,
    /// Batches, and claims under way that may still bring some.
    held: AtomicUsize,
    emptied: Notify,
}

/// A claim under way.
#[derive(Debug)]
pub(crate) struct Claiming<'a>(&'a Flight);

impl Flight {
    /// Says that a claim is under way, so that a stop waits for what it brings.
    pub(crate) fn claiming(&self) -> Claiming<'_> {
        self.held.fetch_add(1, Ordering::SeqCst);
        Claiming(self)
    }

    pub(crate) fn hold(&self, deliveries: Vec<Delivery>, now: Timestamp, lease_until: Timestamp) -> Arc<Batch> {
        let number = self.next.fetch_add(1, Ordering::Relaxed).unsigned_abs();
        let batch = Arc::new(Batch {
            deliveries,
            number,
            since: AtomicI64::new(now.as_millis()),
            lease_until: AtomicI64::new(lease_until.as_millis()),
        });
        self.held.fetch_add(1, Ordering::SeqCst);
        self.batches.lock().insert(number, batch.clone());
        batch
    }

    pub(crate) fn let_go(&self, batch: &Batch) {
        if self.batches.lock().remove(&batch.number).is_some() {
            self.release();
        }
    }

    fn release(&self) {
        if self.held.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.emptied.notify_waiters();
        }
    }

    pub(crate) fn batches(&self) -> Vec<Arc<Batch>> {
        self.batches.lock().values().cloned().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.load(Ordering::SeqCst) == 0
    }

    /// Waits until nothing is held.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // Listening starts before the look, so that the last release is not missed in between.
            emptied.as_mut().enable();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

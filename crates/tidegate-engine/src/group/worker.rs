//! Workers of a group: each tries one batch at a time.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidegate_core::{
    delivery::{Settled, Settlement},
    fault::Result,
    handler::Handler,
    service::{Context, Service, Stop},
};
use tokio::sync::Semaphore;

use super::{Group, attempt::attempt, flight::Batch, settle::Verdict, sift::attempt_sifted};

/// Batches on their way to workers.
#[derive(Debug)]
pub(crate) struct Ready {
    batches: Mutex<VecDeque<Arc<Batch>>>,
    /// One permit per batch.
    count: Semaphore,
}

impl Ready {
    pub(crate) fn new() -> Self {
        Self { batches: Mutex::default(), count: Semaphore::new(0) }
    }

    pub(super) fn push(&self, batch: Arc<Batch>) {
        self.batches.lock().push_back(batch);
        self.count.add_permits(1);
    }

    /// Waits for a batch; none when no more will come.
    async fn next(&self, stop: &Stop) -> Option<Arc<Batch>> {
        tokio::select! {
            permit = self.count.acquire() => if let Ok(permit) = permit { permit.forget() },
            () = stop.aborted() => {}
        }
        // A closed queue gives no permits; what is left in it still needs a verdict.
        self.batches.lock().pop_front()
    }

    pub(super) fn close(&self) {
        self.count.close();
    }
}

/// A worker.
pub(super) struct Worker {
    pub(super) group: Arc<Group>,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) number: usize,
}

#[async_trait]
impl Service for Worker {
    fn name(&self) -> String {
        format!("group/{}/worker-{}", self.group.name, self.number)
    }

    async fn run(&self, cx: Context) -> Result<()> {
        while let Some(batch) = self.group.ready.next(&cx.stop).await {
            let mut seat = Seat { group: &self.group, batch: Some(batch.clone()) };
            batch.start(self.group.cx.clock.now());
            let policy = &self.group.policy;
            // All of a batch are given the same time, and a stage does not change it.
            let within = batch.deliveries.first().map_or(policy.timeout, |first| policy.bound(&first.event));
            let settled = match policy.stages.is_empty() {
                true => attempt(&self.group, &*self.handler, &batch.deliveries, within).await,
                false => attempt_sifted(&self.group, &*self.handler, &batch.deliveries, within).await,
            };
            seat.leave(settled);
        }
        Ok(())
    }
}

/// A worker's hold on a batch. Left without a verdict, the batch goes back to the group as it was lent: that happens
/// only when this crate itself panics, and even then nothing may stay lent for good.
struct Seat<'a> {
    group: &'a Group,
    batch: Option<Arc<Batch>>,
}

impl Seat<'_> {
    fn leave(&mut self, settled: Vec<Settled>) {
        if let Some(batch) = self.batch.take() {
            self.group.settles.push(Verdict { batch, settled });
            self.group.busy.fetch_sub(1, Ordering::SeqCst);
            self.group.freed.notify_one();
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if let Some(batch) = &self.batch {
            let release = |token| Settled { token, settlement: Settlement::Release, attempt: None };
            let settled = batch.deliveries.iter().map(|delivery| release(delivery.lease.token)).collect();
            self.leave(settled);
        }
    }
}

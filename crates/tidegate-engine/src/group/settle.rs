//! Settlements on their way to the store: those that end while a commit runs go together in the next one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidegate_core::{
    delivery::{Attempt, SettleStatus, Settled, Settlement},
    fault::{Failure, Fault, FaultClass, Result, Retry},
    service::{Context, Service, StopPhase},
};
use tokio::sync::Notify;

use super::{
    Group,
    flight::Batch,
    judge::{Returned, report},
};

/// Most settlements handed to the store at once: enough to fill a commit, few enough to answer soon.
const TOGETHER_MAX: usize = 4096;
/// Wait before a store that failed is tried again; doubles up to the next constant.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// What became of a batch: one settlement per delivery, in order.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) batch: Arc<Batch>,
    pub(crate) settled: Vec<Settled>,
}

/// Verdicts that wait for the store.
#[derive(Debug, Default)]
pub(crate) struct Settles {
    queue: Mutex<Vec<Verdict>>,
    came: Notify,
    /// Settlements that are not durable yet.
    pending: AtomicUsize,
}

impl Settles {
    pub(crate) fn push(&self, verdict: Verdict) {
        debug_assert_eq!(verdict.batch.deliveries.len(), verdict.settled.len(), "one settlement per delivery");
        self.pending.fetch_add(verdict.settled.len(), Ordering::SeqCst);
        self.queue.lock().push(verdict);
        self.came.notify_one();
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }

    /// Takes what is there, up to the most that goes together.
    fn take(&self) -> Vec<Verdict> {
        let mut queue = self.queue.lock();
        let mut count = 0;
        let fits = queue
            .iter()
            .take_while(|verdict| {
                let first = count == 0;
                count += verdict.settled.len();
                first || count <= TOGETHER_MAX
            })
            .count();
        if fits == queue.len() { std::mem::take(&mut *queue) } else { queue.drain(..fits).collect() }
    }
}

/// Hands verdicts to the store.
pub(super) struct Flusher(pub(super) Arc<Group>);

#[async_trait]
impl Service for Flusher {
    fn name(&self) -> String {
        format!("group/{}/settle", self.0.name)
    }

    async fn run(&self, cx: Context) -> Result<()> {
        let group = &*self.0;
        // While anything is held, draining or not, a verdict on it may still come.
        let ended = async {
            cx.stop.draining().await;
            group.flight.emptied().await;
        };
        tokio::pin!(ended);
        loop {
            let verdicts = group.settles.take();
            if !verdicts.is_empty() {
                flush(group, verdicts).await;
                continue;
            }
            tokio::select! {
                () = group.settles.came.notified() => {}
                () = &mut ended => return Ok(()),
            }
        }
    }
}

async fn flush(group: &Group, mut verdicts: Vec<Verdict>) {
    let mut settled = Vec::with_capacity(verdicts.iter().map(|verdict| verdict.settled.len()).sum());
    for verdict in &mut verdicts {
        settled.append(&mut verdict.settled);
    }
    let statuses = settle(group, &mut settled).await;
    let deliveries = verdicts.iter().flat_map(|verdict| &verdict.batch.deliveries);
    let returned = deliveries.zip(&settled).zip(&statuses).map(|((delivery, settled), status)| Returned {
        event: &delivery.event.id,
        position: delivery.position,
        attempt: delivery.attempt,
        settlement: &settled.settlement,
        status: *status,
    });
    report(group, returned);
    for verdict in &verdicts {
        group.flight.let_go(&verdict.batch);
    }
    group.settles.pending.fetch_sub(settled.len(), Ordering::SeqCst);
    group.freed.notify_one();
}

/// Settles, for as long as it takes; none where it was given up, so that the lease runs out and the work comes back.
async fn settle(group: &Group, settled: &mut [Settled]) -> Vec<Option<SettleStatus>> {
    let mut wait = AGAIN_FIRST;
    loop {
        let fault = match group.store.settle(settled.to_vec()).await {
            Ok(statuses) => return statuses.into_iter().map(Some).collect(),
            Err(fault) => fault,
        };
        if group.cx.stop.phase() == StopPhase::Aborted {
            return vec![None; settled.len()];
        }
        if fault.retry == Retry::Never {
            if let [one] = settled {
                return vec![settle_otherwise(group, one, &fault).await];
            }
            // One of them is such that the store will never take it: the others must not suffer.
            let mut statuses = Vec::with_capacity(settled.len());
            for one in settled {
                statuses.append(&mut Box::pin(settle(group, std::slice::from_mut(one))).await);
            }
            return statuses;
        }
        tokio::select! {
            () = group.cx.clock.sleep(wait) => {}
            () = group.cx.stop.aborted() => {}
        }
        wait = (wait * 2).min(AGAIN_MAX);
    }
}

/// What a handler wants published may go nowhere, such as into a stream that does not exist: that is for somebody to
/// look at, so the delivery is buried instead.
async fn settle_otherwise(group: &Group, one: &mut Settled, fault: &Fault) -> Option<SettleStatus> {
    if !matches!(&one.settlement, Settlement::Done(outputs) if !outputs.is_empty()) {
        return None;
    }
    let failure = Failure::new(FaultClass::Invalid, format!("outputs were refused: {fault}"));
    let (class, message) = (failure.class, failure.message.clone());
    one.attempt = Some(Attempt { at: group.cx.clock.now(), took: Duration::ZERO, class, message });
    one.settlement = Settlement::Bury { failure, config: group.config.clone() };
    group.store.settle(vec![one.clone()]).await.ok()?.first().copied()
}

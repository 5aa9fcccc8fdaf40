//! Keeps the leases of running work alive, and ends pauses whose time is up.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidegate_core::{
    delivery::LeaseToken,
    fault::{Fault, Result, Retry},
    service::{Context, Service},
};

use super::Group;

/// Part of a third of a lease after which a renewal that failed is tried again.
const AGAIN: u32 = 10;

/// Renews leases at a third of their length, and again soon when that fails, so that an outage that is shorter than the
/// rest of a lease loses none.
pub(super) struct Renewer(pub(super) Arc<Group>);

#[async_trait]
impl Service for Renewer {
    fn name(&self) -> String {
        format!("group/{}/renew", self.0.name)
    }

    async fn run(&self, cx: Context) -> Result<()> {
        let third = (self.0.policy.lease / 3).max(Duration::from_millis(1));
        let mut pause = third;
        loop {
            // The heartbeat ends last: while anything is held, draining or not, its lease is kept.
            let ended = async {
                cx.stop.draining().await;
                self.0.flight.emptied().await;
            };
            tokio::select! {
                () = cx.clock.sleep(pause) => {
                    pause = match self.renew().await {
                        Ok(()) => third,
                        Err(fault) if fault.retry == Retry::Never => return Err(fault),
                        Err(_) => third / AGAIN,
                    };
                }
                () = ended => return Ok(()),
                () = cx.stop.aborted() => return Ok(()),
            }
        }
    }
}

impl Renewer {
    async fn renew(&self) -> Result<()> {
        let group = &*self.0;
        let now = group.cx.clock.now();
        // A lease is renewed when a third of it is over; the next look comes a third later.
        let due = now.plus(group.policy.lease * 2 / 3);
        let batches: Vec<_> = group.flight.batches().into_iter().filter(|batch| batch.lease_until() <= due).collect();
        if batches.is_empty() {
            return Ok(());
        }
        let tokens: Vec<LeaseToken> =
            batches.iter().flat_map(|batch| &batch.deliveries).map(|delivery| delivery.lease.token).collect();
        let until = now.plus(group.policy.lease);
        // Leases that are lost are told when they are settled, which is when it is known what that cost.
        group.store.extend(&tokens, until).await?;
        for batch in batches {
            batch.extended(until);
        }
        Ok(())
    }
}

/// Resumes a paused group when the pause has an end, and ends its drains.
pub(super) struct Resumer(pub(super) Arc<Group>);

#[async_trait]
impl Service for Resumer {
    fn name(&self) -> String {
        format!("group/{}/resume", self.0.name)
    }

    async fn run(&self, cx: Context) -> Result<()> {
        let mut desired = self.0.desired.subscribe();
        loop {
            let (until, drain) = {
                let desired = desired.borrow_and_update();
                (desired.paused.as_ref().and_then(|pause| pause.until), desired.drain.clone())
            };
            let due = async {
                match until {
                    Some(until) => cx.clock.sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let drained = async {
                match &drain {
                    Some(drain) => Ok::<_, Fault>((drain, self.0.drain_over(drain).await?)),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                drained = drained => {
                    let (drain, drained) = drained?;
                    self.0.end_drain(drain, drained).await?;
                }
                () = due => self.0.end_pause().await?,
                _ = desired.changed() => {}
                () = cx.stop.draining() => return Ok(()),
            }
        }
    }
}

//! One attempt on a batch, as a pipeline of steps: announce, call, answer, judge.
//!
//! **Invariant:** whatever a handler does (panic, hang, answer rubbish), each delivery of the batch gets exactly one
//! settlement, and nothing but this batch is harmed.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use tidegate_core::{
    clock::Timestamp,
    delivery::{Delivery, Outcome, Settled},
    fault::{Failure, FaultClass},
    handler::Handler,
};

use super::{
    Group,
    judge::{Ended, Subject, announce, judge},
};
use crate::supervisor::panic_text;

/// How a call of a handler ended when it did not answer as it should.
enum Broken {
    /// The node stops; nobody is to blame.
    Interrupted,
    TimedOut,
    /// It panicked, or answered the wrong number of outcomes.
    Crashed(String),
}

/// Tries deliveries together, for at most `within`, and returns one settlement per delivery, in order.
pub(super) async fn attempt(
    group: &Group,
    handler: &dyn Handler,
    deliveries: &[Delivery],
    within: Duration,
) -> Vec<Settled> {
    let mut settled = Vec::with_capacity(deliveries.len());
    let at = group.cx.clock.now();
    announce(group, at, deliveries.iter().map(Subject::from));
    let crashed = match trial(group, handler, deliveries, (at, within), &mut settled).await {
        Ok(()) => return settled,
        Err(crashed) => crashed,
    };
    if let [delivery] = deliveries {
        settled.push(judge(group, &delivery.into(), crashed));
        return settled;
    }
    // Nobody knows which of them broke the handler: each is tried alone, so that the others do not pay for it.
    for delivery in deliveries {
        let at = group.cx.clock.now();
        let alone = std::slice::from_ref(delivery);
        if let Err(crashed) = trial(group, handler, alone, (at, within), &mut settled).await {
            settled.push(judge(group, &delivery.into(), crashed));
        }
    }
    settled
}

/// Calls the handler once and judges its answers; an error when it crashed on them.
async fn trial(
    group: &Group,
    handler: &dyn Handler,
    deliveries: &[Delivery],
    (at, within): (Timestamp, Duration),
    settled: &mut Vec<Settled>,
) -> Result<(), Ended> {
    let watch = group.cx.clock.stopwatch();
    let called = call(group, handler, deliveries, within).await;
    let took = watch.elapsed();
    let same = |outcome: Outcome, settled: &mut Vec<Settled>| {
        for delivery in deliveries {
            settled.push(judge(group, &delivery.into(), Ended { outcome: outcome.clone(), at, took }));
        }
    };
    match called {
        Ok(outcomes) => {
            for (delivery, outcome) in deliveries.iter().zip(outcomes) {
                settled.push(judge(group, &delivery.into(), Ended { outcome, at, took }));
            }
        }
        Err(Broken::Interrupted) => same(Outcome::Interrupted, settled),
        Err(Broken::TimedOut) => {
            let message = format!("handler took longer than {within:?}");
            same(Outcome::Failed(Failure::new(FaultClass::Timeout, message)), settled);
        }
        Err(Broken::Crashed(message)) => {
            return Err(Ended { outcome: Outcome::Failed(Failure::new(FaultClass::Poison, message)), at, took });
        }
    }
    Ok(())
}

async fn call(
    group: &Group,
    handler: &dyn Handler,
    deliveries: &[Delivery],
    within: Duration,
) -> Result<Vec<Outcome>, Broken> {
    // The call is dropped inside of what catches panics: dropping a handler's future may panic too.
    let guarded = async {
        tokio::select! {
            biased;
            () = group.cx.stop.aborted() => Err(Broken::Interrupted),
            ended = tokio::time::timeout(within, handler.handle(&group.cx, deliveries)) => {
                ended.map_err(|_elapsed| Broken::TimedOut)
            }
        }
    };
    let outcomes = match AssertUnwindSafe(guarded).catch_unwind().await {
        Ok(ended) => ended?,
        Err(panic) => return Err(Broken::Crashed(format!("handler {}", panic_text(&*panic)))),
    };
    if outcomes.len() == deliveries.len() {
        return Ok(outcomes);
    }
    let (answered, asked) = (outcomes.len(), deliveries.len());
    Err(Broken::Crashed(format!("handler answered {answered} outcomes for {asked} deliveries")))
}

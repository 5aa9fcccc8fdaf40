//! The stages of a group: which deliveries get to a handler, and as what.
//!
//! The event in the store stays as it came; a delivery that was changed is a copy.

use std::time::Duration;

use tidegate_core::{
    delivery::{Delivery, Outcome, Settled, Settlement},
    event::Event,
    fault::{Failure, FaultClass},
    handler::Handler,
};
use tidegate_rules::Passage;

use super::{
    Group,
    attempt::attempt,
    judge::{Ended, Subject, announce, judge},
};

/// What becomes of a delivery in the stages.
enum Sifted {
    /// It gets to a handler as it came.
    Same,
    /// It gets to a handler as this event.
    Changed(Box<Event>),
    /// It gets to none.
    Ended(Settled),
}

fn sifted(group: &Group, delivery: &Delivery) -> Sifted {
    let fault = match group.policy.stages.pass(&delivery.event) {
        Ok(Passage::Unchanged) => return Sifted::Same,
        Ok(Passage::Changed(event)) => return Sifted::Changed(event),
        Ok(Passage::Skipped) => {
            let token = delivery.lease.token;
            return Sifted::Ended(Settled { token, settlement: Settlement::Skip, attempt: None });
        }
        Err(fault) => fault,
    };
    let (subject, at) = (Subject::from(delivery), group.cx.clock.now());
    announce(group, at, std::iter::once(subject.clone()));
    let outcome = Outcome::Failed(Failure::new(FaultClass::Invalid, fault.note()));
    Sifted::Ended(judge(group, &subject, Ended { outcome, at, took: Duration::ZERO }))
}

/// Sends a delivery through the stages. Returns what becomes of it when it does not get to a handler.
pub(super) fn sift(group: &Group, delivery: &mut Delivery) -> Option<Settled> {
    match sifted(group, delivery) {
        Sifted::Same => None,
        Sifted::Changed(event) => {
            delivery.event = *event;
            None
        }
        Sifted::Ended(settled) => Some(settled),
    }
}

/// Sifts a batch, tries what is left of it, and returns one settlement per delivery, in order.
pub(super) async fn attempt_sifted(
    group: &Group,
    handler: &dyn Handler,
    batch: &[Delivery],
    within: Duration,
) -> Vec<Settled> {
    let verdicts: Vec<Sifted> = batch.iter().map(|delivery| sifted(group, delivery)).collect();
    // Mostly all go on as they came: then nothing is copied.
    if verdicts.iter().all(|verdict| matches!(verdict, Sifted::Same)) {
        return attempt(group, handler, batch, within).await;
    }
    let mut left = Vec::with_capacity(batch.len());
    let mut settled = Vec::with_capacity(batch.len());
    for (delivery, verdict) in batch.iter().zip(verdicts) {
        let changed = match verdict {
            Sifted::Same => delivery.clone(),
            Sifted::Changed(event) => Delivery { event: *event, ..delivery.clone() },
            Sifted::Ended(verdict) => {
                settled.push(Some(verdict));
                continue;
            }
        };
        left.push(changed);
        settled.push(None);
    }
    let tried = match left.is_empty() {
        true => Vec::new(),
        false => attempt(group, handler, &left, within).await,
    };
    let mut tried = tried.into_iter();
    settled.into_iter().filter_map(|verdict| verdict.or_else(|| tried.next())).collect()
}

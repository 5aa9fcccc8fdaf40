//! The stages of a group: which deliveries get to a handler, and as what.
//!
//! The event in the store stays as it came; a delivery that was changed is a copy.

use std::time::Duration;

use tidegate_core::{
    delivery::{Delivery, Outcome, Settled, Settlement},
    fault::{Failure, FaultClass},
    handler::Handler,
};
use tidegate_rules::Passage;

use super::{
    Group,
    judge::{Ended, Subject, announce, judge},
};

/// Sends a delivery through the stages. Returns what becomes of it when it does not get to a handler.
pub(super) fn sift(group: &Group, delivery: &mut Delivery) -> Option<Settled> {
    let fault = match group.policy.stages.pass(&delivery.event) {
        Ok(Passage::Unchanged) => return None,
        Ok(Passage::Changed(event)) => {
            delivery.event = *event;
            return None;
        }
        Ok(Passage::Skipped) => {
            let token = delivery.lease.token;
            return Some(Settled { token, settlement: Settlement::Skip, attempt: None });
        }
        Err(fault) => fault,
    };
    let subject = Subject::from(&*delivery);
    announce(group, std::iter::once(subject.clone()));
    let outcome = Outcome::Failed(Failure::new(FaultClass::Invalid, fault.note()));
    Some(judge(group, &subject, Ended { outcome, at: group.cx.clock.now(), took: Duration::ZERO }))
}

/// Sifts a batch, tries what is left of it, and returns one settlement per delivery, in order.
pub(super) async fn attempt_sifted(
    group: &Group,
    handler: &dyn Handler,
    batch: &[Delivery],
    within: Duration,
) -> Vec<Settled> {
    let mut left = Vec::with_capacity(batch.len());
    let mut settled = Vec::with_capacity(batch.len());
    for delivery in batch {
        let mut delivery = delivery.clone();
        let verdict = sift(group, &mut delivery);
        if verdict.is_none() {
            left.push(delivery);
        }
        settled.push(verdict);
    }
    let tried = match left.is_empty() {
        true => Vec::new(),
        false => super::attempt::attempt(group, handler, &left, within).await,
    };
    let mut tried = tried.into_iter();
    settled.into_iter().filter_map(|verdict| verdict.or_else(|| tried.next())).collect()
}

//! From an outcome to a settlement, and what is told of it; the same for handlers here and for workers outside.

use std::time::Duration;

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    decide::{Tally, decide},
    delivery::{Attempt, Delivery, LeaseToken, Outcome, Position, SettleStatus, Settled, Settlement},
    event::{DELIVER_AT, Event},
    fault::{Failure, FaultClass},
    guard::Gate,
    notice::Notice,
};

use super::Group;

/// Shortest wait before a failed dependency is tried again while nothing else holds the group back.
const BLAMED_WAIT_MIN: Duration = Duration::from_millis(100);

/// What must be known of a delivery to judge it.
#[derive(Debug, Clone)]
pub(super) struct Subject<'a> {
    pub(super) event: &'a ByteString,
    /// The event, with or without its data; needed by groups that keep results.
    pub(super) head: Option<&'a Event>,
    pub(super) position: Position,
    pub(super) token: LeaseToken,
    pub(super) tally: Tally,
    /// When it was meant to run.
    pub(super) wanted_at: Timestamp,
}

impl<'a> From<&'a Delivery> for Subject<'a> {
    fn from(delivery: &'a Delivery) -> Self {
        // A scheduled event has not waited before its time.
        let scheduled = delivery.event.extension(DELIVER_AT).and_then(|at| Timestamp::parse(at).ok());
        Self {
            event: &delivery.event.id,
            head: Some(&delivery.event),
            position: delivery.position,
            token: delivery.lease.token,
            tally: Tally { attempt: delivery.attempt, crashes: delivery.crashes },
            wanted_at: delivery.accepted_at.max(scheduled.unwrap_or(Timestamp::ZERO)),
        }
    }
}

/// How an attempt ended, seen from outside.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) at: Timestamp,
    pub(super) took: Duration,
}

/// Tells that attempts start.
pub(super) fn announce<'a>(group: &Group, now: Timestamp, subjects: impl Iterator<Item = Subject<'a>>) {
    for subject in subjects {
        group.cx.notices.emit(&Notice::AttemptStarted {
            group: group.name.clone(),
            event: subject.event.clone(),
            position: subject.position,
            attempt: subject.tally.attempt,
            waited: now.since(subject.wanted_at),
        });
    }
}

/// Decides what an outcome leads to, and tells.
pub(super) fn judge(group: &Group, subject: &Subject<'_>, ended: Ended) -> Settled {
    let Ended { outcome, at, took } = ended;
    let outcome = group.keep_result(subject, hold_back(group, vet(outcome)));
    let failure = match &outcome {
        Outcome::Failed(failure) | Outcome::Reject(failure) => Some(failure.clone()),
        Outcome::Done(_) | Outcome::Answered { .. } | Outcome::Snooze(_) | Outcome::Interrupted => None,
    };
    let done = matches!(outcome, Outcome::Done(_));
    // The clock is not asked again for each delivery of a batch.
    let now = at.plus(took);
    let settlement = decide(outcome, subject.tally, &group.policy.retry, &group.config, now, fastrand::f64());
    let retry_at = match &settlement {
        Settlement::RetryAt { at, .. } => Some(*at),
        Settlement::Done(_) | Settlement::Skip | Settlement::Release | Settlement::Bury { .. } => None,
    };
    tell(group, subject, took, done, failure.as_ref().map(|failure| (failure, retry_at)));
    let attempt = failure.map(|Failure { class, message, .. }| Attempt { at, took, class, message });
    Settled { token: subject.token, settlement, attempt }
}

/// An output that no stream could take is a fault of the handler, found before the settlement is on its way.
fn vet(outcome: Outcome) -> Outcome {
    let (Outcome::Done(outputs) | Outcome::Answered { outputs, .. }) = &outcome else { return outcome };
    match outputs.iter().find_map(|(_, event)| event.check().err()) {
        None => outcome,
        Some(fault) => {
            let message = format!("handler gave an output that is no valid event: {fault}");
            Outcome::Failed(Failure::new(FaultClass::Poison, message))
        }
    }
}

/// Faults of a target spend nothing, so the law lets the delivery go again as soon as the gate is open. Where there is
/// no gate, or it has not closed yet, that would be a tight loop.
fn hold_back(group: &Group, mut outcome: Outcome) -> Outcome {
    if let Outcome::Failed(failure) = &mut outcome
        && failure.class.blames_target()
        && failure.after.is_none()
        && group.gate() == Gate::Open
    {
        failure.after = Some(group.policy.retry.first.max(BLAMED_WAIT_MIN));
    }
    outcome
}

fn tell(
    group: &Group,
    subject: &Subject<'_>,
    took: Duration,
    done: bool,
    failed: Option<(&Failure, Option<Timestamp>)>,
) {
    let (name, event) = (group.name.clone(), subject.event.clone());
    let (position, attempt) = (subject.position, subject.tally.attempt);
    group.cx.notices.emit(&match failed {
        Some((failure, retry_at)) => Notice::AttemptFailed {
            group: name,
            event,
            position,
            attempt,
            took,
            class: failure.class,
            message: failure.message.clone(),
            retry_at,
        },
        None if done => Notice::AttemptDone { group: name, event, position, attempt, took },
        // Put off or cut off: either way the attempt is not spent.
        None => Notice::AttemptInterrupted { group: name, event, position, attempt },
    });
}

/// A settlement that came back from the store; no status when it was given up.
pub(super) struct Returned<'a> {
    pub(super) event: &'a ByteString,
    pub(super) position: Position,
    pub(super) attempt: u32,
    pub(super) settlement: &'a Settlement,
    pub(super) status: Option<SettleStatus>,
}

/// Tells what became durable.
pub(super) fn report<'a>(group: &Group, returned: impl Iterator<Item = Returned<'a>>) {
    const WORDS: [&str; 5] = ["done", "skipped", "retry", "release", "dead"];
    let mut counts = [0_u64; WORDS.len()];
    let mut lost = 0;
    for Returned { event, position, attempt, settlement, status } in returned {
        match status {
            None => continue,
            Some(SettleStatus::LeaseLost) => {
                lost += 1;
                continue;
            }
            Some(SettleStatus::Settled) => {}
        }
        let [done, skipped, retry, release, dead] = &mut counts;
        match settlement {
            Settlement::Done(_) => {
                *done += 1;
                if group.results.is_some() {
                    let (group_name, event) = (group.name.clone(), event.clone());
                    group.cx.notices.emit(&Notice::ResultKept { group: group_name, event, position });
                }
            }
            Settlement::Skip => *skipped += 1,
            Settlement::RetryAt { .. } => *retry += 1,
            Settlement::Release => *release += 1,
            Settlement::Bury { failure, .. } => {
                *dead += 1;
                group.cx.notices.emit(&Notice::DeadLettered {
                    stream: group.stream.clone(),
                    group: group.name.clone(),
                    event: event.clone(),
                    class: failure.class,
                    message: failure.message.clone(),
                    attempts: attempt,
                });
            }
        }
    }
    for (outcome, count) in WORDS.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
        group.cx.notices.emit(&Notice::Settled { group: group.name.clone(), outcome, count });
    }
    group.tell_lost(lost);
}

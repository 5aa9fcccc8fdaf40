//! Why an event waits for others: where each of those stands.

use tidegate_core::{after::EventName, store::DeadState};

use super::{Facts, Reason};
use crate::{
    api::duration_text,
    awaited::{Awaited, AwaitedState},
};

/// Events that are named one by one; what is more is counted.
const SHOWN_MAX: usize = 8;

/// One reason for each event that it waits for; what lasts longest comes first.
pub(super) fn reasons(facts: &Facts<'_>, waits_for: &[EventName]) -> Vec<Reason> {
    let mut all: Vec<(u8, Reason)> = facts.awaited.iter().map(|awaited| reason(facts, awaited)).collect();
    all.sort_by_key(|(rank, _)| *rank);
    let more = waits_for.len().saturating_sub(SHOWN_MAX);
    let mut reasons: Vec<Reason> = all.into_iter().map(|(_, reason)| reason).take(SHOWN_MAX).collect();
    if more > 0 {
        reasons.push(Reason::new("after_more", format!("it waits for {more} more events")));
    }
    reasons
}

/// Shows an event by its id, as people do.
fn shown(name: &EventName) -> String {
    format!("event {} of {}", name.id, name.source)
}

fn reason(facts: &Facts<'_>, awaited: &Awaited) -> (u8, Reason) {
    let name = shown(&awaited.name);
    match &awaited.state {
        AwaitedState::Circle { by } => {
            let by = by.iter().map(|name| name.id.to_string()).collect::<Vec<_>>().join(", ");
            let by = if by.is_empty() { String::new() } else { format!(" by way of {by}") };
            let detail = format!("it waits for {name}, which waits for this one{by}: let one of them go by hand");
            (0, Reason::new("after_circle", detail))
        }
        AwaitedState::Dead { letter, state, at } => {
            let then = match state {
                DeadState::Parked => "reprocess that, or let this one go by hand",
                DeadState::Reprocessed => "it was sent back",
                DeadState::Resolved | DeadState::Discarded | DeadState::Expired => {
                    "let this one go by hand, or reject it"
                }
            };
            let detail = format!("it waits for {name}, which is dead letter {letter}, {}: {then}", state.as_str());
            (1, Reason::new("after_dead", detail).since(*at))
        }
        AwaitedState::Ended { word } => {
            let what = match *word {
                "expired" => "expired before it was done",
                "dropped" => "was removed before it was done",
                "foreign" => "is not for this group",
                _ => "is settled, and the ledger does not know it as done",
            };
            let detail = format!("it waits for {name}, which {what}: let this one go by hand, or reject it");
            (2, Reason::new("after_ended", detail))
        }
        AwaitedState::Unknown { whole } => {
            let keep =
                facts.group.and_then(|group| group.spec.ledger).map(|keep| format!(" of {}", duration_text(keep)));
            let keep = keep.unwrap_or_default();
            let far = if *whole { "it has not come" } else { "it was not found" };
            let detail = format!("it waits for {name}: {far}, or the ledger{keep} has forgotten that it was done");
            (3, Reason::new("after_unknown", detail))
        }
        AwaitedState::NotSought => {
            (4, Reason::new("after_open", format!("it waits for {name}, which was not looked for")))
        }
        AwaitedState::Open { position, word } => {
            let word = word.replace('_', " ");
            (5, Reason::new("after_open", format!("it waits for {name} at position {position}, which is {word}")))
        }
        AwaitedState::Done => (6, Reason::new("after_open", format!("it waited for {name}, which is done now"))),
    }
}

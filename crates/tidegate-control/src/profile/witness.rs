//! What old documents tell of the last event and of the last errors. Nobody else asks for it, so it listens only where
//! a profile shows it.

use std::collections::{BTreeMap, VecDeque};

use bytestring::ByteString;
use parking_lot::Mutex;
use serde::Serialize;
use tidegate_core::{
    clock::{Clock, Timestamp},
    names::{GroupName, StreamName},
    notice::{Listener, Notice},
};

/// Errors that are kept.
const ERRORS_MAX: usize = 10;

/// Something that went wrong.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Mishap {
    pub(crate) timestamp: Timestamp,
    pub(crate) error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_id: Option<String>,
}

/// The last event that a group was done with.
#[derive(Debug, Clone)]
pub(crate) struct Last {
    pub(crate) at: Timestamp,
    pub(crate) event: ByteString,
}

/// What was seen since somebody shows it.
#[derive(Debug)]
pub(crate) struct Witness {
    clock: Clock,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    last: BTreeMap<GroupName, Last>,
    failed: BTreeMap<GroupName, VecDeque<Mishap>>,
    refused: BTreeMap<StreamName, VecDeque<Mishap>>,
    /// Input of sources that was no event.
    rejected: VecDeque<Mishap>,
}

fn push(queue: &mut VecDeque<Mishap>, mishap: Mishap) {
    if queue.len() == ERRORS_MAX {
        queue.pop_front();
    }
    queue.push_back(mishap);
}

/// The newest of several queues, newest first.
fn newest<'a>(queues: impl Iterator<Item = &'a VecDeque<Mishap>>) -> Vec<Mishap> {
    let mut all: Vec<Mishap> = queues.flatten().cloned().collect();
    all.sort_by_key(|mishap| std::cmp::Reverse(mishap.timestamp));
    all.truncate(ERRORS_MAX);
    all
}

impl Witness {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, seen: Mutex::default() }
    }

    /// The last event that one of these groups was done with.
    pub(crate) fn last<'a>(&self, groups: impl Iterator<Item = &'a GroupName>) -> Option<Last> {
        let seen = self.seen.lock();
        groups.filter_map(|group| seen.last.get(group)).max_by_key(|last| last.at).cloned()
    }

    /// The newest errors of handlers of these groups.
    pub(crate) fn failed<'a>(&self, groups: impl Iterator<Item = &'a GroupName>) -> Vec<Mishap> {
        let seen = self.seen.lock();
        newest(groups.filter_map(|group| seen.failed.get(group)))
    }

    /// The newest errors on the way into streams.
    pub(crate) fn refused(&self) -> Vec<Mishap> {
        let seen = self.seen.lock();
        newest(seen.refused.values().chain([&seen.rejected]))
    }
}

impl Listener for Witness {
    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not kept here is kept by nobody")]
    fn notice(&self, notice: &Notice) {
        let mishap = |error: String, event: Option<&ByteString>| Mishap {
            timestamp: self.clock.now(),
            error,
            event_id: event.map(ToString::to_string),
        };
        match notice {
            Notice::AttemptDone { group, event, .. } => {
                let last = Last { at: self.clock.now(), event: event.clone() };
                let mut seen = self.seen.lock();
                match seen.last.get_mut(group) {
                    Some(known) => *known = last,
                    None => drop(seen.last.insert(group.clone(), last)),
                }
            }
            Notice::AttemptFailed { group, event, message, .. } => {
                let mishap = mishap(message.clone(), Some(event));
                push(self.seen.lock().failed.entry(group.clone()).or_default(), mishap);
            }
            Notice::Refused { stream, reason } => {
                let mishap = mishap(format!("{stream} takes nothing: {reason}"), None);
                push(self.seen.lock().refused.entry(stream.clone()).or_default(), mishap);
            }
            Notice::InputRejected { module, place, why } => {
                let mishap = mishap(format!("{module}: {place}: {why}"), None);
                push(&mut self.seen.lock().rejected, mishap);
            }
            Notice::GroupRemoved { group, .. } => {
                let mut seen = self.seen.lock();
                seen.last.remove(group);
                seen.failed.remove(group);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_core::{delivery::Position, fault::FaultClass};

    use super::*;

    #[test]
    fn the_last_event_and_the_newest_errors_are_kept() {
        let clock = Clock::manual(Timestamp::from_millis(1_000));
        let witness = Witness::new(clock.clone());
        let (a, b) = (GroupName::new("a").unwrap(), GroupName::new("b").unwrap());
        let done = |group: &GroupName, event: &'static str| Notice::AttemptDone {
            group: group.clone(),
            event: event.into(),
            position: Position::START,
            attempt: 1,
            took: Duration::ZERO,
        };
        witness.notice(&done(&a, "one"));
        clock.advance(Duration::from_secs(1));
        witness.notice(&done(&b, "two"));
        assert_eq!(&*witness.last([&a].into_iter()).unwrap().event, "one");
        assert_eq!(&*witness.last([&a, &b].into_iter()).unwrap().event, "two");
        for number in 0..15 {
            clock.advance(Duration::from_secs(1));
            witness.notice(&Notice::AttemptFailed {
                group: a.clone(),
                event: format!("e{number}").into(),
                position: Position::START,
                attempt: 1,
                took: Duration::ZERO,
                class: FaultClass::Transient,
                message: "no luck".to_owned(),
                retry_at: None,
            });
        }
        let failed = witness.failed([&a, &b].into_iter());
        assert_eq!(
            (failed.len(), failed[0].event_id.as_deref(), failed[9].event_id.as_deref()),
            (10, Some("e14"), Some("e5"))
        );
        witness.notice(&Notice::InputRejected {
            module: "o".parse().unwrap(),
            place: "row 7".into(),
            why: "bad".into(),
        });
        assert_eq!(witness.refused()[0].error, "o: row 7: bad");
        witness.notice(&Notice::GroupRemoved { group: a.clone(), by: String::new(), reason: String::new() });
        assert!(witness.failed([&a].into_iter()).is_empty());
    }
}

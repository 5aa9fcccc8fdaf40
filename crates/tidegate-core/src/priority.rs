//! What an event's priority means for the order in which a group takes events.
//!
//! One step of priority is worth a time of waiting: an event goes before those of a priority lower by one that were accepted
//! up to this time before it. So the order of two events never changes, and none waits for ever: nothing that is accepted
//! nine steps after an event goes before it.

use std::time::Duration;

use crate::{
    clock::Timestamp,
    event::{DELIVER_AT, Event},
    fault::{Fault, Result},
    limits,
};

/// Extension attribute that says how urgent an event is: 0 to 9, the higher the sooner.
pub const PRIORITY: &str = "priority";
/// Priority of an event that says nothing.
pub const PRIORITY_USUAL: u8 = 4;

/// Returns the priority of an event.
pub fn of(event: &Event) -> Result<u8> {
    let Some(given) = event.attribute(PRIORITY) else { return Ok(PRIORITY_USUAL) };
    let number = given.parse().ok().filter(|number| *number <= limits::PRIORITY_MAX && given.len() == 1);
    let most = limits::PRIORITY_MAX;
    number.ok_or_else(|| Fault::invalid(format!("attribute {PRIORITY:?}: {given:?} is not a number from 0 to {most}")))
}

/// Returns where an event stands among others, the smallest first; the time of one for later counts from then.
pub fn rank(event: &Event, accepted_at: Timestamp, step: Duration) -> i64 {
    // What was stored before the attribute had its meaning may be no number.
    let priority = of(event).unwrap_or(PRIORITY_USUAL);
    let later = event.extension(DELIVER_AT).and_then(|at| Timestamp::parse(at).ok());
    let since = later.map_or(accepted_at, |later| later.max(accepted_at));
    let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
    since.as_millis().saturating_sub(step.saturating_mul(i64::from(priority)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Attribute;

    const STEP: Duration = Duration::from_secs(60);

    fn event(priority: &str) -> Event {
        Event::new("a", "/jobs", "t").with_extension(PRIORITY, priority.to_owned())
    }

    #[test]
    fn priorities_are_numbers_from_0_to_9() {
        assert_eq!(of(&Event::new("a", "/jobs", "t")).unwrap(), PRIORITY_USUAL);
        assert_eq!((of(&event("0")).unwrap(), of(&event("9")).unwrap()), (0, 9));
        let mut number = Event::new("a", "/jobs", "t");
        number.extensions.push((PRIORITY.into(), Attribute::Integer(7)));
        assert_eq!(of(&number).unwrap(), 7);
        for wrong in ["", "10", "-1", "+1", "01", "1.5", "high", "true"] {
            let note = event(wrong).check().unwrap_err().note().to_owned();
            assert!(note.starts_with("attribute \"priority\": ") && note.contains("0 to 9"), "{wrong:?}: {note}");
        }
    }

    #[test]
    fn a_step_is_worth_its_time() {
        let at = |seconds: u64| Timestamp::from_millis(1_000_000).plus(Duration::from_secs(seconds));
        let rank = |priority: &str, seconds| rank(&event(priority), at(seconds), STEP);
        assert!(rank("5", 59) < rank("4", 0), "less than a step later");
        assert!(rank("5", 61) > rank("4", 0), "more than a step later");
        assert!(rank("9", 9 * 60 - 1) < rank("0", 0) && rank("9", 9 * 60 + 1) > rank("0", 0));
        assert_eq!(rank("3", 60), rank("4", 120), "then the place in the stream decides");
        assert!(rank("4", 0) < rank("4", 1));
        let later = event("4").with_extension(DELIVER_AT, at(500).to_string());
        assert_eq!(super::rank(&later, at(0), STEP), rank("4", 500));
        assert_eq!(super::rank(&event("x"), at(0), STEP), rank("4", 0));
        assert!(super::rank(&event("9"), at(0), Duration::MAX) < 0, "no overflow");
    }
}

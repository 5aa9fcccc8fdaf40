//! Results of a group: an answer becomes an event among the outputs, and so part of the commit that settles.

use std::time::Duration;

use tidegate_core::{
    delivery::Outcome,
    event::{Data, Event},
    names::{GroupName, StreamName},
    result::{Answer, result_event},
};

use super::{Group, judge::Subject};

/// A group that keeps results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeper {
    /// The group.
    pub group: GroupName,
    /// The stream whose events it answers.
    pub stream: StreamName,
    /// The stream in which its results lie.
    pub results: StreamName,
    /// How long they are kept.
    pub keep: Duration,
}

impl Group {
    pub(crate) fn keeper(&self) -> Option<Keeper> {
        let (results, keep) = (self.results.clone()?, self.policy.results?.keep);
        Some(Keeper { group: self.name.clone(), stream: self.stream.clone(), results, keep })
    }

    /// Puts the answer among the outputs when the group keeps results; a done without an answer is a result too.
    pub(super) fn keep_result(&self, subject: &Subject<'_>, outcome: Outcome) -> Outcome {
        let (answer, mut outputs) = match outcome {
            Outcome::Done(outputs) => (Answer::NOTHING, outputs),
            Outcome::Answered { answer, outputs } => (answer, outputs),
            Outcome::Snooze(_) | Outcome::Reject(_) | Outcome::Failed(_) | Outcome::Interrupted => return outcome,
        };
        if let (Some(stream), Some(head)) = (&self.results, subject.head) {
            outputs.push((stream.clone(), result_event(&self.name, head, answer, self.cx.clock.now())));
        }
        Outcome::Done(outputs)
    }

    /// Returns what must be remembered of an event that is lent outside, so that its result can name it.
    pub(super) fn head_of(&self, event: &Event) -> Option<Box<Event>> {
        self.results.as_ref().map(|_| Box::new(Event { data: Data::None, ..event.clone() }))
    }
}

//! Results of a group: an answer becomes an event among the outputs, and so part of the commit that settles.

use tidegate_core::{
    delivery::Outcome,
    event::{Data, Event},
    result::{Answer, result_event},
};

use super::{Group, judge::Subject};

impl Group {
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

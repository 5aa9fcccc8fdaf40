//! What engines with a server say alike of dead letters, and of the life of an event.

use tidegate_core::{
    clock::Timestamp,
    delivery::{Attempt, Position},
    event::Event,
    fault::{Fault, Result},
    limits,
    names::GroupName,
    store::{DeadAction, DeadImport, DeadLetter, DeadState, DeadStep},
    whereabouts::{Place, Standing, Step, StepKind, Wait},
};

/// Bytes of events that one step may bring.
pub(crate) const STEP_EVENTS: usize = limits::STEP_BYTES_MAX - limits::COMMIT_BYTES_MAX;

/// Reads the number of a state.
pub(crate) fn state_of(number: usize) -> Option<DeadState> {
    DeadState::ALL.get(number).copied()
}

/// Refuses a step that is none.
pub(crate) fn check_step(step: &DeadStep) -> Result<()> {
    if step.ids.len() > limits::DEAD_STEP_MAX {
        return Err(Fault::invalid(format!("more than {} dead letters in one step", limits::DEAD_STEP_MAX)));
    }
    if let DeadAction::Reprocess { edited, .. } = &step.action
        && !edited.is_empty()
    {
        if edited.len() != step.ids.len() {
            return Err(Fault::invalid("a step has one edited event for each dead letter, or none"));
        }
        edited.iter().try_for_each(Event::check)?;
    }
    Ok(())
}

/// The word for what is done with dead letters, and whether it is forced.
pub(crate) fn action_word(action: &DeadAction) -> (&'static str, bool) {
    match action {
        DeadAction::Reprocess { force, .. } => ("reprocess", *force),
        DeadAction::Recall => ("recall", false),
        DeadAction::Resolve => ("resolve", false),
        DeadAction::Discard => ("discard", false),
        DeadAction::Purge => ("purge", false),
    }
}

/// The event that a letter brings back: an edited one in place of its own.
pub(crate) fn brought<'a>(letter: &'a DeadLetter, edited: Option<&'a Event>) -> Result<&'a Event> {
    match edited {
        None => Ok(&letter.event),
        Some(edited) if edited.id != letter.event.id || edited.source != letter.event.source => {
            Err(Fault::invalid("an edited event must keep its id and source"))
        }
        Some(edited) => Ok(edited),
    }
}

/// The attempts of an imported letter that are kept.
pub(crate) fn past_of(letter: &DeadImport) -> &[Attempt] {
    let kept = letter.attempts.len().saturating_sub(limits::HISTORY_MAX);
    letter.attempts.get(kept..).unwrap_or_default()
}

/// What the ledger says of an event that is settled.
pub(crate) fn done_place(position: Position, of: Position, at: Timestamp) -> Place {
    match of.cmp(&position) {
        std::cmp::Ordering::Less => Place::Duplicate { of, at },
        std::cmp::Ordering::Equal => Place::Done { at: Some(at) },
        // It was done once more later, by force.
        std::cmp::Ordering::Greater => Place::Done { at: None },
    }
}

/// What a standing tells of the life of an event; a letter is brought by whoever can read it.
pub(crate) fn step_of(group: &GroupName, standing: &Standing, letter: Option<DeadLetter>) -> Option<Step> {
    let step = |at, what| Some(Step { at, group: group.clone(), what });
    match &standing.place {
        Place::Done { at: Some(at) } => step(*at, StepKind::Done),
        Place::Duplicate { at, .. } => step(*at, StepKind::Duplicate),
        Place::Dead { id, at, .. } => letter.and_then(|letter| {
            let attempts = u32::try_from(letter.attempts.len()).unwrap_or(u32::MAX);
            step(*at, StepKind::Dead { id: *id, class: letter.class, message: letter.message, attempts })
        }),
        Place::Scheduled { until, wait: Wait::Retry } => standing.history.last().and_then(|last| {
            let attempt = Some(last.clone());
            step(last.at, StepKind::PutOff { until: *until, attempts: standing.attempts, attempt })
        }),
        Place::Absent
        | Place::Foreign
        | Place::Waiting { .. }
        | Place::Blocked { .. }
        | Place::After { .. }
        | Place::Scheduled { .. }
        | Place::Lent { .. }
        | Place::Settling
        | Place::Done { at: None }
        | Place::Skipped
        | Place::Expired
        | Place::Dropped
        | Place::Settled => None,
    }
}

//! What the model knows of dead letters.

use super::*;

/// What the dead letter says of one that was rejected.
pub(in crate::scenario) const REJECTED: &str = "rejected";

#[derive(Debug, Clone)]
pub(in crate::scenario) struct Letter {
    /// Given by the store; learnt when it is listed for the first time.
    pub(in crate::scenario) id: Option<Position>,
    pub(in crate::scenario) group: GroupName,
    pub(in crate::scenario) position: Position,
    pub(in crate::scenario) event: Event,
    pub(in crate::scenario) state: DeadState,
    pub(in crate::scenario) message: String,
    pub(in crate::scenario) attempts: Range,
}

impl Model {
    pub(super) fn bury(&mut self, name: &GroupName, position: Position, message: &str) {
        let group = self.group(name);
        let stream = group.spec.stream.clone();
        let Some(life) = group.lives.get_mut(&position) else { return };
        life.state = State::Dead;
        let attempts = life.history;
        group.dead += 1;
        let event = self.stream(&stream).events[&position].event.clone();
        self.letters.entry(stream).or_default().push(Letter {
            id: None,
            group: name.clone(),
            position,
            event,
            state: DeadState::Parked,
            message: message.to_owned(),
            attempts,
        });
    }

    pub(super) fn move_dead(&mut self, step: &DeadStep, fresh: &mut Fresh) -> Result<(), String> {
        let stream = step.stream.origin();
        if let Some(DeadProgress { key, value, .. }) = &step.progress {
            self.states.insert(key.clone(), value.clone());
        }
        for (index, id) in step.ids.iter().enumerate() {
            let letters = self.letters.entry(stream.clone()).or_default();
            let Some(letter) = letters.iter_mut().find(|letter| letter.id == Some(*id)) else { continue };
            match &step.action {
                DeadAction::Reprocess { force, edited } => {
                    let again = *force && letter.state == DeadState::Reprocessed;
                    if letter.state != DeadState::Parked && !again {
                        continue;
                    }
                    letter.state = DeadState::Reprocessed;
                    let letter = letter.clone();
                    let event = edited.get(index).unwrap_or(&letter.event);
                    let position = self.take(&stream, event, Some(&letter.group), letter.attempts, fresh)?;
                    if let Some(facts) = self.stream(&stream).events.get_mut(&position) {
                        facts.forced = *force;
                    }
                }
                DeadAction::Resolve if letter.state == DeadState::Parked => letter.state = DeadState::Resolved,
                DeadAction::Discard if letter.state == DeadState::Parked => letter.state = DeadState::Discarded,
                DeadAction::Resolve | DeadAction::Discard => {}
                DeadAction::Recall | DeadAction::Purge => return Err("the model knows no such step".to_owned()),
            }
        }
        Ok(())
    }
}

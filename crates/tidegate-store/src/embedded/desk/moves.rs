//! Moving dead letters: what a state allows, and one commit for the whole step.

use std::sync::Arc;

use tidegate_core::{
    delivery::Position,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    store::{DeadAction, DeadProgress, DeadState, DeadStep, DeadStepStatus, Durability},
};

use super::GroupNames;
use crate::embedded::{
    Embedded,
    body::{AppendHead, DeadMove, How, Settle},
    broker::state_body,
    commit::{Item, Step},
    frame::Kind,
    group::{Group, GroupInner, State as EntryState},
    stream::Stream,
};

/// An entry that is being moved: where it stands among those asked for, its number, and where it went before.
#[derive(Debug, Clone, Copy)]
struct Staged {
    index: usize,
    seq: u64,
    went: u64,
    group: u32,
}

/// Bytes of events that one step may bring, so that it fits a commit.
const STEP_EVENTS: usize = limits::STEP_BYTES_MAX - limits::COMMIT_BYTES_MAX;

fn allows(state: DeadState, action: &DeadAction) -> bool {
    match action {
        DeadAction::Reprocess { force, .. } => state == DeadState::Parked || *force,
        DeadAction::Resolve | DeadAction::Discard => state == DeadState::Parked,
        DeadAction::Recall => state == DeadState::Reprocessed,
        DeadAction::Purge => state != DeadState::Parked,
    }
}

impl Embedded {
    pub(super) async fn move_all(&self, ask: &DeadStep) -> Result<Vec<DeadStepStatus>> {
        check(ask)?;
        let stream = self.state.dead_stream(&ask.stream)?;
        let (_alone, _shared);
        match &ask.progress {
            None => {}
            Some(DeadProgress { was: None, .. }) => _shared = self.swaps.read().await,
            Some(DeadProgress { key, was, .. }) => {
                _alone = self.swaps.write().await;
                if self.state.registry.read().states.get(key) != was.as_ref() {
                    return Err(Fault::conflict(format!("{key} was changed")));
                }
            }
        }
        let (staged, mut statuses) = stage(&stream, ask);
        let unstage = |_: &Fault| {
            if let Some(dead) = &mut stream.inner.lock().dead {
                dead.unmark(&staged.iter().map(|staged| staged.seq).collect::<Vec<_>>());
            }
        };
        let (commit, refused) = self.prepare(&stream, &staged, ask).inspect_err(unstage)?;
        let appended =
            if commit.items.is_empty() { Vec::new() } else { self.commit(commit).await.inspect_err(unstage)? };
        let mut appended = appended.into_iter().map(|appended| appended.position);
        for one in &staged {
            statuses[one.index] = if refused.contains(&one.seq) {
                DeadStepStatus::Refused(DeadState::Reprocessed)
            } else {
                DeadStepStatus::Moved(appended.next())
            };
        }
        if !refused.is_empty()
            && let Some(dead) = &mut stream.inner.lock().dead
        {
            dead.unmark(&refused);
        }
        Ok(statuses)
    }

    /// Prepares the commit of a step; also returns the entries that cannot be moved after all.
    fn prepare(&self, stream: &Stream, staged: &[Staged], ask: &DeadStep) -> Result<(Step, Vec<u64>)> {
        let mut commit = Step::new(Durability::Sync);
        let mut entries = Vec::with_capacity(staged.len());
        let mut refused = Vec::new();
        let state = match &ask.action {
            DeadAction::Reprocess { .. } => {
                self.prepare_events(stream, staged, ask, &mut commit, &mut entries)?;
                Some(DeadState::Reprocessed)
            }
            DeadAction::Recall => {
                for one in staged {
                    match self.take_back(stream, *one, &mut commit)? {
                        true => entries.push((one.seq, 0)),
                        false => refused.push(one.seq),
                    }
                }
                Some(DeadState::Parked)
            }
            DeadAction::Resolve | DeadAction::Discard | DeadAction::Purge => {
                entries.extend(staged.iter().map(|one| (one.seq, 0)));
                match ask.action {
                    DeadAction::Resolve => Some(DeadState::Resolved),
                    DeadAction::Discard => Some(DeadState::Discarded),
                    DeadAction::Reprocess { .. } | DeadAction::Recall | DeadAction::Purge => None,
                }
            }
        };
        if !entries.is_empty() {
            commit.items.push(Item::DeadMove(Box::new(DeadMove {
                stream: stream.id,
                state,
                at: self.state.clock.now(),
                by: ask.by.clone(),
                note: ask.note.clone(),
                job: ask.job.clone(),
                entries,
            })));
        }
        if let Some(DeadProgress { key, value, .. }) = &ask.progress {
            commit.items.push(Item::Raw(Kind::State, state_body(key, Some(value))?));
        }
        Ok((commit, refused))
    }

    fn prepare_events(
        &self,
        stream: &Stream,
        staged: &[Staged],
        ask: &DeadStep,
        commit: &mut Step,
        entries: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        let DeadAction::Reprocess { force, edited } = &ask.action else { return Ok(()) };
        let mut names = GroupNames::default();
        for one in staged {
            let letter = self.load_dead(stream, one.seq, &mut names)?;
            let origin = self.state.stream(&letter.stream)?;
            let group = self.state.group(&letter.group)?;
            let event = match edited.get(one.index) {
                None => &letter.event,
                Some(edited) if edited.id != letter.event.id || edited.source != letter.event.source => {
                    return Err(Fault::invalid("an edited event must keep its id and source"));
                }
                Some(edited) => edited,
            };
            let start = commit.arena.len() as u32;
            event.encode(&mut commit.arena);
            let past = letter.attempts;
            let head = AppendHead { for_group: Some(group.id), past, forced: *force, ..AppendHead::default() };
            let end = commit.arena.len() as u32;
            let redriven = Some(Box::new(head));
            commit.items.push(Item::Append { stream: origin, start, end, fingerprint: 0, redriven });
            entries.push((one.seq, commit.items.len() as u64));
            if entries.len() > 1 && commit.bytes() > STEP_EVENTS {
                let note = format!("{} dead letters are too large for one step", staged.len());
                return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
            }
        }
        Ok(())
    }

    /// Takes the delivery of a reprocessed entry out of its group, if no handler has seen it.
    fn take_back(&self, stream: &Stream, one: Staged, commit: &mut Step) -> Result<bool> {
        let Some(group) = self.group_by_id(one.group).filter(|_| one.went > 0) else { return Ok(false) };
        if group.stream.name != stream.name.origin() {
            return Ok(false);
        }
        let mut inner = group.inner.lock();
        Ok(hold(&group, &mut inner, one.went, commit))
    }
}

/// Holds a delivery that waits for its first attempt, to settle it without one.
fn hold(group: &Arc<Group>, inner: &mut GroupInner, seq: u64, commit: &mut Step) -> bool {
    // While the group is moved to another position, nothing of it is settled.
    if inner.seeking.is_some() {
        return false;
    }
    if inner.within_reach(seq) && seq <= group.stream.last() {
        inner.cover(seq + 1);
    }
    let waits = |state| {
        use EntryState::{After, Blocked, Due, Ranked, Ready};
        matches!(state, Ready | Ranked(_) | Blocked | After | Due(_))
    };
    let Some(entry) = inner.entries.get(seq).filter(|entry| entry.attempts == 0 && waits(entry.state)) else {
        return false;
    };
    // What waits for others is looked at again when this could not be written.
    let before = if entry.state == EntryState::After { EntryState::Ready } else { entry.state };
    inner.change(seq, EntryState::Settling);
    commit.items.push(Item::Settle(Settle { group: group.id, seq, how: How::NotMine }));
    commit.staged.push((Arc::clone(group), seq, before));
    true
}

fn check(ask: &DeadStep) -> Result<()> {
    if ask.ids.len() > limits::DEAD_STEP_MAX {
        return Err(Fault::invalid(format!("more than {} dead letters in one step", limits::DEAD_STEP_MAX)));
    }
    if let DeadAction::Reprocess { edited, .. } = &ask.action
        && !edited.is_empty()
    {
        if edited.len() != ask.ids.len() {
            return Err(Fault::invalid("a step has one edited event for each dead letter, or none"));
        }
        edited.iter().try_for_each(|event| event.check())?;
    }
    Ok(())
}

/// Marks entries as moving; what may not be moved is told why.
fn stage(stream: &Stream, ask: &DeadStep) -> (Vec<Staged>, Vec<DeadStepStatus>) {
    let mut staged = Vec::with_capacity(ask.ids.len());
    let mut statuses = vec![DeadStepStatus::Missing; ask.ids.len()];
    let mut inner = stream.inner.lock();
    let Some(dead) = &mut inner.dead else { return (staged, statuses) };
    for (index, Position { high, low: seq }) in ask.ids.iter().copied().enumerate() {
        let Some(entry) = dead.entries.get_mut(&seq).filter(|_| high == 0) else { continue };
        if entry.moving {
            statuses[index] = DeadStepStatus::Refused(DeadState::Reprocessed);
        } else if allows(entry.state, &ask.action) {
            entry.moving = true;
            staged.push(Staged { index, seq, went: entry.went, group: entry.group });
        } else {
            statuses[index] = DeadStepStatus::Refused(entry.state);
        }
    }
    (staged, statuses)
}

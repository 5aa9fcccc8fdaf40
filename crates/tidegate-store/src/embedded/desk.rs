//! The desk of dead letters: reads them, and moves them in one commit with what the move brings about.

use std::sync::Arc;

use bytestring::ByteString;
use tidegate_core::{
    delivery::Position,
    event::Event,
    fault::{Fault, Result},
    limits,
    names::GroupName,
    store::{DeadAction, DeadLetter, DeadState, DeadStep, DeadStepStatus, Durability},
};

use super::{
    Embedded,
    body::{AppendHead, DeadHead, DeadMove},
    commit::{Item, Step},
    stream::Stream,
};

impl Embedded {
    pub(crate) fn load_dead(&self, stream: &Stream, seq: u64) -> Result<DeadLetter> {
        let missing = || Fault::missing(format!("there is no dead letter {seq} in {:?}", stream.name.as_str()));
        let entry = {
            let inner = stream.inner.lock();
            inner.dead.as_ref().and_then(|dead| dead.entries.get(&seq)).cloned().ok_or_else(missing)?
        };
        let found = stream.read_one(seq, entry.at, &self.state.reader, &self.state.open)?;
        let mut read = tidegate_core::event::Reader { bytes: found.body.clone() };
        let head = DeadHead::read(&mut read)?;
        let group = self.group_by_id(entry.group).map(|group| group.name.clone());
        Ok(DeadLetter {
            id: Position::number(seq),
            stream: self.state.stream_name(entry.origin).unwrap_or_else(|| stream.name.origin()),
            group: group.map_or_else(|| GroupName::new("removed"), Ok)?,
            position: Position::number(entry.origin_seq),
            state: entry.state,
            event: Event::decode(read.bytes)?,
            class: entry.class,
            message: head.message,
            signature: ByteString::from(&*entry.signature),
            attempts: head.attempts,
            failed_at: head.failed_at,
            config: head.config,
            changed: entry.changed.map(|changed| *changed),
        })
    }

    /// Marks entries as moving and returns what may be moved; the rest is told why not.
    pub(crate) fn stage_dead(&self, stream: &Stream, step: &DeadStep) -> Vec<Result<u64, DeadStepStatus>> {
        let mut inner = stream.inner.lock();
        let Some(dead) = &mut inner.dead else { return Vec::new() };
        let mut staged = Vec::with_capacity(step.ids.len());
        for id in &step.ids {
            let Some(entry) = dead.entries.get_mut(&id.low).filter(|_| id.high == 0) else {
                staged.push(Err(DeadStepStatus::Missing));
                continue;
            };
            let forced = matches!(step.action, DeadAction::Reprocess { force: true, .. });
            let allowed = match entry.state {
                DeadState::Parked => true,
                DeadState::Reprocessed | DeadState::Resolved | DeadState::Discarded | DeadState::Expired => forced,
            };
            if allowed && !entry.moving {
                entry.moving = true;
                staged.push(Ok(id.low));
            } else {
                staged.push(Err(DeadStepStatus::Refused(if entry.moving {
                    DeadState::Reprocessed
                } else {
                    entry.state
                })));
            }
        }
        staged
    }

    pub(crate) fn unstage_dead(&self, stream: &Stream, seqs: &[u64]) {
        let mut inner = stream.inner.lock();
        if let Some(dead) = &mut inner.dead {
            for seq in seqs {
                if let Some(entry) = dead.entries.get_mut(seq) {
                    entry.moving = false;
                }
            }
        }
    }

    /// Prepares the move of one staged dead letter.
    pub(crate) fn prepare_dead(&self, stream: &Stream, seq: u64, action: &DeadAction, step: &mut Step) -> Result<u64> {
        let DeadAction::Reprocess { edited, force } = action else { return Ok(0) };
        let letter = self.load_dead(stream, seq)?;
        let origin = self.state.stream(&letter.stream)?;
        let group = self.state.group(&letter.group)?;
        let event = match edited {
            None => &letter.event,
            Some(edited) => {
                if edited.id != letter.event.id || edited.source != letter.event.source {
                    return Err(Fault::invalid("an edited event must keep its id and source"));
                }
                edited.check()?;
                edited
            }
        };
        let start = step.arena.len() as u32;
        event.encode(&mut step.arena);
        let head =
            AppendHead { for_group: Some(group.id), past: letter.attempts, forced: *force, ..AppendHead::default() };
        step.items.push(Item::Append {
            stream: origin,
            start,
            end: step.arena.len() as u32,
            fingerprint: 0,
            redriven: Some(Box::new(head)),
        });
        Ok(step.items.len() as u64)
    }

    /// Moves as many staged entries as fit one commit; returns where it stopped and what became of each.
    pub(crate) async fn move_some(
        &self,
        stream: &Arc<Stream>,
        step: &DeadStep,
        staged: &[Result<u64, DeadStepStatus>],
        from: usize,
    ) -> Result<(usize, Vec<DeadStepStatus>)> {
        let state = match step.action {
            DeadAction::Reprocess { .. } => DeadState::Reprocessed,
            DeadAction::Resolve => DeadState::Resolved,
            DeadAction::Discard => DeadState::Discarded,
        };
        let mut commit = Step::new(Durability::Sync);
        let mut entries = Vec::new();
        let mut end = from;
        for one in staged.iter().skip(from) {
            if let Ok(seq) = one {
                let went = self.prepare_dead(stream, *seq, &step.action, &mut commit)?;
                entries.push((*seq, went));
            }
            end += 1;
            if commit.bytes() > limits::COMMIT_BYTES_MAX {
                break;
            }
        }
        let mut appended = Vec::new();
        if !entries.is_empty() {
            commit.items.push(Item::DeadMove(Box::new(DeadMove {
                stream: stream.id,
                state,
                at: self.state.clock.now(),
                by: step.by.clone(),
                note: step.note.clone(),
                entries,
            })));
            appended = self.commit(commit).await?;
        }
        let mut appended = appended.into_iter().map(|appended| appended.position);
        let became = staged.iter().take(end).skip(from).map(|one| match one {
            Ok(_) => DeadStepStatus::Moved(appended.next()),
            Err(status) => *status,
        });
        Ok((end, became.collect()))
    }
}

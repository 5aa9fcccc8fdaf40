//! Dead letters from elsewhere: taken in once, whatever is asked for how often.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    store::{Appended, DeadImport, DeadState, Durability},
};

use super::GroupNames;
use crate::embedded::{
    Embedded,
    body::{DeadHead, Imported},
    commit::{Item, Step},
    dead::Change,
    stream::Stream,
};

/// What makes two dead letters the same one: group, time, `source` and `id`.
type Identity = (u32, Timestamp, ByteString, ByteString);

impl Embedded {
    pub(super) async fn take_in(&self, dead: &Arc<Stream>, letters: Vec<DeadImport>) -> Result<Vec<Appended>> {
        // Two that bring the same ones at a time would both find that they are new.
        let _turn = self.imports.lock().await;
        let origin = self.state.stream(&dead.name.origin())?;
        let mut groups = Vec::with_capacity(letters.len());
        for letter in &letters {
            letter.event.check()?;
            let group = self.state.group(&letter.group)?;
            if group.stream.id != origin.id {
                let (group, stream) = (group.name.as_str(), origin.name.as_str());
                return Err(Fault::invalid(format!("group {group:?} does not read stream {stream:?}")));
            }
            groups.push(group.id);
        }
        let mut known = self.known(dead, &letters, &groups)?;
        let mut step = Step::new(Durability::Sync);
        let mut answers = Vec::with_capacity(letters.len());
        for (letter, group) in letters.into_iter().zip(groups) {
            let identity = (group, letter.failed_at, letter.event.source.clone(), letter.event.id.clone());
            if let Some(place) = known.get(&identity) {
                answers.push(Err(*place));
                continue;
            }
            known.insert(identity, Place::New(step.items.len()));
            answers.push(Ok(()));
            step.items.push(item(dead, origin.id, group, letter));
            if step.bytes() > limits::STEP_BYTES_MAX {
                let note = "the dead letters are too large together; bring fewer at a time";
                return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
            }
        }
        let appended = if step.items.is_empty() { Vec::new() } else { self.commit(step).await? };
        let mut fresh = appended.iter().copied();
        let answer = |answer| match answer {
            Ok(()) => fresh.next().ok_or_else(|| Fault::bug("an imported dead letter has no place")),
            Err(Place::Kept(seq)) => Ok(Appended { position: Position::number(seq), duplicate: true }),
            Err(Place::New(index)) => {
                let first = appended.get(index).copied();
                let first = first.ok_or_else(|| Fault::bug("an imported dead letter has no place"))?;
                Ok(Appended { duplicate: true, ..first })
            }
        };
        answers.into_iter().map(answer).collect()
    }

    /// Returns those that are there and might be the same: found by group and time, then read.
    fn known(&self, dead: &Stream, letters: &[DeadImport], groups: &[u32]) -> Result<HashMap<Identity, Place>> {
        let wanted: BTreeSet<_> =
            letters.iter().zip(groups).map(|(letter, group)| (letter.failed_at, *group)).collect();
        let found: Vec<(u64, u32)> = {
            let inner = dead.inner.lock();
            let entries = inner.dead.iter().flat_map(|index| index.entries.iter());
            let alike = entries.filter(|(_, entry)| wanted.contains(&(entry.failed_at, entry.group)));
            alike.map(|(seq, entry)| (*seq, entry.group)).collect()
        };
        let mut known = HashMap::with_capacity(found.len());
        let mut names = GroupNames::default();
        for (seq, group) in found {
            let letter = self.load_dead(dead, seq, &mut names)?;
            known.insert((group, letter.failed_at, letter.event.source, letter.event.id), Place::Kept(seq));
        }
        Ok(known)
    }
}

/// Where a dead letter lies that is asked for once more.
#[derive(Debug, Clone, Copy)]
enum Place {
    Kept(u64),
    /// In this very import, as its so many-th.
    New(usize),
}

fn item(dead: &Arc<Stream>, origin: u32, group: u32, mut letter: DeadImport) -> Item {
    let change =
        letter.changed.map(|change| Change { at: change.at, by: change.by, note: change.note, job: change.job });
    let change = change.filter(|_| letter.state != DeadState::Parked);
    letter.attempts.drain(..letter.attempts.len().saturating_sub(limits::HISTORY_MAX));
    let head = DeadHead {
        stream: dead.id,
        seq: 0,
        failed_at: letter.failed_at,
        group,
        origin,
        origin_seq: 0,
        class: letter.class,
        message: letter.message,
        config: letter.config,
        attempts: letter.attempts,
        imported: Some(Box::new(Imported { state: letter.state, change })),
    };
    let mut event = Vec::with_capacity(letter.event.size() + 64);
    letter.event.encode(&mut event);
    Item::Dead { stream: Arc::clone(dead), head: Box::new(head), event: event.into() }
}

//! The index of dead letters in a checkpoint.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tidegate_core::{clock::Timestamp, fault::FaultClass, store::DeadState};

use super::{Change, DeadEntry, DeadIndex};
use crate::embedded::segment::Lsn;

/// An entry in a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct EntryImage {
    seq: u64,
    at: Lsn,
    state: u8,
    class: u8,
    group: u32,
    origin: u32,
    origin_seq: u64,
    failed_at: i64,
    signature: u32,
    kind: u32,
    went: u64,
    /// Number of its change, counted from 1; 0 = never touched.
    changed: u32,
}

/// The index in a checkpoint. Words and changes are stored once.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct DeadImage {
    words: Vec<String>,
    changes: Vec<(i64, String, String, String)>,
    entries: Vec<EntryImage>,
}

impl DeadIndex {
    pub(crate) fn image(&self) -> DeadImage {
        let mut image = DeadImage { entries: Vec::with_capacity(self.entries.len()), ..DeadImage::default() };
        let mut words: BTreeMap<u32, u32> = BTreeMap::new();
        let mut changes: HashMap<*const Change, u32> = HashMap::new();
        for (seq, entry) in &self.entries {
            let mut word = |number: u32| {
                *words.entry(number).or_insert_with(|| {
                    image.words.push(self.words.text(number).to_owned());
                    (image.words.len() - 1) as u32
                })
            };
            let (signature, kind) = (word(entry.signature), word(entry.kind));
            let changed = entry.changed.as_ref().map_or(0, |change| {
                *changes.entry(Arc::as_ptr(change)).or_insert_with(|| {
                    let Change { at, by, note, job } = &**change;
                    image.changes.push((at.as_millis(), by.to_string(), note.to_string(), job.to_string()));
                    image.changes.len() as u32
                })
            });
            image.entries.push(EntryImage {
                seq: *seq,
                at: entry.at,
                state: entry.state as u8,
                class: entry.class.code(),
                group: entry.group,
                origin: entry.origin,
                origin_seq: entry.origin_seq,
                failed_at: entry.failed_at.as_millis(),
                signature,
                kind,
                went: entry.went,
                changed,
            });
        }
        image
    }

    pub(crate) fn restore(image: DeadImage) -> Self {
        let mut index = Self::default();
        let change = |(at, by, note, job): (i64, String, String, String)| {
            let at = Timestamp::from_millis(at);
            Arc::new(Change { at, by: by.into(), note: note.into(), job: job.into() })
        };
        let changes: Vec<Arc<Change>> = image.changes.into_iter().map(change).collect();
        for entry in image.entries {
            let text = |number: u32| image.words.get(number as usize).map_or("", String::as_str);
            let (signature, kind) = (index.words.take(text(entry.signature)), index.words.take(text(entry.kind)));
            let changed = (entry.changed as usize).checked_sub(1).and_then(|at| changes.get(at));
            let restored = DeadEntry {
                at: entry.at,
                origin_seq: entry.origin_seq,
                failed_at: Timestamp::from_millis(entry.failed_at),
                went: entry.went,
                changed: changed.map(Arc::clone),
                group: entry.group,
                origin: entry.origin,
                signature,
                kind,
                state: DeadState::ALL.get(usize::from(entry.state)).copied().unwrap_or(DeadState::Parked),
                class: FaultClass::from_code(entry.class).unwrap_or(FaultClass::Transient),
                moving: false,
            };
            index.add(entry.seq, restored);
        }
        index
    }
}

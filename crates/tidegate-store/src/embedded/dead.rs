//! Index of a dead-letter stream: state and keys of every entry; the entry itself lies in the journal.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Timestamp,
    fault::{FaultClass, signature},
    store::{DeadChange, DeadQuery, DeadReport, DeadState},
};

use super::{
    body::{DeadHead, DeadMove},
    segment::Lsn,
};

/// One dead letter, without its event.
#[derive(Debug, Clone)]
pub(crate) struct DeadEntry {
    pub(crate) at: Lsn,
    pub(crate) state: DeadState,
    pub(crate) class: FaultClass,
    pub(crate) group: u32,
    pub(crate) origin: u32,
    pub(crate) origin_seq: u64,
    pub(crate) failed_at: Timestamp,
    pub(crate) signature: Arc<str>,
    pub(crate) kind: Arc<str>,
    pub(crate) changed: Option<Box<DeadChange>>,
    /// A step on it is on its way to the journal.
    pub(crate) moving: bool,
}

#[derive(Debug, Default)]
pub(crate) struct DeadIndex {
    pub(crate) entries: BTreeMap<u64, DeadEntry>,
    words: HashMap<Arc<str>, ()>,
    /// Parked entries by group.
    pub(crate) parked: BTreeMap<u32, u64>,
}

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
    changed: Option<(i64, String, String, Option<u64>)>,
}

/// The index in a checkpoint.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct DeadImage {
    words: Vec<String>,
    entries: Vec<EntryImage>,
}

impl DeadIndex {
    fn word(&mut self, text: &str) -> Arc<str> {
        if let Some((word, ())) = self.words.get_key_value(text) {
            return Arc::clone(word);
        }
        let word: Arc<str> = Arc::from(text);
        self.words.insert(Arc::clone(&word), ());
        word
    }

    /// Takes in a buried event.
    pub(crate) fn bury(&mut self, head: &DeadHead, kind: &str, at: Lsn) {
        let entry = DeadEntry {
            at,
            state: DeadState::Parked,
            class: head.class,
            group: head.group,
            origin: head.origin,
            origin_seq: head.origin_seq,
            failed_at: head.failed_at,
            signature: self.word(&signature(&head.message)),
            kind: self.word(kind),
            changed: None,
            moving: false,
        };
        *self.parked.entry(entry.group).or_default() += 1;
        self.entries.insert(head.seq, entry);
    }

    /// Carries out a change of state.
    pub(crate) fn moved(&mut self, step: &DeadMove) {
        for (seq, went) in &step.entries {
            let Some(entry) = self.entries.get_mut(seq) else { continue };
            if entry.state == DeadState::Parked
                && let Some(parked) = self.parked.get_mut(&entry.group)
            {
                *parked = parked.saturating_sub(1);
            }
            entry.state = step.state;
            entry.moving = false;
            entry.changed = Some(Box::new(DeadChange {
                at: step.at,
                by: step.by.clone(),
                note: step.note.clone(),
                position: (*went > 0).then(|| tidegate_core::delivery::Position::number(*went)),
            }));
        }
    }

    /// Forgets entries that are settled and were changed before `horizon`.
    pub(crate) fn forget(&mut self, horizon: Timestamp) {
        self.entries.retain(|_, entry| {
            entry.state == DeadState::Parked
                || entry.moving
                || entry.changed.as_ref().is_none_or(|changed| changed.at >= horizon)
        });
    }

    /// Returns the sequence numbers that a query asks for, newest first, and whether there are more.
    pub(crate) fn select(&self, query: &DeadQuery, group: Option<u32>) -> (Vec<u64>, bool) {
        let before = query.before.map_or(u64::MAX, |before| before.low);
        let mut out = Vec::new();
        for (seq, entry) in self.entries.range(..before).rev() {
            if query.since.is_some_and(|since| entry.failed_at < since) {
                continue;
            }
            if query.state.is_none_or(|state| state == entry.state) && group.is_none_or(|group| group == entry.group) {
                if out.len() == query.limit {
                    return (out, true);
                }
                out.push(*seq);
            }
        }
        (out, false)
    }

    /// Counts what was buried since a time. Groups are numbers here.
    pub(crate) fn report(&self, since: Timestamp) -> (DeadReport, BTreeMap<u32, u64>) {
        let mut report = DeadReport::default();
        let mut signatures: HashMap<&str, (u64, u64)> = HashMap::new();
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        let mut groups: BTreeMap<u32, u64> = BTreeMap::new();
        let mut classes: BTreeMap<FaultClass, u64> = BTreeMap::new();
        let mut states: BTreeMap<DeadState, u64> = BTreeMap::new();
        for (seq, entry) in &self.entries {
            if entry.state == DeadState::Parked && report.oldest.is_none_or(|oldest| entry.failed_at < oldest) {
                report.oldest = Some(entry.failed_at);
            }
            if entry.failed_at < since {
                continue;
            }
            report.total += 1;
            let slot = signatures.entry(&entry.signature).or_default();
            *slot = (slot.0 + 1, *seq);
            *kinds.entry(&entry.kind).or_default() += 1;
            *groups.entry(entry.group).or_default() += 1;
            *classes.entry(entry.class).or_default() += 1;
            *states.entry(entry.state).or_default() += 1;
        }
        report.signatures = signatures
            .into_iter()
            .map(|(text, (count, seq))| (ByteString::from(text), count, tidegate_core::delivery::Position::number(seq)))
            .collect();
        report.signatures.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        report.kinds = kinds.into_iter().map(|(kind, count)| (kind.into(), count)).collect();
        report.classes = classes.into_iter().collect();
        report.states = states.into_iter().collect();
        (report, groups)
    }

    pub(crate) fn image(&self) -> DeadImage {
        let mut image = DeadImage::default();
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        for (seq, entry) in &self.entries {
            let mut word = |word: &'_ Arc<str>| -> u32 {
                let key: &str = word;
                if let Some(number) = numbers.get(key) {
                    return *number;
                }
                let number = u32::try_from(image.words.len()).unwrap_or(u32::MAX);
                image.words.push(key.to_owned());
                // The key lives as long as the index, which is borrowed here.
                let (known, ()) = self.words.get_key_value(key).expect("every word of an entry is in the index");
                numbers.insert(known, number);
                number
            };
            image.entries.push(EntryImage {
                seq: *seq,
                at: entry.at,
                state: entry.state as u8,
                class: entry.class.code(),
                group: entry.group,
                origin: entry.origin,
                origin_seq: entry.origin_seq,
                failed_at: entry.failed_at.as_millis(),
                signature: word(&entry.signature),
                kind: word(&entry.kind),
                changed: entry.changed.as_ref().map(|changed| {
                    let went = changed.position.map(|position| position.low);
                    (changed.at.as_millis(), changed.by.to_string(), changed.note.to_string(), went)
                }),
            });
        }
        image
    }

    pub(crate) fn restore(image: DeadImage) -> Self {
        let mut index = Self::default();
        for entry in image.entries {
            let text = |number: u32| image.words.get(number as usize).map_or("", String::as_str);
            let (signature, kind) = (index.word(text(entry.signature)), index.word(text(entry.kind)));
            let state = DeadState::ALL.get(usize::from(entry.state)).copied().unwrap_or(DeadState::Parked);
            if state == DeadState::Parked {
                *index.parked.entry(entry.group).or_default() += 1;
            }
            index.entries.insert(
                entry.seq,
                DeadEntry {
                    at: entry.at,
                    state,
                    class: FaultClass::from_code(entry.class).unwrap_or(FaultClass::Transient),
                    group: entry.group,
                    origin: entry.origin,
                    origin_seq: entry.origin_seq,
                    failed_at: Timestamp::from_millis(entry.failed_at),
                    signature,
                    kind,
                    changed: entry.changed.map(|(at, by, note, went)| {
                        Box::new(DeadChange {
                            at: Timestamp::from_millis(at),
                            by: by.into(),
                            note: note.into(),
                            position: went.map(tidegate_core::delivery::Position::number),
                        })
                    }),
                    moving: false,
                },
            );
        }
        index
    }
}

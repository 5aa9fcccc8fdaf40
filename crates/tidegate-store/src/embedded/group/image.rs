//! A group in a checkpoint.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tidegate_core::{clock::Timestamp, fault::FaultClass};

use super::{
    super::{
        seen::{Seen, SeenImage},
        segment::Lsn,
    },
    Counts, Entry, GroupDecl, GroupInner, Note, State,
};

/// A group in a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GroupImage {
    pub(crate) decl: GroupDecl,
    pub(crate) applied: Lsn,
    pub(crate) cursor: u64,
    pub(crate) high: u64,
    pub(crate) again: Option<(u64, i64)>,
    pub(crate) counts: Counts,
    entries: Vec<EntryImage>,
    words: Vec<String>,
    pub(crate) ledger: Option<SeenImage>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct EntryImage {
    seq: u64,
    at: Lsn,
    due: Option<i64>,
    key: Option<u64>,
    attempts: u32,
    crashes: u32,
    history: Vec<(i64, u64, u8, u32)>,
    /// Its history already holds that of its earlier life.
    recalled: bool,
    /// Somebody let it go.
    freed: bool,
}

impl GroupImage {
    /// Returns how many unsettled deliveries below the cursor it holds.
    pub(crate) fn open_entries(&self) -> u64 {
        self.entries.len() as u64
    }
}

impl GroupInner {
    /// Takes the image. Unless the store is being closed in order, what is lent to a handler that may kill the
    /// process counts as if it had: the mark in the journal lies before the checkpoint and is not replayed.
    pub(crate) fn image(&self, decl: GroupDecl, closing: bool) -> GroupImage {
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut words = Vec::new();
        let mut entries = Vec::with_capacity(self.entries.len());
        for (seq, entry) in self.entries.iter() {
            let mut history = Vec::new();
            for note in entry.history.iter().flat_map(|notes| notes.iter()) {
                let number = *numbers.entry(&note.message).or_insert_with(|| {
                    words.push(note.message.as_ref().to_owned());
                    u32::try_from(words.len() - 1).unwrap_or(u32::MAX)
                });
                let took = u64::try_from(note.took.as_millis()).unwrap_or(u64::MAX);
                history.push((note.at.as_millis(), took, note.class.code(), number));
            }
            let held = matches!(entry.state, State::Leased { .. } | State::Settling);
            let crash = u32::from(entry.marked && held && !closing);
            entries.push(EntryImage {
                seq,
                at: entry.at,
                due: if let State::Due(at) = entry.state {
                    Some(at.as_millis()).filter(|_| entry.journaled)
                } else {
                    None
                },
                key: entry.key,
                attempts: entry.attempts + crash,
                crashes: entry.crashes + crash,
                history,
                recalled: entry.recalled,
                freed: entry.freed,
            });
        }
        GroupImage {
            decl,
            applied: self.applied,
            cursor: self.cursor,
            high: self.high,
            again: self.again,
            counts: self.counts,
            entries,
            words,
            ledger: self.ledger.as_ref().map(Seen::image),
        }
    }

    /// Takes over a checkpoint, all but the ledger.
    pub(crate) fn restore(&mut self, image: &GroupImage, block: bool) {
        self.cursor = image.cursor;
        self.high = image.high;
        self.again = image.again;
        self.counts = image.counts;
        self.applied = image.applied;
        let words: Vec<Arc<str>> = image.words.iter().map(|word| Arc::from(word.as_str())).collect();
        for word in &words {
            self.messages.insert(Arc::clone(word), ());
        }
        for old in &image.entries {
            let mut entry = Entry::new(old.at);
            entry.key = old.key.filter(|_| old.due.is_some());
            entry.attempts = old.attempts;
            entry.crashes = old.crashes;
            entry.recalled = old.recalled;
            entry.freed = old.freed;
            entry.journaled = old.due.is_some();
            for (at, took, class, number) in &old.history {
                entry.history.get_or_insert_default().push(Note {
                    at: Timestamp::from_millis(*at),
                    took: Duration::from_millis(*took),
                    class: FaultClass::from_code(*class).unwrap_or(FaultClass::Transient),
                    message: words.get(*number as usize).map_or_else(|| Arc::from(""), Arc::clone),
                });
            }
            let key = entry.key;
            self.entries.insert(old.seq, entry);
            match old.due {
                Some(due) => {
                    self.attach(old.seq, State::Due(Timestamp::from_millis(due)));
                    if block && let Some(key) = key {
                        self.keys.entry(key).or_default().holder = Some(old.seq);
                    }
                }
                None => self.attach(old.seq, State::Ready),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::{
        names::{GroupName, StreamName},
        store::{GroupSpec, StreamSpec},
    };

    use super::{
        super::{super::stream::Stream, Group},
        *,
    };

    /// A claim is on its way to the journal for a while. A checkpoint of that moment leaves it to the replay to count.
    #[test]
    fn a_claim_counts_as_a_crash_once_the_journal_names_it() {
        let (stream, name) = (StreamName::new("s").unwrap(), GroupName::new("g").unwrap());
        let spec = GroupSpec { mark_claims: true, ..GroupSpec::new(name, stream.clone()) };
        let group = Group::new(2, spec, Arc::new(Stream::new(1, StreamSpec::new(stream))), 1);
        let image = |closing| group.inner.lock().image(group.decl(1), closing).entries[0].crashes;
        {
            let mut inner = group.inner.lock();
            inner.cover(2);
            inner.change(1, State::Leased { epoch: 1, expires: Timestamp::from_millis(1000) });
        }
        assert_eq!((image(false), image(true)), (0, 0));
        group.inner.lock().mark(1);
        assert_eq!((image(false), image(true)), (1, 0));
        group.inner.lock().change(1, State::Settling);
        assert_eq!((image(false), image(true)), (1, 0));
    }
}

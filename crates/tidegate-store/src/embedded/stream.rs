//! A stream in memory: where its events lie, what it has seen, what it keeps.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Timestamp,
    dedupe::DedupeKey,
    fault::{Fault, FaultKind, Result},
    limits,
    names::StreamName,
    store::{DeadKeep, DedupeWindow, Durability, Retain, StreamSpec},
};

use super::{
    body,
    dead::DeadIndex,
    frame::Kind,
    group::Group,
    journal::{JournalReader, Records},
    seen::{Seen, SeenImage},
    segment::{Footer, Lsn},
};

/// Bytes of other streams' records after which the index is asked for the next one.
const LOOK_UP_AFTER: u64 = 4096;

/// A stream as it stands in the journal and in checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamDecl {
    pub(crate) id: u32,
    pub(crate) name: StreamName,
    pub(crate) durability: (u8, Duration),
    pub(crate) retain_age: Option<Duration>,
    pub(crate) retain_count: Option<u64>,
    pub(crate) retain_bytes: Option<u64>,
    pub(crate) drop_unsettled: bool,
    pub(crate) max_backlog: Option<u64>,
    pub(crate) dedupe: Option<(Duration, u64)>,
    pub(crate) dead_parked: Option<Duration>,
    pub(crate) dead_settled: Duration,
    /// Paths of the dedupe key; none = `source` and `id`.
    pub(crate) dedupe_key: Vec<String>,
}

impl StreamDecl {
    pub(crate) fn new(id: u32, spec: &StreamSpec) -> Self {
        Self {
            id,
            name: spec.name.clone(),
            durability: match spec.durability {
                Durability::Sync => (0, Duration::ZERO),
                Durability::Interval(every) => (1, every),
                Durability::Os => (2, Duration::ZERO),
            },
            retain_age: spec.retain.age,
            retain_count: spec.retain.count,
            retain_bytes: spec.retain.bytes,
            drop_unsettled: spec.retain.drop_unsettled,
            max_backlog: spec.max_backlog,
            dead_parked: spec.dead.parked,
            dead_settled: spec.dead.settled,
            dedupe: spec.dedupe.as_ref().map(|dedupe| (dedupe.window, dedupe.entries)),
            dedupe_key: spec.dedupe.as_ref().map(|dedupe| dedupe.key.paths()).unwrap_or_default(),
        }
    }

    pub(crate) fn spec(&self) -> StreamSpec {
        StreamSpec {
            name: self.name.clone(),
            durability: match self.durability {
                (1, every) => Durability::Interval(every),
                (2, _) => Durability::Os,
                _ => Durability::Sync,
            },
            retain: Retain {
                age: self.retain_age,
                count: self.retain_count,
                bytes: self.retain_bytes,
                drop_unsettled: self.drop_unsettled,
            },
            max_backlog: self.max_backlog,
            dead: DeadKeep { parked: self.dead_parked, settled: self.dead_settled },
            dedupe: self.dedupe.map(|(window, entries)| DedupeWindow {
                // What was written was a key then, and so it is one now.
                key: DedupeKey::new(&self.dedupe_key).unwrap_or_default(),
                window,
                entries,
            }),
        }
    }
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) name: StreamName,
    pub(crate) spec: RwLock<StreamSpec>,
    pub(crate) inner: Mutex<StreamInner>,
    /// Newest readable sequence number, for those who do not need the lock.
    pub(crate) last: AtomicU64,
    /// Oldest kept sequence number.
    pub(crate) first: AtomicU64,
    pub(crate) groups: RwLock<Vec<Arc<Group>>>,
    pub(crate) duplicates: AtomicU64,
    /// Events beyond the bounds of retention that stay because a group has not looked at them.
    pub(crate) overdue: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct StreamInner {
    /// Segments that hold events: first sequence number in each → its number.
    pub(crate) segments: BTreeMap<u64, u64>,
    /// Events copied out of cleaned segments.
    pub(crate) moved: BTreeMap<u64, Lsn>,
    pub(crate) dedupe: Option<Seen>,
    /// Sequence numbers lost to damage.
    pub(crate) quarantined: u64,
    pub(crate) applied: Lsn,
    pub(crate) dead: Option<DeadIndex>,
}

/// A stream in a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StreamImage {
    pub(crate) decl: StreamDecl,
    pub(crate) applied: Lsn,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) quarantined: u64,
    pub(crate) dedupe: Option<SeenImage>,
    pub(crate) dead: Option<super::dead::DeadImage>,
}

/// One stored record of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) seq: u64,
    pub(crate) at: Lsn,
    pub(crate) kind: Kind,
    pub(crate) body: bytes::Bytes,
}

fn new_seen(spec: &StreamSpec) -> Option<Seen> {
    spec.dedupe.as_ref().map(|dedupe| Seen::new(dedupe.window, dedupe.entries, limits::LEDGER_ACTIVE_MAX))
}

impl Stream {
    pub(crate) fn new(id: u32, spec: StreamSpec) -> Self {
        let dead = spec.name.is_dead_letters().then(DeadIndex::default);
        let inner = StreamInner {
            segments: BTreeMap::new(),
            moved: BTreeMap::new(),
            dedupe: new_seen(&spec),
            quarantined: 0,
            applied: Lsn::default(),
            dead,
        };
        Self {
            id,
            name: spec.name.clone(),
            spec: RwLock::new(spec),
            inner: Mutex::new(inner),
            last: AtomicU64::new(0),
            first: AtomicU64::new(1),
            groups: RwLock::default(),
            duplicates: AtomicU64::new(0),
            overdue: AtomicU64::new(0),
        }
    }

    /// Returns what makes two events of this stream the same; none when nobody asks.
    pub(crate) fn dedupe_key(&self) -> Option<DedupeKey> {
        self.spec.read().dedupe.as_ref().map(|dedupe| dedupe.key.clone())
    }

    /// Changes the settings of a stream that exists.
    pub(crate) fn respec(&self, spec: StreamSpec) {
        let mut inner = self.inner.lock();
        match (&mut inner.dedupe, &spec.dedupe) {
            (Some(seen), Some(dedupe)) => {
                seen.keep = dedupe.window;
                seen.entries_max = dedupe.entries;
            }
            (slot, _) => *slot = new_seen(&spec),
        }
        *self.spec.write() = spec;
    }

    pub(crate) fn decl(&self) -> StreamDecl {
        StreamDecl::new(self.id, &self.spec.read())
    }

    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    pub(crate) fn first(&self) -> u64 {
        self.first.load(Ordering::Acquire)
    }

    /// Takes in an event that became readable.
    pub(crate) fn applied(&self, inner: &mut StreamInner, seq: u64, at: Lsn) {
        let newest = inner.segments.last_key_value();
        if newest.is_none_or(|(_, segment)| *segment != at.segment()) && seq > self.last.load(Ordering::Relaxed) {
            inner.segments.insert(seq, at.segment());
        }
        self.last.fetch_max(seq, Ordering::AcqRel);
    }

    /// Returns where to start reading to find `seq`: its place or one before it in the same segment.
    fn seek(&self, inner: &StreamInner, seq: u64, reader: &JournalReader, open: &OpenIndex) -> Option<Lsn> {
        if let Some(at) = inner.moved.get(&seq) {
            return Some(*at);
        }
        let (_, number) = inner.segments.range(..=seq).next_back()?;
        let find = |footer: &Footer| footer.find(self.id).and_then(|span| span.seek(seq));
        let offset = {
            let open = open.0.read();
            if open.0 == *number { find(&open.1.lock()) } else { reader.segment(*number)?.footer.get().and_then(find) }
        };
        offset.map(|offset| Lsn::new(*number, offset))
    }

    /// Finds the next event at or after `seq`: its segment or that of the next moved one.
    fn next_place(&self, inner: &StreamInner, seq: u64) -> Option<u64> {
        let moved = inner.moved.range(seq..).next().map(|(seq, _)| *seq);
        let segment = inner.segments.range(seq..).next().map(|(seq, _)| *seq);
        match (moved, segment) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        }
    }

    /// Reads events from `from` on, in order, at most `max` and about `bytes_max`; `hint` says where the last read
    /// ended. Sequence numbers that are missing are gaps: trimmed or damaged.
    pub(crate) fn read(
        &self,
        from: u64,
        max: usize,
        bytes_max: usize,
        hint: &mut Option<Hint>,
        reader: &JournalReader,
        open: &OpenIndex,
    ) -> Result<Vec<Found>> {
        let last = self.last();
        let mut found = Vec::new();
        let mut seq = from.max(1);
        let mut bytes = 0;
        while seq <= last && found.len() < max && bytes < bytes_max {
            let hinted = hint.take().filter(|hint| hint.seq == seq);
            let was_hinted = hinted.is_some();
            let start = match hinted {
                Some(hint) => Some((hint.at, hint.rest)),
                None => {
                    let inner = self.inner.lock();
                    self.seek(&inner, seq, reader, open).map(|at| (at, bytes::Bytes::new()))
                }
            };
            let walked = match start {
                Some((at, rest)) => {
                    let records = Records::resume(reader, at, rest);
                    let look_up = |seq| self.seek(&self.inner.lock(), seq, reader, open);
                    // A frame can be read before it is applied: what is past the last event is not there yet.
                    let room = (max - found.len()).min(usize::try_from(last - seq + 1).unwrap_or(usize::MAX));
                    match self.walk(records, seq, room, bytes_max - bytes, &look_up) {
                        // Its segment may be gone since.
                        Err(fault) if was_hinted && fault.kind == FaultKind::Corrupt => Walked::default(),
                        walked => walked?,
                    }
                }
                None => Walked::default(),
            };
            bytes += walked.found.iter().map(|found| found.body.len()).sum::<usize>();
            if let Some(end) = walked.found.last() {
                seq = end.seq + 1;
                *hint = walked.next.map(|(at, rest)| Hint { seq, at, rest });
                found.extend(walked.found);
                continue;
            }
            if was_hinted {
                // The journal rolled on since; look it up.
                continue;
            }
            // Nothing at `seq` where it should be: go on at the next place that is known.
            let next = {
                let inner = self.inner.lock();
                self.next_place(&inner, seq + 1)
            };
            let within = walked.beyond.filter(|beyond| *beyond > seq);
            match within.into_iter().chain(next).min() {
                Some(next) => seq = next,
                None => break,
            }
        }
        Ok(found)
    }

    /// Walks records from a place on and takes those of this stream that follow each other from `seq`.
    fn walk(
        &self,
        mut records: Records<'_>,
        seq: u64,
        max: usize,
        bytes_max: usize,
        look_up: &dyn Fn(u64) -> Option<Lsn>,
    ) -> Result<Walked> {
        let mut walked = Walked::default();
        let (mut next, mut taken, mut skipped, mut looked_up) = (seq, 0, 0_u64, false);
        while let Some((at, record)) = records.next()? {
            let body =
                if record.kind == Kind::Moved { record.body.get(1..).unwrap_or_default() } else { &record.body[..] };
            let holds_event = matches!(record.kind, Kind::Append | Kind::Dead | Kind::Moved);
            let (stream, number) = body::peek_seq(body).filter(|_| holds_event).unwrap_or_default();
            let was_moved = record.kind == Kind::Moved;
            if stream == self.id && number > next && !was_moved {
                walked.beyond = Some(number);
                break;
            }
            if stream == self.id && number == next {
                let (kind, body) = unwrap_moved(record.kind, &record.body)?;
                taken += body.len();
                walked.found.push(Found { seq: number, at, kind, body: super::seen::own(&body) });
                next += 1;
                (skipped, looked_up) = (0, false);
                if walked.found.len() >= max || taken >= bytes_max || was_moved {
                    walked.next = (!was_moved).then(|| (records.at(), records.rest()));
                    return Ok(walked);
                }
            } else if !walked.found.is_empty() {
                skipped += record.len as u64;
                if skipped > LOOK_UP_AFTER && !looked_up {
                    // Many others lie between: the index may know the next one.
                    looked_up = true;
                    let known = look_up(next).filter(|to| to.segment() == at.segment() && *to > at);
                    known.into_iter().for_each(|to| records.jump(to));
                }
                if skipped > 4 * super::segment::INDEX_EVERY {
                    return Ok(walked);
                }
            }
        }
        walked.next = Some((records.at(), records.rest())).filter(|_| walked.beyond.is_none());
        Ok(walked)
    }

    /// Reads the one record at a known place; looks it up again when it was moved.
    pub(crate) fn read_one(&self, seq: u64, at: Lsn, reader: &JournalReader, open: &OpenIndex) -> Result<Found> {
        if at != Lsn::default()
            && let Ok(record) = reader.record(at)
        {
            let (kind, body) = unwrap_moved(record.kind, &record.body)?;
            if body::peek_seq(&body) == Some((self.id, seq)) {
                return Ok(Found { seq, at, kind, body: super::seen::own(&body) });
            }
        }
        let found = self.read(seq, 1, usize::MAX, &mut None, reader, open)?;
        found
            .into_iter()
            .next()
            .filter(|found| found.seq == seq)
            .ok_or_else(|| Fault::corrupt(format!("event {seq} of stream {:?} does not read back", self.name.as_str())))
    }

    pub(crate) fn image(&self) -> StreamImage {
        let inner = self.inner.lock();
        StreamImage {
            decl: self.decl(),
            applied: inner.applied,
            first: self.first(),
            last: self.last(),
            quarantined: inner.quarantined,
            dedupe: inner.dedupe.as_ref().map(Seen::image),
            dead: inner.dead.as_ref().map(DeadIndex::image),
        }
    }

    /// Returns the time before which retention by age ends.
    pub(crate) fn horizon(&self, now: Timestamp) -> Option<Timestamp> {
        self.spec.read().retain.age.map(|age| now.minus(age))
    }
}

/// Where the next read goes on.
#[derive(Debug, Clone)]
pub(crate) struct Hint {
    seq: u64,
    at: Lsn,
    /// Bytes from there on that were read from the file and not used.
    rest: bytes::Bytes,
}

/// What a walk found.
#[derive(Debug, Default)]
struct Walked {
    found: Vec<Found>,
    /// Where the next record stands, and what was read of it.
    next: Option<(Lsn, bytes::Bytes)>,
    /// A later event of the stream that stands where an earlier one was looked for.
    beyond: Option<u64>,
}

/// Number and index of the open segment; the committer swaps them when it rolls.
#[derive(Debug)]
pub(crate) struct OpenIndex(pub(crate) RwLock<(u64, Arc<Mutex<Footer>>)>);

/// Takes the copied record out of a `Moved` one: its first byte is the kind.
pub(crate) fn unwrap_moved(kind: Kind, body: &bytes::Bytes) -> Result<(Kind, bytes::Bytes)> {
    if kind != Kind::Moved {
        return Ok((kind, body.clone()));
    }
    let inner = body.first().and_then(|kind| Kind::read(*kind));
    match inner {
        Some(inner @ (Kind::Append | Kind::Dead)) => Ok((inner, body.slice(1..))),
        Some(_) | None => Err(Fault::corrupt("moved record is not readable")),
    }
}

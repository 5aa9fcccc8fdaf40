//! Upkeep: spares, sealing, retention, cleaning, checkpoints. Off the commit path, idempotent, restartable anywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use bytestring::ByteString;
use parking_lot::Mutex;
use tidegate_core::{
    fault::{Fault, Result},
    limits,
    store::{DeadState, Durability},
};
use tokio::sync::oneshot;

use super::{
    body::{self, DeadMove},
    checkpoint,
    commit::{Item, Queue, Step},
    frame::Kind,
    group::Group,
    journal::{JournalReader, Records, Spares, io_fault, segment_size},
    open::{CHECKPOINTS, JOURNAL},
    seen::{self, Seen},
    segment::{DATA_START, Footer, Lsn, Segment},
    state::State,
    stats::Stats,
    stream::Stream,
};

/// Bytes of journal after which a checkpoint is written.
const CHECKPOINT_EVERY: u64 = 64 << 20;
/// Bytes of journal for each byte of checkpoint, at least.
const CHECKPOINT_SHARE: u64 = 4;
/// A sealed segment with a smaller living part than one in so many is cleaned.
const CLEAN_BELOW: u64 = 4;
/// Bytes zeroed at a time.
const ZERO_BYTES: usize = 256 * 1024;

/// Does the upkeep of one store.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(crate) state: Arc<State>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) spares: Arc<Mutex<Spares>>,
    pub(crate) sizes: (u64, u64),
    pub(crate) spares_wanted: usize,
    /// Kept checkpoints with the place where their replay starts, oldest first.
    pub(crate) checkpoints: Vec<(u64, Lsn)>,
    pub(crate) next_spare: u64,
    /// Counter of written bytes at the last checkpoint.
    pub(crate) written: u64,
    /// Size of the last checkpoint.
    pub(crate) checkpoint_bytes: u64,
    /// Segments in which nothing lives any more, with the number of the newest checkpoint at that time: they go when
    /// every kept checkpoint is newer, because older ones may still count on what is in them.
    pub(crate) cleaned: BTreeMap<u64, u64>,
    /// How steps get committed while upkeep waits: by the committer's thread, or right here.
    pub(crate) pump: Pump,
}

/// Locks a set of fingerprints for a moment.
type WithSeen<'a> = dyn Fn(&mut dyn FnMut(&mut Seen)) + 'a;

/// Commits what waits, where there is no thread that does.
#[derive(Clone)]
pub(crate) struct Pump(pub(crate) Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pump")
    }
}

impl Upkeep {
    /// One pass over everything.
    pub(crate) fn pass(&mut self, force_checkpoint: bool) -> Result<()> {
        self.guard_disk();
        self.fill_spares()?;
        self.state.check_failed()?;
        self.seal_seen()?;
        // Sealing takes its time, and the committer may have used up all that was ready.
        self.fill_spares()?;
        self.drop_overdue()?;
        self.expire_dead()?;
        self.trim();
        self.sample_rates();
        let clean = self.clean()?;
        let written = self.state.stats.bytes.load(Ordering::Relaxed) - self.written;
        // A large state is written less often, so that writing it stays a part of the work and not most of it.
        let every = CHECKPOINT_EVERY.min(self.sizes.0 * 8).max(CHECKPOINT_SHARE * self.checkpoint_bytes);
        if force_checkpoint || written >= every || clean {
            self.checkpoint(false)?;
        }
        self.remove_dead_segments()?;
        self.state.stats.progress_at.store(self.state.clock.now().as_millis(), Ordering::Relaxed);
        Ok(())
    }

    fn guard_disk(&self) {
        let Ok(free) = self.state.disk.free_bytes(&self.state.dir) else { return };
        let reserve = self.state.disk_reserve;
        if free < reserve {
            self.state.refuse(Some(format!("disk of {} is full: {free} bytes free", self.state.dir.display())));
        } else if self.state.is_refusing.load(Ordering::Acquire) && free > reserve.saturating_add(reserve / 4) {
            self.state.refuse(None);
        }
    }

    /// Keeps zeroed files at hand: overwriting them syncs twice as fast as growing a file, and the last one lets
    /// settling go on when the disk is full.
    fn fill_spares(&mut self) -> Result<()> {
        let dir = self.state.dir.join(JOURNAL);
        let size = segment_size(self.state.reader.total_bytes(), self.sizes);
        while self.spares.lock().ready.len() < self.spares_wanted {
            let free = self.state.disk.free_bytes(&dir).unwrap_or(u64::MAX);
            if free < size.saturating_add(self.state.disk_reserve) {
                return Ok(());
            }
            self.next_spare += 1;
            let path = dir.join(format!("spare-{:016x}", self.next_spare));
            let failed = |error| io_fault("prepare", &path, error);
            let made = (|| {
                let file = self.state.disk.open(&path, true)?;
                let zeros = vec![0; ZERO_BYTES];
                let mut at = 0;
                while at < size {
                    let count = ZERO_BYTES.min(usize::try_from(size - at).unwrap_or(ZERO_BYTES));
                    file.append_at(&zeros[..count], at)?;
                    at += count as u64;
                }
                file.sync()
            })();
            if let Err(error) = made {
                drop(self.state.disk.remove(&path));
                return if super::journal::is_full(&error) { Ok(()) } else { Err(failed(error)) };
            }
            self.spares.lock().ready.push((path, size));
        }
        Ok(())
    }

    /// Moves fingerprints out of memory into sorted runs.
    fn seal_seen(&self) -> Result<()> {
        let (streams, groups) = self.everything();
        let now = self.state.clock.now();
        let count = streams.len() + groups.len();
        let active_max = (4 * limits::LEDGER_ACTIVE_MAX / count.max(1)).clamp(4096, limits::LEDGER_ACTIVE_MAX);
        for stream in streams {
            let with = |work: &mut dyn FnMut(&mut Seen)| {
                if let Some(seen) = &mut stream.inner.lock().dedupe {
                    work(seen);
                }
            };
            self.seal_one(&with, active_max, now)?;
        }
        for group in groups {
            let with = |work: &mut dyn FnMut(&mut Seen)| {
                if let Some(seen) = &mut group.inner.lock().ledger {
                    work(seen);
                }
            };
            self.seal_one(&with, active_max, now)?;
        }
        Ok(())
    }

    fn seal_one(&self, with: &WithSeen<'_>, active_max: usize, now: tidegate_core::clock::Timestamp) -> Result<()> {
        loop {
            let mut work = None;
            with(&mut |seen| work = seen.sealing(active_max, now));
            let Some(work) = work else { return Ok(()) };
            let file = self.state.next_run.fetch_add(1, Ordering::AcqRel);
            seen::seal(&self.state.runs, file, work, |work| with(work))?;
        }
    }

    fn everything(&self) -> (Vec<Arc<Stream>>, Vec<Arc<Group>>) {
        let registry = self.state.registry.read();
        (registry.streams.values().map(Arc::clone).collect(), registry.groups.values().map(Arc::clone).collect())
    }

    /// Moves the start of each stream up to what retention keeps and every group has looked at.
    pub(crate) fn trim(&self) {
        let now = self.state.clock.now();
        for stream in self.everything().0 {
            if stream.name.is_dead_letters() {
                let horizon = now.minus(stream.spec.read().dead.settled);
                if let Some(dead) = &mut stream.inner.lock().dead {
                    dead.forget(horizon);
                }
                continue;
            }
            let horizon = stream.horizon(now);
            let wanted = self.retained_from(&stream, horizon);
            let groups = stream.groups.read();
            let floor = groups.iter().map(|group| group.inner.lock().floor()).min().unwrap_or(u64::MAX);
            stream.first.fetch_max(wanted.min(floor).min(stream.last() + 1), Ordering::AcqRel);
            stream.overdue.store(wanted.saturating_sub(stream.first()), Ordering::Relaxed);
        }
    }

    /// Drops what groups have not settled where a stream asks for it.
    fn drop_overdue(&self) -> Result<()> {
        let now = self.state.clock.now();
        for stream in self.everything().0 {
            if stream.spec.read().retain.drop_unsettled {
                self.drop_unsettled(&stream, self.retained_from(&stream, stream.horizon(now)))?;
            }
        }
        Ok(())
    }

    /// Gives up dead letters that waited too long for somebody.
    fn expire_dead(&self) -> Result<()> {
        let now = self.state.clock.now();
        for stream in self.everything().0 {
            let Some(keep) = stream.spec.read().dead.parked.filter(|_| stream.name.is_dead_letters()) else { continue };
            loop {
                let overdue = match &mut stream.inner.lock().dead {
                    Some(dead) => dead.overdue(now.minus(keep), limits::DEAD_STEP_MAX),
                    None => Vec::new(),
                };
                if overdue.is_empty() {
                    break;
                }
                let mut step = Step::new(Durability::Sync);
                step.items.push(Item::DeadMove(Box::new(DeadMove {
                    stream: stream.id,
                    state: Some(DeadState::Expired),
                    at: now,
                    by: "retention".into(),
                    note: ByteString::new(),
                    job: ByteString::new(),
                    entries: overdue.iter().map(|seq| (*seq, 0)).collect(),
                })));
                self.commit(step).inspect_err(|_| {
                    if let Some(dead) = &mut stream.inner.lock().dead {
                        dead.unmark(&overdue);
                    }
                })?;
            }
        }
        Ok(())
    }

    /// Returns the first sequence number that age, count and bytes let stay.
    fn retained_from(&self, stream: &Stream, horizon: Option<tidegate_core::clock::Timestamp>) -> u64 {
        let retain = stream.spec.read().retain;
        let last = stream.last();
        let mut from = stream.first();
        if let Some(count) = retain.count {
            from = from.max((last + 1).saturating_sub(count));
        }
        let segments: Vec<u64> = stream.inner.lock().segments.values().copied().collect();
        let mut bytes = 0;
        // Newest first: what is over the bytes or under the age ends with the segment that holds it.
        for number in segments.into_iter().rev() {
            let Some(segment) = self.state.reader.segment(number) else { continue };
            let span = |footer: &Footer| footer.find(stream.id).map(|span| (span.last, span.bytes, span.newest));
            let open = self.state.open.0.read().clone();
            let span = if open.0 == number { span(&open.1.lock()) } else { segment.footer.get().and_then(span) };
            let Some((span_last, span_bytes, newest)) = span else { continue };
            let enough = retain.bytes.is_some_and(|most| bytes >= most);
            bytes += span_bytes;
            let old = horizon.is_some_and(|horizon| newest < horizon.as_millis());
            if old || enough {
                from = from.max(span_last + 1);
                break;
            }
        }
        from.min(last + 1)
    }

    /// Carries out "retention before settlement" where a stream asks for it; each drop is counted.
    fn drop_unsettled(&self, stream: &Stream, upto: u64) -> Result<()> {
        for group in stream.groups.read().iter() {
            let (from, upto, lent) = {
                let inner = group.inner.lock();
                let from = inner.entries.first().map_or(inner.cursor, |seq| seq.min(inner.cursor));
                let upto = upto.min(inner.end);
                (from, upto, inner.lent(from, upto))
            };
            let all_lent = lent.len() as u64 == upto.saturating_sub(from);
            if from < upto && !all_lent {
                let mut numbers = vec![from, upto];
                numbers.extend(lent);
                let mut body = Vec::new();
                body::put_numbers(&mut body, group.id, &numbers);
                let mut step = Step::new(Durability::Sync);
                step.items.push(Item::Raw(Kind::Drop, body));
                self.commit(step)?;
            }
        }
        Ok(())
    }

    fn commit(&self, mut step: Step) -> Result<()> {
        let (answer, mut wait) = oneshot::channel();
        step.answer = Some(answer);
        self.queue.push(step)?;
        (self.pump.0)();
        let done = match wait.try_recv() {
            Ok(done) => done,
            Err(oneshot::error::TryRecvError::Empty) => wait.blocking_recv().unwrap_or_else(|_| Err(closed())),
            Err(oneshot::error::TryRecvError::Closed) => Err(closed()),
        };
        done.map(drop)
    }

    /// Measures how fast each group settles, for answers that say when to come back.
    fn sample_rates(&self) {
        let now = self.state.clock.now();
        for group in self.everything().1 {
            let settled = {
                let counts = group.inner.lock().counts;
                counts.done + counts.dead + counts.expired + counts.dropped
            };
            let mut drain = group.drain.lock();
            if let Some(at) = drain.at {
                let seconds = now.since(at).as_secs_f64();
                if seconds < 0.5 {
                    continue;
                }
                let rate = settled.saturating_sub(drain.settled) as f64 / seconds;
                drain.per_second = 0.7 * drain.per_second + 0.3 * rate;
            }
            drain.settled = settled;
            drain.at = Some(now);
        }
    }

    /// Copies the few living events out of sealed segments that are mostly dead; true when a segment became free.
    fn clean(&mut self) -> Result<bool> {
        let open = self.state.open.0.read().0;
        let newest = self.checkpoints.last().map_or(0, |(number, _)| *number);
        let sealed: Vec<Arc<Segment>> = {
            let segments = self.state.reader.segments.read();
            segments.range(..open).map(|(_, segment)| Arc::clone(segment)).collect()
        };
        let mut freed = false;
        for segment in sealed {
            if self.cleaned.contains_key(&segment.number) {
                freed = true;
                continue;
            }
            let Some(footer) = segment.footer.get() else { continue };
            let living = self.living(footer, segment.number);
            let count: u64 = living.values().map(|living| living.count).sum();
            if count == 0 {
                self.cleaned.insert(segment.number, newest);
                freed = true;
                continue;
            }
            let all: u64 = footer.spans.iter().map(|span| span.count).sum::<u64>() + footer.moved.len() as u64;
            let newest_few = segment.number + 2 >= open;
            if !newest_few && count * CLEAN_BELOW < all && !self.state.is_refusing.load(Ordering::Acquire) {
                self.copy_forward(&segment, &living)?;
                self.cleaned.insert(segment.number, newest);
                freed = true;
            }
        }
        Ok(freed)
    }

    /// Returns which events in a segment somebody still needs and only finds here, by stream.
    fn living(&self, footer: &Footer, number: u64) -> BTreeMap<u32, Living> {
        let mut living = BTreeMap::new();
        let streams = self.state.registry.read().streams.clone();
        for span in &footer.spans {
            if let Some(stream) = streams.get(&span.stream) {
                living.insert(span.stream, Living::of(stream, span.first, span.last, number));
            }
        }
        for (id, seq, offset) in &footer.moved {
            let Some(stream) = streams.get(id) else { continue };
            let here = Lsn::new(number, u64::from(*offset));
            let current = stream.inner.lock().moved.get(seq) == Some(&here);
            if current && Living::of(stream, *seq, *seq, number).count > 0 {
                let living = living.entry(*id).or_insert_with(Living::default);
                living.count += 1;
                living.few.insert(*seq);
            }
        }
        living
    }

    fn copy_forward(&self, segment: &Segment, living: &BTreeMap<u32, Living>) -> Result<()> {
        let mut records = Records::new(&self.state.reader, Lsn::new(segment.number, DATA_START));
        let mut step = Step::new(Durability::Sync);
        let mut bytes = 0;
        while let Some((_, record)) = records.next()? {
            let Ok((kind, inner)) = super::stream::unwrap_moved(record.kind, &record.body) else { continue };
            let holds_event = matches!(kind, Kind::Append | Kind::Dead);
            let Some((stream, seq)) = body::peek_seq(&inner).filter(|_| holds_event) else { continue };
            if !living.get(&stream).is_some_and(|living| living.holds(seq)) {
                continue;
            }
            let mut moved = Vec::with_capacity(inner.len() + 1);
            moved.push(kind as u8);
            moved.extend_from_slice(&inner);
            bytes += moved.len();
            step.items.push(Item::Raw(Kind::Moved, moved));
            Stats::count(&self.state.stats.moved, 1);
            if bytes > limits::COMMIT_BYTES_MAX / 2 {
                self.commit(std::mem::replace(&mut step, Step::new(Durability::Sync)))?;
                bytes = 0;
            }
        }
        if step.items.is_empty() { Ok(()) } else { self.commit(step) }
    }

    /// Writes a checkpoint and lets go of what no kept checkpoint needs.
    pub(crate) fn checkpoint(&mut self, closing: bool) -> Result<()> {
        let folder = self.state.dir.join(CHECKPOINTS);
        self.written = self.state.stats.bytes.load(Ordering::Relaxed);
        let image = checkpoint::take(&self.state, closing);
        let number = self.checkpoints.last().map_or(1, |(number, _)| number + 1);
        self.checkpoint_bytes = checkpoint::write(&*self.state.disk, &folder, number, &image)?;
        self.checkpoints.push((number, image.from));
        let numbers: Vec<u64> = self.checkpoints.iter().map(|(number, _)| *number).collect();
        checkpoint::prune(&*self.state.disk, &folder, &numbers)?;
        let keep = self.checkpoints.len().saturating_sub(2);
        self.checkpoints.drain(..keep);
        Stats::count(&self.state.stats.checkpoints, 1);
        self.remove_dead_runs(&image)
    }

    fn remove_dead_runs(&self, newest: &checkpoint::Image) -> Result<()> {
        let folder = self.state.dir.join(CHECKPOINTS);
        let mut needed: BTreeSet<u64> = newest.runs().collect();
        if let Some((older, _)) = self.checkpoints.first()
            && let Ok(image) = checkpoint::read(&*self.state.disk, &folder, *older)
        {
            needed.extend(image.runs());
        }
        let dir = &self.state.runs.dir;
        let names = self.state.disk.list(dir).map_err(|error| io_fault("list", dir, error))?;
        for name in names {
            let number = name.strip_suffix(".run").and_then(|hex| u64::from_str_radix(hex, 16).ok());
            // A run younger than the image is not named by it and still needed.
            if number.is_some_and(|number| number < newest.next_run && !needed.contains(&number)) {
                let path = dir.join(&name);
                self.state.disk.remove(&path).map_err(|error| io_fault("remove", &path, error))?;
            }
        }
        Ok(())
    }

    /// Removes segments in which nothing lives and which no kept checkpoint replays.
    fn remove_dead_segments(&mut self) -> Result<()> {
        let Some((oldest, from)) = self.checkpoints.first().copied().filter(|_| self.checkpoints.len() >= 2) else {
            return Ok(());
        };
        let safe = self.cleaned.range(..from.segment()).filter(|(_, checkpoint)| **checkpoint < oldest);
        let gone: Vec<u64> = safe.map(|(number, _)| *number).collect();
        for number in gone {
            self.cleaned.remove(&number);
            self.forget_segment(number);
            if let Some(segment) = self.state.reader.segments.write().remove(&number) {
                let path = &segment.path;
                self.state.disk.remove(path).map_err(|error| io_fault("remove", path, error))?;
            }
        }
        Ok(())
    }

    fn forget_segment(&self, number: u64) {
        for stream in self.everything().0 {
            let mut inner = stream.inner.lock();
            inner.segments.retain(|_, segment| *segment != number);
            inner.moved.retain(|_, at| at.segment() != number);
        }
    }
}

/// Events of one stream in one segment that somebody still needs.
#[derive(Debug, Default)]
struct Living {
    count: u64,
    /// From here on all of them.
    tail: Option<u64>,
    /// And these before.
    few: BTreeSet<u64>,
    /// But not these, which were copied elsewhere.
    elsewhere: BTreeSet<u64>,
}

impl Living {
    fn of(stream: &Stream, first: u64, last: u64, segment: u64) -> Self {
        let mut living = Self::default();
        let mut tail = stream.first();
        {
            let inner = stream.inner.lock();
            let elsewhere = inner.moved.range(first..=last).filter(|(_, at)| at.segment() != segment);
            living.elsewhere = elsewhere.map(|(seq, _)| *seq).collect();
            if let Some(dead) = &inner.dead {
                // Listed only where few are left: with many, the segment stays as it is.
                living.elsewhere.retain(|seq| dead.entries.contains_key(seq));
                let count = dead.entries.range(first..=last).count() as u64;
                if count * CLEAN_BELOW < last + 1 - first {
                    living.few = dead.entries.range(first..=last).map(|(seq, _)| *seq).collect();
                    tail = u64::MAX;
                } else {
                    living.tail = Some(first);
                    living.count = count.saturating_sub(living.elsewhere.len() as u64);
                    return living;
                }
            }
        }
        if tail < u64::MAX {
            for group in stream.groups.read().iter() {
                let inner = group.inner.lock();
                tail = tail.min(inner.floor());
                if first < tail {
                    living.few.extend(inner.entries.range(first..=last).map(|(seq, _)| seq));
                }
            }
        }
        if tail <= last {
            living.tail = Some(tail);
            living.few.retain(|seq| *seq < tail);
            living.count = last + 1 - tail.max(first);
        }
        living.count += living.few.len() as u64;
        let gone = living
            .elsewhere
            .iter()
            .filter(|seq| living.tail.is_some_and(|tail| **seq >= tail) || living.few.contains(seq));
        living.count = living.count.saturating_sub(gone.count() as u64);
        living
    }

    fn holds(&self, seq: u64) -> bool {
        !self.elsewhere.contains(&seq) && (self.tail.is_some_and(|tail| seq >= tail) || self.few.contains(&seq))
    }
}

pub(crate) fn closed() -> Fault {
    Fault::unavailable(tidegate_core::fault::Origin::Store, "the store is closed")
}

/// Returns the bytes of everything in the data directory, by what they are for.
pub(crate) fn sizes(state: &State, reader: &JournalReader) -> Vec<(&'static str, u64)> {
    let (streams, groups): (Vec<_>, Vec<_>) = {
        let registry = state.registry.read();
        (registry.streams.values().map(Arc::clone).collect(), registry.groups.values().map(Arc::clone).collect())
    };
    let mut ledger = 0;
    let mut memory = 0;
    for stream in streams {
        if let Some(seen) = &stream.inner.lock().dedupe {
            ledger += seen.disk_bytes();
            memory += seen.memory_bytes();
        }
    }
    for group in groups {
        if let Some(seen) = &group.inner.lock().ledger {
            ledger += seen.disk_bytes();
            memory += seen.memory_bytes();
        }
    }
    vec![("journal", reader.total_bytes()), ("ledger", ledger), ("ledger_memory", memory)]
}

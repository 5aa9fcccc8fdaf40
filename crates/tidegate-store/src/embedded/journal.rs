//! The journal: appends frames to the open segment, rolls to the next, reads back.
//!
//! Only the committer writes. Readers find bytes by their place, first in the tail cache, then in the file.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tidegate_core::{
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
};

use super::{
    frame::{self, FrameBuilder, Record, Unreadable},
    segment::{DATA_START, Footer, Header, Lsn, Segment},
};
use crate::disk::Disk;

/// Most bytes of one frame: a full group and the largest step after it.
pub(crate) const FRAME_BYTES_MAX: usize = limits::COMMIT_BYTES_MAX + limits::STEP_BYTES_MAX + 64 * 1024;

/// Bytes that are read around a place in a file.
const READ_BYTES: usize = 64 * 1024;

/// Bytes that are read around a place where one record is wanted.
const JUMP_BYTES: usize = 8 * 1024;

/// Turns an error of the disk into a fault: full disks are limits, everything else is unavailability.
pub(crate) fn io_fault(step: &str, path: &Path, error: io::Error) -> Fault {
    let note = format!("{step} {}: {error}", path.display());
    let kind = if is_full(&error) { FaultKind::Limited } else { FaultKind::Unavailable };
    Fault::new(kind, Origin::Store, Retry::Later, note).because(error)
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Recently written frames.
#[derive(Debug, Default)]
struct TailCache {
    frames: VecDeque<(Lsn, Bytes)>,
    bytes: usize,
    /// Buffers of dropped frames that nobody reads any more. New memory for each frame would have to be got from the
    /// system and zeroed first.
    spent: Vec<Vec<u8>>,
}

/// Most buffers kept for the next frames.
const SPENT_MAX: usize = 4;

impl TailCache {
    fn push(&mut self, at: Lsn, bytes: Bytes, max: usize) {
        self.bytes += bytes.len();
        self.frames.push_back((at, bytes));
        while self.bytes > max {
            let Some((_, dropped)) = self.frames.pop_front() else { break };
            self.bytes -= dropped.len();
            if self.spent.len() < SPENT_MAX && dropped.is_unique() {
                self.spent.push(dropped.into());
            }
        }
    }

    /// Returns a buffer for a frame: not much larger than it has to be, because the frame will keep all of it.
    fn buffer(&mut self, need: usize) -> Vec<u8> {
        let fits = |spent: &Vec<u8>| (need..=need.saturating_mul(2)).contains(&spent.capacity());
        match self.spent.iter().position(fits) {
            Some(at) => self.spent.swap_remove(at),
            None => {
                // Frames have another size now: those kept would never be used.
                self.spent.pop();
                Vec::with_capacity(need)
            }
        }
    }

    fn find(&self, at: Lsn) -> Option<Bytes> {
        let index = self.frames.partition_point(|(start, _)| *start <= at).checked_sub(1)?;
        let (start, bytes) = self.frames.get(index)?;
        let skip = usize::try_from(at.0 - start.0).ok()?;
        (start.segment() == at.segment() && skip < bytes.len()).then(|| bytes.slice(skip..))
    }
}

/// Reads the journal; shared by everybody.
#[derive(Debug)]
pub(crate) struct JournalReader {
    pub(crate) segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    tail: RwLock<TailCache>,
    pub(crate) tail_max: AtomicUsize,
    pub(crate) cold_reads: AtomicU64,
}

impl JournalReader {
    pub(crate) fn segment(&self, number: u64) -> Option<Arc<Segment>> {
        self.segments.read().get(&number).map(Arc::clone)
    }

    /// Returns bytes from a place on, at least `want` unless the segment ends before, and whether they were read from
    /// the file: such bytes are worth keeping for the next read.
    pub(crate) fn bytes_at(&self, at: Lsn, want: usize, window: usize) -> Result<(Bytes, bool)> {
        if let Some(bytes) = self.tail.read().find(at)
            && bytes.len() >= want
        {
            return Ok((bytes, false));
        }
        let segment = self
            .segment(at.segment())
            .ok_or_else(|| Fault::corrupt(format!("segment {:016x} of the journal is not there", at.segment())))?;
        self.cold_reads.fetch_add(1, Ordering::Relaxed);
        Ok((segment.read(at.offset(), want.max(window))?, true))
    }

    pub(crate) fn salt(&self, segment: u64) -> u32 {
        self.segment(segment).map_or(0, |segment| segment.salt)
    }

    /// Reads one record.
    pub(crate) fn record(&self, at: Lsn) -> Result<Record> {
        let salt = self.salt(at.segment());
        let mut want = 0;
        loop {
            let (bytes, _) = self.bytes_at(at, want, READ_BYTES)?;
            match frame::read_record(&bytes, 0, salt) {
                Ok(record) => return Ok(record),
                Err(Unreadable::Short(need)) if need > want && need > bytes.len() && want == 0 => want = need,
                Err(_) => {
                    return Err(Fault::corrupt(format!(
                        "record at segment {:016x} offset {} is damaged",
                        at.segment(),
                        at.offset()
                    )));
                }
            }
        }
    }
}

/// Walks the records of one segment from a place on, skipping what does not read back.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    reader: &'a JournalReader,
    chunk: Bytes,
    /// Place of the chunk.
    start: Lsn,
    offset: usize,
    salt: u32,
    /// Whether the chunk was read from the file.
    cold: bool,
    /// Bytes to read at a time from the file.
    window: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn new(reader: &'a JournalReader, start: Lsn) -> Self {
        Self::resume(reader, start, Bytes::new())
    }

    /// Goes on with what an earlier walk had read and not used.
    pub(crate) fn resume(reader: &'a JournalReader, start: Lsn, chunk: Bytes) -> Self {
        let (cold, salt) = (!chunk.is_empty(), reader.salt(start.segment()));
        Self { reader, cold, chunk, start, offset: 0, salt, window: READ_BYTES }
    }

    /// Returns what was read from the file and not used: many small reads cost one large one.
    pub(crate) fn rest(&self) -> Bytes {
        if self.cold { self.chunk.slice(self.offset.min(self.chunk.len())..) } else { Bytes::new() }
    }

    /// Goes on further ahead in the same segment. What lies around such a place is mostly others': little is read.
    pub(crate) fn jump(&mut self, to: Lsn) {
        let ahead = usize::try_from(to.0.saturating_sub(self.start.0)).unwrap_or(usize::MAX);
        if ahead < self.chunk.len() {
            self.offset = ahead;
        } else {
            self.chunk = Bytes::new();
            (self.start, self.offset, self.window) = (to, 0, JUMP_BYTES);
        }
    }

    /// Returns the place of the next record.
    pub(crate) fn at(&self) -> Lsn {
        Lsn(self.start.0 + self.offset as u64)
    }

    /// Returns the next good record and its place; none at the end of the segment.
    pub(crate) fn next(&mut self) -> Result<Option<(Lsn, Record)>> {
        loop {
            match frame::read_record(&self.chunk, self.offset, self.salt) {
                Ok(record) => {
                    let at = self.at();
                    self.offset += record.len;
                    return Ok(Some((at, record)));
                }
                Err(unreadable) => {
                    let left = self.chunk.len() - self.offset;
                    let want = match unreadable {
                        Unreadable::Short(need) => need,
                        Unreadable::Empty if left < frame::RECORD_HEAD => frame::RECORD_HEAD,
                        Unreadable::Empty | Unreadable::Damaged => 0,
                    };
                    if left < want && self.fetch(want)? {
                        continue;
                    }
                    if self.offset >= self.chunk.len() {
                        return Ok(None);
                    }
                    self.offset += 1;
                }
            }
        }
    }

    /// Gets a chunk that starts here; false when it is no longer than what is left of this one.
    fn fetch(&mut self, want: usize) -> Result<bool> {
        let at = self.at();
        let left = self.chunk.len() - self.offset;
        let (chunk, cold) = self.reader.bytes_at(at, want, self.window)?;
        if chunk.len() <= left {
            return Ok(false);
        }
        self.cold = cold;
        self.chunk = chunk;
        self.start = at;
        self.offset = 0;
        Ok(true)
    }
}

/// Where the journal ends.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tip {
    pub(crate) next_frame: u64,
    pub(crate) chain: u32,
    pub(crate) synced_frame: u64,
}

/// Zeroed files that wait to become segments.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    /// Path and size of each.
    pub(crate) ready: Vec<(PathBuf, u64)>,
}

/// How much of the disk the journal takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Smallest and largest segment.
    pub(crate) sizes: (u64, u64),
    /// Free bytes under which publishes are refused.
    pub(crate) disk_reserve: u64,
}

/// Writes the journal; owned by the committer.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) reader: Arc<JournalReader>,
    pub(crate) spares: Arc<Mutex<Spares>>,
    pub(crate) open: Arc<Segment>,
    /// What the open segment holds so far.
    pub(crate) footer: Arc<Mutex<Footer>>,
    pub(crate) tip: Tip,
    room: Room,
    write_at: u64,
    salt_seed: fastrand::Rng,
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.seg"))
}

/// Returns the size for the next segment of a journal of so many bytes: small installations stay small.
pub(crate) fn segment_size(journal_bytes: u64, (least, most): (u64, u64)) -> u64 {
    (journal_bytes / 8).next_power_of_two().clamp(least, most)
}

impl JournalReader {
    pub(crate) fn new(segments: BTreeMap<u64, Arc<Segment>>) -> Arc<Self> {
        Arc::new(Self {
            segments: RwLock::new(segments),
            tail: RwLock::default(),
            tail_max: AtomicUsize::new(limits::TAIL_CACHE_BYTES),
            cold_reads: AtomicU64::new(0),
        })
    }

    /// Returns the bytes of all segments.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.segments.read().values().map(|segment| segment.capacity.max(segment.end())).sum()
    }
}

impl Journal {
    /// Goes on with an open segment at its end, or makes the first one.
    pub(crate) fn resume(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        reader: Arc<JournalReader>,
        open: Option<(Arc<Segment>, Footer)>,
        tip: Tip,
        room: Room,
        seed: u64,
    ) -> Result<Self> {
        let mut salt_seed = fastrand::Rng::with_seed(seed);
        let (open, footer) = match open {
            Some((segment, footer)) => (segment, footer),
            None => {
                let number = reader.segments.read().last_key_value().map_or(1, |(number, _)| number + 1);
                let size = segment_size(reader.total_bytes(), room.sizes);
                let segment = make_segment(&*disk, &dir, &Spares::default(), number, size, tip, &mut salt_seed)?;
                reader.segments.write().insert(number, Arc::clone(&segment));
                (segment, Footer::default())
            }
        };
        let write_at = open.end();
        Ok(Self {
            disk,
            dir,
            reader,
            spares: Arc::default(),
            open,
            footer: Arc::new(Mutex::new(footer)),
            tip,
            room,
            write_at,
            salt_seed,
        })
    }

    /// Starts a frame of at most so many bytes.
    pub(crate) fn frame(&self, need: usize) -> FrameBuilder {
        // It stays in memory for the readers of the newest events, so each frame has a buffer of its own.
        let buffer = self.reader.tail.write().buffer(need);
        FrameBuilder::new(buffer, self.open.salt, self.tip.chain)
    }

    /// Tells whether so many more bytes fit the open segment.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.write_at + bytes as u64 <= self.open.capacity
    }

    /// Writes a frame; returns its place. Nothing is durable before [`Journal::sync`].
    ///
    /// With `soon`, the sync follows at once.
    pub(crate) fn write(&mut self, frame: FrameBuilder, at: i64, soon: bool) -> io::Result<(Lsn, Bytes)> {
        let (bytes, chain) = frame.finish(self.tip.next_frame, self.tip.synced_frame, at);
        if soon {
            self.open.file.append_at(&bytes, self.write_at)?;
        } else {
            self.open.file.write_at(&bytes, self.write_at)?;
        }
        let lsn = Lsn::new(self.open.number, self.write_at);
        self.write_at += bytes.len() as u64;
        self.tip.next_frame += 1;
        self.tip.chain = chain;
        Ok((lsn, bytes.into()))
    }

    /// Takes back a frame of so many bytes whose write did not succeed: nothing of what landed may be read after a
    /// crash, neither as a frame nor, behind a later one that is torn, as records of it.
    pub(crate) fn retract(&mut self, bytes: usize) -> io::Result<()> {
        match self.open.file.write_at(&vec![0; bytes], self.write_at) {
            // What found no room the first time does not find it now, and is not there.
            Err(error) if is_full(&error) => {}
            other => other?,
        }
        self.open.file.sync()
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.open.file.sync()?;
        self.tip.synced_frame = self.tip.next_frame.saturating_sub(1);
        Ok(())
    }

    /// Shows a written frame to readers.
    pub(crate) fn publish(&self, at: Lsn, bytes: Bytes) {
        self.open.end.store(at.offset() + bytes.len() as u64, Ordering::Release);
        let max = self.reader.tail_max.load(Ordering::Relaxed);
        self.reader.tail.write().push(at, bytes, max);
    }

    /// Seals the open segment and goes on in the next. The open one must be synced.
    ///
    /// With `reserve`, the last spare is used too: that one is kept for settling on a full disk.
    pub(crate) fn roll(&mut self, reserve: bool) -> Result<()> {
        let number = self.open.number + 1;
        let size = segment_size(self.reader.total_bytes(), self.room.sizes);
        let next = {
            let mut spares = self.spares.lock();
            let free = self.disk.free_bytes(&self.dir).unwrap_or(u64::MAX);
            let roomy = free > self.room.disk_reserve;
            if !reserve && !roomy && spares.ready.len() < 2 {
                return Err(Fault::new(
                    FaultKind::Limited,
                    Origin::Store,
                    Retry::Later,
                    format!("disk of {} is full: {free} bytes free", self.dir.display()),
                ));
            }
            let made = make_segment(&*self.disk, &self.dir, &spares, number, size, self.tip, &mut self.salt_seed)?;
            if !spares.ready.is_empty() {
                spares.ready.remove(0);
            }
            made
        };
        let footer = {
            let mut footer = self.footer.lock();
            footer.end = self.write_at;
            footer.next_frame = self.tip.next_frame;
            footer.chain = self.tip.chain;
            footer.clone()
        };
        let kept = footer.clone();
        if self.open.seal(footer).is_err() {
            // The footer only saves a scan at the next open; the segment is as good without it on disk.
            self.open.footer.get_or_init(|| kept);
        }
        self.reader.segments.write().insert(number, Arc::clone(&next));
        self.footer = Arc::default();
        self.write_at = DATA_START;
        self.open = next;
        Ok(())
    }
}

/// Makes a segment file durable, out of a spare when there is one.
fn make_segment(
    disk: &dyn Disk,
    dir: &Path,
    spares: &Spares,
    number: u64,
    size: u64,
    tip: Tip,
    rng: &mut fastrand::Rng,
) -> Result<Arc<Segment>> {
    let path = segment_path(dir, number);
    let failed = |error| io_fault("make segment", &path, error);
    let capacity = match spares.ready.first() {
        Some((spare, capacity)) => {
            disk.rename(spare, &path).map_err(failed)?;
            *capacity
        }
        None => size,
    };
    let file = disk.open(&path, true).map_err(failed)?;
    if spares.ready.is_empty() {
        // Without a zeroed spare the file starts empty and grows: slower to sync, never wrong.
        file.set_len(0).map_err(failed)?;
    }
    let salt = rng.u32(1..);
    let header = Header { number, salt, first_frame: tip.next_frame, chain: tip.chain };
    header.write(&*file).map_err(failed)?;
    file.sync().map_err(failed)?;
    disk.sync_dir(dir).map_err(failed)?;
    Ok(Arc::new(Segment {
        number,
        salt,
        path,
        file,
        end: AtomicU64::new(DATA_START),
        capacity,
        footer: OnceLock::new(),
    }))
}

//! Opening: checkpoint, footers, replay of the tail, and an honest word about everything that was not as it should be.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use tidegate_core::{
    clock::Clock,
    event::FingerprintKey,
    fault::{Fault, Result},
    notice::Notices,
    store::OnFailure,
};

use super::{
    checkpoint::{self, Image},
    frame::{self, Record},
    group::Group,
    journal::{Journal, JournalReader, Room, Tip, io_fault, segment_path},
    scan::{self, Scanned},
    seen::RunDir,
    segment::{DATA_START, Footer, Header, Lsn, Segment},
    state::{Registry, State, index_record},
    stats::Stats,
    stream::{OpenIndex, Stream},
};
use crate::disk::Disk;

/// Folders of a data directory.
pub(crate) const JOURNAL: &str = "journal";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
pub(crate) const LEDGER: &str = "ledger";
pub(crate) const QUARANTINE: &str = "quarantine";

/// What opening is given.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) notices: Notices,
    pub(crate) owner: u64,
    /// Smallest and largest segment.
    pub(crate) sizes: (u64, u64),
    /// Free bytes of the disk under which publishes are refused.
    pub(crate) disk_reserve: u64,
    /// Segments whose header was read from its copy.
    pub(crate) damaged_headers: Mutex<Vec<u64>>,
}

/// What opening gives.
pub(crate) struct Opened {
    pub(crate) state: Arc<State>,
    pub(crate) journal: Journal,
    /// Numbers and replay starts of the kept checkpoints, oldest first.
    pub(crate) checkpoints: Vec<(u64, Lsn)>,
    pub(crate) replayed: u64,
}

/// The newest segment as it ended; none in a new store.
type Last = Option<(Arc<Segment>, Footer, Scanned)>;

/// Segments on their way to being known.
struct Found {
    segment: Arc<Segment>,
    header: Header,
}

impl Opening {
    fn folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn open(&self) -> Result<Opened> {
        for name in [JOURNAL, CHECKPOINTS, LEDGER, QUARANTINE] {
            let path = self.folder(name);
            self.disk.create_dir(&path).map_err(|error| io_fault("make folder", &path, error))?;
        }
        // A folder whose parent was never synced may be gone after a power loss, with all that is in it.
        for dir in [Some(self.dir.as_path()), self.dir.parent()].into_iter().flatten() {
            let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            self.disk.sync_dir(dir).map_err(|error| io_fault("sync folder", dir, error))?;
        }
        let folder = self.folder(CHECKPOINTS);
        let names = self.disk.list(&folder).map_err(|error| io_fault("list", &folder, error))?;
        let numbers = checkpoint::list(&names);
        let (newest, damaged) = checkpoint::newest(&*self.disk, &folder, &numbers)?;
        let mut found = self.find_segments()?;
        self.drop_unused(&mut found)?;
        let image = match newest {
            Some((_, image)) => image,
            None if found.is_empty() && damaged.is_empty() => self.first_checkpoint(&folder)?,
            None => {
                return Err(Fault::corrupt(format!(
                    "no checkpoint of {} reads back, so what is settled is not known: restore a backup ({})",
                    self.dir.display(),
                    damaged.first().map_or("none is there", Fault::note)
                )));
            }
        };
        let state = self.state(&image);
        for fault in damaged {
            state.report_damage("checkpoints", &format!("{}; the one before it is used", fault.note()));
        }
        for number in self.damaged_headers.lock().drain(..) {
            state
                .report_damage(&format!("segment {number:016x}"), "its header was damaged and is mended from its copy");
        }
        self.restore(&state, image.clone());
        let (replayed, last) = self.replay(&state, &image, &mut found)?;
        self.settle_accounts(&state);
        let mut journal = self.resume(&state, last)?;
        if image.applied() > Lsn::new(journal.open.number, journal.open.end()) {
            // The checkpoint knows more than the journal still holds. New records must not stand at places that it
            // takes for applied.
            journal.sync().map_err(|error| io_fault("sync", &self.dir, error))?;
            journal.roll(true)?;
        }
        *state.open.0.write() = (journal.open.number, Arc::clone(&journal.footer));
        let tip = Lsn::new(journal.open.number, journal.open.end());
        state.applied.store(tip.0, Ordering::Release);
        let mut checkpoints = Vec::new();
        let names = self.disk.list(&folder).map_err(|error| io_fault("list", &folder, error))?;
        for number in checkpoint::list(&names) {
            let from = checkpoint::read(&*self.disk, &folder, number).map_or(Lsn::default(), |image| image.from);
            checkpoints.push((number, from));
        }
        Ok(Opened { state, journal, checkpoints, replayed })
    }

    /// A store without a checkpoint is new: it gets its key and an empty checkpoint before anything else.
    fn first_checkpoint(&self, folder: &Path) -> Result<Image> {
        let mut rng = fastrand::Rng::with_seed(self.owner);
        let image = Image { key: rng.u128(..).to_le_bytes(), next_id: 1, ..Image::default() };
        checkpoint::write(&*self.disk, folder, 1, &image)?;
        Ok(image)
    }

    fn state(&self, image: &Image) -> Arc<State> {
        Arc::new(State {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            disk_reserve: self.disk_reserve,
            clock: self.clock.clone(),
            notices: self.notices.clone(),
            owner: self.owner,
            key: FingerprintKey(image.key),
            registry: RwLock::new(Registry::default()),
            reader: JournalReader::new(BTreeMap::new()),
            open: OpenIndex(RwLock::new((0, Arc::default()))),
            runs: RunDir { disk: Arc::clone(&self.disk), dir: self.folder(LEDGER) },
            next_run: AtomicU64::new(image.next_run + 1),
            applied: AtomicU64::new(0),
            failed: RwLock::new(None),
            refusing: RwLock::new(None),
            is_refusing: AtomicBool::new(false),
            damage: Mutex::new(Vec::new()),
            stats: Stats::default(),
        })
    }

    fn restore(&self, state: &State, image: Image) {
        let mut registry = state.registry.write();
        registry.applied = image.registry_applied;
        registry.states = image.states.into_iter().collect();
        let mut faults = Vec::new();
        for old in image.streams {
            let stream = Stream::new(old.decl.id, old.decl.spec());
            stream.first.store(old.first, Ordering::Release);
            stream.last.store(old.last, Ordering::Release);
            {
                let mut inner = stream.inner.lock();
                inner.applied = old.applied;
                inner.quarantined = old.quarantined;
                if let (Some(seen), Some(image)) = (&mut inner.dedupe, old.dedupe) {
                    faults.extend(seen.restore(image, &state.runs));
                }
                if let Some(image) = old.dead {
                    inner.dead = Some(super::dead::DeadIndex::restore(image));
                }
            }
            registry.add_stream(Arc::new(stream));
        }
        for mut old in image.groups {
            let Some(stream) = registry.streams.get(&old.decl.stream).map(Arc::clone) else { continue };
            let spec = old.decl.spec(&stream);
            let block = spec.on_failure == OnFailure::Block;
            let group = Group::new(old.decl.id, spec, stream, old.decl.start);
            {
                let mut inner = group.inner.lock();
                inner.restore(&old, block);
                if let (Some(seen), Some(image)) = (&mut inner.ledger, old.ledger.take()) {
                    faults.extend(seen.restore(image, &state.runs));
                }
            }
            registry.add_group(Arc::new(group));
        }
        registry.next_id = registry.next_id.max(image.next_id);
        drop(registry);
        for fault in faults {
            state.report_damage("ledger", &format!("{}; what it remembered may be processed again", fault.note()));
        }
    }

    fn find_segments(&self) -> Result<BTreeMap<u64, Found>> {
        let dir = self.folder(JOURNAL);
        let names = self.disk.list(&dir).map_err(|error| io_fault("list", &dir, error))?;
        let mut found = BTreeMap::new();
        for name in names {
            let path = dir.join(&name);
            let number = name.strip_suffix(".seg").and_then(|hex| u64::from_str_radix(hex, 16).ok());
            let Some(number) = number else {
                if name.starts_with("spare") {
                    self.disk.remove(&path).map_err(|error| io_fault("remove", &path, error))?;
                }
                continue;
            };
            let file = self.disk.open(&path, false).map_err(|error| io_fault("open segment", &path, error))?;
            let header = match Header::read(&*file, &path)? {
                Some((header, from_copy)) => {
                    if from_copy {
                        self.damaged_headers.lock().push(number);
                        header.write(&*file).map_err(|error| io_fault("mend segment header", &path, error))?;
                    }
                    header
                }
                None => {
                    // It was on its way to become a segment when the process ended.
                    self.disk.remove(&path).map_err(|error| io_fault("remove", &path, error))?;
                    continue;
                }
            };
            let capacity = file.len().map_err(|error| io_fault("open segment", &path, error))?;
            let segment = Segment {
                number,
                salt: header.salt,
                path,
                file,
                end: AtomicU64::new(DATA_START),
                capacity,
                footer: OnceLock::new(),
            };
            found.insert(number, Found { segment: Arc::new(segment), header });
        }
        Ok(found)
    }

    /// Drops a newest segment in which nothing stands while the one before goes on behind its start: the disk was full
    /// when it was made, its first frame was refused, and smaller ones still fitted where there was room.
    fn drop_unused(&self, found: &mut BTreeMap<u64, Found>) -> Result<()> {
        let mut last_two = found.values().rev();
        let (Some(newest), Some(before)) = (last_two.next(), last_two.next()) else { return Ok(()) };
        let mut start = [0; frame::START_LEN];
        let read = newest.segment.file.read_at(&mut start, DATA_START);
        let count = read.map_err(|error| io_fault("read", &newest.segment.path, error))?;
        if start[..count].iter().any(|byte| *byte != 0) {
            return Ok(());
        }
        let first = Tip { next_frame: before.header.first_frame, chain: before.header.chain, synced_frame: 0 };
        let scanned = scan::scan(&before.segment, first, None, &mut |_, _| {})?;
        if scanned.tip.next_frame > newest.header.first_frame {
            let path = &newest.segment.path;
            self.disk.remove(path).map_err(|error| io_fault("remove", path, error))?;
            found.pop_last();
        }
        Ok(())
    }

    /// Indexes all segments and replays what the checkpoint does not know. Returns the newest segment as it ended.
    fn replay(&self, state: &State, image: &Image, found: &mut BTreeMap<u64, Found>) -> Result<(u64, Last)> {
        let mut missing: Vec<u64> =
            image.segments.iter().copied().filter(|number| !found.contains_key(number)).collect();
        missing.retain(|number| *number >= image.from.segment());
        for number in missing {
            state.report_damage("journal", &format!("segment {number:016x} is not there"));
        }
        let starts: BTreeMap<u64, u64> =
            found.iter().map(|(number, found)| (*number, found.header.first_frame)).collect();
        let newest = found.last_key_value().map(|(number, _)| *number);
        let mut replayed = 0;
        let mut last = None;
        let mut expected: Option<(u64, u64)> = None;
        for (number, Found { segment, header }) in std::mem::take(found) {
            state.reader.segments.write().insert(number, Arc::clone(&segment));
            if expected.is_some_and(|(before, frame)| before + 1 == number && frame != header.first_frame) {
                let frame = expected.map_or(0, |(_, frame)| frame);
                let place = format!("segment {:016x}", number - 1);
                state.report_damage(
                    &place,
                    &format!("frames {frame} to {} are missing at its end", header.first_frame - 1),
                );
            }
            let sealed = if Some(number) == newest { None } else { segment.load_footer() };
            if let Some(footer) = sealed.filter(|_| number < image.from.segment()) {
                expected = Some((number, footer.next_frame));
                adopt(state, &segment, footer);
                continue;
            }
            let mut footer = Footer::default();
            let first = Tip { next_frame: header.first_frame, chain: header.chain, synced_frame: 0 };
            let until =
                if Some(number) == newest { None } else { starts.range(number + 1..).next().map(|(_, frame)| *frame) };
            let scanned = scan::scan(&segment, first, until, &mut |at: Lsn, record: &Record| {
                index_record(&mut footer, at, record);
                if at < image.from {
                    return;
                }
                replayed += 1;
                if let Err(fault) = state.apply(at, record, true) {
                    state.report_damage("journal", fault.note());
                }
            })?;
            self.report(state, &segment, &scanned);
            footer.end = scanned.end;
            footer.next_frame = scanned.tip.next_frame;
            footer.chain = scanned.tip.chain;
            footer.damaged = scanned.damage.iter().map(|damage| damage.len).sum();
            segment.end.store(scanned.end, Ordering::Release);
            expected = Some((number, scanned.tip.next_frame));
            if Some(number) == newest {
                index_streams(state, &segment, &footer);
                last = Some((segment, footer, scanned));
            } else {
                adopt(state, &segment, footer);
            }
        }
        Ok((replayed, last))
    }

    /// Tells about damage and keeps a copy of the bytes that do not read back.
    fn report(&self, state: &State, segment: &Segment, scanned: &Scanned) {
        for damage in scanned.damage.iter().chain(&scanned.cut) {
            state.report_damage(
                &format!("segment {:016x} offset {}", damage.at.segment(), damage.at.offset()),
                &damage.what,
            );
            let path = self.folder(QUARANTINE).join(format!("{:016x}-{}.bin", damage.at.segment(), damage.at.offset()));
            let mut bytes = vec![0; usize::try_from(damage.len).unwrap_or(0)];
            let copied = segment.file.read_at(&mut bytes, damage.at.offset()).and_then(|count| {
                bytes.truncate(count);
                self.disk.open(&path, true)?.write_at(&bytes, 0)
            });
            if let Err(error) = copied {
                tracing::warn!(%error, path = %path.display(), "the damaged bytes could not be copied aside");
            }
        }
    }

    /// Lets groups that knew more than the journal still holds go on from where it ends, and says so.
    fn settle_accounts(&self, state: &State) {
        let damaged = !state.damage.lock().is_empty();
        let registry = state.registry.read();
        for group in registry.groups.values() {
            let mut inner = group.inner.lock();
            let last = group.stream.last();
            if inner.cursor > last + 1 {
                let lost = inner.cursor;
                let gone: Vec<u64> = inner.entries.range(last + 1..).map(|(seq, _)| seq).collect();
                for seq in gone {
                    inner.finish(seq);
                }
                inner.cursor = last + 1;
                inner.start = inner.start.min(inner.cursor);
                inner.high = inner.high.min(inner.cursor);
                drop(inner);
                state.report_damage(
                    &format!("group {}", group.name),
                    &format!("it stood at {lost}, its stream ends at {last}: it goes on from there"),
                );
                inner = group.inner.lock();
            }
            if damaged {
                inner.balance(last);
            }
            group.show_passed(&inner);
        }
    }

    /// Writes a part of the newest segment once more and syncs it.
    ///
    /// After a failed sync the page cache may still show what never reached the disk and, its pages being clean, never
    /// will. What is taken for durable here has to be.
    fn write_again(&self, segment: &Segment, from: u64, to: u64) -> Result<()> {
        let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
        let failed = |error| io_fault("write the last frames again", &segment.path, error);
        let count = segment.file.read_at(&mut bytes, from).map_err(failed)?;
        bytes.truncate(count);
        if bytes.is_empty() {
            return Ok(());
        }
        segment.file.write_at(&bytes, from).map_err(failed)?;
        segment.file.sync().map_err(failed)
    }

    fn resume(&self, state: &State, last: Last) -> Result<Journal> {
        let open = match last {
            None => None,
            Some((segment, footer, scanned)) => {
                if scanned.dirty_end > scanned.end {
                    // What a torn frame left must not be taken for something later.
                    let zeros = vec![0; usize::try_from(scanned.dirty_end - scanned.end).unwrap_or(0)];
                    let failed = |error| io_fault("clear the tail of", &segment.path, error);
                    segment.file.write_at(&zeros, scanned.end).map_err(failed)?;
                    segment.file.sync().map_err(failed)?;
                }
                self.write_again(&segment, 0, DATA_START)?;
                self.write_again(&segment, scanned.doubtful, scanned.end)?;
                let dir = self.folder(JOURNAL);
                self.disk.sync_dir(&dir).map_err(|error| io_fault("sync folder", &dir, error))?;
                Some((segment, footer, scanned.tip))
            }
        };
        let tip = open.as_ref().map_or(Tip { next_frame: 1, chain: 0, synced_frame: 0 }, |(_, _, tip)| *tip);
        let open = open.map(|(segment, footer, _)| (segment, footer));
        let dir = self.folder(JOURNAL);
        let room = Room { sizes: self.sizes, disk_reserve: self.disk_reserve };
        Journal::resume(Arc::clone(&self.disk), dir, Arc::clone(&state.reader), open, tip, room, self.owner)
    }
}

/// Takes a sealed segment with its footer.
fn adopt(state: &State, segment: &Segment, footer: Footer) {
    segment.end.store(footer.end, Ordering::Release);
    index_streams(state, segment, &footer);
    segment.footer.get_or_init(|| footer);
}

/// Tells the streams what of them lies in a segment.
fn index_streams(state: &State, segment: &Segment, footer: &Footer) {
    let registry = state.registry.read();
    for span in &footer.spans {
        if let Some(stream) = registry.streams.get(&span.stream) {
            let mut inner = stream.inner.lock();
            inner.segments.retain(|_, number| *number != segment.number);
            inner.segments.insert(span.first, segment.number);
            stream.last.fetch_max(span.last, Ordering::AcqRel);
        }
    }
    for (stream, seq, offset) in &footer.moved {
        if let Some(stream) = registry.streams.get(stream) {
            stream.inner.lock().moved.insert(*seq, Lsn::new(segment.number, u64::from(*offset)));
        }
    }
}

/// Returns the path of a segment file of a store.
pub(crate) fn segment_file(dir: &Path, number: u64) -> PathBuf {
    segment_path(&dir.join(JOURNAL), number)
}

//! What was seen: fingerprints with a number and a time, bounded in memory.
//!
//! New fingerprints go into a hash map; when it is full it is frozen and later written as a sorted run. A run keeps
//! in memory a filter of ten bits an entry and one key in 128, and costs one read of 4 KiB when the filter says
//! "maybe". Runs are merged by fours, and dropped whole when their newest entry is too old. The dedupe window of a
//! stream and the ledger of a group are both one of these.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Timestamp,
    event::Fingerprint,
    fault::{Fault, Result},
};

use crate::disk::{Disk, DiskFile};

/// Fingerprints are hashes already.
#[derive(Debug, Default, Clone)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }
}

pub(crate) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<Identity>>;

const ENTRY: usize = 32;
const FENCE_EVERY: usize = 128;
// Every run costs each look-up a cache miss, every merge rewrites its entries once.
const MERGE_AT: usize = 4;

/// What is kept with a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// A position or another number.
    pub(crate) number: u64,
    /// When, in milliseconds since 1970.
    pub(crate) at: i64,
}

/// The name of a run file and what it holds; part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunName {
    pub(crate) file: u64,
    pub(crate) tier: u32,
    pub(crate) count: u64,
    pub(crate) newest: i64,
    pub(crate) oldest: i64,
    crc: u32,
}

#[derive(Debug)]
struct Run {
    name: RunName,
    file: Box<dyn DiskFile>,
    filter: Filter,
    fences: Vec<u64>,
}

/// A filter that says "no" or "maybe": eight bits in one cache line, ten bits an entry.
#[derive(Debug)]
struct Filter(Vec<u64>);

impl Filter {
    fn new(count: usize) -> Self {
        Self(vec![0; (count * 10).div_ceil(512).max(1) * 8])
    }

    fn bits(&self, fingerprint: Fingerprint) -> (usize, u64) {
        let lines = self.0.len() / 8;
        let high = (fingerprint >> 64) as u64;
        let line = ((u128::from(high) * lines as u128) >> 64) as usize;
        (line * 8, fingerprint as u64)
    }

    fn set(&mut self, fingerprint: Fingerprint) {
        let (line, mut bits) = self.bits(fingerprint);
        for _ in 0..6 {
            let bit = (bits & 511) as usize;
            self.0[line + bit / 64] |= 1 << (bit % 64);
            bits >>= 9;
        }
    }

    fn maybe(&self, fingerprint: Fingerprint) -> bool {
        let (line, mut bits) = self.bits(fingerprint);
        for _ in 0..6 {
            let bit = (bits & 511) as usize;
            if self.0[line + bit / 64] & (1 << (bit % 64)) == 0 {
                return false;
            }
            bits >>= 9;
        }
        true
    }
}

/// A set of fingerprints that forgets by age and by count.
#[derive(Debug)]
pub(crate) struct Seen {
    active: FastMap<Fingerprint, Mark>,
    frozen: Option<Arc<FastMap<Fingerprint, Mark>>>,
    runs: Vec<Arc<Run>>,
    pub(crate) keep: Duration,
    pub(crate) entries_max: u64,
    /// Entries that may lie in memory before they are frozen.
    active_max: usize,
    forgotten: FastMap<Fingerprint, i64>,
    /// What is older was forgotten by hand, in milliseconds since 1970.
    floor: i64,
}

/// What a checkpoint keeps: the runs by name, the rest whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct SeenImage {
    entries: Vec<(u128, u64, i64)>,
    runs: Vec<RunName>,
    forgotten: Vec<(u128, i64)>,
    floor: i64,
}

impl SeenImage {
    /// Returns the numbers of the run files that it needs.
    pub(crate) fn files(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs.iter().map(|run| run.file)
    }
}

/// Where run files lie.
#[derive(Debug, Clone)]
pub(crate) struct RunDir {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
}

impl RunDir {
    pub(crate) fn path(&self, file: u64) -> PathBuf {
        run_path(&self.dir, file)
    }
}

pub(crate) fn run_path(dir: &Path, file: u64) -> PathBuf {
    dir.join(format!("{file:016x}.run"))
}

/// Entries on their way into a run file.
#[derive(Debug)]
pub(crate) enum Sealing {
    /// Frozen entries out of memory.
    Frozen(Arc<FastMap<Fingerprint, Mark>>),
    /// Runs that become one.
    Merge(Vec<u64>),
}

impl Seen {
    pub(crate) fn new(keep: Duration, entries_max: u64, active_max: usize) -> Self {
        Self {
            active: FastMap::default(),
            frozen: None,
            runs: Vec::new(),
            keep,
            entries_max,
            active_max,
            forgotten: FastMap::default(),
            floor: i64::MIN,
        }
    }

    pub(crate) fn insert(&mut self, fingerprint: Fingerprint, mark: Mark) {
        if !self.forgotten.is_empty() {
            self.forgotten.remove(&fingerprint);
        }
        self.active.insert(fingerprint, mark);
    }

    /// Looks a fingerprint up; entries older than the window do not count.
    pub(crate) fn get(&self, fingerprint: Fingerprint, now: Timestamp) -> Result<Option<Mark>> {
        let oldest = self.oldest(now);
        let fresh = |mark: &Mark| mark.at >= oldest;
        if let Some(mark) = self.active.get(&fingerprint) {
            return Ok(Some(*mark).filter(fresh));
        }
        if !self.forgotten.is_empty() && self.forgotten.contains_key(&fingerprint) {
            return Ok(None);
        }
        if let Some(mark) = self.frozen.as_ref().and_then(|frozen| frozen.get(&fingerprint)) {
            return Ok(Some(*mark).filter(fresh));
        }
        for run in self.runs.iter().rev() {
            if run.name.newest >= oldest
                && run.filter.maybe(fingerprint)
                && let Some(mark) = run.get(fingerprint)?
            {
                return Ok(Some(mark).filter(fresh));
            }
        }
        Ok(None)
    }

    /// Returns the time before which nothing counts.
    fn oldest(&self, now: Timestamp) -> i64 {
        now.minus(self.keep).as_millis().max(self.floor)
    }

    /// Forgets what is older than a time; what shares a run with newer ones is freed with it.
    pub(crate) fn forget_before(&mut self, floor: i64) {
        self.floor = self.floor.max(floor);
        self.runs.retain(|run| run.name.newest >= floor);
        self.active.retain(|_, mark| mark.at >= floor);
    }

    /// Forgets one fingerprint; true when it was there.
    pub(crate) fn forget(&mut self, fingerprint: Fingerprint, now: Timestamp) -> Result<bool> {
        let known = self.get(fingerprint, now)?.is_some();
        self.active.remove(&fingerprint);
        if known {
            self.forgotten.insert(fingerprint, now.as_millis());
        }
        Ok(known)
    }

    pub(crate) fn len(&self) -> u64 {
        let runs: u64 = self.runs.iter().map(|run| run.name.count).sum();
        runs + (self.active.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.len())) as u64
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        let maps = self.active.capacity() + self.frozen.as_ref().map_or(0, |frozen| frozen.capacity());
        let runs: usize = self.runs.iter().map(|run| (run.filter.0.len() + run.fences.len()) * 8).sum();
        (maps * 49 + runs) as u64
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.name.count * ENTRY as u64).sum()
    }

    pub(crate) fn image(&self) -> SeenImage {
        let mut entries = Vec::with_capacity(self.active.len());
        for map in [Some(&self.active), self.frozen.as_deref()].into_iter().flatten() {
            entries.extend(map.iter().map(|(fingerprint, mark)| (*fingerprint, mark.number, mark.at)));
        }
        SeenImage {
            entries,
            runs: self.runs.iter().map(|run| run.name.clone()).collect(),
            forgotten: self.forgotten.iter().map(|(fingerprint, at)| (*fingerprint, *at)).collect(),
            floor: self.floor,
        }
    }

    /// Takes over a checkpoint; a run that cannot be read is named in the fault, the others are there.
    pub(crate) fn restore(&mut self, image: SeenImage, dir: &RunDir) -> Vec<Fault> {
        // Newer entries come first in the image; an older one must not overwrite them.
        for (fingerprint, number, at) in image.entries {
            self.active.entry(fingerprint).or_insert(Mark { number, at });
        }
        self.forgotten = image.forgotten.into_iter().collect();
        self.floor = image.floor;
        let mut faults = Vec::new();
        for name in image.runs {
            match Run::open(dir, name) {
                Ok(run) => self.runs.push(Arc::new(run)),
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }

    /// Returns work for the background, when there is any: entries to seal or runs to merge.
    pub(crate) fn sealing(&mut self, active_max: usize, now: Timestamp) -> Option<Sealing> {
        let wanted = usize::try_from(self.entries_max).unwrap_or(usize::MAX).max(1024);
        self.active_max = active_max.min(wanted);
        self.expire(now);
        if let Some(frozen) = &self.frozen {
            return Some(Sealing::Frozen(Arc::clone(frozen)));
        }
        if self.active.len() >= self.active_max {
            let frozen = Arc::new(std::mem::take(&mut self.active));
            self.frozen = Some(Arc::clone(&frozen));
            return Some(Sealing::Frozen(frozen));
        }
        for tier in self.runs.iter().map(|run| run.name.tier) {
            let same: Vec<_> = self.runs.iter().filter(|run| run.name.tier == tier).collect();
            // A merged run is dropped by its newest entry: one that spans more would keep old entries too long.
            let span = same.iter().map(|run| run.name.newest).max()? - same.iter().map(|run| run.name.oldest).min()?;
            if same.len() >= MERGE_AT && span <= i64::try_from(self.keep.as_millis() / 4).unwrap_or(i64::MAX) {
                return Some(Sealing::Merge(same.iter().map(|run| run.name.file).collect()));
            }
        }
        None
    }

    /// Drops what is too old or too much; the files go when no checkpoint names them.
    fn expire(&mut self, now: Timestamp) {
        let oldest = self.oldest(now);
        self.runs.retain(|run| run.name.newest >= oldest);
        self.forgotten.retain(|_, at| *at >= oldest);
        let mut count = self.len();
        while let Some(first) = self.runs.first() {
            if count.saturating_sub(first.name.count) < self.entries_max {
                break;
            }
            count -= first.name.count;
            self.runs.remove(0);
        }
        if self.runs.is_empty() && self.frozen.is_none() && self.active.len() < 1024 {
            return;
        }
        if self.active.values().next().is_some_and(|mark| mark.at < oldest) {
            self.active.retain(|_, mark| mark.at >= oldest);
        }
    }

    /// Takes a finished run in place of what it was made from.
    fn adopt(&mut self, run: Run, made_from: &Sealing) {
        match made_from {
            Sealing::Frozen(_) => {
                self.frozen = None;
                self.runs.push(Arc::new(run));
            }
            Sealing::Merge(files) => {
                let at = self.runs.iter().position(|old| files.contains(&old.name.file)).unwrap_or(0);
                self.runs.retain(|old| !files.contains(&old.name.file));
                self.runs.insert(at.min(self.runs.len()), Arc::new(run));
            }
        }
    }

    fn runs_named(&self, files: &[u64]) -> Vec<Arc<Run>> {
        self.runs.iter().filter(|run| files.contains(&run.name.file)).map(Arc::clone).collect()
    }
}

/// Seals or merges outside of the lock. `with` locks the set for a moment.
pub(crate) fn seal(dir: &RunDir, file: u64, sealing: Sealing, with: impl Fn(&mut dyn FnMut(&mut Seen))) -> Result<()> {
    let mut entries: Vec<(Fingerprint, Mark)>;
    let mut tier = 0;
    match &sealing {
        Sealing::Frozen(map) => {
            entries = map.iter().map(|(fingerprint, mark)| (*fingerprint, *mark)).collect();
            entries.sort_unstable_by_key(|(fingerprint, _)| *fingerprint);
        }
        Sealing::Merge(files) => {
            let mut runs = Vec::new();
            with(&mut |seen| runs = seen.runs_named(files));
            tier = runs.iter().map(|run| run.name.tier).max().unwrap_or(0) + 1;
            entries = Vec::new();
            for run in runs {
                entries.extend(run.all()?);
            }
            // Stable, so that of two entries with one fingerprint the newer run's comes last.
            entries.sort_by_key(|(fingerprint, _)| *fingerprint);
        }
    }
    entries.reverse();
    entries.dedup_by_key(|(fingerprint, _)| *fingerprint);
    entries.reverse();
    let run = Run::write(dir, file, tier, &entries)?;
    let mut run = Some(run);
    with(&mut |seen| {
        if let Some(run) = run.take() {
            seen.adopt(run, &sealing);
        }
    });
    Ok(())
}

fn failed(path: &Path, error: std::io::Error) -> Fault {
    super::journal::io_fault("write ledger run", path, error)
}

impl Run {
    fn write(dir: &RunDir, file: u64, tier: u32, entries: &[(Fingerprint, Mark)]) -> Result<Self> {
        let path = dir.path(file);
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
        for (fingerprint, mark) in entries {
            bytes.extend_from_slice(&fingerprint.to_be_bytes());
            bytes.extend_from_slice(&mark.number.to_le_bytes());
            bytes.extend_from_slice(&mark.at.to_le_bytes());
        }
        let handle = dir.disk.open(&path, true).map_err(|error| failed(&path, error))?;
        handle.set_len(0).map_err(|error| failed(&path, error))?;
        handle.write_at(&bytes, 0).map_err(|error| failed(&path, error))?;
        handle.sync().map_err(|error| failed(&path, error))?;
        dir.disk.sync_dir(&dir.dir).map_err(|error| failed(&path, error))?;
        let name = RunName {
            file,
            tier,
            count: entries.len() as u64,
            newest: entries.iter().map(|(_, mark)| mark.at).max().unwrap_or(0),
            oldest: entries.iter().map(|(_, mark)| mark.at).min().unwrap_or(0),
            crc: crc32c::crc32c(&bytes),
        };
        Ok(Self::index(name, handle, &bytes))
    }

    fn index(name: RunName, file: Box<dyn DiskFile>, bytes: &[u8]) -> Self {
        let count = bytes.len() / ENTRY;
        let mut filter = Filter::new(count);
        let mut fences = Vec::with_capacity(count.div_ceil(FENCE_EVERY));
        for (index, entry) in bytes.chunks_exact(ENTRY).enumerate() {
            let fingerprint = fingerprint_of(entry);
            filter.set(fingerprint);
            if index % FENCE_EVERY == 0 {
                fences.push((fingerprint >> 64) as u64);
            }
        }
        Self { name, file, filter, fences }
    }

    fn open(dir: &RunDir, name: RunName) -> Result<Self> {
        let path = dir.path(name.file);
        let missing = |error| Fault::corrupt(format!("ledger run {}: {error}", path.display()));
        Self::load(dir.disk.open(&path, false).map_err(missing)?, &path, name)
    }

    fn load(file: Box<dyn DiskFile>, path: &Path, name: RunName) -> Result<Self> {
        let damaged = |why: String| Fault::corrupt(format!("ledger run {}: {why}", path.display()));
        let bytes = crate::disk::read_all(&*file).map_err(|error| damaged(error.to_string()))?;
        if bytes.len() as u64 != name.count * ENTRY as u64 || crc32c::crc32c(&bytes) != name.crc {
            return Err(damaged("content is not what was written".to_owned()));
        }
        Ok(Self::index(name, file, &bytes))
    }

    fn get(&self, fingerprint: Fingerprint) -> Result<Option<Mark>> {
        let high = (fingerprint >> 64) as u64;
        let from = self.fences.partition_point(|fence| *fence < high).saturating_sub(1);
        let to = self.fences.partition_point(|fence| *fence <= high);
        let mut buffer = vec![0; (to - from).max(1) * FENCE_EVERY * ENTRY];
        let count = self
            .file
            .read_at(&mut buffer, (from * FENCE_EVERY * ENTRY) as u64)
            .map_err(|error| Fault::corrupt(format!("read ledger run {:016x}: {error}", self.name.file)))?;
        let found =
            buffer[..count - count % ENTRY].chunks_exact(ENTRY).find(|entry| fingerprint_of(entry) == fingerprint);
        Ok(found.map(mark_of))
    }

    fn all(&self) -> Result<Vec<(Fingerprint, Mark)>> {
        let bytes = crate::disk::read_all(&*self.file)
            .map_err(|error| Fault::corrupt(format!("read ledger run {:016x}: {error}", self.name.file)))?;
        if crc32c::crc32c(&bytes) != self.name.crc {
            return Err(Fault::corrupt(format!("ledger run {:016x} is not what was written", self.name.file)));
        }
        Ok(bytes.chunks_exact(ENTRY).map(|entry| (fingerprint_of(entry), mark_of(entry))).collect())
    }
}

fn fingerprint_of(entry: &[u8]) -> Fingerprint {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&entry[..16]);
    u128::from_be_bytes(bytes)
}

fn mark_of(entry: &[u8]) -> Mark {
    let mut number = [0; 8];
    let mut at = [0; 8];
    number.copy_from_slice(&entry[16..24]);
    at.copy_from_slice(&entry[24..32]);
    Mark { number: u64::from_le_bytes(number), at: i64::from_le_bytes(at) }
}

/// Checks one run file for `store check`.
pub(crate) fn check_run(file: Box<dyn DiskFile>, path: &Path, name: &RunName) -> Result<()> {
    Run::load(file, path, name.clone()).map(drop)
}

impl SeenImage {
    pub(crate) fn runs(&self) -> &[RunName] {
        &self.runs
    }
}

/// Copies bytes that are part of something larger, so that it is not kept alive by them.
pub(crate) fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::disk::MemoryDisk;

    const KEEP: Duration = Duration::from_secs(1000);

    fn fingerprint(number: u64) -> Fingerprint {
        tidegate_core::event::FingerprintKey([1; 16]).of("s", &number.to_string())
    }

    fn dir() -> RunDir {
        RunDir { disk: Arc::new(MemoryDisk::default()), dir: "/seen".into() }
    }

    fn seal_all(seen: &Mutex<Seen>, dir: &RunDir, next: &mut u64, now: Timestamp) {
        loop {
            let Some(work) = seen.lock().sealing(100, now) else { return };
            *next += 1;
            seal(dir, *next, work, |work| work(&mut seen.lock())).unwrap();
        }
    }

    #[test]
    fn entries_are_found_wherever_they_lie_and_over_a_restart() {
        let (dir, mut next) = (dir(), 0);
        let seen = Mutex::new(Seen::new(KEEP, u64::MAX, 100));
        for number in 0..2000 {
            let at = i64::try_from(number).unwrap() * 100;
            seen.lock().insert(fingerprint(number), Mark { number, at });
            seal_all(&seen, &dir, &mut next, Timestamp::from_millis(at));
        }
        let now = Timestamp::from_millis(200_000);
        let check = |seen: &Seen| {
            for number in 0..2000 {
                assert_eq!(seen.get(fingerprint(number), now).unwrap().unwrap().number, number);
                assert_eq!(seen.get(fingerprint(number + 10_000), now).unwrap(), None);
            }
            assert_eq!(seen.len(), 2000);
        };
        check(&seen.lock());
        assert!(seen.lock().runs.len() < 16, "runs are merged");
        let mut again = Seen::new(KEEP, u64::MAX, 100);
        assert!(again.restore(seen.lock().image(), &dir).is_empty());
        check(&again);
    }

    #[test]
    fn old_entries_do_not_count_and_their_runs_go() {
        let (dir, mut next) = (dir(), 0);
        let seen = Mutex::new(Seen::new(Duration::from_secs(1), u64::MAX, 100));
        for number in 0..150 {
            seen.lock().insert(fingerprint(number), Mark { number, at: 0 });
        }
        seal_all(&seen, &dir, &mut next, Timestamp::ZERO);
        assert!(seen.lock().get(fingerprint(3), Timestamp::from_millis(1000)).unwrap().is_some());
        assert!(seen.lock().get(fingerprint(3), Timestamp::from_millis(1001)).unwrap().is_none());
        seal_all(&seen, &dir, &mut next, Timestamp::from_millis(1001));
        assert!(seen.lock().runs.is_empty());
    }

    #[test]
    fn forgetting_holds_whether_sealed_or_not_until_it_is_seen_again() {
        let (dir, mut next) = (dir(), 0);
        let seen = Mutex::new(Seen::new(KEEP, u64::MAX, 100));
        for number in 0..120 {
            seen.lock().insert(fingerprint(number), Mark { number, at: 0 });
        }
        seal_all(&seen, &dir, &mut next, Timestamp::ZERO);
        let mut seen = seen.into_inner();
        assert!(seen.forget(fingerprint(7), Timestamp::ZERO).unwrap());
        assert!(!seen.forget(fingerprint(7), Timestamp::ZERO).unwrap());
        assert_eq!(seen.get(fingerprint(7), Timestamp::ZERO).unwrap(), None);
        seen.insert(fingerprint(7), Mark { number: 1, at: 1 });
        assert_eq!(seen.get(fingerprint(7), Timestamp::ZERO).unwrap(), Some(Mark { number: 1, at: 1 }));
    }

    #[test]
    fn a_damaged_run_is_named() {
        let (dir, mut next) = (dir(), 0);
        let seen = Mutex::new(Seen::new(KEEP, u64::MAX, 100));
        for number in 0..100 {
            seen.lock().insert(fingerprint(number), Mark { number, at: 0 });
        }
        seal_all(&seen, &dir, &mut next, Timestamp::ZERO);
        let file = dir.disk.open(&dir.path(1), false).unwrap();
        file.write_at(&[0xff], 1000).unwrap();
        let faults = Seen::new(KEEP, u64::MAX, 100).restore(seen.lock().image(), &dir);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].note().contains("0000000000000001.run"));
    }
}

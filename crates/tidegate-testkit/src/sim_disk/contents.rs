//! What one simulated file holds: sectors as the process sees them, and what of that a crash may take away.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Bytes that a disk writes all or none.
pub const SECTOR: usize = 512;

/// One sector; none stands for zeros, so that zeroed space costs nothing.
type Sector = Option<Arc<[u8; SECTOR]>>;

/// Chooses what of the unsynced writes a crash leaves behind.
#[derive(Debug)]
pub(super) enum Survival {
    /// Nothing that was not synced.
    Nothing,
    /// Everything.
    Everything,
    /// All writes up to one moment, as a disk without reordering leaves them.
    Until(u64),
    /// Each sector by itself, with this chance of having reached the disk: reordered, torn, lost.
    Each(f64),
}

impl Survival {
    pub(super) fn random(rng: &mut fastrand::Rng, now: u64, window: u64) -> Self {
        match rng.u8(0..6) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Until(now - rng.u64(0..=window.min(now))),
            _ => Self::Each(rng.f64()),
        }
    }

    /// Returns how many of the versions, oldest first, reached the disk.
    fn pick(&self, versions: impl ExactSizeIterator<Item = u64>, rng: &mut fastrand::Rng) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Everything => versions.len(),
            Self::Until(moment) => versions.take_while(|version| version <= moment).count(),
            Self::Each(chance) => {
                let some = versions.len() > 0 && rng.f64() < *chance;
                if some { rng.usize(1..=versions.len()) } else { 0 }
            }
        }
    }
}

/// A sector with writes that were not synced.
#[derive(Debug, Clone)]
struct Dirty {
    durable: Sector,
    /// Every content since.
    versions: Vec<Version>,
}

#[derive(Debug, Clone)]
struct Version {
    moment: u64,
    /// Whether it is what a cut of the file left, which comes and goes with the new length.
    cut: bool,
    sector: Sector,
}

/// The bytes of one file.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    live: HashMap<u64, Arc<[u8; SECTOR]>>,
    dirty: BTreeMap<u64, Dirty>,
    /// What the disk really holds where a failed sync left the page cache ahead of it.
    hidden: BTreeMap<u64, Sector>,
    len: u64,
    durable_len: u64,
    /// Every length since the last sync, with the moment at which it was set.
    lens: Vec<(u64, u64)>,
    /// End of the space that was ever written, for the accounting of free space.
    allocated: u64,
}

impl Contents {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn allocated(&self) -> u64 {
        self.allocated
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let wanted = self.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let start = (at % SECTOR as u64) as usize;
            let count = (SECTOR - start).min(wanted - done);
            let target = &mut buffer[done..done + count];
            match self.live.get(&(at / SECTOR as u64)) {
                Some(sector) => target.copy_from_slice(&sector[start..start + count]),
                None => target.fill(0),
            }
            done += count;
        }
        wanted
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64, moment: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let start = (at % SECTOR as u64) as usize;
            let count = (SECTOR - start).min(bytes.len() - done);
            let index = at / SECTOR as u64;
            let mut sector = self.live.get(&index).map_or([0; SECTOR], |sector| **sector);
            sector[start..start + count].copy_from_slice(&bytes[done..done + count]);
            self.put(index, Version { moment, cut: false, sector: wrap(sector) });
            done += count;
        }
        let end = offset + bytes.len() as u64;
        self.allocated = self.allocated.max(end);
        if end > self.len {
            self.len = end;
            self.lens.push((moment, end));
        }
    }

    pub(super) fn set_len(&mut self, len: u64, moment: u64) {
        if len < self.len {
            // What lies beyond the new end reads as zeros when the file grows again.
            let keep = (len % SECTOR as u64) as usize;
            let first = len / SECTOR as u64;
            let mut beyond: Vec<u64> = self.live.keys().copied().filter(|index| *index >= first).collect();
            beyond.sort_unstable();
            for index in beyond {
                let mut sector = [0; SECTOR];
                if index == first
                    && let Some(old) = self.live.get(&index)
                {
                    sector[..keep].copy_from_slice(&old[..keep]);
                }
                self.put(index, Version { moment, cut: true, sector: wrap(sector) });
            }
            self.allocated = self.allocated.min(len);
        }
        if len != self.len {
            self.len = len;
            self.lens.push((moment, len));
        }
    }

    fn put(&mut self, index: u64, version: Version) {
        let current = self.live.get(&index);
        let same = current.map(|sector| &**sector) == version.sector.as_deref();
        if same && !self.dirty.contains_key(&index) && !self.hidden.contains_key(&index) {
            return;
        }
        let current = current.cloned();
        let durable = self.hidden.remove(&index).unwrap_or(current);
        let dirty = self.dirty.entry(index).or_insert_with(|| Dirty { durable, versions: Vec::new() });
        dirty.versions.push(version.clone());
        self.set_live(index, version.sector);
    }

    fn set_live(&mut self, index: u64, sector: Sector) {
        match sector {
            Some(sector) => drop(self.live.insert(index, sector)),
            None => drop(self.live.remove(&index)),
        }
    }

    pub(super) fn sync(&mut self) {
        self.dirty.clear();
        self.lens.clear();
        self.durable_len = self.len;
    }

    /// Sync failed: some pages reached the disk, the others are forgotten, and a later sync will not write them.
    ///
    /// With `dropped` the lost pages read as their old content at once; otherwise they stay in the page cache
    /// until the crash, which is the nastier case.
    pub(super) fn fail_sync(&mut self, rng: &mut fastrand::Rng, dropped: bool) {
        for (index, dirty) in std::mem::take(&mut self.dirty) {
            if rng.bool() {
                continue;
            }
            if dropped {
                self.set_live(index, dirty.durable);
            } else {
                self.hidden.insert(index, dirty.durable);
            }
        }
        // The length is metadata and goes through the file system's own journal.
        self.lens.clear();
        self.durable_len = self.len;
    }

    pub(super) fn crash(&mut self, survival: &Survival, rng: &mut fastrand::Rng) {
        for (index, sector) in std::mem::take(&mut self.hidden) {
            self.set_live(index, sector);
        }
        let lens = std::mem::take(&mut self.lens);
        let count = survival.pick(lens.iter().map(|(moment, _)| *moment), rng);
        let last = count.checked_sub(1).and_then(|last| lens.get(last)).copied();
        let (len_moment, len) = last.unwrap_or((0, self.durable_len));
        for (index, dirty) in std::mem::take(&mut self.dirty) {
            let mut count = survival.pick(dirty.versions.iter().map(|version| version.moment), rng);
            for (at, version) in dirty.versions.iter().enumerate().filter(|(_, version)| version.cut) {
                count = if version.moment <= len_moment { count.max(at + 1) } else { count.min(at) };
            }
            let version = count.checked_sub(1).and_then(|last| dirty.versions.get(last));
            self.set_live(index, version.map_or(dirty.durable, |version| version.sector.clone()));
        }
        self.len = len;
        self.durable_len = len;
        self.allocated = self.allocated.min(len.next_multiple_of(SECTOR as u64));
        let end = len.div_ceil(SECTOR as u64);
        self.live.retain(|index, _| *index < end);
        let keep = (len % SECTOR as u64) as usize;
        if keep > 0
            && let Some(last) = self.live.get(&(end - 1))
        {
            let mut sector = **last;
            sector[keep..].fill(0);
            self.set_live(end - 1, wrap(sector));
        }
    }

    /// Returns the synced sectors that hold more than zeros, in order.
    pub(super) fn synced_sectors(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self
            .live
            .keys()
            .copied()
            .filter(|index| !self.dirty.contains_key(index) && !self.hidden.contains_key(index))
            .collect();
        all.sort_unstable();
        all
    }

    pub(super) fn flip(&mut self, offset: u64, bit: u8) {
        let index = offset / SECTOR as u64;
        let mut sector = self.live.get(&index).map_or([0; SECTOR], |sector| **sector);
        sector[(offset % SECTOR as u64) as usize] ^= 1 << (bit & 7);
        self.set_live(index, wrap(sector));
    }
}

fn wrap(sector: [u8; SECTOR]) -> Sector {
    (sector != [0; SECTOR]).then(|| Arc::new(sector))
}

//! A disk in memory that remembers what was synced, so that a test can crash it, tear it, fill it and flip its bits.
//!
//! Everything it does follows from its seed and from the order of the calls.
//! A file handle made before a crash answers every later call with an error, as if its machine were gone.

mod contents;
mod names;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tidegate_core::clock::Clock;
use tidegate_store::disk::{Disk, DiskFile};

pub use self::contents::SECTOR;
use self::{
    contents::{Contents, Survival},
    names::{Names, Node},
};

/// Something that goes wrong once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// A write fails and writes nothing.
    WriteError,
    /// A write fails after a part of it.
    ShortWrite,
    /// A sync fails; a random part of what was unsynced is lost, at once or only after the next crash.
    SyncError {
        /// Whether the lost part reads as its old content at once, instead of only after a crash.
        dropped: bool,
    },
    /// A read fails.
    ReadError,
    /// From this write, sync or change of a name on, nothing works until [`SimDisk::crash`].
    PowerOff,
}

impl DiskFault {
    /// Chooses a fault of writing.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        match rng.u8(0..6) {
            0 => Self::WriteError,
            1 => Self::ShortWrite,
            2 | 3 => Self::SyncError { dropped: rng.bool() },
            _ => Self::PowerOff,
        }
    }

    fn strikes(self, call: Call) -> bool {
        match self {
            Self::WriteError | Self::ShortWrite => call == Call::Write,
            Self::SyncError { .. } => call == Call::Sync,
            Self::ReadError => call == Call::Read,
            Self::PowerOff => call != Call::Read,
        }
    }
}

/// A call to the disk, as far as faults tell calls apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    Write,
    Sync,
    /// A change of names or of a length, or a sync of names.
    Other,
}

/// A bit that was flipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// File.
    pub path: PathBuf,
    /// Byte in the file.
    pub offset: u64,
    /// Bit in the byte.
    pub bit: u8,
}

/// What the disk was asked to do so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Writes.
    pub writes: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Writes, syncs and changes of names together: what [`DiskFault::PowerOff`] counts.
    pub changes: u64,
}

/// The disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    rng: fastrand::Rng,
    names: Names,
    nodes: HashMap<Node, Contents>,
    /// Handles on each file; a file without a name lives as long as it has one.
    handles: HashMap<Node, usize>,
    locks: HashMap<PathBuf, String>,
    next_node: Node,
    moment: u64,
    /// Moment of the last crash; only what came after is unsynced.
    crashed_at: u64,
    boot: u64,
    powered: bool,
    armed: Vec<(DiskFault, u64)>,
    struck: Vec<DiskFault>,
    capacity: Option<u64>,
    /// Writes that may still be refused for want of space before there is space again.
    refusals: Option<u64>,
    /// Whether a write met the bound since faults were last asked for.
    met_bound: bool,
    slow: Option<(Clock, Duration)>,
    calls: Calls,
}

const SIZE: u64 = 1 << 40;

impl SimDisk {
    /// Makes an empty disk whose only folders are the root and `/sim`.
    pub fn new(seed: u64) -> Self {
        let mut names = Names::default();
        names.create_dir(Path::new("/sim"), 0);
        names.settle();
        Self(Arc::new(Mutex::new(State {
            rng: fastrand::Rng::with_seed(seed),
            names,
            nodes: HashMap::new(),
            handles: HashMap::new(),
            locks: HashMap::new(),
            next_node: 1,
            moment: 0,
            crashed_at: 0,
            boot: 0,
            powered: true,
            armed: Vec::new(),
            struck: Vec::new(),
            capacity: None,
            refusals: None,
            met_bound: false,
            slow: None,
            calls: Calls::default(),
        })))
    }

    /// Crashes the machine: decides what of the unsynced writes and names survived, and switches it on again.
    pub fn crash(&self, seed: u64) {
        let mut state = self.0.lock();
        let state = &mut *state;
        let mut rng = fastrand::Rng::with_seed(seed);
        let survival = Survival::random(&mut rng, state.moment, state.moment - state.crashed_at);
        state.names.crash(&survival, &mut rng);
        let mut nodes: Vec<Node> = state.nodes.keys().copied().collect();
        nodes.sort_unstable();
        for node in nodes {
            if let Some(contents) = state.nodes.get_mut(&node) {
                contents.crash(&survival, &mut rng);
            }
        }
        state.boot += 1;
        state.powered = true;
        state.armed.clear();
        state.locks.clear();
        state.handles.clear();
        state.crashed_at = state.moment;
        state.forget_nameless();
    }

    /// Lets the `after`-th next matching call fail, 0 being the next one.
    pub fn arm(&self, fault: DiskFault, after: u64) {
        self.0.lock().armed.push((fault, after));
    }

    /// Takes back all faults that did not strike yet.
    pub fn disarm(&self) {
        self.0.lock().armed.clear();
    }

    /// Returns the faults that struck since the last call.
    pub fn struck(&self) -> Vec<DiskFault> {
        let mut state = self.0.lock();
        state.met_bound = false;
        std::mem::take(&mut state.struck)
    }

    /// Tells whether the power is off.
    pub fn is_off(&self) -> bool {
        !self.0.lock().powered
    }

    /// Tells whether space is bounded, or a write met the bound since faults were last asked for.
    pub fn is_full(&self) -> bool {
        let state = self.0.lock();
        state.capacity.is_some() || state.met_bound
    }

    /// Tells whether anything went wrong since faults were last asked for, or space is bounded.
    pub fn had_faults(&self) -> bool {
        let state = self.0.lock();
        !state.struck.is_empty() || state.capacity.is_some() || state.met_bound || !state.powered
    }

    /// Leaves only `free` bytes; after `refusals` refused writes there is space again.
    pub fn fill(&self, free: u64, refusals: Option<u64>) {
        let mut state = self.0.lock();
        state.capacity = Some(state.used() + free);
        state.refusals = refusals;
    }

    /// Takes the bound of [`SimDisk::fill`] away.
    pub fn make_room(&self) {
        self.0.lock().capacity = None;
    }

    /// Lets every sync take `time` on a manual clock.
    pub fn slow_down(&self, clock: Clock, time: Duration) {
        self.0.lock().slow = Some((clock, time));
    }

    /// Flips one bit of a file, as the process sees it and for good.
    pub fn flip(&self, flip: &Flip) -> io::Result<()> {
        let mut state = self.0.lock();
        let node = state.names.get(&flip.path).ok_or(io::ErrorKind::NotFound)?;
        state.contents(node)?.flip(flip.offset, flip.bit);
        Ok(())
    }

    /// Flips a random bit of a synced sector that holds more than zeros, in a file whose path is `wanted`.
    pub fn flip_random(&self, rng: &mut fastrand::Rng, wanted: impl Fn(&Path) -> bool) -> Option<Flip> {
        let flip = {
            let state = self.0.lock();
            let mut sectors = Vec::new();
            for (path, node) in state.names.files().filter(|(path, _)| wanted(path)) {
                let contents = state.nodes.get(&node)?;
                sectors
                    .extend(contents.synced_sectors().into_iter().map(|index| (path.clone(), index, contents.len())));
            }
            if sectors.is_empty() {
                return None;
            }
            let (path, index, len) = sectors.swap_remove(rng.usize(..sectors.len()));
            let start = index * SECTOR as u64;
            Flip { path, offset: rng.u64(start..len.min(start + SECTOR as u64)), bit: rng.u8(0..8) }
        };
        self.flip(&flip).ok().map(|()| flip)
    }

    /// Returns all files with their lengths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.0.lock();
        let len = |node| state.nodes.get(&node).map_or(0, Contents::len);
        state.names.files().map(|(path, node)| (path.clone(), len(node))).collect()
    }

    /// Returns what the disk was asked to do so far.
    pub fn calls(&self) -> Calls {
        self.0.lock().calls
    }

    /// Copies the disk with all that is unsynced, so that two futures can be tried. Handles stay with the original.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.0.lock();
        Self(Arc::new(Mutex::new(State {
            rng: state.rng.clone(),
            names: state.names.clone(),
            nodes: state.nodes.clone(),
            handles: HashMap::new(),
            locks: HashMap::new(),
            next_node: state.next_node,
            moment: state.moment,
            crashed_at: state.crashed_at,
            boot: state.boot,
            powered: state.powered,
            armed: state.armed.clone(),
            struck: Vec::new(),
            capacity: state.capacity,
            refusals: state.refusals,
            met_bound: state.met_bound,
            slow: state.slow.clone(),
            calls: state.calls,
        })))
    }

    fn enter(&self, call: Call) -> io::Result<(MutexGuard<'_, State>, Option<DiskFault>)> {
        let mut state = self.0.lock();
        let fault = state.enter(call)?;
        Ok((state, fault))
    }
}

impl State {
    /// Counts the call and returns the fault that strikes it.
    fn enter(&mut self, call: Call) -> io::Result<Option<DiskFault>> {
        if !self.powered {
            return Err(io::Error::other("the power is off"));
        }
        if call != Call::Read {
            self.calls.changes += 1;
            self.moment += 1;
        }
        let mut fault = None;
        for (armed, after) in &mut self.armed {
            if armed.strikes(call) {
                if *after == 0 && fault.is_none() {
                    fault = Some(*armed);
                }
                *after = after.saturating_sub(1);
            }
        }
        if let Some(fault) = fault {
            let index = self.armed.iter().position(|(armed, after)| *armed == fault && *after == 0);
            index.map(|index| self.armed.swap_remove(index));
            self.struck.push(fault);
            self.powered = fault != DiskFault::PowerOff;
        }
        Ok(fault)
    }

    fn used(&self) -> u64 {
        self.names.files().filter_map(|(_, node)| self.nodes.get(&node)).map(Contents::allocated).sum()
    }

    fn contents(&mut self, node: Node) -> io::Result<&mut Contents> {
        self.nodes.get_mut(&node).ok_or_else(|| io::Error::other("the file is gone"))
    }

    fn forget_nameless(&mut self) {
        let reachable = self.names.reachable();
        self.nodes.retain(|node, _| reachable.contains(node) || self.handles.contains_key(node));
    }

    /// Returns how much of a write fits, and counts the refusal when not all does.
    fn room(&mut self, node: Node, len: u64, offset: u64) -> io::Result<u64> {
        let Some(capacity) = self.capacity else { return Ok(len) };
        let allocated = self.contents(node)?.allocated();
        let growth = (offset + len).saturating_sub(allocated.max(offset));
        let free = capacity.saturating_sub(self.used());
        if growth <= free {
            return Ok(len);
        }
        self.met_bound = true;
        if let Some(refusals) = &mut self.refusals {
            *refusals = refusals.saturating_sub(1);
            if *refusals == 0 {
                self.capacity = None;
            }
        }
        Ok(len - growth + free)
    }
}

fn power_cut() -> io::Error {
    io::Error::other("the power went off")
}

fn broken(what: &str) -> io::Error {
    io::Error::other(format!("simulated fault: {what}"))
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let (mut state, _) = self.enter(Call::Read)?;
        let node = match state.names.get(path) {
            Some(node) => node,
            None if create => {
                if state.enter(Call::Other)?.is_some() {
                    return Err(power_cut());
                }
                let (node, moment) = (state.next_node, state.moment);
                state.names.link(path, node, moment)?;
                state.nodes.insert(node, Contents::default());
                state.next_node += 1;
                node
            }
            None => return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is missing", path.display()))),
        };
        *state.handles.entry(node).or_default() += 1;
        Ok(Box::new(SimFile { disk: self.clone(), node, boot: state.boot, path: path.to_owned() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.enter(Call::Read)?.0.names.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, fault) = self.enter(Call::Other)?;
        let moment = state.moment;
        state.names.rename(from, to, moment)?;
        fault.map_or(Ok(()), |_| Err(power_cut()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, fault) = self.enter(Call::Other)?;
        let moment = state.moment;
        state.names.unlink(path, moment)?;
        fault.map_or(Ok(()), |_| Err(power_cut()))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut state, fault) = self.enter(Call::Other)?;
        let moment = state.moment;
        state.names.create_dir(dir, moment);
        fault.map_or(Ok(()), |_| Err(power_cut()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut state, fault) = self.enter(Call::Other)?;
        if fault.is_some() {
            return Err(power_cut());
        }
        state.names.sync_dir(dir)?;
        state.forget_nameless();
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        let (state, _) = self.enter(Call::Read)?;
        Ok(state.capacity.unwrap_or(SIZE).saturating_sub(state.used()))
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Result<Box<dyn Send + Sync>, String>> {
        let (mut state, _) = self.enter(Call::Read)?;
        if let Some(held) = state.locks.get(path) {
            return Ok(Err(held.clone()));
        }
        state.locks.insert(path.to_owned(), holder.to_owned());
        Ok(Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned(), boot: state.boot })))
    }
}

/// Frees the lock when it goes.
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    boot: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if state.boot == self.boot {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    node: Node,
    boot: u64,
    path: PathBuf,
}

impl SimFile {
    fn enter(&self, call: Call) -> io::Result<(MutexGuard<'_, State>, Option<DiskFault>)> {
        if self.disk.0.lock().boot != self.boot {
            return Err(io::Error::other("the machine of this file crashed"));
        }
        self.disk.enter(call)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if state.boot != self.boot {
            return;
        }
        if let Some(count) = state.handles.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                state.handles.remove(&self.node);
            }
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (mut state, fault) = self.enter(Call::Read)?;
        if fault.is_some() {
            return Err(broken("read failed"));
        }
        Ok(state.contents(self.node)?.read(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut state, fault) = self.enter(Call::Write)?;
        let state = &mut *state;
        state.calls.writes += 1;
        state.calls.bytes += bytes.len() as u64;
        let fits = state.room(self.node, bytes.len() as u64, offset)? as usize;
        let (part, answer) = match fault {
            Some(DiskFault::WriteError) => (0, Err(broken("write failed"))),
            Some(DiskFault::ShortWrite) => (state.rng.usize(..=fits), Err(broken("write was cut short"))),
            Some(DiskFault::PowerOff) => (fits, Err(power_cut())),
            Some(DiskFault::SyncError { .. } | DiskFault::ReadError) | None if fits == bytes.len() => (fits, Ok(())),
            Some(_) | None => (fits, Err(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full"))),
        };
        let moment = state.moment;
        state.contents(self.node)?.write(&bytes[..part], offset, moment);
        answer
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, fault) = self.enter(Call::Sync)?;
        let state = &mut *state;
        state.calls.syncs += 1;
        if let Some((clock, time)) = &state.slow {
            clock.advance(*time);
        }
        match fault {
            Some(DiskFault::SyncError { dropped }) => {
                let mut rng = state.rng.fork();
                state.contents(self.node)?.fail_sync(&mut rng, dropped);
                Err(broken("sync failed"))
            }
            Some(DiskFault::PowerOff) => Err(power_cut()),
            Some(DiskFault::WriteError | DiskFault::ShortWrite | DiskFault::ReadError) | None => {
                state.contents(self.node)?.sync();
                Ok(())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let (mut state, _) = self.enter(Call::Read)?;
        Ok(state.contents(self.node)?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, fault) = self.enter(Call::Other)?;
        let moment = state.moment;
        state.contents(self.node)?.set_len(len, moment);
        fault.map_or(Ok(()), |_| Err(power_cut()))
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("files", &self.files()).finish()
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("path", &self.path).finish()
    }
}

//! The embedded engine: one journal for the node, everything else derived from it.
//!
//! `frame` and `segment` are the bytes, `journal` writes and reads them, `scan` judges them after a crash; `stream`,
//! `group`, `dead` and `seen` are what is known in memory; `commit` is the one way in, `state` the one way records
//! change what is known; `upkeep` cleans behind. The format is described in `docs/store-format.md`.

mod after;
mod body;
mod broker;
mod check;
mod checkpoint;
mod claim;
mod commit;
mod dead;
mod desk;
mod draft;
mod frame;
mod group;
mod journal;
mod open;
mod scan;
mod seek;
mod seen;
mod segment;
mod settle;
mod shed;
mod state;
mod stats;
mod status;
mod stream;
mod upkeep;
mod whereabouts;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tidegate_core::{
    clock::Clock,
    fault::{Fault, Result},
    limits,
    notice::{Notice, Notices},
};

pub use self::check::{CheckReport, StoreDescription, check, describe, formats};
use self::{
    commit::{Committer, Queue},
    journal::io_fault,
    open::{Opened, Opening},
    state::State,
    upkeep::{Pump, Upkeep},
};
use crate::disk::{Disk, RealDisk};

/// How an embedded store is opened.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The data directory.
    pub dir: PathBuf,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The clock.
    pub clock: Clock,
    /// Where to tell what happens.
    pub notices: Notices,
    /// Whether committer and upkeep run in threads of their own. Without, every call commits inline and
    /// `upkeep()` does all background work: one thread, one order, for simulation.
    pub threads: bool,
    /// Smallest and largest segment in bytes.
    pub segment_bytes: (u64, u64),
    /// Free bytes of the disk under which publishes are refused while settling goes on.
    pub disk_reserve: u64,
    /// Zeroed segments kept ready; the last of them is the reserve for settling on a full disk.
    pub spares: usize,
    /// Seed of everything random in the store; none = from the system.
    pub seed: Option<u64>,
}

impl EmbeddedOptions {
    /// The usual options for a directory on the machine's disk.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            disk: Arc::new(RealDisk),
            clock: Clock::real(),
            notices: Notices::default(),
            threads: true,
            segment_bytes: (limits::SEGMENT_BYTES_MIN as u64, limits::SEGMENT_BYTES_MAX as u64),
            disk_reserve: limits::DISK_RESERVE_BYTES as u64,
            spares: 2,
            seed: None,
        }
    }
}

/// An open embedded store.
pub struct Embedded {
    state: Arc<State>,
    queue: Arc<Queue>,
    committer: Arc<Mutex<Committer>>,
    upkeep: Arc<Mutex<Upkeep>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: Arc<Bell>,
    threaded: bool,
    /// Held by the one import of dead letters that may run at a time.
    imports: tokio::sync::Mutex<()>,
    /// Held alone by what changes control state only if it is what it was; shared by what changes it anyway.
    swaps: tokio::sync::RwLock<()>,
    _lock: Box<dyn Send + Sync>,
}

/// Calls the upkeep: to work, or to stop.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    stopped: Mutex<bool>,
    pub(crate) changed: Condvar,
    closed: AtomicBool,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Embedded({})", self.state.dir.display())
    }
}

/// Time between two passes of the upkeep.
const UPKEEP_EVERY: Duration = Duration::from_millis(500);

/// Locks a data directory for this process; the fault names the holder.
pub(crate) fn lock(disk: &dyn Disk, dir: &std::path::Path) -> Result<Box<dyn Send + Sync>> {
    disk.create_dir(dir).map_err(|error| io_fault("make folder", dir, error))?;
    let path = dir.join("lock");
    let holder = format!("process {}", std::process::id());
    match disk.lock(&path, &holder).map_err(|error| io_fault("lock", &path, error))? {
        Ok(lock) => Ok(lock),
        Err(other) => Err(Fault::conflict(format!(
            "data directory {} is in use by {}",
            dir.display(),
            if other.is_empty() { "another process" } else { &other }
        ))),
    }
}

impl Embedded {
    /// Opens a store, replaying what the last checkpoint does not know.
    pub fn open(options: EmbeddedOptions) -> Result<Arc<Self>> {
        let lock = lock(&*options.disk, &options.dir)?;
        let watch = options.clock.stopwatch();
        let opening = Opening {
            disk: Arc::clone(&options.disk),
            dir: options.dir.clone(),
            clock: options.clock.clone(),
            notices: options.notices.clone(),
            owner: options.seed.map_or_else(|| fastrand::u64(..), |seed| fastrand::Rng::with_seed(seed).u64(..)),
            sizes: options.segment_bytes,
            disk_reserve: options.disk_reserve,
            damaged_headers: Mutex::default(),
        };
        let Opened { state, journal, checkpoints, replayed } = opening.open()?;
        let (queue, stop) = (Arc::new(Queue::default()), Arc::<Bell>::default());
        let spares = Arc::clone(&journal.spares);
        let committer =
            Arc::new(Mutex::new(Committer::new(Arc::clone(&state), journal, Arc::clone(&queue), Arc::clone(&stop))));
        let pump = Pump(if options.threads {
            Arc::new(|| {})
        } else {
            let (committer, queue) = (Arc::clone(&committer), Arc::clone(&queue));
            Arc::new(move || pump(&committer, &queue))
        });
        let upkeep = Arc::new(Mutex::new(Upkeep {
            state: Arc::clone(&state),
            queue: Arc::clone(&queue),
            spares,
            sizes: options.segment_bytes,
            spares_wanted: options.spares,
            checkpoint_bytes: 0,
            checkpoints,
            next_spare: 0,
            written: 0,
            cleaned: std::collections::BTreeMap::new(),
            pump,
        }));
        let store = Arc::new(Self {
            state,
            queue,
            committer,
            upkeep,
            threads: Mutex::default(),
            stop,
            threaded: options.threads,
            imports: tokio::sync::Mutex::default(),
            swaps: tokio::sync::RwLock::default(),
            _lock: lock,
        });
        store.upkeep.lock().trim();
        if options.threads {
            store.start()?;
        }
        options.notices.emit(&Notice::StoreOpened { took: watch.elapsed(), replayed });
        Ok(store)
    }

    /// Tells whether the claims of a group are made durable before they are handed out.
    #[cfg(feature = "nats")]
    pub(crate) fn marks_claims(&self, group: &tidegate_core::names::GroupName) -> bool {
        self.state.group(group).is_ok_and(|group| group.spec.read().mark_claims)
    }

    fn start(self: &Arc<Self>) -> Result<()> {
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(work)
                .map_err(|error| Fault::bug(format!("thread {name} did not start: {error}")))
        };
        let committer = Arc::clone(&self.committer);
        let state = Arc::clone(&self.state);
        let commit = spawn(
            "tidegate-commit",
            Box::new(move || {
                let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| committer.lock().run()));
                if ran.is_err() {
                    state.fail("the committer stopped by a fault of this program; start the node again");
                }
            }),
        )?;
        let (upkeep, stop) = (Arc::clone(&self.upkeep), Arc::clone(&self.stop));
        let tend = spawn(
            "tidegate-upkeep",
            Box::new(move || {
                loop {
                    if let Err(fault) = upkeep.lock().pass(false) {
                        tracing::warn!(%fault, "upkeep of the store did not finish; it is tried again");
                    }
                    let mut stopped = stop.stopped.lock();
                    if !*stopped {
                        stop.changed.wait_for(&mut stopped, UPKEEP_EVERY);
                    }
                    if *stopped {
                        return;
                    }
                }
            }),
        )?;
        self.threads.lock().extend([commit, tend]);
        Ok(())
    }

    /// Stops the threads, commits what waits, writes a checkpoint.
    fn shut(&self) -> Result<()> {
        if self.stop.closed.swap(true, std::sync::atomic::Ordering::AcqRel) {
            return Ok(());
        }
        *self.stop.stopped.lock() = true;
        self.stop.changed.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        let mut threads = threads.into_iter();
        let commit = threads.next();
        for tend in threads {
            drop(tend.join());
        }
        self.queue.close();
        match commit {
            Some(commit) => drop(commit.join()),
            None => {
                pump(&self.committer, &self.queue);
                self.committer.lock().sync_dirty();
            }
        }
        if self.state.failed.read().is_none() { self.upkeep.lock().checkpoint(true) } else { Ok(()) }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // Dropping without `close` is a crash: no checkpoint, but no thread is left behind either.
        *self.stop.stopped.lock() = true;
        self.stop.changed.notify_all();
        self.queue.close();
        let here = std::thread::current().id();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.thread().id() != here {
                drop(thread.join());
            }
        }
        // Streams and groups know each other: without this, neither would ever be freed.
        for stream in self.state.registry.read().streams.values() {
            stream.groups.write().clear();
        }
    }
}

/// Commits everything that waits, in the caller's thread.
fn pump(committer: &Mutex<Committer>, queue: &Queue) {
    let mut committer = committer.lock();
    loop {
        let steps = queue.try_take();
        if steps.is_empty() {
            return;
        }
        committer.commit(steps);
    }
}

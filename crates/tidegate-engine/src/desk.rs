//! The desk of dead letters: jobs that move many of them, at a pace, watching what becomes of the first ones.
//!
//! **Invariant:** how far a job came is written in the same commit as the step that brought it there. A job that was cut
//! off goes on behind its last step, so that no entry is moved twice and none is left out. A step is refused when somebody
//! else changed what is written: of two nodes that drive one job, one finds that it does not any more.

mod drive;
mod filter;
mod follow;
mod heed;
mod job;
mod patch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    fault::{Fault, FaultKind, Result},
    limits,
    notice::{Listener, Notice},
    service::{Context, Service},
    store::Store,
};
use tokio::sync::watch;

use self::job::{ask_key, cancel_key, progress_key, read};
pub use self::{
    filter::{DESK_NAMES, dead_scope},
    job::{Became, JobAsk, JobProgress, JobState, JobVerb, JobView},
    patch::Patch,
};
use crate::supervisor::{Pulse, Supervisor};

/// Keys of the desk in the control state.
const PREFIX: &str = "desk/";
/// Wait after a fault of the store before a job goes on.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest time in which the desk looks after its jobs.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Somebody's wish to end a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Cancel {
    /// Whether what was moved and not seen by a handler is parked again.
    undo: bool,
}

/// A job in memory.
#[derive(Debug, Clone)]
struct Live {
    ask: Arc<JobAsk>,
    progress: JobProgress,
    became: Vec<Became>,
    cancel: Option<Cancel>,
    /// Whether it is driven here.
    is_driven: bool,
}

impl Live {
    fn new(ask: JobAsk, progress: JobProgress) -> Self {
        Self { ask: Arc::new(ask), progress, became: Vec::new(), cancel: None, is_driven: false }
    }
}

/// Moves dead letters in jobs. Cheap to clone.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    cx: Context,
    jobs: Mutex<BTreeMap<String, Live>>,
    /// The nodes that were there at the last look; none before it.
    nodes: Mutex<Option<BTreeSet<String>>>,
    /// Tells those who wait that a job came further, or that one is there.
    came: watch::Sender<u64>,
    /// Tells jobs that deliveries ended.
    ended: watch::Sender<u64>,
    /// Jobs that wait for the outcome of what they moved.
    following: AtomicUsize,
    pulse: Pulse,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Desk({} jobs)", self.0.jobs.lock().len())
    }
}

impl Listener for Inner {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only the end of deliveries is waited for")]
    fn notice(&self, notice: &Notice) {
        if self.following.load(Ordering::Relaxed) == 0 {
            return;
        }
        match notice {
            Notice::Settled { .. } | Notice::Claimed { .. } | Notice::LeaseLost { .. } => {
                self.ended.send_modify(|count| *count += 1);
            }
            _ => {}
        }
    }
}

impl Desk {
    /// Takes up the jobs that this node was driving when it stopped.
    pub async fn start(store: Arc<dyn Store>, cx: Context, supervisor: &Supervisor) -> Result<Self> {
        let jobs = restore(&*store).await?;
        let pulse = supervisor.pulse("desk".to_owned(), LOOK_EVERY * 12);
        let inner = Arc::new(Inner {
            store,
            cx: cx.clone(),
            jobs: Mutex::new(jobs),
            nodes: Mutex::default(),
            came: watch::Sender::new(0),
            ended: watch::Sender::new(0),
            following: AtomicUsize::new(0),
            pulse,
        });
        cx.notices.listen(Arc::<Inner>::clone(&inner));
        supervisor.service(Arc::new(Run(Arc::clone(&inner))));
        Ok(Self(inner))
    }

    /// Starts a job; it is durable when this returns.
    pub async fn begin(&self, id: String, ask: JobAsk) -> Result<()> {
        ask.check()?;
        self.look().await?;
        self.0.admit(&ask)?;
        let progress = JobProgress { node: self.0.own(), ..self.0.first_progress(&ask).await? };
        if !ask.dry_run {
            self.0.keep_ask(&id, &ask).await?;
            self.0.keep(&id, &progress).await?;
            // What another node began meanwhile is there by now.
            self.0.learn(Some(&id)).await?;
        }
        // Whoever came first between the first look and now has the stream.
        if let Err(fault) = self.0.join(&id, Live::new(ask, progress)) {
            self.0.forget(&id).await?;
            return Err(fault);
        }
        self.0.came.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Returns all jobs, newest first.
    pub fn jobs(&self) -> Vec<JobView> {
        let mut jobs: Vec<JobView> = self.0.jobs.lock().iter().map(|(id, live)| view(id, live)).collect();
        jobs.sort_by(|one, two| two.progress.created_at.cmp(&one.progress.created_at).then(two.id.cmp(&one.id)));
        jobs
    }

    /// Returns one job.
    pub fn job(&self, id: &str) -> Result<JobView> {
        let jobs = self.0.jobs.lock();
        jobs.get(id).map(|live| view(id, live)).ok_or_else(|| Fault::missing(format!("there is no job {id:?}")))
    }

    /// Waits until a job has ended, at most so long; returns it as it is then.
    pub async fn wait(&self, id: &str, most: Duration) -> Result<JobView> {
        let mut came = self.0.came.subscribe();
        let over = self.0.cx.clock.sleep(most);
        tokio::pin!(over);
        loop {
            came.mark_unchanged();
            let view = self.job(id)?;
            if view.progress.state.is_final() {
                return Ok(view);
            }
            tokio::select! {
                _ = came.changed() => {}
                () = &mut over => return Ok(view),
            }
        }
    }

    /// Learns how far the jobs of other nodes came by now.
    pub async fn look(&self) -> Result<()> {
        if self.0.store.node().is_some() { self.0.learn(None).await } else { Ok(()) }
    }

    /// Ends a job; with `undo`, what it moved and no handler has seen is parked again.
    pub async fn cancel(&self, id: &str, undo: bool, most: Duration) -> Result<JobView> {
        self.look().await?;
        {
            let mut jobs = self.0.jobs.lock();
            let live = jobs.get_mut(id).ok_or_else(|| Fault::missing(format!("there is no job {id:?}")))?;
            if live.progress.state.is_final() {
                return Err(Fault::conflict(format!("job {id:?} has ended: {}", live.progress.state.as_str())));
            }
            live.cancel = Some(Cancel { undo });
        }
        if self.0.store.node().is_some() {
            // Whichever node drives it looks there.
            self.0.store.put_state(&cancel_key(id), Some(&job::write(&Cancel { undo })?)).await?;
        }
        self.0.ended.send_modify(|count| *count += 1);
        self.0.came.send_modify(|count| *count += 1);
        self.wait(id, most).await
    }
}

fn view(id: &str, live: &Live) -> JobView {
    JobView {
        id: id.to_owned(),
        ask: Arc::clone(&live.ask),
        progress: live.progress.clone(),
        became: {
            let mut became = live.became.clone();
            became.sort_by_key(|one| one.named);
            became
        },
    }
}

fn may_join(jobs: &BTreeMap<String, Live>, ask: &JobAsk) -> Result<()> {
    let mut running = jobs.iter().filter(|(_, live)| !live.progress.state.is_final() && !live.ask.dry_run);
    let count = running.clone().count();
    if count >= limits::DEAD_JOBS_MAX {
        let note = format!("{count} jobs on dead letters run already, the limit is {}", limits::DEAD_JOBS_MAX);
        return Err(Fault::limited(note, Duration::from_secs(5)));
    }
    // Two that walk through the same entries would both count them.
    let same = running.find(|(_, live)| live.ask.ids.is_none() && live.ask.stream == ask.stream);
    match same {
        Some((id, _)) if ask.ids.is_none() && !ask.dry_run => {
            Err(Fault::conflict(format!("job {id} on the dead letters of {:?} is under way", ask.stream.as_str())))
        }
        Some(_) | None => Ok(()),
    }
}

async fn restore(store: &dyn Store) -> Result<BTreeMap<String, Live>> {
    let states: BTreeMap<String, Vec<u8>> = store.states(PREFIX).await?.into_iter().collect();
    let mut jobs = BTreeMap::new();
    for (key, value) in &states {
        let Some(id) = key.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix("/ask")) else { continue };
        // An ask without progress was never answered.
        let Some(progress) = states.get(&progress_key(id)) else { continue };
        let (ask, progress): (JobAsk, JobProgress) = (read(id, value)?, read(id, progress)?);
        jobs.insert(id.to_owned(), Live::new(ask, progress));
    }
    Ok(jobs)
}

impl Inner {
    fn admit(&self, ask: &JobAsk) -> Result<()> {
        may_join(&self.jobs.lock(), ask)
    }

    fn join(&self, id: &str, live: Live) -> Result<()> {
        let mut jobs = self.jobs.lock();
        may_join(&jobs, &live.ask)?;
        jobs.insert(id.to_owned(), live);
        Ok(())
    }

    async fn keep_ask(&self, id: &str, ask: &JobAsk) -> Result<()> {
        self.store.put_state(&ask_key(id), Some(&job::write(ask)?)).await
    }

    async fn keep(&self, id: &str, progress: &JobProgress) -> Result<()> {
        self.store.put_state(&progress_key(id), Some(&job::write(progress)?)).await
    }

    async fn forget(&self, id: &str) -> Result<()> {
        self.store.put_state(&progress_key(id), None).await?;
        self.store.put_state(&cancel_key(id), None).await?;
        self.store.put_state(&ask_key(id), None).await
    }

    /// Shows how far a job came.
    fn show(&self, id: &str, progress: &JobProgress, became: &mut Vec<Became>) {
        if let Some(live) = self.jobs.lock().get_mut(id) {
            live.progress = progress.clone();
            live.became.append(became);
        }
        self.came.send_modify(|count| *count += 1);
    }

    fn cancelled(&self, id: &str) -> Option<Cancel> {
        self.jobs.lock().get(id).and_then(|live| live.cancel)
    }

    /// Lets go of the oldest ended jobs.
    async fn prune(&self) -> Result<()> {
        let gone: Vec<(String, bool)> = {
            let jobs = self.jobs.lock();
            let mut ended: Vec<_> = jobs.iter().filter(|(_, live)| live.progress.state.is_final()).collect();
            ended.sort_by_key(|(_, live)| live.progress.ended_at);
            let many = ended.len().saturating_sub(limits::DEAD_JOBS_KEPT);
            ended.into_iter().take(many).map(|(id, live)| (id.clone(), live.ask.dry_run)).collect()
        };
        for (id, was_dry) in gone {
            if !was_dry {
                self.forget(&id).await?;
            }
            self.jobs.lock().remove(&id);
        }
        Ok(())
    }

    /// Returns the jobs that nobody drives, as driven here from now on: this node's own, and those of nodes that are gone.
    fn take_up(&self) -> Vec<(String, Arc<JobAsk>)> {
        let (own, nodes) = (self.own(), self.nodes.lock().clone());
        let is_gone = |node: &String| nodes.as_ref().is_some_and(|nodes| !nodes.contains(node));
        let mut jobs = self.jobs.lock();
        let idle = jobs.iter_mut().filter(|(_, live)| {
            let node = &live.progress.node;
            !live.is_driven && !live.progress.state.is_final() && (*node == own || is_gone(node))
        });
        idle.map(|(id, live)| {
            live.is_driven = true;
            (id.clone(), Arc::clone(&live.ask))
        })
        .collect()
    }

    /// Drives a job to its end, over faults of the store.
    async fn finish(&self, id: String, ask: Arc<JobAsk>) {
        loop {
            let ended = drive::Drive::take_up(self, &id, &ask).await;
            let ended = match ended {
                Ok(drive) => drive.run().await,
                Err(fault) => Err(fault),
            };
            match ended {
                Ok(()) => break,
                // Somebody else changed what is written of it: it is theirs.
                Err(fault) if fault.kind == FaultKind::Conflict && !ask.dry_run => match self.is_lost(&id).await {
                    Ok(false) => {
                        if self.give_up(&id, &fault).await.is_ok() {
                            break;
                        }
                        self.cx.clock.sleep(AGAIN).await;
                    }
                    Ok(true) => return,
                    Err(second) => {
                        self.wait_for(&id, &second);
                        self.cx.clock.sleep(AGAIN).await;
                    }
                },
                Err(fault) if matches!(fault.kind, FaultKind::Unavailable | FaultKind::Timeout) => {
                    self.wait_for(&id, &fault);
                    self.cx.clock.sleep(AGAIN).await;
                }
                Err(fault) => {
                    if let Err(second) = self.give_up(&id, &fault).await {
                        self.wait_for(&id, &second);
                        self.cx.clock.sleep(AGAIN).await;
                        continue;
                    }
                    break;
                }
            }
        }
        if let Err(fault) = self.prune().await {
            self.wait_for(&id, &fault);
        }
    }

    /// Shows what a job waits for.
    fn wait_for(&self, id: &str, fault: &Fault) {
        if let Some(live) = self.jobs.lock().get_mut(id) {
            live.progress.why = Some(fault.to_string());
        }
    }

    async fn give_up(&self, id: &str, fault: &Fault) -> Result<()> {
        let progress = self.jobs.lock().get(id).map(|live| (live.progress.clone(), Arc::clone(&live.ask)));
        let Some((mut progress, ask)) = progress else { return Ok(()) };
        progress.end(JobState::Stopped, Some(fault.to_string()), self.cx.clock.now());
        self.ended(id, &ask, &progress, None).await
    }

    /// Writes down the end of a job, if it is written as it `was`, and tells about it.
    async fn ended(&self, id: &str, ask: &JobAsk, progress: &JobProgress, was: Option<&[u8]>) -> Result<()> {
        match was {
            _ if ask.dry_run => {}
            None => self.keep(id, progress).await?,
            Some(was) => {
                if !self.store.swap_state(&progress_key(id), Some(was), Some(&job::write(progress)?)).await? {
                    return Err(Fault::conflict(format!("job {id} was changed")));
                }
            }
        }
        self.show(id, progress, &mut Vec::new());
        self.cx.notices.emit(&Notice::DeskJobEnded {
            job: id.to_owned(),
            stream: ask.stream.clone(),
            state: progress.state.as_str(),
            moved: progress.moved,
            failed: progress.failed(),
            why: progress.why.clone().unwrap_or_default(),
        });
        Ok(())
    }
}

/// Drives all jobs.
struct Run(Arc<Inner>);

#[async_trait]
impl Service for Run {
    fn name(&self) -> String {
        "desk".to_owned()
    }

    async fn run(&self, cx: Context) -> Result<()> {
        let inner = &self.0;
        // A desk that crashed left them as driven.
        inner.jobs.lock().values_mut().for_each(|live| live.is_driven = false);
        let mut came = inner.came.subscribe();
        let mut driven = FuturesUnordered::new();
        loop {
            inner.pulse.beat();
            came.mark_unchanged();
            driven.extend(inner.take_up().into_iter().map(|(id, ask)| inner.finish(id, ask)));
            tokio::select! {
                _ = came.changed() => {}
                Some(()) = driven.next() => {}
                () = cx.clock.sleep(LOOK_EVERY) => {}
                // What is cut off goes on behind its last step when the node is back.
                () = cx.stop.draining() => return Ok(()),
            }
        }
    }
}

//! Upkeep: runs on a period and on a nudge, never with input, always idempotent.
//!
//! A task that takes no input can be missed, repeated and nudged from anywhere without harm: it looks at the world and
//! does what is due. That is why there is no queue of tasks and no argument to lose.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use tidegate_core::{
    clock::Timestamp,
    fault::Result,
    service::{Context, Service},
    store::Store,
};
use tokio::sync::Notify;

use crate::supervisor::{Pulse, Supervisor};

/// Upkeep of one kind.
#[async_trait]
pub trait Task: Send + Sync {
    /// Name for logs and health.
    fn name(&self) -> String;

    /// Longest time between two runs.
    fn every(&self) -> Duration;

    /// Does what is due. An error is told and kept; the next run comes all the same.
    async fn activate(&self, cx: &Context) -> Result<()>;
}

/// Asks a task to run soon. Cheap to clone; many nudges before a run are one.
#[derive(Debug, Clone)]
pub struct Nudge(Arc<Notify>);

impl Nudge {
    /// Asks the task to run soon.
    pub fn nudge(&self) {
        self.0.notify_one();
    }
}

/// How a task does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskView {
    /// Its name.
    pub name: String,
    /// Runs so far.
    pub runs: u64,
    /// When the last run ended, and how long it took.
    pub last: Option<(Timestamp, Duration)>,
    /// The last run that failed: when, and what happened.
    pub last_fault: Option<(Timestamp, String)>,
}

/// Runs one task as a service.
pub struct TaskRunner {
    task: Arc<dyn Task>,
    nudge: Nudge,
    pulse: Pulse,
    view: Mutex<TaskView>,
}

impl std::fmt::Debug for TaskRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TaskRunner").field(&*self.view.lock()).finish()
    }
}

/// Time that a run may take beyond its period before the task counts as standing still.
const RUN_SLACK: Duration = Duration::from_secs(60);

impl TaskRunner {
    /// Starts running a task; the first run comes at once.
    pub fn start(task: Arc<dyn Task>, supervisor: &Supervisor) -> Arc<Self> {
        let name = task.name();
        let runner = Arc::new(Self {
            nudge: Nudge(Arc::new(Notify::new())),
            pulse: supervisor.pulse(format!("task/{name}"), task.every() + RUN_SLACK),
            view: Mutex::new(TaskView { name, ..TaskView::default() }),
            task,
        });
        supervisor.service(Arc::new(Run(runner.clone())));
        runner
    }

    /// Returns what asks the task to run soon.
    pub fn nudge(&self) -> Nudge {
        self.nudge.clone()
    }

    /// Returns how the task does.
    pub fn view(&self) -> TaskView {
        self.view.lock().clone()
    }

    async fn activate(&self, cx: &Context) {
        let watch = cx.clock.stopwatch();
        let ended = self.task.activate(cx).await;
        let now = cx.clock.now();
        let mut view = self.view.lock();
        view.runs += 1;
        view.last = Some((now, watch.elapsed()));
        if let Err(fault) = ended {
            view.last_fault = Some((now, fault.to_string()));
        }
    }
}

struct Run(Arc<TaskRunner>);

#[async_trait]
impl Service for Run {
    fn name(&self) -> String {
        format!("task/{}", self.0.task.name())
    }

    async fn run(&self, cx: Context) -> Result<()> {
        loop {
            self.0.pulse.beat();
            // This run answers every nudge that came before it.
            let _ = self.0.nudge.0.notified().now_or_never();
            // A run that is cut off is no harm: the next start does what it left.
            tokio::select! {
                () = self.0.activate(&cx) => {}
                () = cx.stop.aborted() => return Ok(()),
            }
            self.0.pulse.beat();
            tokio::select! {
                () = cx.clock.sleep(self.0.task.every()) => {}
                () = self.0.nudge.0.notified() => {}
                () = cx.stop.draining() => return Ok(()),
            }
        }
    }
}

/// Upkeep of the store: retention, cleaning, checkpoints.
pub struct Upkeep {
    store: Arc<dyn Store>,
    every: Duration,
}

impl std::fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upkeep").field("every", &self.every).finish_non_exhaustive()
    }
}

impl Upkeep {
    /// Makes the upkeep of a store.
    pub fn new(store: Arc<dyn Store>, every: Duration) -> Arc<Self> {
        Arc::new(Self { store, every })
    }
}

#[async_trait]
impl Task for Upkeep {
    fn name(&self) -> String {
        "upkeep".to_owned()
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn activate(&self, _cx: &Context) -> Result<()> {
        self.store.upkeep().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tidegate_core::{clock::Clock, fault::Fault, notice::Notices, service::stop};

    use super::*;

    struct Sweep(AtomicU32);

    #[async_trait]
    impl Task for Sweep {
        fn name(&self) -> String {
            "sweep".to_owned()
        }

        fn every(&self) -> Duration {
            Duration::from_secs(60)
        }

        async fn activate(&self, _cx: &Context) -> Result<()> {
            if self.0.fetch_add(1, Ordering::SeqCst) == 1 { Err(Fault::bug("second run fails")) } else { Ok(()) }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_runs_at_once_then_on_its_period_and_on_nudges() {
        let clock = Clock::following_tokio(Timestamp::from_millis(0));
        let (stopper, stop) = stop();
        let supervisor = Supervisor::new(Context { clock: clock.clone(), stop, notices: Notices::default() });
        let runner = TaskRunner::start(Arc::new(Sweep(AtomicU32::new(0))), &supervisor);
        let runs = || runner.view().runs;
        clock.sleep(Duration::from_secs(1)).await;
        assert_eq!(runs(), 1);
        clock.sleep(Duration::from_secs(60)).await;
        assert_eq!(runs(), 2);
        runner.nudge().nudge();
        runner.nudge().nudge();
        clock.sleep(Duration::from_secs(1)).await;
        assert_eq!(runs(), 3, "two nudges before a run are one");
        let view = runner.view();
        assert_eq!(view.last_fault, Some((Timestamp::from_millis(60_000), "second run fails".to_owned())));
        assert_eq!(view.last, Some((Timestamp::from_millis(61_000), Duration::ZERO)));
        stopper.drain();
        assert!(supervisor.join(Duration::from_secs(1)).await.is_empty());
    }
}

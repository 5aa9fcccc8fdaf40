//! The only door to spawning: names what runs, starts crashed services again, joins everything at the stop.

use std::{
    any::Any,
    borrow::Cow,
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use parking_lot::Mutex;
use tidegate_core::{
    clock::{Clock, Timestamp},
    fault::FaultKind,
    notice::Notice,
    service::{Context, Service, StopPhase},
};
use tokio::sync::Notify;

/// Wait before a crashed service is started again; doubles with each crash.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// Longest such wait.
const RESTART_MAX: Duration = Duration::from_secs(30);
/// Longest such wait for one that ended because something was away: whoever waits for it must go on when it is back.
const RESTART_MAX_AWAY: Duration = Duration::from_secs(2);
/// A service that ran for this long was well; its next crash counts as the first.
const STEADY: Duration = Duration::from_secs(60);

/// Runs services and one-off tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
    /// What everything that it runs is given.
    cx: Context,
}

#[derive(Debug)]
struct Inner {
    running: Mutex<Running>,
    ended: Notify,
    pulses: Mutex<Vec<Pulse>>,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    names: BTreeMap<u64, Cow<'static, str>>,
    services: BTreeMap<u64, ServiceView>,
}

/// What is known of a service that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// When it was started the first time.
    pub since: Timestamp,
    /// How often it was started again.
    pub restarts: u64,
    /// The last crash: when, and what happened.
    pub last_fault: Option<(Timestamp, String)>,
}

/// Sign of life of something that must not stand still. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Beats>);

#[derive(Debug)]
struct Beats {
    name: String,
    /// Longest time between two beats of something that is well.
    every: Duration,
    last: AtomicI64,
    clock: Clock,
}

/// When something last showed a sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Its name.
    pub name: String,
    /// The last sign.
    pub at: Timestamp,
    /// Longest time between two signs of something that is well.
    pub every: Duration,
}

impl Pulse {
    /// Shows a sign of life.
    pub fn beat(&self) {
        self.0.last.store(self.0.clock.now().as_millis(), Ordering::Relaxed);
    }

    fn progress(&self) -> Progress {
        let at = Timestamp::from_millis(self.0.last.load(Ordering::Relaxed));
        Progress { name: self.0.name.clone(), at, every: self.0.every }
    }
}

impl Supervisor {
    /// Makes a supervisor; everything it runs is given this context.
    pub fn new(cx: Context) -> Self {
        let inner = Inner { running: Mutex::default(), ended: Notify::new(), pulses: Mutex::default() };
        Self { inner: Arc::new(inner), cx }
    }

    /// Returns this supervisor for a part of the node that may stop before it: what it runs is given another context.
    pub(crate) fn part(&self, cx: Context) -> Self {
        Self { inner: self.inner.clone(), cx }
    }

    /// Runs a service until it ends well; after a crash it is started again, after a wait that grows.
    pub fn service(&self, service: Arc<dyn Service>) {
        let name = service.name();
        let since = self.cx.clock.now();
        let view = ServiceView { name: name.clone(), since, restarts: 0, last_fault: None };
        let supervisor = self.clone();
        self.spawn(name.into(), Some(view), move |number| async move {
            supervisor.keep(number, service).await;
        });
    }

    /// Runs a one-off task. A panic in it ends it and nothing else.
    pub fn task(&self, name: impl Into<Cow<'static, str>>, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name.into(), None, |_| future);
    }

    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: Cow<'static, str>,
        service: Option<ServiceView>,
        future: impl FnOnce(u64) -> F,
    ) {
        let number = {
            let mut running = self.inner.running.lock();
            running.next += 1;
            let number = running.next;
            running.names.insert(number, name);
            if let Some(view) = service {
                running.services.insert(number, view);
            }
            number
        };
        let entry = Entry { inner: self.inner.clone(), number };
        let future = future(number);
        // Nobody awaits the handle: what runs is known by its entry, which goes when the task ends or is dropped.
        drop(tokio::spawn(async move {
            let _entry = entry;
            future.await;
        }));
    }

    /// Makes a sign of life that [`Supervisor::progress`] watches. `every` is the longest time between two beats of
    /// something that is well.
    pub fn pulse(&self, name: impl Into<String>, every: Duration) -> Pulse {
        let clock = self.cx.clock.clone();
        let last = AtomicI64::new(clock.now().as_millis());
        let pulse = Pulse(Arc::new(Beats { name: name.into(), every, last, clock }));
        self.inner.pulses.lock().push(pulse.clone());
        pulse
    }

    /// Returns when everything that must not stand still last showed a sign of life.
    pub fn progress(&self) -> Vec<Progress> {
        let mut pulses = self.inner.pulses.lock();
        // Whoever held the other end is gone, and with it the promise to beat.
        pulses.retain(|pulse| Arc::strong_count(&pulse.0) > 1);
        pulses.iter().map(Pulse::progress).collect()
    }

    /// Returns the services that run.
    pub fn services(&self) -> Vec<ServiceView> {
        self.inner.running.lock().services.values().cloned().collect()
    }

    /// Waits until everything has ended, at most `limit`; returns the names of what still runs then.
    pub async fn join(&self, limit: Duration) -> Vec<String> {
        let all = async {
            loop {
                let ended = self.inner.ended.notified();
                tokio::pin!(ended);
                // Listening starts before the look, so that an end in between is not missed.
                ended.as_mut().enable();
                if self.inner.running.lock().names.is_empty() {
                    return;
                }
                ended.await;
            }
        };
        match tokio::time::timeout(limit, all).await {
            Ok(()) => Vec::new(),
            Err(_elapsed) => self.inner.running.lock().names.values().map(|name| name.clone().into_owned()).collect(),
        }
    }
}

impl Supervisor {
    async fn keep(&self, number: u64, service: Arc<dyn Service>) {
        let mut wait = RESTART_FIRST;
        loop {
            let ran = self.cx.clock.stopwatch();
            let (fault, most) = match AssertUnwindSafe(service.run(self.cx.clone())).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(fault)) if matches!(fault.kind, FaultKind::Unavailable | FaultKind::Timeout) => {
                    (fault.to_string(), RESTART_MAX_AWAY)
                }
                Ok(Err(fault)) => (fault.to_string(), RESTART_MAX),
                Err(panic) => (panic_text(&*panic), RESTART_MAX),
            };
            wait = wait.min(most);
            if ran.elapsed() >= STEADY {
                wait = RESTART_FIRST;
            }
            if self.cx.stop.phase() == StopPhase::Aborted {
                return;
            }
            self.crashed(number, &service.name(), fault, wait);
            tokio::select! {
                () = self.cx.clock.sleep(wait) => {}
                () = self.cx.stop.aborted() => return,
            }
            wait = (wait * 2).min(RESTART_MAX);
        }
    }

    fn crashed(&self, number: u64, service: &str, fault: String, after: Duration) {
        if let Some(view) = self.inner.running.lock().services.get_mut(&number) {
            view.restarts += 1;
            view.last_fault = Some((self.cx.clock.now(), fault.clone()));
        }
        self.cx.notices.emit(&Notice::ServiceRestarted { service: service.to_owned(), fault, after });
    }
}

/// Entry of something that runs; removes itself.
struct Entry {
    inner: Arc<Inner>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut running = self.inner.running.lock();
        running.names.remove(&self.number);
        running.services.remove(&self.number);
        drop(running);
        self.inner.ended.notify_waiters();
    }
}

/// Returns what a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", said.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests;

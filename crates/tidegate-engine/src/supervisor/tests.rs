//! Services crash, are started again and are joined, in virtual time.

use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use tidegate_core::{
    fault::{Fault, Origin, Result},
    notice::{Notices, Tap},
    service::{Stopper, stop},
};

use super::*;

struct Scene {
    supervisor: Supervisor,
    stopper: Stopper,
    tap: Tap,
    clock: Clock,
}

fn scene() -> Scene {
    let clock = Clock::following_tokio(Timestamp::from_millis(0));
    let (stopper, stop) = stop();
    let notices = Notices::default();
    let tap = notices.tap();
    Scene { supervisor: Supervisor::new(Context { clock: clock.clone(), stop, notices }), stopper, tap, clock }
}

/// Crashes by error, by panic, by error …, then runs until it is told to stop.
struct Shaky {
    runs: AtomicUsize,
    crashes: usize,
}

#[async_trait]
impl Service for Shaky {
    fn name(&self) -> String {
        "shaky".to_owned()
    }

    async fn run(&self, cx: Context) -> Result<()> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        if run >= self.crashes {
            cx.stop.draining().await;
            return Ok(());
        }
        assert!(run.is_multiple_of(2), "odd runs panic");
        Err(Fault::bug("even runs fail"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_crashed_service_is_started_again_after_a_growing_wait() {
    let mut scene = scene();
    scene.supervisor.service(Arc::new(Shaky { runs: AtomicUsize::new(0), crashes: 11 }));
    let mut waits = Vec::new();
    let mut faults = Vec::new();
    for _ in 0..11 {
        let told = scene.tap.wait_for(|_| true).await;
        let Some(Notice::ServiceRestarted { service, fault, after }) = told else { panic!("{told:?}") };
        assert_eq!(service, "shaky");
        waits.push(after.as_millis());
        faults.push(fault);
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    assert_eq!(faults[..2], ["even runs fail", "panicked: odd runs panic"]);
    scene.clock.sleep(Duration::from_secs(31)).await;
    assert_eq!(scene.supervisor.services()[0].restarts, 11);
    scene.stopper.drain();
    assert!(scene.supervisor.join(Duration::from_secs(1)).await.is_empty());
    assert!(scene.supervisor.services().is_empty());
}

/// Ends because what it needs is away.
struct Needy;

#[async_trait]
impl Service for Needy {
    fn name(&self) -> String {
        "needy".to_owned()
    }

    async fn run(&self, _cx: Context) -> Result<()> {
        Err(Fault::unavailable(Origin::Store, "it is away"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_need_is_away_looks_again_soon() {
    let mut scene = scene();
    scene.supervisor.service(Arc::new(Needy));
    let mut waits = Vec::new();
    for _ in 0..7 {
        let told = scene.tap.wait_for(|_| true).await;
        let Some(Notice::ServiceRestarted { after, .. }) = told else { panic!("{told:?}") };
        waits.push(after.as_millis());
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
    scene.stopper.abort();
    assert!(scene.supervisor.join(Duration::from_secs(1)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_abort_ends_the_wait_for_a_restart() {
    let mut scene = scene();
    scene.supervisor.service(Arc::new(Shaky { runs: AtomicUsize::new(0), crashes: usize::MAX }));
    scene.tap.wait_for(|_| true).await;
    scene.stopper.abort();
    assert!(scene.supervisor.join(Duration::from_millis(1)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_does_not_end_is_named() {
    let scene = scene();
    scene.supervisor.task("quick", async {});
    scene.supervisor.task("stuck", std::future::pending());
    scene.supervisor.task("broken", async { panic!("only this one") });
    assert_eq!(scene.supervisor.join(Duration::from_secs(5)).await, ["stuck"]);
}

#[tokio::test(start_paused = true)]
async fn pulses_tell_when_they_beat() {
    let scene = scene();
    let pulse = scene.supervisor.pulse("loop", Duration::from_secs(5));
    scene.clock.sleep(Duration::from_secs(7)).await;
    let check = |at| {
        let expect =
            Progress { name: "loop".to_owned(), at: Timestamp::from_millis(at), every: Duration::from_secs(5) };
        assert_eq!(scene.supervisor.progress(), [expect]);
    };
    check(0);
    pulse.beat();
    check(7000);
    drop(pulse);
    assert!(scene.supervisor.progress().is_empty());
}

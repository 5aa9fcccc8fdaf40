//! A guard as its callers see it, in virtual time.

use std::{
    future::pending,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::notice::Tap;

const SECOND: Duration = Duration::from_secs(1);

struct Scene {
    guard: Arc<Guard>,
    clock: Clock,
    tap: Tap,
}

fn scene(policy: GuardPolicy) -> Scene {
    let clock = Clock::following_tokio(Timestamp::from_millis(1_000_000));
    let notices = Notices::default();
    let tap = notices.tap();
    let target = TargetName::new("partner").expect("the name is valid");
    Scene { guard: Guard::new(target, policy, clock.clone(), notices), clock, tap }
}

impl Scene {
    async fn ok(&self) -> Result<(), Failure> {
        self.guard.call(false, async { Ok(()) }).await
    }

    async fn fail(&self, class: FaultClass) -> Failure {
        self.guard.call(false, async { Err::<(), _>(Failure::new(class, "no")) }).await.expect_err("it fails")
    }

    fn names(&mut self) -> Vec<&'static str> {
        self.tap.drain().iter().map(Notice::name).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_times_out_and_counts() {
    let mut scene = scene(GuardPolicy::default());
    for _ in 0..5 {
        let failure = scene.guard.call(false, pending::<Result<(), Failure>>()).await.expect_err("it hangs");
        assert_eq!(failure.class, FaultClass::Timeout);
    }
    assert!(matches!(scene.guard.gate(), Gate::ClosedUntil(_)));
    assert_eq!(scene.names().last(), Some(&"breaker.opened"));
    assert_eq!(scene.ok().await.expect_err("it is open").class, FaultClass::DependencyDown);
    assert!(scene.names().is_empty(), "a refused call is no call");
    assert_eq!((scene.guard.view().calls, scene.guard.view().refused), (5, 1));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_counts_as_no_answer_even_as_the_probe() {
    let scene = scene(GuardPolicy::default());
    scene.fail(FaultClass::Auth).await;
    for cooldown in [30, 60] {
        let Gate::ClosedUntil(until) = scene.guard.gate() else { panic!("open") };
        assert_eq!(until.since(scene.clock.now()), SECOND * cooldown);
        scene.clock.sleep_until(until).await;
        assert_eq!(scene.guard.gate(), Gate::Probe);
        let probe = tokio::time::timeout(SECOND, scene.guard.call(false, pending::<Result<(), Failure>>())).await;
        assert!(probe.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn the_breaker_opens_probes_and_closes_and_says_so() {
    let mut scene = scene(GuardPolicy::default());
    let mut changes = scene.guard.changes();
    for _ in 0..5 {
        scene.fail(FaultClass::DependencyDown).await;
    }
    assert!(changes.has_changed().expect("the guard lives"));
    scene.clock.sleep(30 * SECOND).await;
    let (release, wait) = tokio::sync::oneshot::channel();
    let probe = scene.guard.call(true, async { wait.await.map_err(|_| Failure::new(FaultClass::Transient, "gone")) });
    let others = async {
        tokio::task::yield_now().await;
        assert_eq!(scene.guard.view().breaker.state, BreakerState::HalfOpen);
        assert!(matches!(scene.guard.gate(), Gate::ClosedUntil(_)), "one probe is enough");
        assert!(scene.ok().await.is_err());
        changes.mark_unchanged();
        release.send(()).expect("the probe waits");
    };
    let (result, ()) = tokio::join!(probe, others);
    assert_eq!(result, Ok(()));
    assert!(changes.has_changed().expect("the guard lives"));
    assert_eq!(scene.guard.gate(), Gate::Open);
    let told: Vec<_> = scene.names().into_iter().filter(|name| name.starts_with("breaker")).collect();
    assert_eq!(told, ["breaker.opened", "breaker.probing", "breaker.closed"]);
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_run_than_there_are_places() {
    let scene = scene(GuardPolicy { concurrency: 3, ..GuardPolicy::default() });
    let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let call = || {
        scene.guard.call(false, async {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            scene.clock.sleep(SECOND).await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        })
    };
    let calls = tokio::join!(call(), call(), call(), call(), call(), call(), call());
    assert_eq!(calls.6, Ok(()));
    assert_eq!(most.load(Ordering::SeqCst), 3);
    let waits = scene.guard.view().waits;
    assert_eq!((waits.count, waits.total, waits.longest), (4, 5 * SECOND, 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_finds_no_place_in_time_is_refused_without_blame() {
    let scene = scene(GuardPolicy { concurrency: 1, timeout: SECOND, ..GuardPolicy::default() });
    let hang = scene.guard.call(false, pending::<Result<(), Failure>>());
    let second = async {
        tokio::task::yield_now().await;
        let _held = scene.guard.bulkhead.enter().await;
        scene.ok().await
    };
    let (first, second) = tokio::join!(hang, second);
    assert_eq!(first.expect_err("it hangs").class, FaultClass::Timeout);
    assert_eq!(second.expect_err("no place").class, FaultClass::Throttled);
    assert_eq!(scene.guard.view().breaker.failures, 1);
}

#[tokio::test(start_paused = true)]
async fn the_rate_makes_calls_wait_and_refuses_what_would_wait_too_long() {
    let rate = Some(Rate { count: 2, per: 10 * SECOND });
    let scene = scene(GuardPolicy { rate, timeout: 15 * SECOND, ..GuardPolicy::default() });
    let start = scene.clock.stopwatch();
    for _ in 0..3 {
        scene.ok().await.expect("it may wait");
    }
    assert_eq!(start.elapsed(), 10 * SECOND);
    scene.ok().await.expect("the second of this window");
    // The next may start in ten seconds, which is more than half of the timeout.
    assert_eq!(scene.guard.gate(), Gate::ClosedUntil(scene.clock.now().plus(Duration::from_millis(2500))));
    let (a, b, c) = tokio::join!(scene.ok(), scene.ok(), scene.ok());
    assert_eq!((a, b), (Ok(()), Ok(())));
    let refused = c.expect_err("twenty seconds are too long");
    assert_eq!((refused.class, refused.after), (FaultClass::Throttled, Some(20 * SECOND)));
    scene.guard.limit(None, Some(Rate { count: 100, per: SECOND }));
    assert_eq!(scene.ok().await, Ok(()));
    assert_eq!(scene.guard.view().rate.limit, Some(Rate { count: 100, per: SECOND }));
    scene.guard.limit(None, None);
    assert_eq!(scene.guard.view().rate.limit, rate);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_gives_its_start_back() {
    let rate = Some(Rate { count: 1, per: 10 * SECOND });
    let scene = scene(GuardPolicy { rate, ..GuardPolicy::default() });
    scene.ok().await.expect("the first");
    assert!(tokio::time::timeout(SECOND, scene.ok()).await.is_err());
    assert_eq!(scene.guard.view().rate.wait, 9 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_after_its_wait_gives_its_start_back() {
    let rate = Some(Rate { count: 1, per: 10 * SECOND });
    let scene = scene(GuardPolicy { rate, timeout: 30 * SECOND, ..GuardPolicy::default() });
    scene.ok().await.expect("the first");
    let trip = async {
        scene.clock.sleep(SECOND).await;
        scene.guard.trip("ann", "now");
    };
    let (refused, ()) = tokio::join!(scene.ok(), trip);
    assert!(refused.is_err());
    scene.guard.reset("ann", "over");
    assert_eq!(scene.guard.view().rate.wait, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn whoever_would_be_refused_in_the_end_does_not_wait_first() {
    let rate = Some(Rate { count: 1, per: 10 * SECOND });
    let scene = scene(GuardPolicy { rate, timeout: 30 * SECOND, ..GuardPolicy::default() });
    scene.fail(FaultClass::Auth).await;
    let start = scene.clock.stopwatch();
    assert!(scene.ok().await.is_err());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn retries_over_the_budget_are_sent_away_to_wait() {
    let retry_budget = RetryBudgetPolicy { share: 0.5, floor: 1 };
    let scene = scene(GuardPolicy { retry_budget, ..GuardPolicy::default() });
    let retry = || scene.guard.call(true, async { Ok(()) });
    for _ in 0..10 {
        retry().await.expect("saved up");
    }
    let refused = retry().await.expect_err("it is spent");
    assert_eq!((refused.class, refused.after), (FaultClass::Throttled, Some(SECOND)));
    scene.ok().await.expect("first tries always pass");
    scene.ok().await.expect("first tries always pass");
    retry().await.expect("two first tries pay for it");
}

#[tokio::test(start_paused = true)]
async fn hands_trip_disable_and_reset() {
    let mut scene = scene(GuardPolicy::default());
    scene.guard.trip("ann", "they asked for it");
    assert_eq!(scene.guard.gate(), Gate::Disabled);
    let refused = scene.ok().await.expect_err("it is tripped");
    assert!(refused.message.contains("tripped by ann: they asked for it"), "{refused:?}");
    assert_eq!(refused.class, FaultClass::DependencyDown);
    scene.clock.sleep(1000 * SECOND).await;
    assert_eq!(scene.guard.view().breaker.state, BreakerState::Open);
    scene.guard.reset("bob", "they are back");
    assert_eq!(scene.guard.view().by_hand.map(|change| change.by), Some("bob".to_owned()));
    assert_eq!(scene.ok().await, Ok(()));
    scene.guard.disable("410 gone");
    scene.guard.disable("410 gone");
    assert!(scene.ok().await.is_err());
    assert!(scene.guard.view().breaker.disabled);
    scene.guard.reset("bob", "new address");
    assert_eq!(scene.ok().await, Ok(()));
    let told: Vec<_> = scene.names().into_iter().filter(|name| *name != "target.called").collect();
    assert_eq!(told, ["breaker.opened", "breaker.closed", "target.disabled", "breaker.closed"]);
}

#[tokio::test(start_paused = true)]
async fn every_call_is_told_with_its_waiting_and_its_time() {
    let mut scene = scene(GuardPolicy { concurrency: 1, ..GuardPolicy::default() });
    let call = || {
        scene.guard.call(false, async {
            scene.clock.sleep(SECOND).await;
            Err::<(), _>(Failure::new(FaultClass::Transient, "500"))
        })
    };
    let (a, b) = tokio::join!(call(), call());
    assert!(a.is_err() && b.is_err());
    let told = scene.tap.drain();
    let target = scene.guard.target().clone();
    let expect = |waited| Notice::TargetCalled { target: target.clone(), result: "transient", waited, took: SECOND };
    assert_eq!(told, [expect(Duration::ZERO), expect(SECOND)]);
    let last = scene.guard.view().last_error.expect("they failed");
    assert_eq!((last.class, last.message.as_str()), (FaultClass::Transient, "500"));
}

#[tokio::test(start_paused = true)]
async fn what_was_wanted_can_be_wanted_again() {
    let first = scene(GuardPolicy::default());
    assert_eq!(first.guard.wish(), GuardWish::default());
    let rate = Some(Rate { count: 3, per: SECOND });
    first.guard.limit(Some(2), rate);
    first.guard.trip("ann", "they asked for it");
    let stored = serde_json::to_string(&first.guard.wish()).expect("it can be written");
    let mut second = scene(GuardPolicy::default());
    second.guard.restore(serde_json::from_str(&stored).expect("it reads back"));
    assert_eq!(second.guard.wish(), first.guard.wish());
    let view = second.guard.view();
    assert_eq!((view.concurrency.limit, view.rate.limit, view.gate), (2, rate, Gate::Disabled));
    assert!(view.breaker.tripped);
    assert_eq!(second.names(), ["target.limited", "breaker.opened"], "metrics and alerts hear of it again");
    second.guard.reset("bob", "over");
    assert_eq!(second.guard.wish(), GuardWish { shut: None, concurrency: Some(2), rate });
    second.guard.disable("410 gone");
    assert!(matches!(second.guard.wish().shut, Some(Shut::Disabled { .. })));
}

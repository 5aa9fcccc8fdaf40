//! What goes wrong harms as little as it can: by class, by target, by handler.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tidegate_core::{
    clock::Timestamp,
    delivery::Outcome,
    fault::{Failure, FaultClass},
    guard::{Gate, GuardPolicy},
    notice::Notice,
};

use crate::scene::*;

fn down() -> Result<(), Failure> {
    Err(Failure::new(FaultClass::DependencyDown, "connection refused"))
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_down_costs_no_attempt_and_buries_nothing() {
    let mut scene = Scene::new().await;
    let guard = scene.guard("partner", GuardPolicy::default());
    let (clock, back) = (scene.world.clock.clone(), scene.world.clock.now().plus(10 * MINUTE));
    let calls = Arc::new(AtomicU32::new(0));
    let attempts = log();
    let handler = calling(&guard, {
        let (calls, attempts) = (calls.clone(), attempts.clone());
        move |delivery| {
            calls.fetch_add(1, Ordering::SeqCst);
            attempts.lock().push(delivery.attempt);
            let answer = if clock.now() < back { down() } else { Ok(()) };
            async { answer }
        }
    });
    scene.add(asked("deliver").workers(8), handler).await;
    scene.publish((0..100).map(event)).await;
    scene.until_settled("deliver", "done", 100).await;
    assert!(scene.world.clock.now() >= back);
    assert_eq!(settled(&scene.seen, "deliver", "dead"), 0);
    assert!(attempts.lock().iter().all(|attempt| *attempt == 1), "no attempt is spent");
    // Five or a few more until it opens, then one per cooldown: 30 s, 60 s, 120 s, 240 s, 300 s.
    let failed = calls.load(Ordering::SeqCst) - 100;
    assert!((5..=20).contains(&failed), "{failed} calls in ten minutes");
    assert_eq!(count(&scene.seen, "breaker.closed"), 1);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn wrong_credentials_pause_the_target_until_it_is_reset() {
    let mut scene = Scene::new().await;
    let guard = scene.guard("partner", GuardPolicy::default());
    let right = Arc::new(AtomicBool::new(false));
    let handler = calling(&guard, {
        let right = right.clone();
        move |_| {
            let right = right.load(Ordering::SeqCst);
            async move { if right { Ok(()) } else { Err(Failure::new(FaultClass::Auth, "401")) } }
        }
    });
    scene.add(asked("deliver").workers(1), handler).await;
    scene.publish((0..20).map(event)).await;
    scene.until("the breaker is open", |seen| count(seen, "breaker.opened") == 1).await;
    scene.until_settled("deliver", "retry", 1).await;
    let status = scene.status("deliver").await;
    assert_eq!((status.in_flight, status.dead, status.done), (0, 0, 0));
    right.store(true, Ordering::SeqCst);
    let before = scene.world.clock.now();
    guard.reset("ann", "new token");
    scene.until_settled("deliver", "done", 20).await;
    assert!(scene.world.clock.now().since(before) < SECOND, "a reset lets everything go at once");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_breaker_probes_one_delivery_goes() {
    let mut scene = Scene::new().await;
    let guard = scene.guard("partner", GuardPolicy::default());
    let clock = scene.world.clock.clone();
    let handler = calling(&guard, move |_| {
        let clock = clock.clone();
        async move {
            clock.sleep(SECOND).await;
            down()
        }
    });
    scene.add(asked("deliver").workers(8), handler).await;
    scene.publish((0..50).map(event)).await;
    scene.until("it probed twice", |seen| count(seen, "breaker.opened") == 3).await;
    let opened = scene.seen.iter().position(|notice| notice.name() == "breaker.opened").unwrap();
    let probing = scene.seen.iter().position(|notice| notice.name() == "breaker.probing").unwrap();
    let after = |from: usize, name| count(&scene.seen[from..], name);
    // Some were on their way when it opened; between the first probe and now nobody but the two probes called.
    assert!(after(opened, "target.called") <= 8 + 2);
    assert_eq!(after(probing, "target.called"), 2);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_disabled_target_holds_its_messages() {
    let mut scene = Scene::new().await;
    let guard = scene.guard("partner", GuardPolicy::default());
    let handler = calling(&guard, {
        let guard = guard.clone();
        move |_| {
            guard.disable("410 gone");
            async { Err(Failure::new(FaultClass::Auth, "410 gone")) }
        }
    });
    scene.add(asked("deliver"), handler).await;
    scene.publish((0..20).map(event)).await;
    scene.until("it is disabled", |seen| count(seen, "target.disabled") == 1).await;
    scene.world.clock.sleep(60 * MINUTE).await;
    let status = scene.status("deliver").await;
    assert_eq!((status.waiting + status.scheduled, status.dead), (20, 0));
    assert!(count(scene.look(), "target.called") <= 4);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_asks_for_silence_gets_it() {
    let mut scene = Scene::new().await;
    let guard = scene.guard("partner", GuardPolicy::default());
    let start = scene.world.clock.now();
    let clock = scene.world.clock.clone();
    let times = log();
    let handler = calling(&guard, {
        let times = times.clone();
        move |delivery| {
            times.lock().push((clock.now().since(start), delivery.attempt));
            let told = Failure::new(FaultClass::Throttled, "429").after(90 * SECOND);
            let answer = if times.lock().len() == 1 { Err(told) } else { Ok(()) };
            async { answer }
        }
    });
    scene.add(asked("deliver").workers(1), handler).await;
    scene.publish((0..5).map(event)).await;
    scene.until_settled("deliver", "done", 5).await;
    let times = times.lock().clone();
    assert!(times[1..].iter().all(|(at, attempt)| *at >= 90 * SECOND && *attempt == 1), "{times:?}");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_guard_a_missing_dependency_is_no_tight_loop() {
    let scene = Scene::new().await;
    let tries = Arc::new(AtomicU32::new(0));
    let handler = each({
        let tries = tries.clone();
        move |_| {
            tries.fetch_add(1, Ordering::SeqCst);
            async { fail(FaultClass::DependencyDown) }
        }
    });
    scene.add(asked("deliver"), handler).await;
    scene.publish([event("a")]).await;
    scene.world.clock.sleep(10 * MINUTE).await;
    let tries = tries.load(Ordering::SeqCst);
    assert!((500..=601).contains(&tries), "{tries} tries in 600 seconds, one a second is asked for");
    assert_eq!(scene.status("deliver").await.dead, 0);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_can_never_be_processed_is_buried_at_once() {
    let mut scene = Scene::new().await;
    let handler = each(|delivery| async move {
        match &*delivery.event.id {
            "bad" => fail(FaultClass::Invalid),
            "rejected" => Outcome::Reject(Failure::new(FaultClass::Transient, "no such customer")),
            _ => Outcome::DONE,
        }
    });
    scene.add(asked("deliver"), handler).await;
    let before = scene.world.clock.now();
    scene.publish([event("bad"), event("good"), event("rejected")]).await;
    scene.until_settled("deliver", "dead", 2).await;
    scene.until_settled("deliver", "done", 1).await;
    assert!(scene.world.clock.now().since(before) < SECOND);
    assert!(scene.dead().await.iter().all(|dead| dead.attempts.len() == 1));
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_breaks_its_handler_is_quarantined_while_others_flow() {
    let mut scene = Scene::new().await;
    let crashes = Arc::new(AtomicU32::new(0));
    let handler = each({
        let crashes = crashes.clone();
        move |delivery| {
            let crashes = crashes.clone();
            async move {
                if &*delivery.event.id == "poison" {
                    crashes.fetch_add(1, Ordering::SeqCst);
                    panic!("cannot read {}", delivery.event.id);
                }
                Outcome::DONE
            }
        }
    });
    let mut wanted = asked("deliver");
    wanted.policy.retry.attempts = 100;
    scene.add(wanted, handler).await;
    scene.publish([event("poison")].into_iter().chain((0..50).map(event))).await;
    scene.until_settled("deliver", "done", 50).await;
    assert_eq!(settled(&scene.seen, "deliver", "dead"), 0, "others do not wait for it");
    scene.until_settled("deliver", "dead", 1).await;
    assert_eq!(crashes.load(Ordering::SeqCst), 3);
    let dead = scene.dead().await.remove(0);
    assert_eq!((dead.class, &*dead.message), (FaultClass::Poison, "handler panicked: cannot read poison"));
    assert_eq!(count(&scene.seen, "service.restarted"), 0, "a handler's panic is caught where it happens");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn in_a_batch_only_the_guilty_pays_for_a_crash() {
    let mut scene = Scene::new().await;
    let tried = log();
    let handler = batches(10, {
        let tried = tried.clone();
        move |batch| {
            tried.lock().push(batch.iter().map(|delivery| delivery.event.id.to_string()).collect::<Vec<_>>());
            async move {
                assert!(batch.iter().all(|delivery| &*delivery.event.id != "5"), "five is odd");
                vec![Outcome::DONE; batch.len()]
            }
        }
    });
    let mut wanted = asked("deliver").workers(1);
    wanted.policy.retry.attempts = 100;
    scene.publish((0..10).map(event)).await;
    scene.add(wanted, handler).await;
    scene.until_settled("deliver", "done", 9).await;
    scene.until_settled("deliver", "dead", 1).await;
    let tried = tried.lock().clone();
    assert_eq!(tried[0].len(), 10);
    assert!(tried[1..].iter().all(|batch| batch.len() == 1), "after the crash each is tried alone: {tried:?}");
    let five = tried.iter().filter(|batch| batch.contains(&"5".to_owned())).count();
    assert_eq!((tried.len(), five), (1 + 10 + 2, 1 + 3));
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_broke_a_handler_before_is_tried_alone() {
    let mut scene = Scene::new().await;
    let tried = log();
    let handler = batches(10, {
        let tried = tried.clone();
        move |batch| {
            tried.lock().push(batch.iter().map(|delivery| delivery.event.id.to_string()).collect::<Vec<_>>());
            async move {
                assert!(batch.iter().all(|delivery| &*delivery.event.id != "poison"));
                vec![Outcome::DONE; batch.len()]
            }
        }
    });
    scene.add(asked("deliver").workers(1), handler).await;
    scene.publish([event("poison")]).await;
    scene.until_settled("deliver", "retry", 1).await;
    scene.groups.pause(&group("deliver"), "ann", "test", None).await.unwrap();
    scene.publish((0..5).map(event)).await;
    scene.world.clock.sleep(MINUTE).await;
    scene.groups.resume(&group("deliver"), "ann").await.unwrap();
    scene.until_settled("deliver", "done", 5).await;
    scene.until_settled("deliver", "dead", 1).await;
    let mut sizes: Vec<_> = tried.lock().iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 1, 1, 5]);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_answers_rubbish_harms_its_own_batch_only() {
    let mut scene = Scene::new().await;
    let handler = batches(4, |batch| async move {
        let wrong = batch.iter().any(|delivery| &*delivery.event.id == "2");
        vec![Outcome::DONE; if wrong { batch.len() + 1 } else { batch.len() }]
    });
    scene.publish((0..12).map(event)).await;
    scene.add(asked("deliver").workers(1), handler).await;
    scene.until_settled("deliver", "done", 11).await;
    scene.until_settled("deliver", "dead", 1).await;
    let dead = scene.dead().await.remove(0);
    assert_eq!((&*dead.event.id, &*dead.message), ("2", "handler answered 2 outcomes for 1 deliveries"));
    assert_eq!(dead.class, FaultClass::Poison);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_harms_its_own_delivery_only() {
    let mut scene = Scene::new().await;
    let handler = each(|delivery| async move {
        if &*delivery.event.id == "hang" {
            std::future::pending::<()>().await;
        }
        Outcome::DONE
    });
    scene.add(asked("deliver").workers(2), handler).await;
    scene.publish([event("hang")].into_iter().chain((0..50).map(event))).await;
    let before = scene.world.clock.now();
    scene.until_settled("deliver", "done", 50).await;
    assert!(scene.world.clock.now().since(before) < SECOND);
    scene.until_settled("deliver", "dead", 1).await;
    let dead = scene.dead().await.remove(0);
    assert_eq!((dead.class, &*dead.message), (FaultClass::Timeout, "handler took longer than 60s"));
    assert_eq!(dead.attempts.len(), 4);
    assert!(dead.attempts.iter().all(|attempt| attempt.took == MINUTE));
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_when_it_is_dropped_is_a_crash_like_any_other() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "boom");
        }
    }
    let mut scene = Scene::new().await;
    let handler = each(|delivery| async move {
        if &*delivery.event.id == "bomb" {
            let _bomb = Bomb;
            std::future::pending::<()>().await;
        }
        Outcome::DONE
    });
    scene.add(asked("deliver").workers(1), handler).await;
    scene.publish([event("bomb"), event("good")]).await;
    scene.until_settled("deliver", "done", 1).await;
    scene.until_settled("deliver", "dead", 1).await;
    assert_eq!(scene.dead().await[0].class, FaultClass::Poison);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_target_does_not_slow_another_group() {
    let mut scene = Scene::new().await;
    let slow = scene.guard("slow", GuardPolicy { timeout: 30 * SECOND, ..GuardPolicy::default() });
    scene.add(asked("slow"), calling(&slow, |_| std::future::pending())).await;
    scene.add(asked("quick"), each(|_| async { Outcome::DONE })).await;
    let before = scene.world.clock.now();
    for round in 0..20_u64 {
        scene.publish((0..50).map(|n| event(format!("{round}-{n}")))).await;
        scene.until_settled("quick", "done", 50 * (round + 1)).await;
    }
    assert!(scene.world.clock.now().since(before) < SECOND);
    assert_eq!(scene.status("slow").await.done, 0);
    scene.until("the slow target's breaker opens", |seen| count(seen, "breaker.opened") == 1).await;
    assert!(matches!(slow.gate(), Gate::ClosedUntil(_)));
    scene.abort().await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_is_booked_out_lends_nothing_in_vain() {
    let mut scene = Scene::new().await;
    let rate = tidegate_core::guard::Rate { count: 1, per: MINUTE };
    let guard = scene.guard("partner", GuardPolicy { rate: Some(rate), ..GuardPolicy::default() });
    scene.add(asked("deliver").workers(8), calling(&guard, |_| async { Ok(()) })).await;
    scene.publish((0..1000).map(event)).await;
    let before = scene.world.clock.now();
    scene.until_settled("deliver", "done", 10).await;
    assert!(scene.world.clock.now().since(before) >= 9 * MINUTE);
    let claimed: u64 =
        scene.seen.iter().map(|notice| if let Notice::Claimed { count, .. } = notice { *count } else { 0 }).sum();
    // Each time the gate opens, every worker asks once and all but one are sent away to wait.
    assert!(claimed <= 10 * 8, "{claimed} claimed for ten calls");
    assert_eq!(scene.status("deliver").await.dead, 0);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn when_the_effect_is_unknown_the_same_is_tried_again_without_spending() {
    let mut scene = Scene::new().await;
    let seen: Log<(Timestamp, u32)> = log();
    let handler = each({
        let (seen, clock) = (seen.clone(), scene.world.clock.clone());
        move |delivery| {
            seen.lock().push((clock.now(), delivery.attempt));
            let answer = if seen.lock().len() < 8 { fail(FaultClass::Ambiguous) } else { Outcome::DONE };
            async { answer }
        }
    });
    scene.add(asked("deliver"), handler).await;
    scene.publish([event("a")]).await;
    scene.until_settled("deliver", "done", 1).await;
    let seen = seen.lock().clone();
    assert!(seen.iter().all(|(_, attempt)| *attempt == 1));
    assert!(seen.windows(2).all(|pair| pair[1].0.since(pair[0].0) >= Duration::from_millis(800)), "{seen:?}");
    scene.finish().await;
}

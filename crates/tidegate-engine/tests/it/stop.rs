//! Stopping in two phases, leases, and a store that does not answer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use tidegate_core::{
    delivery::Outcome,
    fault::{Fault, Origin},
    notice::Notice,
};
use tidegate_engine::GroupState;
use tokio::sync::Notify;

use crate::{faulty::Faulty, scene::*};

#[tokio::test(start_paused = true)]
async fn draining_finishes_what_is_held_and_claims_nothing_more() {
    let mut scene = Scene::new().await;
    let (clock, open) = (scene.world.clock.clone(), Arc::new(Notify::new()));
    let handler = each({
        let open = open.clone();
        move |_| {
            let (clock, open) = (clock.clone(), open.clone());
            async move {
                open.notified().await;
                clock.sleep(10 * SECOND).await;
                Outcome::DONE
            }
        }
    });
    scene.add(asked("deliver").workers(3), handler).await;
    scene.publish((0..20).map(event)).await;
    scene.until("three run", |seen| count(seen, "attempt.started") == 3).await;
    scene.stopper.drain();
    assert_eq!(scene.groups.view(&group("deliver")).await.unwrap().glance.state, GroupState::Draining);
    let running = scene.groups.running();
    assert_eq!(running.len(), 3);
    assert!(running.iter().all(|one| one.group == group("deliver") && one.attempt == 1));
    assert!(tokio::time::timeout(20 * SECOND, scene.groups.drained()).await.is_err(), "three still run");
    for _ in 0..3 {
        open.notify_one();
    }
    scene.groups.drained().await;
    scene.until_settled("deliver", "done", 3).await;
    assert!(scene.groups.running().is_empty());
    let status = scene.status("deliver").await;
    assert_eq!((status.done, status.in_flight, status.waiting), (3, 0, 17));
    assert_eq!(count(scene.look(), "attempt.started"), 3);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_aborted_attempt_is_not_spent_and_comes_back() {
    let mut scene = Scene::new().await;
    let handler = each(|_| async { std::future::pending().await });
    scene.add(asked("deliver"), handler).await;
    scene.publish((0..6).map(event)).await;
    scene.until("four run", |seen| count(seen, "attempt.started") == 4).await;
    scene.stopper.drain();
    scene.stopper.abort();
    scene.until_settled("deliver", "release", 4).await;
    assert_eq!(count(&scene.seen, "attempt.interrupted"), 4);
    let status = scene.status("deliver").await;
    assert_eq!((status.waiting, status.in_flight, status.dead), (6, 0, 0));
    let mut scene = scene.abort().await.restart().await;
    let attempts = log();
    let handler = each({
        let attempts = attempts.clone();
        move |delivery| {
            attempts.lock().push((delivery.attempt, delivery.crashes));
            async { Outcome::DONE }
        }
    });
    scene.add(asked("deliver"), handler).await;
    scene.until_settled("deliver", "done", 6).await;
    assert_eq!(*attempts.lock(), [(1, 0); 6]);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_interrupted_whole_even_while_it_is_tried_one_by_one() {
    let mut scene = Scene::new().await;
    let handler = batches(4, |batch| async move {
        assert!(batch.len() == 1, "together they break it");
        std::future::pending().await
    });
    scene.publish((0..4).map(event)).await;
    scene.add(asked("deliver").workers(1), handler).await;
    scene.until("it runs", |seen| count(seen, "attempt.started") == 4).await;
    scene.world.clock.sleep(SECOND).await;
    let scene = scene.abort().await.restart().await;
    assert_eq!(scene.status("deliver").await.waiting, 4);
    scene.abort().await;
}

#[tokio::test(start_paused = true)]
async fn leases_of_long_work_are_renewed() {
    let mut scene = Scene::new().await;
    let (clock, tries) = (scene.world.clock.clone(), Arc::new(AtomicU32::new(0)));
    let handler = each({
        let tries = tries.clone();
        move |_| {
            tries.fetch_add(1, Ordering::SeqCst);
            let clock = clock.clone();
            async move {
                clock.sleep(10 * MINUTE).await;
                Outcome::DONE
            }
        }
    });
    let mut wanted = asked("deliver");
    wanted.policy.timeout = 60 * MINUTE;
    scene.add(wanted, handler).await;
    scene.publish((0..2).map(event)).await;
    scene.until_settled("deliver", "done", 2).await;
    assert_eq!(tries.load(Ordering::SeqCst), 2, "a lease of 30 s did not run out in 10 min");
    assert_eq!(count(&scene.seen, "lease.lost"), 0);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_while_draining_too() {
    let faulty = Faulty::default();
    let mut scene = Scene::with(|store| faulty.wrap(store)).await;
    let clock = scene.world.clock.clone();
    let handler = each(move |_| {
        let clock = clock.clone();
        async move {
            clock.sleep(5 * MINUTE).await;
            Outcome::DONE
        }
    });
    let mut wanted = asked("deliver");
    wanted.policy.timeout = 60 * MINUTE;
    scene.add(wanted, handler).await;
    scene.publish([event("a")]).await;
    scene.until("it runs", |seen| count(seen, "attempt.started") == 1).await;
    scene.stopper.drain();
    let before = faulty.extends();
    scene.groups.drained().await;
    assert!(faulty.extends() - before >= 10, "five minutes are ten leases");
    scene.until_settled("deliver", "done", 1).await;
    assert_eq!(count(&scene.seen, "lease.lost"), 0);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_settlement_after_the_lease_is_refused_and_counted() {
    let deaf = Arc::new(AtomicBool::new(true));
    let faulty = Faulty::default();
    let mut scene = Scene::with(|store| faulty.wrap(store)).await;
    // Renewals fail: the lease runs out while the handler works.
    faulty.fail_extend(true);
    let (clock, tries) = (scene.world.clock.clone(), Arc::new(AtomicU32::new(0)));
    let handler = each({
        let (tries, deaf) = (tries.clone(), deaf.clone());
        move |_| {
            let first = tries.fetch_add(1, Ordering::SeqCst) == 0;
            let (clock, deaf) = (clock.clone(), deaf.clone());
            async move {
                if first && deaf.load(Ordering::SeqCst) {
                    clock.sleep(50 * SECOND).await;
                }
                Outcome::DONE
            }
        }
    });
    scene.add(asked("deliver").workers(2), handler).await;
    scene.publish([event("a")]).await;
    scene.until("the lease ran out and the late settle was refused", |seen| count(seen, "lease.lost") == 2).await;
    scene.until_settled("deliver", "done", 1).await;
    let status = scene.status("deliver").await;
    assert_eq!((status.done, tries.load(Ordering::SeqCst)), (1, 2));
    assert_eq!(settled(&scene.seen, "deliver", "done"), 1, "the late one is not counted as done");
    assert!(status.leases_lost >= 1);
    faulty.fail_extend(false);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_lost_its_lease_too_often_is_buried_before_it_is_tried() {
    let faulty = Faulty::default();
    let mut scene = Scene::with(|store| faulty.wrap(store)).await;
    faulty.fail_extend(true);
    let mut wanted = asked("deliver").workers(8);
    wanted.policy.timeout = 60 * MINUTE;
    wanted.policy.retry.attempts = 100;
    scene.add(wanted, each(|_| async { std::future::pending().await })).await;
    scene.publish([event("a")]).await;
    scene.until_settled("deliver", "dead", 1).await;
    assert_eq!(count(&scene.seen, "attempt.started"), 3);
    assert_eq!(&*scene.dead().await[0].message, "handler died on it 3 times");
    scene.abort().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_costs_nothing() {
    let faulty = Faulty::default();
    let mut scene = Scene::with(|store| faulty.wrap(store)).await;
    let handled = Arc::new(AtomicU32::new(0));
    let handler = each({
        let handled = handled.clone();
        move |_| {
            handled.fetch_add(1, Ordering::SeqCst);
            async { Outcome::DONE }
        }
    });
    scene.add(asked("deliver"), handler).await;
    faulty.fail_settle(Some(Fault::unavailable(Origin::Store, "disk is away")));
    scene.publish((0..1000).map(event)).await;
    scene.world.clock.sleep(20 * SECOND).await;
    let before = handled.load(Ordering::SeqCst);
    assert!(before <= 64 + 4, "{before} effects that could not be settled");
    assert_eq!(scene.status("deliver").await.done, 0);
    faulty.fail_settle(None);
    scene.until_settled("deliver", "done", 1000).await;
    assert_eq!(handled.load(Ordering::SeqCst), 1000, "nothing was done twice");
    faulty.fail_claim(true);
    scene.publish([event("late")]).await;
    scene.until("the claim loop was started again", |seen| count(seen, "service.restarted") >= 3).await;
    faulty.fail_claim(false);
    scene.until_settled("deliver", "done", 1001).await;
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_settles_does_not_keep_the_node_from_ending() {
    let faulty = Faulty::default();
    let mut scene = Scene::with(|store| faulty.wrap(store)).await;
    scene.add(asked("deliver"), each(|_| async { Outcome::DONE })).await;
    faulty.fail_settle(Some(Fault::unavailable(Origin::Store, "disk is away")));
    scene.publish((0..4).map(event)).await;
    scene.until("all were handled", |seen| count(seen, "attempt.done") == 4).await;
    scene.stopper.drain();
    assert!(tokio::time::timeout(MINUTE, scene.groups.drained()).await.is_err());
    scene.stopper.abort();
    scene.groups.drained().await;
    assert_eq!(scene.supervisor.join(MINUTE).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hints_at_work_in_vain_is_not_asked_without_end() {
    let faulty = Faulty::default();
    let mut scene = Scene::with(|store| faulty.wrap(store)).await;
    scene.add(asked("deliver"), each(|_| async { Outcome::DONE })).await;
    scene.add_pull(asked("pull")).await;
    faulty.hasty(true);
    scene.publish([event("a")]).await;
    scene.until_settled("deliver", "done", 1).await;
    let before = faulty.claims();
    scene.world.clock.sleep(10 * SECOND).await;
    let claims = faulty.claims() - before;
    assert!(claims <= 120, "{claims} claims in ten seconds, ten a second are allowed");
    let lent = scene.groups.claim(&group("pull"), "tester", 1, SECOND).await.unwrap();
    scene.groups.settle(&group("pull"), vec![(lent[0].lease.token, Outcome::DONE)]).await.unwrap();
    let before = faulty.claims();
    assert!(scene.groups.claim(&group("pull"), "tester", 1, 10 * SECOND).await.unwrap().is_empty());
    assert!(faulty.claims() - before <= 240, "both groups ask");
    faulty.hasty(false);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_broken_from_inside_gives_its_batch_back() {
    let mut scene = Scene::new().await;
    let broken = AtomicBool::new(false);
    // Only a fault of the engine itself can end a worker; a listener that panics comes closest.
    scene.notices.listen(Arc::new(move |notice: &Notice| {
        let strikes = matches!(notice, Notice::AttemptStarted { event, .. } if &**event == "1");
        assert!(!strikes || broken.swap(true, Ordering::SeqCst), "listener breaks");
    }));
    let handler = batches(3, |batch| async move { vec![Outcome::DONE; batch.len()] });
    scene.publish((0..3).map(event)).await;
    scene.add(asked("deliver").workers(1), handler).await;
    scene.until_settled("deliver", "release", 3).await;
    scene.until_settled("deliver", "done", 3).await;
    assert_eq!(count(&scene.seen, "service.restarted"), 1);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn loops_show_signs_of_life_while_idle_busy_and_paused() {
    let mut scene = Scene::new().await;
    let hang = each(|_| async { std::future::pending().await });
    scene.add(asked("busy").workers(1), hang.clone()).await;
    scene.add(asked("paused"), hang.clone()).await;
    scene.declare("quiet").await;
    let mut idle = asked("idle");
    (idle.spec.stream, idle.policy.stream) = (stream("quiet"), stream("quiet"));
    scene.add(idle, hang).await;
    scene.groups.pause(&group("paused"), "ann", "test", None).await.unwrap();
    scene.publish((0..3).map(event)).await;
    scene.until("one is busy", |seen| count(seen, "attempt.started") >= 1).await;
    for _ in 0..10 {
        scene.world.clock.sleep(7 * SECOND).await;
        let now = scene.world.clock.now();
        let progress = scene.supervisor.progress();
        assert_eq!(progress.len(), 3);
        for one in progress {
            assert!(now.since(one.at) <= 5 * SECOND && one.every == MINUTE, "{one:?} at {now}");
        }
    }
    scene.abort().await;
}

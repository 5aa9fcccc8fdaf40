//! Groups whose workers are outside.

use std::time::Duration;

use tidegate_core::{
    delivery::{LeaseToken, Outcome},
    fault::{Failure, FaultClass, FaultKind},
    notice::Notice,
};
use tidegate_engine::PullStatus;

use crate::scene::*;

async fn claim(scene: &Scene, max: usize) -> Vec<tidegate_core::delivery::Delivery> {
    scene.groups.claim(&group("pull"), "tester", max, Duration::from_millis(100)).await.unwrap()
}

async fn settle(scene: &Scene, outcomes: Vec<(LeaseToken, Outcome)>) -> Vec<PullStatus> {
    scene.groups.settle(&group("pull"), outcomes).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn workers_outside_claim_and_settle() {
    let mut scene = Scene::new().await;
    scene.add_pull(asked("pull")).await;
    scene.publish((0..10).map(event)).await;
    let lent = claim(&scene, 6).await;
    assert_eq!(lent.len(), 6, "the number of workers does not bound those outside");
    assert_eq!(scene.groups.running().len(), 6);
    let told = Failure::new(FaultClass::Transient, "later").after(100 * SECOND);
    let outcomes = [
        Outcome::DONE,
        Outcome::DONE,
        Outcome::Failed(told),
        Outcome::Reject(Failure::new(FaultClass::Invalid, "no such customer")),
        Outcome::Interrupted,
        Outcome::DONE,
    ];
    let settlements = lent.iter().map(|delivery| delivery.lease.token).zip(outcomes).collect();
    assert_eq!(settle(&scene, settlements).await, [PullStatus::Settled; 6]);
    let status = scene.status("pull").await;
    assert_eq!((status.done, status.scheduled, status.dead, status.waiting), (3, 1, 1, 5));
    assert!(scene.groups.running().is_empty());
    let ended = scene
        .look()
        .iter()
        .filter(|notice| notice.name().starts_with("attempt.") && notice.name() != "attempt.started");
    assert_eq!(ended.count(), 6);
    assert_eq!(scene.dead().await[0].attempts[0].message, "no such customer");
    scene.world.clock.sleep(101 * SECOND).await;
    let again = claim(&scene, 100).await;
    let retried = again.iter().find(|delivery| delivery.attempt == 2).unwrap();
    assert_eq!(retried.history[0].message, "later");
    let settlements = again.iter().map(|delivery| (delivery.lease.token, Outcome::DONE)).collect();
    settle(&scene, settlements).await;
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_waits_for_work_and_no_longer_than_asked() {
    let scene = Scene::new().await;
    scene.add_pull(asked("pull")).await;
    let start = scene.world.clock.now();
    let (lent, ()) =
        tokio::join!(async { scene.groups.claim(&group("pull"), "tester", 10, 20 * SECOND).await.unwrap() }, async {
            scene.world.clock.sleep(5 * SECOND).await;
            scene.publish([event("a")]).await;
        });
    assert_eq!(lent.len(), 1);
    let waited = scene.world.clock.now().since(start);
    assert!(waited >= 5 * SECOND && waited < 6 * SECOND, "{waited:?}");
    settle(&scene, vec![(lent[0].lease.token, Outcome::DONE)]).await;
    let start = scene.world.clock.now();
    assert!(scene.groups.claim(&group("pull"), "tester", 10, 20 * SECOND).await.unwrap().is_empty());
    let waited = scene.world.clock.now().since(start);
    assert!(waited >= 20 * SECOND && waited < 21 * SECOND, "{waited:?}");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_group_lends_nothing_until_it_goes_on() {
    let mut scene = Scene::new().await;
    let name = group("pull");
    scene.add_pull(asked("pull")).await;
    scene.publish([event("a")]).await;
    let until = scene.world.clock.now().plus(10 * SECOND);
    scene.groups.pause(&name, "ann", "test", Some(until)).await.unwrap();
    assert!(scene.groups.claim(&name, "tester", 1, 5 * SECOND).await.unwrap().is_empty());
    let lent = scene.groups.claim(&name, "tester", 1, 20 * SECOND).await.unwrap();
    assert_eq!(lent.len(), 1);
    let waited = scene.world.clock.now().since(until);
    assert!(waited < SECOND, "{waited:?}");
    assert_eq!(count(scene.look(), "group.resumed"), 1);
    settle(&scene, vec![(lent[0].lease.token, Outcome::DONE)]).await;
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn late_repeated_and_strange_tokens_are_told_apart() {
    let mut scene = Scene::new().await;
    scene.add_pull(asked("pull")).await;
    scene.publish([event("a"), event("b")]).await;
    let lent = claim(&scene, 2).await;
    let [a, b] = [lent[0].lease.token, lent[1].lease.token];
    assert_eq!(settle(&scene, vec![(b, Outcome::DONE)]).await, [PullStatus::Settled]);
    assert_eq!(settle(&scene, vec![(b, Outcome::DONE)]).await, [PullStatus::LeaseLost], "settled before");
    scene.world.clock.sleep(31 * SECOND).await;
    let again = claim(&scene, 2).await;
    assert_eq!((again.len(), again[0].crashes), (1, 1), "a lease that runs out is a crash of its worker");
    let strange = LeaseToken { group: a.group + 1, ..a };
    let answers =
        settle(&scene, vec![(a, Outcome::DONE), (strange, Outcome::DONE), (again[0].lease.token, Outcome::DONE)]).await;
    assert_eq!(answers, [PullStatus::LeaseLost, PullStatus::Unknown, PullStatus::Settled]);
    let lost: u64 =
        scene.look().iter().map(|notice| if let Notice::LeaseLost { count, .. } = notice { *count } else { 0 }).sum();
    assert_eq!(lost, 3, "one ran out, one was settled twice, one was late");
    assert_eq!(scene.status("pull").await.done, 2);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_extended_lease_lives_longer() {
    let scene = Scene::new().await;
    scene.add_pull(asked("pull")).await;
    scene.publish([event("a")]).await;
    let token = claim(&scene, 1).await[0].lease.token;
    for _ in 0..10 {
        scene.world.clock.sleep(20 * SECOND).await;
        assert_eq!(scene.groups.extend(&group("pull"), &[token], 30 * SECOND).await.unwrap(), [true]);
        assert!(claim(&scene, 1).await.is_empty());
        assert_eq!(scene.groups.running().len(), 1);
    }
    assert_eq!(settle(&scene, vec![(token, Outcome::DONE)]).await, [PullStatus::Settled]);
    assert_eq!(scene.groups.extend(&group("pull"), &[token], 30 * SECOND).await.unwrap(), [false]);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_its_workers_die_on_is_quarantined() {
    let mut scene = Scene::new().await;
    scene.add_pull(asked("pull")).await;
    scene.publish([event("poison"), event("good")]).await;
    for round in 0..3 {
        let lent = claim(&scene, 10).await;
        let poison = lent.iter().find(|delivery| &*delivery.event.id == "poison").unwrap();
        assert_eq!(poison.crashes, round);
        if let Some(good) = lent.iter().find(|delivery| &*delivery.event.id == "good") {
            settle(&scene, vec![(good.lease.token, Outcome::DONE)]).await;
        }
        scene.world.clock.sleep(31 * SECOND).await;
    }
    assert!(claim(&scene, 10).await.is_empty());
    scene.until_settled("pull", "dead", 1).await;
    let dead = scene.dead().await.remove(0);
    assert_eq!((&*dead.event.id, dead.class), ("poison", FaultClass::Poison));
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_workers_outside_while_their_leases_live() {
    let scene = Scene::new().await;
    scene.add_pull(asked("pull")).await;
    scene.publish([event("a"), event("b")]).await;
    let lent = claim(&scene, 1).await;
    scene.stopper.drain();
    let refused = scene.groups.claim(&group("pull"), "tester", 1, SECOND).await.unwrap_err();
    assert_eq!(refused.kind, FaultKind::Unavailable);
    assert!(tokio::time::timeout(SECOND, scene.groups.drained()).await.is_err());
    let (answers, ()) =
        tokio::join!(settle(&scene, vec![(lent[0].lease.token, Outcome::DONE)]), scene.groups.drained());
    assert_eq!(answers, [PullStatus::Settled], "settling works while the node stops");
    scene.finish().await;

    let scene = Scene::new().await;
    scene.add_pull(asked("pull")).await;
    scene.publish([event("a")]).await;
    claim(&scene, 1).await;
    scene.stopper.drain();
    let start = scene.world.clock.now();
    scene.groups.drained().await;
    let waited = scene.world.clock.now().since(start);
    assert!(waited >= 29 * SECOND && waited <= 31 * SECOND, "no longer than the lease: {waited:?}");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn inside_and_outside_do_not_mix() {
    let scene = Scene::new().await;
    scene.add(asked("inside"), each(|_| async { Outcome::DONE })).await;
    scene.add_pull(asked("pull")).await;
    let claimed = scene.groups.claim(&group("inside"), "tester", 1, SECOND).await.unwrap_err();
    let scaled = scene.groups.scale(&group("pull"), 3, "ann").await.unwrap_err();
    assert_eq!((claimed.kind, scaled.kind), (FaultKind::Conflict, FaultKind::Conflict));
    assert!(scene.groups.view(&group("pull")).await.unwrap().glance.pull);
    scene.finish().await;
}

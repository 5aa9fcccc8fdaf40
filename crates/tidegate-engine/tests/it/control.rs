//! Operators change groups while they run, and what they want survives a restart.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tidegate_core::{
    delivery::Outcome,
    fault::FaultKind,
    guard::{Gate, GuardPolicy},
    notice::Notice,
};
use tidegate_engine::{GroupState, GuardKeepers};

use crate::scene::*;

fn done() -> Arc<dyn tidegate_core::handler::Handler> {
    each(|_| async { Outcome::DONE })
}

#[tokio::test(start_paused = true)]
async fn workers_can_be_changed_while_they_work() {
    let mut scene = Scene::new().await;
    let (clock, running, most) = (scene.world.clock.clone(), Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let handler = each({
        let (running, most) = (running.clone(), most.clone());
        move |_| {
            let (clock, running, most) = (clock.clone(), running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                clock.sleep(SECOND).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Outcome::DONE
            }
        }
    });
    scene.add(asked("deliver").workers(2), handler).await;
    scene.publish((0..100).map(event)).await;
    scene.until_settled("deliver", "done", 4).await;
    let name = group("deliver");
    let mut handled = 4;
    for (workers, rounds) in [(10, 3), (1, 5), (4, 4)] {
        scene.groups.scale(&name, workers, "ann").await.unwrap();
        // What ran before the change ends first.
        let busy = scene.groups.view(&name).await.unwrap().glance.busy as u64;
        scene.until_settled("deliver", "done", handled + busy.max(workers as u64)).await;
        handled = settled(&scene.seen, "deliver", "done");
        most.store(0, Ordering::SeqCst);
        scene.until_settled("deliver", "done", handled + rounds * workers as u64).await;
        handled = settled(&scene.seen, "deliver", "done");
        assert_eq!(most.load(Ordering::SeqCst), workers as i64);
        assert_eq!(scene.groups.view(&name).await.unwrap().glance.workers, workers);
    }
    assert_eq!(count(&scene.seen, "group.scaled"), 3);
    for wrong in [0, tidegate_core::limits::WORKERS_MAX + 1] {
        assert_eq!(scene.groups.scale(&name, wrong, "ann").await.unwrap_err().kind, FaultKind::Invalid);
    }
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_group_claims_nothing_and_loses_nothing() {
    let mut scene = Scene::new().await;
    let name = group("deliver");
    scene.add(asked("deliver"), done()).await;
    scene.groups.pause(&name, "ann", "they deploy", None).await.unwrap();
    scene.publish((0..10).map(event)).await;
    scene.world.clock.sleep(60 * MINUTE).await;
    let view = scene.groups.view(&name).await.unwrap();
    assert_eq!((view.glance.state, view.status.waiting, view.status.in_flight), (GroupState::Paused, 10, 0));
    let pause = view.glance.paused.unwrap();
    assert_eq!((pause.by.as_str(), pause.reason.as_str(), pause.until), ("ann", "they deploy", None));
    scene.groups.resume(&name, "bob").await.unwrap();
    scene.groups.resume(&name, "bob").await.unwrap();
    scene.until_settled("deliver", "done", 10).await;
    assert_eq!(scene.groups.view(&name).await.unwrap().glance.state, GroupState::Running);
    assert_eq!(count(&scene.seen, "group.resumed"), 1, "resuming what runs is nothing");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_by_itself_at_its_time() {
    let mut scene = Scene::new().await;
    let name = group("deliver");
    scene.add(asked("deliver"), done()).await;
    let until = scene.world.clock.now().plus(90 * MINUTE);
    scene.groups.pause(&name, "ann", "they deploy", Some(until)).await.unwrap();
    scene.publish([event("a")]).await;
    scene.until_settled("deliver", "done", 1).await;
    assert!(scene.world.clock.now() >= until);
    let resumed = scene.seen.iter().find(|notice| notice.name() == "group.resumed").cloned();
    assert_eq!(resumed, Some(Notice::GroupResumed { group: name.clone(), by: "tidegate".to_owned() }));
    let past = scene.groups.pause(&name, "ann", "too late", Some(until)).await.unwrap_err();
    assert_eq!(past.kind, FaultKind::Invalid);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_later_pause_outlives_the_end_of_an_earlier_one() {
    let scene = Scene::new().await;
    let name = group("deliver");
    scene.add(asked("deliver"), done()).await;
    let now = scene.world.clock.now();
    scene.groups.pause(&name, "ann", "first", Some(now.plus(MINUTE))).await.unwrap();
    scene.groups.pause(&name, "bob", "second", Some(now.plus(10 * MINUTE))).await.unwrap();
    scene.world.clock.sleep(5 * MINUTE).await;
    assert_eq!(scene.groups.view(&name).await.unwrap().glance.paused.unwrap().by, "bob");
    scene.world.clock.sleep(6 * MINUTE).await;
    assert_eq!(scene.groups.view(&name).await.unwrap().glance.paused, None);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn pause_and_workers_survive_a_restart() {
    let scene = Scene::new().await;
    let name = group("deliver");
    scene.add(asked("deliver"), done()).await;
    let until = scene.world.clock.now().plus(10 * MINUTE);
    scene.groups.pause(&name, "ann", "they deploy", Some(until)).await.unwrap();
    scene.groups.scale(&name, 9, "ann").await.unwrap();
    scene.publish([event("a")]).await;
    let mut scene = scene.finish().await.restart().await;
    scene.add(asked("deliver"), done()).await;
    let view = scene.groups.view(&name).await.unwrap();
    assert_eq!((view.glance.workers, view.glance.paused.as_ref().unwrap().reason.as_str()), (9, "they deploy"));
    scene.until_settled("deliver", "done", 1).await;
    assert!(scene.world.clock.now() >= until, "the end of the pause survives too");
    let mut scene = scene.finish().await.restart().await;
    scene.add(asked("deliver").workers(3), done()).await;
    let view = scene.groups.view(&name).await.unwrap();
    assert_eq!(view.glance.workers, 3, "a changed configuration is the newer wish");
    assert_eq!(view.glance.paused, None);
    scene.look();
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_whose_end_passed_while_the_node_was_away_is_over() {
    let scene = Scene::new().await;
    scene.add(asked("deliver"), done()).await;
    let until = scene.world.clock.now().plus(MINUTE);
    scene.groups.pause(&group("deliver"), "ann", "they deploy", Some(until)).await.unwrap();
    scene.publish([event("a")]).await;
    let world = scene.finish().await;
    world.clock.sleep(60 * MINUTE).await;
    let mut scene = world.restart().await;
    let before = scene.world.clock.now();
    scene.add(asked("deliver"), done()).await;
    scene.until_settled("deliver", "done", 1).await;
    assert!(scene.world.clock.now().since(before) < SECOND);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn groups_that_cannot_be_are_refused() {
    let scene = Scene::new().await;
    scene.add(asked("deliver"), done()).await;
    let refuse = async |asked: Asked| scene.groups.add(&asked.spec, asked.policy, Some(done())).await.unwrap_err().kind;
    assert_eq!(refuse(asked("deliver")).await, FaultKind::Conflict);
    assert_eq!(refuse(asked("other").workers(0)).await, FaultKind::Invalid);
    let mut hasty = asked("hasty");
    hasty.policy.timeout = std::time::Duration::ZERO;
    assert_eq!(refuse(hasty).await, FaultKind::Invalid);
    let mut nowhere = asked("nowhere");
    nowhere.spec.stream = stream("nowhere");
    nowhere.policy.stream = stream("nowhere");
    assert_eq!(refuse(nowhere).await, FaultKind::Missing);
    assert_eq!(scene.groups.view(&group("missing")).await.unwrap_err().kind, FaultKind::Missing);
    assert_eq!(scene.groups.names(), [group("deliver")]);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_of_a_target_survives_a_restart() {
    let scene = Scene::new().await;
    let keep = async |scene: &Scene, policy: GuardPolicy| {
        let guard = scene.guard("partner", policy);
        drop(GuardKeepers::start(std::slice::from_ref(&guard), &scene.store, &scene.supervisor).await.unwrap());
        guard
    };
    let guard = keep(&scene, GuardPolicy::default()).await;
    guard.trip("ann", "they asked for it");
    guard.limit(Some(3), None);
    let scene = scene.finish().await.restart().await;
    let guard = keep(&scene, GuardPolicy::default()).await;
    assert_eq!((guard.gate(), guard.view().concurrency.limit), (Gate::Disabled, 3));
    // A node that is killed had no time to say goodbye.
    scene.world.clock.sleep(SECOND).await;
    guard.reset("bob", "over");
    scene.world.clock.sleep(SECOND).await;
    let scene = scene.abort().await.restart().await;
    let guard = keep(&scene, GuardPolicy { concurrency: 5, ..GuardPolicy::default() }).await;
    assert_eq!(guard.gate(), Gate::Open);
    assert_eq!(guard.view().concurrency.limit, 5, "a changed configuration is the newer wish");
    scene.finish().await;
}

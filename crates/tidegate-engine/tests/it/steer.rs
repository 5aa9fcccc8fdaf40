//! Groups are moved, slowed down and drained by hand, while they work and over restarts.

use std::sync::Arc;

use tidegate_core::{delivery::Outcome, fault::FaultKind, guard::Rate, seek::SeekTo};
use tidegate_engine::{GroupState, SeekAsk};

use crate::scene::*;

fn asking(again: bool) -> SeekAsk {
    SeekAsk { again, wait: 10 * SECOND, by: "ann".to_owned(), ..SeekAsk::default() }
}

/// Writes down what it handles, and takes a second for it.
fn slow(scene: &Scene, seen: &Log<String>) -> Arc<dyn tidegate_core::handler::Handler> {
    let (clock, seen) = (scene.world.clock.clone(), seen.clone());
    each(move |delivery| {
        let (clock, seen) = (clock.clone(), seen.clone());
        async move {
            clock.sleep(SECOND).await;
            seen.lock().push(delivery.event.id.to_string());
            Outcome::DONE
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_working_group_is_moved_and_the_ledger_stops_what_was_done() {
    let mut scene = Scene::new().await;
    let seen = log();
    let mut asked = asked("deliver");
    asked.spec.ledger = Some(DAY_OF_LEDGER);
    scene.add(asked, slow(&scene, &seen)).await;
    scene.publish((0..20).map(event)).await;
    scene.until_settled("deliver", "done", 6).await;
    let name = group("deliver");
    let to = scene.groups.locate(&name, &SeekTo::Earliest).await.unwrap();
    let latest = scene.groups.locate(&name, &SeekTo::Latest).await.unwrap();
    let rehearsal = scene.groups.rehearse(&name, to..latest, false, 1000).await.unwrap();
    assert_eq!((rehearsal.total(), rehearsal.next), (20, None));
    assert!(rehearsal.skipped >= 6, "{rehearsal:?}");
    scene.groups.seek(&name, to, &asking(false)).await.unwrap();
    scene.until("everything is done", |seen| settled(seen, "deliver", "done") >= 20).await;
    let mut ids = seen.lock().clone();
    ids.sort_by_key(|id| id.parse::<u32>().unwrap());
    assert_eq!(ids, (0..20).map(|id| id.to_string()).collect::<Vec<_>>(), "each ran once");

    let event = scene.groups.locate(&name, &SeekTo::Event("15".into())).await.unwrap();
    scene.groups.seek(&name, event, &asking(true)).await.unwrap();
    scene.until("the last five ran again", |seen| settled(seen, "deliver", "done") >= 25).await;
    assert_eq!(count(&scene.seen, "group.sought"), 2);
    let missing = scene.groups.locate(&name, &SeekTo::Event("nobody".into())).await.unwrap_err();
    assert_eq!(missing.kind, FaultKind::Missing);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_work_does_not_end_stays_where_it_is() {
    let mut scene = Scene::new().await;
    scene.add_pull(asked("pulled")).await;
    scene.publish((0..3).map(event)).await;
    let name = group("pulled");
    let held = scene.groups.claim(&name, "w", 1, SECOND).await.unwrap();
    let to = scene.groups.locate(&name, &SeekTo::Latest).await.unwrap();
    let fault = scene.groups.seek(&name, to, &asking(false)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Conflict, "{fault:?}");
    let more = scene.groups.claim(&name, "w", 1, SECOND).await.unwrap();
    assert_eq!(more.len(), 1, "it claims again");
    let outcomes = held.iter().chain(&more).map(|one| (one.lease.token, Outcome::DONE)).collect();
    scene.groups.settle(&name, outcomes).await.unwrap();
    scene.groups.seek(&name, to, &asking(false)).await.unwrap();
    assert_eq!(scene.groups.claim(&name, "w", 1, SECOND).await.unwrap().len(), 0);
    scene.look();
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_pace_holds_until_the_group_has_caught_up() {
    let mut scene = Scene::new().await;
    scene.add(asked("deliver"), each(|_| async { Outcome::DONE })).await;
    scene.publish((0..30).map(event)).await;
    scene.until_settled("deliver", "done", 30).await;
    let (name, began) = (group("deliver"), scene.world.clock.now());
    let ask = SeekAsk { rate: Some(Rate { count: 2, per: SECOND }), ..asking(false) };
    let to = scene.groups.locate(&name, &SeekTo::Back(20)).await.unwrap();
    scene.groups.seek(&name, to, &ask).await.unwrap();
    assert!(scene.groups.view(&name).await.unwrap().glance.pace.is_some());
    scene.until_settled("deliver", "done", 50).await;
    let took = scene.world.clock.now().since(began);
    assert!((9 * SECOND..12 * SECOND).contains(&took), "{took:?}");
    scene.publish((100..140).map(event)).await;
    scene.until_settled("deliver", "done", 90).await;
    assert!(scene.groups.view(&name).await.unwrap().glance.pace.is_none());
    assert!(scene.world.clock.now().since(began) < took + 5 * SECOND, "what is new is not slowed down");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_was_there_and_pauses() {
    let mut scene = Scene::new().await;
    let seen = log();
    scene.add(asked("deliver"), slow(&scene, &seen)).await;
    scene.publish((0..10).map(event)).await;
    let (name, until) = (group("deliver"), scene.world.clock.now().plus(MINUTE));
    scene.groups.drain(&name, "ann", "maintenance", until).await.unwrap();
    assert_eq!(scene.groups.view(&name).await.unwrap().glance.state, GroupState::Draining);
    scene.publish((10..15).map(event)).await;
    scene.until("it is drained", |seen| count(seen, "group.drained") == 1).await;
    let view = scene.groups.view(&name).await.unwrap();
    assert_eq!((view.glance.state, view.status.waiting, view.status.done), (GroupState::Paused, 5, 10));
    assert_eq!(view.glance.paused.unwrap().reason, "drained: maintenance");
    assert_eq!(scene.groups.drain(&name, "ann", "", until).await.unwrap_err().kind, FaultKind::Conflict);
    scene.groups.resume(&name, "ann").await.unwrap();
    scene.until_settled("deliver", "done", 15).await;
    scene.finish().await;
}

/// What waits for events that do not come is not waited for until the deadline.
#[tokio::test(start_paused = true)]
async fn a_drain_ends_when_only_what_waits_for_others_is_left() {
    let mut scene = Scene::new().await;
    let seen = log();
    let mut waiting = asked("deliver");
    waiting.spec.ledger = Some(DAY_OF_LEDGER);
    scene.add(waiting, slow(&scene, &seen)).await;
    scene.publish((0..5).map(event)).await;
    scene.publish([event("b").with_extension("after", "4"), event("c").with_extension("after", "never")]).await;
    let (name, until) = (group("deliver"), scene.world.clock.now().plus(60 * MINUTE));
    scene.groups.drain(&name, "ann", "", until).await.unwrap();
    scene.until("it is drained", |seen| count(seen, "group.drained") == 1).await;
    assert!(scene.world.clock.now().plus(MINUTE) < until, "not at the deadline");
    let view = scene.groups.view(&name).await.unwrap();
    assert_eq!((view.glance.state, view.status.blocked, view.status.done), (GroupState::Paused, 1, 6));
    assert_eq!(view.glance.paused.unwrap().reason, "drained but for 1 that wait for other events");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_has_an_end_and_survives_a_restart() {
    let mut scene = Scene::new().await;
    let seen = log();
    scene.add(asked("deliver").workers(1), slow(&scene, &seen)).await;
    scene.publish((0..30).map(event)).await;
    let (name, until) = (group("deliver"), scene.world.clock.now().plus(10 * SECOND));
    scene.groups.drain(&name, "ann", "", until).await.unwrap();
    scene.until_settled("deliver", "done", 2).await;
    let mut scene = scene.finish().await.restart().await;
    scene.add(asked("deliver").workers(1), slow(&scene, &seen)).await;
    assert_eq!(scene.groups.view(&name).await.unwrap().glance.state, GroupState::Draining);
    scene.until("it is drained", |seen| count(seen, "group.drained") == 1).await;
    let view = scene.groups.view(&name).await.unwrap();
    assert_eq!(view.glance.state, GroupState::Paused);
    assert!(view.glance.paused.unwrap().reason.starts_with("drained until its deadline"));
    assert!(view.status.waiting > 10);
    scene.finish().await;
}

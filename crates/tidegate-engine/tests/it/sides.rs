//! Side groups: a range is handled once more beside the groups, over restarts, and nothing is left behind.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tidegate_core::{
    delivery::Outcome,
    fault::{FaultClass, FaultKind},
    guard::Rate,
    handler::Handler,
    notice::Notice,
    seek::SeekTo,
    store::{DeadAction, DeadStep},
};
use tidegate_engine::{SideAsk, SideView};

use crate::scene::*;

const SIDE: &str = "again";

/// A handler that writes down who was lent what; an event whose id is in `broken` fails for good in the side group.
fn noting(seen: &Log<String>, broken: &Arc<Mutex<Vec<&'static str>>>) -> Arc<dyn Handler> {
    let (seen, broken) = (seen.clone(), broken.clone());
    each(move |delivery| {
        let (seen, broken) = (seen.clone(), broken.clone());
        async move {
            seen.lock().push(delivery.event.id.to_string());
            let times = seen.lock().iter().filter(|id| **id == *delivery.event.id).count();
            if times > 1 && broken.lock().contains(&&*delivery.event.id) {
                return fail(FaultClass::Invalid);
            }
            Outcome::DONE
        }
    })
}

/// A node whose group has done the events 0 to 9.
async fn done_once(seen: &Log<String>, broken: &Arc<Mutex<Vec<&'static str>>>) -> Scene {
    let mut scene = Scene::new().await;
    let mut deliver = asked("deliver");
    deliver.spec.ledger = Some(DAY_OF_LEDGER);
    scene.add(deliver, noting(seen, broken)).await;
    scene.sides.restore(BTreeMap::new()).await.unwrap();
    scene.publish((0..10).map(event)).await;
    scene.until_settled("deliver", "done", 10).await;
    seen.lock().clear();
    scene
}

async fn asking(scene: &Scene, from: &str, to: &str) -> SideAsk {
    let (of, to) = (group("deliver"), to.parse().unwrap());
    let range = scene.sides.range(&of, &from.parse().unwrap(), Some(&to)).await.unwrap();
    SideAsk {
        of: of.clone(),
        with: of,
        from: range.start,
        before: range.end,
        rate: None,
        keep: false,
        by: "ann".to_owned(),
        reason: "drill".to_owned(),
    }
}

fn sorted(seen: &Log<String>) -> Vec<String> {
    let mut seen = seen.lock().clone();
    seen.sort();
    seen
}

async fn until_gone(scene: &mut Scene) {
    scene.until("the side group is gone", |seen| count(seen, "group.removed") == 1).await;
    let missing = scene.store.group(&group(SIDE)).await.unwrap_err();
    assert_eq!(missing.kind, FaultKind::Missing);
    assert_eq!(scene.groups.names(), [group("deliver")]);
    assert_eq!(scene.sides.list().len(), 0);
    for prefix in ["side/", "group/again/"] {
        assert_eq!(scene.store.states(prefix).await.unwrap(), [], "nothing is left under {prefix}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_is_handled_once_more_and_the_group_goes() {
    let (seen, broken) = (log(), Arc::default());
    let mut scene = done_once(&seen, &broken).await;
    let before = scene.status("deliver").await;
    let ask = asking(&scene, "id:3", "id:6").await;
    scene.sides.begin(&group(SIDE), ask).await.unwrap();
    until_gone(&mut scene).await;
    assert_eq!(sorted(&seen), ["3", "4", "5", "6"], "the named end belongs to it");
    assert_eq!(scene.status("deliver").await, before, "the other group never noticed");
    let told = scene.seen.iter().find(|notice| notice.name() == "group.replay_ended").unwrap();
    assert!(matches!(told, Notice::ReplayEnded { done: 4, dead: 0, dropped: 0, .. }), "{told:?}");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_where_it_was() {
    let (seen, broken): (Log<String>, _) = (log(), Arc::default());
    let mut scene = done_once(&seen, &broken).await;
    let ask = SideAsk { rate: Some(Rate { count: 1, per: SECOND }), ..asking(&scene, "earliest", "latest").await };
    scene.sides.begin(&group(SIDE), ask.clone()).await.unwrap();
    scene.until_settled(SIDE, "done", 3).await;
    scene.groups.pause(&group(SIDE), "ann", "wait", None).await.unwrap();
    let add = async |scene: &Scene| {
        let mut deliver = asked("deliver");
        deliver.spec.ledger = Some(DAY_OF_LEDGER);
        scene.add(deliver, noting(&seen, &broken)).await;
        scene.sides.restore(BTreeMap::new()).await.unwrap();
    };
    let scene = scene.abort().await.restart().await;
    add(&scene).await;
    let view: SideView = scene.sides.get(&group(SIDE)).unwrap();
    assert_eq!((view.ask, view.ended_at, view.runs), (ask, None, true));
    assert!(scene.groups.view(&group(SIDE)).await.unwrap().glance.paused.is_some(), "it is still paused");
    let mut scene = scene.finish().await.restart().await;
    add(&scene).await;
    let began = scene.world.clock.now();
    scene.groups.resume(&group(SIDE), "ann").await.unwrap();
    until_gone(&mut scene).await;
    assert!(scene.world.clock.now().since(began) > 5 * SECOND, "it still has its pace");
    assert_eq!(sorted(&seen).len(), 10, "each ran once: {:?}", sorted(&seen));
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn it_stays_while_dead_letters_wait_for_somebody() {
    let (seen, broken) = (log(), Arc::default());
    let mut scene = done_once(&seen, &broken).await;
    // Failing is for the second time that an event is seen.
    seen.lock().extend(["4".to_owned(), "5".to_owned()]);
    broken.lock().extend(["4", "5"]);
    let ask = asking(&scene, "id:3", "id:6").await;
    scene.sides.begin(&group(SIDE), ask).await.unwrap();
    scene.until("it is done", |seen| count(seen, "group.replay_ended") == 1).await;
    let status = scene.status(SIDE).await;
    assert_eq!((status.done, status.dead, status.parked), (2, 2, 2));
    broken.lock().clear();
    let letters: Vec<_> = scene.dead().await.into_iter().map(|letter| (letter.id, letter.group)).collect();
    assert!(letters.iter().all(|(_, of)| *of == group(SIDE)));
    let step = |ids, action| DeadStep {
        stream: stream("orders"),
        ids,
        action,
        by: "ann".into(),
        note: "".into(),
        job: "".into(),
        progress: None,
    };
    let back = step(vec![letters[0].0], DeadAction::Reprocess { force: false, edited: Vec::new() });
    scene.store.move_dead(&back).await.unwrap();
    scene.until_settled(SIDE, "done", 3).await;
    assert_eq!(scene.status(SIDE).await.parked, 1, "one still waits");
    scene.store.move_dead(&step(vec![letters[1].0], DeadAction::Resolve)).await.unwrap();
    until_gone(&mut scene).await;
    assert_eq!(count(&scene.seen, "group.replay_ended"), 1, "told once");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_stays_until_it_is_removed() {
    let (seen, broken) = (log(), Arc::default());
    let mut scene = done_once(&seen, &broken).await;
    let ask = SideAsk { keep: true, ..asking(&scene, "-2", "latest").await };
    scene.sides.begin(&group(SIDE), ask.clone()).await.unwrap();
    scene.until("it is done", |seen| count(seen, "group.replay_ended") == 1).await;
    scene.world.clock.sleep(MINUTE).await;
    let status = scene.status(SIDE).await;
    assert_eq!((status.accepted, status.done), (2, 2));
    assert!(scene.sides.get(&group(SIDE)).unwrap().ended_at.is_some());
    assert_eq!(scene.sides.begin(&group(SIDE), ask).await.unwrap_err().kind, FaultKind::Conflict);
    scene.sides.remove(&group(SIDE), "ann", "").await.unwrap();
    until_gone(&mut scene).await;
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_cancelled_finishes_what_it_holds_and_leaves_nothing() {
    let mut scene = Scene::new().await;
    let seen = log();
    let (clock, noted) = (scene.world.clock.clone(), seen.clone());
    let slow = each(move |delivery| {
        let (clock, noted) = (clock.clone(), noted.clone());
        async move {
            clock.sleep(SECOND).await;
            noted.lock().push(delivery.event.id.to_string());
            Outcome::DONE
        }
    });
    scene.add(asked("deliver").workers(1), slow).await;
    scene.sides.restore(BTreeMap::new()).await.unwrap();
    scene.publish((0..4).map(event)).await;
    scene.until_settled("deliver", "done", 4).await;
    let ask = asking(&scene, "earliest", "latest").await;
    scene.sides.begin(&group(SIDE), ask.clone()).await.unwrap();
    scene.until_settled(SIDE, "done", 1).await;
    scene.groups.pause(&group(SIDE), "ann", "", None).await.unwrap();
    scene.sides.remove(&group(SIDE), "ann", "enough").await.unwrap();
    until_gone(&mut scene).await;
    let handled = seen.lock().len();
    assert!((5..=6).contains(&handled), "what was held was finished: {handled}");
    assert_eq!(settled(scene.look(), SIDE, "done") as usize, handled - 4);
    scene.sides.begin(&group(SIDE), ask).await.unwrap();
    scene.until_settled(SIDE, "done", handled as u64).await;
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused() {
    let (seen, broken) = (log(), Arc::default());
    let mut scene = done_once(&seen, &broken).await;
    let (of, parse) = (group("deliver"), |text: &str| text.parse::<SeekTo>().unwrap());
    let empty = scene.sides.range(&of, &parse("id:6"), Some(&parse("id:3"))).await.unwrap_err();
    assert_eq!(empty.kind, FaultKind::Invalid, "{empty:?}");
    let ask = SideAsk { keep: true, ..asking(&scene, "earliest", "latest").await };
    let kind = async |name: &str, ask: SideAsk| scene.sides.begin(&group(name), ask).await.unwrap_err().kind;
    assert_eq!(kind("deliver", ask.clone()).await, FaultKind::Conflict);
    assert_eq!(kind(SIDE, SideAsk { with: group("nobody"), ..ask.clone() }).await, FaultKind::Missing);
    scene.sides.begin(&group(SIDE), ask.clone()).await.unwrap();
    assert_eq!(kind("third", SideAsk { of: group(SIDE), ..ask.clone() }).await, FaultKind::Conflict);
    assert_eq!(scene.sides.remove(&of, "ann", "").await.unwrap_err().kind, FaultKind::Missing);
    scene.until("it is done", |seen| count(seen, "group.replay_ended") == 1).await;
    let mut scene = scene.finish().await.restart().await;
    let writes = BTreeMap::from([(group("deliver"), vec![stream("orders")])]);
    scene.sides.restore(writes).await.unwrap();
    assert!(!scene.sides.get(&group(SIDE)).unwrap().runs, "the configuration no longer has its model");
    scene.sides.remove(&group(SIDE), "ann", "").await.unwrap();
    scene.add(asked("deliver"), noting(&seen, &broken)).await;
    let ring = scene.sides.begin(&group(SIDE), ask).await.unwrap_err();
    assert!(ring.note().contains("ring"), "{ring:?}");
    until_gone(&mut scene).await;
    scene.finish().await;
}

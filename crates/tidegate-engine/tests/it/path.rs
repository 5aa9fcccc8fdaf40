//! The path of a message when all is well, and what handlers may do on it.

use tidegate_core::{
    delivery::Outcome,
    event::{Data, Event},
    fault::FaultClass,
    notice::Notice,
    store::DeadState,
};

use crate::scene::*;

#[tokio::test(start_paused = true)]
async fn every_event_is_handled_once_and_settled() {
    let mut scene = Scene::new().await;
    let handled = log();
    let handler = each({
        let handled = handled.clone();
        move |delivery| {
            handled.lock().push(delivery.event.id.to_string());
            async { Outcome::DONE }
        }
    });
    scene.add(asked("deliver"), handler).await;
    scene.publish((0..500).map(event)).await;
    scene.until_settled("deliver", "done", 500).await;
    let mut handled = std::mem::take(&mut *handled.lock());
    handled.sort_by_key(|id| id.parse::<u32>().unwrap());
    assert_eq!(handled, (0..500).map(|id| id.to_string()).collect::<Vec<_>>());
    let status = scene.status("deliver").await;
    assert_eq!((status.done, status.waiting, status.in_flight), (500, 0, 0));
    assert_eq!(count(scene.look(), "attempt.started"), 500);
    assert_eq!(count(scene.look(), "attempt.done"), 500);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_told_of_one_message_is_told_in_order() {
    let mut scene = Scene::new().await;
    let clock = scene.world.clock.clone();
    let handler = each(move |_| {
        let clock = clock.clone();
        async move {
            clock.sleep(3 * SECOND).await;
            Outcome::DONE
        }
    });
    scene.add(asked("deliver"), handler).await;
    scene.publish([event("a")]).await;
    scene.until_settled("deliver", "done", 1).await;
    let story: Vec<_> = scene.seen.iter().map(Notice::name).filter(|name| !name.starts_with("store")).collect();
    // The claim may be told before the publisher is answered.
    let mut sorted = story.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["attempt.done", "attempt.started", "group.claimed", "group.settled", "message.accepted"]);
    assert_eq!(story[2..], ["attempt.started", "attempt.done", "group.settled"]);
    let took = scene.seen.iter().find_map(|notice| match notice {
        Notice::AttemptDone { took, .. } => Some(*took),
        _ => None,
    });
    assert_eq!(took, Some(3 * SECOND));
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn batches_are_no_larger_than_the_handler_takes_and_outcomes_keep_their_order() {
    let mut scene = Scene::new().await;
    let sizes = log();
    let handler = batches(16, {
        let sizes = sizes.clone();
        move |batch| {
            sizes.lock().push(batch.len());
            let outcome = |id: &str| if id.ends_with('7') { fail(FaultClass::Invalid) } else { Outcome::DONE };
            let outcomes = batch.iter().map(|delivery| outcome(&delivery.event.id)).collect();
            async { outcomes }
        }
    });
    scene.publish((0..100).map(event)).await;
    scene.add(asked("deliver"), handler).await;
    scene.until_settled("deliver", "done", 90).await;
    scene.until_settled("deliver", "dead", 10).await;
    assert!(scene.dead().await.iter().all(|dead| dead.event.id.ends_with('7')));
    let sizes = sizes.lock().clone();
    assert_eq!(sizes.iter().sum::<usize>(), 100);
    assert!(sizes.iter().all(|size| *size <= 16), "{sizes:?}");
    assert!(sizes.len() <= 8, "a backlog fills the batches: {sizes:?}");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_deliveries_are_lent_than_there_are_free_workers() {
    let mut scene = Scene::new().await;
    let clock = scene.world.clock.clone();
    let handler = each(move |_| {
        let clock = clock.clone();
        async move {
            clock.sleep(SECOND).await;
            Outcome::DONE
        }
    });
    scene.add(asked("deliver").workers(3), handler).await;
    scene.publish((0..30).map(event)).await;
    for round in 1..=9 {
        scene.until_settled("deliver", "done", 3 * round).await;
        let status = scene.status("deliver").await;
        assert!(status.in_flight <= 3, "{status:?}");
    }
    scene.until_settled("deliver", "done", 30).await;
    let started = scene.seen.iter().position(|notice| notice.name() == "attempt.started").unwrap();
    let (mut running, mut most) = (0_i32, 0);
    for notice in &scene.seen[started..] {
        running += i32::from(notice.name() == "attempt.started") - i32::from(notice.name() == "attempt.done");
        most = most.max(running);
    }
    assert_eq!(most, 3);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn outputs_are_published_with_the_settlement() {
    let mut scene = Scene::new().await;
    scene.declare("receipts").await;
    let handler = each(|delivery| async move {
        let receipt = Event::new(format!("receipt-{}", delivery.event.id), "/till", "receipt.printed");
        Outcome::Done(vec![(stream("receipts"), receipt)])
    });
    scene.add(asked("till"), handler).await;
    scene.publish([event("a"), event("b")]).await;
    scene.until_settled("till", "done", 2).await;
    let page = scene.store.read(&stream("receipts"), tidegate_core::delivery::Position::START, 10).await.unwrap();
    let mut ids: Vec<_> = page.items.iter().map(|stored| stored.event.id.to_string()).collect();
    ids.sort();
    assert_eq!(ids, ["receipt-a", "receipt-b"]);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn outputs_that_can_go_nowhere_bury_their_message_and_no_other() {
    let mut scene = Scene::new().await;
    let handler = batches(10, |batch| async move {
        let outputs = |id: &str| match id {
            "nowhere" => vec![(stream("nowhere"), event("x"))],
            "rubbish" => vec![(stream("orders"), Event::new("", "", ""))],
            _ => Vec::new(),
        };
        batch.iter().map(|delivery| Outcome::Done(outputs(&delivery.event.id))).collect()
    });
    scene.publish([event("a"), event("nowhere"), event("b"), event("rubbish")]).await;
    scene.add(asked("till"), handler).await;
    scene.until_settled("till", "done", 2).await;
    scene.until_settled("till", "dead", 2).await;
    let mut dead: Vec<_> = scene.dead().await.into_iter().map(|dead| (dead.event.id.to_string(), dead.class)).collect();
    dead.sort();
    assert_eq!(dead, [("nowhere".to_owned(), FaultClass::Invalid), ("rubbish".to_owned(), FaultClass::Poison)]);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_keeps_event_attempts_and_fingerprint() {
    let mut scene = Scene::new().await;
    scene.add(asked("deliver"), each(|_| async { fail(FaultClass::Transient) })).await;
    let sent = event("a").with_data(Data::Text("untouched".into()));
    scene.publish([sent.clone()]).await;
    scene.until_settled("deliver", "dead", 1).await;
    let dead = scene.dead().await.remove(0);
    assert_eq!((dead.event, dead.state, dead.class), (sent, DeadState::Parked, FaultClass::Transient));
    assert_eq!((&*dead.config, dead.group.as_str()), ("fingerprint", "deliver"));
    assert_eq!(dead.attempts.len(), 4);
    assert!(dead.attempts.iter().all(|attempt| attempt.message == "test failure of class transient"));
    let parked = scene.seen.iter().find(|notice| notice.name() == "dlq.message_parked").cloned();
    let Some(Notice::DeadLettered { attempts, event, .. }) = parked else { panic!("{parked:?}") };
    assert_eq!((attempts, &*event), (4, "a"));
    scene.finish().await;
}

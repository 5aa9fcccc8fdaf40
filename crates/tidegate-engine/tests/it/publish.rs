//! The way into a stream.

use tidegate_core::{delivery::Outcome, event::Event, fault::FaultKind, limits, notice::Notice, store::StreamSpec};
use tidegate_engine::{OnFull, Pause, Publisher, TaskRunner, Watermarks};

use crate::scene::*;

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_refused_whole_and_told() {
    let mut scene = Scene::new().await;
    let orders = stream("orders");
    let nameless = Event::new("", "/test", "test.happened");
    let fault = scene.publisher.publish(&orders, vec![event("a"), nameless]).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Invalid);
    assert!(fault.note().starts_with("event 1: "), "{fault}");
    let many = vec![event("a"); limits::BATCH_EVENTS_MAX + 1];
    assert_eq!(scene.publisher.publish(&orders, many).await.unwrap_err().kind, FaultKind::Limited);
    let missing = scene.publisher.publish(&stream("missing"), vec![event("a")]).await.unwrap_err();
    assert_eq!(missing.kind, FaultKind::Missing);
    assert_eq!(count(scene.look(), "message.refused"), 3);
    scene.publish([event("a"), event("b")]).await;
    let accepted = scene.look().iter().find(|notice| notice.name() == "message.accepted").cloned();
    assert_eq!(accepted, Some(Notice::Accepted { stream: orders.clone(), count: 2, duplicates: 0 }));
    let streams = scene.store.streams().await.unwrap();
    assert_eq!(streams.iter().find(|status| status.name == orders).unwrap().count, 2);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_takes_nothing_more() {
    let scene = Scene::new().await;
    scene.stopper.drain();
    let fault = scene.publisher.publish(&stream("orders"), vec![event("a")]).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unavailable);
    scene.finish().await;
}

fn bounded() -> StreamSpec {
    StreamSpec { max_backlog: Some(4), ..StreamSpec::new(stream("orders")) }
}

#[tokio::test(start_paused = true)]
async fn a_full_stream_refuses_blocks_or_sheds() {
    let mut scene = Scene::new().await;
    scene.store.declare_stream(&bounded()).await.unwrap();
    scene.add_pull(asked("pulled")).await;
    let publish = async |id: u32| scene.publisher.publish(&stream("orders"), vec![event(id)]).await;
    for id in 0..4 {
        publish(id).await.unwrap();
    }
    assert_eq!(publish(4).await.unwrap_err().kind, FaultKind::Limited);

    scene.publisher.set_on_full(stream("orders"), OnFull::Block);
    let began = scene.world.clock.now();
    assert_eq!(publish(4).await.unwrap_err().kind, FaultKind::Limited, "nobody makes room");
    assert!(scene.world.clock.now().since(began) >= 29 * SECOND);
    let held = scene.groups.claim(&group("pulled"), "w", 1, SECOND).await.unwrap();
    let settle = async {
        scene.world.clock.sleep(SECOND).await;
        scene.groups.settle(&group("pulled"), vec![(held[0].lease.token, Outcome::DONE)]).await.unwrap()
    };
    let (waited, _) = tokio::join!(publish(5), settle);
    waited.unwrap();

    scene.publisher.set_on_full(stream("orders"), OnFull::Shed);
    publish(6).await.unwrap();
    let status = scene.status("pulled").await;
    assert_eq!((status.waiting, status.done, status.dropped, status.difference()), (4, 1, 1, 0));
    scene.until("it is told", |seen| count(seen, "message.shed") == 1).await;
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_intake_refuses_but_for_those_who_cannot_wait() {
    let scene = Scene::new().await;
    let pause = |until| Pause {
        by: "ann".to_owned(),
        reason: "flood".to_owned(),
        at: scene.world.clock.now(),
        until,
        disabled: false,
    };
    scene.publisher.pause(pause(None)).await.unwrap();
    let again = Publisher::new(scene.store.clone(), scene.context());
    again.restore().await.unwrap();
    for publisher in [&scene.publisher, &again] {
        let fault = publisher.publish(&stream("orders"), vec![event(1)]).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unavailable);
        assert!(fault.note().contains("ann"), "{fault}");
        publisher.keep(&stream("orders"), vec![event(2)]).await.unwrap();
    }
    scene.publisher.resume("ann").await.unwrap();
    scene.publish([event(3)]).await;
    scene.publisher.pause(pause(Some(scene.world.clock.now().plus(SECOND)))).await.unwrap();
    scene.world.clock.sleep(2 * SECOND).await;
    scene.publish([event(4)]).await;
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_told_as_it_grows() {
    let mut scene = Scene::new().await;
    scene.store.declare_stream(&StreamSpec { max_backlog: Some(20), ..bounded() }).await.unwrap();
    scene.add_pull(asked("pulled")).await;
    drop(TaskRunner::start(Watermarks::new(scene.store.clone(), SECOND), &scene.supervisor));
    for (ids, marks) in [(0..15, 1), (15..16, 2), (16..19, 3)] {
        scene.publish(ids.map(event)).await;
        scene.until("the mark is told", |seen| count(seen, "stream.backlog_high") == marks).await;
    }
    let held = scene.groups.claim(&group("pulled"), "w", 100, SECOND).await.unwrap();
    let done = held.iter().map(|one| (one.lease.token, Outcome::DONE)).collect();
    scene.groups.settle(&group("pulled"), done).await.unwrap();
    scene.until("it has eased", |seen| count(seen, "stream.backlog_eased") == 1).await;
    scene.finish().await;
}

//! The way into a stream.

use tidegate_core::{event::Event, fault::FaultKind, limits, notice::Notice};

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

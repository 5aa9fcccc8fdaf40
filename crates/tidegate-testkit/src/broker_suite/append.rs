//! Appending: what an accepted event is, and that a batch is accepted whole or not at all.

use std::time::Duration;

use futures::future::join_all;
use tidegate_core::{
    dedupe::DedupeKey,
    delivery::Position,
    event::{Attribute, Data, Event},
    fault::FaultKind,
    store::{Appended, Broker as _, DedupeWindow, StreamSpec},
};

use super::case::{Case, GROUP, STREAM, event, group_name, ids, stream_name, stream_spec};

pub(super) async fn positions_grow(case: Case) {
    case.stream(STREAM).await;
    let mut positions = case.publish_ids(&["1"]).await;
    positions.extend(case.publish_ids(&["2", "3", "4"]).await);
    positions.extend(case.publish_ids(&["5"]).await);
    assert!(positions[0] > Position::START);
    assert!(positions.windows(2).all(|pair| pair[0] < pair[1]), "{positions:?}");
    let status = case.stream_status(STREAM).await;
    assert_eq!((status.first, status.last), (Some(positions[0]), Some(positions[4])));
    assert_eq!((status.count, status.accepted, status.quarantined), (5, 5, 0));
    assert!(status.bytes > 0);
    let kept: Vec<Position> = case.read_all(STREAM).await.iter().map(|stored| stored.position).collect();
    assert_eq!(kept, positions);
}

pub(super) async fn streams_do_not_mix(case: Case) {
    case.stream("a").await;
    case.stream("b").await;
    for index in 0..5 {
        case.publish_to("a", vec![event(&format!("a{index}"))]).await;
        case.publish_to("b", vec![event(&format!("b{index}"))]).await;
    }
    assert_eq!(case.kept("a").await, ["a0", "a1", "a2", "a3", "a4"]);
    assert_eq!(case.kept("b").await, ["b0", "b1", "b2", "b3", "b4"]);
}

pub(super) async fn nothing_is_appended_to_nowhere(case: Case) {
    let fault = case.store.append(&stream_name("nowhere"), vec![event("1")]).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing);
    case.stream(STREAM).await;
    assert_eq!(case.store.append(&stream_name(STREAM), Vec::new()).await.unwrap(), []);
    assert_eq!(case.stream_status(STREAM).await.accepted, 0);
}

/// An event with everything that an event can have.
fn full(id: &str, data: Data) -> Event {
    let mut event = event(id).with_subject("Grüße").with_extension("traceparent", "00-ab-cd-01").with_data(data);
    event.time = Some("2026-01-31T08:00:00.5+01:00".into());
    event.content_type = Some("application/x".into());
    event.schema = Some("https://example.com/s".into());
    event.extensions.push(("count".into(), Attribute::Integer(-7)));
    event.extensions.push(("urgent".into(), Attribute::Boolean(true)));
    event
}

pub(super) async fn events_come_back_as_they_were(mut case: Case) {
    case.pair().await;
    let events = vec![
        full("json", Data::Json("{ \"a\" : [1, 2.50] }".into())),
        full("text", Data::Text("ä\n\u{0}".into())),
        full("binary", Data::Binary(vec![0, 255, 10, 13].into())),
        full("empty", Data::Binary(Vec::new().into())),
        event("bare"),
    ];
    case.publish(events.clone()).await;
    let accepted_at = case.now();
    for _ in 0..2 {
        let stored = case.read_all(STREAM).await;
        let read: Vec<Event> = stored.iter().map(|stored| stored.event.clone()).collect();
        assert_eq!(read, events);
        assert!(stored.iter().all(|stored| stored.accepted_at == accepted_at));
        case.advance(Duration::from_secs(100));
        let claimed = case.claim(10).await;
        let lent: Vec<Event> = claimed.iter().map(|delivery| delivery.event.clone()).collect();
        assert_eq!(lent, events);
        assert!(claimed.iter().all(|delivery| delivery.accepted_at == accepted_at));
        if case.store.promises().durable {
            case.restart().await;
        } else {
            break;
        }
    }
}

pub(super) async fn large_events_and_batches_fit(case: Case) {
    case.pair().await;
    let large = |id: &str| event(id).with_data(Data::Binary(vec![id.as_bytes()[0]; 1_000_000].into()));
    case.publish(vec![large("a")]).await;
    let batch: Vec<Event> = (0..60)
        .map(|index| {
            let id = format!("b{index:02}");
            event(&id).with_data(Data::Binary(vec![b'x'; 60_000].into()))
        })
        .collect();
    case.publish(batch.clone()).await;
    let kept = case.read_all(STREAM).await;
    assert_eq!(kept.len(), 61);
    assert_eq!(kept[0].event, large("a"));
    assert!(kept[1..].iter().zip(&batch).all(|(stored, event)| stored.event == *event));
}

/// A batch larger than a group commit is still all or nothing: accepted whole, or refused with nothing kept.
pub(super) async fn the_largest_batch_is_whole_or_refused(case: Case) {
    case.pair().await;
    let batch: Vec<Event> =
        (0..15).map(|index| event(&format!("{index}")).with_data(Data::Binary(vec![7; 1_000_000].into()))).collect();
    let expected = match case.store.append(&stream_name(STREAM), batch).await {
        Ok(appended) => appended.len(),
        Err(fault) => {
            assert_eq!(fault.kind, FaultKind::Limited, "{fault:?}");
            0
        }
    };
    assert_eq!(case.kept(STREAM).await.len(), expected);
    assert_eq!(case.status().await.accepted, expected as u64);
}

pub(super) async fn answers_belong_to_their_events(case: Case) {
    case.stream(STREAM).await;
    let stream = stream_name(STREAM);
    let appends = (0..40).map(|index| {
        let events: Vec<Event> = (0..1 + index % 4).map(|part| event(&format!("{index}.{part}"))).collect();
        async { (events.clone(), case.store.append(&stream, events).await.unwrap()) }
    });
    let answers = join_all(appends).await;
    let kept = case.read_all(STREAM).await;
    let mut seen = 0;
    for (events, appended) in answers {
        assert!(appended.windows(2).all(|pair| pair[0].position < pair[1].position), "a batch keeps its order");
        for (event, answer) in events.iter().zip(appended) {
            let stored = kept.iter().find(|stored| stored.position == answer.position).unwrap();
            assert_eq!(stored.event, *event);
            assert!(!answer.duplicate);
            seen += 1;
        }
    }
    assert_eq!(kept.len(), seen);
}

async fn dedupe(case: &Case, window: Duration, entries: u64) {
    let mut spec = stream_spec(STREAM);
    spec.dedupe = Some(DedupeWindow { key: DedupeKey::IDENTITY, window, entries });
    case.declare_stream(&spec).await;
    case.group(GROUP, STREAM).await;
}

async fn append_one(case: &Case, event: Event) -> Appended {
    case.store.append(&stream_name(STREAM), vec![event]).await.unwrap()[0]
}

pub(super) async fn a_repeat_gets_the_first_position(case: Case) {
    dedupe(&case, Duration::from_secs(60), 1000).await;
    let first = append_one(&case, event("1")).await;
    assert!(!first.duplicate);
    case.publish_ids(&["2"]).await;
    let other = event("1").with_data(Data::Text("other data, same name".into()));
    assert_eq!(append_one(&case, other).await, Appended { position: first.position, duplicate: true });
    let foreign = Event::new("1", "/elsewhere", "suite.tested");
    assert!(!append_one(&case, foreign).await.duplicate, "another source is another event");
    assert_eq!(case.kept(STREAM).await, ["1", "2", "1"]);
    let status = case.stream_status(STREAM).await;
    assert_eq!((status.accepted, status.duplicates), (3, 1));
    assert_eq!(case.status().await.accepted, 3);
}

pub(super) async fn a_repeat_inside_a_batch_is_a_repeat(case: Case) {
    dedupe(&case, Duration::from_secs(60), 1000).await;
    case.publish_ids(&["1"]).await;
    let events = ["2", "1", "2", "3"].map(event).to_vec();
    let answers = case.store.append(&stream_name(STREAM), events).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.duplicate).collect::<Vec<_>>(), [false, true, true, false]);
    assert_eq!(answers[2].position, answers[0].position);
    assert_eq!(case.kept(STREAM).await, ["1", "2", "3"]);
    assert_eq!(ids(&case.claim(10).await), ["1", "2", "3"]);
}

pub(super) async fn the_window_ends(case: Case) {
    dedupe(&case, Duration::from_secs(60), 1000).await;
    let first = append_one(&case, event("1")).await;
    case.advance(Duration::from_secs(59));
    assert!(append_one(&case, event("1")).await.duplicate);
    case.advance(Duration::from_secs(2));
    let later = append_one(&case, event("1")).await;
    assert!(!later.duplicate && later.position > first.position, "the window runs from the first one");
    let again = append_one(&case, event("1")).await;
    assert_eq!(again, Appended { position: later.position, duplicate: true });
}

/// The window holds as many entries as it was asked to hold; an engine may hold more.
pub(super) async fn the_window_holds_its_entries(case: Case) {
    dedupe(&case, Duration::from_secs(3600), 300).await;
    let all: Vec<Event> = (0..300).map(|index| event(&index.to_string())).collect();
    case.publish(all.clone()).await;
    case.store.upkeep().await.unwrap();
    let answers = case.store.append(&stream_name(STREAM), all).await.unwrap();
    assert!(answers.iter().all(|answer| answer.duplicate));
}

pub(super) async fn without_a_window_repeats_are_events(case: Case) {
    case.stream(STREAM).await;
    assert!(!append_one(&case, event("1")).await.duplicate);
    assert!(!append_one(&case, event("1")).await.duplicate);
    assert_eq!(case.kept(STREAM).await, ["1", "1"]);
}

pub(super) async fn a_full_backlog_refuses_and_recovers(case: Case) {
    let mut spec = stream_spec(STREAM);
    spec.max_backlog = Some(3);
    case.declare_stream(&spec).await;
    case.group(GROUP, STREAM).await;
    case.group("quick", STREAM).await;
    case.publish_ids(&["1", "2"]).await;
    let quick = case.claim_all_of("quick", 10).await.deliveries;
    case.done(&quick).await;
    let fault = case.store.append(&stream_name(STREAM), ["3", "4"].map(event).to_vec()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Limited, "the slowest group counts: {fault:?}");
    assert_eq!(case.kept(STREAM).await, ["1", "2"], "nothing of the refused batch is kept");
    assert_eq!(case.status().await.accepted, 2);
    case.publish_ids(&["3"]).await;
    assert!(case.store.append(&stream_name(STREAM), vec![event("4")]).await.is_err());
    let lent = case.claim(10).await;
    assert!(case.store.append(&stream_name(STREAM), vec![event("4")]).await.is_err(), "lent is not settled");
    case.done(&lent[..1]).await;
    case.publish_ids(&["4"]).await;
    case.store.remove_group(&group_name(GROUP)).await.unwrap();
    case.publish_ids(&["5"]).await;
}

async fn keyed(case: &Case, key: &[&str]) {
    let mut spec = stream_spec(STREAM);
    spec.dedupe =
        Some(DedupeWindow { key: DedupeKey::new(key).unwrap(), window: Duration::from_secs(60), entries: 1000 });
    case.declare_stream(&spec).await;
}

/// Publishes one frame of a camera, each time under another id; tells whether it was taken for a repeat.
async fn frame(case: &Case, id: &str, camera: &str, at: u32) -> bool {
    let data = format!(r#"{{"camera":"{camera}","at":{at},"id":"{id}"}}"#);
    let event = event(id).with_data(Data::Json(data.into()));
    append_one(case, event).await.duplicate
}

pub(super) async fn a_window_may_have_a_key_of_its_own(case: Case) {
    keyed(&case, &["data.camera", "data.at"]).await;
    assert!(!frame(&case, "1", "front", 7).await);
    assert!(frame(&case, "2", "front", 7).await, "another id, the same frame");
    assert!(!frame(&case, "3", "front", 8).await);
    assert!(!frame(&case, "4", "back", 7).await);
    assert!(!append_one(&case, event("1")).await.duplicate, "without the key, source and id tell");
    assert!(append_one(&case, event("1")).await.duplicate);
    case.advance(Duration::from_secs(61));
    assert!(!frame(&case, "5", "front", 7).await, "the window has ended");
    assert_eq!(case.kept(STREAM).await, ["1", "3", "4", "1", "5"]);
}

pub(super) async fn a_key_of_its_own_outlives_a_restart(mut case: Case) {
    keyed(&case, &["data.at"]).await;
    assert!(!frame(&case, "1", "front", 7).await);
    case.kill().await;
    assert!(frame(&case, "2", "front", 7).await, "after a crash");
    assert!(!frame(&case, "3", "front", 8).await);
    case.restart().await;
    assert!(frame(&case, "4", "front", 7).await && frame(&case, "5", "front", 8).await, "after a restart");
}

pub(super) async fn shedding_drops_the_oldest_and_counts_it(mut case: Case) {
    case.declare_stream(&StreamSpec { max_backlog: Some(4), ..stream_spec(STREAM) }).await;
    case.group(GROUP, STREAM).await;
    case.publish_ids(&["1", "2", "3", "4"]).await;
    assert_eq!(case.store.shed(&stream_name(STREAM), 0).await.unwrap(), 0, "nothing is too much yet");
    let lent = case.claim_one("1").await;
    assert_eq!(case.store.shed(&stream_name(STREAM), 2).await.unwrap(), 2);
    case.publish_ids(&["5", "6"]).await;
    let status = case.status().await;
    assert_eq!((status.accepted, status.dropped, status.waiting, status.in_flight), (6, 2, 3, 1));
    case.settle(&lent, super::case::DONE).await;
    if case.store.promises().durable {
        case.kill().await;
    }
    let left = case.claim(10).await;
    assert_eq!(super::case::ids(&left), ["4", "5", "6"]);
    case.done(&left).await;
    assert_eq!(case.status().await.dropped, 2);
}

//! Times: events for later, retries in the order of their times, events that are worth nothing any more.

use std::time::Duration;

use tidegate_core::{
    clock::Timestamp,
    event::{DELIVER_AT, EXPIRY_TIME, Event},
    store::Broker as _,
};

use super::case::{Case, DONE, GROUP, LEASE, STREAM, event, ids};

const MINUTE: Duration = Duration::from_secs(60);

fn at(event: Event, name: &'static str, time: Timestamp) -> Event {
    event.with_extension(name, time.to_string())
}

pub(super) async fn events_for_later_are_scheduled(mut case: Case) {
    case.pair().await;
    let due = case.now().plus(MINUTE);
    case.publish(vec![
        at(event("later"), DELIVER_AT, due),
        event("now"),
        at(event("past"), DELIVER_AT, case.now().minus(MINUTE)),
    ])
    .await;
    assert_eq!(ids(&case.claim(10).await), ["now", "past"]);
    let claimed = case.claim_all_of(GROUP, 10).await;
    assert_eq!((claimed.deliveries.len(), claimed.next_due), (0, Some(due)));
    assert_eq!(case.counts().await, [0, 1, 2, 0, 0]);
    if case.store.promises().durable {
        case.restart().await;
        assert_eq!(ids(&case.claim(10).await), ["now", "past"]);
        assert_eq!(case.counts().await, [0, 1, 2, 0, 0]);
    }
    case.advance(MINUTE);
    let lent = case.claim(10).await;
    // The two others come back as well, because their leases ran out.
    let later = lent.iter().find(|delivery| delivery.event.id == "later").expect("it is due");
    assert_eq!((later.attempt, later.crashes), (1, 0));
    assert_eq!(lent.len(), 3);
}

pub(super) async fn a_scheduled_event_is_never_early(case: Case) {
    case.pair().await;
    for minutes in [3_u32, 1, 2] {
        let due = case.now().plus(MINUTE * minutes);
        case.publish(vec![at(event(&minutes.to_string()), DELIVER_AT, due)]).await;
    }
    for minutes in ["1", "2", "3"] {
        case.advance(MINUTE - Duration::from_millis(1));
        case.claim_nothing().await;
        case.advance(Duration::from_millis(1));
        let delivery = case.claim_one(minutes).await;
        case.settle(&delivery, DONE).await;
    }
}

pub(super) async fn retries_come_back_in_the_order_of_their_times(case: Case) {
    case.pair().await;
    case.publish_ids(&["a", "b", "c"]).await;
    for (delivery, minutes) in case.claim(3).await.iter().zip([3_u32, 1, 2]) {
        case.settle(delivery, case.retry(delivery, MINUTE * minutes)).await;
    }
    assert_eq!(case.counts().await, [0, 3, 0, 0, 0]);
    for id in ["b", "c", "a"] {
        case.advance(MINUTE);
        let delivery = case.claim_one(id).await;
        case.settle(&delivery, DONE).await;
    }
}

pub(super) async fn many_retries_wait_without_loss(case: Case) {
    case.pair().await;
    let all: Vec<Event> = (0..300).map(|index| event(&format!("{index:03}"))).collect();
    case.publish(all).await;
    let lent = case.claim(300).await;
    assert_eq!(lent.len(), 300);
    for delivery in &lent {
        let seconds = u64::from(delivery.event.id.as_bytes()[2] - b'0');
        case.settle(delivery, case.retry(delivery, Duration::from_secs(10 + seconds))).await;
    }
    assert_eq!(case.counts().await, [0, 300, 0, 0, 0]);
    case.advance(Duration::from_secs(14));
    let early = case.claim(300).await;
    assert_eq!(early.len(), 150);
    assert!(early.iter().all(|delivery| delivery.event.id.as_bytes()[2] <= b'4'));
    case.done(&early).await;
    case.advance(Duration::from_secs(10));
    let rest = case.claim(300).await;
    assert_eq!(rest.len(), 150);
    case.done(&rest).await;
    assert_eq!(case.counts().await, [0, 0, 0, 300, 0]);
}

pub(super) async fn what_is_past_its_time_expires_unseen(mut case: Case) {
    case.pair().await;
    let end = case.now().plus(MINUTE);
    let events = ["1", "2", "3"].map(|id| at(event(id), EXPIRY_TIME, end));
    case.publish(events.to_vec()).await;
    let in_time = case.claim_one("1").await;
    case.settle(&in_time, DONE).await;
    let retried = case.claim_one("2").await;
    case.settle(&retried, case.retry(&retried, MINUTE * 2)).await;
    case.advance(MINUTE * 3);
    case.publish_ids(&["4"]).await;
    let claimed = case.claim_all_of(GROUP, 10).await;
    assert_eq!(ids(&claimed.deliveries), ["4"]);
    assert_eq!(claimed.expired, 2, "the waiting one and the retried one");
    let status = case.status().await;
    assert_eq!((status.expired, status.done, status.accepted), (2, 1, 4));
    if case.store.promises().durable {
        case.restart().await;
        assert_eq!(case.status().await.expired, 2);
        assert_eq!(ids(&case.claim(10).await), ["4"]);
    }
}

pub(super) async fn a_delivery_that_is_lent_may_outlive_its_expiry(case: Case) {
    case.pair().await;
    case.publish(vec![at(event("1"), EXPIRY_TIME, case.now().plus(LEASE / 3))]).await;
    let delivery = case.claim_one("1").await;
    case.advance(LEASE / 2);
    case.settle(&delivery, DONE).await;
    let status = case.status().await;
    assert_eq!((status.done, status.expired), (1, 0));
}

pub(super) async fn what_expires_before_it_is_due_never_runs(case: Case) {
    case.pair().await;
    let event = at(event("1"), EXPIRY_TIME, case.now().plus(MINUTE));
    case.publish(vec![at(event, DELIVER_AT, case.now().plus(MINUTE * 2))]).await;
    case.claim_nothing().await;
    case.advance(MINUTE * 3);
    case.claim_nothing().await;
    let status = case.status().await;
    assert_eq!((status.expired, status.scheduled, status.waiting), (1, 0, 0));
    assert_eq!(case.stream_status(STREAM).await.accepted, 1);
}

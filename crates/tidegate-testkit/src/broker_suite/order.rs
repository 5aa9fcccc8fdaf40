//! Order per key: one at a time and in stream order, while other keys run beside it.

use std::time::Duration;

use tidegate_core::{
    delivery::{Delivery, Settlement},
    event::{DELIVER_AT, Data, EXPIRY_TIME, PARTITION_KEY},
    order::OrderBy,
    store::{Broker as _, GroupSpec, OnFailure, Start},
};

use super::case::{Case, DONE, GROUP, LEASE, STREAM, bury, event, group_name, group_spec, ids, keyed};

const MINUTE: Duration = Duration::from_secs(60);

fn ordered(on_failure: OnFailure) -> GroupSpec {
    let order_by = Some(OrderBy::Attribute(PARTITION_KEY.into()));
    GroupSpec { order_by, on_failure, ..group_spec(GROUP, STREAM) }
}

async fn set(case: &Case, on_failure: OnFailure) {
    case.stream(STREAM).await;
    case.declare_group(&ordered(on_failure)).await;
}

/// Publishes events named after their key and number, such as `a1`.
async fn publish(case: &Case, names: &[&str]) {
    case.publish(names.iter().map(|name| keyed(name, &name[..1])).collect()).await;
}

async fn claim(case: &Case, wanted: &[&str]) -> Vec<Delivery> {
    let lent = case.claim(100).await;
    assert_eq!(ids(&lent), wanted);
    lent
}

pub(super) async fn one_of_a_key_at_a_time(case: Case) {
    set(&case, OnFailure::Skip).await;
    publish(&case, &["a1", "a2", "b1", "a3", "b2", "c1"]).await;
    let first = claim(&case, &["a1", "b1", "c1"]).await;
    let status = case.status().await;
    assert_eq!((status.waiting, status.in_flight, status.blocked_keys), (3, 3, 2));
    claim(&case, &[]).await;
    case.settle(&first[0], DONE).await;
    let second = claim(&case, &["a2"]).await;
    case.settle(&first[1], DONE).await;
    case.settle(&second[0], DONE).await;
    let third = claim(&case, &["a3", "b2"]).await;
    case.done(&third).await;
    case.settle(&first[2], DONE).await;
    claim(&case, &[]).await;
    assert_eq!(case.status().await.blocked_keys, 0);
    assert_eq!(case.counts().await, [0, 0, 0, 6, 0]);
}

pub(super) async fn one_claim_takes_one_of_a_key(case: Case) {
    set(&case, OnFailure::Skip).await;
    publish(&case, &["a1", "a2", "a3"]).await;
    for name in ["a1", "a2", "a3"] {
        let lent = claim(&case, &[name]).await;
        case.done(&lent).await;
    }
}

pub(super) async fn without_a_key_there_is_no_order(case: Case) {
    set(&case, OnFailure::Skip).await;
    case.publish(vec![keyed("a1", "a"), event("x"), event("y"), keyed("a2", "a")]).await;
    claim(&case, &["a1", "x", "y"]).await;
}

pub(super) async fn keys_may_come_from_the_body(case: Case) {
    case.stream(STREAM).await;
    let order_by = Some("data.customer.id".parse().unwrap());
    case.declare_group(&GroupSpec { order_by, ..group_spec(GROUP, STREAM) }).await;
    let bodied = |id: &str, body: &'static str| event(id).with_data(Data::Json(body.into()));
    case.publish(vec![
        bodied("1", r#"{"customer":{"id":7}}"#),
        bodied("2", r#"{"customer":{"id":8}}"#),
        bodied("3", r#"{ "n": 1, "customer": { "id": 7 } }"#),
    ])
    .await;
    claim(&case, &["1", "2"]).await;
}

pub(super) async fn a_release_keeps_its_place(case: Case) {
    set(&case, OnFailure::Skip).await;
    publish(&case, &["a1", "a2"]).await;
    let lent = claim(&case, &["a1"]).await;
    case.settle(&lent[0], Settlement::Release).await;
    claim(&case, &["a1"]).await;
}

pub(super) async fn a_lost_lease_keeps_its_place(case: Case) {
    for on_failure in [OnFailure::Skip, OnFailure::Block] {
        if on_failure == OnFailure::Skip {
            set(&case, on_failure).await;
            publish(&case, &["a1", "a2"]).await;
        } else {
            case.declare_group(&ordered(on_failure)).await;
        }
        claim(&case, &["a1"]).await;
        case.advance(LEASE * 2);
        let again = claim(&case, &["a1"]).await;
        case.settle(&again[0], Settlement::Release).await;
    }
}

pub(super) async fn skip_lets_the_next_go_while_a_failed_one_waits(case: Case) {
    set(&case, OnFailure::Skip).await;
    publish(&case, &["a1", "a2", "a3"]).await;
    let failed = claim(&case, &["a1"]).await;
    case.settle(&failed[0], case.retry(&failed[0], MINUTE)).await;
    let second = claim(&case, &["a2"]).await;
    case.advance(MINUTE / 3);
    case.settle(&second[0], DONE).await;
    case.advance(MINUTE);
    let again = case.claim_one("a1").await;
    assert_eq!(again.attempt, 2);
    claim(&case, &[]).await;
    case.settle(&again, DONE).await;
    claim(&case, &["a3"]).await;
}

pub(super) async fn a_due_retry_waits_while_its_key_is_busy(case: Case) {
    set(&case, OnFailure::Skip).await;
    publish(&case, &["a1", "a2"]).await;
    let failed = claim(&case, &["a1"]).await;
    case.settle(&failed[0], case.retry(&failed[0], LEASE / 3)).await;
    let second = claim(&case, &["a2"]).await;
    case.advance(LEASE / 2);
    claim(&case, &[]).await;
    case.settle(&second[0], DONE).await;
    claim(&case, &["a1"]).await;
}

pub(super) async fn block_holds_the_key_until_the_failed_one_is_done(mut case: Case) {
    set(&case, OnFailure::Block).await;
    publish(&case, &["a1", "a2", "b1", "b2"]).await;
    let lent = claim(&case, &["a1", "b1"]).await;
    case.settle(&lent[0], case.retry(&lent[0], MINUTE)).await;
    case.settle(&lent[1], DONE).await;
    let other = claim(&case, &["b2"]).await;
    case.settle(&other[0], DONE).await;
    claim(&case, &[]).await;
    let status = case.status().await;
    assert_eq!((status.waiting, status.scheduled, status.blocked_keys), (1, 1, 1));
    assert_eq!(status.oldest_waiting, None, "what is blocked may not run and has no age");
    if case.store.promises().durable {
        case.restart().await;
        claim(&case, &[]).await;
    }
    case.advance(MINUTE);
    let again = claim(&case, &["a1"]).await;
    case.settle(&again[0], DONE).await;
    claim(&case, &["a2"]).await;
}

pub(super) async fn block_ends_when_the_failed_one_is_dead(case: Case) {
    set(&case, OnFailure::Block).await;
    publish(&case, &["a1", "a2"]).await;
    let lent = claim(&case, &["a1"]).await;
    case.settle(&lent[0], case.retry(&lent[0], MINUTE)).await;
    case.advance(MINUTE);
    let again = claim(&case, &["a1"]).await;
    case.settle(&again[0], bury("over")).await;
    claim(&case, &["a2"]).await;
}

pub(super) async fn a_later_event_and_a_failed_one_do_not_lock_each_other(case: Case) {
    for on_failure in [OnFailure::Block, OnFailure::Skip] {
        case.stream(STREAM).await;
        case.declare_group(&GroupSpec { start: Start::Latest, ..ordered(on_failure) }).await;
        let due = case.now().plus(LEASE / 3);
        let later = keyed("a1", "a").with_extension(DELIVER_AT, due.to_string());
        case.publish(vec![later, keyed("a2", "a"), keyed("a3", "a")]).await;
        let second = claim(&case, &["a2"]).await;
        case.settle(&second[0], case.retry(&second[0], LEASE / 2)).await;
        case.advance(LEASE * 2);
        let mut done = Vec::new();
        for _ in 0..10 {
            let lent = case.claim(100).await;
            assert!(lent.len() <= 1, "one of a key at a time");
            case.done(&lent).await;
            done.extend(ids(&lent));
        }
        done.sort();
        assert_eq!(done, ["a1", "a2", "a3"], "with {on_failure:?}");
        case.store.remove_group(&group_name(GROUP)).await.unwrap();
    }
}

/// What waits in line and turns out not to be run at all lets the next one go.
pub(super) async fn who_leaves_the_line_lets_the_next_go(case: Case) {
    set(&case, OnFailure::Block).await;
    let end = case.now().plus(LEASE / 3);
    let expiring = keyed("a2", "a").with_extension(EXPIRY_TIME, end.to_string());
    case.publish(vec![keyed("a1", "a"), expiring, keyed("a3", "a"), keyed("b", "a"), keyed("a5", "a")]).await;
    let first = claim(&case, &["a1"]).await;
    // The same event without a key is done meanwhile, so the one in line is a duplicate when its turn comes.
    case.publish(vec![event("b")]).await;
    let free = claim(&case, &["b"]).await;
    case.settle(&free[0], DONE).await;
    case.advance(LEASE / 2);
    case.settle(&first[0], DONE).await;
    let third = claim_after_others(&case, "a3").await;
    case.settle(&third, DONE).await;
    let fifth = claim_after_others(&case, "a5").await;
    case.settle(&fifth, DONE).await;
    let status = case.status().await;
    assert_eq!((status.done, status.duplicates, status.expired, status.blocked_keys), (5, 1, 1, 0));
}

/// Claims one; what the engine settles by itself may take it a claim of its own.
async fn claim_after_others(case: &Case, id: &str) -> Delivery {
    let mut lent = case.claim(100).await;
    if lent.is_empty() {
        lent = case.claim(100).await;
    }
    assert_eq!(ids(&lent), [id]);
    lent.remove(0)
}

pub(super) async fn a_busy_key_does_not_hide_the_others(case: Case) {
    set(&case, OnFailure::Skip).await;
    let mut events: Vec<_> = (0..2000).map(|index| keyed(&format!("a{index}"), "a")).collect();
    events.push(keyed("z", "z"));
    case.publish(events).await;
    let lent = case.claim(10).await;
    assert_eq!(ids(&lent), ["a0", "z"]);
    assert_eq!(case.status().await.blocked_keys, 1);
}

pub(super) async fn order_outlives_a_restart(mut case: Case) {
    set(&case, OnFailure::Skip).await;
    publish(&case, &["a1", "a2", "b1", "a3", "b2"]).await;
    let lent = claim(&case, &["a1", "b1"]).await;
    case.settle(&lent[0], DONE).await;
    claim(&case, &["a2"]).await;
    case.restart().await;
    let lent = claim(&case, &["a2", "b1"]).await;
    case.done(&lent).await;
    case.kill().await;
    let lent = claim(&case, &["a3", "b2"]).await;
    case.done(&lent).await;
    claim(&case, &[]).await;
}

pub(super) async fn groups_have_their_own_order(case: Case) {
    set(&case, OnFailure::Block).await;
    case.group("free", STREAM).await;
    publish(&case, &["a1", "a2"]).await;
    claim(&case, &["a1"]).await;
    let free = case.claim_all_of("free", 10).await.deliveries;
    assert_eq!(ids(&free), ["a1", "a2"]);
}

/// Random work on a few keys: the first settle of each key must come in stream order.
pub(super) async fn order_holds_in_a_crowd(case: Case) {
    set(&case, OnFailure::Block).await;
    let mut rng = fastrand::Rng::with_seed(11);
    let mut expected = vec![Vec::new(); 5];
    for number in 0..200 {
        let key = rng.usize(0..5);
        let id = format!("{number}");
        case.publish(vec![keyed(&id, &key.to_string())]).await;
        expected[key].push(id);
    }
    let mut done = vec![Vec::new(); 5];
    let mut held: Vec<Delivery> = Vec::new();
    while done.iter().map(Vec::len).sum::<usize>() < 200 {
        held.extend(case.claim(3).await);
        case.advance(Duration::from_secs(1));
        if held.is_empty() {
            continue;
        }
        let delivery = held.swap_remove(rng.usize(..held.len()));
        let settlement = match rng.u8(0..4) {
            0 => Settlement::Release,
            1 => case.retry(&delivery, Duration::from_secs(rng.u64(0..5))),
            _ => DONE,
        };
        if settlement == DONE {
            let key: usize = delivery.event.extension(PARTITION_KEY).unwrap().parse().unwrap();
            done[key].push(delivery.event.id.to_string());
        }
        // A lease that ran out meanwhile comes back by itself.
        if case.try_settle(&delivery, settlement.clone()).await == tidegate_core::delivery::SettleStatus::LeaseLost
            && settlement == DONE
        {
            let key: usize = delivery.event.extension(PARTITION_KEY).unwrap().parse().unwrap();
            done[key].pop();
        }
    }
    assert_eq!(done, expected);
}

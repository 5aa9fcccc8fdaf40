//! Groups that take what is more urgent first.

use std::time::Duration;

use tidegate_core::{
    after::AFTER,
    delivery::{Delivery, Position, Settlement},
    event::{DELIVER_AT, EXPIRY_TIME, Event, PARTITION_KEY},
    limits,
    order::OrderBy,
    priority::PRIORITY,
    store::{Broker as _, Claim, DeadQuery, GroupSpec, OnFailure, StreamSpec},
    whereabouts::Place,
};

use super::case::{
    Case, DONE, GROUP, LEASE, REPROCESS, STREAM, bury, event, group_name, group_spec, ids, keyed, stream_name,
    stream_spec,
};

/// What one step of priority is worth.
const STEP: Duration = Duration::from_secs(60);

fn urgent(id: &str, priority: u8) -> Event {
    with(event(id), priority)
}

fn with(event: Event, priority: u8) -> Event {
    event.with_extension(PRIORITY, priority.to_string())
}

fn spec() -> GroupSpec {
    GroupSpec { priority_step: Some(STEP), ..group_spec(GROUP, STREAM) }
}

fn ordered(on_failure: OnFailure) -> GroupSpec {
    GroupSpec { order_by: Some(OrderBy::Attribute(PARTITION_KEY.into())), on_failure, ..spec() }
}

async fn set(case: &Case, spec: GroupSpec) {
    case.stream(STREAM).await;
    case.declare_group(&spec).await;
}

/// Claims at most as many as these, which it must be, in this order.
async fn claim(case: &Case, wanted: &[&str]) -> Vec<Delivery> {
    let lent = case.claim(wanted.len().max(1)).await;
    assert_eq!(ids(&lent), wanted);
    lent
}

async fn place(case: &Case, position: Position) -> Place {
    case.store.standing(&group_name(GROUP), position).await.unwrap().place
}

pub(super) async fn what_is_more_urgent_goes_first(case: Case) {
    set(&case, spec()).await;
    case.publish(vec![urgent("low", 0), event("first"), urgent("high", 9), event("second"), urgent("same", 4)]).await;
    claim(&case, &["high"]).await;
    case.publish(vec![urgent("late", 8)]).await;
    let lent = claim(&case, &["late", "first", "second", "same"]).await;
    assert_eq!(case.counts().await, [1, 0, 5, 0, 0]);
    case.done(&lent).await;
    claim(&case, &["low"]).await;
    claim(&case, &[]).await;
}

pub(super) async fn nothing_waits_for_ever(case: Case) {
    set(&case, spec()).await;
    case.publish(vec![urgent("low", 0)]).await;
    let mut rounds = 0;
    loop {
        // More comes than is worked off, and all of it is as urgent as can be.
        case.publish(vec![urgent(&format!("a{rounds}"), 9), urgent(&format!("b{rounds}"), 9)]).await;
        let lent = case.claim(1).await;
        case.done(&lent).await;
        if ids(&lent) == ["low"] {
            break;
        }
        rounds += 1;
        case.advance(STEP / 2);
    }
    // What came in the first nine steps went first: two in each half of one.
    assert_eq!(rounds, 2 * 2 * 9);
}

pub(super) async fn a_step_is_worth_its_time(case: Case) {
    set(&case, spec()).await;
    case.publish(vec![urgent("a", 4)]).await;
    case.advance(STEP - Duration::from_millis(1));
    case.publish(vec![urgent("b", 5)]).await;
    case.advance(Duration::from_millis(2));
    case.publish(vec![urgent("c", 5)]).await;
    claim(&case, &["b", "a", "c"]).await;
}

pub(super) async fn one_for_later_counts_from_its_time(case: Case) {
    set(&case, spec()).await;
    let later = case.now().plus(STEP * 20).to_string();
    case.publish(vec![urgent("later", 0).with_extension(DELIVER_AT, later)]).await;
    claim(&case, &[]).await;
    case.advance(STEP * 21);
    case.publish(vec![urgent("usual", 4)]).await;
    claim(&case, &["usual", "later"]).await;
}

pub(super) async fn what_comes_back_keeps_its_rank(case: Case) {
    set(&case, spec()).await;
    case.publish(vec![urgent("low", 1), urgent("high", 7), urgent("mid", 5)]).await;
    let lent = claim(&case, &["high", "mid"]).await;
    case.settle(&lent[0], case.retry(&lent[0], STEP)).await;
    case.settle(&lent[1], Settlement::Release).await;
    let lent = claim(&case, &["mid"]).await;
    case.done(&lent).await;
    case.advance(STEP);
    claim(&case, &["high", "low"]).await;
}

pub(super) async fn a_lost_lease_keeps_its_rank(case: Case) {
    set(&case, spec()).await;
    case.publish(vec![urgent("high", 7), urgent("higher", 8)]).await;
    claim(&case, &["higher", "high"]).await;
    case.advance(LEASE);
    claim(&case, &["higher", "high"]).await;
}

/// What leaves without a handler makes room for the next, in the same claim.
pub(super) async fn what_left_has_no_rank(case: Case) {
    case.declare_stream(&StreamSpec { max_backlog: Some(4), ..stream_spec(STREAM) }).await;
    case.declare_group(&spec()).await;
    let late = urgent("late", 9).with_extension(EXPIRY_TIME, case.now().plus(STEP).to_string());
    case.publish(vec![urgent("dropped", 3), urgent("high", 9), late, urgent("mid", 5)]).await;
    let lent = claim(&case, &["high"]).await;
    case.done(&lent).await;
    assert_eq!(case.store.shed(&stream_name(STREAM), 2).await.unwrap(), 1);
    case.advance(STEP);
    let lent = claim(&case, &["mid"]).await;
    case.done(&lent).await;
    claim(&case, &[]).await;
    let status = case.status().await;
    assert_eq!((status.done, status.expired, status.dropped, status.waiting), (2, 1, 1, 0));
}

pub(super) async fn what_is_sent_back_behind_an_end_has_a_rank(case: Case) {
    case.stream(STREAM).await;
    let positions = case.publish(vec![urgent("low", 0), urgent("high", 9), event("beyond")]).await;
    case.declare_group(&GroupSpec { end: Some(positions[2]), ..spec() }).await;
    let lent = claim(&case, &["high"]).await;
    case.settle(&lent[0], bury("broken")).await;
    let letter = case.dead(&DeadQuery { limit: 1, ..DeadQuery::default() }).await[0].id;
    case.move_dead(&[letter], REPROCESS).await;
    claim(&case, &["high", "low"]).await;
    claim(&case, &[]).await;
}

pub(super) async fn the_order_of_priorities_outlives_a_restart(mut case: Case) {
    set(&case, spec()).await;
    case.publish(vec![urgent("low", 0), event("a"), urgent("high", 9), urgent("higher", 9), event("b")]).await;
    let lent = claim(&case, &["high", "higher", "a"]).await;
    case.settle(&lent[2], DONE).await;
    case.kill().await;
    claim(&case, &["high", "higher", "b"]).await;
    case.restart().await;
    claim(&case, &["high", "higher", "b", "low"]).await;
}

pub(super) async fn priorities_are_a_wish_of_the_group(case: Case) {
    case.stream(STREAM).await;
    case.declare_group(&GroupSpec { priority_step: None, ..spec() }).await;
    case.publish(vec![urgent("low", 0), urgent("high", 9), urgent("higher", 9), urgent("usual", 4)]).await;
    claim(&case, &["low"]).await;
    case.declare_group(&spec()).await;
    claim(&case, &["high"]).await;
    case.publish(vec![urgent("late", 9)]).await;
    case.declare_group(&GroupSpec { priority_step: None, ..spec() }).await;
    claim(&case, &["higher", "usual", "late"]).await;
}

pub(super) async fn counts_and_places_know_of_ranks(case: Case) {
    set(&case, spec()).await;
    let positions = case.publish(vec![urgent("low", 0), urgent("mid", 4)]).await;
    case.advance(STEP);
    let more = case.publish(vec![urgent("high", 9), urgent("higher", 9)]).await;
    let lent = claim(&case, &["high"]).await;
    let status = case.status().await;
    assert_eq!((status.waiting, status.unseen, status.in_flight), (3, 0, 1));
    assert_eq!(status.oldest_waiting, Some(STEP), "the oldest, not the next");
    for (position, ahead) in [(more[1], 0), (positions[1], 1), (positions[0], 2)] {
        assert_eq!(place(&case, position).await, Place::Waiting { ahead, held_up: false });
    }
    case.done(&lent).await;
    case.store.seek(&group_name(GROUP), positions[1], true).await.unwrap();
    assert_eq!(case.status().await.waiting, 3);
    claim(&case, &["high", "higher", "mid"]).await;
}

pub(super) async fn an_end_holds_for_the_urgent_too(case: Case) {
    set(&case, spec()).await;
    let positions = case.publish(vec![urgent("a", 0), urgent("b", 1), urgent("c", 9)]).await;
    let ask = Claim { group: group_name(GROUP), max: 10, lease: LEASE, before: Some(positions[2]) };
    let lent = case.store.claim(&ask).await.unwrap().deliveries;
    assert_eq!(ids(&lent), ["b", "a"]);
    case.publish(vec![urgent("d", 9)]).await;
    claim(&case, &["c"]).await;
    case.store.settle(vec![super::case::settled(lent[0].lease.token, Settlement::Release)]).await.unwrap();
    let lent = case.store.claim(&ask).await.unwrap().deliveries;
    assert_eq!(ids(&lent), ["b"], "what has a rank and lies behind the end is not lent");
    claim(&case, &["d"]).await;
}

pub(super) async fn only_so_many_are_looked_at(case: Case) {
    set(&case, spec()).await;
    let most = limits::ORDER_LOOKAHEAD_MAX;
    let mut events: Vec<Event> = (0..most).map(|number| event(&number.to_string())).collect();
    events.extend([urgent("high", 9), urgent("higher", 9)]);
    while !events.is_empty() {
        let rest = events.split_off(events.len().min(1000));
        case.publish(std::mem::replace(&mut events, rest)).await;
    }
    let lent = claim(&case, &["0"]).await;
    assert_eq!(case.status().await.unseen, 2, "the rest is on disk only");
    case.done(&lent).await;
    let lent = claim(&case, &["high"]).await;
    case.done(&lent).await;
    claim(&case, &["higher", "1"]).await;
}

pub(super) async fn an_urgent_one_waits_for_the_one_it_names(case: Case) {
    if !case.store.promises().dependencies {
        return;
    }
    set(&case, GroupSpec { after: true, ..spec() }).await;
    case.publish(vec![urgent("high", 9).with_extension(AFTER, "low"), urgent("low", 0), event("usual")]).await;
    let lent = claim(&case, &["usual", "low"]).await;
    case.publish_ids(&["last"]).await;
    case.done(&lent).await;
    claim(&case, &["high", "last"]).await;
}

pub(super) async fn within_a_key_the_order_stands(case: Case) {
    set(&case, ordered(OnFailure::Skip)).await;
    let k = |id: &str, priority| with(keyed(id, "k"), priority);
    case.publish(vec![k("k1", 0), k("k2", 9), k("k3", 5), with(keyed("j1", "j"), 3), urgent("free", 2)]).await;
    let lent = claim(&case, &["j1", "free", "k1"]).await;
    claim(&case, &[]).await;
    assert_eq!(case.status().await.blocked_keys, 1);
    case.settle(&lent[2], DONE).await;
    let lent = claim(&case, &["k2"]).await;
    claim(&case, &[]).await;
    case.done(&lent).await;
    claim(&case, &["k3"]).await;
}

pub(super) async fn one_that_comes_back_stands_before_the_later_ones_of_its_key(case: Case) {
    set(&case, ordered(OnFailure::Skip)).await;
    let k = |id: &str, priority| with(keyed(id, "k"), priority);
    case.publish(vec![k("k1", 4), k("k2", 5), k("k3", 5), urgent("x", 9)]).await;
    let lent = claim(&case, &["x", "k1"]).await;
    case.settle(&lent[0], DONE).await;
    case.settle(&lent[1], case.retry(&lent[1], STEP)).await;
    case.publish(vec![urgent("y", 9), urgent("z", 9)]).await;
    // With this the second of the key has a rank, and is not lent.
    let lent = claim(&case, &["y"]).await;
    case.done(&lent).await;
    case.advance(STEP);
    let lent = claim(&case, &["z"]).await;
    case.done(&lent).await;
    let lent = claim(&case, &["k1"]).await;
    claim(&case, &[]).await;
    case.done(&lent).await;
    let lent = claim(&case, &["k2"]).await;
    case.done(&lent).await;
    claim(&case, &["k3"]).await;
}

pub(super) async fn a_failed_one_that_blocks_holds_the_urgent_of_its_key(case: Case) {
    set(&case, ordered(OnFailure::Block)).await;
    let k = |id: &str, priority| with(keyed(id, "k"), priority);
    case.publish(vec![k("k1", 0), k("k2", 9), urgent("x", 1)]).await;
    let lent = claim(&case, &["x", "k1"]).await;
    case.settle(&lent[0], DONE).await;
    case.settle(&lent[1], case.retry(&lent[1], STEP)).await;
    claim(&case, &[]).await;
    case.advance(STEP);
    let lent = claim(&case, &["k1"]).await;
    case.done(&lent).await;
    claim(&case, &["k2"]).await;
}

//! Events that wait until others are done in their group.

use std::time::Duration;

use tidegate_core::{
    after::{AFTER, EventName},
    delivery::{Attempt, Delivery, Position, Settlement},
    event::{DELIVER_AT, EXPIRY_TIME, Event, PARTITION_KEY},
    fault::{Failure, FaultClass},
    order::OrderBy,
    store::{
        Broker as _, DeadAction, DeadQuery, DeadStepStatus, GroupSpec, Ledger as _, OnFailure, StreamSpec, Unblock,
        UnblockHow,
    },
    whereabouts::Place,
};

use super::case::{
    Case, DONE, GROUP, LEASE, REPROCESS, SOURCE, STREAM, bury, event, group_name, group_spec, ids, keyed, stream_name,
    stream_spec,
};

const MINUTE: Duration = Duration::from_secs(60);

fn waiting(id: &str, after: &str) -> Event {
    event(id).with_extension(AFTER, after.to_owned())
}

fn spec() -> GroupSpec {
    GroupSpec { after: true, ..group_spec(GROUP, STREAM) }
}

async fn set(case: &Case) {
    case.stream(STREAM).await;
    case.declare_group(&spec()).await;
}

/// Claims everything, which must be these.
async fn claim(case: &Case, wanted: &[&str]) -> Vec<Delivery> {
    let lent = case.claim(100).await;
    assert_eq!(ids(&lent), wanted);
    lent
}

fn unblock(positions: &[Position], how: UnblockHow) -> Unblock {
    let positions = positions.to_vec();
    Unblock { group: group_name(GROUP), positions, how, by: "ann".into(), reason: "by phone".into() }
}

async fn let_go(case: &Case, position: Position) -> bool {
    case.store.unblock(&unblock(&[position], UnblockHow::Run)).await.expect("answered")[0]
}

async fn place(case: &Case, position: Position) -> Place {
    case.store.standing(&group_name(GROUP), position).await.unwrap().place
}

/// Ids of what waits, each with the ids that it waits for.
async fn blocked(case: &Case) -> Vec<String> {
    let page = case.store.blocked(&group_name(GROUP), Position::START, 100).await.expect("listed");
    assert_eq!(page.next, None);
    let names = |names: &[EventName]| names.iter().map(|name| name.id.to_string()).collect::<Vec<_>>().join(" ");
    page.items.iter().map(|one| format!("{}: {}", one.stored.event.id, names(&one.waits_for))).collect()
}

pub(super) async fn an_event_waits_until_the_one_it_names_is_done(case: Case) {
    set(&case).await;
    let positions = case.publish(vec![event("a"), waiting("b", "a"), event("c")]).await;
    let first = claim(&case, &["a", "c"]).await;
    let status = case.status().await;
    assert_eq!((status.waiting, status.blocked, status.in_flight), (1, 1, 2));
    assert_eq!(blocked(&case).await, ["b: a"]);
    let name = EventName { source: SOURCE.into(), id: "a".into() };
    assert_eq!(place(&case, positions[1]).await, Place::After { waits_for: vec![name] });
    claim(&case, &[]).await;
    case.settle(&first[1], DONE).await;
    claim(&case, &[]).await;
    case.settle(&first[0], case.retry(&first[0], MINUTE)).await;
    claim(&case, &[]).await;
    case.advance(MINUTE);
    let again = claim(&case, &["a"]).await;
    case.settle(&again[0], DONE).await;
    let second = claim(&case, &["b"]).await;
    case.done(&second).await;
    let status = case.status().await;
    assert_eq!((status.done, status.waiting, status.blocked, status.oldest_blocked), (3, 0, 0, None));
}

pub(super) async fn of_several_all_must_be_done(case: Case) {
    set(&case).await;
    case.publish(vec![waiting("d", "a, b,c,a"), event("a"), event("b"), event("c")]).await;
    let lent = claim(&case, &["a", "b", "c"]).await;
    assert_eq!(blocked(&case).await, ["d: a b c"]);
    case.settle(&lent[0], DONE).await;
    assert_eq!(blocked(&case).await, ["d: b c"], "what is looked at again waits for less");
    case.settle(&lent[2], DONE).await;
    claim(&case, &[]).await;
    assert_eq!(blocked(&case).await, ["d: b"]);
    case.settle(&lent[1], DONE).await;
    claim(&case, &["d"]).await;
}

pub(super) async fn what_is_done_already_holds_nobody_back(case: Case) {
    set(&case).await;
    case.publish_ids(&["a"]).await;
    case.done(&case.claim(1).await).await;
    case.publish(vec![waiting("b", "a")]).await;
    claim(&case, &["b"]).await;
}

pub(super) async fn an_event_may_name_one_that_comes_later(case: Case) {
    set(&case).await;
    case.publish(vec![waiting("b", "a")]).await;
    claim(&case, &[]).await;
    case.advance(MINUTE);
    let status = case.status().await;
    assert_eq!((status.blocked, status.oldest_blocked, status.oldest_waiting), (1, Some(MINUTE), None));
    case.publish_ids(&["a"]).await;
    let lent = claim(&case, &["a"]).await;
    case.done(&lent).await;
    claim(&case, &["b"]).await;
}

pub(super) async fn an_event_of_another_source_is_named_with_it(case: Case) {
    set(&case).await;
    let other = Event::new("a", "/other", "t");
    case.publish(vec![waiting("b", "/other|a"), event("a")]).await;
    let same = claim(&case, &["a"]).await;
    case.done(&same).await;
    claim(&case, &[]).await;
    case.publish(vec![other]).await;
    let lent = claim(&case, &["a"]).await;
    case.done(&lent).await;
    claim(&case, &["b"]).await;
}

pub(super) async fn a_dead_one_holds_back_until_it_is_done(case: Case) {
    set(&case).await;
    case.publish(vec![event("a"), waiting("b", "a")]).await;
    let lent = claim(&case, &["a"]).await;
    case.settle(&lent[0], bury("broken")).await;
    claim(&case, &[]).await;
    assert_eq!(blocked(&case).await, ["b: a"]);
    assert_eq!(case.counts().await, [1, 0, 0, 0, 1]);
    let letter = case.dead(&DeadQuery { limit: 1, ..DeadQuery::default() }).await[0].id;
    case.move_dead(&[letter], REPROCESS).await;
    let again = claim(&case, &["a"]).await;
    case.done(&again).await;
    claim(&case, &["b"]).await;
}

pub(super) async fn who_is_let_go_waits_no_more(mut case: Case) {
    set(&case).await;
    let positions = case.publish(vec![waiting("b", "a"), waiting("c", "a"), event("x")]).await;
    claim(&case, &["x"]).await;
    let asked = unblock(&[positions[0], positions[2], Position::number(99), positions[0]], UnblockHow::Run);
    let answers = case.store.unblock(&asked).await.unwrap();
    assert_eq!(answers, [true, false, false, false], "only what waits is let go, and once");
    let lent = claim(&case, &["b"]).await;
    case.settle(&lent[0], Settlement::Release).await;
    if case.store.promises().durable {
        case.kill().await;
        claim(&case, &["b", "x"]).await;
        case.restart().await;
    }
    case.advance(LEASE * 2);
    let lent = case.claim(100).await;
    let b = lent.iter().find(|delivery| delivery.event.id == "b").expect("it is lent again");
    case.settle(b, case.retry(b, MINUTE)).await;
    case.advance(MINUTE);
    let lent = case.claim(100).await;
    let b = lent.iter().find(|delivery| delivery.event.id == "b").expect("it waits for its retry only");
    case.settle(b, DONE).await;
    assert_eq!(blocked(&case).await, ["c: a"], "the other one waits on");
}

pub(super) async fn who_is_rejected_is_a_dead_letter(case: Case) {
    set(&case).await;
    let positions = case.publish(vec![waiting("b", "a"), event("x")]).await;
    let lent = claim(&case, &["x"]).await;
    let failure = Failure::new(FaultClass::Invalid, "nobody needs it");
    let how = UnblockHow::Bury { failure, config: "fingerprint".into() };
    let asked = unblock(&positions, how);
    assert_eq!(case.store.unblock(&asked).await.unwrap(), [true, false]);
    assert_eq!(case.store.unblock(&asked).await.unwrap(), [false, false]);
    let letters = case.dead(&DeadQuery { limit: 10, ..DeadQuery::default() }).await;
    assert_eq!((&*letters[0].event.id, &*letters[0].message, letters.len()), ("b", "nobody needs it", 1));
    assert_eq!(case.counts().await, [0, 0, 1, 0, 1]);
    case.done(&lent).await;
    // It was never tried, so it waits again when it is sent back, and can be taken back while it does.
    for _ in 0..2 {
        case.move_dead(&[letters[0].id], REPROCESS).await;
        claim(&case, &[]).await;
        assert_eq!(blocked(&case).await, ["b: a"]);
        let back = case.move_dead(&[letters[0].id], DeadAction::Recall).await;
        assert_eq!(back, [DeadStepStatus::Moved(None)]);
        assert_eq!(blocked(&case).await, [] as [&str; 0]);
    }
}

/// A group that is paused has not looked at them.
pub(super) async fn what_nobody_has_looked_at_is_let_go_too(case: Case) {
    set(&case).await;
    let positions = case.publish(vec![event("x"), waiting("b", "a"), waiting("c", "a"), waiting("d", "a")]).await;
    assert!(let_go(&case, positions[1]).await);
    let failure = Failure::new(FaultClass::Invalid, "nobody needs it");
    let asked = unblock(&[positions[0], positions[2]], UnblockHow::Bury { failure, config: "fingerprint".into() });
    assert_eq!(case.store.unblock(&asked).await.unwrap(), [false, true]);
    claim(&case, &["x", "b"]).await;
    assert_eq!(blocked(&case).await, ["d: a"]);
}

/// What was tried before did not wait then, so it does not later: its ledger may have forgotten the others.
pub(super) async fn who_was_tried_waits_no_more(case: Case) {
    set(&case).await;
    case.publish(vec![event("a"), waiting("b", "a"), waiting("c", "a")]).await;
    let lent = claim(&case, &["a"]).await;
    case.done(&lent).await;
    let lent = claim(&case, &["b", "c"]).await;
    case.settle(&lent[0], case.retry(&lent[0], MINUTE)).await;
    let message = "broken".to_owned();
    let attempt = Attempt { at: case.now(), took: Duration::ZERO, class: FaultClass::Invalid, message };
    case.settle_attempt(&lent[1], bury("broken"), attempt).await;
    assert!(case.store.forget(&group_name(GROUP), SOURCE, "a").await.unwrap());
    case.advance(MINUTE);
    let again = claim(&case, &["b"]).await;
    case.done(&again).await;
    let letter = case.dead(&DeadQuery { limit: 1, ..DeadQuery::default() }).await[0].id;
    case.move_dead(&[letter], REPROCESS).await;
    claim(&case, &["c"]).await;
}

pub(super) async fn what_is_skipped_holds_nobody_back(mut case: Case) {
    set(&case).await;
    case.publish(vec![waiting("b", "a"), event("a")]).await;
    let lent = claim(&case, &["a"]).await;
    case.settle(&lent[0], Settlement::Skip).await;
    let lent = claim(&case, &["b"]).await;
    case.done(&lent).await;
    if case.store.promises().durable {
        case.kill().await;
    }
    assert!(!case.known("a").await, "it is not done");
    case.publish(vec![waiting("c", "a"), event("a")]).await;
    let lent = claim(&case, &["c", "a"]).await;
    case.done(&lent).await;
    assert!(case.known("a").await);
    assert_eq!(case.status().await.skipped, 1);
}

pub(super) async fn what_was_skipped_is_forgotten_with_the_ledger(case: Case) {
    case.stream(STREAM).await;
    case.declare_group(&GroupSpec { ledger: Some(MINUTE), ..spec() }).await;
    case.publish(vec![event("a"), waiting("b", "a")]).await;
    let lent = claim(&case, &["a"]).await;
    case.settle(&lent[0], Settlement::Skip).await;
    case.advance(MINUTE + Duration::from_millis(1));
    case.store.upkeep().await.unwrap();
    claim(&case, &[]).await;
    assert_eq!(blocked(&case).await, ["b: a"]);
}

pub(super) async fn a_skip_does_not_undo_what_is_done(case: Case) {
    set(&case).await;
    let letter = case.bury_new("a", "first").await;
    case.publish_ids(&["a"]).await;
    case.done(&case.claim(1).await).await;
    let forced = tidegate_core::store::DeadAction::Reprocess { force: true, edited: Vec::new() };
    case.move_dead(&[letter.id], forced).await;
    let lent = claim(&case, &["a"]).await;
    case.settle(&lent[0], Settlement::Skip).await;
    assert!(case.known("a").await);
    case.publish_ids(&["a"]).await;
    claim(&case, &[]).await;
}

pub(super) async fn what_waits_survives(mut case: Case) {
    set(&case).await;
    case.publish(vec![event("a"), waiting("b", "a"), waiting("c", "b"), event("x")]).await;
    let lent = claim(&case, &["a", "x"]).await;
    case.settle(&lent[1], DONE).await;
    case.restart().await;
    let lent = claim(&case, &["a"]).await;
    assert_eq!(blocked(&case).await, ["b: a", "c: b"]);
    case.done(&lent).await;
    case.kill().await;
    let lent = claim(&case, &["b"]).await;
    case.done(&lent).await;
    case.kill().await;
    let lent = claim(&case, &["c"]).await;
    case.done(&lent).await;
    assert_eq!(case.counts().await, [0, 0, 0, 4, 0]);
}

/// After a restart nobody has looked at them yet: they can be let go all the same.
pub(super) async fn what_waits_can_be_let_go_after_a_restart(mut case: Case) {
    set(&case).await;
    let positions = case.publish(vec![waiting("b", "a"), waiting("c", "a"), event("x")]).await;
    let lent = claim(&case, &["x"]).await;
    case.done(&lent).await;
    case.kill().await;
    assert!(matches!(place(&case, positions[0]).await, Place::After { .. }));
    assert!(let_go(&case, positions[0]).await);
    let lent = claim(&case, &["b"]).await;
    case.done(&lent).await;
    assert_eq!(blocked(&case).await, ["c: a"]);
}

pub(super) async fn those_that_wait_for_each_other_stay(case: Case) {
    set(&case).await;
    let positions = case.publish(vec![waiting("a", "c"), waiting("b", "a"), waiting("c", "b"), event("x")]).await;
    claim(&case, &["x"]).await;
    assert_eq!(blocked(&case).await, ["a: c", "b: a", "c: b"]);
    assert!(let_go(&case, positions[1]).await);
    for id in ["b", "c", "a"] {
        let lent = claim(&case, &[id]).await;
        case.done(&lent).await;
    }
}

pub(super) async fn what_waits_too_long_expires(case: Case) {
    set(&case).await;
    let end = case.now().plus(MINUTE).to_string();
    // What is due later is no reason to leave it there.
    let later = event("later").with_extension(DELIVER_AT, case.now().plus(MINUTE * 2).to_string());
    case.publish(vec![waiting("b", "a").with_extension(EXPIRY_TIME, end), later]).await;
    claim(&case, &[]).await;
    case.advance(MINUTE);
    claim(&case, &[]).await;
    let status = case.status().await;
    assert_eq!((status.expired, status.waiting, status.blocked, status.scheduled), (1, 0, 0, 1));
    case.publish_ids(&["a"]).await;
    claim(&case, &["a"]).await;
}

pub(super) async fn what_the_ledger_forgot_is_waited_for(case: Case) {
    case.stream(STREAM).await;
    case.declare_group(&GroupSpec { ledger: Some(MINUTE), ..spec() }).await;
    case.publish_ids(&["a"]).await;
    case.done(&case.claim(1).await).await;
    case.advance(MINUTE + Duration::from_millis(1));
    case.publish(vec![waiting("b", "a")]).await;
    claim(&case, &[]).await;
    assert_eq!(blocked(&case).await, ["b: a"]);
}

pub(super) async fn nobody_waits_where_the_group_does_not_want_it(case: Case) {
    case.stream(STREAM).await;
    case.declare_group(&GroupSpec { after: false, ..group_spec("ignores", STREAM) }).await;
    case.declare_group(&GroupSpec { after: true, ledger: None, ..group_spec("forgets", STREAM) }).await;
    case.declare_group(&spec()).await;
    case.publish(vec![waiting("b", "a")]).await;
    for group in ["ignores", "forgets"] {
        assert_eq!(ids(&case.claim_all_of(group, 10).await.deliveries), ["b"], "{group}");
    }
    claim(&case, &[]).await;
    // Whoever waits already is let go when the group changes its mind.
    case.declare_group(&GroupSpec { after: false, ..spec() }).await;
    claim(&case, &["b"]).await;
    case.declare_group(&spec()).await;
    case.publish(vec![waiting("c", "a")]).await;
    claim(&case, &[]).await;
    case.declare_group(&GroupSpec { ledger: None, ..spec() }).await;
    claim(&case, &["c"]).await;
}

pub(super) async fn each_group_does_its_own(case: Case) {
    set(&case).await;
    case.declare_group(&GroupSpec { after: true, ..group_spec("h", STREAM) }).await;
    case.publish(vec![event("a"), waiting("b", "a")]).await;
    let lent = claim(&case, &["a"]).await;
    case.done(&lent).await;
    claim(&case, &["b"]).await;
    assert_eq!(ids(&case.claim_all_of("h", 10).await.deliveries), ["a"]);
    assert_eq!(ids(&case.claim_all_of("h", 10).await.deliveries), [] as [&str; 0]);
}

pub(super) async fn a_group_that_goes_back_waits_anew(case: Case) {
    set(&case).await;
    let positions = case.publish(vec![event("a"), waiting("b", "a"), waiting("c", "never")]).await;
    let lent = claim(&case, &["a"]).await;
    case.done(&lent).await;
    let lent = claim(&case, &["b"]).await;
    case.done(&lent).await;
    let group = group_name(GROUP);
    case.store.seek(&group, positions[1], false).await.unwrap();
    claim(&case, &[]).await;
    assert_eq!(blocked(&case).await, ["c: never"], "the ledger knows the others");
    case.store.seek(&group, positions[0], true).await.unwrap();
    assert_eq!(case.status().await.blocked, 0, "nobody has looked at them there");
    let lent = claim(&case, &["a"]).await;
    assert_eq!(blocked(&case).await, ["b: a", "c: never"], "what is done once more is waited for once more");
    case.done(&lent).await;
    claim(&case, &["b"]).await;
}

/// Skipped, and done when it came once more: a group that goes back between the two waits for the second.
pub(super) async fn the_last_time_counts_for_a_group_that_goes_back(case: Case) {
    set(&case).await;
    let positions = case.publish(vec![event("a"), waiting("b", "a")]).await;
    let lent = claim(&case, &["a"]).await;
    case.settle(&lent[0], Settlement::Skip).await;
    case.publish_ids(&["a"]).await;
    let lent = claim(&case, &["b", "a"]).await;
    case.done(&lent).await;
    case.store.seek(&group_name(GROUP), positions[1], true).await.unwrap();
    let lent = claim(&case, &["a"]).await;
    assert_eq!(blocked(&case).await, ["b: a"]);
    case.done(&lent).await;
    claim(&case, &["b"]).await;
}

/// It was done once: that it dies, expires or is dropped the next time holds nobody back for ever.
pub(super) async fn what_was_done_before_is_not_waited_for_once_it_left(case: Case) {
    case.declare_stream(&StreamSpec { max_backlog: Some(6), ..stream_spec(STREAM) }).await;
    case.declare_group(&spec()).await;
    let expires = event("late").with_extension(EXPIRY_TIME, case.now().plus(MINUTE).to_string());
    let events = vec![event("x"), waiting("b", "a"), waiting("c", "late"), event("a"), expires, waiting("d", "x")];
    let positions = case.publish(events).await;
    let lent = claim(&case, &["x", "a", "late"]).await;
    case.done(&lent).await;
    let lent = claim(&case, &["b", "c", "d"]).await;
    case.done(&lent).await;
    case.advance(MINUTE * 2);
    case.store.seek(&group_name(GROUP), positions[0], true).await.unwrap();
    let lent = case.claim(2).await;
    assert_eq!(ids(&lent), ["x", "a"]);
    case.settle(&lent[0], case.retry(&lent[0], MINUTE)).await;
    assert_eq!(blocked(&case).await[0], "b: a");
    case.settle(&lent[1], bury("broken")).await;
    let mut lent = [case.claim(10).await, case.claim(10).await].concat();
    lent.sort_by_key(|one| one.position);
    assert_eq!(ids(&lent), ["b", "c"], "one is buried, the other has expired");
    case.done(&lent).await;
    assert_eq!(blocked(&case).await, ["d: x"]);
    assert_eq!(case.store.shed(&stream_name(STREAM), 5).await.unwrap(), 1);
    claim(&case, &["d"]).await;
}

/// Dropped, expired or buried while it waited: it does not come back when the others are done, and holds nobody up.
pub(super) async fn who_left_is_not_woken(case: Case) {
    case.declare_stream(&StreamSpec { max_backlog: Some(4), ..stream_spec(STREAM) }).await;
    case.declare_group(&spec()).await;
    let late = waiting("late", "a").with_extension(EXPIRY_TIME, case.now().plus(MINUTE).to_string());
    let events = vec![waiting("dropped", "a"), late, waiting("buried", "a, c"), waiting("stays", "a")];
    let positions = case.publish(events).await;
    claim(&case, &[]).await;
    assert_eq!(case.store.shed(&stream_name(STREAM), 1).await.unwrap(), 1);
    let how = UnblockHow::Bury { failure: Failure::new(FaultClass::Invalid, "broken"), config: "fingerprint".into() };
    assert_eq!(case.store.unblock(&unblock(&positions[2..3], how)).await.unwrap(), [true]);
    case.advance(MINUTE);
    claim(&case, &[]).await;
    let status = case.status().await;
    assert_eq!((status.dropped, status.expired, status.dead, status.blocked), (1, 1, 1, 1));
    case.publish_ids(&["a"]).await;
    let lent = claim(&case, &["a"]).await;
    case.done(&lent).await;
    let lent = claim(&case, &["stays"]).await;
    case.done(&lent).await;
    assert_eq!(case.counts().await, [0, 0, 0, 2, 1]);
}

pub(super) async fn who_waits_is_woken(case: Case) {
    set(&case).await;
    case.publish(vec![waiting("b", "a"), event("a")]).await;
    let lent = claim(&case, &["a"]).await;
    let until = case.now().plus(LEASE / 2);
    let group = group_name(GROUP);
    let woken = async {
        tokio::join!(case.store.wait(&group, until), async {
            tokio::task::yield_now().await;
            case.done(&lent).await;
        })
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), woken).await.is_ok(), "nobody woke up");
    claim(&case, &["b"]).await;
}

pub(super) async fn many_that_wait_do_not_hide_the_others(case: Case) {
    set(&case).await;
    let mut events: Vec<Event> = (0..2000).map(|number| waiting(&format!("b{number}"), "a")).collect();
    events.push(event("x"));
    events.push(event("a"));
    case.publish(events).await;
    let lent = case.claim(10).await;
    assert_eq!(ids(&lent), ["x", "a"]);
    assert_eq!(case.status().await.blocked, 2000);
    let page = case.store.blocked(&group_name(GROUP), Position::START, 7).await.unwrap();
    assert_eq!((page.items.len(), &*page.items[6].stored.event.id), (7, "b6"));
    let next = case.store.blocked(&group_name(GROUP), page.next.expect("there are more"), 1).await.unwrap();
    assert_eq!(&*next.items[0].stored.event.id, "b7");
    case.done(&lent).await;
    let mut done = 0;
    while done < 2000 {
        let lent = case.claim(500).await;
        assert_eq!(lent[0].event.id, format!("b{done}"), "in the order of the stream");
        case.done(&lent).await;
        done += lent.len();
    }
    assert_eq!(case.counts().await, [0, 0, 0, 2002, 0]);
}

pub(super) async fn what_waits_is_not_removed(case: Case) {
    let retain = tidegate_core::store::Retain { count: Some(1), ..Default::default() };
    case.declare_stream(&tidegate_core::store::StreamSpec { retain, ..super::case::stream_spec(STREAM) }).await;
    case.declare_group(&spec()).await;
    let positions = case.publish(vec![waiting("b", "a"), event("x"), event("y"), event("z")]).await;
    let lent = claim(&case, &["x", "y", "z"]).await;
    case.done(&lent).await;
    case.upkeep_until("the start moves", async || case.stream_status(STREAM).await.first != Some(positions[0])).await;
    assert_eq!(blocked(&case).await, ["b: a"]);
    case.publish_ids(&["a"]).await;
    let lent = claim(&case, &["a"]).await;
    case.done(&lent).await;
    claim(&case, &["b"]).await;
}

fn ordered(on_failure: OnFailure) -> GroupSpec {
    GroupSpec { order_by: Some(OrderBy::Attribute(PARTITION_KEY.into())), on_failure, ..spec() }
}

/// It stands in its line as one that failed: with `skip` the others of its key pass, with `block` they wait.
pub(super) async fn what_waits_stands_in_its_line_as_a_failed_one(case: Case) {
    case.stream(STREAM).await;
    let held = |id: &str, after: &str| keyed(id, "k").with_extension(AFTER, after.to_owned());
    case.declare_group(&ordered(OnFailure::Skip)).await;
    case.declare_group(&GroupSpec { name: group_name("blocking"), ..ordered(OnFailure::Block) }).await;
    case.publish(vec![held("k1", "a"), keyed("k2", "k"), keyed("k3", "k"), event("a")]).await;
    let lent = claim(&case, &["k2", "a"]).await;
    case.settle(&lent[1], DONE).await;
    claim(&case, &[]).await;
    case.settle(&lent[0], DONE).await;
    let first = claim(&case, &["k1"]).await;
    case.done(&first).await;
    claim(&case, &["k3"]).await;

    let claim = async |wanted: &[&str]| {
        let lent = case.claim_all_of("blocking", 10).await.deliveries;
        assert_eq!(ids(&lent), wanted);
        lent
    };
    let lent = claim(&["a"]).await;
    let status = case.status_of("blocking").await;
    assert_eq!((status.waiting, status.blocked, status.blocked_keys), (3, 1, 1));
    case.done(&lent).await;
    for id in ["k1", "k2", "k3"] {
        let lent = claim(&[id]).await;
        case.done(&lent).await;
    }
}

/// Who waits at the head of its line and holds it lets the next one stand there, and that may wait as well.
pub(super) async fn who_waits_lets_its_line_go_when_it_leaves(case: Case) {
    case.stream(STREAM).await;
    let held = |id: &str, after: &str| keyed(id, "k").with_extension(AFTER, after.to_owned());
    case.declare_group(&ordered(OnFailure::Block)).await;
    let late = held("k2", "b").with_extension(EXPIRY_TIME, case.now().plus(MINUTE).to_string());
    let positions = case.publish(vec![held("k1", "a"), late, held("k3", "c"), keyed("k4", "k")]).await;
    claim(&case, &[]).await;
    assert_eq!(blocked(&case).await, ["k1: a"]);
    let how = UnblockHow::Bury { failure: Failure::new(FaultClass::Invalid, "broken"), config: "fingerprint".into() };
    assert_eq!(case.store.unblock(&unblock(&positions[..2], how)).await.unwrap(), [true, false]);
    claim(&case, &[]).await;
    assert_eq!(blocked(&case).await, ["k2: b"]);
    case.advance(MINUTE);
    claim(&case, &[]).await;
    assert_eq!(blocked(&case).await, ["k3: c"], "the one before has expired");
    assert!(let_go(&case, positions[2]).await);
    for id in ["k3", "k4"] {
        let lent = claim(&case, &[id]).await;
        case.done(&lent).await;
    }
    assert_eq!(case.counts().await, [0, 0, 0, 2, 1]);
}

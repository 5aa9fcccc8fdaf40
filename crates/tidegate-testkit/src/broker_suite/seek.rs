//! Seeking: a group that is moved starts anew at another place, and nothing is lost, doubled or unaccounted for.

use std::time::Duration;

use tidegate_core::{
    delivery::{Position, SettleStatus},
    event::{DELIVER_AT, EXPIRY_TIME},
    fault::FaultKind,
    order::OrderBy,
    seek::{Rehearsal, SeekTo},
    store::{Broker as _, Claim, DeadAction, GroupSpec, Ledger as _, Retain, StreamSpec},
};

use super::case::{
    Case, DONE, GROUP, LEASE, STREAM, bury, event, group_name, group_spec, ids, keyed, stream_name, stream_spec,
};

async fn without_ledger(case: &Case) {
    case.stream(STREAM).await;
    case.declare_group(&GroupSpec { ledger: None, ..group_spec(GROUP, STREAM) }).await;
}

async fn all_done(case: &Case) {
    loop {
        let lent = case.claim(500).await;
        if lent.is_empty() {
            return;
        }
        case.done(&lent).await;
    }
}

async fn locate(case: &Case, place: SeekTo) -> Position {
    case.store.locate(&group_name(GROUP), &place).await.expect("the place is found")
}

/// Moves [`GROUP`] and returns where it is now.
async fn seek(case: &Case, place: SeekTo) -> Position {
    let to = locate(case, place).await;
    let sought = case.store.seek(&group_name(GROUP), to, false).await.expect("the group is moved");
    assert_eq!(sought.to, to);
    assert_eq!(case.status().await.next, to);
    to
}

pub(super) async fn a_hundred_back_with_a_ledger_runs_nothing(case: Case) {
    case.pair().await;
    case.publish((0..150).map(|number| event(&number.to_string())).collect()).await;
    all_done(&case).await;
    let to = locate(&case, SeekTo::Back(100)).await;
    let rehearsal =
        case.store.rehearse(&group_name(GROUP), to..locate(&case, SeekTo::Latest).await, 1000).await.unwrap();
    assert_eq!(rehearsal, Rehearsal { skipped: 100, ..Rehearsal::default() });
    assert_eq!(case.counts().await, [0, 0, 0, 150, 0], "a rehearsal moves nothing");
    case.store.seek(&group_name(GROUP), to, false).await.unwrap();
    let status = case.status().await;
    assert_eq!((status.accepted, status.waiting, status.done), (100, 100, 0));
    case.claim_nothing().await;
    let status = case.status().await;
    assert_eq!((status.accepted, status.done, status.duplicates), (100, 100, 100));
}

pub(super) async fn without_a_ledger_everything_runs_again(case: Case) {
    without_ledger(&case).await;
    let positions = case.publish_ids(&["1", "2", "3", "4"]).await;
    all_done(&case).await;
    seek(&case, SeekTo::At(positions[1])).await;
    assert_eq!(case.counts().await, [3, 0, 0, 0, 0]);
    let again = case.claim(10).await;
    assert_eq!(ids(&again), ["2", "3", "4"]);
    assert!(again.iter().all(|delivery| delivery.attempt == 1 && delivery.history.is_empty()));
    case.done(&again).await;
    assert_eq!(case.counts().await, [0, 0, 0, 3, 0]);
}

pub(super) async fn what_lies_before_is_forgotten(case: Case) {
    case.pair().await;
    let later = case.now().plus(Duration::from_secs(3600)).to_string();
    case.publish_ids(&["fails", "dies"]).await;
    case.publish(vec![event("later").with_extension(DELIVER_AT, later), event("next")]).await;
    let (fails, dies) = (case.claim_one("fails").await, case.claim_one("dies").await);
    case.settle(&fails, case.retry(&fails, Duration::from_secs(60))).await;
    case.settle(&dies, bury("no")).await;
    let next = case.claim_one("next").await;
    case.settle(&next, DONE).await;
    assert_eq!(case.counts().await, [0, 2, 0, 1, 1]);
    seek(&case, SeekTo::Latest).await;
    assert_eq!(case.counts().await, [0; 5]);
    case.advance(Duration::from_secs(7200));
    case.claim_nothing().await;
    case.publish_ids(&["new"]).await;
    case.claim_one("new").await;
    assert_eq!(case.dead(&tidegate_core::store::DeadQuery { limit: 9, ..Default::default() }).await.len(), 1);
}

pub(super) async fn nothing_moves_while_something_is_in_flight(case: Case) {
    case.pair().await;
    let positions = case.publish_ids(&["1", "2"]).await;
    let held = case.claim_one("1").await;
    let fault = case.store.seek(&group_name(GROUP), positions[0], false).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Conflict, "{fault:?}");
    case.settle(&held, DONE).await;
    let late = case.claim_one("2").await;
    case.advance(LEASE + Duration::from_secs(1));
    seek(&case, SeekTo::At(positions[1])).await;
    assert_eq!(case.try_settle(&late, DONE).await, SettleStatus::LeaseLost, "its lease ran out before");
    let again = case.claim_one("2").await;
    assert_eq!(case.try_settle(&late, DONE).await, SettleStatus::LeaseLost, "an earlier loan");
    case.settle(&again, DONE).await;
}

pub(super) async fn what_is_not_kept_is_refused(case: Case) {
    case.declare_stream(&StreamSpec { retain: Retain { count: Some(2), ..Retain::default() }, ..stream_spec(STREAM) })
        .await;
    case.group(GROUP, STREAM).await;
    let positions = case.publish_ids(&["1", "2", "3", "4"]).await;
    all_done(&case).await;
    case.upkeep_until("two kept events", async || case.stream_status(STREAM).await.count == 2).await;
    let fault = case.store.seek(&group_name(GROUP), positions[0], false).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Invalid, "{fault:?}");
    let beyond = Position { low: positions[3].low + 2, ..positions[3] };
    assert_eq!(case.store.seek(&group_name(GROUP), beyond, false).await.unwrap_err().kind, FaultKind::Invalid);
    assert_eq!(case.store.seek(&group_name("nobody"), beyond, false).await.unwrap_err().kind, FaultKind::Missing);
    assert_eq!(case.counts().await, [0, 0, 0, 4, 0]);
}

pub(super) async fn places_are_found(case: Case) {
    case.pair().await;
    assert_eq!(locate(&case, SeekTo::Earliest).await, locate(&case, SeekTo::Latest).await, "an empty stream");
    let mut positions = Vec::new();
    let mut times = Vec::new();
    for id in ["1", "2", "3", "4", "5"] {
        times.push(case.now());
        positions.extend(case.publish_ids(&[id]).await);
        case.advance(Duration::from_secs(60));
    }
    all_done(&case).await;
    assert_eq!(locate(&case, SeekTo::Earliest).await, positions[0]);
    assert_eq!(locate(&case, SeekTo::At(positions[2])).await, positions[2]);
    assert_eq!(locate(&case, SeekTo::Back(2)).await, positions[3]);
    assert_eq!(locate(&case, SeekTo::Back(1000)).await, positions[0]);
    for (at, position) in times.iter().zip(&positions) {
        assert_eq!(locate(&case, SeekTo::Since(*at)).await, *position);
        assert_eq!(locate(&case, SeekTo::Since(at.minus(Duration::from_secs(30)))).await, *position);
    }
    let latest = locate(&case, SeekTo::Latest).await;
    assert!(latest > positions[4]);
    assert_eq!(locate(&case, SeekTo::Since(case.now())).await, latest);
    assert_eq!(locate(&case, SeekTo::Back(0)).await, latest, "everything was looked at");
}

pub(super) async fn a_rehearsal_says_what_becomes_of_each(case: Case) {
    case.pair().await;
    case.group("other", STREAM).await;
    let soon = case.now().plus(Duration::from_secs(5)).to_string();
    case.publish_ids(&["done", "open"]).await;
    case.publish(vec![event("expires").with_extension(EXPIRY_TIME, soon)]).await;
    let done = case.claim_one("done").await;
    case.settle(&done, DONE).await;
    let lent = case.claim_all_of("other", 1).await.deliveries;
    case.settle(&lent[0], bury("no")).await;
    let letters = case.dead(&tidegate_core::store::DeadQuery { limit: 9, ..Default::default() }).await;
    case.move_dead(&[letters[0].id], DeadAction::Reprocess { force: false, edited: Vec::new() }).await;
    case.advance(Duration::from_secs(10));
    let from = locate(&case, SeekTo::Earliest).await;
    let group = group_name(GROUP);
    let end = locate(&case, SeekTo::Latest).await;
    let whole = case.store.rehearse(&group, from..end, 1000).await.unwrap();
    assert_eq!(whole, Rehearsal { run: 1, skipped: 1, expired: 1, others: 1, own: 0, next: None });
    let other = case.store.rehearse(&group_name("other"), from..end, 1000).await.unwrap();
    assert_eq!((other.run, other.own, other.others), (3, 1, 0), "{other:?}");
    let mut parts = Rehearsal { next: Some(from), ..Rehearsal::default() };
    while let Some(next) = parts.next {
        parts.add(&case.store.rehearse(&group, next..end, 1).await.unwrap());
    }
    assert_eq!(parts, whole);
}

pub(super) async fn order_keys_hold_after_a_seek(case: Case) {
    case.stream(STREAM).await;
    let order_by = Some(OrderBy::Attribute(tidegate_core::event::PARTITION_KEY.into()));
    case.declare_group(&GroupSpec { order_by, ledger: None, ..group_spec(GROUP, STREAM) }).await;
    case.publish(vec![keyed("a1", "a"), keyed("a2", "a"), keyed("b1", "b")]).await;
    let lent = case.claim(10).await;
    assert_eq!(ids(&lent), ["a1", "b1"]);
    case.settle(&lent[0], case.retry(&lent[0], Duration::from_secs(60))).await;
    case.settle(&lent[1], DONE).await;
    seek(&case, SeekTo::Earliest).await;
    for expect in [&["a1", "b1"][..], &["a2"]] {
        let lent = case.claim(10).await;
        assert_eq!(ids(&lent), expect);
        case.done(&lent).await;
    }
}

pub(super) async fn a_seek_survives(mut case: Case) {
    case.pair().await;
    let positions = case.publish_ids(&["1", "2", "3"]).await;
    all_done(&case).await;
    assert!(case.store.forget(&group_name(GROUP), super::case::SOURCE, "2").await.unwrap());
    seek(&case, SeekTo::At(positions[1])).await;
    case.kill().await;
    assert_eq!(case.counts().await, [2, 0, 0, 0, 0]);
    assert_eq!(ids(&case.claim(10).await), ["2"], "the ledger was not moved");
    case.restart().await;
    let status = case.status().await;
    assert_eq!((status.accepted, status.done, status.duplicates), (2, 1, 1));
    let again = case.claim_one("2").await;
    case.settle(&again, DONE).await;
    seek(&case, SeekTo::Latest).await;
    case.restart().await;
    case.kill().await;
    assert_eq!(case.counts().await, [0; 5]);
    case.publish_ids(&["4"]).await;
    case.claim_one("4").await;
}

pub(super) async fn retention_waits_for_a_group_that_went_back(case: Case) {
    let retain = |count| StreamSpec { retain: Retain { count, ..Retain::default() }, ..stream_spec(STREAM) };
    case.declare_stream(&retain(None)).await;
    case.declare_group(&GroupSpec { ledger: None, ..group_spec(GROUP, STREAM) }).await;
    case.publish((0..50).map(|number| event(&number.to_string())).collect()).await;
    all_done(&case).await;
    seek(&case, SeekTo::Earliest).await;
    case.declare_stream(&retain(Some(5))).await;
    for _ in 0..5 {
        case.store.upkeep().await.unwrap();
        case.barrier().await;
    }
    assert_eq!(case.stream_status(STREAM).await.count, 50);
    let lent = case.claim(100).await;
    assert_eq!(lent.len(), 50);
    case.done(&lent).await;
    case.upkeep_until("five kept events", async || case.stream_status(STREAM).await.count == 5).await;
}

pub(super) async fn going_back_does_not_fill_the_backlog(case: Case) {
    case.declare_stream(&StreamSpec { max_backlog: Some(3), ..stream_spec(STREAM) }).await;
    case.declare_group(&GroupSpec { ledger: None, ..group_spec(GROUP, STREAM) }).await;
    for id in ["1", "2", "3", "4", "5"] {
        case.publish_ids(&[id]).await;
        all_done(&case).await;
    }
    seek(&case, SeekTo::Earliest).await;
    assert_eq!(case.counts().await, [5, 0, 0, 0, 0]);
    case.publish_ids(&["6", "7", "8"]).await;
    assert!(case.store.append(&stream_name(STREAM), vec![event("9")]).await.is_err(), "what is new counts");
    all_done(&case).await;
    case.publish_ids(&["9"]).await;
}

pub(super) async fn what_was_forced_once_is_not_forced_again(case: Case) {
    case.pair().await;
    let letter = case.bury_new("1", "no").await;
    case.move_dead(&[letter.id], DeadAction::Reprocess { force: true, edited: Vec::new() }).await;
    let forced = case.claim_one("1").await;
    case.settle(&forced, DONE).await;
    seek(&case, SeekTo::Earliest).await;
    case.claim_nothing().await;
    assert_eq!(case.counts().await, [0, 0, 0, 2, 0]);
}

pub(super) async fn again_runs_what_was_done_before_once(mut case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "2"]).await;
    all_done(&case).await;
    case.advance(Duration::from_secs(1));
    let from = locate(&case, SeekTo::Earliest).await;
    case.store.seek(&group_name(GROUP), from, true).await.unwrap();
    case.advance(Duration::from_secs(1));
    let first = case.claim_one("1").await;
    case.settle(&first, DONE).await;
    if case.store.promises().durable {
        case.kill().await;
    }
    let second = case.claim_one("2").await;
    case.settle(&second, DONE).await;
    seek(&case, SeekTo::Earliest).await;
    case.claim_nothing().await;
    case.publish_ids(&["1"]).await;
    case.claim_nothing().await;
    assert_eq!(case.counts().await, [0, 0, 0, 3, 0]);
}

pub(super) async fn a_claim_may_end_before_a_position(case: Case) {
    without_ledger(&case).await;
    let positions = case.publish_ids(&["1", "2", "3", "4"]).await;
    let ask = |before| Claim { group: group_name(GROUP), max: 10, lease: LEASE, before: Some(before) };
    let lent = case.store.claim(&ask(positions[2])).await.unwrap().deliveries;
    assert_eq!(ids(&lent), ["1", "2"]);
    case.settle(&lent[1], case.retry(&lent[1], Duration::ZERO)).await;
    assert!(case.store.claim(&ask(positions[1])).await.unwrap().deliveries.is_empty());
    let status = case.status().await;
    assert_eq!((status.next, status.unseen, status.waiting), (positions[2], 2, 3));
    assert_eq!(ids(&case.store.claim(&ask(positions[3])).await.unwrap().deliveries), ["2", "3"]);
    case.claim_one("4").await;
}

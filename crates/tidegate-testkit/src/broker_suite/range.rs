//! Groups that have an end: they handle a range of a stream beside the others, and stand in nobody's way.

use std::time::Duration;

use tidegate_core::{
    delivery::Position,
    fault::FaultKind,
    seek::SeekTo,
    store::{
        Broker as _, DeadAction, DeadLetters as _, DeadQuery, DeadState, GroupSpec, Ledger as _, Retain, Start,
        StreamSpec,
    },
    whereabouts::Place,
};

use super::case::{
    Case, DONE, REPROCESS, SOURCE, STREAM, bury, event, group_name, group_spec, ids, stream_name, stream_spec,
};

/// The group that has an end.
const SIDE: &str = "side";

fn side(from: Position, end: Position) -> GroupSpec {
    GroupSpec { start: Start::At(from), end: Some(end), ..group_spec(SIDE, STREAM) }
}

/// Publishes eight events, lets the other group do them all, and adds a group for the third to the fifth.
async fn third_to_fifth(case: &Case) -> Vec<Position> {
    case.pair().await;
    let positions = case.publish((1..=8).map(|number| event(&number.to_string())).collect()).await;
    case.done(&case.claim(100).await).await;
    case.declare_group(&side(positions[2], positions[5])).await;
    positions
}

async fn counts(case: &Case) -> [u64; 5] {
    let now = case.status_of(SIDE).await;
    [now.accepted, now.waiting, now.in_flight, now.done, now.dead]
}

pub(super) async fn a_range_is_handled_and_nothing_else(case: Case) {
    let positions = third_to_fifth(&case).await;
    assert_eq!(counts(&case).await, [3, 3, 0, 0, 0]);
    let group = group_name(SIDE);
    assert_eq!(case.store.locate(&group, &SeekTo::Latest).await.unwrap(), positions[5], "its stream ends there");
    let rehearsal = case.store.rehearse(&group, positions[0]..positions[7], 100).await.unwrap();
    assert_eq!((rehearsal.run, rehearsal.next), (5, None), "what its own ledger knows, up to its end");
    let lent = case.claim_all_of(SIDE, 100).await.deliveries;
    assert_eq!(ids(&lent), ["3", "4", "5"]);
    case.done(&lent).await;
    case.publish_ids(&["9"]).await;
    assert_eq!(ids(&case.claim_all_of(SIDE, 100).await.deliveries), [] as [&str; 0]);
    let status = case.status_of(SIDE).await;
    assert_eq!((status.accepted, status.waiting, status.done, status.next), (3, 0, 3, positions[5]));
    for (index, expect) in [(0, Place::Foreign), (6, Place::Foreign)] {
        assert_eq!(case.store.standing(&group, positions[index]).await.unwrap().place, expect);
    }
    let place = case.store.standing(&group, positions[3]).await.unwrap().place;
    assert!(matches!(place, Place::Done { .. }), "{place:?}");
    assert_eq!(ids(&case.claim(10).await), ["9"], "the other group never noticed");
}

pub(super) async fn its_ledger_is_its_own(case: Case) {
    third_to_fifth(&case).await;
    case.publish_ids(&["new"]).await;
    let known = |group: &'static str, id: &'static str| {
        let (store, events) = (&case.store, [(SOURCE.into(), id.into())]);
        async move { store.done(&group_name(group), &events).await.unwrap()[0] }
    };
    assert!(!known(SIDE, "3").await);
    case.done(&case.claim_all_of(SIDE, 100).await.deliveries).await;
    assert!(known(SIDE, "3").await && !known(SIDE, "new").await);
    case.store.remove_group(&group_name(SIDE)).await.unwrap();
    assert!(case.known("3").await, "the other group still knows what it did");
    assert_eq!(ids(&case.claim(10).await), ["new"]);
}

pub(super) async fn a_range_survives(mut case: Case) {
    let positions = third_to_fifth(&case).await;
    let lent = case.claim_all_of(SIDE, 1).await.deliveries;
    case.done(&lent).await;
    for round in 0..2 {
        if round == 0 {
            case.kill().await
        } else {
            case.restart().await
        }
        assert_eq!(counts(&case).await, [3, 2, 0, 1, 0]);
        case.declare_group(&side(positions[2], positions[5])).await;
    }
    let lent = case.claim_all_of(SIDE, 100).await.deliveries;
    assert_eq!(ids(&lent), ["4", "5"]);
    case.done(&lent).await;
    case.kill().await;
    case.publish_ids(&["9"]).await;
    assert_eq!(counts(&case).await, [3, 0, 0, 3, 0]);
    assert_eq!(ids(&case.claim_all_of(SIDE, 100).await.deliveries), [] as [&str; 0]);
}

pub(super) async fn what_is_sent_back_comes_behind_its_end(mut case: Case) {
    third_to_fifth(&case).await;
    let lent = case.claim_all_of(SIDE, 100).await.deliveries;
    case.settle(&lent[0], DONE).await;
    case.settle(&lent[1], bury("broken")).await;
    case.settle(&lent[2], bury("broken")).await;
    case.publish_ids(&["9"]).await;
    let letters = case.dead(&DeadQuery { limit: 9, ..DeadQuery::default() }).await;
    let of_side = || letters.iter().filter(|letter| letter.group == group_name(SIDE)).map(|letter| letter.id);
    let back: Vec<Position> = of_side().collect();
    assert_eq!(back.len(), 2);
    case.move_dead(&back[..1], REPROCESS).await;
    case.publish_ids(&["10"]).await;
    assert_eq!(counts(&case).await, [4, 1, 0, 1, 2]);
    if case.store.promises().durable {
        case.kill().await;
        assert_eq!(counts(&case).await, [4, 1, 0, 1, 2]);
        case.restart().await;
    }
    let again = case.claim_all_of(SIDE, 100).await.deliveries;
    assert_eq!(ids(&again), ["5"], "only what was sent back, and newest letters come first");
    case.settle(&again[0], case.retry(&again[0], Duration::from_secs(5))).await;
    case.advance(Duration::from_secs(10));
    let again = case.claim_all_of(SIDE, 100).await.deliveries;
    case.settle(&again[0], DONE).await;
    assert_eq!(counts(&case).await, [4, 0, 0, 2, 2]);
    let others: Vec<String> = ids(&case.claim(100).await);
    assert_eq!(others, ["9", "10"], "it was for nobody else");
    case.move_dead(&back[1..], REPROCESS).await;
    case.move_dead(&back[1..], DeadAction::Recall).await;
    assert_eq!(case.store.dead_letter(&stream_name(STREAM), back[1]).await.unwrap().state, DeadState::Parked);
    assert_eq!(ids(&case.claim_all_of(SIDE, 100).await.deliveries), [] as [&str; 0]);
    assert_eq!(counts(&case).await, [5, 0, 0, 3, 2]);
}

pub(super) async fn an_end_is_never_changed(case: Case) {
    let positions = third_to_fifth(&case).await;
    case.declare_group(&side(positions[0], positions[5])).await;
    assert_eq!(counts(&case).await, [3, 3, 0, 0, 0], "declared again it stays where it is");
    let kind = async |spec: GroupSpec| case.store.declare_group(&spec).await.unwrap_err().kind;
    assert_eq!(kind(side(positions[2], positions[6])).await, FaultKind::Conflict);
    assert_eq!(kind(GroupSpec { end: None, ..side(positions[2], positions[5]) }).await, FaultKind::Conflict);
    let group = GroupSpec { end: Some(positions[5]), ..group_spec(super::case::GROUP, STREAM) };
    assert_eq!(kind(group).await, FaultKind::Conflict);
    let other = |from, end| GroupSpec { name: group_name("other"), ..side(from, end) };
    let beyond = Position { low: positions[7].low + 2, ..positions[7] };
    assert_eq!(kind(other(positions[2], beyond)).await, FaultKind::Invalid);
    assert_eq!(kind(other(positions[5], positions[4])).await, FaultKind::Invalid);
    let fault = case.store.seek(&group_name(SIDE), positions[3], false).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Conflict, "{fault:?}");
    assert_eq!(case.store.groups().await.unwrap().len(), 2);
}

pub(super) async fn retention_waits_for_a_range(case: Case) {
    let retain = |count| StreamSpec { retain: Retain { count, ..Retain::default() }, ..stream_spec(STREAM) };
    case.pair().await;
    let positions = case.publish((0..50).map(|number| event(&number.to_string())).collect()).await;
    case.done(&case.claim(500).await).await;
    case.declare_group(&side(positions[0], positions[40])).await;
    case.declare_stream(&retain(Some(5))).await;
    for _ in 0..5 {
        case.store.upkeep().await.unwrap();
        case.barrier().await;
    }
    assert_eq!(case.stream_status(STREAM).await.count, 50);
    let lent = case.claim_all_of(SIDE, 100).await.deliveries;
    assert_eq!(lent.len(), 40);
    case.settle(&lent[7], case.retry(&lent[7], Duration::from_secs(60))).await;
    case.done(&[&lent[..7], &lent[8..]].concat()).await;
    // It is there still, and one of its events is still to come.
    case.upkeep_until("five kept events", async || case.stream_status(STREAM).await.count == 5).await;
    case.advance(Duration::from_secs(61));
    let late = case.claim_all_of(SIDE, 100).await.deliveries;
    assert_eq!(ids(&late), ["7"]);
    case.done(&late).await;
    let spec = GroupSpec { name: group_name("late"), ..side(positions[0], positions[40]) };
    assert_eq!(case.store.declare_group(&spec).await.unwrap_err().kind, FaultKind::Invalid, "it is not kept");
}

pub(super) async fn a_range_fills_no_backlog(case: Case) {
    case.declare_stream(&StreamSpec { max_backlog: Some(3), ..stream_spec(STREAM) }).await;
    case.group(super::case::GROUP, STREAM).await;
    let mut positions = Vec::new();
    for id in ["1", "2", "3", "4", "5"] {
        positions.extend(case.publish_ids(&[id]).await);
        case.done(&case.claim(100).await).await;
    }
    case.declare_group(&side(positions[0], positions[4])).await;
    assert_eq!(case.stream_status(STREAM).await.backlog, 0);
    case.publish_ids(&["6", "7", "8"]).await;
    assert_eq!(case.store.shed(&stream_name(STREAM), 2).await.unwrap(), 2, "of the other group only");
    assert_eq!(counts(&case).await, [4, 4, 0, 0, 0]);
}

pub(super) async fn what_the_stream_drops_of_a_range_is_counted(case: Case) {
    let retain = Retain { count: Some(3), drop_unsettled: true, ..Retain::default() };
    third_to_fifth(&case).await;
    case.declare_stream(&StreamSpec { retain, ..stream_spec(STREAM) }).await;
    case.publish((10..40).map(|number| event(&number.to_string())).collect()).await;
    case.upkeep_until("it is dropped", async || case.status_of(SIDE).await.dropped == 3).await;
    for _ in 0..3 {
        case.store.upkeep().await.unwrap();
        case.barrier().await;
    }
    let status = case.status_of(SIDE).await;
    assert_eq!((status.accepted, status.waiting, status.dropped), (3, 0, 3));
}

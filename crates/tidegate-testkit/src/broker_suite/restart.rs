//! Restarts: what was acknowledged is there again, whether the process stopped in order or died.

use std::time::Duration;

use tidegate_core::{
    dedupe::DedupeKey,
    delivery::{Attempt, SettleStatus, Settlement},
    event::{DELIVER_AT, EXPIRY_TIME},
    fault::FaultClass,
    store::{Broker as _, DeadQuery, DeadState, DedupeWindow, GroupSpec, GroupStatus},
};

use super::case::{
    Case, DONE, GROUP, LEASE, REPROCESS, STREAM, bury, event, group_spec, ids, stream_name, stream_spec,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A store with something of everything: done, waiting, scheduled, lent, dead, expired, duplicate.
async fn furnish(case: &Case) {
    let mut spec = stream_spec(STREAM);
    spec.dedupe = Some(DedupeWindow { key: DedupeKey::IDENTITY, window: MINUTE * 60, entries: 1000 });
    case.declare_stream(&spec).await;
    case.group(GROUP, STREAM).await;
    case.group("idle", STREAM).await;
    let expiring = event("expired").with_extension(EXPIRY_TIME, case.now().to_string());
    let later = event("later").with_extension(DELIVER_AT, case.now().plus(MINUTE * 10).to_string());
    case.publish(vec![event("done"), event("retried"), event("buried"), expiring, later]).await;
    case.publish_ids(&["redriven", "lent", "waiting"]).await;
    case.advance(Duration::from_millis(1));
    let lent = case.claim(5).await;
    assert_eq!(ids(&lent), ["done", "retried", "buried", "redriven", "lent"]);
    case.settle(&lent[0], DONE).await;
    let attempt = Attempt { at: case.now(), took: MINUTE, class: FaultClass::Timeout, message: "no answer".into() };
    case.settle_attempt(&lent[1], case.retry(&lent[1], MINUTE), attempt).await;
    case.settle(&lent[2], bury("bad")).await;
    case.settle(&lent[3], bury("bad")).await;
    let id = case.dead(&DeadQuery { limit: 1, ..DeadQuery::default() }).await[0].id;
    case.move_dead(&[id], REPROCESS).await;
    case.store.put_state("k", Some(b"v")).await.unwrap();
}

/// What must be the same before and after, with what is lent counted as waiting.
fn lasting(status: GroupStatus) -> [u64; 9] {
    let waiting = status.waiting + status.in_flight;
    let GroupStatus { accepted, done, duplicates, skipped, scheduled, dead, expired, dropped, .. } = status;
    [accepted, done, duplicates, skipped, waiting, scheduled, dead, expired, dropped]
}

async fn check_furnished(case: &Case, before: &[[u64; 9]; 2]) {
    assert_eq!([lasting(case.status().await), lasting(case.status_of("idle").await)], *before);
    let expect = ["done", "retried", "buried", "expired", "later", "redriven", "lent", "waiting", "redriven"];
    assert_eq!(case.kept(STREAM).await, expect);
    assert!(case.known("done").await && !case.known("waiting").await);
    assert_eq!(case.store.states("").await.unwrap(), [("k".to_owned(), b"v".to_vec())]);
    let states: Vec<DeadState> =
        case.dead(&DeadQuery { limit: 9, ..DeadQuery::default() }).await.iter().map(|letter| letter.state).collect();
    assert_eq!(states, [DeadState::Reprocessed, DeadState::Parked]);
    let repeat = case.store.append(&stream_name(STREAM), vec![event("waiting")]).await.unwrap();
    assert!(repeat[0].duplicate, "the dedupe window survives");
}

async fn survive(mut case: Case, kill: bool) {
    furnish(&case).await;
    let before = [lasting(case.status().await), lasting(case.status_of("idle").await)];
    for _ in 0..3 {
        if kill {
            case.kill().await;
        } else {
            case.restart().await;
        }
        check_furnished(&case, &before).await;
    }
    let lent = case.claim(10).await;
    assert_eq!(ids(&lent), ["lent", "waiting", "redriven"]);
    assert!(lent.iter().all(|delivery| delivery.attempt == 1 && delivery.crashes == 0), "no attempt is spent");
    case.done(&lent).await;
    case.advance(MINUTE);
    let retried = case.claim_one("retried").await;
    assert_eq!((retried.attempt, retried.history.len()), (2, 1));
    assert_eq!(retried.history[0].message, "no answer");
    case.done(&[retried]).await;
    case.advance(MINUTE * 10);
    let later = case.claim_one("later").await;
    case.done(&[later]).await;
    case.claim_nothing().await;
    // Done: "done", "lent", "waiting", "redriven", "retried", "later". Dead: "buried" and the first "redriven".
    assert_eq!(case.counts().await, [0, 0, 0, 6, 2]);
}

pub(super) async fn everything_survives_a_stop(case: Case) {
    survive(case, false).await;
}

pub(super) async fn everything_survives_a_kill(case: Case) {
    survive(case, true).await;
}

pub(super) async fn streams_and_groups_need_no_second_declaration(mut case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    case.kill().await;
    case.publish_ids(&["2"]).await;
    assert_eq!(ids(&case.claim(10).await), ["1", "2"]);
}

pub(super) async fn positions_go_on_after_a_kill(mut case: Case) {
    case.stream(STREAM).await;
    let mut positions = Vec::new();
    for round in 0..5 {
        for index in 0..3 {
            positions.extend(case.publish_ids(&[&format!("{round}.{index}")]).await);
        }
        case.kill().await;
    }
    assert!(positions.windows(2).all(|pair| pair[0] < pair[1]), "{positions:?}");
    assert_eq!(case.kept(STREAM).await.len(), 15);
    assert_eq!(case.stream_status(STREAM).await.accepted, 15);
}

/// With `mark_claims` a process that dies leaves its mark on what it held; a process that stops in order does not.
pub(super) async fn a_marked_claim_counts_the_crash(mut case: Case) {
    case.stream(STREAM).await;
    case.declare_group(&GroupSpec { mark_claims: true, ..group_spec(GROUP, STREAM) }).await;
    case.publish_ids(&["1", "2"]).await;
    for crashes in 0..3 {
        let held = case.claim_one("1").await;
        assert_eq!(held.crashes, crashes);
        case.kill().await;
    }
    let held = case.claim_one("1").await;
    assert_eq!(held.crashes, 3);
    let second = case.claim_one("2").await;
    assert_eq!(second.crashes, 0, "what was not lent did not crash");
    case.restart().await;
    let crashes: Vec<u32> = case.claim(2).await.iter().map(|delivery| delivery.crashes).collect();
    assert_eq!(crashes, [3, 0], "an orderly stop is no crash");
}

/// What was given back or settled before the process died did not kill it.
pub(super) async fn a_marked_claim_ends_with_its_settle(mut case: Case) {
    case.stream(STREAM).await;
    case.declare_group(&GroupSpec { mark_claims: true, ..group_spec(GROUP, STREAM) }).await;
    case.publish_ids(&["released", "retried"]).await;
    for _ in 0..3 {
        let lent = case.claim(1).await;
        case.settle(&lent[0], Settlement::Release).await;
    }
    let lent = case.claim(2).await;
    case.settle(&lent[0], Settlement::Release).await;
    case.settle(&lent[1], Settlement::RetryAt { at: case.now(), attempts: 1, crashes: 0 }).await;
    case.kill().await;
    let tallies: Vec<(u32, u32)> =
        case.claim(2).await.iter().map(|delivery| (delivery.attempt, delivery.crashes)).collect();
    assert_eq!(tallies, [(1, 0), (2, 0)]);
}

/// Upkeep between the claim and the death must not make the store forget who was at work.
pub(super) async fn a_marked_claim_outlives_upkeep(mut case: Case) {
    case.stream(STREAM).await;
    case.declare_group(&GroupSpec { mark_claims: true, ..group_spec(GROUP, STREAM) }).await;
    case.publish_ids(&["1"]).await;
    case.claim_one("1").await;
    // Enough work beside it that an engine writes down where it stands.
    case.stream("busy").await;
    case.group("other", "busy").await;
    for index in 0..80 {
        let body = tidegate_core::event::Data::Binary(vec![1; 900_000].into());
        case.publish_to("busy", vec![event(&index.to_string()).with_data(body)]).await;
        case.store.upkeep().await.unwrap();
    }
    case.kill().await;
    assert_eq!(case.claim_one("1").await.crashes, 1);
}

pub(super) async fn a_closed_store_answers_nothing(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let delivery = case.claim_one("1").await;
    case.store.close().await.unwrap();
    assert!(case.store.append(&stream_name(STREAM), vec![event("2")]).await.is_err());
    let settled = super::case::settled(delivery.lease.token, DONE);
    let late = case.store.settle(vec![settled]).await;
    assert!(late.is_err() || late.unwrap() == [SettleStatus::LeaseLost]);
}

/// Much work between two restarts, so that upkeep, checkpoints and more than one segment take part.
pub(super) async fn much_work_survives(mut case: Case) {
    case.pair().await;
    let mut next = 0_u64;
    for round in 0..6 {
        for _ in 0..8 {
            let batch = (0..50).map(|index| event(&(next + index).to_string())).collect();
            case.publish(batch).await;
            next += 50;
            let lent = case.claim(40).await;
            case.done(&lent).await;
            case.advance(Duration::from_secs(1));
        }
        case.store.upkeep().await.unwrap();
        if round % 2 == 0 {
            case.restart().await;
        } else {
            case.kill().await;
        }
        let status = case.status().await;
        assert_eq!((status.accepted, status.done), (next, next / 50 * 40));
        assert_eq!(status.waiting, next - next / 50 * 40);
    }
    case.advance(LEASE);
    let mut left = Vec::new();
    loop {
        let lent = case.claim(500).await;
        if lent.is_empty() {
            break;
        }
        case.done(&lent).await;
        left.extend(ids(&lent).into_iter().map(|id| id.parse::<u64>().unwrap()));
    }
    assert_eq!(left, (next / 50 * 40..next).collect::<Vec<_>>(), "everything left comes in order, once");
}

//! Settling: each settlement leads where it says, and everything of one call happens in one commit.

use std::time::Duration;

use tidegate_core::{
    clock::Timestamp,
    delivery::{Attempt, SettleStatus, Settlement},
    fault::{FaultClass, FaultKind},
    limits,
    store::{Broker as _, DeadQuery},
};

use super::case::{Case, DONE, GROUP, STREAM, bury, event, ids, settled, stream_name, stream_spec};

const MINUTE: Duration = Duration::from_secs(60);

fn attempt(at: Timestamp, message: &str) -> Attempt {
    Attempt { at, took: Duration::from_millis(12), class: FaultClass::Transient, message: message.into() }
}

pub(super) async fn done_is_final(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let delivery = case.claim_one("1").await;
    case.settle(&delivery, DONE).await;
    assert_eq!(case.counts().await, [0, 0, 0, 1, 0]);
    assert_eq!(case.status().await.duplicates, 0);
    assert!(case.known("1").await);
    case.claim_nothing().await;
    assert_eq!(case.kept(STREAM).await, ["1"], "what is done stays readable");
}

pub(super) async fn a_skip_is_done_and_not_remembered(case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "2"]).await;
    let delivery = case.claim_one("1").await;
    case.settle(&delivery, Settlement::Skip).await;
    let status = case.status().await;
    assert_eq!((status.done, status.skipped, status.duplicates, status.waiting), (1, 1, 0, 1));
    assert!(!case.known("1").await, "it may run when it is read again");
    case.claim_one("2").await;
    assert_eq!(case.kept(STREAM).await, ["1", "2"]);
}

pub(super) async fn release_spends_nothing(case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "2"]).await;
    for _ in 0..5 {
        let delivery = case.claim_one("1").await;
        assert_eq!((delivery.attempt, delivery.crashes), (1, 0));
        case.settle(&delivery, Settlement::Release).await;
        assert_eq!(case.counts().await, [2, 0, 0, 0, 0]);
    }
}

pub(super) async fn retries_wait_and_count(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    for number in 1..=3 {
        let delivery = case.claim_one("1").await;
        assert_eq!((delivery.attempt, delivery.crashes), (number, number - 1));
        let at = case.now().plus(MINUTE);
        case.settle(&delivery, Settlement::RetryAt { at, attempts: number, crashes: number }).await;
        assert_eq!(case.counts().await, [0, 1, 0, 0, 0]);
        case.advance(MINUTE - Duration::from_millis(1));
        case.claim_nothing().await;
        case.advance(Duration::from_millis(1));
    }
    case.advance(Duration::ZERO);
    let last = case.claim_one("1").await;
    case.done(&[last]).await;
}

pub(super) async fn a_snooze_spends_nothing(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let delivery = case.claim_one("1").await;
    case.settle(&delivery, Settlement::RetryAt { at: case.now().plus(MINUTE), attempts: 0, crashes: 0 }).await;
    case.advance(MINUTE);
    assert_eq!(case.claim_one("1").await.attempt, 1);
}

pub(super) async fn a_retry_in_the_past_runs_at_once(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let delivery = case.claim_one("1").await;
    let at = case.now().minus(MINUTE);
    case.settle(&delivery, Settlement::RetryAt { at, attempts: 1, crashes: 0 }).await;
    assert_eq!(case.claim_one("1").await.attempt, 2);
}

pub(super) async fn the_attempts_go_with_the_delivery(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let mut written = Vec::new();
    for number in 0..limits::HISTORY_MAX + 3 {
        let delivery = case.claim_one("1").await;
        let kept = written.len().min(limits::HISTORY_MAX);
        assert_eq!(delivery.history, written[written.len() - kept..], "the newest are kept, oldest first");
        let attempt = attempt(case.now(), &format!("failure {number}"));
        written.push(attempt.clone());
        case.settle_attempt(&delivery, case.retry(&delivery, MINUTE), attempt).await;
        case.advance(MINUTE);
    }
    let delivery = case.claim_one("1").await;
    case.settle_attempt(&delivery, bury("the end"), attempt(case.now(), "the last")).await;
    let dead = case.dead(&DeadQuery { limit: 1, ..DeadQuery::default() }).await;
    assert_eq!(dead[0].attempts.len(), limits::HISTORY_MAX);
    assert_eq!(dead[0].attempts.last().map(|attempt| &*attempt.message), Some("the last"));
}

pub(super) async fn all_kinds_in_one_commit(case: Case) {
    case.pair().await;
    case.publish_ids(&["done", "released", "retried", "buried", "kept"]).await;
    let all = case.claim(5).await;
    let settlements = [DONE, Settlement::Release, case.retry(&all[2], MINUTE), bury("bad")];
    let commit = all.iter().zip(settlements).map(|(delivery, settlement)| settled(delivery.lease.token, settlement));
    let answer = case.store.settle(commit.collect()).await.unwrap();
    assert_eq!(answer, [SettleStatus::Settled; 4]);
    assert_eq!(case.counts().await, [1, 1, 1, 1, 1]);
    assert_eq!(ids(&case.claim(5).await), ["released"]);
    case.advance(MINUTE);
    // All leases ran out as well, which is a crash for two of the three.
    let mut again: Vec<(String, u32)> =
        case.claim(5).await.iter().map(|delivery| (delivery.event.id.to_string(), delivery.crashes)).collect();
    again.sort();
    assert_eq!(again, [("kept".into(), 1), ("released".into(), 1), ("retried".into(), 0)]);
}

pub(super) async fn an_empty_settle_is_nothing(case: Case) {
    case.pair().await;
    assert_eq!(case.store.settle(Vec::new()).await.unwrap(), []);
}

pub(super) async fn several_groups_settle_in_one_commit(case: Case) {
    case.pair().await;
    case.group("h", STREAM).await;
    case.publish_ids(&["1"]).await;
    let one = case.claim_one("1").await;
    let other = case.claim_all_of("h", 1).await.deliveries;
    let commit = vec![settled(one.lease.token, DONE), settled(other[0].lease.token, bury("bad"))];
    assert_eq!(case.store.settle(commit).await.unwrap(), [SettleStatus::Settled; 2]);
    assert_eq!(case.counts().await, [0, 0, 0, 1, 0]);
    assert_eq!(case.status_of("h").await.dead, 1);
}

pub(super) async fn outputs_come_with_the_settlement(mut case: Case) {
    case.pair().await;
    case.stream("out").await;
    case.group("reader", "out").await;
    case.publish_ids(&["1", "2"]).await;
    let all = case.claim(2).await;
    let outputs = |name: &str| {
        let made = |part: &str| (stream_name("out"), event(&format!("{name}.{part}")));
        Settlement::Done(vec![made("a"), made("b"), (stream_name(STREAM), event(&format!("{name}.again")))])
    };
    case.settle(&all[0], outputs("1")).await;
    case.settle(&all[1], outputs("2")).await;
    for _ in 0..2 {
        assert_eq!(case.kept("out").await, ["1.a", "1.b", "2.a", "2.b"]);
        assert_eq!(case.kept(STREAM).await, ["1", "2", "1.again", "2.again"]);
        assert_eq!(case.status_of("reader").await.waiting, 4);
        assert_eq!(case.counts().await, [2, 0, 0, 2, 0]);
        if !case.store.promises().durable {
            break;
        }
        case.restart().await;
    }
}

pub(super) async fn outputs_to_nowhere_settle_nothing(case: Case) {
    case.pair().await;
    case.stream("out").await;
    case.publish_ids(&["1", "2"]).await;
    let all = case.claim(2).await;
    let outputs = vec![(stream_name("out"), event("made")), (stream_name("nowhere"), event("lost"))];
    let commit = vec![settled(all[0].lease.token, DONE), settled(all[1].lease.token, Settlement::Done(outputs))];
    let fault = case.store.settle(commit).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing, "{fault:?}");
    assert_eq!(case.kept("out").await, [] as [&str; 0]);
    assert_eq!(case.counts().await, [0, 0, 2, 0, 0], "all of the commit or nothing");
    case.done(&all).await;
}

/// A settle must not fail because the stream of its outputs is full: the work is done, and it would be done again.
pub(super) async fn outputs_are_not_refused_for_backlog(case: Case) {
    case.pair().await;
    let mut out = stream_spec("out");
    out.max_backlog = Some(1);
    case.declare_stream(&out).await;
    case.group("reader", "out").await;
    case.publish_to("out", vec![event("first")]).await;
    case.publish_ids(&["1"]).await;
    let delivery = case.claim_one("1").await;
    case.settle(&delivery, Settlement::Done(vec![(stream_name("out"), event("second"))])).await;
    assert_eq!(case.kept("out").await, ["first", "second"]);
    assert!(case.store.append(&stream_name("out"), vec![event("third")]).await.is_err());
}

pub(super) async fn a_settle_is_readable_at_once(case: Case) {
    case.pair().await;
    for index in 0..20 {
        let id = index.to_string();
        case.publish_ids(&[&id]).await;
        let delivery = case.claim_one(&id).await;
        case.settle(&delivery, DONE).await;
        assert_eq!(case.status().await.done, index + 1);
        assert!(case.known(&id).await);
    }
    let all = case.status_of(GROUP).await;
    assert_eq!((all.accepted, all.done), (20, 20));
}

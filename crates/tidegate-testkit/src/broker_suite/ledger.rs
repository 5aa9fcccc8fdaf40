//! The ledger: what is done is not done again, however often it comes.

use std::time::Duration;

use tidegate_core::{
    event::Event,
    fault::FaultKind,
    store::{Broker as _, GroupSpec, Ledger as _},
};

use super::case::{Case, DONE, GROUP, SOURCE, STREAM, bury, event, group_name, group_spec, ids};

const HOUR: Duration = Duration::from_secs(3600);

async fn run(case: &Case, id: &str) {
    case.publish_ids(&[id]).await;
    let delivery = case.claim_one(id).await;
    case.settle(&delivery, DONE).await;
}

pub(super) async fn a_repeated_event_is_not_lent_again(case: Case) {
    case.pair().await;
    run(&case, "1").await;
    case.publish_ids(&["1", "2", "1"]).await;
    let claimed = case.claim_all_of(GROUP, 10).await;
    assert_eq!((ids(&claimed.deliveries), claimed.duplicates), (vec!["2".to_owned()], 2));
    case.done(&claimed.deliveries).await;
    let status = case.status().await;
    assert_eq!((status.accepted, status.done, status.duplicates), (4, 4, 2));
}

pub(super) async fn a_repeat_that_waits_while_the_first_runs(case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "1"]).await;
    let first = case.claim(1).await;
    case.done(&first).await;
    case.advance(Duration::from_secs(1));
    let claimed = case.claim_all_of(GROUP, 10).await;
    assert_eq!((claimed.deliveries.len(), claimed.duplicates), (0, 1));
    assert_eq!(case.counts().await, [0, 0, 0, 2, 0]);
}

/// Two events of one name are not run at the same time: the second one waits for what the first one comes to.
pub(super) async fn twins_do_not_run_side_by_side(case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "1"]).await;
    let first = case.claim_one("1").await;
    case.claim_nothing().await;
    assert_eq!(case.status().await.in_flight, 1);
    case.settle(&first, case.retry(&first, HOUR)).await;
    case.advance(Duration::from_secs(10));
    let second = case.claim_one("1").await;
    assert_ne!(second.position, first.position, "the first one waits for its retry");
    case.settle(&second, DONE).await;
    case.advance(HOUR - Duration::from_secs(10));
    assert_eq!(case.claim_all_of(GROUP, 10).await.duplicates, 1);
    assert_eq!(case.counts().await, [0, 0, 0, 2, 0]);
}

pub(super) async fn the_ledger_answers(case: Case) {
    case.pair().await;
    run(&case, "done").await;
    case.publish_ids(&["waiting", "buried"]).await;
    let lent = case.claim(2).await;
    case.settle(&lent[1], bury("bad")).await;
    let ask = |source: &str, id: &str| (source.into(), id.into());
    let asked = [ask(SOURCE, "done"), ask(SOURCE, "waiting"), ask(SOURCE, "buried"), ask("/other", "done")];
    let answer = case.store.done(&group_name(GROUP), &asked).await.unwrap();
    assert_eq!(answer, [true, false, false, false]);
    assert!(case.store.done(&group_name(GROUP), &[]).await.unwrap().is_empty());
    let fault = case.store.done(&group_name("no"), &asked).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing);
}

pub(super) async fn each_group_has_its_own(case: Case) {
    case.pair().await;
    case.group("h", STREAM).await;
    run(&case, "1").await;
    case.publish_ids(&["1"]).await;
    let other = case.claim_all_of("h", 1).await;
    assert_eq!((ids(&other.deliveries), other.duplicates), (vec!["1".to_owned()], 0));
    assert_eq!(case.claim_all_of(GROUP, 10).await.duplicates, 1);
}

pub(super) async fn another_source_is_another_event(case: Case) {
    case.pair().await;
    run(&case, "1").await;
    case.publish(vec![Event::new("1", "/elsewhere", "suite.tested")]).await;
    assert_eq!(ids(&case.claim(10).await), ["1"]);
}

pub(super) async fn what_is_forgotten_runs_again(mut case: Case) {
    case.pair().await;
    run(&case, "1").await;
    let group = group_name(GROUP);
    assert!(!case.store.forget(&group, SOURCE, "unknown").await.unwrap());
    assert!(!case.store.forget(&group, "/elsewhere", "1").await.unwrap());
    assert!(case.store.forget(&group, SOURCE, "1").await.unwrap());
    assert!(!case.store.forget(&group, SOURCE, "1").await.unwrap(), "it is forgotten already");
    assert!(!case.known("1").await);
    if case.store.promises().durable {
        case.restart().await;
        assert!(!case.known("1").await);
    }
    run(&case, "1").await;
    assert!(case.known("1").await);
    assert_eq!(case.counts().await, [0, 0, 0, 2, 0]);
}

pub(super) async fn entries_are_kept_for_their_time(case: Case) {
    case.pair().await;
    run(&case, "1").await;
    case.advance(HOUR - Duration::from_secs(1));
    case.store.upkeep().await.unwrap();
    assert!(case.known("1").await);
    case.publish_ids(&["1"]).await;
    assert_eq!(case.claim_all_of(GROUP, 1).await.duplicates, 1);
    case.advance(HOUR * 30);
    case.store.upkeep().await.unwrap();
    run(&case, "2").await;
    assert!(!case.known("1").await, "thirty hours later nobody knows it");
    run(&case, "1").await;
}

pub(super) async fn without_a_ledger_everything_runs(case: Case) {
    case.stream(STREAM).await;
    case.declare_group(&GroupSpec { ledger: None, ..group_spec(GROUP, STREAM) }).await;
    run(&case, "1").await;
    run(&case, "1").await;
    assert!(!case.known("1").await);
    let status = case.status().await;
    assert_eq!((status.done, status.duplicates), (2, 0));
}

pub(super) async fn its_size_is_known(case: Case) {
    case.pair().await;
    let group = group_name(GROUP);
    assert_eq!(case.store.ledger_status(&group).await.unwrap().entries, 0);
    for index in 0..30 {
        run(&case, &index.to_string()).await;
    }
    let status = case.store.ledger_status(&group).await.unwrap();
    assert_eq!(status.entries, 30);
    assert!(status.memory_bytes + status.disk_bytes > 0);
    let fault = case.store.ledger_status(&group_name("no")).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing);
}

pub(super) async fn thousands_are_remembered(mut case: Case) {
    case.pair().await;
    let ids: Vec<String> = (0..3000).map(|index| format!("e{index}")).collect();
    for part in ids.chunks(500) {
        case.publish(part.iter().map(|id| event(id)).collect()).await;
        let mut left = part.len();
        while left > 0 {
            let lent = case.claim(500).await;
            left -= lent.len();
            case.done(&lent).await;
        }
        case.store.upkeep().await.unwrap();
    }
    for _ in 0..2 {
        let asked: Vec<_> = ids.iter().map(|id| (SOURCE.into(), id.as_str().into())).collect();
        let answer = case.store.done(&group_name(GROUP), &asked).await.unwrap();
        assert_eq!(answer.iter().filter(|known| **known).count(), 3000);
        let unknown: Vec<_> = (0..500).map(|index| (SOURCE.into(), format!("n{index}").into())).collect();
        let answer = case.store.done(&group_name(GROUP), &unknown).await.unwrap();
        assert!(answer.iter().all(|known| !known), "what was never done is not known");
        if !case.store.promises().durable {
            break;
        }
        case.restart().await;
    }
    assert_eq!(case.store.ledger_status(&group_name(GROUP)).await.unwrap().entries, 3000);
}

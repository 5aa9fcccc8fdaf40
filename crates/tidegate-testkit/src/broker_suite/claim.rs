//! Claiming and leases: what is lent, to how many at a time, and what happens when nobody comes back.

use std::time::Duration;

use futures::future::join_all;
use tidegate_core::{
    event::Data,
    fault::FaultKind,
    limits,
    store::{Broker as _, Claim},
};

use super::case::{Case, DONE, GROUP, LEASE, STREAM, event, group_name, group_spec, ids};

pub(super) async fn lends_in_order_and_never_twice(case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "2", "3", "4", "5"]).await;
    assert_eq!(ids(&case.claim(0).await), [] as [&str; 0]);
    assert_eq!(ids(&case.claim(2).await), ["1", "2"]);
    assert_eq!(ids(&case.claim(2).await), ["3", "4"]);
    assert_eq!(ids(&case.claim(2).await), ["5"]);
    case.claim_nothing().await;
    assert_eq!(case.counts().await, [0, 0, 5, 0, 0]);
}

pub(super) async fn a_first_delivery_is_fresh(case: Case) {
    case.pair().await;
    let position = case.publish_ids(&["1"]).await[0];
    let delivery = case.claim_one("1").await;
    assert_eq!((delivery.attempt, delivery.crashes), (1, 0));
    assert_eq!((delivery.position, delivery.stream.as_str()), (position, STREAM));
    assert!(delivery.history.is_empty());
}

pub(super) async fn groups_are_lent_everything_each(case: Case) {
    case.pair().await;
    case.group("h", STREAM).await;
    case.publish_ids(&["1", "2"]).await;
    case.done(&case.claim(10).await).await;
    assert_eq!(ids(&case.claim_all_of("h", 10).await.deliveries), ["1", "2"]);
    let status = case.status_of("h").await;
    assert_eq!((status.accepted, status.in_flight, status.done), (2, 2, 0));
    let fault =
        case.store.claim(&Claim { group: group_name("no"), max: 1, lease: LEASE, before: None }).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing);
}

pub(super) async fn one_claim_has_limits(case: Case) {
    case.pair().await;
    case.publish((0..limits::CLAIM_MAX + 5).map(|index| event(&index.to_string())).collect()).await;
    let lent = case.claim(usize::MAX).await;
    assert!(lent.len() <= limits::CLAIM_MAX, "{} deliveries in one claim", lent.len());
    assert!(lent.len() >= 100, "only {} deliveries in one claim", lent.len());
}

pub(super) async fn one_claim_has_a_limit_of_bytes(case: Case) {
    case.pair().await;
    for index in 0..12 {
        case.publish(vec![event(&index.to_string()).with_data(Data::Binary(vec![1; 1_000_000].into()))]).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 12 {
        let lent = case.claim(12).await;
        assert!(!lent.is_empty(), "at least one is lent whatever its size");
        let bytes: usize = lent.iter().map(|delivery| delivery.event.size()).sum();
        assert!(bytes <= limits::CLAIM_BYTES_MAX, "{bytes} bytes in one claim");
        seen.extend(ids(&lent));
    }
    assert_eq!(seen, (0..12).map(|index| index.to_string()).collect::<Vec<_>>());
}

pub(super) async fn a_lease_that_ran_out_counts_as_a_crash(case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "2"]).await;
    let first = case.claim_one("1").await;
    case.advance(LEASE - Duration::from_millis(1));
    assert_eq!(ids(&case.claim(10).await), ["2"], "the lease of the first still holds");
    case.advance(Duration::from_millis(2));
    let claimed = case.claim_all_of(GROUP, 10).await;
    assert_eq!(ids(&claimed.deliveries), ["1"]);
    assert_eq!(claimed.leases_lost, 1);
    let again = &claimed.deliveries[0];
    assert_eq!(again.crashes, 1);
    assert!(again.attempt >= first.attempt);
    assert!(again.lease.token.epoch > first.lease.token.epoch || again.lease.token.owner != first.lease.token.owner);
    let status = case.status().await;
    assert_eq!((status.leases_lost, status.in_flight, status.waiting), (1, 2, 0));
    case.advance(LEASE * 2);
    let crashes: Vec<(String, u32)> =
        case.claim(10).await.iter().map(|delivery| (delivery.event.id.to_string(), delivery.crashes)).collect();
    assert_eq!(crashes, [("1".to_owned(), 2), ("2".to_owned(), 1)]);
}

pub(super) async fn a_lease_that_ran_out_is_waiting(case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "2", "3"]).await;
    let lent = case.claim(2).await;
    case.advance(LEASE - Duration::from_millis(1));
    assert_eq!(case.counts().await, [1, 0, 2, 0, 0]);
    assert_eq!(case.store.extend(&[lent[1].lease.token], case.now().plus(LEASE)).await.unwrap(), [true]);
    case.advance(Duration::from_millis(2));
    // The worker is gone, and nobody has claimed since.
    assert_eq!(case.counts().await, [2, 0, 1, 0, 0]);
    let oldest = case.status().await.oldest_waiting;
    assert!(oldest.is_some_and(|oldest| oldest >= LEASE), "{oldest:?}");
    // Which of the two comes first is the engine's affair: one has to be taken back before.
    let mut again = ids(&case.claim(10).await);
    again.sort();
    assert_eq!(again, ["1", "3"]);
    assert_eq!(case.counts().await, [0, 0, 3, 0, 0]);
}

pub(super) async fn settled_in_time_never_comes_back(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let delivery = case.claim_one("1").await;
    case.settle(&delivery, DONE).await;
    case.advance(LEASE * 10);
    let claimed = case.claim_all_of(GROUP, 10).await;
    assert_eq!((claimed.deliveries.len(), claimed.leases_lost, claimed.duplicates), (0, 0, 0));
}

pub(super) async fn an_empty_group_says_when_to_come_again(case: Case) {
    case.pair().await;
    assert_eq!(case.claim_all_of(GROUP, 1).await.next_due, None);
    case.publish_ids(&["1"]).await;
    let delivery = case.claim_one("1").await;
    let due = case.now().plus(Duration::from_secs(7));
    case.settle(&delivery, case.retry(&delivery, Duration::from_secs(7))).await;
    let claimed = case.claim_all_of(GROUP, 1).await;
    assert!(claimed.deliveries.is_empty());
    assert_eq!(claimed.next_due, Some(due));
}

pub(super) async fn wait_returns_for_work(case: Case) {
    case.pair().await;
    let group = group_name(GROUP);
    let until = case.now().plus(Duration::from_secs(3600));
    let waited = async {
        let work = async {
            tokio::task::yield_now().await;
            case.publish_ids(&["1"]).await;
        };
        tokio::join!(case.store.wait(&group, until), work);
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), waited).await;
    assert!(answer.is_ok(), "nobody woke up for the new event");
    let waits = tokio::time::timeout(Duration::from_secs(20), case.store.wait(&group, until)).await;
    assert!(waits.is_ok(), "there is work already");
    let lent = case.claim_one("1").await;
    let ended = async {
        tokio::join!(case.store.wait(&group, until), async {
            tokio::task::yield_now().await;
            case.settle(&lent, tidegate_core::delivery::Settlement::Release).await;
        })
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), ended).await.is_ok(), "a release is work");
}

pub(super) async fn the_age_is_that_of_the_oldest_that_may_run(case: Case) {
    case.pair().await;
    assert_eq!(case.status().await.oldest_waiting, None);
    case.publish_ids(&["1"]).await;
    case.advance(Duration::from_secs(10));
    case.publish_ids(&["2"]).await;
    case.advance(Duration::from_secs(5));
    assert_eq!(case.status().await.oldest_waiting, Some(Duration::from_secs(15)));
    let first = case.claim_one("1").await;
    assert_eq!(case.status().await.oldest_waiting, Some(Duration::from_secs(5)));
    case.settle(&first, case.retry(&first, Duration::from_secs(100))).await;
    assert_eq!(case.status().await.oldest_waiting, Some(Duration::from_secs(5)), "a scheduled one does not wait");
    case.done(&case.claim(10).await).await;
    assert_eq!(case.status().await.oldest_waiting, None);
}

/// Many claimers at once: each event is lent once and done once.
pub(super) async fn claimers_do_not_get_in_each_others_way(case: Case) {
    let mut spec = group_spec(GROUP, STREAM);
    spec.mark_claims = true;
    case.stream(STREAM).await;
    case.declare_group(&spec).await;
    for batch in 0..8 {
        case.publish((0..50).map(|index| event(&format!("{batch}.{index}"))).collect()).await;
    }
    let worker = || async {
        let mut mine = Vec::new();
        loop {
            let lent = case.claim(7).await;
            if lent.is_empty() {
                return mine;
            }
            case.done(&lent).await;
            mine.extend(ids(&lent));
        }
    };
    let mut all: Vec<String> = join_all((0..8).map(|_| worker())).await.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 400);
    assert_eq!(case.counts().await, [0, 0, 0, 400, 0]);
}

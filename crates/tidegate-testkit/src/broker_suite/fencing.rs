//! Fencing: who lost a lease settles nothing any more.

use tidegate_core::{
    delivery::{LeaseToken, Position, SettleStatus, Settlement},
    store::Broker as _,
};

use super::case::{Case, DONE, GROUP, LEASE, STREAM, bury, event, group_name, ids, settled, stream_name};

pub(super) async fn a_late_settle_is_refused_and_counted(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let late = case.claim_one("1").await;
    case.advance(LEASE * 2);
    let now = case.claim_one("1").await;
    let before = case.status().await;
    for settlement in [DONE, Settlement::Release, case.retry(&late, LEASE), bury("late")] {
        assert_eq!(case.try_settle(&late, settlement.clone()).await, SettleStatus::LeaseLost, "{settlement:?}");
    }
    let after = case.status().await;
    assert_eq!(after.leases_lost, before.leases_lost + 4);
    assert_eq!((after.in_flight, after.done, after.dead), (1, 0, 0), "nothing was done");
    assert!(!case.known("1").await);
    case.settle(&now, DONE).await;
}

/// The lease ran out but nobody took the delivery yet: either answer is good, if the store means it.
pub(super) async fn an_expired_lease_is_settled_or_lost_never_both(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let late = case.claim_one("1").await;
    case.advance(LEASE * 2);
    let answer = case.try_settle(&late, DONE).await;
    let again = case.claim(10).await;
    match answer {
        SettleStatus::Settled => assert!(again.is_empty(), "it was settled and is lent again"),
        SettleStatus::LeaseLost => assert_eq!(ids(&again), ["1"]),
    }
}

pub(super) async fn a_second_settle_is_refused(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let delivery = case.claim_one("1").await;
    case.settle(&delivery, DONE).await;
    assert_eq!(case.try_settle(&delivery, bury("again")).await, SettleStatus::LeaseLost);
    assert_eq!(case.counts().await, [0, 0, 0, 1, 0]);
    case.publish_ids(&["2"]).await;
    let released = case.claim_one("2").await;
    case.settle(&released, Settlement::Release).await;
    assert_eq!(case.try_settle(&released, DONE).await, SettleStatus::LeaseLost);
    assert_eq!(case.counts().await, [1, 0, 0, 1, 0]);
}

pub(super) async fn one_token_twice_in_one_commit_counts_once(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let token = case.claim_one("1").await.lease.token;
    let answer = case.store.settle(vec![settled(token, DONE), settled(token, bury("no"))]).await.unwrap();
    assert_eq!(answer, [SettleStatus::Settled, SettleStatus::LeaseLost]);
    assert_eq!(case.counts().await, [0, 0, 0, 1, 0]);
}

pub(super) async fn the_living_are_settled_beside_the_lost(case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "2", "3"]).await;
    let all = case.claim(3).await;
    case.settle(&all[1], Settlement::Release).await;
    let commit = all.iter().map(|delivery| settled(delivery.lease.token, DONE)).collect();
    let answer = case.store.settle(commit).await.unwrap();
    assert_eq!(answer, [SettleStatus::Settled, SettleStatus::LeaseLost, SettleStatus::Settled]);
    assert_eq!(case.counts().await, [1, 0, 0, 2, 0]);
    assert_eq!(ids(&case.claim(3).await), ["2"]);
}

pub(super) async fn made_up_tokens_are_lost(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let good = case.claim_one("1").await.lease.token;
    let forged = [
        LeaseToken { owner: good.owner ^ 1, ..good },
        LeaseToken { group: good.group + 1000, ..good },
        LeaseToken { position: Position::number(good.position.low + 1000), ..good },
        LeaseToken { epoch: good.epoch + 1, ..good },
    ];
    for token in forged {
        assert_eq!(case.store.settle(vec![settled(token, DONE)]).await.unwrap(), [SettleStatus::LeaseLost]);
        assert_eq!(case.store.extend(&[token], case.now().plus(LEASE)).await.unwrap(), [false]);
    }
    assert_eq!(case.counts().await, [0, 0, 1, 0, 0]);
}

pub(super) async fn a_lost_settle_publishes_nothing(case: Case) {
    case.pair().await;
    case.stream("out").await;
    case.publish_ids(&["1"]).await;
    let late = case.claim_one("1").await;
    case.advance(LEASE * 2);
    case.claim_one("1").await;
    let outputs = Settlement::Done(vec![(stream_name("out"), event("made"))]);
    assert_eq!(case.try_settle(&late, outputs).await, SettleStatus::LeaseLost);
    assert_eq!(case.kept("out").await, [] as [&str; 0]);
    assert_eq!(case.dead(&tidegate_core::store::DeadQuery { limit: 10, ..Default::default() }).await.len(), 0);
}

pub(super) async fn a_removed_group_settles_nothing(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let delivery = case.claim_one("1").await;
    case.store.remove_group(&group_name(GROUP)).await.unwrap();
    assert_eq!(case.try_settle(&delivery, DONE).await, SettleStatus::LeaseLost);
    case.group(GROUP, STREAM).await;
    assert_eq!(case.try_settle(&delivery, DONE).await, SettleStatus::LeaseLost, "the new group is another one");
    assert_eq!(case.counts().await, [1, 0, 0, 0, 0]);
}

pub(super) async fn a_restart_loses_every_lease(mut case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "2"]).await;
    let before = case.claim(2).await;
    case.restart().await;
    let again = case.claim(1).await;
    assert_eq!(ids(&again), ["1"]);
    assert_ne!(again[0].lease.token, before[0].lease.token);
    for delivery in &before {
        assert_eq!(case.try_settle(delivery, DONE).await, SettleStatus::LeaseLost);
    }
    case.done(&again).await;
}

pub(super) async fn extend_moves_the_end_of_a_lease(case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "2"]).await;
    let all = case.claim(2).await;
    let until = case.now().plus(LEASE * 3);
    assert_eq!(case.store.extend(&[all[0].lease.token], until).await.unwrap(), [true]);
    case.advance(LEASE * 2);
    assert_eq!(ids(&case.claim(10).await), ["2"], "only the lease that was not extended ran out");
    let tokens = [all[0].lease.token, all[1].lease.token];
    assert_eq!(case.store.extend(&tokens, case.now().plus(LEASE * 2)).await.unwrap(), [true, false]);
    case.advance(LEASE + LEASE / 2);
    case.settle(&all[0], DONE).await;
    assert_eq!(case.store.extend(&tokens[..1], until).await.unwrap(), [false], "a settled one has no lease");
}

pub(super) async fn an_extended_lease_still_ends(case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let delivery = case.claim_one("1").await;
    for _ in 0..3 {
        case.advance(LEASE / 2);
        assert_eq!(case.store.extend(&[delivery.lease.token], case.now().plus(LEASE)).await.unwrap(), [true]);
        case.claim_nothing().await;
    }
    case.advance(LEASE + LEASE / 2);
    let again = case.claim_one("1").await;
    assert_eq!(again.crashes, 1);
    assert_eq!(case.try_settle(&delivery, DONE).await, SettleStatus::LeaseLost);
}

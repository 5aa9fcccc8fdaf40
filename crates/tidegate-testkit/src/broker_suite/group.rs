//! Groups: where they start, what a second declaration does, and that a removed one holds nothing back.

use std::time::Duration;

use tidegate_core::{
    fault::FaultKind,
    names::GroupName,
    store::{Broker as _, Claim, GroupSpec, OnFailure, Start},
};

use super::case::{Case, DONE, GROUP, LEASE, STREAM, group_name, group_spec, ids, stream_spec};

pub(super) async fn a_group_starts_where_it_says(mut case: Case) {
    case.stream(STREAM).await;
    case.publish_ids(&["1", "2"]).await;
    case.declare_group(&group_spec("earliest", STREAM)).await;
    case.declare_group(&GroupSpec { start: Start::Latest, ..group_spec("latest", STREAM) }).await;
    case.publish_ids(&["3"]).await;
    if case.store.promises().durable {
        case.kill().await;
    }
    assert_eq!(case.status_of("earliest").await.accepted, 3);
    assert_eq!(case.status_of("latest").await.accepted, 1);
    assert_eq!(ids(&case.claim_all_of("earliest", 10).await.deliveries), ["1", "2", "3"]);
    assert_eq!(ids(&case.claim_all_of("latest", 10).await.deliveries), ["3"]);
}

pub(super) async fn declaring_again_moves_nothing(case: Case) {
    case.pair().await;
    case.publish_ids(&["1", "2", "3"]).await;
    let first = case.claim_one("1").await;
    case.settle(&first, DONE).await;
    let second = case.claim_one("2").await;
    let mut spec = GroupSpec { start: Start::Latest, ..group_spec(GROUP, STREAM) };
    spec.ledger = Some(Duration::from_secs(7200));
    spec.on_failure = OnFailure::Block;
    case.declare_group(&spec).await;
    case.stream(STREAM).await;
    assert_eq!(case.counts().await, [1, 0, 1, 1, 0]);
    case.settle(&second, DONE).await;
    case.claim_one("3").await;
}

pub(super) async fn a_group_stays_with_its_stream(case: Case) {
    case.pair().await;
    case.stream("other").await;
    let fault = case.store.declare_group(&group_spec(GROUP, "other")).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Conflict, "{fault:?}");
    assert_eq!(case.status().await.stream.as_str(), STREAM);
    let fault = case.store.declare_group(&group_spec("new", "nowhere")).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing);
    assert!(case.store.group(&group_name("new")).await.is_err());
}

pub(super) async fn everything_is_listed(case: Case) {
    case.pair().await;
    case.stream("other").await;
    case.group("h", STREAM).await;
    let groups: Vec<GroupName> = case.store.groups().await.unwrap().into_iter().map(|group| group.name).collect();
    assert_eq!(groups.len(), 2);
    assert!(groups.contains(&group_name(GROUP)) && groups.contains(&group_name("h")));
    let mut readers = case.stream_status(STREAM).await.groups;
    readers.sort();
    assert_eq!(readers, [group_name(GROUP), group_name("h")]);
    assert!(case.stream_status("other").await.groups.is_empty());
    let dead = case.stream_status("other.dlq").await;
    assert_eq!((dead.count, dead.accepted), (0, 0), "dead-letter streams come with their streams");
}

pub(super) async fn a_removed_group_is_gone(mut case: Case) {
    case.pair().await;
    case.group("stays", STREAM).await;
    case.publish_ids(&["1", "2"]).await;
    case.done(&case.claim(1).await).await;
    case.store.remove_group(&group_name(GROUP)).await.unwrap();
    for _ in 0..2 {
        let ask = Claim { group: group_name(GROUP), max: 1, lease: LEASE, before: None };
        assert_eq!(case.store.claim(&ask).await.unwrap_err().kind, FaultKind::Missing);
        assert_eq!(case.store.group(&group_name(GROUP)).await.unwrap_err().kind, FaultKind::Missing);
        assert_eq!(case.store.remove_group(&group_name(GROUP)).await.unwrap_err().kind, FaultKind::Missing);
        assert_eq!(case.store.groups().await.unwrap().len(), 1);
        if !case.store.promises().durable {
            break;
        }
        case.restart().await;
    }
    case.group(GROUP, STREAM).await;
    assert_eq!(case.counts().await, [2, 0, 0, 0, 0], "a new group of the same name starts anew");
    assert!(!case.known("1").await, "its ledger is new as well");
    assert_eq!(ids(&case.claim(10).await), ["1", "2"]);
}

pub(super) async fn many_groups_and_streams_live_together(mut case: Case) {
    let names: Vec<String> = (0..40).map(|index| format!("n{index}")).collect();
    for name in &names {
        case.declare_stream(&stream_spec(name)).await;
        case.group(name, name).await;
        case.publish_to(name, vec![super::case::event(name)]).await;
    }
    if case.store.promises().durable {
        case.restart().await;
    }
    for name in &names {
        let lent = case.claim_all_of(name, 10).await.deliveries;
        assert_eq!(ids(&lent), [name.as_str()]);
        case.done(&lent).await;
    }
}

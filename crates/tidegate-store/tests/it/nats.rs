//! What only a NATS server outside of the process can do to a store: die, stop, hang, lose its data; and what nodes do
//! that share one.

use std::{sync::Arc, time::Duration};

use tidegate_core::{
    clock::Clock,
    delivery::{SettleStatus, Settlement},
    event::Data,
    fault::FaultKind,
    store::{Broker as _, Claim, Durability, GroupSpec, StreamSpec},
};
use tidegate_store::nats::{NatsOptions, NatsStore};
use tidegate_testkit::NatsServer;

use crate::trouble::{TOPIC, claim, claim_some, counts, declare, event, group, ids, kept, settled, stream, under_load};

/// A node with a folder of its own.
struct Node {
    store: Arc<NatsStore>,
    _dir: tempfile::TempDir,
}

impl std::ops::Deref for Node {
    type Target = NatsStore;

    fn deref(&self) -> &NatsStore {
        &self.store
    }
}

async fn open(server: &NatsServer, node: &str, timeout: Duration, takeover: Duration) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let options =
        NatsOptions { node: node.to_owned(), timeout, takeover, ..NatsOptions::new(server.url(), dir.path()) };
    Node { store: NatsStore::open(options).await.unwrap(), _dir: dir }
}

const TEN: Duration = Duration::from_secs(10);

/// A store with a stream and a group that reads it.
async fn opened(server: &NatsServer, node: &str) -> Node {
    let node = open(server, node, TEN, TEN).await;
    declare(&*node.store).await;
    node
}

/// SAFETY-OF-DATA: the answer comes after the server has acknowledged, and a verb is one message or none.
#[tokio::test]
async fn a_server_that_is_killed_loses_nothing_that_was_acknowledged() {
    let mut server = NatsServer::start();
    let node = opened(&server, "a").await;
    under_load(&mut server, &*node.store, async |server| {
        server.kill();
        server.run_again();
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_started_again_under_load_loses_nothing() {
    let mut server = NatsServer::start();
    let node = opened(&server, "a").await;
    under_load(&mut server, &*node.store, async |server| {
        server.stop();
        server.run_again();
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_under_load_does_nothing_twice() {
    let mut server = NatsServer::start();
    let node = open(&server, "a", Duration::from_millis(500), TEN).await;
    declare(&*node.store).await;
    under_load(&mut server, &*node.store, async |server| {
        server.pause();
        while node.status().refusing.is_none() {
            tokio::task::yield_now().await;
        }
        server.resume();
    })
    .await;
}

/// The same through a node that does not lead: calls and answers are lost on the way.
#[tokio::test]
async fn a_server_that_is_killed_under_a_follower_loses_nothing() {
    let mut server = NatsServer::start();
    let _leads = opened(&server, "a").await;
    let node = open(&server, "b", Duration::from_millis(1500), TEN).await;
    under_load(&mut server, &*node.store, async |server| {
        server.kill();
        server.run_again();
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_is_a_fault_in_time_and_nobody_stays_deaf() {
    let server = NatsServer::start();
    let leads = open(&server, "a", Duration::from_millis(500), TEN).await;
    declare(&*leads.store).await;
    let follows = open(&server, "b", Duration::from_millis(500), TEN).await;
    leads.append(&stream(TOPIC), vec![event("1")]).await.unwrap();
    server.pause();
    let watch = Clock::real().stopwatch();
    for node in [&leads, &follows] {
        let fault = node.append(&stream(TOPIC), vec![event("2")]).await.unwrap_err();
        assert!(matches!(fault.kind, FaultKind::Timeout | FaultKind::Unavailable), "{fault:?}");
    }
    follows.wait(&group(), Clock::real().now().plus(Duration::from_millis(200))).await;
    assert!(watch.elapsed() < TEN, "{:?}", watch.elapsed());
    server.resume();
    for node in [&leads, &follows] {
        while let Err(fault) = node.append(&stream(TOPIC), vec![event("2"), event("3")]).await {
            assert!(matches!(fault.kind, FaultKind::Timeout | FaultKind::Unavailable), "{fault:?}");
        }
    }
    let mut lent = Vec::new();
    while lent.len() < 3 {
        let ask = Claim { group: group(), max: 3, lease: Duration::from_secs(30), before: None };
        lent.extend(follows.claim(&ask).await.map(|claimed| claimed.deliveries).unwrap_or_default());
    }
    assert!(lent.iter().all(|delivery| (delivery.attempt, delivery.crashes) == (1, 0)));
    assert_eq!(counts(&*leads.store).await.accepted, 3, "what was sent twice is there once");
}

#[tokio::test]
async fn nodes_share_the_work_of_a_group() {
    let server = NatsServer::start();
    let (one, two) = (opened(&server, "one").await, opened(&server, "two").await);
    one.append(&stream(TOPIC), (0..6).map(|number| event(&number.to_string())).collect()).await.unwrap();
    let (first, second) = (claim_some(&*one.store, 2).await, claim_some(&*two.store, 2).await);
    assert_eq!((ids(&first), ids(&second)), (vec!["0", "1"], vec!["2", "3"]));
    // A pull worker may come back to either node.
    let answer = two.settle(vec![settled(&first[0], Settlement::Done(Vec::new()))]).await.unwrap();
    assert_eq!(answer, [SettleStatus::Settled]);
    drop(claim_some(&*one.store, 10).await);
    let until = Clock::real().now().plus(Duration::from_secs(3600));
    let waited = async {
        let release = async {
            tokio::task::yield_now().await;
            one.settle(vec![settled(&first[1], Settlement::Release)]).await.unwrap();
        };
        let name = group();
        tokio::join!(two.wait(&name, until), release);
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.expect("it is woken");
    assert_eq!(ids(&claim_some(&*two.store, 10).await), ["1"]);
    // A node that follows gives back what it held when it is there again, and only that.
    drop(two);
    let two = opened(&server, "two").await;
    assert_eq!(ids(&claim_some(&*two.store, 10).await), ["1", "2", "3"]);
    assert_eq!(counts(&*one.store).await.in_flight, 5);
    two.close().await.unwrap();
    assert_eq!(ids(&claim_some(&*one.store, 10).await), ["1", "2", "3"]);
}

#[tokio::test]
async fn what_a_dead_follower_held_is_lent_again() {
    let server = NatsServer::start();
    let takeover = Duration::from_millis(500);
    let leads = open(&server, "one", TEN, takeover).await;
    declare(&*leads.store).await;
    let follows = open(&server, "two", TEN, takeover).await;
    leads.append(&stream(TOPIC), (0..4).map(|number| event(&number.to_string())).collect()).await.unwrap();
    let hour = Duration::from_secs(3600);
    let (lost, own) = (claim(&*follows.store, 3, hour).await, claim(&*leads.store, 1, hour).await);
    assert_eq!((lost.len(), own.len()), (3, 1));
    drop(follows);
    let name = group();
    let woken = leads.wait(&name, Clock::real().now().plus(hour));
    tokio::time::timeout(Duration::from_secs(20), woken).await.expect("it is woken");
    // They come back one after the other.
    let mut again = Vec::new();
    while again.len() < 3 {
        again.extend(claim(&*leads.store, 10, hour).await);
    }
    again.sort_by_key(|delivery| delivery.position);
    assert_eq!(ids(&again), ["0", "1", "2"]);
    let late = leads.settle(vec![settled(&lost[0], Settlement::Done(Vec::new()))]).await.unwrap();
    assert_eq!(late, [SettleStatus::LeaseLost], "what was lent before is fenced");
    assert_eq!((counts(&*leads.store).await.in_flight, counts(&*leads.store).await.done), (4, 0));
}

/// The node that leads dies; another one takes its place, with everything that was acknowledged.
#[tokio::test]
async fn when_the_node_that_leads_dies_another_takes_over() {
    let server = NatsServer::start();
    let takeover = Duration::from_millis(500);
    let first = open(&server, "one", TEN, takeover).await;
    declare(&*first.store).await;
    let second = open(&server, "two", TEN, takeover).await;
    first.append(&stream(TOPIC), (0..5).map(|number| event(&number.to_string())).collect()).await.unwrap();
    let lent = claim_some(&*second.store, 2).await;
    let done = first.settle(vec![settled(&lent[0], Settlement::Done(vec![(stream("out"), event("made"))]))]).await;
    assert_eq!(done.unwrap(), [SettleStatus::Settled]);
    drop(first);
    let status = loop {
        if let Ok(status) = second.group(&group()).await {
            break status;
        }
    };
    assert_eq!((status.accepted, status.done, status.in_flight), (5, 1, 0));
    assert_eq!(ids(&claim_some(&*second.store, 10).await), ["1", "2", "3", "4"]);
    assert_eq!(kept(&*second.store, "out").await.into_keys().collect::<Vec<_>>(), ["made"]);
    // The one that led before comes back and follows.
    let first = open(&server, "one", TEN, takeover).await;
    assert_eq!(counts(&*first.store).await.in_flight, 4);
    first.append(&stream(TOPIC), vec![event("5")]).await.unwrap();
    assert_eq!(ids(&claim_some(&*first.store, 10).await), ["5"]);
}

/// An orderly end hands the lead over at once.
#[tokio::test]
async fn who_closes_hands_over_at_once() {
    let server = NatsServer::start();
    let hour = Duration::from_secs(3600);
    let first = open(&server, "one", TEN, hour).await;
    declare(&*first.store).await;
    let second = open(&server, "two", TEN, hour).await;
    first.append(&stream(TOPIC), vec![event("1")]).await.unwrap();
    first.close().await.unwrap();
    assert_eq!(ids(&claim_some(&*second.store, 10).await), ["1"]);
}

/// While the server hangs, every node is silent to it: none may take another one for gone.
#[tokio::test]
async fn a_server_that_hangs_makes_no_node_look_dead() {
    let server = NatsServer::start();
    let takeover = Duration::from_millis(1000);
    let one = open(&server, "one", TEN, takeover).await;
    declare(&*one.store).await;
    let two = open(&server, "two", TEN, takeover).await;
    one.append(&stream(TOPIC), vec![event("1"), event("2")]).await.unwrap();
    let lent = [claim_some(&*one.store, 1).await, claim_some(&*two.store, 1).await];
    let pass = async |time: Duration| {
        let watch = Clock::real().stopwatch();
        while watch.elapsed() < time {
            tokio::task::yield_now().await;
        }
    };
    pass(takeover * 3).await;
    server.pause();
    pass(takeover * 3).await;
    server.resume();
    pass(takeover * 3).await;
    for (node, lent) in [&one, &two].into_iter().zip(lent) {
        let answer = node.settle(vec![settled(&lent[0], Settlement::Done(Vec::new()))]).await.unwrap();
        assert_eq!(answer, [SettleStatus::Settled]);
    }
}

#[tokio::test]
async fn two_processes_under_one_name_do_not_both_work() {
    let server = NatsServer::start();
    let first = opened(&server, "same").await;
    first.append(&stream(TOPIC), vec![event("1")]).await.unwrap();
    let lent = claim_some(&*first.store, 1).await;
    let second = opened(&server, "same").await;
    assert_eq!(ids(&claim_some(&*second.store, 1).await), ["1"]);
    let ask = Claim { group: group(), max: 1, lease: Duration::from_secs(30), before: None };
    assert_eq!(first.claim(&ask).await.unwrap_err().kind, FaultKind::Conflict);
    let late = first.settle(vec![settled(&lent[0], Settlement::Done(Vec::new()))]).await.unwrap();
    assert_eq!(late, [SettleStatus::LeaseLost]);
    assert!(first.status().failed.is_some_and(|why| why.contains("same")));
    first.close().await.unwrap();
    assert_eq!(counts(&*second.store).await.in_flight, 1);
}

#[tokio::test]
async fn a_server_that_lost_its_data_is_served_again() {
    let mut server = NatsServer::start();
    let node = opened(&server, "a").await;
    node.append(&stream(TOPIC), vec![event("1")]).await.unwrap();
    server.kill();
    server.lose();
    server.run_again();
    while let Err(fault) = node.append(&stream(TOPIC), vec![event("2")]).await {
        assert!(matches!(fault.kind, FaultKind::Timeout | FaultKind::Unavailable), "{fault:?}");
    }
    assert_eq!(ids(&claim_some(&*node.store, 10).await), ["2"]);
    assert!(node.status().damage.iter().any(|what| what.contains("gone")), "{:?}", node.status().damage);
}

/// What is larger than a message of the server goes in parts, to the log and between nodes.
#[tokio::test]
async fn what_is_larger_than_a_message_goes_in_parts() {
    let server = NatsServer::start();
    let (one, two) = (opened(&server, "one").await, opened(&server, "two").await);
    let large = Data::Binary((0..1_000_000_u32).map(|number| (number % 251) as u8).collect::<Vec<_>>().into());
    for (node, id) in [(&one, "1"), (&two, "2")] {
        let events = ["a", "b", "c"].map(|part| event(&format!("{id}{part}")).with_data(large.clone())).to_vec();
        node.append(&stream(TOPIC), events).await.unwrap();
    }
    let lent = claim_some(&*two.store, 6).await;
    assert!(lent.iter().all(|delivery| delivery.event.data == large), "{:?}", ids(&lent));
    drop((one, two));
    let again = opened(&server, "one").await;
    let kept = again.read(&stream(TOPIC), tidegate_core::delivery::Position::START, 10).await.unwrap();
    assert_eq!(kept.items.len(), 6);
    assert!(kept.items.iter().all(|stored| stored.event.data == large));
}

/// What nobody waits for is on its way all the same when the process ends.
#[tokio::test]
async fn a_process_that_ends_takes_nothing_quick_with_it() {
    let server = NatsServer::start();
    let node = opened(&server, "a").await;
    node.declare_stream(&StreamSpec { durability: Durability::Os, ..StreamSpec::new(stream("quick")) }).await.unwrap();
    node.append(&stream("quick"), vec![event("1")]).await.unwrap();
    // Any later sync has everything before it.
    node.append(&stream(TOPIC), vec![event("2")]).await.unwrap();
    drop(node);
    let again = opened(&server, "a").await;
    assert_eq!(kept(&*again.store, "quick").await.len(), 1);
}

/// Nothing is kept for ever: what the store no longer needs is freed in the server.
#[tokio::test]
async fn what_is_settled_and_past_its_time_is_freed_in_the_server() {
    let server = NatsServer::start();
    let node = opened(&server, "a").await;
    let bounded = tidegate_core::store::Retain { count: Some(10), ..tidegate_core::store::Retain::default() };
    node.declare_stream(&StreamSpec { retain: bounded, ..StreamSpec::new(stream(TOPIC)) }).await.unwrap();
    let spec = GroupSpec { mark_claims: false, ..GroupSpec::new(group(), stream(TOPIC)) };
    node.declare_group(&spec).await.unwrap();
    let body = Data::Binary(vec![7; 200_000].into());
    for round in 0..12 {
        let events = (0..10).map(|number| event(&format!("{round}-{number}")).with_data(body.clone())).collect();
        node.append(&stream(TOPIC), events).await.unwrap();
        let lent = claim_some(&*node.store, 10).await;
        let done = lent.iter().map(|delivery| settled(delivery, Settlement::Done(Vec::new()))).collect();
        node.settle(done).await.unwrap();
        node.upkeep().await.unwrap();
    }
    let bytes = |node: &Node| node.status().bytes.iter().map(|(_, bytes)| bytes).sum::<u64>();
    while bytes(&node) > 20_000_000 {
        node.upkeep().await.unwrap();
        tokio::task::yield_now().await;
    }
}

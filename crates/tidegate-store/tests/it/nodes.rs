//! Several nodes on one server: they share the work, and take over what a dead one held. On every engine with a server.

use std::{sync::Arc, time::Duration};

use tidegate_core::{
    clock::Clock,
    delivery::{SettleStatus, Settlement},
    fault::FaultKind,
    names::GroupName,
    store::{Claim, GroupSpec, Store},
};
use tidegate_store::{
    postgres::{PostgresOptions, PostgresStore},
    redis::{RedisOptions, RedisStore},
};
use tidegate_testkit::{PostgresServer, RedisServer};

use crate::{
    redis::raw,
    trouble::{TOPIC, claim, claim_some, counts, declare, event, group, ids, kept, settled, stream},
};

/// A server that nodes share.
trait Shared {
    /// Opens the store for a node that counts as gone after a silence.
    async fn open(&self, node: &str, takeover: Duration) -> Arc<dyn Store>;
    /// Stops the server in its tracks.
    fn pause(&self);
    /// Lets it go on.
    fn resume(&self);
    /// Makes the server lose everything that it keeps.
    async fn lose(&self);
}

impl Shared for RedisServer {
    async fn open(&self, node: &str, takeover: Duration) -> Arc<dyn Store> {
        let options = RedisOptions { node: node.to_owned(), takeover, ..RedisOptions::new(self.url()) };
        RedisStore::open(options).await.unwrap()
    }

    fn pause(&self) {
        Self::pause(self);
    }

    fn resume(&self) {
        Self::resume(self);
    }

    async fn lose(&self) {
        raw(self, &["FLUSHALL"]).await;
    }
}

impl Shared for PostgresServer {
    async fn open(&self, node: &str, takeover: Duration) -> Arc<dyn Store> {
        let options = PostgresOptions { node: node.to_owned(), takeover, ..PostgresOptions::new(self.url()) };
        PostgresStore::open(options).await.unwrap()
    }

    fn pause(&self) {
        Self::pause(self);
    }

    fn resume(&self) {
        Self::resume(self);
    }

    async fn lose(&self) {
        self.psql("DROP SCHEMA tidegate CASCADE");
    }
}

async fn opened_for(server: &impl Shared, node: &str, takeover: Duration) -> Arc<dyn Store> {
    let store = server.open(node, takeover).await;
    declare(&*store).await;
    store
}

async fn opened(server: &impl Shared, node: &str) -> Arc<dyn Store> {
    opened_for(server, node, Duration::from_secs(10)).await
}

macro_rules! on_each_server {
    ($($test:ident),+ $(,)?) => {
        mod on_a_redis_server {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::RedisServer::start(&[])).await;
            })+
        }

        mod on_a_postgres_server {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::PostgresServer::start(&[])).await;
            })+
        }
    };
}

on_each_server! {
    nodes_share_the_work_of_a_group,
    what_a_dead_node_held_is_taken_over,
    what_one_node_does_wakes_who_waits_for_it_on_another,
    a_server_that_hangs_makes_no_node_look_dead,
    two_processes_under_one_name_do_not_both_work,
    nodes_find_their_way_again_after_the_server_lost_its_data,
}

async fn nodes_share_the_work_of_a_group(server: impl Shared) {
    let (one, two) = (opened(&server, "one").await, opened(&server, "two").await);
    one.append(&stream(TOPIC), (0..6).map(|number| event(&number.to_string())).collect()).await.unwrap();
    let (first, second) = (claim_some(&*one, 2).await, claim_some(&*two, 2).await);
    assert_eq!((ids(&first), ids(&second)), (vec!["0", "1"], vec!["2", "3"]));
    // A pull worker may come back to either node.
    let answer = two.settle(vec![settled(&first[0], Settlement::Done(Vec::new()))]).await.unwrap();
    assert_eq!(answer, [SettleStatus::Settled]);
    // What one node gives back wakes the other one.
    drop(claim_some(&*one, 10).await);
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
    assert_eq!(ids(&claim_some(&*two, 10).await), ["1"]);
    // A node that dies gives back what it held when it is there again, and only that.
    drop(one);
    let one = opened(&server, "one").await;
    assert_eq!(ids(&claim_some(&*one, 10).await), ["4", "5"]);
    assert_eq!(counts(&*one).await.in_flight, 5);
    two.close().await.unwrap();
    assert_eq!(ids(&claim_some(&*one, 10).await), ["1", "2", "3"]);
}

async fn what_one_node_does_wakes_who_waits_for_it_on_another(server: impl Shared) {
    let (one, two) = (opened(&server, "one").await, opened(&server, "two").await);
    let waits = event("2").with_extension("after", "1");
    one.append(&stream(TOPIC), vec![event("1"), waits]).await.unwrap();
    let first = claim_some(&*one, 10).await;
    assert_eq!(ids(&first), ["1"]);
    assert!(claim_some(&*two, 10).await.is_empty());
    let until = Clock::real().now().plus(Duration::from_secs(3600));
    let waited = async {
        let done = async {
            tokio::task::yield_now().await;
            one.settle(vec![settled(&first[0], Settlement::Done(Vec::new()))]).await.unwrap();
        };
        let name = group();
        tokio::join!(two.wait(&name, until), done);
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.expect("it is woken");
    assert_eq!(ids(&claim_some(&*two, 10).await), ["2"]);
    counts(&*one).await;
}

async fn what_a_dead_node_held_is_taken_over(server: impl Shared) {
    let takeover = Duration::from_millis(500);
    let (one, two) = (opened_for(&server, "one", takeover).await, opened_for(&server, "two", takeover).await);
    one.append(&stream(TOPIC), (0..4).map(|number| event(&number.to_string())).collect()).await.unwrap();
    let hour = Duration::from_secs(3600);
    let (lost, own) = (claim(&*one, 3, hour).await, claim(&*two, 1, hour).await);
    assert_eq!((lost.len(), own.len()), (3, 1));
    // It says nothing more, as one that was killed.
    drop(one);
    let name = group();
    let woken = two.wait(&name, Clock::real().now().plus(hour));
    tokio::time::timeout(Duration::from_secs(20), woken).await.expect("it is woken");
    let taken = claim(&*two, 10, hour).await;
    assert_eq!(ids(&taken), ["0", "1", "2"]);
    let late = two.settle(vec![settled(&lost[0], Settlement::Done(Vec::new()))]).await.unwrap();
    assert_eq!(late, [SettleStatus::LeaseLost], "what was lent before is fenced");
    let status = counts(&*two).await;
    assert_eq!((status.in_flight, status.done), (4, 0), "its own are still its own");
}

/// While the server hangs, every node is silent to it: none may take another one for gone.
async fn a_server_that_hangs_makes_no_node_look_dead(server: impl Shared) {
    let takeover = Duration::from_millis(500);
    let (one, two) = (opened_for(&server, "one", takeover).await, opened_for(&server, "two", takeover).await);
    one.append(&stream(TOPIC), vec![event("1"), event("2")]).await.unwrap();
    let lent = [claim_some(&*one, 1).await, claim_some(&*two, 1).await];
    let pass = async |time: Duration| {
        let watch = Clock::real().stopwatch();
        while watch.elapsed() < time {
            tokio::task::yield_now().await;
        }
    };
    // Each has been there long enough to judge others.
    pass(takeover * 3).await;
    server.pause();
    pass(takeover * 3).await;
    server.resume();
    pass(takeover * 3).await;
    for (store, lent) in [&one, &two].into_iter().zip(lent) {
        let answer = store.settle(vec![settled(&lent[0], Settlement::Done(Vec::new()))]).await.unwrap();
        assert_eq!(answer, [SettleStatus::Settled]);
    }
}

async fn two_processes_under_one_name_do_not_both_work(server: impl Shared) {
    let first = opened(&server, "same").await;
    first.append(&stream(TOPIC), vec![event("1")]).await.unwrap();
    let lent = claim_some(&*first, 1).await;
    let second = opened(&server, "same").await;
    assert_eq!(ids(&claim_some(&*second, 1).await), ["1"]);
    let ask = Claim { group: group(), max: 1, lease: Duration::from_secs(30), before: None };
    assert_eq!(first.claim(&ask).await.unwrap_err().kind, FaultKind::Conflict);
    let late = first.settle(vec![settled(&lent[0], Settlement::Done(Vec::new()))]).await.unwrap();
    assert_eq!(late, [SettleStatus::LeaseLost]);
    assert!(first.status().failed.is_some_and(|why| why.contains("same")));
    // Its orderly end takes nothing from the one that is at work.
    first.close().await.unwrap();
    assert_eq!(counts(&*second).await.in_flight, 1);
}

/// Each node goes on, and none writes into what has got a number of something else in the meantime.
async fn nodes_find_their_way_again_after_the_server_lost_its_data(server: impl Shared) {
    let (one, two) = (opened(&server, "one").await, opened(&server, "two").await);
    one.append(&stream(TOPIC), vec![event("1"), event("2")]).await.unwrap();
    let end = Some(one.locate(&group(), &tidegate_core::seek::SeekTo::Latest).await.unwrap());
    let side = GroupSpec { end, ..GroupSpec::new(GroupName::new("side").unwrap(), stream(TOPIC)) };
    one.declare_group(&side).await.unwrap();
    server.lose().await;
    // Whoever comes first is told that it was lost; both work when they try again.
    for (store, id) in [(&two, "3"), (&one, "4")] {
        let mut tries = 0;
        while let Err(fault) = store.append(&stream(TOPIC), vec![event(id)]).await {
            assert_eq!(fault.kind, FaultKind::Unavailable, "{fault:?}");
            tries += 1;
            assert!(tries < 4, "{fault:?}");
        }
    }
    let mut lent = Vec::new();
    for store in [&one, &two, &one, &two] {
        let ask = Claim { group: group(), max: 1, lease: Duration::from_secs(30), before: None };
        match store.claim(&ask).await {
            Ok(claimed) => lent.extend(claimed.deliveries),
            Err(fault) => assert_eq!(fault.kind, FaultKind::Unavailable, "{fault:?}"),
        }
    }
    assert_eq!(ids(&lent), ["3", "4"]);
    assert_eq!(kept(&*one, TOPIC).await.into_keys().collect::<Vec<_>>(), ["3", "4"]);
    assert!(kept(&*one, "out").await.is_empty());
    for store in [&one, &two] {
        store.upkeep().await.unwrap();
        assert_eq!((counts(&**store).await.in_flight, store.status().failed), (2, None));
    }
}

//! What only a PostgreSQL server outside of the process can do to a store: die, stop, hang, lose its data, be set up unsafely.

use std::{sync::Arc, time::Duration};

use tidegate_core::{
    clock::Clock,
    delivery::Settlement,
    event::Data,
    fault::{Failure, FaultClass, FaultKind},
    store::{Broker as _, Claim, DeadLetters as _, DeadQuery, Durability, StreamSpec},
};
use tidegate_store::postgres::{PostgresOptions, PostgresStore};
use tidegate_testkit::PostgresServer;

use crate::trouble::{TOPIC, claim_some, counts, declare, event, group, ids, settled, stream, under_load};

async fn open(server: &PostgresServer, node: &str, timeout: Duration) -> Arc<PostgresStore> {
    let options = PostgresOptions { node: node.to_owned(), timeout, ..PostgresOptions::new(server.url()) };
    PostgresStore::open(options).await.unwrap()
}

/// A store with a stream and a group that reads it.
async fn opened(server: &PostgresServer, node: &str) -> Arc<PostgresStore> {
    let store = open(server, node, Duration::from_secs(10)).await;
    declare(&*store).await;
    store
}

/// SAFETY-OF-DATA: the answer comes after the commit of the server, and a verb is one commit.
#[tokio::test]
async fn a_server_that_is_killed_loses_nothing_that_was_acknowledged() {
    let mut server = PostgresServer::start(&["fsync=on"]);
    let store = opened(&server, "a").await;
    assert!(store.promises().loss_window.starts_with("none"), "{}", store.promises().loss_window);
    under_load(&mut server, &*store, async |server| {
        server.kill();
        server.run_again();
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_started_again_under_load_loses_nothing() {
    let mut server = PostgresServer::start(&[]);
    let store = opened(&server, "a").await;
    under_load(&mut server, &*store, async |server| {
        server.stop();
        server.run_again();
    })
    .await;
}

/// Calls that were sent into a server that hung may be carried out when it goes on, with nobody there to hear of it.
#[tokio::test]
async fn a_server_that_hangs_under_load_does_nothing_twice() {
    let mut server = PostgresServer::start(&[]);
    let store = open(&server, "a", Duration::from_millis(500)).await;
    declare(&*store).await;
    under_load(&mut server, &*store, async |server| {
        server.pause();
        while store.status().refusing.is_none() {
            tokio::task::yield_now().await;
        }
        server.resume();
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_is_a_fault_in_time_and_nobody_stays_deaf() {
    let server = PostgresServer::start(&[]);
    let store = open(&server, "a", Duration::from_millis(500)).await;
    declare(&*store).await;
    store.append(&stream(TOPIC), vec![event("1")]).await.unwrap();
    server.pause();
    let watch = Clock::real().stopwatch();
    let ask = Claim { group: group(), max: 1, lease: Duration::from_secs(30), before: None };
    let faults = [
        store.claim(&ask).await.unwrap_err(),
        store.append(&stream(TOPIC), vec![event("2")]).await.unwrap_err(),
        store.groups().await.unwrap_err(),
    ];
    let kinds = [FaultKind::Timeout, FaultKind::Unavailable];
    assert!(faults.iter().all(|fault| kinds.contains(&fault.kind)), "{faults:?}");
    store.wait(&group(), Clock::real().now().plus(Duration::from_millis(200))).await;
    assert!(watch.elapsed() < Duration::from_secs(10), "{:?}", watch.elapsed());
    server.resume();
    while let Err(fault) = store.append(&stream(TOPIC), vec![event("2"), event("3")]).await {
        assert!(kinds.contains(&fault.kind), "{fault:?}");
    }
    // What a claim without an answer may have taken comes back at once, and without a crash.
    let mut lent = Vec::new();
    while lent.len() < 3 {
        let ask = Claim { group: group(), max: 3, lease: Duration::from_secs(30), before: None };
        lent.extend(store.claim(&ask).await.map(|claimed| claimed.deliveries).unwrap_or_default());
    }
    assert!(lent.iter().all(|delivery| (delivery.attempt, delivery.crashes) == (1, 0)));
    // A busy machine is slow at times, and the deadline is short.
    let status = loop {
        match store.group(&group()).await {
            Ok(status) => break status,
            Err(fault) => assert!(kinds.contains(&fault.kind), "{fault:?}"),
        }
    };
    assert_eq!((status.accepted, status.difference()), (3, 0), "what was sent twice is there once");
}

#[tokio::test]
async fn a_server_that_lost_its_data_is_served_again() {
    let server = PostgresServer::start(&[]);
    let store = opened(&server, "a").await;
    store.append(&stream(TOPIC), vec![event("1")]).await.unwrap();
    server.psql("DROP SCHEMA tidegate CASCADE");
    store.upkeep().await.unwrap();
    store.append(&stream(TOPIC), vec![event("2")]).await.unwrap();
    assert_eq!(ids(&claim_some(&*store, 10).await), ["2"]);
    store.upkeep().await.unwrap();
    assert!(store.status().damage.iter().any(|what| what.contains("lost everything")), "{:?}", store.status().damage);
    counts(&*store).await;
}

/// Who may make nothing but is given a schema can work in it.
#[tokio::test]
async fn a_role_with_a_schema_of_its_own_is_enough() {
    let server = PostgresServer::start(&[]);
    server.psql("CREATE ROLE worker LOGIN; CREATE SCHEMA shop AUTHORIZATION worker; CREATE ROLE stranger LOGIN");
    let options = |user: &str, schema: &str| PostgresOptions {
        user: Some(user.to_owned()),
        schema: schema.to_owned(),
        ..PostgresOptions::new(server.url())
    };
    let store = PostgresStore::open(options("worker", "shop")).await.unwrap();
    declare(&*store).await;
    store.append(&stream(TOPIC), vec![event("1")]).await.unwrap();
    assert_eq!(ids(&claim_some(&*store, 10).await), ["1"]);
    let fault = PostgresStore::open(options("stranger", "other")).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Denied, "{fault:?}");
}

#[tokio::test]
async fn settings_that_lose_data_are_told() {
    let server = PostgresServer::start(&["synchronous_commit=off", "fsync=on"]);
    let store = opened(&server, "a").await;
    assert!(store.promises().loss_window.contains("synchronous_commit off"), "{}", store.promises().loss_window);
    let server = PostgresServer::start(&["fsync=off"]);
    let store = opened(&server, "a").await;
    assert!(store.promises().loss_window.contains("fsync off"), "{}", store.promises().loss_window);
    assert!(store.status().damage.iter().any(|what| what.contains("set fsync")), "{:?}", store.status().damage);
    let clock = Clock::manual(Clock::real().now().plus(Duration::from_secs(5)));
    let store = PostgresStore::open(PostgresOptions { clock, ..PostgresOptions::new(server.url()) }).await.unwrap();
    assert!(store.status().damage.iter().any(|what| what.contains("off that of the PostgreSQL server")));
}

#[tokio::test]
async fn what_is_no_postgres_server_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://me@{}/db", listener.local_addr().unwrap());
    let answer = async {
        loop {
            let (stranger, _) = listener.accept().await.unwrap();
            stranger.readable().await.unwrap();
            stranger.try_write(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        }
    };
    let fault = tokio::select! {
        opened = PostgresStore::open(PostgresOptions::new(url)) => opened.unwrap_err(),
        () = answer => unreachable!(),
    };
    assert!(fault.note().contains("may be no PostgreSQL server"), "{fault:?}");
}

/// Neither a zero byte nor what looks like SQL harms anybody.
#[tokio::test]
async fn words_of_any_kind_are_kept() {
    let server = PostgresServer::start(&[]);
    let store = opened(&server, "a").await;
    let odd = "'; DROP TABLE events; -- \\ $$ \u{1f980}";
    let data = Data::Binary(vec![0, 1, 255, 0].into());
    store.append(&stream(TOPIC), vec![event(odd).with_data(data.clone())]).await.unwrap();
    let lent = claim_some(&*store, 1).await;
    assert_eq!((&*lent[0].event.id, &lent[0].event.data), (odd, &data));
    let message = format!("zero \0 byte and {odd}");
    let bury = Settlement::Bury { failure: Failure::new(FaultClass::Invalid, &*message), config: "c".into() };
    store.settle(vec![settled(&lent[0], bury)]).await.unwrap();
    let letters = store.dead_letters(&stream(TOPIC), &DeadQuery { limit: 1, ..DeadQuery::default() }).await.unwrap();
    assert_eq!(&*letters.items[0].message, &*message.replace('\0', "\u{fffd}"));
    assert_eq!(letters.items[0].event.data, data);
    store.put_state("a\0b", Some(b"\0")).await.unwrap();
    assert_eq!(store.states("a").await.unwrap()[0].1, b"\0");
}

/// Callers who wait for the disk at the same time share a commit.
#[tokio::test]
async fn who_waits_at_the_same_time_shares_a_commit() {
    let server = PostgresServer::start(&[]);
    let store = opened(&server, "a").await;
    store.declare_stream(&StreamSpec { durability: Durability::Os, ..StreamSpec::new(stream("quick")) }).await.unwrap();
    let commits = || -> u64 {
        let sql = "SELECT pg_stat_clear_snapshot(); SELECT count(DISTINCT xmin::text) FROM tidegate.events";
        server.psql(sql).trim().parse().unwrap()
    };
    let append = async |number: usize| {
        let name = stream(if number.is_multiple_of(2) { TOPIC } else { "quick" });
        store.append(&name, vec![event(&number.to_string())]).await.unwrap()
    };
    futures::future::join_all((0..200).map(append)).await;
    assert!(commits() <= 20, "{} commits for 200 callers", commits());
    assert_eq!(counts(&*store).await.accepted, 100);
}

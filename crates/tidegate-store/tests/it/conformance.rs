//! The whole suite of the seam, on every way to run the engine.

use std::{collections::BTreeSet, sync::Arc};

use tidegate_testkit::{NatsServer, PostgresServer, RedisServer, broker_suite};

use crate::places::{InMemory, OnNats, OnPostgres, OnRedis, Simulated, Threaded};

macro_rules! concerns {
    ($($concern:ident),+ $(,)?) => {
        #[test]
        fn every_concern_is_run() {
            let all = broker_suite::concerns();
            assert_eq!([$(stringify!($concern)),+].into_iter().collect::<BTreeSet<_>>(), all);
        }

        mod stepped_on_a_simulated_disk {
            $(#[tokio::test]
            async fn $concern() {
                let summary =
                    super::broker_suite::run(concat!(stringify!($concern), "::"), || Box::new(super::Simulated::new())).await;
                assert!(summary.skipped.is_empty(), "the engine promises everything");
            })+
        }

        mod with_threads_on_the_real_disk {
            $(#[tokio::test]
            async fn $concern() {
                let summary =
                    super::broker_suite::run(concat!(stringify!($concern), "::"), || Box::new(super::Threaded::new())).await;
                assert!(summary.skipped.is_empty(), "the engine promises everything");
            })+
        }

        mod in_memory {
            $(#[tokio::test]
            async fn $concern() {
                super::broker_suite::run(concat!(stringify!($concern), "::"), || Box::new(super::InMemory::new())).await;
            })+
        }

        mod on_a_redis_server {
            $(#[tokio::test]
            async fn $concern() {
                super::on_redis(concat!(stringify!($concern), "::")).await;
            })+
        }

        mod on_a_postgres_server {
            $(#[tokio::test]
            async fn $concern() {
                super::on_postgres(concat!(stringify!($concern), "::")).await;
            })+
        }

        mod on_a_nats_server {
            $(#[tokio::test]
            async fn $concern() {
                super::on_nats(concat!(stringify!($concern), "::")).await;
            })+
        }
    };
}

/// Runs a concern on a server of its own, and says how many cases that were.
#[expect(clippy::print_stdout, reason = "the number of cases is part of the answer")]
async fn on_redis(concern: &str) {
    let server = Arc::new(RedisServer::start(&[]));
    let summary = broker_suite::run(concern, || Box::new(OnRedis::new(&server))).await;
    assert!(summary.skipped.is_empty(), "the engine promises everything");
    println!("{concern} {} cases on Redis, none left out", summary.ran.len());
}

/// Runs a concern on a server of its own, and says how many cases that were.
#[expect(clippy::print_stdout, reason = "the number of cases is part of the answer")]
async fn on_postgres(concern: &str) {
    let server = Arc::new(PostgresServer::start(&[]));
    let summary = broker_suite::run(concern, || Box::new(OnPostgres::new(&server))).await;
    assert!(summary.skipped.is_empty(), "the engine promises everything");
    println!("{concern} {} cases on PostgreSQL, none left out", summary.ran.len());
}

/// Runs a concern on a server of its own, and says how many cases that were.
#[expect(clippy::print_stdout, reason = "the number of cases is part of the answer")]
async fn on_nats(concern: &str) {
    let server = Arc::new(NatsServer::start());
    let summary = broker_suite::run(concern, || Box::new(OnNats::new(&server))).await;
    assert!(summary.skipped.is_empty(), "the engine promises everything");
    println!("{concern} {} cases on NATS, none left out", summary.ran.len());
}

concerns! {
    append, read, claim, fencing, settle, schedule, order, ledger, after, priority, dead, desk, retention, group, seek,
    range, state, whereabouts, restart,
}

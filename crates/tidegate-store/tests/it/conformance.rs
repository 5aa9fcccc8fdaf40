//! The whole suite of the seam, on every way to run the engine.

use std::collections::BTreeSet;

use tidegate_testkit::broker_suite;

use crate::places::{InMemory, Simulated, Threaded};

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
    };
}

concerns! {
    append, read, claim, fencing, settle, schedule, order, ledger, after, dead, desk, retention, group, seek,
    range, state, whereabouts, restart,
}

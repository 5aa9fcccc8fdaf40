//! What is warned of, when, and how often.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_core::{
    names::{GroupName, StreamName},
    store::GroupStatus,
};

use super::*;
use crate::{metrics::process::ProcessFacts, system::DiskFacts};

fn name() -> GroupName {
    GroupName::new("deliver").unwrap()
}

fn sample(seconds: i64, waiting: u64, oldest: u64) -> Sample {
    let status = GroupStatus {
        name: name(),
        stream: StreamName::new("orders").unwrap(),
        next: tidegate_core::delivery::Position::START,
        unseen: 0,
        accepted: waiting,
        done: 0,
        duplicates: 0,
        skipped: 0,
        waiting,
        scheduled: 0,
        in_flight: 0,
        dead: 0,
        parked: 0,
        expired: 0,
        dropped: 0,
        blocked: 0,
        oldest_blocked: None,
        oldest_waiting: Some(Duration::from_secs(oldest)),
        blocked_keys: 0,
        leases_lost: 0,
    };
    Sample {
        sides: BTreeSet::new(),
        streams: Vec::new(),
        at: Timestamp::from_millis(seconds * 1000),
        groups: BTreeMap::from([(name(), status)]),
        counted: BTreeMap::new(),
        waits: BTreeMap::new(),
        process: ProcessFacts::default(),
        disk: None,
        memory_max: Some(1000),
    }
}

fn names(told: &[Notice]) -> Vec<&'static str> {
    told.iter().map(Notice::name).collect()
}

#[test]
fn a_late_or_long_queue_is_told_once_in_a_while() {
    let (mut warner, policy) = (Warner::default(), WarnPolicy::default());
    let mut told =
        |seconds, waiting, oldest| names(&warner.look(&policy, &sample(seconds, waiting, oldest), None, &[])).join(",");
    assert_eq!(told(0, 5, 19), "");
    assert_eq!(told(5, 5, 20), "queue.late");
    assert_eq!(told(10, 5, 25), "", "not again so soon");
    assert_eq!(told(65, 5, 80), "queue.late");
    assert_eq!(told(70, 0, 0), "");
    assert_eq!(told(75, 10_000, 1), "queue.late", "a new trouble is told at once");
}

#[test]
fn what_is_handled_once_more_is_not_late() {
    let mut look = sample(0, 20_000, 86_400);
    look.sides.insert(name());
    assert!(Warner::default().look(&WarnPolicy::default(), &look, None, &[]).is_empty());
}

#[test]
fn what_a_warning_says() {
    let (mut warner, policy) = (Warner::default(), WarnPolicy::default());
    let told = warner.look(&policy, &sample(0, 7, 30), None, &[]);
    let (group, queue) = (name(), StreamName::new("orders").unwrap());
    assert_eq!(told, [Notice::QueueLate { group, queue, latency: Duration::from_secs(30), depth: 7 }]);
}

#[test]
fn memory_and_disk_are_watched() {
    let (mut warner, mut policy) = (Warner::default(), WarnPolicy::default());
    let mut look = sample(0, 0, 0);
    look.process.resident_bytes = Some(840);
    look.disk = Some(DiskFacts { size_bytes: 100, free_bytes: 16 });
    assert!(warner.look(&policy, &look, None, &[]).is_empty());
    look.process.resident_bytes = Some(860);
    look.disk = Some(DiskFacts { size_bytes: 100, free_bytes: 14 });
    assert_eq!(names(&warner.look(&policy, &look, None, &[])), ["memory.high", "disk.filling"]);
    policy.memory = Some(100);
    look.process.resident_bytes = Some(99);
    assert!(warner.look(&policy, &look, None, &[]).is_empty());
    look.process.resident_bytes = Some(100);
    assert_eq!(names(&warner.look(&policy, &look, None, &[])), ["memory.high"]);
}

#[test]
fn every_change_of_health_is_told() {
    let (mut warner, policy) = (Warner::default(), WarnPolicy::default());
    let at = Timestamp::from_millis(0);
    let mut told = |state| {
        let store = Component::new("store", state, Some("disk is full"), at, Vec::new());
        let changes = warner.look(
            &policy,
            &sample(0, 0, 0),
            None,
            &[Component::new("node", State::Healthy, None, at, vec![store])],
        );
        let change = |notice: &Notice| {
            let Notice::HealthChanged { component, from, to, .. } = notice else { panic!("{notice:?}") };
            format!("{component} {from} {to}")
        };
        changes.iter().map(change).collect::<Vec<_>>().join(",")
    };
    assert_eq!(told(State::Healthy), "");
    assert_eq!(told(State::Degraded), "store healthy degraded");
    assert_eq!(told(State::Degraded), "");
    assert_eq!(told(State::Unhealthy), "store degraded unhealthy");
    assert_eq!(told(State::Healthy), "store unhealthy healthy");
}

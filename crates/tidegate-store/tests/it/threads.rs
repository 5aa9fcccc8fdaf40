//! The engine with its threads: many callers at once, and a disk that fails under them.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tidegate_core::{
    clock::Clock,
    delivery::{Position, SettleStatus, Settled, Settlement},
    event::{Event, PARTITION_KEY},
    names::{GroupName, StreamName},
    order::OrderBy,
    store::{Broker as _, Claim, Durability, GroupSpec, OnFailure, Retain, Start, StreamSpec},
};
use tidegate_store::{
    disk::{Disk, RealDisk},
    embedded::{Embedded, EmbeddedOptions},
};
use tidegate_testkit::{SimDisk, sim_disk::DiskFault};

fn names() -> (StreamName, GroupName) {
    (StreamName::new("s").unwrap(), GroupName::new("g").unwrap())
}

fn open(disk: Arc<dyn Disk>, dir: &Path) -> Arc<Embedded> {
    let sizes = (1 << 20, 4 << 20);
    Embedded::open(EmbeddedOptions { disk, segment_bytes: sizes, ..EmbeddedOptions::new(dir) }).unwrap()
}

async fn declare(store: &Embedded) {
    let (stream, group) = names();
    let spec = StreamSpec {
        name: stream.clone(),
        durability: Durability::Sync,
        retain: Retain { count: Some(500), ..Retain::default() },
        max_backlog: None,
        dedupe: None,
        dead: tidegate_core::store::DeadKeep::default(),
    };
    store.declare_stream(&spec).await.unwrap();
    let spec = GroupSpec {
        name: group,
        stream,
        start: Start::Earliest,
        end: None,
        order_by: Some(OrderBy::Attribute(PARTITION_KEY.into())),
        on_failure: OnFailure::Block,
        ledger: Some(Duration::from_secs(3600)),
        after: false,
        priority_step: None,
        mark_claims: false,
    };
    store.declare_group(&spec).await.unwrap();
}

/// Runs one caller in a thread of its own.
fn alone<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

const PUBLISHERS: u64 = 6;
const WORKERS: usize = 4;
const EACH: u64 = 400;

async fn publish(store: &Embedded, publisher: u64) {
    for number in 0..EACH {
        let event = Event::new(format!("{publisher}.{number}"), "/t", "t")
            .with_extension(PARTITION_KEY, format!("{publisher}-{}", number % 5));
        store.append(&names().0, vec![event]).await.unwrap();
    }
}

/// Works until everything is done; notes per key what it settled, in order.
async fn work(store: &Embedded, seed: u64, done: &AtomicU64, order: &Mutex<BTreeMap<String, Vec<u64>>>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let ask = Claim { group: names().1, max: 20, lease: Duration::from_secs(60), before: None };
    while done.load(Ordering::SeqCst) < PUBLISHERS * EACH {
        let lent = store.claim(&ask).await.unwrap().deliveries;
        let mut settled = Vec::new();
        for delivery in &lent {
            let settlement = match rng.u8(0..8) {
                0 => Settlement::Release,
                1 => Settlement::RetryAt { at: delivery.accepted_at, attempts: delivery.attempt, crashes: 0 },
                _ => {
                    let key = delivery.event.extension(PARTITION_KEY).unwrap().to_string();
                    let number = delivery.event.id.split_once('.').unwrap().1.parse().unwrap();
                    order.lock().entry(key).or_default().push(number);
                    Settlement::Done(Vec::new())
                }
            };
            settled.push(Settled { token: delivery.lease.token, settlement, attempt: None });
        }
        let finished = settled.iter().filter(|one| one.settlement == Settlement::Done(Vec::new())).count();
        let statuses = store.settle(settled).await.unwrap();
        assert!(statuses.iter().all(|status| *status == SettleStatus::Settled));
        done.fetch_add(finished as u64, Ordering::SeqCst);
        if lent.is_empty() {
            store.wait(&names().1, Clock::real().now().plus(Duration::from_millis(20))).await;
        }
    }
}

/// Publishers, workers and an auditor side by side: once each, in order per key, and the accounts always balance.
#[test]
fn a_crowd_is_served_once_each_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Arc::new(RealDisk), dir.path());
    alone(declare(&store));
    let (done, order, over) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()), AtomicBool::new(false));
    let audits = std::thread::scope(|scope| {
        let auditor = scope.spawn(|| {
            let mut audits = 0_u64;
            while !over.load(Ordering::SeqCst) {
                let status = alone(store.group(&names().1)).unwrap();
                assert_eq!(status.difference(), 0, "{status:?}");
                audits += 1;
            }
            audits
        });
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                scope.spawn({
                    let store = &store;
                    move || alone(publish(store, publisher))
                })
            })
            .collect();
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (store, done, order) = (&store, &done, &order);
                scope.spawn(move || alone(work(store, worker as u64, done, order)))
            })
            .collect();
        let joined: Vec<_> = publishers.into_iter().chain(workers).map(|thread| thread.join()).collect();
        over.store(true, Ordering::SeqCst);
        assert!(joined.iter().all(Result::is_ok), "a publisher or a worker failed");
        auditor.join().unwrap()
    });
    assert!(audits > 10, "the accounts were looked at {audits} times");
    for (key, numbers) in order.lock().iter() {
        assert_eq!(numbers.len() as u64, EACH / 5, "{key}");
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{key} ran out of order: {numbers:?}");
    }
    alone(store.close()).unwrap();
    drop(store);
    let store = open(Arc::new(RealDisk), dir.path());
    let status = alone(store.group(&names().1)).unwrap();
    assert_eq!((status.accepted, status.done, status.waiting), (PUBLISHERS * EACH, PUBLISHERS * EACH, 0));
    assert!(store.status().damage.is_empty());
}

/// The disk fails under a crowd: everybody gets an answer, and what was acknowledged is there afterwards.
#[test]
fn a_failing_disk_leaves_nobody_waiting_and_nothing_acknowledged_behind() {
    for (seed, fault) in [
        (1, DiskFault::SyncError { dropped: false }),
        (2, DiskFault::SyncError { dropped: true }),
        (3, DiskFault::WriteError),
        (4, DiskFault::ShortWrite),
        (5, DiskFault::PowerOff),
    ] {
        let disk = SimDisk::new(seed);
        let dir = Path::new("/sim/threads");
        let store = open(Arc::new(disk.clone()), dir);
        alone(declare(&store));
        disk.arm(fault, 60 + seed * 7);
        let acknowledged = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for publisher in 0..PUBLISHERS {
                let (store, acknowledged) = (&store, &acknowledged);
                scope.spawn(move || {
                    alone(async {
                        for number in 0..10_000 {
                            let event = Event::new(format!("{publisher}.{number}"), "/t", "t");
                            let Ok(answer) = store.append(&names().0, vec![event.clone()]).await else { return };
                            acknowledged.lock().insert(answer[0].position, event);
                        }
                        panic!("the disk failed and the store went on");
                    })
                });
            }
        });
        assert!(store.status().failed.is_some(), "{fault:?}");
        drop(alone(store.close()));
        drop(store);
        disk.crash(seed);
        let store = open(Arc::new(disk), dir);
        let acknowledged = acknowledged.into_inner();
        assert!(!acknowledged.is_empty());
        let newest = *acknowledged.keys().next_back().unwrap();
        let mut from = Position::START;
        let mut kept = BTreeMap::new();
        while from <= newest {
            let page = alone(store.read(&names().0, from, 1000)).unwrap();
            kept.extend(page.items.into_iter().map(|stored| (stored.position, stored.event)));
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        for (position, event) in &acknowledged {
            assert_eq!(kept.get(position), Some(event), "{fault:?}: acknowledged at {position}");
        }
    }
}

//! What tests of stores in a server share: a stream and a group, publishers and workers, and trouble that comes over them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use tidegate_core::{
    clock::Clock,
    delivery::{Delivery, Position, SettleStatus, Settled, Settlement},
    event::{Data, Event},
    fault::{Failure, FaultClass},
    names::{GroupName, StreamName},
    store::{Claim, DeadQuery, GroupSpec, GroupStatus, Store, StreamSpec},
};

pub(crate) const TOPIC: &str = "identity.user.v1";
pub(crate) const GROUP: &str = "linting_group";

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

pub(crate) fn group() -> GroupName {
    GroupName::new(GROUP).unwrap()
}

pub(crate) fn event(id: &str) -> Event {
    Event::new(id, "/test", "test.made").with_data(Data::Json(format!(r#"{{"n":"{id}"}}"#).into()))
}

pub(crate) async fn declare(store: &dyn Store) {
    store.declare_stream(&StreamSpec::new(stream(TOPIC))).await.unwrap();
    store.declare_stream(&StreamSpec { dedupe: None, ..StreamSpec::new(stream("out")) }).await.unwrap();
    let spec = GroupSpec::new(group(), stream(TOPIC));
    store.declare_group(&GroupSpec { mark_claims: false, ..spec }).await.unwrap();
}

pub(crate) async fn claim(store: &dyn Store, max: usize, lease: Duration) -> Vec<Delivery> {
    store.claim(&Claim { group: group(), max, lease, before: None }).await.unwrap().deliveries
}

pub(crate) async fn claim_some(store: &dyn Store, max: usize) -> Vec<Delivery> {
    claim(store, max, Duration::from_secs(30)).await
}

pub(crate) fn settled(delivery: &Delivery, settlement: Settlement) -> Settled {
    Settled { token: delivery.lease.token, settlement, attempt: None }
}

pub(crate) fn ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| &*delivery.event.id).collect()
}

pub(crate) async fn counts(store: &dyn Store) -> GroupStatus {
    let status = store.group(&group()).await.unwrap();
    assert_eq!(status.difference(), 0, "{status:?}");
    status
}

/// Ids of everything kept of a stream, with how often each is there.
pub(crate) async fn kept(store: &dyn Store, name: &str) -> BTreeMap<String, usize> {
    let (mut all, mut from) = (BTreeMap::new(), Position::START);
    loop {
        let page = store.read(&stream(name), from, 1000).await.unwrap();
        for stored in page.items {
            *all.entry(stored.event.id.to_string()).or_default() += 1;
        }
        match page.next {
            Some(next) => from = next,
            None => return all,
        }
    }
}

/// Publishers and workers on a store whose server is in trouble.
#[derive(Default)]
struct Load {
    acknowledged: parking_lot::Mutex<BTreeSet<String>>,
    settled: parking_lot::Mutex<BTreeSet<String>>,
    count: AtomicUsize,
    is_over: AtomicBool,
}

impl Load {
    async fn publish(&self, store: &dyn Store, part: usize, count: usize) {
        for number in 0..count {
            let batch: Vec<Event> = (0..3).map(|index| event(&format!("{part}-{number}-{index}"))).collect();
            // What was not answered is published again; the window knows what was done.
            while store.append(&stream(TOPIC), batch.clone()).await.is_err() {
                tokio::task::yield_now().await;
            }
            self.acknowledged.lock().extend(batch.iter().map(|event| event.id.to_string()));
            self.count.fetch_add(batch.len(), Ordering::AcqRel);
        }
    }

    async fn work(&self, store: &dyn Store) {
        while !self.is_over.load(Ordering::Acquire) {
            let ask = Claim { group: group(), max: 5, lease: Duration::from_secs(3), before: None };
            let Ok(claimed) = store.claim(&ask).await else {
                tokio::task::yield_now().await;
                continue;
            };
            if claimed.deliveries.is_empty() {
                store.wait(&group(), Clock::real().now().plus(Duration::from_millis(50))).await;
            }
            let work = claimed.deliveries.iter().map(|delivery| settled(delivery, what_becomes_of(delivery)));
            // A settlement without an answer is settled or not; the lease tells the next time.
            let Ok(statuses) = store.settle(work.collect()).await else { continue };
            for (delivery, status) in claimed.deliveries.iter().zip(statuses) {
                if status == SettleStatus::Settled {
                    let is_new = self.settled.lock().insert(delivery.event.id.to_string());
                    assert!(is_new, "{} was settled twice", delivery.event.id);
                }
            }
        }
    }
}

/// One of ten dies, the others publish what they made.
fn what_becomes_of(delivery: &Delivery) -> Settlement {
    if delivery.event.id.ends_with("7-0") {
        return Settlement::Bury { failure: Failure::new(FaultClass::Invalid, "bad"), config: "c".into() };
    }
    Settlement::Done(vec![(stream("out"), event(&format!("out-{}", delivery.event.id)))])
}

/// Publishes and works on a store while `trouble` comes over its server three times; returns when all is worked off.
pub(crate) async fn under_load<S>(server: &mut S, store: &dyn Store, trouble: impl AsyncFn(&mut S)) {
    const PUBLISHERS: usize = 3;
    const BATCHES: usize = 100;
    let load = Load::default();
    let troubles = async {
        for round in 1..4 {
            while load.count.load(Ordering::Acquire) < round * PUBLISHERS * BATCHES * 3 / 4 {
                tokio::task::yield_now().await;
            }
            trouble(server).await;
        }
    };
    let publish = async {
        futures::future::join_all((0..PUBLISHERS).map(|part| load.publish(store, part, BATCHES))).await;
        // The leases of what was claimed without an answer run out.
        loop {
            if let Ok(status) = store.group(&group()).await
                && status.waiting + status.in_flight + status.scheduled == 0
            {
                break;
            }
            tokio::task::yield_now().await;
        }
        load.is_over.store(true, Ordering::Release);
    };
    tokio::join!(troubles, publish, load.work(store), load.work(store));
    let all = PUBLISHERS * BATCHES * 3;
    let stored = kept(store, TOPIC).await;
    assert_eq!(load.acknowledged.lock().len(), all);
    assert!(load.acknowledged.lock().iter().all(|id| stored.get(id) == Some(&1)), "each once");
    let status = counts(store).await;
    assert_eq!((status.accepted, status.done + status.dead), (all as u64, all as u64), "{status:?}");
    let made = kept(store, "out").await;
    assert_eq!(made.len() as u64, status.done, "each settlement came with its output");
    assert!(made.values().all(|count| *count == 1), "no output came twice");
    let letters = DeadQuery { limit: 1000, ..DeadQuery::default() };
    assert_eq!(store.dead_entries(&stream(TOPIC), &letters).await.unwrap().items.len() as u64, status.dead);
    // What was acknowledged before the trouble is settled after it.
    assert!(load.settled.lock().iter().all(|id| stored.contains_key(id)));
}

//! Everything at once on real threads and in real time: what virtual time cannot race.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tidegate_core::{
    clock::Clock,
    delivery::{Delivery, Outcome},
    fault::FaultClass,
    handler::Handler,
    notice::{Notice, Notices},
    service::{Context, stop},
    store::{Durability, Retain, StreamSpec},
};
use tidegate_engine::{Groups, Publisher, Supervisor};

use crate::scene::{Log, asked, batches, event, fail, group, log, stream};

const EVENTS: u64 = 20_000;

/// Does every event well, at the first or the second attempt, and writes down which.
fn mostly_well(handled: Log<String>) -> Arc<dyn Handler> {
    batches(20, move |batch| {
        let handled = handled.clone();
        async move {
            tokio::task::yield_now().await;
            let mut handled = handled.lock();
            let judge = |delivery: &Delivery| {
                if delivery.attempt == 1 && delivery.event.id.ends_with("77") {
                    return fail(FaultClass::Transient);
                }
                handled.push(delivery.event.id.to_string());
                Outcome::DONE
            };
            batch.iter().map(judge).collect()
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_done_twice_while_operators_interfere() {
    let (clock, notices) = (Clock::real(), Notices::default());
    let done = Arc::new(AtomicU64::new(0));
    let ended = Arc::new(tokio::sync::Notify::new());
    notices.listen(Arc::new({
        let (done, ended) = (done.clone(), ended.clone());
        move |notice: &Notice| match notice {
            Notice::Settled { outcome: "done", count, .. }
                if done.fetch_add(*count, Ordering::SeqCst) + count == EVENTS =>
            {
                ended.notify_one();
            }
            _ => {}
        }
    }));
    let (stopper, stop) = stop();
    let cx = Context { clock: clock.clone(), stop, notices: notices.clone() };
    let store = tidegate_store::open("memory", "/memory".as_ref(), clock.clone(), notices).unwrap();
    let orders = stream("orders");
    let spec = StreamSpec {
        name: orders.clone(),
        durability: Durability::Sync,
        retain: Retain::default(),
        max_backlog: None,
        dedupe: None,
        dead: tidegate_core::store::DeadKeep::default(),
    };
    store.declare_stream(&spec).await.unwrap();
    let supervisor = Supervisor::new(cx.clone());
    let groups = Groups::new(store.clone(), cx.clone(), supervisor.clone(), "fingerprint".into());
    let publisher = Publisher::new(store.clone(), cx);
    let handled: Log<String> = log();
    let handler = mostly_well(handled.clone());
    let mut wanted = asked("deliver").workers(8);
    wanted.policy.retry.first = Duration::from_millis(5);
    let name = group("deliver");
    groups.add(&wanted.spec, wanted.policy, Some(handler)).await.unwrap();
    let publish = async {
        for from in (0..EVENTS).step_by(100) {
            publisher.publish(&orders, (from..from + 100).map(event).collect()).await.unwrap();
        }
    };
    let interfere = async {
        for round in 0..20 {
            groups.scale(&name, 1 + round % 12, "ann").await.unwrap();
            groups.pause(&name, "ann", "test", None).await.unwrap();
            groups.view(&name).await.unwrap();
            groups.resume(&name, "ann").await.unwrap();
        }
    };
    tokio::join!(publish, interfere);
    tokio::time::timeout(Duration::from_secs(60), ended.notified()).await.expect("everything was done in time");
    stopper.drain();
    groups.drained().await;
    assert_eq!(supervisor.join(Duration::from_secs(10)).await, Vec::<String>::new());
    let status = store.group(&name).await.unwrap();
    assert_eq!((status.done, status.difference()), (EVENTS, 0), "{status:?}");
    let mut times: HashMap<String, u32> = HashMap::new();
    for id in handled.lock().drain(..) {
        *times.entry(id).or_default() += 1;
    }
    assert_eq!(times.len() as u64, EVENTS);
    assert!(times.values().all(|times| *times == 1), "nothing was done twice");
    store.close().await.unwrap();
}

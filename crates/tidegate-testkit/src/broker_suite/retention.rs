//! Retention: settled events go when their bound is reached, unsettled ones never do unless the stream says so.

use std::time::Duration;

use tidegate_core::{
    delivery::{Position, SettleStatus},
    event::{Data, Event},
    store::{Broker as _, GroupSpec, Retain, Start, StreamSpec},
};

use super::case::{Case, DONE, GROUP, STREAM, event, group_name, group_spec, ids, stream_name, stream_spec};

const HOUR: Duration = Duration::from_secs(3600);

async fn set(case: &Case, retain: Retain) {
    case.declare_stream(&StreamSpec { retain, ..stream_spec(STREAM) }).await;
    case.group(GROUP, STREAM).await;
}

fn large(id: usize) -> Event {
    event(&format!("{id:04}")).with_data(Data::Binary(vec![5; 10_000].into()))
}

async fn publish(case: &Case, count: usize) {
    for part in (0..count).collect::<Vec<_>>().chunks(50) {
        case.publish(part.iter().map(|index| large(*index)).collect()).await;
    }
}

async fn settle_all(case: &Case) {
    loop {
        let lent = case.claim(500).await;
        if lent.is_empty() {
            return;
        }
        case.done(&lent).await;
    }
}

/// Upkeep that must lead to so many kept events.
async fn upkeep_to(case: &Case, count: u64) {
    let kept = async || case.stream_status(STREAM).await.count == count;
    case.upkeep_until(&format!("{count} kept events"), kept).await;
}

/// Upkeep that must not lead to anything.
async fn upkeep(case: &Case) {
    for _ in 0..5 {
        case.store.upkeep().await.unwrap();
        case.barrier().await;
    }
}

pub(super) async fn a_bound_on_count_holds(case: Case) {
    set(&case, Retain { count: Some(100), ..Retain::default() }).await;
    publish(&case, 400).await;
    settle_all(&case).await;
    upkeep_to(&case, 100).await;
    let status = case.stream_status(STREAM).await;
    assert_eq!((status.count, status.accepted), (100, 400));
    let kept = case.read_all(STREAM).await;
    assert_eq!(kept.len(), 100);
    assert_eq!(Some(kept[0].position), status.first);
    assert_eq!(kept[0].event.id, "0300", "the oldest go first");
    let early = case.store.read(&stream_name(STREAM), Position::START, 1).await.unwrap();
    assert_eq!(early.items[0].position, kept[0].position, "reading starts at the oldest kept one");
}

/// An engine may keep what shares a file with younger events, but the excess has a limit.
pub(super) async fn a_bound_on_bytes_holds(case: Case) {
    const MIB: u64 = 1 << 20;
    set(&case, Retain { bytes: Some(8 * MIB), ..Retain::default() }).await;
    for index in 0..60 {
        let event = event(&format!("{index:02}")).with_data(Data::Binary(vec![5; 1_000_000].into()));
        case.publish(vec![event]).await;
        settle_all(&case).await;
        if index % 10 == 0 {
            upkeep(&case).await;
        }
    }
    let little = async || case.stream_status(STREAM).await.bytes <= 24 * MIB;
    case.upkeep_until("24 MiB kept at most", little).await;
    let status = case.stream_status(STREAM).await;
    let kept = case.read_all(STREAM).await;
    assert!(kept.len() >= 7, "only {} events are kept", kept.len());
    // An engine with threads of its own may trim on while it is read.
    let after = case.stream_status(STREAM).await;
    assert!((after.count..=status.count).contains(&(kept.len() as u64)), "{} of {status:?}", kept.len());
    assert_eq!(after.accepted, 60);
    assert_eq!(kept.last().map(|stored| &*stored.event.id), Some("59"), "the oldest go first");
}

pub(super) async fn a_bound_on_age_holds(case: Case) {
    set(&case, Retain { age: Some(HOUR), ..Retain::default() }).await;
    case.publish_ids(&["1", "2"]).await;
    case.advance(HOUR / 2);
    case.publish_ids(&["3"]).await;
    settle_all(&case).await;
    upkeep(&case).await;
    assert_eq!(case.kept(STREAM).await, ["1", "2", "3"]);
    case.advance(HOUR / 2 + Duration::from_secs(1));
    upkeep(&case).await;
    assert_eq!(case.kept(STREAM).await.last().map(String::as_str), Some("3"), "the youngest is not too old");
    case.advance(HOUR);
    upkeep_to(&case, 0).await;
    assert_eq!(case.kept(STREAM).await, [] as [&str; 0]);
    let status = case.stream_status(STREAM).await;
    assert_eq!((status.count, status.first, status.accepted), (0, None, 3));
    let next = case.publish_ids(&["4"]).await[0];
    assert_eq!(ids(&case.claim(10).await), ["4"]);
    assert_eq!(case.read_all(STREAM).await[0].position, next, "positions go on after everything went");
}

pub(super) async fn without_bounds_everything_stays(case: Case) {
    set(&case, Retain::default()).await;
    publish(&case, 100).await;
    settle_all(&case).await;
    case.advance(HOUR * 24 * 365);
    upkeep(&case).await;
    assert_eq!(case.read_all(STREAM).await.len(), 100);
}

pub(super) async fn unsettled_events_are_never_removed(mut case: Case) {
    set(&case, Retain { count: Some(10), age: Some(HOUR), bytes: Some(1000), drop_unsettled: false }).await;
    case.group("slow", STREAM).await;
    publish(&case, 100).await;
    settle_all(&case).await;
    case.advance(HOUR * 48);
    upkeep(&case).await;
    if case.store.promises().durable {
        case.restart().await;
        upkeep(&case).await;
    }
    let slow = case.status_of("slow").await;
    assert_eq!((slow.waiting, slow.dropped), (100, 0));
    assert_eq!(case.read_all(STREAM).await.len(), 100);
    let mut seen = Vec::new();
    while seen.len() < 100 {
        let lent = case.claim_all_of("slow", 40).await.deliveries;
        assert!(!lent.is_empty(), "only {} of 100 are left", seen.len());
        for (index, delivery) in lent.iter().enumerate() {
            assert_eq!(delivery.event, large(seen.len() + index));
        }
        seen.extend(ids(&lent));
        case.done(&lent).await;
    }
    let few = async || case.read_all(STREAM).await.len() <= 10;
    case.upkeep_until("ten kept events, now that all are settled", few).await;
}

/// One old retry must not be lost because everything around it is long gone.
pub(super) async fn one_straggler_outlives_its_neighbours(mut case: Case) {
    set(&case, Retain { count: Some(5), ..Retain::default() }).await;
    publish(&case, 100).await;
    let lent = case.claim(50).await;
    let straggler = lent.iter().find(|delivery| delivery.event.id == "0017").unwrap().clone();
    case.settle(&straggler, case.retry(&straggler, HOUR)).await;
    for delivery in lent.iter().filter(|delivery| delivery.position != straggler.position) {
        case.settle(delivery, DONE).await;
    }
    settle_all(&case).await;
    upkeep(&case).await;
    if case.store.promises().durable {
        case.restart().await;
    }
    case.advance(HOUR);
    let again = case.claim_one("0017").await;
    assert_eq!((again.event.clone(), again.attempt), (large(17), 2));
    case.settle(&again, DONE).await;
    let status = case.status().await;
    assert_eq!((status.done, status.dropped), (100, 0));
}

/// What is lent while its neighbours are dropped may still be settled, or is dropped with them.
pub(super) async fn what_the_stream_drops_is_counted(mut case: Case) {
    set(&case, Retain::default()).await;
    publish(&case, 30).await;
    let lent = case.claim(3).await;
    case.settle(&lent[0], DONE).await;
    // An engine may do its upkeep in the background at any time: the bound comes when all of this has happened.
    set(&case, Retain { count: Some(10), drop_unsettled: true, ..Retain::default() }).await;
    upkeep_to(&case, 10).await;
    let mut done = 1;
    for delivery in &lent[1..] {
        done += u64::from(case.try_settle(delivery, DONE).await == SettleStatus::Settled);
    }
    for _ in 0..3 {
        let status = case.status().await;
        assert_eq!((status.accepted, status.done, status.dropped), (30, done, 20 - done), "{status:?}");
        assert_eq!((status.waiting, status.in_flight), (10, 0));
        assert_eq!(case.read_all(STREAM).await.len(), 10);
        if !case.store.promises().durable {
            break;
        }
        case.kill().await;
    }
    assert_eq!(ids(&case.claim(100).await), (20..30).map(|index| format!("{index:04}")).collect::<Vec<_>>());
}

pub(super) async fn nobody_reads_and_bounds_hold_all_the_same(case: Case) {
    let retain = Retain { count: Some(20), ..Retain::default() };
    case.declare_stream(&StreamSpec { retain, ..stream_spec(STREAM) }).await;
    publish(&case, 100).await;
    upkeep_to(&case, 20).await;
    assert_eq!(case.read_all(STREAM).await.len(), 20);
    case.group("late", STREAM).await;
    let status = case.status_of("late").await;
    assert_eq!((status.accepted, status.waiting, status.dropped), (20, 20, 0), "a new group starts at the oldest kept");
    let latest = GroupSpec { start: Start::Latest, ..group_spec("latest", STREAM) };
    case.declare_group(&latest).await;
    assert_eq!(case.status_of("latest").await.accepted, 0);
}

pub(super) async fn a_removed_group_holds_nothing_back(case: Case) {
    set(&case, Retain { count: Some(5), ..Retain::default() }).await;
    publish(&case, 50).await;
    upkeep(&case).await;
    assert_eq!(case.read_all(STREAM).await.len(), 50);
    case.store.remove_group(&group_name(GROUP)).await.unwrap();
    upkeep_to(&case, 5).await;
    assert_eq!(case.read_all(STREAM).await.len(), 5);
}

pub(super) async fn bounds_can_be_changed(case: Case) {
    set(&case, Retain::default()).await;
    publish(&case, 50).await;
    settle_all(&case).await;
    upkeep(&case).await;
    assert_eq!(case.read_all(STREAM).await.len(), 50);
    set(&case, Retain { count: Some(7), ..Retain::default() }).await;
    upkeep_to(&case, 7).await;
    assert_eq!(case.read_all(STREAM).await.len(), 7);
}

/// Disk space comes back: a stream that is bounded does not grow for ever.
pub(super) async fn space_comes_back(case: Case) {
    set(&case, Retain { count: Some(10), ..Retain::default() }).await;
    let total = |case: &Case| case.store.status().bytes.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let mut largest = 0;
    for round in 0..8 {
        publish(&case, 800).await;
        settle_all(&case).await;
        upkeep(&case).await;
        if round < 4 {
            largest = largest.max(total(&case));
        }
    }
    // 64 MB went through; every 8 MB round could be thrown away.
    let little = async || total(&case) <= largest + largest / 2;
    case.upkeep_until(&format!("at most half more than {largest} bytes"), little).await;
}

pub(super) async fn what_is_kept_for_a_group_is_told(case: Case) {
    set(&case, Retain { count: Some(10), ..Retain::default() }).await;
    publish(&case, 30).await;
    case.upkeep_until("twenty events too many", async || case.stream_status(STREAM).await.overdue == 20).await;
    let status = case.stream_status(STREAM).await;
    assert_eq!((status.count, status.backlog, status.slowest), (30, 30, Some(group_name(GROUP))));
    assert_eq!(case.status().await.dropped, 0);
    settle_all(&case).await;
    upkeep_to(&case, 10).await;
    assert_eq!(case.stream_status(STREAM).await.overdue, 0);
}

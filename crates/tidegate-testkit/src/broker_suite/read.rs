//! Reading: pages from any position, without any effect.

use tidegate_core::{delivery::Position, fault::FaultKind, limits, store::Broker as _};

use super::case::{Case, STREAM, event, stream_name};

pub(super) async fn pages_follow_each_other(case: Case) {
    case.pair().await;
    let all: Vec<String> = (0..23).map(|index| index.to_string()).collect();
    let positions = case.publish(all.iter().map(|id| event(id)).collect()).await;
    for size in [1, 4, 22, 23, 24] {
        let (mut seen, mut from, mut pages) = (Vec::new(), Position::START, 0);
        loop {
            let page = case.store.read(&stream_name(STREAM), from, size).await.unwrap();
            assert!(page.items.len() <= size);
            seen.extend(page.items.iter().map(|stored| stored.event.id.to_string()));
            pages += 1;
            match page.next {
                Some(next) => from = next,
                None => break,
            }
            assert!(pages <= 24, "the pages do not end");
        }
        assert_eq!(seen, all, "pages of {size}");
    }
    let middle = case.store.read(&stream_name(STREAM), positions[9], 3).await.unwrap();
    assert_eq!(middle.items.iter().map(|stored| &*stored.event.id).collect::<Vec<_>>(), ["9", "10", "11"]);
    assert_eq!(middle.items[0].position, positions[9], "reading starts at the position itself");
    assert_eq!(case.claim(100).await.len(), 23, "reading takes nothing from a group");
}

pub(super) async fn the_end_is_empty(case: Case) {
    case.stream(STREAM).await;
    let empty = case.store.read(&stream_name(STREAM), Position::START, 10).await.unwrap();
    assert!(empty.items.is_empty() && empty.next.is_none());
    let last = case.publish_ids(&["1"]).await[0];
    let beyond = Position { low: last.low + 1, ..last };
    let after = case.store.read(&stream_name(STREAM), beyond, 10).await.unwrap();
    assert!(after.items.is_empty() && after.next.is_none());
    let fault = case.store.read(&stream_name("nowhere"), Position::START, 1).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing);
}

pub(super) async fn a_page_has_a_limit(case: Case) {
    case.stream(STREAM).await;
    let count = limits::PAGE_MAX + 10;
    case.publish((0..count).map(|index| event(&index.to_string())).collect()).await;
    let page = case.store.read(&stream_name(STREAM), Position::START, usize::MAX).await.unwrap();
    assert!(page.items.len() <= limits::PAGE_MAX, "{} entries in one page", page.items.len());
    assert!(page.next.is_some());
}

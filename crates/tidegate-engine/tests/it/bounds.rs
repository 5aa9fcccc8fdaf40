//! Events that say how long one attempt on them may take.

use std::time::Duration;

use tidegate_core::{
    delivery::{Delivery, Outcome},
    event::{Event, TIMEOUT},
    fault::FaultClass,
    notice::Notice,
};
use tidegate_engine::PullStatus;

use crate::scene::*;

fn bounded(id: &str, timeout: &str) -> Event {
    event(id).with_extension(TIMEOUT, timeout.to_owned())
}

/// How long each event was tried, by its id.
fn tried(seen: &[Notice]) -> Vec<(String, FaultClass, u128)> {
    let failed = seen.iter().filter_map(|notice| match notice {
        Notice::AttemptFailed { event, class, took, .. } => Some((event.to_string(), *class, took.as_millis())),
        _ => None,
    });
    let mut failed: Vec<_> = failed.collect();
    failed.sort();
    failed
}

#[tokio::test(start_paused = true)]
async fn an_event_bounds_its_attempt_below_and_above_the_group() {
    let mut scene = Scene::new().await;
    // The group gives 60 s, and 120 s to who asks for them.
    let handler = each(|_| std::future::pending());
    let mut once = asked("deliver");
    once.policy.retry.attempts = 1;
    once.policy.timeout_max = Some(120 * SECOND);
    scene.add(once, handler).await;
    scene.publish([event("plain"), bounded("less", "1500ms"), bounded("more", "90s"), bounded("most", "1h")]).await;
    scene.until_settled("deliver", "dead", 4).await;
    let went = |id: &str, took: u128| (id.to_owned(), FaultClass::Timeout, took);
    let wanted = [went("less", 1500), went("more", 90_000), went("most", 120_000), went("plain", 60_000)];
    assert_eq!(tried(&scene.seen), wanted);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn only_those_with_the_same_time_are_tried_together() {
    let mut scene = Scene::new().await;
    let together = log();
    let handler = batches(3, {
        let together = together.clone();
        move |batch: Vec<Delivery>| {
            together.lock().push(batch.iter().map(|one| one.event.id.to_string()).collect::<Vec<_>>().join(" "));
            let outcomes = vec![Outcome::DONE; batch.len()];
            async { outcomes }
        }
    });
    let events = ["a", "b", "c", "d"].map(event);
    let more = [bounded("e", "5s"), bounded("f", "5s"), bounded("g", "6s"), event("h"), bounded("i", "60s")];
    scene.publish(events.into_iter().chain(more)).await;
    scene.add(asked("deliver").workers(1), handler.clone()).await;
    scene.until_settled("deliver", "done", 9).await;
    assert_eq!(*together.lock(), ["a b c", "d", "e f", "g", "h i"], "in the order of the stream");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_stage_does_not_change_the_time() {
    let mut scene = Scene::new().await;
    let map = serde_json::json!([{"map": {"extensions": {"timeout": "'2h'"}}}]);
    let mut once = asked("deliver").stages(map);
    once.policy.retry.attempts = 1;
    scene.add(once, each(|_| std::future::pending())).await;
    scene.publish([bounded("a", "2s")]).await;
    scene.until_settled("deliver", "dead", 1).await;
    assert_eq!(tried(&scene.seen), [("a".to_owned(), FaultClass::Timeout, 2000)]);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_outside_keeps_an_event_no_longer_than_it_allows() {
    let scene = Scene::new().await;
    scene.add_pull(asked("pull")).await;
    scene.publish([event("plain"), bounded("short", "10s"), bounded("long", "50s")]).await;
    let claim = async || scene.groups.claim(&group("pull"), "tester", 10, Duration::from_millis(100)).await.unwrap();
    let lent = claim().await;
    let start = scene.world.clock.now();
    let left: Vec<_> = lent.iter().map(|one| one.lease.expires_at.since(start)).collect();
    assert_eq!(left, [30 * SECOND, 10 * SECOND, 30 * SECOND], "the lease of the group is 30 s");
    let tokens: Vec<_> = lent.iter().map(|delivery| delivery.lease.token).collect();
    let extend = async || scene.groups.extend(&group("pull"), &tokens, MINUTE).await.unwrap();
    scene.world.clock.sleep(5 * SECOND).await;
    assert_eq!(extend().await, [true; 3]);
    scene.world.clock.sleep(6 * SECOND).await;
    assert_eq!(extend().await, [true, false, true], "its 10 s are over");
    let back = claim().await;
    assert_eq!((&*back[0].event.id, back[0].crashes, back.len()), ("short", 1, 1));
    let settle = |at: usize| vec![(tokens[at], Outcome::DONE)];
    assert_eq!(scene.groups.settle(&group("pull"), settle(1)).await.unwrap(), [PullStatus::LeaseLost]);
    scene.world.clock.sleep(38 * SECOND).await;
    assert_eq!(scene.groups.settle(&group("pull"), settle(2)).await.unwrap(), [PullStatus::Settled], "within 50 s");
    assert_eq!(scene.groups.settle(&group("pull"), settle(0)).await.unwrap(), [PullStatus::Settled]);
    scene.abort().await;
}

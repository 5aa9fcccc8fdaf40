//! Retry times, schedules and expiry.

use std::time::Duration;

use tidegate_core::{
    clock::Timestamp,
    delivery::Outcome,
    event::{DELIVER_AT, EXPIRY_TIME},
    fault::{Failure, FaultClass},
    notice::Notice,
};

use crate::scene::*;

#[tokio::test(start_paused = true)]
async fn retries_come_after_growing_waits_shortened_by_a_fifth_at_most() {
    let mut scene = Scene::new().await;
    let tries: Log<(Timestamp, u32)> = log();
    let handler = each({
        let (tries, clock) = (tries.clone(), scene.world.clock.clone());
        move |delivery| {
            tries.lock().push((clock.now(), delivery.attempt));
            async { fail(FaultClass::Transient) }
        }
    });
    let mut wanted = asked("deliver");
    wanted.policy.retry.attempts = 9;
    scene.add(wanted, handler).await;
    scene.publish([event("a")]).await;
    scene.until_settled("deliver", "dead", 1).await;
    let tries = tries.lock().clone();
    assert_eq!(tries.iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    for (pair, wait) in tries.windows(2).zip([1, 2, 4, 8, 16, 32, 60, 60]) {
        let waited = pair[1].0.since(pair[0].0);
        let wait = wait * SECOND;
        assert!(waited >= wait * 4 / 5 && waited <= wait + Duration::from_millis(5), "{waited:?} for {wait:?}");
    }
    let told: Vec<_> = scene
        .seen
        .iter()
        .filter_map(|notice| match notice {
            Notice::AttemptFailed { retry_at, .. } => Some(retry_at.is_some()),
            _ => None,
        })
        .collect();
    assert_eq!(told, [true, true, true, true, true, true, true, true, false]);
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_snooze_and_a_named_wait_are_kept() {
    let mut scene = Scene::new().await;
    let tries: Log<(String, Duration, u32)> = log();
    let start = scene.world.clock.now();
    let handler = each({
        let (tries, clock) = (tries.clone(), scene.world.clock.clone());
        move |delivery| {
            let id = delivery.event.id.to_string();
            let first = !tries.lock().iter().any(|(other, ..)| *other == id);
            tries.lock().push((id.clone(), clock.now().since(start), delivery.attempt));
            let told = Failure::new(FaultClass::Transient, "later").after(100 * SECOND);
            let outcome = match (first, id.as_str()) {
                (true, "snooze") => Outcome::Snooze(50 * SECOND),
                (true, _) => Outcome::Failed(told),
                (false, _) => Outcome::DONE,
            };
            async { outcome }
        }
    });
    scene.add(asked("deliver"), handler).await;
    scene.publish([event("snooze"), event("told")]).await;
    scene.until_settled("deliver", "done", 2).await;
    let again: Vec<_> = tries.lock().iter().skip(2).cloned().collect();
    assert_eq!(
        again.iter().map(|(id, _, attempt)| (id.as_str(), *attempt)).collect::<Vec<_>>(),
        [("snooze", 1), ("told", 2)]
    );
    assert!(again[0].1 >= 50 * SECOND && again[0].1 < 51 * SECOND, "{again:?}");
    assert!(again[1].1 >= 100 * SECOND && again[1].1 < 101 * SECOND, "{again:?}");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_event_runs_at_its_time_and_has_not_waited_before() {
    let mut scene = Scene::new().await;
    scene.add(asked("deliver"), each(|_| async { Outcome::DONE })).await;
    let at = scene.world.clock.now().plus(47 * MINUTE);
    scene.publish([event("later").with_extension(DELIVER_AT, at.to_string()), event("now")]).await;
    scene.until_settled("deliver", "done", 1).await;
    assert_eq!(scene.status("deliver").await.scheduled, 1);
    scene.until_settled("deliver", "done", 2).await;
    let now = scene.world.clock.now();
    assert!(now >= at && now.since(at) < SECOND, "{now} for {at}");
    let waited = scene.seen.iter().find_map(|notice| match notice {
        Notice::AttemptStarted { event, waited, .. } if &**event == "later" => Some(*waited),
        _ => None,
    });
    assert!(waited.unwrap() < SECOND, "{waited:?}");
    scene.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_event_is_not_tried() {
    let mut scene = Scene::new().await;
    let name = group("deliver");
    let handled = log();
    let handler = each({
        let handled = handled.clone();
        move |delivery| {
            handled.lock().push(delivery.event.id.to_string());
            async { Outcome::DONE }
        }
    });
    scene.add(asked("deliver"), handler).await;
    scene.groups.pause(&name, "ann", "test", None).await.unwrap();
    let at = scene.world.clock.now().plus(MINUTE).to_string();
    scene.publish([event("stale").with_extension(EXPIRY_TIME, at), event("good")]).await;
    scene.world.clock.sleep(2 * MINUTE).await;
    scene.groups.resume(&name, "ann").await.unwrap();
    scene.until_settled("deliver", "done", 1).await;
    scene
        .until("the expiry is told", |seen| {
            let expired = |notice: &Notice| if let Notice::Claimed { expired, .. } = notice { *expired } else { 0 };
            seen.iter().map(expired).sum::<u64>() == 1
        })
        .await;
    assert_eq!(*handled.lock(), ["good"]);
    let status = scene.status("deliver").await;
    assert_eq!((status.done, status.expired), (1, 1));
    scene.finish().await;
}

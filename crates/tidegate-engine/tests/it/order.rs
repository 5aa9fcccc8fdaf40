//! Order per key, with many workers and with failures.

use std::{collections::BTreeMap, time::Duration};

use tidegate_core::{delivery::Outcome, fault::FaultClass, store::OnFailure};

use crate::scene::*;

/// Eight workers, ten keys, work of varying length; `fails` says which attempt of which event fails.
async fn run(on_failure: OnFailure, fails: fn(u32, u32) -> bool) -> BTreeMap<String, Vec<(u32, bool)>> {
    let mut scene = Scene::new().await;
    let (clock, done) = (scene.world.clock.clone(), log());
    let busy: Log<String> = log();
    let handler = each({
        let done = done.clone();
        move |delivery| {
            let (clock, done, busy) = (clock.clone(), done.clone(), busy.clone());
            async move {
                let key = delivery.event.subject.as_ref().unwrap().to_string();
                assert!(!busy.lock().contains(&key), "two of one key at a time");
                busy.lock().push(key.clone());
                let number: u32 = delivery.event.id.parse().unwrap();
                clock.sleep(Duration::from_millis(u64::from(number % 7) * 10 + 1)).await;
                busy.lock().retain(|other| *other != key);
                let failed = fails(number, delivery.attempt);
                done.lock().push((key, number, !failed));
                if failed { fail(FaultClass::Transient) } else { Outcome::DONE }
            }
        }
    });
    scene.publish((0..200).map(|n| keyed(n, &format!("key-{}", n % 10)))).await;
    scene.add(asked("deliver").workers(8).ordered(on_failure), handler).await;
    scene
        .until("all have ended", |seen| settled(seen, "deliver", "done") + settled(seen, "deliver", "dead") == 200)
        .await;
    scene.finish().await;
    let mut by_key: BTreeMap<String, Vec<(u32, bool)>> = BTreeMap::new();
    for (key, number, well) in done.lock().drain(..) {
        by_key.entry(key).or_default().push((number, well));
    }
    by_key
}

#[tokio::test(start_paused = true)]
async fn keys_run_in_order_with_eight_workers() {
    for (key, ended) in run(OnFailure::Skip, |_, _| false).await {
        assert_eq!(ended.len(), 20);
        assert!(ended.is_sorted(), "{key}: {ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_skip_a_failed_head_lets_the_next_pass() {
    let by_key = run(OnFailure::Skip, |number, attempt| number % 30 == 3 && attempt < 3).await;
    let ended = &by_key["key-3"];
    let first_try = |number| ended.iter().position(|(other, _)| *other == number).unwrap();
    let well = |number| ended.iter().position(|one| *one == (number, true)).unwrap();
    assert!(first_try(3) < well(13) && well(13) < well(3), "{ended:?}");
    let rest: Vec<_> = ended.iter().filter(|(number, _)| number % 30 != 3).collect();
    assert!(rest.is_sorted(), "those that did not fail kept their order: {ended:?}");
}

#[tokio::test(start_paused = true)]
async fn with_block_the_key_waits_for_a_failed_head_and_for_no_other() {
    let by_key = run(OnFailure::Block, |number, attempt| number % 30 == 3 && attempt < 3 || number == 14).await;
    let numbers = |key: &str| by_key[key].iter().map(|(number, _)| *number).collect::<Vec<_>>();
    assert!(numbers("key-3").is_sorted(), "{:?}", numbers("key-3"));
    assert_eq!(numbers("key-3").iter().filter(|number| **number == 3).count(), 3);
    // A head that is buried lets its key go on.
    assert_eq!(numbers("key-4")[..6], [4, 14, 14, 14, 14, 24]);
    assert!(numbers("key-5").is_sorted());
}

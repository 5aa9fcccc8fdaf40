//! What the ledger knows is not done again.

use tidegate_core::{delivery::Outcome, notice::Notice};

use crate::scene::*;

#[tokio::test(start_paused = true)]
async fn a_repeated_event_is_settled_without_an_attempt() {
    let mut scene = Scene::new().await;
    let handled = log();
    let handler = || {
        let handled = handled.clone();
        each(move |delivery| {
            handled.lock().push(delivery.event.id.to_string());
            async { Outcome::DONE }
        })
    };
    let mut wanted = asked("deliver");
    wanted.spec.ledger = Some(60 * MINUTE);
    scene.add(wanted.clone(), handler()).await;
    scene.publish([event("a"), event("b")]).await;
    scene.until_settled("deliver", "done", 2).await;
    scene.publish([event("a"), event("c"), event("b")]).await;
    scene.until_settled("deliver", "done", 3).await;
    let told = |seen: &[Notice]| {
        let duplicates =
            |notice: &Notice| if let Notice::Claimed { duplicates, .. } = notice { *duplicates } else { 0 };
        seen.iter().map(duplicates).sum::<u64>()
    };
    scene.until("both duplicates are told", |seen| told(seen) == 2).await;
    let mut scene = scene.finish().await.restart().await;
    scene.add(wanted, handler()).await;
    scene.publish([event("c")]).await;
    scene.until("the ledger survives a restart", |seen| told(seen) == 1).await;
    let mut handled = handled.lock().clone();
    handled.sort();
    assert_eq!(handled, ["a", "b", "c"]);
    let status = scene.status("deliver").await;
    assert_eq!((status.done, status.accepted), (6, 6));
    scene.finish().await;
}

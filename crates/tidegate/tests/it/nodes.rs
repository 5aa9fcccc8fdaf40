//! Two nodes on one server are one for those who operate them, whichever of the two is told.

use serde_json::Value;

use crate::{
    engine::{Engine, on_each_server, postgres, publish, redis, sample},
    node::{Berth, Node, until},
    receiver::Receiver,
};

on_each_server! {
    what_one_node_is_told_both_do,
}

/// Two nodes with one configuration, but for their names.
fn pair(config: &str) -> [Berth; 2] {
    [Berth::new(config), Berth::new(&config.replace("name: harbour", "name: quay"))]
}

/// Waits until what a node shows is as wanted.
async fn shows(node: &Node, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let look = || async { Some(node.get(path).await).filter(|shown| wanted(shown)) };
    until(&format!("{path}: {what}"), look).await
}

/// Waits until the log of a node says something.
async fn says(node: &Node, what: &str) {
    until(what, || async { node.log.text().contains(what).then_some(()) }).await;
}

const GROUP: &str = "/v1/groups/deliver";
const TARGET: &str = "/v1/targets/partner";

async fn what_one_node_is_told_both_do(server: impl Engine) {
    let receiver = Receiver::start().await;
    let berths = pair(&sample(&server, &receiver));
    let (one, two) = (berths[0].start().await, berths[1].start().await);

    one.json(&["group", "pause", "deliver", "--reason", "flood"]);
    let group = shows(&two, GROUP, "paused by the other", |group| !group["paused"].is_null()).await;
    assert_eq!((&group["state"], &group["paused"]["reason"]), (&"paused".into(), &"flood".into()), "{group}");
    says(&two, "deliver is paused").await;
    assert!(publish(&two, "1").await);
    // Who starts anew knows it from the start, and who was not told resumes it for both.
    one.kill().await;
    let one = berths[0].start().await;
    assert_eq!(one.get(GROUP).await["state"], "paused");
    two.json(&["group", "resume", "deliver"]);
    shows(&one, GROUP, "resumed by the other", |group| group["paused"].is_null()).await;
    says(&one, "deliver takes work again").await;
    one.group_has("deliver", "done", 1).await;

    two.json(&["group", "scale", "deliver", "3"]);
    shows(&one, GROUP, "scaled by the other", |group| group["workers"] == 3).await;

    // A pause that ends by itself is ended once, and leaves alone what was told since.
    let soon = tidegate_core::clock::Clock::real().now().plus(std::time::Duration::from_secs(4)).to_string();
    one.json(&["group", "pause", "deliver", "--until", &soon, "--reason", "a while"]);
    shows(&two, GROUP, "paused for a while", |group| !group["paused"].is_null()).await;
    two.json(&["group", "pause", "deliver", "--reason", "longer"]);
    shows(&one, GROUP, "paused for longer", |group| group["paused"]["reason"] == "longer").await;
    two.json(&["group", "resume", "deliver"]);
    shows(&one, GROUP, "resumed", |group| group["paused"].is_null()).await;

    one.json(&["target", "trip", "partner", "--reason", "they asked"]);
    let target = shows(&two, TARGET, "tripped by the other", |target| target["breaker"]["tripped"] == true).await;
    assert!(target["breaker"]["reason"].as_str().unwrap().contains("they asked"), "{target}");
    // One wish does not undo another that came at the same time elsewhere.
    two.json(&["target", "limit", "partner", "--concurrency", "2"]);
    let limited = |target: &Value| target["concurrency"]["limit"] == 2 && target["breaker"]["tripped"] == true;
    shows(&one, TARGET, "limited by the other", limited).await;
    two.json(&["target", "reset", "partner"]);
    shows(&one, TARGET, "reset by the other", |target| target["breaker"]["state"] == "closed").await;

    // What the target says to one, the other heeds.
    receiver.answer(410);
    assert!(publish(&one, "gone").await);
    for node in [&one, &two] {
        shows(node, TARGET, "disabled by the target", |target| target["breaker"]["disabled"] == true).await;
    }
    receiver.answer(200);
    one.json(&["target", "reset", "partner"]);
    shows(&two, TARGET, "reset by the other", |target| target["breaker"]["state"] == "closed").await;

    one.json(&["module", "disable", "intake", "--reason", "closed"]);
    shows(&two, "/v1/modules/intake", "disabled by the other", |module| module["state"] == "disabled").await;
    two.json(&["module", "enable", "intake"]);
    shows(&one, "/v1/modules/intake", "enabled by the other", |module| module["state"] == "running").await;

    two.json(&["ingest", "pause", "--reason", "full"]);
    says(&one, "paused").await;
    until("the other refuses too", || async { (!publish(&one, "refused").await).then_some(()) }).await;
    one.json(&["ingest", "resume"]);
    until("the other takes events again", || async { publish(&two, "taken").await.then_some(()) }).await;
    one.stop().await;
    two.stop().await;
}

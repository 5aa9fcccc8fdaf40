//! Two nodes on one server are one for those who operate them, whichever of the two is told.

use std::time::Duration;

use serde_json::Value;
use tidegate_core::clock::Clock;

use crate::{
    engine::{Engine, nats, on_each_server, postgres, publish, redis, sample},
    node::{Berth, Node, until},
    receiver::Receiver,
};

on_each_server! {
    what_one_node_is_told_both_do,
    nodes_share_a_rate,
    a_job_goes_on_when_its_node_is_gone,
    a_side_group_is_worked_on_by_all,
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
    let soon = Clock::real().now().plus(Duration::from_secs(4)).to_string();
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

async fn nodes_share_a_rate(server: impl Engine) {
    let receiver = Receiver::start().await;
    let berths = pair(&sample(&server, &receiver));
    let one = berths[0].start().await;
    one.json(&["group", "pause", "deliver"]);
    one.json(&["limits", "set", "partner", "rate=20", "period=1s"]);
    let two = berths[1].start().await;
    for node in [&one, &two] {
        let half = |target: &Value| target["rate"]["limit"] == "20/s" && target["rate"]["share"] == "10/s";
        shows(node, TARGET, "has its half", half).await;
    }
    for number in 0..120 {
        assert!(publish(&one, &number.to_string()).await);
    }
    two.json(&["group", "resume", "deliver"]);
    one.group_has("deliver", "done", 120).await;
    let times = receiver.times();
    // Each begins with what it may do in a second; all else comes at the rate of both. Twice the rate would need half of it.
    let took = *times.last().unwrap() - times[0];
    assert!(took > Duration::from_secs(4), "120 requests at 20/s in {took:?}");
    // Who is left has all of it.
    two.stop().await;
    shows(&one, TARGET, "has all of it", |target| target["rate"]["share"] == "20/s").await;
    one.stop().await;
}

/// Two nodes of which one has a stream of dead letters that its job reprocesses slowly.
async fn a_job_goes_on_when_its_node_is_gone(server: impl Engine) {
    let receiver = Receiver::start().await;
    let berths = pair(&sample(&server, &receiver));
    let (one, two) = (berths[0].start().await, berths[1].start().await);
    receiver.answer(400);
    for number in 0..60 {
        assert!(publish(&one, &number.to_string()).await);
    }
    one.group_has("deliver", "dead", 60).await;
    receiver.answer(200);
    let before = receiver.ids().len();
    let started = one.json(&["dlq", "reprocess", "--stream", "orders", "--all", "--rate", "10/s", "--detach"]);
    let id = started["job"].as_str().unwrap().to_owned();
    let path = format!("/v1/dlq/jobs/{id}");
    let part = |job: &Value| job["node"] == "harbour" && job["reprocessed"].as_u64().is_some_and(|moved| moved > 5);
    shows(&two, &path, "is seen by the other", part).await;
    let (refused, ..) = two.cli(&["dlq", "reprocess", "--stream", "orders", "--all", "--detach"]);
    assert_ne!(refused, 0, "one job walks through a stream at a time, whichever node began it");
    one.kill().await;
    let job = shows(&two, &path, "is done", |job| job["state"] == "done").await;
    assert_eq!((&job["node"], &job["reprocessed"], &job["failed"]), (&"quay".into(), &60.into(), &0.into()), "{job}");
    says(&two, "goes on here, harbour is gone").await;
    two.group_has("deliver", "done", 60).await;
    let mut again = receiver.ids().split_off(before);
    again.sort();
    again.dedup();
    assert_eq!(again.len(), 60);
    // A job is ended from where it is not.
    let one = berths[0].start().await;
    receiver.answer(400);
    for number in 100..140 {
        assert!(publish(&two, &number.to_string()).await);
    }
    two.group_has("deliver", "dead", 100).await;
    receiver.answer(200);
    let started = two.json(&["dlq", "reprocess", "--stream", "orders", "--all", "--rate", "2/s", "--detach"]);
    let id = started["job"].as_str().unwrap().to_owned();
    let (exit, out, err) = one.cli(&["dlq", "cancel", &id]);
    assert_eq!(exit, 0, "{out}{err}");
    let job = shows(&two, &format!("/v1/dlq/jobs/{id}"), "is cancelled", |job| job["state"] == "cancelled").await;
    assert!(job["reprocessed"].as_u64().unwrap() < 40, "{job}");
    one.stop().await;
    two.stop().await;
}

async fn a_side_group_is_worked_on_by_all(server: impl Engine) {
    let receiver = Receiver::start().await;
    let berths = pair(&sample(&server, &receiver));
    let (one, two) = (berths[0].start().await, berths[1].start().await);
    for number in 0..40 {
        assert!(publish(&one, &number.to_string()).await);
    }
    one.group_has("deliver", "done", 40).await;
    let replay = |name: &str, more: &[&str]| {
        [&["group", "replay", "deliver", "--from", "earliest", "--into", name], more].concat().join(" ")
    };
    let run = |node: &Node, line: &str| {
        let (exit, out, err) = node.cli(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(exit, 0, "{line}: {out}{err}");
    };
    receiver.hold().await;
    run(&one, &replay("again", &[]));
    // The one that was not told works on it too: with eight workers each, sixteen are in flight.
    until("both work on it", || async {
        let answer = two.client.get(format!("{}/v1/groups/again", two.url)).send().await.ok()?;
        let group: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        (group["in_flight"] == 16).then_some(())
    })
    .await;
    shows(&two, "/health/detailed", "knows the side group", |health| health["status"] == "healthy").await;
    one.kill().await;
    receiver.release(1000);
    says(&two, "replay").await;
    until("it goes when it is done", || async {
        let groups = two.get("/v1/groups").await.to_string();
        (!groups.contains("\"again\"")).then_some(())
    })
    .await;
    let handled = receiver.ids();
    for number in 0..40 {
        let times = handled.iter().filter(|id| **id == number.to_string()).count();
        assert!(times >= 2, "{number} was handled {times} times");
    }
    // One that is kept is removed by whichever node is told, for all.
    let one = berths[0].start().await;
    run(&two, &replay("kept", &["--keep"]));
    until("it is done", || async {
        let answer = one.client.get(format!("{}/v1/groups/kept", one.url)).send().await.ok()?;
        let group: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        (group["done"] == 40).then_some(())
    })
    .await;
    run(&one, "group remove kept --yes");
    until("it is gone from both", || async {
        let groups = two.get("/v1/groups").await.to_string() + &one.get("/v1/groups").await.to_string();
        (!groups.contains("\"kept\"")).then_some(())
    })
    .await;
    // Nothing of the other node brings it back, and its name is free.
    run(&two, &replay("kept", &[]));
    one.stop().await;
    two.stop().await;
}

//! One event: its life, and why it is where it is.

use serde_json::{Value, json};

use crate::node::Node;

async fn explained(node: &Node, id: &str) -> (Value, Value) {
    let answer = node.get(&format!("/v1/events/{id}/explain")).await.good();
    (answer["state"].clone(), answer["because"][0].clone())
}

fn whats(trace: &Value) -> Vec<&str> {
    trace["timeline"].as_array().unwrap().iter().map(|one| one["what"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_waiting_event_is_explained() {
    let node = Node::start().await;
    node.publish(&["a", "b"]).await;
    let (state, because) = explained(&node, "b").await;
    assert_eq!((&state, &because["reason"]), (&json!("waiting"), &json!("no_worker")), "{because}");
    node.post("/v1/groups/deliver/pause", json!({ "reason": "partner is down" })).await.good();
    let (_, because) = explained(&node, "b").await;
    assert_eq!(because["reason"], "group_paused");
    assert_eq!(because["detail"], "the group is paused by local: partner is down");
    assert!(because["since"].is_string() && because["until"].is_null());
    node.post("/v1/groups/deliver/resume", json!({})).await.good();
    let lent = node.claim(1).await;
    let (state, because) = explained(&node, "a").await;
    assert_eq!((&state, &because["reason"]), (&json!("in_flight"), &json!("leased")));
    assert!(because["detail"].as_str().unwrap().contains("asked for by local"), "{because}");
    let (_, because) = explained(&node, "b").await;
    assert_eq!(because["reason"], "workers_busy", "{because}");
    node.settle(&lent[0], json!({ "outcome": "done" })).await;
    let (state, because) = explained(&node, "a").await;
    assert_eq!((&state, &because["reason"]), (&json!("done"), &json!("done")));
    assert!(because["since"].is_string());
    let one = node.get("/v1/events/a/explain?group=deliver&stream=orders").await.good();
    assert_eq!(one["groups"].as_array().unwrap().len(), 1);
    assert_eq!((&one["id"], &one["stream"], &one["position"]), (&json!("a"), &json!("orders"), &json!("1")));
    let other = node.get("/v1/events/a/explain?group=inside").await.good();
    assert_eq!(other["because"][0]["reason"], "no_group");
}

#[tokio::test]
async fn what_is_unknown_is_told_as_that() {
    let node = Node::start().await;
    node.publish(&["a"]).await;
    let (state, because) = explained(&node, "x").await;
    assert_eq!((&state, &because["reason"]), (&json!("unknown"), &json!("not_found")));
    assert!(because["detail"].as_str().unwrap().contains("all 1 were looked at"), "{because}");
    let problem = node.get("/v1/events/x/trace").await.problem(404, "missing");
    assert!(problem["detail"].as_str().unwrap().contains("no kept event has the id \"x\""), "{problem}");
    node.get("/v1/events/a/trace?group=nobody").await.problem(404, "missing");
    node.get("/v1/events/a/explain?stream=nowhere").await.problem(404, "missing");
    node.get("/v1/events/a/explain?nonsense=1").await.problem(400, "invalid");
}

#[tokio::test]
async fn the_whole_life_is_told() {
    let node = Node::start().await;
    node.bury(&["a"]).await;
    let dead = node.get("/v1/events/a/explain").await.good();
    assert_eq!((&dead["state"], &dead["because"][0]["reason"]), (&json!("dead"), &json!("dead")));
    assert!(dead["because"][0]["detail"].as_str().unwrap().contains("order a is bad"), "{dead}");
    let trace = node.get("/v1/events/a/trace").await.good();
    assert_eq!(whats(&trace), ["accepted", "attempt_failed", "dead"], "{trace}");
    node.post("/v1/dlq/orders/reprocess", json!({ "all": true, "reason": "mended" })).await.good();
    for delivery in node.claim(1).await {
        node.settle(&delivery, json!({ "outcome": "done" })).await;
    }
    let trace = node.get("/v1/events/a/trace").await.good();
    let mut told = whats(&trace);
    told.sort_unstable();
    assert_eq!(told, ["accepted", "attempt_failed", "dead", "done", "reprocessed", "sent_back"], "{trace}");
    assert_eq!(trace["position"], "2", "the newest place is the one it was sent back to");
    assert_eq!(trace["complete"], true);
    let done = node.get("/v1/events/a/explain").await.good();
    assert_eq!(done["state"], "done", "{done}");
    let reprocessed = trace["timeline"].as_array().unwrap().iter().find(|one| one["what"] == "reprocessed").unwrap();
    assert!(reprocessed["detail"].as_str().unwrap().contains("by local: mended"), "{reprocessed}");
}

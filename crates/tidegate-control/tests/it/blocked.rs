//! Events that wait for others: listed, explained, let go and rejected over the API.

use http::Method;
use serde_json::{Value, json};
use tidegate_core::notice::Notice;

use crate::{client::request, node::Node};

/// Publishes an event that names others in its `after`.
async fn publish(node: &Node, id: &str, after: &str) {
    let event = json!({ "specversion": "1.0", "id": id, "source": "/jobs", "type": "job", "after": after });
    let mut event = event;
    if after.is_empty() {
        event.as_object_mut().unwrap().remove("after");
    }
    let headers = [("content-type", "application/cloudevents+json")];
    node.send(request(Method::POST, "/v1/streams/orders/events", &headers, event.to_string())).await.good();
}

/// Claims without waiting; the ids.
async fn claim(node: &Node) -> Vec<Value> {
    let claimed = node.post("/v1/groups/deliver/claim", json!({ "max": 100 })).await.good();
    claimed["deliveries"].as_array().unwrap().clone()
}

async fn blocked(node: &Node) -> Vec<(String, String, String)> {
    let answer = node.get("/v1/groups/deliver/blocked").await.good();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = answer["blocked"].as_array().unwrap().iter().flat_map(|row| {
        let id = text(&row["id"]);
        row["waits_for"].as_array().unwrap().iter().map(move |one| (id.clone(), text(&one["id"]), text(&one["state"])))
    });
    rows.collect()
}

async fn reasons(node: &Node, id: &str) -> (String, Vec<String>, String) {
    let answer = node.get(&format!("/v1/events/{id}/explain?group=deliver")).await.good();
    let because = answer["because"].as_array().unwrap();
    let words = because.iter().map(|one| one["reason"].as_str().unwrap().to_owned()).collect();
    (answer["state"].as_str().unwrap().to_owned(), words, because[0]["detail"].as_str().unwrap().to_owned())
}

fn row(id: &str, on: &str, state: &str) -> (String, String, String) {
    (id.to_owned(), on.to_owned(), state.to_owned())
}

#[tokio::test]
async fn what_waits_is_listed_and_explained() {
    let node = Node::start().await;
    publish(&node, "a", "").await;
    publish(&node, "b", "a, later").await;
    publish(&node, "c", "b").await;
    let (state, words, detail) = reasons(&node, "b").await;
    assert_eq!(
        (state.as_str(), words[0].as_str()),
        ("blocked", "after_unknown"),
        "before anybody looked at it: {words:?}"
    );
    assert!(detail.starts_with("it waits for event later of /jobs: it has not come, or the ledger of "), "{detail}");
    let lent = claim(&node).await;
    assert_eq!(lent.len(), 1);
    let expected = [row("b", "a", "in_flight"), row("b", "later", "unknown"), row("c", "b", "blocked")];
    assert_eq!(blocked(&node).await, expected);
    let group = node.get("/v1/groups/deliver").await.good();
    assert_eq!(
        (&group["waiting"], &group["blocked"], &group["policy"]["after"]),
        (&json!(2), &json!(2), &json!("wait"))
    );
    assert!(group["oldest_blocked_age_seconds"].as_f64().unwrap() > 0.0);
    let page = node.get("/metrics").await.text().to_owned();
    assert!(page.contains("tidegate_group_blocked{group=\"deliver\"} 2"), "{page}");
    assert!(page.contains("tidegate_group_oldest_blocked_age_seconds{group=\"deliver\"} "));
    let top = node.get("/v1/top").await.good();
    let deliver = top["groups"].as_array().unwrap().iter().find(|one| one["group"] == "deliver").unwrap();
    assert_eq!((&deliver["depth"], &deliver["blocked"]), (&json!(0), &json!(2)));

    node.settle(&lent[0], json!({ "outcome": "reject", "reason": "broken" })).await;
    let (_, words, detail) = reasons(&node, "b").await;
    assert_eq!(words[..2], ["after_dead", "after_unknown"]);
    assert!(detail.contains("event a of /jobs, which is dead letter 1, parked: reprocess that"), "{detail}");
    let (_, words, detail) = reasons(&node, "c").await;
    assert_eq!(words[0], "after_open");
    assert!(detail.contains("event b of /jobs at position 2, which is blocked"), "{detail}");
    assert_eq!(blocked(&node).await[0], row("b", "a", "dead"));
    node.post("/v1/dlq/orders/reprocess", json!({ "all": true })).await.good();
    publish(&node, "later", "").await;
    let mut done = Vec::new();
    while done.len() < 4 {
        for delivery in node.claim(10).await {
            node.settle(&delivery, json!({ "outcome": "done" })).await;
            done.push(delivery["event"]["id"].clone());
        }
    }
    assert_eq!(done[2..], ["b", "c"]);
    assert_eq!(blocked(&node).await, []);
}

#[tokio::test]
async fn a_circle_is_named() {
    let node = Node::start().await;
    publish(&node, "a", "c").await;
    publish(&node, "b", "a").await;
    publish(&node, "c", "b").await;
    claim(&node).await;
    let (_, words, detail) = reasons(&node, "a").await;
    assert_eq!(words[0], "after_circle");
    assert!(detail.contains("event c of /jobs, which waits for this one by way of b"), "{detail}");
}

#[tokio::test]
async fn one_is_let_go_by_hand() {
    let mut node = Node::start().await;
    publish(&node, "b", "a").await;
    publish(&node, "x", "").await;
    claim(&node).await;
    let unblock = async |document: Value| node.post("/v1/groups/deliver/unblock", document).await;
    let freed = unblock(json!({ "id": "b", "reason": "by phone" })).await.good();
    assert_eq!((&freed["result"], &freed["events"]), (&json!("unblocked"), &json!(["b"])));
    assert!(!freed["action"].as_str().unwrap().is_empty());
    assert_eq!(claim(&node).await[0]["event"]["id"], "b");
    let trace = node.get("/v1/events/b/trace").await.good();
    let told = trace["timeline"].as_array().unwrap().iter().find(|one| one["what"] == "unblocked").unwrap();
    assert_eq!(told["detail"], "it waits for no other event any more, as local asked: by phone");
    let problem = unblock(json!({ "id": "b" })).await.problem(409, "conflict");
    assert!(problem["detail"].as_str().unwrap().contains("there it is in_flight"), "{problem}");
    unblock(json!({ "id": "nobody" })).await.problem(404, "missing");
    unblock(json!({ "waits_for": "nobody" })).await.problem(404, "missing");
    unblock(json!({})).await.problem(400, "invalid");
    unblock(json!({ "id": "b", "waits_for": "a" })).await.problem(400, "invalid");
    unblock(json!({ "id": "b", "outcome": "done" })).await.problem(400, "invalid");
    node.post("/v1/groups/nobody/unblock", json!({ "id": "b" })).await.problem(404, "missing");
    node.get("/v1/groups/nobody/blocked").await.problem(404, "missing");
    node.get("/v1/groups/deliver/blocked?limit=0").await.problem(400, "invalid");
    let told = node.tap.wait_for(|notice| matches!(notice, Notice::Unblocked { .. })).await.unwrap();
    let Notice::Unblocked { event, rejected: false, by, reason, .. } = told else { panic!("{told:?}") };
    assert_eq!((&*event, by.as_str(), reason.as_str()), ("b", "local", "by phone"));
}

#[tokio::test]
async fn all_that_wait_for_one_are_rejected_together() {
    let node = Node::start().await;
    for id in ["b", "c", "d"] {
        publish(&node, id, "a").await;
    }
    publish(&node, "e", "other").await;
    claim(&node).await;
    let ask = json!({ "waits_for": "a", "source": "/jobs", "outcome": "reject", "reason": "cancelled" });
    let rejected = node.post("/v1/groups/deliver/unblock", ask).await.good();
    assert_eq!((&rejected["result"], &rejected["events"]), (&json!("rejected"), &json!(["b", "c", "d"])));
    let dead = node.get("/v1/dlq/orders").await.good();
    let entries = dead["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    let fault = &entries[0]["fault"];
    let message = "rejected by local while it waited for other events: cancelled";
    assert_eq!((&fault["class"], &fault["message"]), (&json!("invalid"), &json!(message)));
    assert_eq!(blocked(&node).await, [row("e", "other", "unknown")]);
    let audit = node.get("/v1/audit/messages").await.good();
    assert_eq!(audit["balanced"], true, "{audit}");
    let page = node.get("/metrics").await.text().to_owned();
    assert!(page.contains("tidegate_messages_settled_total{group=\"deliver\",outcome=\"dead\"} 3"), "{page}");
}

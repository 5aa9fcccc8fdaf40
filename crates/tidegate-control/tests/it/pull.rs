//! Workers outside: claim, settle, extend.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tidegate_core::limits;

use crate::{client::request, node::Node};

async fn group(node: &Node) -> Value {
    node.get("/v1/groups/deliver").await.good()
}

#[tokio::test]
async fn a_delivery_is_claimed_and_settled() {
    let node = Node::start().await;
    node.publish(&["a"]).await;
    let claimed = node.claim(10).await;
    let [delivery] = claimed.as_slice() else { panic!("{claimed:?}") };
    assert_eq!((&delivery["attempt"], &delivery["position"]), (&json!(1), &json!("1")));
    assert_eq!((&delivery["event"]["id"], &delivery["event"]["data"]), (&json!("a"), &json!({ "order": "a" })));
    let until = tidegate_core::clock::Timestamp::parse(delivery["lease_until"].as_str().unwrap()).unwrap();
    assert!(until.since(node.clock.now()) > Duration::from_secs(30));
    assert_eq!(group(&node).await["in_flight"], 1);
    node.settle(delivery, json!({ "outcome": "done" })).await;
    let after = group(&node).await;
    assert_eq!((&after["in_flight"], &after["done"]), (&json!(0), &json!(1)));
}

#[tokio::test]
async fn claims_take_at_most_what_they_ask_for() {
    let node = Node::start().await;
    node.publish(&["a", "b", "c"]).await;
    let ids = |claimed: Vec<Value>| claimed.iter().map(|one| one["event"]["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(node.claim(2).await), ["a", "b"]);
    assert_eq!(ids(node.claim(100).await), ["c"]);
    let none = node.post("/v1/groups/deliver/claim", json!({})).await.good();
    assert_eq!(none, json!({ "deliveries": [] }));
}

#[tokio::test]
async fn a_long_poll_ends_as_soon_as_there_is_something() {
    let node = Node::start().await;
    let watch = node.clock.stopwatch();
    let (claimed, ()) = tokio::join!(node.post("/v1/groups/deliver/claim", json!({ "wait": "30s" })), async {
        node.ailing.waited.notified().await;
        node.publish(&["a"]).await;
    });
    assert_eq!(claimed.good()["deliveries"][0]["event"]["id"], "a");
    assert!(watch.elapsed() < Duration::from_secs(15), "{:?}", watch.elapsed());
}

#[tokio::test]
async fn a_drain_ends_long_polls() {
    let node = Node::start().await;
    let (claimed, ()) = tokio::join!(node.post("/v1/groups/deliver/claim", json!({ "wait": "30s" })), async {
        node.ailing.waited.notified().await;
        node.stopper.drain();
    });
    assert_eq!(claimed.good(), json!({ "deliveries": [] }));
    let refused = node.post("/v1/groups/deliver/claim", json!({})).await;
    assert!(refused.header("retry-after").is_some());
    refused.problem(503, "unavailable");
}

#[tokio::test]
async fn outcomes_lead_where_they_should() {
    let node = Node::start().await;
    node.publish(&["retry", "reject", "release", "later"]).await;
    let claimed = node.claim(4).await;
    let [retry, reject, release, later] = claimed.as_slice() else { panic!("{claimed:?}") };
    node.settle(retry, json!({ "outcome": "retry", "reason": "try again" })).await;
    node.settle(reject, json!({ "outcome": "reject", "reason": "no such customer" })).await;
    node.settle(release, json!({ "outcome": "release" })).await;
    node.settle(later, json!({ "outcome": "release", "after": "1h" })).await;
    let mut back: Vec<(Value, Value)> = Vec::new();
    while back.len() < 2 {
        back.extend(node.claim(4).await.iter().map(|one| (one["event"]["id"].clone(), one["attempt"].clone())));
    }
    back.sort_by_key(|(id, _)| id.to_string());
    assert_eq!(back, [(json!("release"), json!(1)), (json!("retry"), json!(2))], "a release spends nothing");
    let after = group(&node).await;
    assert_eq!((&after["dead"], &after["scheduled"], &after["in_flight"]), (&json!(1), &json!(1), &json!(2)));
    let dead = node.get("/v1/dlq/orders").await.good();
    assert_eq!(dead["entries"][0]["fault"]["message"], "no such customer");
}

#[tokio::test]
async fn late_and_strange_tokens_are_told_apart() {
    let node = Node::start().await;
    node.publish(&["a"]).await;
    let token = node.claim(1).await[0]["token"].clone();
    let settle = |token: Value| json!({ "settlements": [{ "token": token, "outcome": "done" }] });
    let status = async |token: Value| {
        let answer = node.post("/v1/groups/deliver/settle", settle(token)).await.good();
        answer["results"][0]["status"].clone()
    };
    assert_eq!(status(token.clone()).await, "settled");
    assert_eq!(status(token.clone()).await, "lease_lost", "settled once is settled");
    assert_eq!(status(json!("no token")).await, "unknown");
    assert_eq!(status(json!("\"quotes\\\n")).await, "unknown");
    let both = json!({ "settlements": [
        { "token": "x", "outcome": "done" }, { "token": token, "outcome": "retry", "after": "5s", "reason": "ä" },
    ] });
    let answer = node.post("/v1/groups/deliver/settle", both).await.good();
    let statuses: Vec<&Value> = answer["results"].as_array().unwrap().iter().map(|one| &one["status"]).collect();
    assert_eq!(statuses, ["unknown", "lease_lost"], "in input order");
    assert_eq!(answer["results"][0]["token"], "x");
}

#[tokio::test]
async fn leases_are_extended() {
    let node = Node::start().await;
    node.publish(&["a"]).await;
    let token = node.claim(1).await[0]["token"].clone();
    let extend = async |document: Value| node.post("/v1/groups/deliver/extend", document).await;
    let answer = extend(json!({ "tokens": [token, "x"], "by": "30s" })).await.good();
    assert_eq!(
        answer["results"],
        json!([{ "token": token, "status": "extended" }, { "token": "x", "status": "unknown" }])
    );
    let settled =
        node.post("/v1/groups/deliver/settle", json!({ "settlements": [{ "token": token, "outcome": "done" }] }));
    settled.await.good();
    let answer = extend(json!({ "tokens": [token], "by": "30s" })).await.good();
    assert_eq!(answer["results"][0]["status"], "lease_lost");
    for by in ["0s", "13h", "soon", ""] {
        extend(json!({ "tokens": [], "by": by })).await.problem(400, "invalid");
    }
}

#[tokio::test]
async fn wrong_requests_are_refused() {
    let node = Node::start().await;
    let claim = |document: Value| ("claim", document);
    let settle = |document: Value| ("settle", document);
    let wrong = [
        claim(json!({ "max": 0 })),
        claim(json!({ "max": limits::CLAIM_MAX + 1 })),
        claim(json!({ "max": "many" })),
        claim(json!({ "wait": "31s" })),
        claim(json!({ "wait": 5 })),
        claim(json!({ "more": 1 })),
        claim(json!([])),
        settle(json!({})),
        settle(json!({ "settlements": [{ "token": "x" }] })),
        settle(json!({ "settlements": [{ "token": "x", "outcome": "finished" }] })),
        settle(json!({ "settlements": [{ "token": "x", "outcome": "retry", "after": "soon" }] })),
        settle(json!({ "settlements": [{ "token": "x", "outcome": "retry", "result": 1 }] })),
        settle(
            json!({ "settlements": [{ "token": "x", "outcome": "done", "result": 1, "content_type": "text/plain" }] }),
        ),
    ];
    for (what, document) in wrong {
        node.post(&format!("/v1/groups/deliver/{what}"), document).await.problem(400, "invalid");
    }
    let two = json!({ "settlements": [
        { "token": "x", "outcome": "done", "result": { "n": [1] } }, { "token": "x", "outcome": "finished" },
    ] });
    let told = node.post("/v1/groups/deliver/settle", two).await.problem(400, "invalid")["detail"].to_string();
    assert!(told.contains("settlements[1].outcome"), "{told}");
    let large = "x".repeat(limits::RESULT_BYTES_MAX);
    let large = json!({ "settlements": [{ "token": "x", "outcome": "done", "result": large }] });
    let told = node.post("/v1/groups/deliver/settle", large).await.problem(413, "too_large")["detail"].to_string();
    assert!(told.contains("settlements[0]") && told.contains("262144"), "{told}");
    let many = vec![json!({ "token": "x", "outcome": "done" }); limits::SETTLE_MAX + 1];
    node.post("/v1/groups/deliver/settle", json!({ "settlements": many })).await.problem(413, "too_large");
    let xml = request(Method::POST, "/v1/groups/deliver/claim", &[("content-type", "application/xml")], "<a/>");
    node.send(xml).await.problem(415, "unsupported");
    node.post("/v1/groups/nobody/claim", json!({})).await.problem(404, "missing");
    node.post("/v1/groups/inside/claim", json!({})).await.problem(409, "conflict");
}

//! Names by which older systems were operated, beside those of the node.

use serde_json::{Value, json};

use crate::node::Node;

/// Returns the values of the samples of a metric.
fn samples<'t>(page: &'t str, start: &str) -> Vec<&'t str> {
    page.lines().filter_map(|line| line.strip_prefix(start)?.strip_prefix(' ')).collect()
}

#[tokio::test]
async fn a_bot_is_watched_by_its_old_names() {
    let node = Node::with_profile("signal-client").await;
    node.bury(&["bad-1", "bad-2"]).await;
    node.publish(&["a", "b", "c"]).await;
    for delivery in node.claim(1).await {
        node.settle(&delivery, json!({ "outcome": "done" })).await;
    }
    let answer = node.get("/metrics").await;
    let page = answer.text();
    assert_eq!(samples(page, "message_queue_depth"), ["2"], "unlabelled, over all groups:\n{page}");
    assert_eq!(samples(page, "message_queue_latency_seconds_count"), ["3"]);
    assert_eq!(samples(page, "message_queue_latency_seconds_bucket{le=\"+Inf\"}"), ["3"]);
    assert_eq!(samples(page, "messages_processed_total"), ["1"]);
    assert_eq!(samples(page, "errors_occurred_total{class=\"invalid\"}"), ["2"]);
    assert_eq!(samples(page, "dead_letter_queue_depth{queue=\"orders\"}"), ["2"]);
    let breaker = |state: &str| format!("circuit_breaker_state{{endpoint=\"partner\",state=\"{state}\"}}");
    assert_eq!((samples(page, &breaker("closed")), samples(page, &breaker("open"))), (vec!["1"], vec!["0"]));
    assert!(page.contains("# TYPE rate_limiter_wait_seconds histogram\n"), "{page}");
    assert!(page.contains("\ntidegate_group_messages{"), "the node's own names stay");

    assert_eq!(node.get("/live").await.good(), json!({ "status": "ok" }));
    assert_eq!(node.get("/dlq").await.good()["depth"], 2);
    let ready = node.get("/ready").await.good();
    assert_eq!(
        (&ready["ready"], &ready["queue_depth"], &ready["ingest_paused_until"]),
        (&json!(true), &json!(2), &Value::Null)
    );
    node.post("/v1/intake/pause", json!({ "reason": "too much" })).await.good();
    let ready = node.get("/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["ready"]), (503, &json!(false)));
}

#[tokio::test]
async fn without_a_profile_there_are_no_old_names() {
    let node = Node::start().await;
    assert!(!node.get("/metrics").await.text().contains("message_queue_depth"));
    assert_eq!(node.get("/live").await.status.as_u16(), 404);
}

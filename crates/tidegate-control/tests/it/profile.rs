//! Names by which older systems were operated, beside those of the node.

use serde_json::{Value, json};
use tidegate_core::fault::{Fault, Origin};

use crate::{ailing::Illness, node::Node};

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

#[tokio::test]
async fn a_consumer_is_watched_by_its_old_names() {
    let node = Node::with_profile("markdown-manager-consumer").await;
    node.bury(&["bad-1"]).await;
    node.publish(&["a", "b", "c"]).await;
    for delivery in node.claim(1).await {
        node.settle(&delivery, json!({ "outcome": "done" })).await;
    }
    let held = node.claim(1).await;
    let metrics = node.get("/metrics").await.good();
    assert_eq!(metrics["events_consumed_total"], json!({ "orders": 2, "other": 0 }));
    assert_eq!((&metrics["events_processed_success"], &metrics["events_processed_failure"]), (&json!(1), &json!(1)));
    assert_eq!((&metrics["success_rate"], &metrics["last_processed_event_id"]), (&json!(50), &json!("a")));
    assert!(metrics["consumer_lag_seconds"].as_f64().is_some_and(|lag| lag > 0.0), "{metrics}");
    assert_eq!(metrics["recent_errors"][0]["event_id"], "bad-1", "{metrics}");
    assert_eq!(metrics["metrics"]["success_rate"], 50, "old clients look one level down");
    assert!(metrics["last_consumed_timestamp"].is_string() && metrics["uptime_seconds"].is_f64(), "{metrics}");

    let health = node.get("/health/detailed").await.good();
    let consumer = &health["services"]["consumer"];
    assert_eq!((&consumer["lag_entries"], &consumer["pending"]), (&json!(1), &json!(1)), "{health}");
    let group = &consumer["details"]["deliver"];
    assert!(group["lag_seconds"].as_f64() > Some(0.0) && group["idle_seconds"].is_f64(), "{health}");
    assert!(health["system"]["memory_bytes"].is_u64(), "{health}");
    let basic = node.get("/health").await.good();
    assert_eq!(basic, json!({ "status": "healthy", "service": "consumer-service", "version": "0.0.1" }));

    let page = node.get("/metrics/prometheus").await.text().to_owned();
    assert_eq!(samples(&page, "events_consumed_total{topic=\"orders\"}"), ["2"]);
    assert_eq!(samples(&page, "consumer_lag_seconds{consumer_group=\"inside\"}"), ["0"]);
    assert!(page.contains("# TYPE events_processed_success untyped\nevents_processed_success 1\n"), "{page}");
    assert_eq!(node.get("/metrics?format=prometheus").await.text().lines().next(), page.lines().next());
    let wrong = node.get("/metrics?format=xml").await;
    assert!(wrong.status.as_u16() == 400 && wrong.text().contains("json and prometheus"), "{}", wrong.text());
    for delivery in held.iter().chain(&node.claim(10).await) {
        node.settle(delivery, json!({ "outcome": "done" })).await;
    }
    assert_eq!(node.get("/metrics").await.good()["consumer_lag_seconds"], 0, "it has caught up");
}

#[tokio::test]
async fn while_the_store_is_away_a_consumer_tells_what_is_known_without_it() {
    let node = Node::with_profile("markdown-manager-consumer").await;
    node.publish(&["a"]).await;
    for delivery in node.claim(1).await {
        node.settle(&delivery, json!({ "outcome": "done" })).await;
    }
    node.ailing.ail(Illness::Fault(Fault::unavailable(Origin::Store, "the server is away")));
    let metrics = node.get("/metrics").await.good();
    assert_eq!(metrics["events_consumed_total"], json!({ "orders": 1, "other": 0 }));
    assert_eq!((&metrics["consumer_lag_seconds"], &metrics["success_rate"]), (&Value::Null, &json!(100)), "{metrics}");
    let consumer = &node.get("/health/detailed").await.good()["services"]["consumer"];
    assert_eq!((&consumer["lag_entries"], &consumer["details"]["deliver"]["stream"]), (&Value::Null, &json!("orders")));
    let page = node.get("/metrics/prometheus").await.text().to_owned();
    assert_eq!(samples(&page, "tidegate_store_answers"), ["0"]);
    assert_eq!(samples(&page, "events_consumed_total{topic=\"orders\"}"), ["1"]);
    assert!(!page.contains("\nconsumer_lag_seconds{") && !page.contains("\ntidegate_stream_events"), "{page}");
    assert!(page.contains("\ntidegate_attempts_total{"), "what was counted here is told: {page}");
    node.ailing.ail(Illness::None);
    assert_eq!(samples(node.get("/metrics/prometheus").await.text(), "tidegate_store_answers"), ["1"]);
}

#[tokio::test]
async fn a_backend_tells_of_its_requests() {
    let node = Node::with_profile("markdown-manager-backend").await;
    node.publish(&["a"]).await;
    assert_eq!(node.get("/v1/groups/nobody").await.status.as_u16(), 404);
    let metrics = node.get("/monitoring/metrics").await.good();
    assert_eq!((&metrics["requests_total"], &metrics["responses_total"]["4xx"]), (&json!(2), &json!(1)), "{metrics}");
    assert_eq!((&metrics["error_rate"], &metrics["status"]), (&json!(0.0), &json!("success")));
    for path in ["/health", "/monitoring/health"] {
        assert_eq!(node.get(path).await.good()["service"], "backend");
    }
    let health = node.get("/health/detailed").await.good();
    assert_eq!(health["services"]["redis"]["status"], "healthy", "{health}");
    assert!(health["services"]["redis"]["details"]["persistence"]["loss_window"].is_string(), "{health}");
    assert!(node.get("/metrics").await.text().contains("tidegate_http_requests_total{status=\"4xx\"} 1"));
}

//! The whole node at a glance.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::node::Node;

#[tokio::test]
async fn the_status_lists_the_parts() {
    let node = Node::start().await;
    let status = node.get("/v1/status").await.good();
    assert_eq!((&status["node"], &status["health"]), (&json!("harbour"), &json!("healthy")));
    let names = |list: &str| -> Vec<&str> {
        status[list].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
    };
    assert_eq!(names("modules"), ["shop", "deliver", "inside"]);
    assert!(names("services").contains(&"group/inside/claim"), "{status}");
    assert_eq!(status["restarts"], 0);
    assert!(status["uptime_seconds"].is_number() && status["started_at"].is_string());
}

#[tokio::test]
async fn the_top_shows_groups_and_limiters() {
    let node = Node::start().await;
    node.publish(&["a", "b", "c"]).await;
    for delivery in node.claim(1).await {
        node.settle(&delivery, json!({ "outcome": "done" })).await;
    }
    let top = node.get("/v1/top").await.good();
    let group = &top["groups"][0];
    assert_eq!((&group["group"], &group["depth"], &group["in_flight"]), (&json!("deliver"), &json!(2), &json!(0)));
    assert!(group["latency_p95"].as_f64().unwrap() >= 0.0, "{group}");
    assert!(group["handler_p50"].is_number(), "{group}");
    assert_eq!(group["seconds_to_drain"], Value::Null, "nobody works on it");
    assert_eq!(top["limiters"][0]["target"], "partner");
    assert!(top["limiters"][0]["wait_p95"].is_number());
    assert!(top["process"]["resident_bytes"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn the_report_sums_up_attempts() {
    let node = Node::start().await;
    node.publish(&["a", "b"]).await;
    let lent = node.claim(2).await;
    node.settle(&lent[0], json!({ "outcome": "done" })).await;
    node.settle(&lent[1], json!({ "outcome": "reject", "reason": "bad" })).await;
    for _ in 0..2 {
        let report = node.get("/v1/reports/performance?hours=24").await.good();
        assert_eq!((&report["total"], &report["success"], &report["failed"]), (&json!(2), &json!(1), &json!(1)));
        assert_eq!(report["success_rate"], 0.5);
        assert!(report["p95_ms"].is_number() && report["avg_ms"].is_number());
        assert_eq!(report["groups"]["deliver"]["total"], 2);
        assert_eq!(report["slowest"].as_array().unwrap().len(), 2, "{report}");
    }
    node.get("/v1/reports/performance?hours=0").await.problem(400, "invalid");
    node.get("/v1/reports/performance?hours=169").await.problem(400, "invalid");
}

#[tokio::test]
async fn a_follower_sees_what_happens_and_goes_when_the_node_does() {
    let node = Node::start().await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let ask = b"GET /v1/subscribe?pattern=group.*,stream/orders HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut told = String::new();
    read_until(&mut stream, &mut told, "application/x-ndjson").await;
    node.post("/v1/groups/deliver/pause", json!({ "reason": "partner is down" })).await.good();
    read_until(&mut stream, &mut told, "\"notice\":\"group.paused\"").await;
    assert!(told.contains("\"reason\":\"partner is down\""), "{told}");
    node.publish(&["a"]).await;
    read_until(&mut stream, &mut told, "\"stream\":\"orders\",\"position\":\"1\"").await;
    node.stopper.drain();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "the answer ends in order");
}

async fn read_until(stream: &mut TcpStream, told: &mut String, wanted: &str) {
    while !told.contains(wanted) {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "it ended before {wanted:?}: {told}");
        told.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused() {
    let node = Node::start().await;
    let problem = node.get("/v1/subscribe?pattern=group.*,nonsense").await.problem(400, "invalid");
    assert!(problem["detail"].as_str().unwrap().contains("\"nonsense\" fits no notice"), "{problem}");
    node.get("/v1/subscribe?pattern=stream/nowhere").await.problem(404, "missing");
    node.get("/v1/logs").await.problem(404, "missing");
    node.get("/v1/logs?limit=0").await.problem(400, "invalid");
    node.post("/v1/upstreams/nowhere/probe", json!({})).await.problem(404, "missing");
    assert_eq!(node.get("/v1/upstreams").await.good(), json!({ "ok": true, "upstreams": [] }));
}

#[tokio::test]
async fn health_has_the_process_and_the_system() {
    let node = Node::start().await;
    let health = node.get("/health/detailed").await.good();
    assert!(health["process"]["resident_bytes"].as_u64().unwrap() > 0, "{health}");
    assert!(health["process"]["open_files"].as_u64().unwrap() > 0);
    assert!(health["system"]["processors"].as_u64().unwrap() > 0);
    assert!(health["data_bytes"].is_object());
}

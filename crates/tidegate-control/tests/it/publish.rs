//! The way in: four forms of events, atomic batches, limits, and refusals that leave nothing behind.

use http::Method;
use serde_json::{Value, json};
use tidegate_core::{
    fault::{Fault, Origin},
    limits,
};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    ailing::Illness,
    client::{Answer, raw, request},
    node::Node,
};

const EVENTS: &str = "/v1/streams/orders/events";

async fn publish(node: &Node, headers: &[(&str, &str)], body: impl Into<axum::body::Body>) -> Answer {
    node.send(request(Method::POST, EVENTS, headers, body)).await
}

async fn count(node: &Node) -> u64 {
    node.get("/v1/streams/orders").await.good()["count"].as_u64().unwrap()
}

async fn stored(node: &Node) -> Vec<Value> {
    let page = node.get(EVENTS).await.good();
    page["events"].as_array().unwrap().iter().map(|one| one["event"].clone()).collect()
}

fn event(id: &str) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/test", "type": "order.placed", "data": { "n": 1 } })
}

#[tokio::test]
async fn all_four_forms_are_accepted() {
    let node = Node::start().await;
    let structured = event("structured");
    let answer = publish(&node, &[("content-type", "application/cloudevents+json")], structured.to_string()).await;
    let accepted = answer.good();
    assert_eq!(accepted["accepted"], json!([{ "id": "structured", "position": "1", "duplicate": false }]));

    let batch = json!([event("batch-1"), event("batch-2")]).to_string();
    let answer = publish(&node, &[("content-type", "application/cloudevents-batch+json; charset=utf-8")], batch).await;
    let ids: Vec<Value> = answer.good()["accepted"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, ["batch-1", "batch-2"], "in input order");

    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "binary"),
        ("ce-source", "/test"),
        ("ce-type", "order.placed"),
        ("ce-partitionkey", "customer 9"),
        ("content-type", "text/plain"),
    ];
    assert_eq!(publish(&node, &headers, "as it is").await.good()["accepted"][0]["id"], "binary");

    let answer =
        publish(&node, &[("idempotency-key", "plain"), ("content-type", "application/json")], "{\"n\":2}").await;
    assert_eq!(answer.good()["accepted"][0]["id"], "plain");

    let events = stored(&node).await;
    assert_eq!(events.len(), 5);
    assert_eq!(events[0], structured);
    assert_eq!((&events[3]["data"], &events[3]["partitionkey"]), (&json!("as it is"), &json!("customer 9")));
    assert_eq!(events[4]["data"], json!({ "n": 2 }));
}

#[tokio::test]
async fn a_source_has_its_own_path_and_defaults() {
    let node = Node::start().await;
    let answer = node.send(request(Method::POST, "/shop/orders", &[("content-type", "application/json")], "{}")).await;
    assert!(!answer.good()["accepted"][0]["id"].as_str().unwrap().is_empty());
    let event = &stored(&node).await[0];
    assert_eq!((&event["source"], &event["type"]), (&json!("/shop"), &json!("order.placed")));
    node.get("/shop/orders").await.problem(405, "method");
}

#[tokio::test]
async fn a_repeat_is_answered_with_the_first_position() {
    let node = Node::start().await;
    node.publish(&["one", "two"]).await;
    let answer = publish(&node, &[("idempotency-key", "one"), ("content-type", "application/json")], "{}").await;
    assert_eq!(answer.good()["accepted"], json!([{ "id": "one", "position": "1", "duplicate": true }]));
    assert_eq!(count(&node).await, 2);
}

#[tokio::test]
async fn a_batch_is_accepted_whole_or_not_at_all() {
    let node = Node::start().await;
    let mut wrong = event("c");
    wrong["id"] = json!("");
    let batch = json!([event("a"), event("b"), wrong]).to_string();
    let answer = publish(&node, &[("content-type", "application/cloudevents-batch+json")], batch).await;
    let problem = answer.problem(400, "invalid");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains('2') && detail.contains("id"), "it does not say where: {detail}");
    assert_eq!(count(&node).await, 0, "nothing of a refused batch is kept");
}

#[tokio::test]
async fn what_is_malformed_is_refused_and_told() {
    let node = Node::start().await;
    let structured = [("content-type", "application/cloudevents+json")];
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let deep = format!("{}{}", "[".repeat(limits::JSON_DEPTH_MAX + 1), "]".repeat(limits::JSON_DEPTH_MAX + 1));
    let deep = format!("{{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\",\"type\":\"t\",\"data\":{deep}}}");
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Headers<'_>, &str, u16, &str); 9] = [
        (&structured, "", 400, "invalid"),
        (&structured, "{", 400, "invalid"),
        (&structured, "{\"id\":\"1\"}", 400, "invalid"),
        (&structured, &deep, 400, "invalid"),
        (&batch, "{}", 400, "invalid"),
        (&[("ce-id", "1")], "x", 400, "invalid"),
        (&[("content-type", "application/json")], "{\"a\":", 400, "invalid"),
        (&[("content-type", "application/cloudevents+avro")], "x", 415, "unsupported"),
        (&[("content-type", "application/json; charset=utf-16")], "x", 415, "unsupported"),
    ];
    for (headers, body, status, kind) in cases {
        publish(&node, headers, body.to_owned()).await.problem(status, kind);
    }
    assert_eq!(count(&node).await, 0);
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_the_limit() {
    let node = Node::start().await;
    let binary = [("content-type", "application/octet-stream")];
    let told = |problem: Value, limit: usize| {
        assert!(problem["detail"].as_str().unwrap().contains(&limit.to_string()), "{problem}");
    };
    let answer = publish(&node, &binary, vec![b'x'; limits::BODY_BYTES_MAX + 1]).await;
    told(answer.problem(413, "too_large"), limits::BODY_BYTES_MAX);
    let pieces = (0..limits::BODY_BYTES_MAX / 65_536 + 1).map(|_| std::io::Result::Ok(vec![b'x'; 65_536]));
    let streamed = axum::body::Body::from_stream(futures::stream::iter(pieces));
    told(publish(&node, &binary, streamed).await.problem(413, "too_large"), limits::BODY_BYTES_MAX);
    let answer = publish(&node, &binary, vec![b'x'; limits::EVENT_BYTES_MAX]).await;
    told(answer.problem(413, "too_large"), limits::EVENT_BYTES_MAX);
    let many: Vec<Value> = (0..=limits::BATCH_EVENTS_MAX).map(|index| event(&index.to_string())).collect();
    let answer =
        publish(&node, &[("content-type", "application/cloudevents-batch+json")], json!(many).to_string()).await;
    told(answer.problem(413, "too_large"), limits::BATCH_EVENTS_MAX);
    assert_eq!(count(&node).await, 0);
}

#[tokio::test]
async fn a_declared_length_is_believed_before_a_byte_is_read() {
    let node = Node::start().await;
    let head = format!("POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n");
    let answer = raw(node.address, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let asks =
        format!("POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 4200000\r\n\r\n");
    let answer = raw(node.address, asks.replace("4200000", &(limits::BODY_BYTES_MAX + 1).to_string()).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_sends_before_it_reads_sees_the_answer() {
    let node = Node::start().await;
    let length = limits::BODY_BYTES_MAX + 1;
    let head =
        format!("POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    let answer = raw(node.address, &[head.as_bytes(), &vec![b'x'; length]].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_body_without_end_is_cut() {
    let node = Node::start().await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let head = format!("POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
    let mut sent = 0;
    while stream.write_all(&piece).await.is_ok() {
        sent += piece.len();
        assert!(sent < 16 * limits::BODY_BYTES_MAX, "{sent} bytes were taken");
    }
}

#[tokio::test]
async fn unknown_streams_and_strange_names_are_refused() {
    let node = Node::start().await;
    let publish = async |path: &str| node.send(request(Method::POST, path, &[], "x")).await;
    publish("/v1/streams/nowhere/events").await.problem(404, "missing");
    publish("/v1/streams/a%20b/events").await.problem(400, "invalid");
    publish(&format!("/v1/streams/{}/events", "x".repeat(limits::NAME_BYTES_MAX + 1))).await.problem(400, "invalid");
    // A name may be escaped where it need not be.
    publish("/v1/streams/%6frders/events").await.good();
    let dead = publish("/v1/streams/orders.dlq/events").await;
    assert!(dead.status.is_client_error(), "nobody but the store buries: {}", dead.text());
}

/// What an event asks for itself is refused at the edge when it cannot be read, by its name and place.
#[tokio::test]
async fn what_an_event_asks_for_is_checked() {
    let node = Node::start().await;
    let with = |name: &str, value: Value| {
        let mut event = event("a");
        event[name] = value;
        event
    };
    let wrong = [
        ("timeout", json!("soon")),
        ("timeout", json!(30)),
        ("timeout", json!("0s")),
        ("after", json!("b,,c")),
        ("after", json!("a")),
        ("after", json!(true)),
    ];
    for (name, value) in wrong {
        let batch = json!([event("good"), with(name, value)]).to_string();
        let answer = publish(&node, &[("content-type", "application/cloudevents-batch+json")], batch).await;
        let problem = answer.problem(400, "invalid");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("event 1") && detail.contains(&format!("attribute {name:?}")), "{detail}");
    }
    assert_eq!(count(&node).await, 0);
    let good = with("timeout", json!("90s")).to_string();
    publish(&node, &[("content-type", "application/cloudevents+json")], good).await.good();
}

#[tokio::test]
async fn backpressure_says_when_to_come_back() {
    let node = Node::start().await;
    node.ailing.ail(Illness::Fault(Fault::limited("stream is full", std::time::Duration::from_millis(2500))));
    let answer = publish(&node, &[], "x").await;
    assert_eq!(answer.header("retry-after"), Some("3"));
    assert_eq!(answer.problem(429, "limited")["retry_after_seconds"], 3);
    node.ailing.ail(Illness::Fault(Fault::unavailable(Origin::Store, "disk is full")));
    let answer = publish(&node, &[], "x").await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.problem(503, "unavailable")["origin"], "store");
    node.ailing.ail(Illness::None);
    node.stopper.drain();
    let answer = publish(&node, &[], "x").await;
    assert!(answer.header("retry-after").is_some());
    answer.problem(503, "unavailable");
}

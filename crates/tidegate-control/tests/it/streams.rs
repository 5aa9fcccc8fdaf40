//! Looking at streams.

use serde_json::{Value, json};

use crate::node::Node;

#[tokio::test]
async fn streams_are_listed_and_shown() {
    let node = Node::start().await;
    let empty = node.get("/v1/streams/orders").await.good();
    assert_eq!((&empty["first"], &empty["last"], &empty["count"]), (&Value::Null, &Value::Null, &json!(0)));
    node.publish(&["a", "b", "c"]).await;
    let orders = node.get("/v1/streams/orders").await.good();
    assert_eq!(orders["name"], "orders");
    assert_eq!((&orders["first"], &orders["last"], &orders["count"]), (&json!("1"), &json!("3"), &json!(3)));
    assert_eq!(orders["groups"], json!(["deliver"]));
    assert!(orders["bytes"].as_u64().unwrap() > 0);
    let all = node.get("/v1/streams").await.good();
    let names: Vec<&str> = all["streams"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    for name in ["orders", "orders.dlq", "other", "other.dlq"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    node.get("/v1/streams/nowhere").await.problem(404, "missing");
}

#[tokio::test]
async fn events_are_read_page_by_page() {
    let node = Node::start().await;
    let ids: Vec<String> = (0..150).map(|index| format!("id-{index}")).collect();
    node.publish(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut seen = Vec::new();
    let mut path = "/v1/streams/orders/events?limit=67".to_owned();
    loop {
        let page = node.get(&path).await.good();
        let events = page["events"].as_array().unwrap();
        assert!(events.len() <= 67);
        seen.extend(events.iter().map(|one| one["event"]["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/streams/orders/events?limit=67&from={next}");
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn events_are_chosen_by_type_and_start() {
    let node = Node::start().await;
    node.publish(&["a", "b"]).await;
    node.post("/shop/orders", json!({})).await.good();
    let read = async |query: &str| {
        let page = node.get(&format!("/v1/streams/orders/events{query}")).await.good();
        page["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["position"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(read("?type=order.placed").await, ["3"]);
    assert_eq!(read("?from=2").await, ["2", "3"]);
    assert_eq!(read("?from=2&type=plain").await, ["2"]);
    assert!(read("?from=99").await.is_empty());
    for wrong in ["?limit=0", "?limit=1001", "?limit=x", "?from=x", "?colour=red"] {
        node.get(&format!("/v1/streams/orders/events{wrong}")).await.problem(400, "invalid");
    }
    node.get("/v1/streams/nowhere/events").await.problem(404, "missing");
}

//! What a configuration asks of events: filters and maps of groups, schemas and dedupe of streams.

use serde_json::json;

use crate::node::Berth;

const ROUTED: &str = r#"
version: 1
streams:
  orders:
groups:
  big:
    from: orders
    where: data.total > 100
    map: '{"sum": data.total, "for": subject}'
    sink: { type: pull }
  broken:
    from: orders
    stages: [{ where: subject == "c-3" }, { map: "data.items[0]" }]
    sink: { type: pull }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn groups_choose_their_events_and_what_is_seen_of_them() {
    let berth = Berth::new(ROUTED);
    let node = berth.start().await;
    for number in 1..=3 {
        let document = json!({ "total": number * 60 }).to_string();
        node.publish("orders", &number.to_string(), &format!("c-{number}"), &document).await;
    }
    let (_, claimed) = node.post("/v1/groups/big/claim", &[], r#"{"max":10,"wait":"10s"}"#).await;
    let deliveries = claimed["deliveries"].as_array().unwrap();
    let seen: Vec<_> = deliveries.iter().map(|delivery| &delivery["event"]["data"]).collect();
    assert_eq!(seen, [&json!({ "sum": 120, "for": "c-2" }), &json!({ "sum": 180, "for": "c-3" })]);
    let outcome =
        |delivery: &serde_json::Value| json!({ "token": delivery["token"], "outcome": "reject", "reason": "no" });
    let body = json!({ "settlements": deliveries.iter().map(outcome).collect::<Vec<_>>() }).to_string();
    let (status, answer) = node.post("/v1/groups/big/settle", &[], body).await;
    assert_eq!(status, 200, "{answer}");
    let list = node.json(&["dlq", "list", "--stream", "orders"]);
    assert_eq!(list["entries"][0]["event"]["data"], json!({ "total": 180 }), "the dead letter is the event as it came");

    let (_, claimed) = node.post("/v1/groups/broken/claim", &[], r#"{"wait":"100ms"}"#).await;
    assert_eq!(claimed["deliveries"], json!([]));
    let list = node.json(&["dlq", "list", "--stream", "orders", "--group", "broken"]);
    let fault = &list["entries"][0]["fault"];
    assert_eq!(fault["class"], "invalid");
    assert_eq!(fault["message"], "expression `data.items[0]`: there is no key \"items\"");

    let audit = node.json(&["audit", "messages"]);
    let row = |name: &str| audit["rows"].as_array().unwrap().iter().find(|row| row["group"] == name).unwrap().clone();
    let (big, broken) = (row("big"), row("broken"));
    assert_eq!((&big["done"], &big["skipped"], &big["dead"]), (&1.into(), &1.into(), &2.into()));
    assert_eq!((&broken["done"], &broken["skipped"], &broken["dead"]), (&2.into(), &2.into(), &1.into()));
    assert_eq!(audit["balanced"], true);
    let metrics = node.client.get(format!("{}/metrics", node.url)).send().await.unwrap().text().await.unwrap();
    let line = "tidegate_messages_settled_total{group=\"big\",outcome=\"skipped\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    let group = node.json(&["group", "show", "big"]);
    assert_eq!(group["policy"]["stages"][0], "where data.total > 100");
    node.stop().await;
}

const CHECKED: &str = r#"
version: 1
streams:
  orders:
    schema: { file: order.json }
    dedupe: { window: 1h, key: data.order_id }
  late:
    schema: { inline: { type: object, required: [n], properties: { n: { minimum: 0 } } }, on: consume }
sources:
  intake: { type: http, path: /orders, to: orders }
groups:
  work: { from: orders, sink: { type: pull } }
  late: { from: late, sink: { type: pull } }
"#;

const ORDER: &str = r#"{
  "type": "object", "required": ["order_id"],
  "properties": { "order_id": { "type": "string" }, "lines": { "items": { "type": "object", "required": ["sku"] } } }
}"#;

const BATCH: &str = "application/cloudevents-batch+json";

fn checked() -> Berth {
    let berth = Berth::new(CHECKED);
    std::fs::write(berth.path().join("order.json"), ORDER).unwrap();
    berth
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_schema_is_refused_with_its_place() {
    let berth = checked();
    let node = berth.start().await;
    let event = |id: &str, data: serde_json::Value| json!({ "specversion": "1.0", "id": id, "source": "/s", "type": "t", "data": data });
    let good = event("1", json!({ "order_id": "a", "lines": [{ "sku": "x" }] }));
    let wrong = event("2", json!({ "order_id": "b", "lines": [{ "sku": "x" }, { "price": 3 }] }));
    let batch = json!([good, wrong]).to_string();
    for path in ["/v1/streams/orders/events", "/orders"] {
        let (status, problem) = node.post(path, &[("content-type", BATCH)], batch.clone()).await;
        assert_eq!((status, &problem["pointer"], &problem["index"]), (422, &"/lines/1".into(), &1.into()), "{problem}");
        assert_eq!(problem["type"], "urn:tidegate:problem:schema");
        assert!(problem["detail"].as_str().unwrap().contains("\"sku\" is a required"), "{problem}");
    }
    assert_eq!(node.get("/v1/streams/orders").await["accepted"], 0, "nothing of a refused batch is kept");
    let (status, _) = node.post("/orders", &[("content-type", "text/plain")], "no JSON at all").await;
    assert_eq!(status, 422);
    let (status, answer) = node.post("/orders", &[("content-type", BATCH)], json!([good]).to_string()).await;
    assert_eq!(status, 200, "{answer}");

    let check = |more: &[&str]| node.cli(&[&["schema", "check", "--stream", "orders"], more].concat());
    let (exit, out, _) = check(&["--id", "1"]);
    assert!(exit == 0 && out.contains("valid"), "{out}");
    let file = berth.path().join("wrong.json");
    std::fs::write(&file, wrong.to_string()).unwrap();
    let (exit, out, err) = check(&["--file", file.to_str().unwrap()]);
    assert_eq!(exit, 1, "{out}{err}");
    assert!(out.contains("/lines/1") && out.contains("required"), "{out}");
    assert_eq!(check(&["--id", "nobody"]).0, 1);
    assert_eq!(node.json(&["schema", "show", "--stream", "orders"])["schema"]["required"][0], "order_id");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_at_consume_is_a_dead_letter() {
    let berth = checked();
    let node = berth.start().await;
    node.publish("late", "1", "s", r#"{"n": -1}"#).await;
    node.publish("late", "2", "s", r#"{"n": 1}"#).await;
    let (_, claimed) = node.post("/v1/groups/late/claim", &[], r#"{"max":10,"wait":"10s"}"#).await;
    assert_eq!(claimed["deliveries"].as_array().map(Vec::len), Some(1));
    assert_eq!(claimed["deliveries"][0]["event"]["id"], "2");
    let fault = node.json(&["dlq", "list", "--stream", "late"])["entries"][0]["fault"].clone();
    assert_eq!(fault["class"], "invalid");
    assert!(fault["message"].as_str().unwrap().starts_with("/n does not fit the schema"), "{fault}");
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_by_a_key_of_the_data_is_known_after_a_crash() {
    let berth = checked();
    let node = berth.start().await;
    let publish = async |node: &crate::node::Node, id: &str| {
        let headers = [("content-type", "application/json"), ("idempotency-key", id)];
        let (status, answer) = node.post("/orders", &headers, r#"{"order_id":"o-7"}"#).await;
        assert_eq!(status, 200, "{answer}");
        answer["accepted"][0].clone()
    };
    let first = publish(&node, "a").await;
    assert_eq!(first["duplicate"], false);
    let again = publish(&node, "b").await;
    assert_eq!((&again["duplicate"], &again["position"]), (&true.into(), &first["position"]));
    node.kill().await;
    let node = berth.start().await;
    assert_eq!(publish(&node, "c").await["duplicate"], true);
    let (_, claimed) = node.post("/v1/groups/work/claim", &[], r#"{"max":10,"wait":"10s"}"#).await;
    assert_eq!(claimed["deliveries"].as_array().map(Vec::len), Some(1), "the handler sees it once");
    node.kill().await;
}

#[test]
fn schemas_are_checked_with_the_configuration() {
    let berth = checked();
    let config = berth.config().display().to_string();
    let check = || crate::node::told(&crate::node::tidegate(&["check", "--offline", &config]));
    assert_eq!(check().0, 0);
    std::fs::write(berth.path().join("order.json"), r#"{"type": "objekt"}"#).unwrap();
    let (exit, _, err) = check();
    assert_eq!(exit, 78);
    assert!(err.contains("tidegate.yaml:5:") && err.contains("streams.orders.schema.file: order.json"), "{err}");
    std::fs::remove_file(berth.path().join("order.json")).unwrap();
    let (exit, _, err) = check();
    assert!(exit == 78 && err.contains("order.json: does not exist"), "{err}");
}

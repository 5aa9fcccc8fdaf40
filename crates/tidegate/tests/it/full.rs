//! A disk without room: what comes in is refused, what is there goes on.

use serde_json::json;

use crate::node::{Berth, until};

fn config(reserve: &str) -> String {
    format!(
        "version: 1\nnode: {{ data: ./data, disk_reserve: {reserve} }}\nstreams: {{ orders: {{}} }}\n\
         groups: {{ deliver: {{ from: orders, sink: {{ type: pull }} }} }}\n"
    )
}

/// More than any disk has.
const ALL: &str = "9000000GiB";

#[tokio::test]
async fn a_full_disk_refuses_publishes_and_lets_work_go_on() {
    let berth = Berth::new(&config("128MiB"));
    let node = berth.start().await;
    node.publish("orders", "before", "s", "{}").await;
    node.stop().await;

    berth.configure(&config(ALL));
    let node = berth.start().await;
    until("the node sees that the disk is full", || async {
        node.log.text().contains("notice=\"store.refusing\"").then_some(())
    })
    .await;
    let request = node.client.post(format!("{}/v1/streams/orders/events", node.url)).body("{}").send();
    let response = request.await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(response.headers()["retry-after"], "5");
    let text = response.text().await.unwrap();
    assert!(text.contains("is full") && text.contains("bytes free"), "{text}");
    let detailed = node.get("/health/detailed").await;
    let store = detailed["components"].as_array().unwrap().iter().find(|one| one["component"] == "store").unwrap();
    assert_eq!(store["state"], "degraded", "{store}");
    assert!(store["cause"].as_str().unwrap().starts_with("publishes are refused"), "{store}");
    let ready = node.client.get(format!("{}/readyz", node.url)).send().await.unwrap();
    assert_eq!(ready.status().as_u16(), 200, "workers must go on reaching it");

    let json_body = [("content-type", "application/json")];
    let (_, answer) = node.post("/v1/groups/deliver/claim", &json_body, json!({ "max": 1 }).to_string()).await;
    let delivery = &answer["deliveries"][0];
    assert_eq!(delivery["event"]["id"], "before", "{answer}");
    let settle = json!({ "settlements": [{ "token": delivery["token"], "outcome": "done" }] }).to_string();
    let (status, answer) = node.post("/v1/groups/deliver/settle", &json_body, settle).await;
    assert_eq!((status, &answer["results"][0]["status"]), (200, &json!("settled")), "{answer}");
    node.stop().await;

    berth.configure(&config("128MiB"));
    let node = berth.start().await;
    node.publish("orders", "after", "s", "{}").await;
    let audit = node.json(&["audit", "messages"]);
    assert_eq!(audit["rows"][0]["accepted"], 2, "nothing of what was refused is kept: {audit}");
    node.stop().await;
}

#[test]
fn a_node_does_not_begin_on_a_full_disk() {
    let berth = Berth::new(&config(ALL));
    let (exit, _, err) = crate::node::told(&berth.command().output().unwrap());
    assert_eq!(exit, 78, "{err}");
    assert!(err.contains("file_system") && err.contains("bytes free"), "{err}");
}

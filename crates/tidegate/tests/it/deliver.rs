//! From an HTTP request to a webhook, in every form, and the accounting afterwards.

use serde_json::{Value, json};

use crate::{
    node::{Berth, SAMPLE},
    receiver::Receiver,
};

fn sample(receiver: &Receiver) -> String {
    SAMPLE.replace("https://partner.example/hook", &receiver.url).replace("first: 1s", "first: 20ms")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_runs_as_it_stands() {
    let berth = Berth::new(SAMPLE);
    let node = berth.start().await;
    let address = node.url.trim_start_matches("http://").to_owned();
    let log = node.log.text();
    assert!(log.lines().any(|line| line.contains("tidegate ready") && line.contains(&address)), "{log}");
    let ready = node.client.get(format!("{}/readyz", node.url)).send().await.unwrap();
    assert_eq!(ready.status().as_u16(), 200);
    node.stop().await;
    assert!(!berth.data().join("run/listeners.json").exists(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_reaches_the_receiver() {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&sample(&receiver));
    let node = berth.start().await;
    let event = |id: &str| json!({ "specversion": "1.0", "id": id, "source": "/shop", "type": "order", "subject": id, "data": { "n": id } });
    let structured = [("content-type", "application/cloudevents+json")];
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "binary"),
        ("ce-source", "/shop"),
        ("ce-type", "order"),
        ("content-type", "text/plain"),
    ];
    let plain = [("content-type", "application/json"), ("idempotency-key", "plain")];
    let send = async |path: &str, headers: &[(&str, &str)], body: String| {
        let (status, answer) = node.post(path, headers, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
    };
    send("/orders", &structured, event("structured").to_string()).await;
    send("/v1/streams/orders/events", &batch, json!([event("batch-1"), event("batch-2")]).to_string()).await;
    send("/orders", &binary, "Grüße".to_owned()).await;
    send("/orders", &plain, r#"{"n":  "plain"}"#.to_owned()).await;
    node.group_has("deliver", "done", 5).await;
    let mut ids = receiver.ids();
    ids.sort_unstable();
    assert_eq!(ids, ["batch-1", "batch-2", "binary", "plain", "structured"]);
    let find = |id: &str| receiver.received().into_iter().find(|request| request.header("ce-id") == Some(id)).unwrap();
    assert_eq!(find("binary").body, "Grüße".as_bytes());
    assert_eq!(find("plain").body, r#"{"n":  "plain"}"#.as_bytes(), "JSON goes out as it came in");
    assert!(find("structured").header("webhook-signature").unwrap().starts_with("v1,"));
    let audit = node.json(&["audit", "messages"]);
    let row = audit["rows"].as_array().unwrap().iter().find(|row| row["group"] == "deliver").unwrap();
    assert_eq!((&audit["balanced"], &row["accepted"], &row["done"]), (&true.into(), &5.into(), &5.into()), "{audit}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_not_done_again() {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&sample(&receiver));
    let node = berth.start().await;
    node.publish("orders", "1", "a", "1").await;
    node.group_has("deliver", "done", 1).await;
    node.publish("orders", "1", "a", "1").await;
    node.publish("orders", "2", "a", "2").await;
    node.group_has("deliver", "done", 2).await;
    assert_eq!(receiver.ids(), ["1", "2"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_receiver_costs_attempts_and_a_missing_one_does_not() {
    let receiver = Receiver::start().await;
    receiver.answer(500);
    let berth = Berth::new(&sample(&receiver).replace("attempts: 8", "attempts: 2"));
    let node = berth.start().await;
    node.publish("orders", "spent", "a", "1").await;
    node.group_has("deliver", "dead", 1).await;
    assert_eq!(receiver.ids(), ["spent", "spent"]);
    receiver.answer(401);
    node.publish("orders", "kept", "b", "1").await;
    let open = || async {
        let target: Value = node.get("/v1/targets/partner").await;
        (target["breaker"]["state"] == "open").then_some(())
    };
    crate::node::until("the breaker opens", open).await;
    assert_eq!(node.get("/v1/groups/deliver").await["dead"], 1, "a wrong credential spends no message");
    receiver.answer(200);
    node.json(&["target", "reset", "partner", "--reason", "new credential"]);
    node.group_has("deliver", "done", 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_subject_arrive_in_order() {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&sample(&receiver).replace("rate: 50/s, ", ""));
    let node = berth.start().await;
    let batch: Vec<Value> = (0..60)
        .map(|n| {
            json!({ "specversion": "1.0", "id": n.to_string(), "source": "/shop", "type": "order", "subject": (n % 3).to_string() })
        })
        .collect();
    let headers = [("content-type", "application/cloudevents-batch+json")];
    let (status, answer) = node.post("/orders", &headers, Value::from(batch).to_string()).await;
    assert_eq!(status, 200, "{answer}");
    node.group_has("deliver", "done", 60).await;
    let numbers: Vec<u32> = receiver.ids().iter().map(|id| id.parse().unwrap()).collect();
    for key in 0..3 {
        let of_key: Vec<u32> = numbers.iter().copied().filter(|number| number % 3 == key).collect();
        assert!(of_key.is_sorted() && of_key.len() == 20, "{of_key:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_certificates_delivers_over_http() {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&sample(&receiver));
    let node = berth.start_with(&[("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")]).await;
    node.publish("orders", "1", "a", "1").await;
    node.group_has("deliver", "done", 1).await;
    assert!(node.log.text().contains("ca-certificates"), "{}", node.log.text());
    node.stop().await;
}

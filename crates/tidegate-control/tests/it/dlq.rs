//! Dead letters over the API.

use serde_json::{Value, json};
use tidegate_core::notice::Notice;

use crate::node::Node;

async fn ids(node: &Node, query: &str) -> Vec<String> {
    let page = node.get(&format!("/v1/dlq/orders{query}")).await.good();
    page["entries"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn entries_tell_everything_known() {
    let node = Node::start().await;
    node.bury(&["a", "b"]).await;
    let page = node.get("/v1/dlq/orders").await.good();
    assert_eq!(page["entries"].as_array().unwrap().len(), 2);
    let newest = &page["entries"][0];
    assert_eq!(newest["event"]["id"], "b", "newest first");
    assert_eq!(newest["event"]["data"], json!({ "order": "b" }), "the event is untouched");
    assert_eq!(
        (&newest["stream"], &newest["group"], &newest["state"]),
        (&json!("orders"), &json!("deliver"), &json!("parked"))
    );
    assert_eq!(newest["fault"]["class"], "invalid");
    assert_eq!(newest["fault"]["message"], "order b is bad");
    assert!(newest["fault"]["signature"].is_string() && newest["fault"]["origin"].is_string());
    assert_eq!(newest["attempts"][0]["message"], "order b is bad");
    assert!(newest["attempts"][0]["took_ms"].is_number());
    assert_eq!(
        (&newest["config"], &newest["note"], &newest["by"]),
        (&json!("fingerprint-1"), &Value::Null, &Value::Null)
    );
    let id = newest["id"].as_str().unwrap();
    for stream in ["orders", "orders.dlq"] {
        assert_eq!(&node.get(&format!("/v1/dlq/{stream}/{id}")).await.good(), newest);
    }
    node.get("/v1/dlq/orders/999").await.problem(404, "missing");
    node.get("/v1/dlq/orders/x").await.problem(404, "missing");
    node.get("/v1/dlq/nowhere").await.problem(404, "missing");
}

#[tokio::test]
async fn entries_are_listed_page_by_page_and_by_state() {
    let node = Node::start().await;
    let buried: Vec<String> = (0..5).map(|index| format!("e{index}")).collect();
    node.bury(&buried.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let all = ids(&node, "").await;
    assert_eq!(all.len(), 5);
    let first = node.get("/v1/dlq/orders?limit=2").await.good();
    let next = first["next"].as_str().unwrap();
    let second = ids(&node, &format!("?limit=2&before={next}")).await;
    assert_eq!(second, all[2..4]);
    assert_eq!(node.get("/v1/dlq/orders?limit=5").await.good()["next"], Value::Null);
    node.post("/v1/dlq/orders/resolve", json!({ "ids": [all[0]], "reason": "called them" })).await.good();
    assert_eq!(ids(&node, "").await, all[1..], "what is resolved leaves the list");
    assert_eq!(ids(&node, "?state=resolved").await, all[..1]);
    assert_eq!(ids(&node, "?state=all").await, all);
    assert_eq!(ids(&node, "?group=deliver").await.len(), 4);
    for wrong in ["?state=gone", "?limit=0", "?before=x", "?group=a%20b"] {
        node.get(&format!("/v1/dlq/orders{wrong}")).await.problem(400, "invalid");
    }
}

#[tokio::test]
async fn a_dead_letter_goes_back_once() {
    let mut node = Node::start().await;
    node.bury(&["a"]).await;
    let id = ids(&node, "").await.remove(0);
    let ask = json!({ "ids": [id, "999"], "reason": "fixed" });
    let dry = node.post("/v1/dlq/orders/reprocess", json!({ "ids": [id, "999"], "dry_run": true })).await.good();
    assert_eq!((&dry["state"], &dry["matched"], &dry["reprocessed"]), (&json!("dry_run"), &json!(1), &json!(0)));
    assert_eq!(ids(&node, "").await.len(), 1, "a dry run moves nothing");

    let job = node.post("/v1/dlq/orders/reprocess", ask.clone()).await.good();
    assert!(!job["job"].as_str().unwrap().is_empty());
    assert_eq!((&job["matched"], &job["reprocessed"], &job["failed"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!(job["state"], "done");
    let statuses: Vec<&Value> = job["results"].as_array().unwrap().iter().map(|one| &one["status"]).collect();
    assert_eq!(statuses, ["moved", "missing"]);
    let told = node.tap.wait_for(|notice| matches!(notice, Notice::DeadMoved { .. })).await.unwrap();
    assert!(
        matches!(told, Notice::DeadMoved { action: "reprocess", count: 1, by, reason, .. } if by == "local" && reason == "fixed")
    );

    let again = node.post("/v1/dlq/orders/reprocess", ask).await.good();
    assert_eq!((&again["reprocessed"], &again["failed"]), (&json!(0), &json!(2)));
    assert_eq!(
        (&again["results"][0]["status"], &again["results"][0]["state"]),
        (&json!("refused"), &json!("reprocessed"))
    );
    let forced = node.post("/v1/dlq/orders/reprocess", json!({ "ids": [id], "force": true })).await.good();
    assert_eq!(forced["reprocessed"], 1);

    let back = node.claim(10).await;
    assert!(back.iter().all(|one| one["event"]["id"] == "a") && !back.is_empty(), "{back:?}");
    let entry = node.get(&format!("/v1/dlq/orders/{id}")).await.good();
    assert_eq!((&entry["state"], &entry["by"]), (&json!("reprocessed"), &json!("local")));
    assert!(entry["reprocessed_to"].is_string() && entry["changed_at"].is_string());
}

#[tokio::test]
async fn all_of_them_are_moved_in_their_order() {
    let node = Node::start().await;
    let buried: Vec<String> = (0..70).map(|index| format!("e{index:02}")).collect();
    node.bury(&buried.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let dry = node.post("/v1/dlq/orders/reprocess", json!({ "all": true, "dry_run": true })).await.good();
    assert_eq!((&dry["matched"], &dry["reprocessed"]), (&json!(70), &json!(0)));
    let none = node.post("/v1/dlq/orders/reprocess", json!({ "all": true, "group": "inside" })).await.good();
    assert_eq!(none["matched"], 0);
    let job = node.post("/v1/dlq/orders.dlq/reprocess", json!({ "all": true, "group": "deliver" })).await.good();
    assert_eq!((&job["matched"], &job["reprocessed"], &job["failed"]), (&json!(70), &json!(70), &json!(0)));
    assert_eq!((&job["stream"], &job["results"]), (&json!("orders"), &Value::Null));
    assert!(ids(&node, "").await.is_empty());
    let back: Vec<Value> = node.claim(100).await.iter().map(|one| one["event"]["id"].clone()).collect();
    assert_eq!(back, buried, "oldest first, as they came");
    let empty = node.post("/v1/dlq/orders/reprocess", json!({ "all": true })).await.good();
    assert_eq!((&empty["matched"], &empty["state"]), (&json!(0), &json!("done")));
}

#[tokio::test]
async fn dead_letters_are_resolved_and_discarded() {
    let node = Node::start().await;
    node.bury(&["a", "b", "c"]).await;
    let all = ids(&node, "").await;
    let job = node.post("/v1/dlq/orders/discard", json!({ "ids": [all[0]], "reason": "test data" })).await.good();
    assert_eq!((&job["discarded"], &job["reprocessed"]), (&json!(1), &Value::Null));
    let entry = node.get(&format!("/v1/dlq/orders/{}", all[0])).await.good();
    assert_eq!((&entry["state"], &entry["note"]), (&json!("discarded"), &json!("test data")));
    let job = node.post("/v1/dlq/orders/resolve", json!({ "all": true, "reason": "by phone" })).await.good();
    assert_eq!(job["resolved"], 2);
    assert_eq!(ids(&node, "?state=resolved").await.len(), 2);
    let audit = node.get("/v1/audit/messages").await.good();
    assert_eq!(audit["balanced"], true);
}

#[tokio::test]
async fn a_request_must_say_what_it_means() {
    let node = Node::start().await;
    node.bury(&["a"]).await;
    let wrong = [
        ("reprocess", json!({})),
        ("reprocess", json!({ "ids": ["1"], "all": true })),
        ("reprocess", json!({ "ids": ["x"] })),
        ("reprocess", json!({ "ids": ["1"], "state": "resolved" })),
        ("reprocess", json!({ "all": true, "state": "resolved" })),
        ("reprocess", json!({ "all": true, "where": "true" })),
        ("reprocess", json!({ "where": "fault.colour ==" })),
        ("reprocess", json!({ "where": "colour == 1" })),
        ("reprocess", json!({ "all": true, "patch": 5 })),
        ("reprocess", json!({ "all": true, "rate": "fast" })),
        ("reprocess", json!({ "all": true, "canary": 1001 })),
        ("reprocess", json!({ "all": true, "stop_on_fail_rate": 1.5 })),
        ("reprocess", json!({ "all": true, "wait": "2m" })),
        ("purge", json!({ "all": true, "state": "parked" })),
        ("resolve", json!({ "all": true, "canary": 1 })),
        ("resolve", json!({ "ids": ["1"], "force": true })),
        ("discard", json!({ "all": true, "state": "all" })),
        ("discard", json!({ "ids": vec!["1"; 10_001] })),
    ];
    for (what, document) in wrong {
        node.post(&format!("/v1/dlq/orders/{what}"), document).await.problem(400, "invalid");
    }
    node.post("/v1/dlq/nowhere/reprocess", json!({ "all": true })).await.problem(404, "missing");
    assert_eq!(ids(&node, "").await.len(), 1);
}

#[tokio::test]
async fn the_report_counts() {
    let node = Node::start().await;
    node.bury(&["7", "8", "9"]).await;
    let id = ids(&node, "").await.remove(0);
    node.post("/v1/dlq/orders/resolve", json!({ "ids": [id] })).await.good();
    let report = node.get("/v1/dlq/orders/report?hours=2").await.good();
    assert_eq!((&report["time_window_hours"], &report["total_failed_messages"]), (&json!(2), &json!(3)));
    assert_eq!(report["top_errors"].as_array().unwrap().len(), 1, "they differ in a number only: {report}");
    assert_eq!((&report["top_errors"][0]["count"], &report["top_errors"][0]["example_id"]), (&json!(3), &json!(id)));
    assert_eq!((&report["groups"], &report["event_types"]), (&json!({ "deliver": 3 }), &json!({ "plain": 3 })));
    assert_eq!(
        (&report["states"], &report["parked"]),
        (&json!({ "parked": 2, "resolved": 1 }), &json!({ "deliver": 2 }))
    );
    assert_eq!(report["classes"], json!({ "invalid": 3 }));
    assert_eq!(report["recent_messages"][0]["event_id"], "9");
    for member in ["start_time", "end_time", "oldest"] {
        assert!(report[member].is_string(), "{member}");
    }
    assert_eq!(node.get("/v1/dlq/orders/report").await.good()["time_window_hours"], 24);
    node.get("/v1/dlq/orders/report?hours=0").await.problem(400, "invalid");
}

#[tokio::test]
async fn entries_are_chosen_by_expression_and_read_oldest_first() {
    let node = Node::start().await;
    node.bury(&["1", "2", "3"]).await;
    let chosen =
        ids(&node, "?where=data.order%20%21%3D%20%222%22%20%26%26%20fault.class%20%3D%3D%20%22invalid%22").await;
    assert_eq!(chosen.len(), 2);
    let all = ids(&node, "").await;
    let mut oldest = ids(&node, "?after=0").await;
    oldest.reverse();
    assert_eq!(oldest, all);
    let page = node.get("/v1/dlq/orders?after=0&limit=2").await.good();
    let next = page["next"].as_str().unwrap();
    assert_eq!(ids(&node, &format!("?after={next}")).await, all[..1]);
    assert_eq!(ids(&node, "?older=1h").await.len(), 0);
    for wrong in ["?where=data.order%20%3D%3D", "?where=colour%20%3D%3D%201", "?older=long"] {
        node.get(&format!("/v1/dlq/orders{wrong}")).await.problem(400, "invalid");
    }
    let job = node.post("/v1/dlq/orders/resolve", json!({ "where": "data.order == \"3\"" })).await.good();
    assert_eq!(
        (&job["matched"], &job["resolved"], &job["where"]),
        (&json!(1), &json!(1), &json!("data.order == \"3\""))
    );
}

#[tokio::test]
async fn jobs_are_listed_shown_and_cancelled() {
    let mut node = Node::start().await;
    let buried: Vec<String> = (0..20).map(|index| format!("e{index:02}")).collect();
    node.bury(&buried.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let ask = json!({ "all": true, "rate": "1/m", "wait": "0s", "reason": "slowly" });
    let job = node.post("/v1/dlq/orders/reprocess", ask).await.good();
    assert_eq!((&job["state"], &job["total"], &job["verb"]), (&json!("running"), &json!(20), &json!("reprocess")));
    let id = job["job"].as_str().unwrap();
    node.tap.wait_for(|notice| matches!(notice, Notice::DeadMoved { .. })).await.unwrap();
    let other = node.post("/v1/dlq/orders/discard", json!({ "all": true })).await;
    other.problem(409, "conflict");
    assert_eq!(node.get("/v1/dlq/jobs").await.good()["jobs"][0]["job"], id);
    let ended = node.post(&format!("/v1/dlq/jobs/{id}/cancel"), json!({ "undo": true, "reason": "no" })).await.good();
    assert_eq!((&ended["state"], &ended["recalled"]), (&json!("cancelled"), &ended["reprocessed"]));
    assert_eq!(ids(&node, "").await.len(), 20, "everything is parked again");
    assert_eq!(node.get(&format!("/v1/dlq/jobs/{id}?wait=1s")).await.good()["reason"], "slowly");
    node.post(&format!("/v1/dlq/jobs/{id}/cancel"), json!({})).await.problem(409, "conflict");
    node.get("/v1/dlq/jobs/nobody").await.problem(404, "missing");
    let metrics = node.get("/metrics").await;
    assert!(metrics.text().contains("tidegate_dlq_reprocess_total{stream=\"orders\",result=\"recalled\"}"));
}

#[tokio::test]
async fn what_is_exported_comes_back_once() {
    let node = Node::start().await;
    node.bury(&["a", "b"]).await;
    let page = node.get("/v1/dlq/orders?after=0").await.good();
    let lines: String = page["entries"].as_array().unwrap().iter().map(|entry| format!("{entry}\n")).collect();
    let import = async |lines: String| {
        let headers = [("content-type", "application/x-ndjson")];
        node.send(crate::client::request(http::Method::POST, "/v1/dlq/orders/import", &headers, lines)).await
    };
    let same = import(lines.clone()).await.good();
    assert_eq!((&same["imported"], &same["duplicates"]), (&json!(0), &json!(2)));
    node.post("/v1/dlq/orders/resolve", json!({ "all": true })).await.good();
    assert_eq!(node.post("/v1/dlq/orders/purge", json!({ "all": true })).await.good()["purged"], 2);
    assert_eq!(ids(&node, "?state=all").await.len(), 0);
    let back = import(lines.clone()).await.good();
    assert_eq!((&back["imported"], &back["duplicates"]), (&json!(2), &json!(0)));
    let again = node.get("/v1/dlq/orders?after=0").await.good();
    for (was, is) in page["entries"].as_array().unwrap().iter().zip(again["entries"].as_array().unwrap()) {
        for member in ["event", "fault", "attempts", "failed_at", "group", "state", "config"] {
            assert_eq!(was[member], is[member], "{member}");
        }
    }
    assert_eq!(node.post("/v1/dlq/orders/reprocess", json!({ "all": true })).await.good()["reprocessed"], 2);
    assert_eq!(node.claim(10).await.len(), 2);
    let wrong = import(format!("{}\n{{}}\n", lines.lines().next().unwrap())).await.problem(400, "invalid");
    assert!(wrong["detail"].as_str().unwrap().contains("line 2"), "{wrong}");
}

#[tokio::test]
async fn the_report_compares_with_the_time_before() {
    let node = Node::start().await;
    node.bury(&["7", "8"]).await;
    let report = node.get("/v1/dlq/orders/report?hours=1&compare=true").await.good();
    assert_eq!((&report["previous_total_failed_messages"], &report["change"]), (&json!(0), &json!(2)));
    assert_eq!(report["top_errors"][0]["previous_count"], 0);
    assert_eq!(report["trend"].as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>(), 2);
}

#[tokio::test]
async fn the_ledger_is_shown_counted_and_cleaned() {
    let node = Node::start().await;
    node.publish(&["a"]).await;
    for delivery in node.claim(1).await {
        node.settle(&delivery, json!({ "outcome": "done" })).await;
    }
    let source = node.get("/v1/streams/orders/events").await.good()["events"][0]["event"]["source"].clone();
    let source = source.as_str().unwrap().replace('/', "%2F");
    let entry = node.get(&format!("/v1/ledger/deliver/entry?id=a&source={source}")).await.good();
    assert_eq!((&entry["result"], &entry["position"]), (&json!("success"), &json!("1")));
    node.get(&format!("/v1/ledger/deliver/entry?id=b&source={source}")).await.problem(404, "missing");
    let stats = node.get("/v1/ledger").await.good();
    let deliver = stats["ledgers"].as_array().unwrap().iter().find(|row| row["group"] == "deliver").unwrap().clone();
    assert_eq!(
        (&deliver["success"], &deliver["failure"], &deliver["skipped"], &deliver["entries"]),
        (&json!(1), &json!(0), &json!(0), &json!(1))
    );
    let kept = node.post("/v1/ledger/deliver/cleanup", json!({ "older": "1d" })).await.good();
    assert_eq!(kept["freed"], 0);
    node.post("/v1/ledger/deliver/cleanup", json!({})).await.problem(400, "invalid");
}

//! Dead letters by hand: list, inspect, repair, reprocess, and never twice.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate_core::clock::Clock;

use crate::{
    node::{Berth, Node, SAMPLE, tidegate, told, until},
    receiver::Receiver,
};

async fn with_dead_letters(receiver: &Receiver, berth: &Berth, ids: &[&str]) -> Node {
    let node = berth.start().await;
    receiver.answer(400);
    for id in ids {
        node.publish("orders", id, id, r#"{"n": 1}"#).await;
    }
    node.group_has("deliver", "dead", ids.len() as u64).await;
    node
}

fn berth(receiver: &Receiver) -> Berth {
    Berth::new(&SAMPLE.replace("https://partner.example/hook", &receiver.url))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_inspected_and_reprocessed_once() {
    let receiver = Receiver::start().await;
    let berth = berth(&receiver);
    let node = with_dead_letters(&receiver, &berth, &["17"]).await;
    let list = node.json(&["dlq", "list", "--stream", "orders"]);
    let entry = &list["entries"][0];
    assert_eq!(
        (&entry["state"], &entry["group"], &entry["event"]["id"]),
        (&"parked".into(), &"deliver".into(), &"17".into())
    );
    assert_eq!(entry["fault"]["class"], "invalid");
    let id = entry["id"].as_str().unwrap();
    let inspected = node.json(&["dlq", "inspect", "--stream", "orders.dlq", "--id", id]);
    assert!(inspected["fault"]["message"].as_str().unwrap().contains("400"), "{inspected}");
    assert_eq!((&inspected["original_event_id"], &inspected["payload"]["n"]), (&"17".into(), &1.into()));
    let reprocess = ["dlq", "reprocess", "--stream", "orders", "--id", id];
    let dry = node.json(&[&reprocess[..], &["--dry-run"]].concat());
    assert_eq!((&dry["matched"], &dry["reprocessed"]), (&1.into(), &0.into()), "{dry}");
    receiver.answer(200);
    assert_eq!(node.json(&reprocess)["reprocessed"], 1);
    node.group_has("deliver", "done", 1).await;
    let (exit, _, err) = node.cli(&reprocess);
    assert_eq!(exit, 4, "{err}");
    assert_eq!(receiver.ids(), ["17", "17"], "it went out once when it failed and once when it was mended");
    assert_eq!(node.cli(&["dlq", "inspect", "--stream", "orders", "--id", "999999"]).0, 1);
    assert_eq!(node.cli(&["dlq", "inspect", "--stream", "orders", "--id", "1700000000000-0"]).0, 1);
    assert_eq!(node.cli(&["dlq", "reprocess", "--stream", "orders", "--id", "999999"]).0, 1);
    assert_eq!(node.cli(&["dlq", "inspect", "--stream", "orders", "--id", "1700000000000-0"]).0, 1);
    assert_eq!(node.json(&[&reprocess[..], &["--force"]].concat())["reprocessed"], 1);
    node.group_has("deliver", "done", 2).await;
    assert_eq!(receiver.ids().len(), 3, "forced means that it runs although it is done");
    let (exit, out, _) = node.cli(&["audit", "messages"]);
    assert!(exit == 0 && out.contains("balanced"), "{out}");
    node.stop().await;
}

/// Scripts that know the dead letters under another name go on working.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_may_have_other_names() {
    let receiver = Receiver::start().await;
    let config = SAMPLE.replace("https://partner.example/hook", &receiver.url);
    let config = config.replace("on_full: reject }", "on_full: reject, dead_letters: { aliases: [identity.dlq] } }");
    let berth = Berth::new(&config);
    let node = with_dead_letters(&receiver, &berth, &["1", "2", "3"]).await;
    let named = |args: &[&str]| node.json(&[args, &["--stream", "identity.dlq"]].concat());
    let list = named(&["dlq", "list", "--count", "20"]);
    assert_eq!(list, node.json(&["dlq", "list", "--stream", "orders.dlq"]));
    let ids: Vec<_> = list["entries"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(named(&["dlq", "inspect", "--id", ids[0]])["original_event_id"], "3");
    assert_eq!(named(&["dlq", "report", "--hours", "24"])["parked"]["deliver"], 3);
    assert_eq!(named(&["dlq", "resolve", "--id", ids[0], "--note", "by hand"])["resolved"], 1);
    receiver.answer(200);
    assert_eq!(named(&["dlq", "reprocess", "--id", ids[1]])["reprocessed"], 1);
    assert_eq!(node.json(&["dlq", "report", "--stream", "orders"])["parked"]["deliver"], 1);
    assert_eq!(node.cli(&["dlq", "list", "--stream", "other.dlq"]).0, 1, "no other name is taken for it");
    node.stop().await;
    for (taken, why) in [("orders.dlq", "means stream orders"), ("orders", "means stream orders")] {
        berth.configure(&config.replace("identity.dlq", taken));
        let (exit, out, err) = told(&tidegate(&["check", "--offline", &berth.config().display().to_string()]));
        assert!(exit == 78 && err.contains("dead_letters.aliases") && err.contains(why), "{out}{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_reported_resolved_and_discarded() {
    let receiver = Receiver::start().await;
    let berth = berth(&receiver);
    let node = with_dead_letters(&receiver, &berth, &["1", "2", "3"]).await;
    let report = node.json(&["dlq", "report", "--stream", "orders", "--compare"]);
    assert_eq!((&report["total_failed_messages"], &report["change"]), (&3.into(), &3.into()), "{report}");
    assert_eq!(report["top_errors"][0]["count"], 3);
    let list = node.json(&["dlq", "list", "--stream", "orders"]);
    let id = |index: usize| list["entries"][index]["id"].as_str().unwrap();
    node.json(&["dlq", "resolve", "--stream", "orders", "--id", id(0), "--note", "called them"]);
    assert_eq!(node.cli(&["dlq", "discard", "--stream", "orders", "--id", id(1)]).0, 2, "it asks for --yes");
    node.json(&["dlq", "discard", "--stream", "orders", "--id", id(1), "--yes"]);
    let state = |state: &str| {
        node.json(&["dlq", "list", "--stream", "orders", "--state", state])["entries"].as_array().unwrap().len()
    };
    assert_eq!((state("parked"), state("resolved"), state("discarded")), (1, 1, 1));
    let resolved = node.json(&["dlq", "inspect", "--stream", "orders", "--id", id(0)]);
    assert_eq!(resolved["note"], "called them");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_dead_letters_go_again_until_none_is_parked() {
    let receiver = Receiver::start().await;
    let berth = berth(&receiver);
    let node = with_dead_letters(&receiver, &berth, &["1", "2", "3"]).await;
    receiver.answer(200);
    let (exit, out, err) = node.cli(&["dlq", "reprocess", "--stream", "orders", "--all", "--until-empty"]);
    assert_eq!(exit, 0, "{out}{err}");
    node.group_has("deliver", "done", 3).await;
    assert_eq!(
        node.json(&["dlq", "list", "--stream", "orders", "--state", "parked"])["entries"],
        serde_json::json!([])
    );
    node.stop().await;
}

/// A node whose events are pulled by the test.
const PULL: &str = r#"
version: 1
node: { name: harbour, data: ./data }
listeners: [{ bind: "127.0.0.1:7300" }]
streams: { orders: {} }
groups: { deliver: { from: orders, lease: 10m, sink: { type: pull } } }
"#;

async fn ask(node: &Node, path: &str, document: Value) -> Value {
    let (status, answer) = node.post(path, &[("content-type", "application/json")], document.to_string()).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

async fn publish_many(node: &Node, count: usize) {
    let one = |index: usize| json!({ "specversion": "1.0", "id": index.to_string(), "source": "/test", "type": "test", "data": { "n": index } });
    for first in (0..count).step_by(1000) {
        let batch: Vec<Value> = (first..count.min(first + 1000)).map(one).collect();
        let headers = [("content-type", "application/cloudevents-batch+json")];
        let (status, answer) = node.post("/v1/streams/orders/events", &headers, json!(batch).to_string()).await;
        assert_eq!(status, 200, "{answer}");
    }
}

async fn claim(node: &Node, max: usize, wait: &str) -> Vec<Value> {
    let claimed = ask(node, "/v1/groups/deliver/claim", json!({ "max": max, "wait": wait })).await;
    claimed["deliveries"].as_array().unwrap().clone()
}

async fn settle(node: &Node, deliveries: &[Value], settlement: impl Fn(&Value) -> Value) {
    let one = |delivery: &Value| {
        let mut settlement = settlement(delivery);
        settlement["token"] = delivery["token"].clone();
        settlement
    };
    let settlements: Vec<Value> = deliveries.iter().map(one).collect();
    ask(node, "/v1/groups/deliver/settle", json!({ "settlements": settlements })).await;
}

/// Parks events `0`, `1` and so on, which failed in one of three ways.
async fn park(node: &Node, count: usize) {
    publish_many(node, count).await;
    let mut parked = 0;
    while parked < count {
        let deliveries = claim(node, 1000, "5s").await;
        settle(node, &deliveries, |delivery| {
            let n = delivery["event"]["data"]["n"].as_u64().unwrap();
            let reason = match n % 10 {
                0..5 => format!("timeout after {n}ms"),
                5..8 => format!("no customer \"c{n}\""),
                _ => format!("open /data/{n}.json: not found"),
            };
            json!({ "outcome": "reject", "reason": reason })
        })
        .await;
        parked += deliveries.len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_are_grouped_tried_with_canaries_and_emptied() {
    const COUNT: usize = 10_000;
    let berth = Berth::new(PULL);
    let node = berth.start().await;
    park(&node, COUNT).await;
    let report = node.json(&["dlq", "report", "--stream", "orders", "--compare"]);
    let top: Vec<(&str, u64)> = report["top_errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|top| (top["signature"].as_str().unwrap(), top["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(top, [("timeout after <n>ms", 5000), ("no customer <text>", 3000), ("open <path>: not found", 2000)]);
    assert_eq!(report["total_failed_messages"], COUNT);

    let filter = "fault.message.contains(\"timeout\")";
    let dry = node.json(&["dlq", "reprocess", "--stream", "orders", "--where", filter, "--dry-run"]);
    assert_eq!((&dry["matched"], &dry["reprocessed"]), (&json!(5000), &json!(0)));
    let canary = ["dlq", "reprocess", "--stream", "orders", "--where", filter, "--canary", "5", "--detach"];
    let job = node.json(&canary)["job"].as_str().unwrap().to_owned();
    let canaries = until("the canaries are out", || async {
        let lent = claim(&node, 100, "1s").await;
        (!lent.is_empty()).then_some(lent)
    })
    .await;
    settle(&node, &canaries[..1], |_| json!({ "outcome": "retry", "after": "10m", "reason": "still slow" })).await;
    settle(&node, &canaries[1..], |_| json!({ "outcome": "done" })).await;
    let shown = until("the job stops", || async {
        let shown = node.json(&["dlq", "jobs", &job]);
        (shown["state"] != "running").then_some(shown)
    })
    .await;
    let moved = shown["reprocessed"].as_u64().unwrap();
    assert_eq!((&shown["state"], moved), (&json!("stopped"), canaries.len() as u64), "{shown}");
    assert!(moved <= 5 && shown["why"].as_str().unwrap().starts_with("canary"), "{shown}");

    let all = node.json(&["dlq", "reprocess", "--stream", "orders", "--all"]);
    assert_eq!((&all["state"], all["reprocessed"].as_u64()), (&json!("done"), Some(COUNT as u64 - moved)));
    assert_eq!(node.json(&["dlq", "list", "--stream", "orders"])["entries"], json!([]));
    let (exit, out, _) = node.cli(&["dlq", "list", "--stream", "orders"]);
    assert!(exit == 0 && out.contains("no parked dead letters of orders"), "{out}");
    let id = node.json(&["dlq", "list", "--stream", "orders", "--state", "reprocessed"])["entries"][0]["id"].clone();
    let twice = ["dlq", "reprocess", "--stream", "orders", "--id", id.as_str().unwrap()];
    assert_eq!(node.cli(&twice).0, 4, "it was reprocessed already");
    let metrics = node.cli(&["metrics"]).1;
    assert!(
        metrics.contains(&format!("tidegate_dlq_reprocess_total{{stream=\"orders\",result=\"reprocessed\"}} {COUNT}"))
    );
    assert!(metrics.contains("tidegate_dead_letters{stream=\"orders\",group=\"deliver\"} 0"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_goes_on_with_its_job() {
    const COUNT: usize = 600;
    let berth = Berth::new(PULL);
    let mut node = berth.start().await;
    park(&node, COUNT).await;
    let job = node.json(&["dlq", "reprocess", "--stream", "orders", "--all", "--rate", "400/s", "--detach"]);
    let job = job["job"].as_str().unwrap().to_owned();
    for least in [60, 200, 350] {
        until("the job comes further", || async {
            let shown = node.json(&["dlq", "jobs", &job]);
            (shown["reprocessed"].as_u64() >= Some(least)).then_some(())
        })
        .await;
        node.kill().await;
        node = berth.start().await;
    }
    let ended = until("the job ends", || async {
        let shown = node.json(&["dlq", "jobs", &job]);
        (shown["state"] != "running").then_some(shown)
    })
    .await;
    assert_eq!((&ended["state"], &ended["reprocessed"]), (&json!("done"), &json!(COUNT)), "{ended}");
    assert_eq!(node.json(&["dlq", "list", "--stream", "orders"])["entries"], json!([]));
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        let lent = claim(&node, 1000, "0s").await;
        if lent.is_empty() {
            break;
        }
        for delivery in &lent {
            *times.entry(delivery["event"]["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert_eq!(times.len(), COUNT, "none is lost");
    assert!(times.values().all(|times| *times == 1), "none came twice");
    // What is lent would hold a gentle stop back.
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_patched_exported_archived_and_imported() {
    let berth = Berth::new(PULL);
    let node = berth.start().await;
    park(&node, 20).await;
    let file = |name: &str| berth.path().join(name).display().to_string();
    let export = node.cli(&["dlq", "export", "--stream", "orders", "--file", &file("all.jsonl")]);
    assert_eq!(export.0, 0, "{export:?}");
    let lines = std::fs::read_to_string(file("all.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 20);
    let piped = node.cli(&["dlq", "export", "--stream", "orders", "--where", "data.n < 5"]).1;
    assert_eq!(piped.lines().count(), 5);

    std::fs::write(file("patch.json"), r#"{ "data": { "mended": true } }"#).unwrap();
    let chosen = ["--where", "data.n == 7", "--patch", &file("patch.json"), "--reason", "typo"];
    let job = node.json(&[&["dlq", "reprocess", "--stream", "orders"][..], &chosen].concat());
    assert_eq!(job["reprocessed"], 1, "{job}");
    let back = claim(&node, 10, "5s").await;
    assert_eq!((back.len(), &back[0]["event"]["data"]), (1, &json!({ "mended": true, "n": 7 })));
    settle(&node, &back, |_| json!({ "outcome": "done" })).await;
    let id = node.json(&["dlq", "list", "--stream", "orders", "--state", "reprocessed"])["entries"][0]["id"].clone();
    let kept = node.json(&["dlq", "inspect", "--stream", "orders", "--id", id.as_str().unwrap()]);
    assert_eq!((&kept["payload"], &kept["note"]), (&json!({ "n": 7 }), &json!("typo")), "the original is untouched");

    let resolve = ["dlq", "resolve", "--stream", "orders", "--where", "data.n < 5", "--note", "by phone"];
    assert_eq!(node.json(&resolve)["resolved"], 5);
    let purge = ["dlq", "purge", "--stream", "orders", "--state", "resolved", "--archive", &file("gone.jsonl")];
    assert_eq!(node.cli(&purge).0, 2, "it asks for --yes");
    let purged = node.json(&[&purge[..], &["--yes"]].concat());
    assert_eq!((&purged["archived"], &purged["purged"]), (&json!(5), &json!(5)));
    assert_eq!(std::fs::read_to_string(file("gone.jsonl")).unwrap().lines().count(), 5);
    let old = ["dlq", "purge", "--stream", "orders", "--older", "30d", "--yes"];
    assert_eq!(node.json(&old)["purged"], 0, "nothing is as old");
    assert_eq!(node.cli(&["dlq", "purge", "--stream", "orders", "--state", "parked", "--yes"]).0, 2);

    let imported = node.json(&["dlq", "import", &file("all.jsonl")]);
    assert_eq!((&imported["imported"], &imported["duplicates"]), (&json!(5), &json!(15)));
    let again = node.json(&["dlq", "import", &file("gone.jsonl")]);
    assert_eq!((&again["imported"], &again["duplicates"]), (&json!(0), &json!(5)));
    std::fs::write(file("bad.jsonl"), "{}\n").unwrap();
    assert_eq!(node.cli(&["dlq", "import", &file("bad.jsonl"), "--stream", "orders"]).0, 2);
    assert_eq!(node.cli(&["audit", "messages"]).0, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn until_empty_gives_up_when_they_fail_again() {
    let receiver = Receiver::start().await;
    let berth = berth(&receiver);
    let node = with_dead_letters(&receiver, &berth, &["1", "2", "3"]).await;
    let (exit, out, err) = node.cli(&["dlq", "reprocess", "--stream", "orders", "--all", "--until-empty"]);
    assert_eq!(exit, 3, "{out}{err}");
    assert!(err.contains("failed again"), "{err}");
    receiver.answer(200);
    let job = node.json(&["dlq", "reprocess", "--stream", "orders", "--all", "--rate", "1/m", "--detach"]);
    let cancelled = node.json(&["dlq", "cancel", job["job"].as_str().unwrap(), "--undo"]);
    assert_eq!(cancelled["state"], "cancelled");
    let clock = Clock::real();
    let started = clock.stopwatch();
    let (exit, out, err) = node.cli(&["dlq", "reprocess", "--stream", "orders", "--all", "--until-empty"]);
    assert_eq!(exit, 0, "{out}{err} after {:?}", started.elapsed());
    let ledger = node.json(&["ledger", "stats"]);
    assert_eq!((&ledger["ledgers"][0]["success"], &ledger["ledgers"][0]["entries"]), (&json!(3), &json!(3)));
    let entry = node.json(&["ledger", "show", "deliver", "--id", "1", "--source", "/test"]);
    assert_eq!(entry["result"], "success");
    assert_eq!(node.cli(&["ledger", "cleanup", "--days", "30"]).0, 2, "it asks for --yes");
    let cleaned = node.json(&["ledger", "cleanup", "--days", "30", "--yes"]);
    assert_eq!(cleaned["ledgers"][0]["freed"], 0);
    node.stop().await;
}

//! Dead letters by hand: list, inspect, repair, reprocess, and never twice.

use crate::{
    node::{Berth, Node, SAMPLE},
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
    assert_eq!(node.cli(&["dlq", "reprocess", "--stream", "orders", "--id", "999999"]).0, 1);
    assert_eq!(node.json(&[&reprocess[..], &["--force"]].concat())["reprocessed"], 1);
    node.group_has("deliver", "done", 2).await;
    assert_eq!(receiver.ids().len(), 3, "forced means that it runs although it is done");
    let (exit, out, _) = node.cli(&["audit", "messages"]);
    assert!(exit == 0 && out.contains("balanced"), "{out}");
    node.stop().await;
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

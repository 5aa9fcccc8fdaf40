//! The commands against a node: what they print, and their exit codes.

use serde_json::Value;

use crate::node::{Berth, Node, SAMPLE, tidegate, told, until};

const PULL: &str = r#"
version: 1
streams:
  orders: {}
groups:
  work:
    from: orders
    retry: { attempts: 2, first: 10ms, max: 20ms }
    sink: { type: pull }
"#;

#[test]
fn wrong_command_lines_end_with_2() {
    for args in [
        &[][..],
        &["fly"],
        &["stream", "show"],
        &["status", "--url", "nonsense"],
        &["dlq", "resolve", "--stream", "orders"],
        &["dlq", "resolve", "--stream", "orders", "--id", "1", "--all"],
        &["dlq", "discard", "--stream", "orders", "--all"],
        &["ledger", "forget", "work", "--id", "1", "--source", "/a"],
        &["group", "pause", "work", "--until", "noon"],
        &["run", "tidegate.yaml", "--listen", "here"],
    ] {
        let (exit, out, err) = told(&tidegate(args));
        assert_eq!((exit, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(!err.is_empty());
    }
}

#[test]
fn what_needs_no_node_needs_no_node() {
    let (exit, out, _) = told(&tidegate(&["version"]));
    assert_eq!((exit, out), (0, format!("tidegate {}\n", env!("CARGO_PKG_VERSION"))));
    let (exit, out, _) = told(&tidegate(&["config", "schema", "-o", "json"]));
    let schema: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((exit, schema["properties"]["streams"].is_object()), (0, true));
    for shell in ["bash", "zsh", "fish"] {
        let (exit, out, _) = told(&tidegate(&["completions", shell]));
        assert_eq!((exit, out.contains("reprocess")), (0, true), "{shell}");
    }
}

#[test]
fn a_node_that_is_not_there_is_69() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for args in [&["status"][..], &["health"], &["metrics"], &["stream", "list"], &["audit", "messages"]] {
        let (exit, _, err) = told(&tidegate(&[args, &["--url", &url]].concat()));
        assert_eq!(exit, 69, "{args:?}: {err}");
        assert!(err.contains("no answer from http://127.0.0.1"), "{err}");
    }
}

#[tokio::test]
async fn a_look_at_a_node() {
    let berth = Berth::new(SAMPLE);
    let node = berth.start().await;
    let (exit, out, err) = node.cli(&["status"]);
    assert_eq!(exit, 0, "{err}");
    assert!(["orders", "deliver", "partner"].iter().all(|name| out.contains(name)), "{out}");
    assert!(!out.contains('\u{1b}'), "colour without a terminal: {out:?}");
    assert_eq!(node.cli(&["health"]).0, 0);
    let (exit, out, _) = node.cli(&["health", "--detailed"]);
    assert!(exit == 0 && out.contains("group/deliver") && out.contains("target/partner"), "{out}");
    let (exit, out, _) = node.cli(&["metrics"]);
    assert!(exit == 0 && out.contains("tidegate_build_info"), "{out}");
    assert_eq!(node.json(&["stream", "list"])["streams"][0]["name"], "orders");
    assert_eq!(node.json(&["stream", "show", "orders"])["name"], "orders");
    assert_eq!(node.json(&["group", "show", "deliver"])["stream"], "orders");
    assert_eq!(node.json(&["target", "show", "partner"])["breaker"]["state"], "closed");
    assert_eq!(node.json(&["ledger", "show", "deliver"])["entries"], 0);
    for args in [&["stream", "show", "nope"][..], &["group", "show", "nope"], &["target", "reset", "nope"]] {
        let (exit, _, err) = node.cli(args);
        assert!(exit == 1 && err.contains("nope"), "{args:?}: {exit} {err}");
    }
    node.stop().await;
}

#[tokio::test]
async fn events_go_in_and_can_be_read() {
    let berth = Berth::new(PULL);
    let node = berth.start().await;
    let file = berth.path().join("event.json");
    std::fs::write(&file, r#"{"n": 2}"#).unwrap();
    let publish = ["publish", "orders", "--type", "order", "--source", "/shop", "--subject", "c ä"];
    let first = node.json(&[&publish[..], &["--id", "1", "--data", r#"{"n": 1}"#]].concat());
    assert_eq!((&first["accepted"][0]["id"], &first["accepted"][0]["duplicate"]), (&"1".into(), &false.into()));
    let again = node.json(&[&publish[..], &["--id", "1", "--data", r#"{"n": 1}"#]].concat());
    assert_eq!(again["accepted"][0]["duplicate"], true);
    node.json(&[&publish[..], &["--id", "2", "--file", file.to_str().unwrap()]].concat());
    let read = node.json(&["stream", "read", "orders"]);
    let events: Vec<&Value> = read["events"].as_array().unwrap().iter().map(|stored| &stored["event"]).collect();
    assert_eq!(events.len(), 2);
    assert_eq!((&events[0]["data"]["n"], &events[1]["data"]["n"]), (&1.into(), &2.into()));
    assert_eq!((&events[0]["subject"], &events[0]["type"]), (&"c ä".into(), &"order".into()));
    let (exit, _, err) = node.cli(&["publish", "nope", "--data", "x"]);
    assert!(exit == 1 && err.contains("nope"), "{exit} {err}");
    node.stop().await;
}

#[tokio::test]
async fn groups_are_paused_resumed_and_scaled_and_it_survives_a_restart() {
    let berth = Berth::new(SAMPLE);
    let node = berth.start().await;
    node.json(&["group", "pause", "deliver", "--reason", "partner moves", "--until", "2h"]);
    node.json(&["group", "scale", "deliver", "3", "--reason", "slow"]);
    let view = node.json(&["group", "show", "deliver"]);
    assert_eq!((&view["state"], &view["workers"]), (&"paused".into(), &3.into()), "{view}");
    assert_eq!(view["paused"]["reason"], "partner moves");
    node.stop().await;
    let node = berth.start().await;
    let view = node.json(&["group", "show", "deliver"]);
    assert_eq!((&view["state"], &view["workers"]), (&"paused".into(), &3.into()), "{view}");
    node.json(&["group", "resume", "deliver"]);
    assert_eq!(node.json(&["group", "show", "deliver"])["state"], "running");
    node.stop().await;
}

#[tokio::test]
async fn targets_are_tripped_and_reset() {
    let berth = Berth::new(SAMPLE);
    let node = berth.start().await;
    node.json(&["target", "trip", "partner", "--reason", "they asked"]);
    assert_eq!(node.json(&["target", "show", "partner"])["breaker"]["state"], "open");
    node.json(&["target", "reset", "partner"]);
    assert_eq!(node.json(&["target", "show", "partner"])["breaker"]["state"], "closed");
    node.stop().await;
}

#[tokio::test]
async fn limits_of_a_target_are_changed_over_restarts() {
    let berth = Berth::new(SAMPLE);
    let node = berth.start().await;
    let shown = |node: &Node| {
        let target = node.json(&["target", "show", "partner"]);
        (target["rate"]["limit"].clone(), target["concurrency"]["limit"].clone())
    };
    let (exit, out, err) = node.cli(&["target", "limit", "partner", "--rate", "20/s", "--reason", "quota was cut"]);
    assert_eq!(exit, 0, "{err}");
    assert!(out.lines().count() == 2 && out.contains("20/s"), "{out}");
    assert_eq!(shown(&node), ("20/s".into(), 16.into()), "what is not named is as configured");
    node.kill().await;
    let node = berth.start().await;
    assert_eq!(shown(&node), ("20/s".into(), 16.into()));
    assert_eq!(node.cli(&["target", "limit", "partner", "--concurrency", "0"]).0, 2);
    assert_eq!(node.cli(&["target", "limit", "partner"]).0, 2, "nothing is named");
    node.json(&["target", "limit", "partner", "--configured"]);
    assert_eq!(shown(&node), ("50/s".into(), 16.into()));
    node.stop().await;
}

#[tokio::test]
async fn pull_workers_work_and_a_ledger_forgets() {
    let berth = Berth::new(PULL);
    let node = berth.start().await;
    node.publish("orders", "1", "a", r#"{"n": 1}"#).await;
    let json = [("content-type", "application/json")];
    let (status, claimed) = node.post("/v1/groups/work/claim", &json, r#"{"max": 10, "wait": "10s"}"#).await;
    assert_eq!(status, 200, "{claimed}");
    let token = claimed["deliveries"][0]["token"].as_str().unwrap();
    assert_eq!(claimed["deliveries"][0]["event"]["id"], "1");
    let settle = serde_json::json!({ "settlements": [{ "token": token, "outcome": "done" }] }).to_string();
    let (status, settled) = node.post("/v1/groups/work/settle", &json, settle).await;
    assert_eq!((status, &settled["results"][0]["status"]), (200, &"settled".into()), "{settled}");
    node.group_has("work", "done", 1).await;
    assert_eq!(node.json(&["ledger", "show", "work"])["entries"], 1);
    let forget = ["ledger", "forget", "work", "--id", "1", "--source", "/test", "--yes"];
    assert_eq!(node.cli(&forget).0, 0);
    assert_eq!(node.cli(&forget).0, 1, "it is forgotten already");
    node.stop().await;
}

#[tokio::test]
async fn tokens_decide_who_may_do_what() {
    use sha2::Digest as _;
    let hash = |token: &str| {
        sha2::Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let tokens = format!(
        "tokens:\n  - {{ name: eve, role: viewer, hash: 'sha256:{}' }}\n  - {{ name: olaf, role: operator, hash: 'sha256:{}' }}\n",
        hash("look"),
        hash("work")
    );
    let berth = Berth::new(&format!("{PULL}{tokens}"));
    let node = berth.start().await;
    assert_eq!(node.cli(&["group", "list"]).0, 77);
    assert_eq!(node.cli(&["group", "list", "--token", "guess"]).0, 77);
    assert_eq!(node.cli(&["group", "list", "--token", "look"]).0, 0);
    let (exit, _, err) = node.cli(&["group", "pause", "work", "--token", "look"]);
    assert!(exit == 77 && err.contains("viewer"), "{exit} {err}");
    assert_eq!(node.cli(&["group", "pause", "work", "--token", "work"]).0, 0);
    node.stop().await;
}

#[tokio::test]
async fn store_commands_read_a_stopped_node() {
    let berth = Berth::new(PULL);
    let node = berth.start().await;
    node.publish("orders", "1", "a", "1").await;
    let data = berth.data();
    let data = data.to_str().unwrap();
    let (exit, _, err) = told(&tidegate(&["store", "check", data]));
    assert!(exit != 0 && err.contains(&node.pid().to_string()), "a running node is not checked: {exit} {err}");
    node.stop().await;
    let (exit, out, err) = told(&tidegate(&["store", "check", data, "-o", "json"]));
    assert_eq!(exit, 0, "{out}{err}");
    let (exit, out, err) = told(&tidegate(&["store", "info", data, "-o", "json"]));
    assert_eq!(exit, 0, "{err}");
    assert!(out.contains("orders"), "{out}");
    let (exit, _, _) = told(&tidegate(&["store", "info", "/no/such/directory"]));
    assert_ne!(exit, 0);
}

#[tokio::test]
async fn the_log_is_json_when_asked_for() {
    let berth = Berth::new(PULL);
    let mut command = berth.command();
    let mut child = command.args(["--log-format", "json", "--log-level", "warn"]).spawn().unwrap();
    let log = crate::node::Log::of(&mut child);
    // What this machine is warned of may come before it.
    let ready = || log.text().lines().find(|line| line.contains("tidegate ready")).map(str::to_owned);
    let line = until("the ready line", || async { ready() }).await;
    drop(child.kill());
    drop(child.wait());
    let line: Value = serde_json::from_str(&line).unwrap();
    assert!(line["message"].as_str().unwrap().starts_with("tidegate ready on 127.0.0.1:"), "{line}");
}

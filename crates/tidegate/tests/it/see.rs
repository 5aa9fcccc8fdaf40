//! What an operator sees: a message explained, the live views, the log, reports, and what must fit.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::node::{Berth, Node, told, until};

const PULL: &str = r#"
version: 1
node: { name: harbour, data: ./data }
streams: { orders: {} }
sources: { intake: { type: http, path: /orders, to: orders } }
groups:
  deliver: { from: orders, retry: { attempts: 3, first: 1m, max: 5m }, sink: { type: pull } }
warnings: { queue_latency: 1ms, queue_depth: 2, again: 1s, memory: 1MiB }
"#;

async fn claim(node: &Node) -> Value {
    let body = json!({ "max": 1, "wait": "10s" }).to_string();
    let (status, answer) = node.post("/v1/groups/deliver/claim", &[("content-type", "application/json")], body).await;
    assert_eq!(status, 200, "{answer}");
    answer["deliveries"][0].clone()
}

async fn settle(node: &Node, delivery: &Value, outcome: &str) {
    let body = json!({ "settlements": [{ "token": delivery["token"], "outcome": outcome, "reason": "no stock" }] });
    let headers = [("content-type", "application/json")];
    let (status, answer) = node.post("/v1/groups/deliver/settle", &headers, body.to_string()).await;
    assert_eq!((status, &answer["results"][0]["status"]), (200, &json!("settled")), "{answer}");
}

#[tokio::test]
async fn a_message_is_explained_and_traced_over_a_restart() {
    let berth = Berth::new(PULL);
    let node = berth.start().await;
    node.publish("orders", "a", "s", "{}").await;
    let (exit, out, _) = node.cli(&["explain", "a"]);
    assert_eq!(exit, 0);
    assert!(out.contains("a in deliver: waiting") && out.contains("no_worker: no worker has asked"), "{out}");
    let delivery = claim(&node).await;
    settle(&node, &delivery, "retry").await;
    let explained = node.json(&["explain", "a", "--group", "deliver"]);
    assert_eq!(
        (&explained["state"], &explained["because"][0]["reason"]),
        (&json!("scheduled"), &json!("retry_scheduled"))
    );
    assert!(explained["because"][0]["until"].is_string());
    node.kill().await;
    let node = berth.start().await;
    let (exit, out, _) = node.cli(&["trace", "a"]);
    assert_eq!(exit, 0, "{out}");
    assert!(out.contains("accepted") && out.contains("attempt_failed") && out.contains("no stock"), "{out}");
    let (exit, out, _) = node.cli(&["explain", "nobody", "--json"]);
    assert_eq!(exit, 1);
    assert!(out.contains("not_found"), "{out}");
    assert_eq!(node.cli(&["trace", "nobody"]).0, 1);
    node.stop().await;
}

#[tokio::test]
async fn one_screen_and_the_log_say_what_is_going_on() {
    let berth = Berth::new(PULL);
    let node = berth.start().await;
    for id in ["a", "b", "c"] {
        node.publish("orders", id, "s", "{}").await;
    }
    let top = node.json(&["top", "--once"]);
    assert_eq!((&top["groups"][0]["group"], &top["groups"][0]["depth"]), (&json!("deliver"), &json!(3)));
    let groups = node.json(&["stream", "groups", "orders"]);
    let row = &groups["groups"][0];
    assert_eq!((&row["group"], &row["lag"], &row["pending"]), (&json!("deliver"), &json!(3), &json!(0)), "{row}");
    assert!(row["position"].is_string());
    let status = node.json(&["status"]);
    assert_eq!(status["modules"].as_array().unwrap().len(), 2, "{status}");
    assert!(!status["listeners"].as_array().unwrap().is_empty(), "{status}");
    assert!(node.cli(&["status"]).1.contains("intake"));
    assert!(node.cli(&["top", "--once"]).1.contains("DEPTH"));
    for word in ["queue_latency", "memory"] {
        until(&format!("the log warns of {word}"), || async {
            let (exit, out, err) = node.cli(&["logs", "--level", "warn", "--grep", word]);
            assert_eq!(exit, 0, "{err}");
            out.contains(word).then_some(())
        })
        .await;
    }
    let (_, lines, _) = node.cli(&["logs", "--grep", "queue_latency", "--json"]);
    let line: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&line["level"], &line["depth"], &line["queue"]), (&json!("WARN"), &json!(3), &json!("orders")));
    assert!(line["queue_latency"].is_number());
    assert_eq!(node.cli(&["logs", "--since", "2030-01-01T00:00:00Z"]).1, "");
    let (exit, _, err) = node.cli(&["wait-drained", "--group", "deliver", "--timeout", "300ms"]);
    assert_eq!(exit, 1);
    assert!(err.contains("still has 3 events"), "{err}");
    for _ in 0..3 {
        let delivery = claim(&node).await;
        settle(&node, &delivery, "done").await;
    }
    let (exit, out, err) = node.cli(&["group", "wait-drained", "deliver", "--timeout", "30s"]);
    assert_eq!(exit, 0, "{err}");
    assert!(out.contains("is drained"), "{out}");
    node.stop().await;
    let data = berth.data();
    let (exit, out, _) = told(&crate::node::tidegate(&["logs", "--data", data.to_str().unwrap(), "--grep", "stopped"]));
    assert_eq!(exit, 0);
    assert!(out.contains("stopped"), "the log outlives the node: {out}");
}

#[tokio::test]
async fn figures_outlive_the_node() {
    let berth = Berth::new(PULL);
    let node = berth.start().await;
    node.publish("orders", "a", "s", "{}").await;
    let delivery = claim(&node).await;
    settle(&node, &delivery, "done").await;
    node.group_has("deliver", "done", 1).await;
    node.stop().await;
    let node = berth.start().await;
    let report = node.json(&["report", "performance", "--hours", "24"]);
    assert_eq!((&report["total"], &report["success"]), (&json!(1), &json!(1)), "{report}");
    assert_eq!(report["slowest"][0]["event"], "a");
    assert!(node.cli(&["report", "performance"]).1.contains("deliver"));
    node.stop().await;
}

#[tokio::test]
async fn notices_and_events_are_followed() {
    let berth = Berth::new(PULL);
    let node = berth.start().await;
    let mut follow = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    follow.args(["subscribe", "stream/orders,group.*", "--count", "2", "-o", "json"]).env("TIDEGATE_URL", &node.url);
    let mut child = follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It follows from some moment on; what comes after that is seen.
    let mut number = 0;
    until("two lines are seen", || {
        number += 1;
        let (node, ended) = (&node, child.try_wait().unwrap().is_some());
        async move {
            node.publish("orders", &format!("e{number}"), "s", "{\"n\":1}").await;
            node.cli(&["group", "pause", "deliver"]);
            ended.then_some(())
        }
    })
    .await;
    let (exit, out, err) = told(&child.wait_with_output().unwrap());
    assert_eq!(exit, 0, "{err}");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{out}");
    let seen = |line: &Value| line["event"]["data"] == json!({ "n": 1 }) || line["notice"] == "group.paused";
    assert!(lines.iter().all(seen), "{out}");
    assert_eq!(node.cli(&["subscribe", "nonsense"]).0, 2);
    node.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_named() {
    let berth = Berth::new(PULL);
    let fits = |args: &[&str]| {
        told(&Command::new(env!("CARGO_BIN_EXE_tidegate")).current_dir(berth.path()).args(args).output().unwrap())
    };
    let (exit, out, err) = fits(&["compatibility", "--json"]);
    assert_eq!(exit, 0, "{out}{err}");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["ok"], true);
    let names: Vec<&str> =
        document["checks"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["store_format", "config_version", "clock", "file_system", "open_files"]);
    for member in ["found", "required", "ok"] {
        assert!(!document["checks"][0][member].is_null(), "{document}");
    }
    let (exit, out, _) = fits(&["check", "--json"]);
    assert_eq!((exit, serde_json::from_str::<Value>(&out).unwrap()["ok"].clone()), (0, json!(true)));
    let binary = env!("CARGO_BIN_EXE_tidegate");
    let small = |command: &str| {
        let script = format!("ulimit -n 64; exec {binary} {command}");
        told(&Command::new("sh").current_dir(berth.path()).args(["-c", &script]).output().unwrap())
    };
    let (exit, out, err) = small("check limits --json");
    assert_eq!(exit, 1, "{out}{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["ok"], false);
    let (exit, _, err) = small("run tidegate.yaml --listen 127.0.0.1:0");
    assert_eq!(exit, 78, "{err}");
    assert!(err.contains("the node does not start: open_files: found 64"), "{err}");
    let journal = berth.data().join("journal");
    std::fs::create_dir_all(&journal).unwrap();
    // A store of a later version: the node says so by name and leaves it alone.
    let node = berth.start().await;
    node.stop().await;
    let segments = std::fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path());
    let segment = segments.filter(|path| path.extension().is_some_and(|end| end == "seg")).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[8..12].copy_from_slice(&99_u32.to_le_bytes());
    std::fs::write(&segment, &bytes).unwrap();
    let (exit, out, _) = fits(&["compatibility", "--json"]);
    assert_eq!(exit, 1);
    assert!(out.contains("format 99"), "{out}");
    let (exit, _, err) = fits(&["run", "tidegate.yaml", "--listen", "127.0.0.1:0"]);
    assert_eq!(exit, 78);
    assert!(err.contains("store_format: found format 99"), "{err}");
}

/// Answers one request with nothing.
fn answer(mut stream: std::net::TcpStream) {
    use std::io::{Read as _, Write as _};
    let mut head = [0; 4096];
    if stream.read(&mut head).is_ok() {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
    }
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_named() {
    let partner = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = partner.local_addr().unwrap();
    // It answers while this thread waits for a command.
    std::thread::spawn(move || partner.incoming().map_while(Result::ok).for_each(answer));
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        "version: 1\nnode: {{ data: ./data }}\nstreams: {{ orders: {{}} }}\n\
         targets: {{ partner: {{ timeout: 2s }}, lost: {{ timeout: 2s }} }}\ngroups:\n\
         \x20 deliver: {{ from: orders, sink: {{ type: webhook, url: \"http://{}/\", target: partner }} }}\n\
         \x20 away: {{ from: orders, sink: {{ type: webhook, url: \"http://{gone}/\", target: lost }} }}\n",
        address
    );
    let berth = Berth::new(&config);
    let node = berth.start().await;
    let (exit, out, err) = node.cli(&["check", "upstream", "partner"]);
    assert_eq!(exit, 0, "{out}{err}");
    let (exit, _, err) = node.cli(&["check", "upstream", "away"]);
    assert_eq!(exit, 69, "{err}");
    assert!(err.contains("upstream away cannot be reached"), "{err}");
    let health = node.json(&["health", "--detailed"]);
    let upstreams =
        health["components"].as_array().unwrap().iter().find(|one| one["component"] == "upstreams").unwrap();
    assert_eq!((&upstreams["state"], &upstreams["cause"]), (&json!("degraded"), &json!("upstream/away")), "{health}");
    assert_eq!(node.cli(&["check", "upstream", "nowhere"]).0, 1);
    assert_eq!(node.cli(&["check", "metrics"]).0, 0);
    let path = berth.config();
    let from_here = told(&crate::node::tidegate(&["check", "upstream", "lost", "--config", path.to_str().unwrap()]));
    assert_eq!(from_here.0, 69, "{}", from_here.2);
    node.stop().await;
}

#[test]
fn metrics_and_manual_pages_are_listed_without_a_node() {
    let (exit, out, _) = told(&crate::node::tidegate(&["metrics", "list", "--json"]));
    assert_eq!(exit, 0);
    let document: Value = serde_json::from_str(&out).unwrap();
    let first = &document["metrics"][0];
    assert!(first["name"].is_string() && first["type"].is_string() && first["labels"].is_array(), "{first}");
    let dir = tempfile::tempdir().unwrap();
    let (exit, _, err) = told(&crate::node::tidegate(&["man", dir.path().join("man").to_str().unwrap()]));
    assert_eq!(exit, 0, "{err}");
    for page in ["tidegate.1", "tidegate-explain.1", "tidegate-group-pause.1"] {
        assert!(dir.path().join("man").join(page).exists(), "{page} is missing");
    }
}

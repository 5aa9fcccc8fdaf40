//! Sources and sinks by name: what they show, and pause, resume, enable and disable over restarts.

use serde_json::Value;

use crate::node::{Berth, Node, until};

const CONFIG: &str = r#"
version: 1
streams: { orders: {}, ticks: {} }
sources:
  intake: { type: http, path: /orders, to: orders }
  tick: { type: cron, schedule: "* * * * * *", zone: Europe/Berlin, to: ticks, event: { type: tick, data: { n: 1 } } }
groups:
  deliver: { from: orders, sink: { type: pull } }
"#;

async fn send(node: &Node) -> (u16, Option<String>, Value) {
    let request = node.client.post(format!("{}/orders", node.url)).body("{}").send().await.unwrap();
    let after = request.headers().get("retry-after").map(|after| after.to_str().unwrap().to_owned());
    let status = request.status().as_u16();
    (status, after, serde_json::from_slice(&request.bytes().await.unwrap()).unwrap())
}

async fn count(node: &Node, stream: &str) -> u64 {
    node.get(&format!("/v1/streams/{stream}")).await["count"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_are_listed_and_halted_by_hand_and_stay_so() {
    let berth = Berth::new(CONFIG);
    let node = berth.start().await;
    let list = node.json(&["module", "list"]);
    let rows: Vec<_> =
        list["modules"].as_array().unwrap().iter().map(|row| (row["name"].clone(), row["type"].clone())).collect();
    let expect = [("intake", "http"), ("tick", "cron"), ("deliver", "pull")];
    assert_eq!(rows, expect.map(|(name, kind)| (name.into(), kind.into())));
    node.json(&["module", "pause", "intake", "--reason", "partner moves", "--until", "10m"]);
    let (status, after, problem) = send(&node).await;
    assert_eq!(status, 503, "{problem}");
    assert!(after.unwrap().parse::<u64>().unwrap() > 500);
    assert!(problem["detail"].as_str().unwrap().contains("partner moves"), "{problem}");
    node.json(&["module", "disable", "deliver", "--reason", "not yet"]);
    assert_eq!(node.get("/v1/modules/deliver").await["state"], "disabled");
    assert_eq!(node.get("/v1/groups/deliver").await["state"], "paused");
    let (exit, _, err) = node.cli(&["module", "resume", "deliver"]);
    assert!(exit == 1 && err.contains("enable it first"), "{exit} {err}");
    let health = node.get("/health/detailed").await.to_string();
    assert!(health.contains("paused by") && health.contains("disabled by"), "{health}");
    node.stop().await;

    let node = berth.start().await;
    assert_eq!(send(&node).await.0, 503);
    node.json(&["module", "resume", "intake"]);
    assert_eq!(send(&node).await.0, 200);
    let module = node.json(&["module", "enable", "sink.deliver"]);
    assert_eq!((&module["result"], &module["module"]["state"]), (&"enabled".into(), &"running".into()));
    assert_eq!(node.cli(&["module", "show", "nothing"]).0, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_brings_events_and_shows_what_comes_next() {
    let berth = Berth::new(CONFIG);
    let node = berth.start().await;
    until("three ticks", || async { (count(&node, "ticks").await >= 3).then_some(()) }).await;
    let shown = node.json(&["module", "show", "tick"]);
    assert_eq!(shown["details"]["next"].as_array().unwrap().len(), 5, "{shown}");
    assert!(shown["brought"]["accepted"].as_u64().unwrap() >= 3, "{shown}");
    let events = node.get("/v1/streams/ticks/events").await;
    let ids: Vec<_> = events["events"].as_array().unwrap().iter().map(|one| one["event"]["id"].clone()).collect();
    let mut unique = ids.clone();
    unique.dedup();
    assert_eq!(ids, unique);
    node.json(&["module", "disable", "tick"]);
    assert_eq!(node.json(&["module", "show", "tick"])["state"], "disabled");
    node.kill().await;
    // A fire that was durable and not yet remembered comes again as the same event, and no disabled source fires.
    let node = berth.start().await;
    assert_eq!(node.get("/v1/modules/tick").await["state"], "disabled");
    let before = count(&node, "ticks").await;
    node.json(&["module", "enable", "tick"]);
    until("it ticks again", || async { (count(&node, "ticks").await > before).then_some(()) }).await;
    node.stop().await;
}

const FILES: &str = r#"
version: 1
streams: { lines: {}, typed: {}, rejected: {} }
sources:
  log: { type: file, path: in.jsonl, to: lines, poll: 10ms, rejects: rejected }
  typed: { type: stdin, to: typed, defaults: { source: /typed, type: key } }
"#;

fn write(berth: &Berth, from: u32, to: u32) {
    use std::io::Write as _;
    let path = berth.path().join("in.jsonl");
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    let lines: String = (from..to).map(|number| format!("{{\"n\":{number}}}\n")).collect();
    file.write_all(lines.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_once_although_the_node_is_killed_while_it_reads() {
    let berth = Berth::new(FILES);
    write(&berth, 0, 20_000);
    let node = berth.start().await;
    until("it reads", || async { (count(&node, "lines").await > 0).then_some(()) }).await;
    node.kill().await;
    write(&berth, 20_000, 20_100);
    let node = berth.start().await;
    until("it has read all", || async { (count(&node, "lines").await >= 20_100).then_some(()) }).await;
    until("it stands at the end", || async {
        (node.get("/v1/modules/log").await["details"]["state"] == "at the end").then_some(())
    })
    .await;
    assert_eq!(count(&node, "lines").await, 20_100);
    assert_eq!(node.json(&["module", "show", "log"])["details"]["line"], 20_100);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_a_source_and_waits_while_it_is_paused() {
    use std::io::Write as _;
    let berth = Berth::new(FILES);
    let mut command = berth.command();
    command.stdin(std::process::Stdio::piped());
    let mut node = berth.start_by(command).await;
    let mut typing = node.stdin();
    typing.write_all(b"{\"key\":1}\nnot json\n").unwrap();
    until("one event", || async { (count(&node, "typed").await == 1).then_some(()) }).await;
    let rejected = || async {
        let line = node.get("/v1/modules/typed").await["brought"]["rejected_last"]["message"].clone();
        line.as_str().is_some_and(|line| line.starts_with("stdin:2: ")).then_some(())
    };
    until("one line rejected", rejected).await;
    node.json(&["module", "pause", "typed"]);
    typing.write_all(b"2\n3").unwrap();
    drop(typing);
    node.json(&["module", "resume", "typed"]);
    until("it has ended", || async { (node.get("/v1/modules/typed").await["state"] == "ended").then_some(()) }).await;
    assert_eq!(count(&node, "typed").await, 3);
    let metrics = node.client.get(format!("{}/metrics", node.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("tidegate_source_rejected_total{source=\"typed\"} 1"), "{metrics}");
    node.stop().await;
}

const WORKS: &str = r#"
version: 1
streams: { orders: {}, copies: {} }
sources:
  mirror: { type: stream, from: orders, to: copies }
groups:
  back: { from: copies, sink: { type: stream, to: orders } }
  archive: { from: copies, sink: { type: file, path: archive.jsonl, rotate: { size: 1MiB } } }
  run:
    from: orders
    workers: 2
    retry: { attempts: 2, first: 10ms }
    sink: { type: exec, command: [sh, run.sh], mode: worker, memory: 256MiB }
"#;

const RUN: &str = r#"
while read -r line; do
  token=$(printf '%s' "$line" | sed 's/.*"token":"\([^"]*\)".*/\1/')
  case $line in
    *'"id":"poison"'*) kill -9 $$ ;;
    *'"id":"bad"'*) printf '{"token":"%s","outcome":"reject","reason":"bad order"}\n' "$token" ;;
    *) printf '{"token":"%s","outcome":"done"}\n' "$token" ;;
  esac
done
"#;

fn ids(text: &str) -> Vec<String> {
    let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    text.lines().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_forwarded_once_written_and_run() {
    let berth = Berth::new(WORKS);
    std::fs::write(berth.path().join("run.sh"), RUN).unwrap();
    let node = berth.start().await;
    for id in ["1", "poison", "bad", "2"] {
        node.publish("orders", id, "a", "{}").await;
    }
    node.group_has("run", "done", 2).await;
    node.group_has("run", "dead", 2).await;
    node.group_has("archive", "done", 4).await;
    node.group_has("back", "done", 4).await;
    node.group_has("source.mirror", "done", 4).await;
    assert_eq!((count(&node, "orders").await, count(&node, "copies").await), (4, 4), "no event goes in a ring");
    let archive = std::fs::read_to_string(berth.path().join("archive.jsonl")).unwrap();
    assert_eq!(ids(&archive), ["1", "poison", "bad", "2"]);
    let dead = node.json(&["dlq", "list", "--stream", "orders"]);
    let classes: Vec<_> = dead["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["event"]["id"].clone(), one["fault"]["class"].clone()))
        .collect();
    assert!(
        classes.contains(&("poison".into(), "poison".into())) && classes.contains(&("bad".into(), "invalid".into())),
        "{dead}"
    );
    // A source behind which a group stands is paused like any other.
    node.json(&["module", "pause", "mirror"]);
    node.publish("orders", "3", "a", "{}").await;
    node.group_has("run", "done", 3).await;
    assert_eq!(node.get("/v1/modules/mirror").await["state"], "paused");
    assert_eq!(count(&node, "copies").await, 4);
    node.json(&["module", "resume", "mirror"]);
    node.group_has("archive", "done", 5).await;
    assert_eq!(node.json(&["audit", "messages"])["balanced"], true);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_output_takes_lines_and_is_refused_where_they_would_be_lost() {
    let berth =
        Berth::new("version: 1\nstreams: { orders: {} }\ngroups: { show: { from: orders, sink: { type: stdout } } }");
    let refused = berth.command().output().unwrap();
    let (exit, _, err) = crate::node::told(&refused);
    assert!(exit == 69 && err.contains("standard output cannot be used"), "{exit} {err}");
    let path = berth.path().join("out.jsonl");
    let mut command = berth.command();
    command.stdout(std::fs::File::create(&path).unwrap());
    let node = berth.start_by(command).await;
    node.publish("orders", "1", "a", "{}").await;
    node.publish("orders", "2", "a", "{}").await;
    node.group_has("show", "done", 2).await;
    assert_eq!(ids(&std::fs::read_to_string(&path).unwrap()), ["1", "2"]);
    node.stop().await;
}

#[test]
fn settings_of_modules_are_checked_together() {
    let refused = |config: &str| {
        let berth = Berth::new(&format!("version: 1\nstreams: {{ a: {{}}, b: {{}} }}\n{config}"));
        let path = berth.config();
        let (exit, _, err) = crate::node::told(&crate::node::tidegate(&["check", "--offline", path.to_str().unwrap()]));
        assert_eq!(exit, 78, "{err}");
        err
    };
    let two =
        "groups:\n  x: { from: a, sink: { type: file, path: out } }\n  y: { from: b, sink: { type: file, path: out } }";
    assert!(refused(two).contains("groups.y.sink.path: group x writes there too"));
    let ring = refused("groups: { x: { from: a, sink: { type: stream, to: a } } }");
    assert!(ring.contains("groups.x.sink.to: is the stream that is read"), "{ring}");
    assert!(refused("groups: { x: { from: a, sink: { type: stream, to: c } } }").contains("there is no stream \"c\""));
    assert!(refused("sources: { s: { type: stream, from: a, to: a } }").contains("in a ring"));
    assert!(
        refused("sources: { s: { type: stdin, to: a }, t: { type: stdin, to: a } }").contains("standard input already")
    );
    assert!(refused("sources: { s: { type: file, path: x, to: a, rejects: c } }").contains("sources.s.rejects"));
    let taken =
        "sources: { s: { type: stream, from: a, to: b } }\ngroups: { source.s: { from: a, sink: { type: pull } } }";
    assert!(refused(taken).contains("group source.s has the name"));
}

#[test]
fn the_example_has_one_of_each_and_is_good() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/modules/tidegate.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    for module in tidegate_modules::ALL {
        assert!(text.contains(&format!("type: {}", module.name)), "no {} {}", module.kind.as_str(), module.name);
    }
    let (exit, out, err) = crate::node::told(&crate::node::tidegate(&["check", "--offline", path.to_str().unwrap()]));
    assert_eq!(exit, 0, "{out}{err}");
}

#[test]
fn a_check_asks_sources_too() {
    let config = "version: 1\nstreams: { a: {} }\nsources: { log: { type: file, path: no/such/place, to: a } }\n\
        groups: { run: { from: a, sink: { type: exec, command: [surely-not-there] } } }";
    let berth = Berth::new(config);
    let (exit, out, err) = crate::node::told(&crate::node::tidegate(&["check", berth.config().to_str().unwrap()]));
    assert!(exit == 69 && err.contains("2 of 2"), "{exit} {out}{err}");
    assert!(out.contains("no/such") && out.contains("surely-not-there"), "{out}");
}

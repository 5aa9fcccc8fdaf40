//! Other programs on the streams of a node whose engine is Redis, and a queue of others that a node watches.

use std::process::Command;

use serde_json::{Value, json};
use tidegate_testkit::RedisServer;

use crate::node::{Berth, Node, until};

const TOPIC: &str = "identity.user.v1";

/// Makes something of an envelope that is none.
type Change = fn(&mut Vec<(&str, String)>);

fn config(server: &RedisServer) -> String {
    format!(
        r#"
version: 1
engine: {url}
streams: {{ {TOPIC}: {{ schema: {{ envelope: v1, on: both }} }}, ops: {{}} }}
targets: {{ broker: {{ timeout: 2s }} }}
sources:
  jobs: {{ type: redis_list, url: "${{env:QUEUE_URL}}", target: broker, key: "rq:queue:flow_tasks", every: 100ms, above: 2, to: ops }}
groups: {{ linting_group: {{ from: {TOPIC}, order_by: partitionkey, sink: {{ type: pull }} }} }}
"#,
        url = server.url()
    )
}

async fn started(berth: &Berth, server: &RedisServer) -> Node {
    berth.start_with(&[("QUEUE_URL", &server.url())]).await
}

/// Runs `redis-cli`, as people and scripts do; returns what it prints.
fn redis(server: &RedisServer, words: &[&str]) -> String {
    let port = server.port().to_string();
    let output = Command::new("redis-cli").args(["-p", &port]).args(words).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !out.contains("ERR"), "{words:?}: {out}");
    out.trim_end().to_owned()
}

fn uuid(number: u32) -> String {
    format!("0191f8f2-0000-7000-8000-{number:012}")
}

/// Publishes as a program does that knows envelope v1 and nothing of us.
fn xadd(server: &RedisServer, number: u32, change: impl FnOnce(&mut Vec<(&str, String)>)) -> String {
    let mut fields = vec![
        ("event_id", uuid(number)),
        ("event_type", "UserCreated".to_owned()),
        ("topic", TOPIC.to_owned()),
        ("schema_version", "1".to_owned()),
        ("occurred_at", "2026-01-31T08:00:00Z".to_owned()),
        ("tenant_id", uuid(0)),
        ("aggregate_id", uuid(number % 3)),
        ("payload", format!("{{\"n\":{number}}}")),
    ];
    change(&mut fields);
    let mut words = vec!["XADD", TOPIC, "*"];
    words.extend(fields.iter().flat_map(|(name, value)| [*name, value.as_str()]));
    redis(server, &words)
}

async fn claim(node: &Node) -> Vec<Value> {
    let headers = [("content-type", "application/json")];
    let body = json!({"max": 100, "wait": "1s"}).to_string();
    let (status, answer) = node.post("/v1/groups/linting_group/claim", &headers, body).await;
    assert_eq!(status, 200, "{answer}");
    answer["deliveries"].as_array().unwrap().clone()
}

async fn settle(node: &Node, deliveries: &[Value], outcome: &str) {
    let settlements: Vec<Value> =
        deliveries.iter().map(|one| json!({"token": one["token"], "outcome": outcome, "reason": "no"})).collect();
    let headers = [("content-type", "application/json")];
    let body = json!({ "settlements": settlements }).to_string();
    let (status, answer) = node.post("/v1/groups/linting_group/settle", &headers, body).await;
    assert!(status == 200 && !answer.to_string().contains("lost"), "{answer}");
}

#[tokio::test]
async fn what_is_no_envelope_is_parked_with_a_reason_and_everybody_goes_on() {
    let server = RedisServer::start(&[]);
    let berth = Berth::new(&config(&server));
    redis(&server, &["XGROUP", "CREATE", TOPIC, "spell_check_group", "0", "MKSTREAM"]);
    let node = started(&berth, &server).await;
    xadd(&server, 1, |_| {});
    let cases: [(&str, Change); 6] = [
        ("/event_id does not fit envelope v1", |fields| fields[0].1 = "7".to_owned()),
        ("/payload does not fit envelope v1: the data is not JSON", |fields| fields[7].1 = "{".to_owned()),
        ("/payload does not fit envelope v1", |fields| fields[7].1 = "[]".to_owned()),
        ("/schema_version does not fit", |fields| fields[3].1 = "0".to_owned()),
        ("\"tenant_id\" is a required", |fields| drop(fields.remove(5))),
        ("\"colour\" is no field of it", |fields| fields.push(("colour", "red".to_owned()))),
    ];
    for (number, (_, change)) in (2..).zip(cases) {
        xadd(&server, number, change);
    }
    xadd(&server, 8, |_| {});
    let mut lent = Vec::new();
    while lent.len() < 2 {
        lent.extend(claim(&node).await);
    }
    let ids: Vec<_> = lent.iter().map(|one| one["event"]["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [uuid(1), uuid(8)]);
    assert_eq!(lent[0]["event"]["tenantid"], uuid(0));
    settle(&node, &lent, "done").await;
    // What stood behind them in order is looked at by the next claim.
    assert_eq!(claim(&node).await, Vec::<Value>::new());
    node.group_has("linting_group", "dead", 6).await;
    let dead = node.json(&["dlq", "list", "--stream", TOPIC]);
    let dead = dead["entries"].as_array().unwrap();
    let shown = redis(&server, &["XRANGE", &format!("{TOPIC}.dlq"), "-", "+"]);
    let said: Vec<_> = dead.iter().map(|letter| letter["fault"]["message"].as_str().unwrap()).collect();
    for (expect, _) in cases {
        assert!(said.iter().any(|why| why.contains(expect)), "none says {expect}: {said:?}");
    }
    assert!(said.len() == 6 && said.iter().all(|why| shown.contains(why)), "{said:?}: {shown}");
    // A consumer group of others has read the same, at its own pace.
    let read =
        redis(&server, &["XREADGROUP", "GROUP", "spell_check_group", "c-1", "COUNT", "100", "STREAMS", TOPIC, ">"]);
    assert_eq!(read.lines().filter(|line| *line == "event_id").count(), 8, "{read}");
    assert!(!read.contains("tidegate"), "{read}");
    let audit = node.json(&["audit", "messages"]);
    assert_eq!(audit["balanced"], true, "{audit}");
    // Who publishes over the node is told at once.
    let (status, problem) = node
        .post(
            &format!("/v1/streams/{TOPIC}/events"),
            &[
                ("ce-specversion", "1.0"),
                ("ce-id", &uuid(9)),
                ("ce-source", "/t"),
                ("ce-type", "t"),
                ("ce-subject", "u"),
            ],
            "{}",
        )
        .await;
    assert_eq!(status, 422, "{problem}");
    node.stop().await;
}

/// A group of another program is taken over while others still write, read and look at dead letters.
#[tokio::test]
async fn a_group_moves_to_a_node_and_others_stay() {
    let server = RedisServer::start(&[]);
    for number in 1..=6 {
        xadd(&server, number, |_| {});
    }
    for group in ["linting_group", "mm-backend"] {
        redis(&server, &["XGROUP", "CREATE", TOPIC, group, "0"]);
    }
    let read =
        redis(&server, &["XREADGROUP", "GROUP", "linting_group", "lint-77", "COUNT", "4", "STREAMS", TOPIC, ">"]);
    let is_id = |line: &&str| {
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        line.split_once('-').is_some_and(|(time, count)| time.len() == 13 && is_number(time) && is_number(count))
    };
    let positions: Vec<&str> = read.lines().filter(is_id).collect();
    assert_eq!(positions.len(), 4, "{read}");
    for done in [0, 1, 3] {
        redis(&server, &["XACK", TOPIC, "linting_group", positions[done]]);
    }
    let berth = Berth::new(&config(&server));
    let node = started(&berth, &server).await;
    xadd(&server, 7, |_| {});
    let mut found = Vec::new();
    while found.len() < 4 {
        let lent = claim(&node).await;
        settle(&node, &lent, if found.len() == 3 { "reject" } else { "done" }).await;
        found.extend(lent.iter().map(|one| one["event"]["id"].as_str().unwrap().to_owned()));
    }
    found.sort_unstable();
    assert_eq!(found, [3, 5, 6, 7].map(uuid), "what was pending, what was not given to anybody, what came since");
    assert!(redis(&server, &["XPENDING", TOPIC, "linting_group"]).starts_with('0'));
    let theirs = redis(&server, &["XREADGROUP", "GROUP", "mm-backend", "c", "COUNT", "100", "STREAMS", TOPIC, ">"]);
    assert_eq!(theirs.lines().filter(|line| *line == "event_id").count(), 7);
    assert_eq!(node.json(&["audit", "messages"])["balanced"], true);
    node.stop().await;
}

#[tokio::test]
async fn the_length_of_a_queue_of_others_is_shown_under_its_name() {
    let server = RedisServer::start(&[]);
    let berth = Berth::new(&config(&server));
    let node = started(&berth, &server).await;
    redis(&server, &["RPUSH", "rq:queue:flow_tasks", "a", "b", "c"]);
    let depth = || {
        let (exit, out, err) = node.cli(&["stream", "depth", "rq:queue:flow_tasks"]);
        assert_eq!(exit, 0, "{err}");
        out.trim().to_owned()
    };
    until("it is counted", || async { (depth() == redis(&server, &["LLEN", "rq:queue:flow_tasks"])).then_some(()) })
        .await;
    let page = node.client.get(format!("{}/metrics", node.url)).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("tidegate_queue_depth{queue=\"rq:queue:flow_tasks\"} 3"), "{page}");
    let told = || async {
        node.get("/v1/streams/ops/events").await["events"].as_array().filter(|all| !all.is_empty()).cloned()
    };
    let events = until("it is told", told).await;
    assert_eq!((&events[0]["event"]["type"], &events[0]["event"]["data"]["depth"]), (&json!("queue.high"), &json!(3)));
    redis(&server, &["DEL", "rq:queue:flow_tasks"]);
    until("it is empty", || async { (depth() == "0").then_some(()) }).await;
    redis(&server, &["SET", "rq:queue:flow_tasks", "no list"]);
    let wrong = || async {
        let (exit, _, err) = node.cli(&["stream", "depth", "rq:queue:flow_tasks"]);
        (exit == 69).then_some(err)
    };
    assert!(until("it says what is wrong", wrong).await.contains("WRONGTYPE"));
    assert_eq!(node.cli(&["stream", "depth", TOPIC]).1.trim(), "0", "a stream has a depth too");
    node.stop().await;
}

/// The drills of the example are those of its README, on servers of their own.
#[test]
fn the_drills_of_the_outbox_go_well() {
    let drills = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/outbox/drills");
    let mut command = Command::new("python3");
    command
        .arg("-B")
        .arg(drills)
        .args(["--outage", "2", "--late", "2", "--prometheus"])
        .env("TIDEGATE", env!("CARGO_BIN_EXE_tidegate"));
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("drills: all passed"), "{told}");
}

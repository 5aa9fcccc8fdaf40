//! Engines beside that of the node: events go to one, or come from one, once each, and over its absence and kills.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidegate_testkit::{PostgresServer, RedisServer};

use crate::{
    engine::{postgres, redis},
    node::{Berth, Node, tidegate, told, until},
};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

async fn claim(node: &Node, group: &str, max: usize) -> Vec<Value> {
    let body = json!({ "max": max, "wait": "1s" }).to_string();
    let (status, answer) = node.post(&format!("/v1/groups/{group}/claim"), &JSON, body).await;
    assert_eq!(status, 200, "{answer}");
    answer["deliveries"].as_array().unwrap().clone()
}

async fn done(node: &Node, group: &str, lent: &[Value]) {
    let settlements: Vec<_> = lent.iter().map(|one| json!({ "token": one["token"], "outcome": "done" })).collect();
    let body = json!({ "settlements": settlements }).to_string();
    let (status, answer) = node.post(&format!("/v1/groups/{group}/settle"), &JSON, body).await;
    assert!(status == 200 && !answer.to_string().contains("lost"), "{answer}");
}

/// Claims and settles until so many different events came; each must come once. Returns their ids in the order in which
/// they came.
async fn work_off(node: &Node, group: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    let came = tokio::sync::Mutex::new(&mut ids);
    until("all events came", || async {
        let lent = claim(node, group, 100).await;
        done(node, group, &lent).await;
        let mut ids = came.lock().await;
        ids.extend(lent.iter().map(|one| one["event"]["id"].as_str().unwrap().to_owned()));
        (ids.len() >= count).then_some(())
    })
    .await;
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "each came once: {ids:?}");
    ids
}

fn balanced(node: &Node) {
    let audit = node.json(&["audit", "messages"]);
    assert_eq!(audit["balanced"], true, "{audit}");
}

const PULL: &str = "groups: { work: { from: orders, order_by: subject, sink: { type: pull } } }";

fn moved(engine: &str, old: &Berth) -> String {
    let data = old.data().display().to_string();
    format!(
        "version: 1\n{engine}\nengines: {{ old: {{ engine: embedded, data: '{data}' }} }}\n\
         streams: {{ orders: {{ dedupe: {{ window: 1d }} }} }}\n\
         sources: {{ move: {{ type: stream, engine: old, from: orders, group: work, to: orders }} }}\n{PULL}\n"
    )
}

/// What a group had not settled comes to the new engine, in order, retries and all, and nothing that it had settled.
#[tokio::test]
async fn a_node_with_another_engine_goes_on_where_the_old_one_stood() {
    let server: PostgresServer = postgres();
    let old = Berth::new(&format!("version: 1\nstreams: {{ orders: {{}} }}\n{PULL}\n"));
    let node = old.start().await;
    for n in 0..6 {
        node.publish("orders", &format!("e{n}"), &format!("key{}", n % 2), &format!("{{\"n\":{n}}}")).await;
    }
    let lent = claim(&node, "work", 2).await;
    assert_eq!(lent.len(), 2);
    done(&node, "work", &lent).await;
    let held = claim(&node, "work", 1).await;
    assert_eq!(held.len(), 1, "one is being worked on when the node dies");
    let new = Berth::new(&moved(&crate::engine::Engine::keys(&server), &old));
    let (exit, out, err) = told(&tidegate(&["check", &new.config().display().to_string()]));
    assert!(exit == 0 && out.contains("engines: old: a store of the embedded engine in "), "{out}{err}");
    let before = node;
    let node = new.start().await;
    let waits = || async { node.json(&["module", "show", "move"]).to_string().contains("engine old: ").then_some(()) };
    until("the old node still has its store", waits).await;
    before.kill().await;
    node.publish("orders", "fresh", "key0", "{}").await;
    let ids = work_off(&node, "work", 5).await;
    let of = |key: usize| {
        ids.iter()
            .filter(move |id| id.strip_prefix('e').is_some_and(|n| n.parse() == Ok(key) || n.parse() == Ok(key + 2)))
    };
    for (key, expect) in [(2, ["e2", "e4"]), (3, ["e3", "e5"])] {
        assert_eq!(of(key).collect::<Vec<_>>(), expect, "each key in its order: {ids:?}");
    }
    until("the old group is empty", || async {
        (node.json(&["module", "show", "move"])["details"]["left"] == 0).then_some(())
    })
    .await;
    balanced(&node);
    node.stop().await;
    // A second start brings nothing again, and the old store can still be opened by itself.
    let node = new.start().await;
    assert_eq!(claim(&node, "work", 100).await, Vec::<Value>::new());
    balanced(&node);
    node.stop().await;
    let node = old.start().await;
    assert_eq!(claim(&node, "work", 100).await, Vec::<Value>::new());
    balanced(&node);
    node.stop().await;
}

/// What the stream here refuses stays in the other engine, where it can be mended, and keeps nobody back.
#[tokio::test]
async fn what_cannot_be_published_here_is_a_dead_letter_there() {
    let old = Berth::new(&format!("version: 1\nstreams: {{ orders: {{}} }}\n{PULL}\n"));
    let node = old.start().await;
    for (id, document) in [("e0", "{\"n\":1}"), ("e1", "{\"n\":\"one\"}"), ("e2", "{\"n\":2}")] {
        node.publish("orders", id, "key", document).await;
    }
    node.stop().await;
    let strict = "dedupe: { window: 1d }, schema: { inline: { properties: { n: { type: integer } } } }";
    let new = Berth::new(&moved("engine: embedded", &old).replace("dedupe: { window: 1d }", strict));
    let node = new.start().await;
    assert_eq!(work_off(&node, "work", 2).await, ["e0", "e2"]);
    let buried = || async { (node.json(&["module", "show", "move"])["details"]["dead"] == 1).then_some(()) };
    until("the other engine counts it", buried).await;
    balanced(&node);
    node.stop().await;
    let node = old.start().await;
    let dead = node.json(&["dlq", "list", "--stream", "orders"]);
    assert_eq!(dead["entries"][0]["event"]["id"], "e1");
    assert!(dead["entries"][0]["fault"]["message"].as_str().unwrap().contains("/n"), "{dead}");
    balanced(&node);
    node.stop().await;
}

fn forwarding(server: &RedisServer) -> String {
    format!(
        "version: 1\nengines: {{ next: {{ engine: '{}', redis: {{ timeout: 2s }} }} }}\n\
         streams: {{ orders: {{ dedupe: {{ window: 1d }} }} }}\n\
         targets: {{ next: {{ timeout: 5s, breaker: {{ failures: 1, cooldown: 1s, cooldown_max: 1s }} }} }}\n\
         groups:\n  pass: {{ from: orders, workers: 1, sink: {{ type: stream, engine: next, target: next, to: orders }} }}\n",
        server.url()
    )
}

/// The node is killed, and the server of the other engine goes away: all that was published is there once, and nothing died.
#[tokio::test]
async fn events_are_passed_to_another_engine_over_kills() {
    let mut server = redis();
    let berth = Berth::new(&forwarding(&server));
    let mut node = berth.start().await;
    let mut published = 0;
    for round in 0..3 {
        for _ in 0..40 {
            node.publish("orders", &format!("e{published}"), "key", "{}").await;
            published += 1;
        }
        match round {
            0 => {
                node.kill().await;
                node = berth.start().await;
            }
            1 => {
                server.kill();
                node.publish("orders", &format!("e{published}"), "key", "{}").await;
                published += 1;
                let health = || async {
                    let target = node.json(&["target", "show", "next"]);
                    target.to_string().contains("open").then_some(())
                };
                until("the breaker is open", health).await;
                server.run_again();
            }
            _ => {}
        }
    }
    node.group_has("pass", "done", published).await;
    let group = node.get("/v1/groups/pass").await;
    assert_eq!((&group["dead"], &group["dropped"]), (&json!(0), &json!(0)), "{group}");
    balanced(&node);
    node.stop().await;
    let reader = format!("version: 1\nengine: {}\nstreams: {{ orders: {{}} }}\n{PULL}\n", server.url());
    let other = Berth::new(&reader);
    let node = other.start().await;
    let ids = work_off(&node, "work", published as usize).await;
    assert_eq!(ids, (0..published).map(|n| format!("e{n}")).collect::<Vec<_>>(), "in the order of the stream");
    assert_eq!(claim(&node, "work", 100).await, Vec::<Value>::new());
    balanced(&node);
    node.stop().await;
}

/// The node does its own work while another engine is away, and says that it is.
#[tokio::test]
async fn an_engine_that_is_away_harms_nobody_else() {
    let mut server = redis();
    server.kill();
    let config = format!(
        "version: 1\nengines: {{ old: {{ engine: '{}' }} }}\nstreams: {{ orders: {{ dedupe: {{ window: 1d }} }} }}\n\
         sources: {{ move: {{ type: stream, engine: old, from: orders, to: orders }} }}\n{PULL}\n",
        server.url()
    );
    let berth = Berth::new(&config);
    let path = berth.config().display().to_string();
    let (exit, out, err) = told(&tidegate(&["check", &path]));
    assert!(exit != 0 && err.contains("engines: found old: ") && err.contains("cannot be reached"), "{out}{err}");
    let node = berth.start().await;
    node.publish("orders", "own", "key", "{}").await;
    assert_eq!(work_off(&node, "work", 1).await, ["own"]);
    let away = || async {
        let health = node.client.get(format!("{}/health/detailed", node.url)).send().await.unwrap();
        health.text().await.unwrap().contains("engine old: ").then_some(())
    };
    until("health says that it is away", away).await;
    server.run_again();
    let missing = || async {
        node.json(&["module", "show", "move"]).to_string().contains("there is no stream orders").then_some(())
    };
    until("the engine is asked again", missing).await;
    // Somebody makes the stream, and publishes into it.
    let there = Berth::new(&format!("version: 1\nengine: {}\nstreams: {{ orders: {{}} }}\n", server.url()));
    let second = there.start().await;
    second.publish("orders", "theirs", "key", "{}").await;
    assert_eq!(work_off(&node, "work", 1).await, ["theirs"]);
    second.stop().await;
    node.stop().await;
}

#[test]
fn what_cannot_be_passed_on_is_refused() {
    let check = |config: &str, words: &[&str]| {
        let berth = Berth::new(&format!("version: 1\n{config}\n"));
        let (exit, out, err) = told(&tidegate(&["check", "--offline", &berth.config().display().to_string()]));
        assert_eq!(exit, 78, "{out}{err}");
        for word in words {
            assert!(err.contains(word), "{word:?} is not in {err}");
        }
    };
    let engines = "engines: { next: { engine: 'redis://h' } }\ntargets: { t: {} }";
    let sink = |engines: &str, sink: &str| {
        format!("{engines}\nstreams: {{ s: {{}} }}\ngroups: {{ g: {{ from: s, sink: {{ type: stream, {sink} }} }} }}")
    };
    check(&sink(engines, "to: s, engine: nxt, target: t"), &["groups.g.sink.engine", "next"]);
    check(&sink(engines, "to: s, engine: next"), &["groups.g.sink.target", "is needed"]);
    check(&sink(engines, "to: s.dlq, engine: next, target: t"), &["groups.g.sink.to", "dead letters"]);
    check(&sink("targets: { t: {} }", "to: s, target: t"), &["groups.g.sink.target", "another engine"]);
    let source = |source: &str| {
        format!("{engines}\nstreams: {{ s: {{}} }}\nsources: {{ x: {{ type: stream, from: s, to: s, {source} }} }}")
    };
    check(&source("engine: next"), &["sources.x.to", "must for 1h at least"]);
    check(&source("engine: own, group: g"), &["sources.x.group", "another engine", "in a ring"]);
    check("engines: { own: { engine: 'redis://h' } }", &["engines.own"]);
    check("engines: { old: { engine: embedded } }", &["engines.old", "data is needed"]);
    check("engines: { old: { engine: embedded, data: ./data } }", &["engines.old.data", "own data"]);
    check("engines: { old: { engine: memory } }", &["engines.old.engine", "memory"]);
    check("engines: { old: { engine: 'redis://u:p@h' } }", &["engines.old.engine", "user and password"]);
}

//! Results of events: asked for, waited for, and as the answer to the request that brings the event.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};
use tidegate_control::Reply;
use tidegate_core::{
    delivery::Outcome,
    handler, limits,
    names::{GroupName, StreamName},
    notice::Notice,
    result::{Answer as Given, ResultsPolicy},
};

use crate::{
    client::{Answer, request},
    node::{self, Node},
};

/// Longer than anything takes; a test that waits this long has failed.
const LONG: Duration = Duration::from_secs(25);

/// A node with the stream `questions`, whose pull group `answer` keeps results, and the path `/ask`, which waits.
async fn asking(wait: Duration) -> Node {
    let (mut parts, ailing, stopper) = node::parts(Vec::new()).await;
    let (stream, group) = (StreamName::new("questions").unwrap(), GroupName::new("answer").unwrap());
    parts.store.declare_stream(&node::stream_spec("questions")).await.unwrap();
    let (spec, mut policy) = node::group("answer", "questions");
    policy.results = Some(ResultsPolicy::new(Duration::from_secs(3600)));
    policy.stages =
        tidegate_rules::Stages::new(serde_json::from_value(json!([{ "where": "type != 'chatter'" }])).unwrap());
    parts.groups.add(&spec, policy, None).await.unwrap();
    let mut intake = node::intake(&parts.modules, "ask", "/ask").await;
    (intake.stream, intake.reply) = (stream, Some(Reply { wait, group }));
    parts.intakes.push(intake);
    Node::of(parts, ailing, stopper).await
}

fn question(id: &str) -> Request<Body> {
    let headers = [("idempotency-key", id), ("content-type", "application/json")];
    request(Method::POST, "/v1/streams/questions/events", &headers, "{}")
}

fn ask(id: &str) -> Request<Body> {
    request(Method::POST, "/ask", &[("idempotency-key", id), ("content-type", "application/json")], "{}")
}

async fn claim(node: &Node) -> Value {
    let claimed = node.post("/v1/groups/answer/claim", json!({ "max": 1, "wait": "20s" })).await.good();
    claimed["deliveries"][0].clone()
}

async fn settle(node: &Node, delivery: &Value, mut settlement: Value) {
    settlement["token"] = delivery["token"].clone();
    let settled = node.post("/v1/groups/answer/settle", json!({ "settlements": [settlement] })).await.good();
    assert_eq!(settled["results"][0]["status"], "settled", "{settled}");
}

/// Checks that it is not there yet, and returns where it will be.
#[track_caller]
fn pending(answer: &Answer, state: &str) -> String {
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.json()["state"], state, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    let place = answer.header("location").unwrap().to_owned();
    assert_eq!(answer.json()["result"], place.as_str());
    place
}

#[tokio::test]
async fn a_result_is_there_when_its_event_is_done() {
    let node = asking(LONG).await;
    node.send(question("q/1?")).await.good();
    let place = pending(&node.get("/v1/events/q%2F1%3F/result").await, "waiting");
    assert_eq!(place, "/v1/events/q%2F1%3F/result?stream=questions&group=answer&source=%2F&position=1");
    let delivery = claim(&node).await;
    pending(&node.get(&place).await, "in_flight");
    settle(&node, &delivery, json!({ "outcome": "done", "result": { "sum": 42 } })).await;
    for path in [&*place, "/v1/events/q%2F1%3F/result", "/v1/events/q%2F1%3F/result?source=/&group=answer"] {
        let answer = node.get(path).await;
        assert_eq!(answer.good(), json!({ "sum": 42 }), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    let whole = request(Method::GET, &place, &[("accept", "application/cloudevents+json")], "");
    let whole = node.send(whole).await.good();
    let trace = node.get("/v1/events/q%2F1%3F/trace").await.good();
    assert_eq!((&trace["stream"], &trace["position"]), (&json!("questions"), &json!("1")));
    let last = trace["timeline"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["what"], &last["group"]), (&json!("result_kept"), &json!("answer")), "{trace}");
    assert_eq!(
        (&whole["id"], &whole["type"], &whole["data"]["sum"]),
        (&json!("q/1?"), &json!("tidegate.result"), &json!(42))
    );
}

#[tokio::test]
async fn what_is_not_known_is_missing() {
    let node = asking(LONG).await;
    node.publish(&["o"]).await;
    node.send(question("q")).await.good();
    let told = |answer: Answer, status, kind: &str| answer.problem(status, kind)["detail"].as_str().unwrap().to_owned();
    let detail = told(node.get("/v1/events/x/result").await, 404, "missing");
    assert!(detail.contains("the newest 10000 of answer") && detail.contains("say source"), "{detail}");
    let detail = told(node.get("/v1/events/o/result?stream=orders").await, 404, "missing");
    assert!(detail.contains("no group that reads stream orders keeps results"), "{detail}");
    let detail = told(node.get("/v1/events/o/result?group=deliver").await, 404, "missing");
    assert!(detail.contains("group deliver does not keep results"), "{detail}");
    told(node.get("/v1/events/q/result?group=nobody").await, 404, "missing");
    pending(&node.get("/v1/events/q/result?stream=questions&position=7").await, "waiting");
}

#[tokio::test]
async fn who_waits_is_woken() {
    let node = asking(LONG).await;
    node.send(question("q")).await.good();
    let delivery = claim(&node).await;
    let watch = node.clock.stopwatch();
    let (answer, ()) = tokio::join!(node.get("/v1/events/q/result?wait=20s"), async {
        node.waits(1).await;
        settle(&node, &delivery, json!({ "outcome": "done", "result": "no", "content_type": "text/plain" })).await;
    });
    assert_eq!((answer.status.as_u16(), answer.text(), answer.header("content-type")), (200, "no", Some("text/plain")));
    assert!(watch.elapsed() < Duration::from_secs(4), "it was woken and did not look by itself");
    node.waits(0).await;
    for wrong in ["wait=31s", "wait=soon", "position=1", "position=x&stream=questions", "more=1"] {
        node.get(&format!("/v1/events/q/result?{wrong}")).await.problem(400, "invalid");
    }
}

#[tokio::test]
async fn a_request_is_answered_with_the_result_of_its_event() {
    let mut node = asking(LONG).await;
    let (answer, ()) = tokio::join!(node.send(ask("q")), async {
        let delivery = claim(&node).await;
        settle(&node, &delivery, json!({ "outcome": "done", "result": [1] })).await;
    });
    assert_eq!(answer.good(), json!([1]));
    let place = answer.header("content-location").unwrap();
    assert_eq!(node.get(place).await.good(), json!([1]));
    // A repeat is answered with the same and runs nothing.
    assert_eq!(node.send(ask("q")).await.good(), json!([1]));
    let group = node.get("/v1/groups/answer").await.good();
    assert_eq!((&group["done"], &group["waiting"]), (&json!(1), &json!(0)));
    let accepted = node.tap.drain().into_iter().filter(|notice| matches!(notice, Notice::Accepted { .. })).count();
    assert_eq!(accepted, 1);
    let metrics = node.get("/metrics").await;
    assert!(metrics.text().contains("tidegate_reply_seconds_count{source=\"ask\",outcome=\"answered\"} 2"));
}

#[tokio::test]
async fn a_repeat_while_the_first_runs_waits_for_the_same_result() {
    let node = asking(LONG).await;
    let (one, two, ()) = tokio::join!(node.send(ask("q")), node.send(ask("q")), async {
        node.waits(2).await;
        let delivery = claim(&node).await;
        settle(&node, &delivery, json!({ "outcome": "done", "result": 7 })).await;
    });
    assert_eq!((one.good(), two.good()), (json!(7), json!(7)));
    assert_eq!(node.get("/v1/groups/answer").await.good()["done"], 1);
}

#[tokio::test]
async fn what_takes_too_long_is_accepted_and_the_result_comes_later() {
    let node = asking(Duration::from_millis(50)).await;
    let place = pending(&node.send(ask("q")).await, "waiting");
    let delivery = claim(&node).await;
    pending(&node.send(ask("q")).await, "in_flight");
    settle(&node, &delivery, json!({ "outcome": "done", "result": 7 })).await;
    assert_eq!(node.get(&place).await.good(), 7);
    assert_eq!(node.send(ask("q")).await.good(), 7);
}

#[tokio::test]
async fn a_death_is_told_and_a_second_life_is_followed() {
    let node = asking(LONG).await;
    let (answer, ()) = tokio::join!(node.send(ask("q")), async {
        let delivery = claim(&node).await;
        settle(&node, &delivery, json!({ "outcome": "reject", "reason": "no such customer" })).await;
    });
    let problem = answer.problem(422, "unanswered");
    let told =
        ["state", "class", "dead_letter", "stream", "group"].map(|name| problem[name].as_str().unwrap().to_owned());
    assert_eq!(told, ["dead", "invalid", "1", "questions", "answer"]);
    assert!(problem["detail"].as_str().unwrap().contains("no such customer"), "{problem}");
    assert_eq!(node.get("/v1/events/q/result").await.problem(422, "unanswered")["dead_letter"], "1");
    // Asking again runs nothing again.
    node.send(ask("q")).await.problem(422, "unanswered");
    node.post("/v1/dlq/questions/reprocess", json!({ "ids": ["1"], "reason": "mended" })).await.good();
    let delivery = claim(&node).await;
    let place = pending(&node.get("/v1/events/q/result").await, "in_flight");
    settle(&node, &delivery, json!({ "outcome": "done", "result": 7 })).await;
    assert_eq!(node.get(&place).await.good(), 7);
    assert_eq!(node.get("/v1/events/q/result").await.good(), 7);
}

#[tokio::test]
async fn events_that_nobody_will_answer_are_told_at_once() {
    let node = asking(LONG).await;
    let with = |headers: &[(&str, &str)]| {
        let all = [&[("ce-specversion", "1.0"), ("ce-source", "/s")], headers].concat();
        request(Method::POST, "/ask", &all, "{}")
    };
    let puller = || node.post("/v1/groups/answer/claim", json!({ "max": 1, "wait": "2s" }));
    let chatter = with(&[("ce-id", "c"), ("ce-type", "chatter")]);
    let (skipped, _) = tokio::join!(node.send(chatter), puller());
    assert_eq!(skipped.problem(422, "unanswered")["state"], "skipped");
    let late = with(&[("ce-id", "l"), ("ce-type", "t"), ("ce-expirytime", "2020-01-01T00:00:00Z")]);
    let (expired, _) = tokio::join!(node.send(late), puller());
    assert_eq!(expired.problem(504, "unanswered")["state"], "expired");
    assert!(expired.header("retry-after").is_none(), "trying again makes it no younger");
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_whole() {
    let node = asking(LONG).await;
    let batch = r#"[{"specversion":"1.0","id":"a","source":"/s","type":"t"}]"#;
    let batch = request(Method::POST, "/ask", &[("content-type", "application/cloudevents-batch+json")], batch);
    let problem = node.send(batch).await.problem(400, "invalid");
    assert!(problem["detail"].as_str().unwrap().contains("/v1/streams/questions/events"), "{problem}");
    node.stopper.drain();
    node.send(ask("q")).await.problem(503, "unavailable");
    assert_eq!(node.get("/v1/streams/questions").await.good()["accepted"], 0);
}

#[tokio::test]
async fn a_client_that_leaves_takes_nothing_with_it() {
    let node = asking(LONG).await;
    {
        let leaving = node.send(ask("q"));
        tokio::pin!(leaving);
        tokio::select! {
            answer = &mut leaving => panic!("{answer:?}"),
            () = node.waits(1) => {}
        }
    }
    node.waits(0).await;
    let delivery = claim(&node).await;
    settle(&node, &delivery, json!({ "outcome": "done", "result": 7 })).await;
    assert_eq!(node.send(ask("q")).await.good(), 7);
}

#[tokio::test]
async fn a_stop_ends_the_wait_unless_the_work_is_about_to_end() {
    let node = asking(LONG).await;
    let (held, waiting, ()) = tokio::join!(
        node.send(ask("held")),
        async {
            node.waits(1).await;
            node.send(ask("waiting")).await
        },
        async {
            let delivery = claim(&node).await;
            assert_eq!(delivery["event"]["id"], "held");
            node.waits(2).await;
            node.stopper.drain();
            node.waits(1).await;
            settle(&node, &delivery, json!({ "outcome": "done", "result": 7 })).await;
        }
    );
    assert_eq!(held.good(), 7);
    pending(&waiting, "waiting");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_told() {
    let (mut parts, ailing, stopper) = node::parts(Vec::new()).await;
    let (spec, mut policy) = node::group("large", "other");
    policy.results = Some(ResultsPolicy::new(Duration::from_secs(3600)));
    let answer = |_| async { Outcome::answered(Given::text("x".repeat(limits::RESULT_BYTES_MAX + 1))) };
    parts.groups.add(&spec, policy, Some(handler::from_fn(answer) as Arc<_>)).await.unwrap();
    parts.intakes.clear();
    let node = Node::of(parts, ailing, stopper).await;
    let headers = [("idempotency-key", "q"), ("content-type", "application/json")];
    node.send(request(Method::POST, "/v1/streams/other/events", &headers, "{}")).await.good();
    let problem = node.get("/v1/events/q/result?wait=20s").await.problem(502, "unanswered");
    assert_eq!(problem["state"], "done");
}

#[tokio::test]
async fn an_id_of_two_sources_needs_the_source() {
    let node = asking(LONG).await;
    for source in ["/a", "/b"] {
        let headers = [("ce-specversion", "1.0"), ("ce-id", "q"), ("ce-source", source), ("ce-type", "t")];
        node.send(request(Method::POST, "/v1/streams/questions/events", &headers, "{}")).await.good();
        let delivery = claim(&node).await;
        settle(&node, &delivery, json!({ "outcome": "done", "result": source })).await;
    }
    let problem = node.get("/v1/events/q/result").await.problem(400, "invalid");
    assert!(problem["detail"].as_str().unwrap().contains("say which with source"), "{problem}");
    for source in ["/a", "/b"] {
        assert_eq!(node.get(&format!("/v1/events/q/result?source={source}")).await.good(), source);
    }
}

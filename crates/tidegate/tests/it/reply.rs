//! A request that is answered with the result of its event, through kills and stops, with the real binary.

use reqwest::Response;
use serde_json::Value;

use crate::{
    node::{Berth, Node, until},
    receiver::Receiver,
};

fn berth(receiver: &Receiver, wait: &str) -> Berth {
    Berth::new(&format!(
        r#"
version: 1
streams:
  questions: {{}}
sources:
  ask: {{ type: http, path: /ask, to: questions, reply: {{ wait: {wait} }} }}
targets:
  stub: {{}}
groups:
  answer:
    from: questions
    results: {{ keep: 1h }}
    retry: {{ attempts: 2, first: 10ms }}
    sink: {{ type: webhook, url: "{}", target: stub }}
"#,
        receiver.url
    ))
}

async fn send(node: &Node, id: &str) -> reqwest::Result<Response> {
    let request = node.client.post(format!("{}/ask", node.url)).header("idempotency-key", id).body("?");
    request.send().await
}

async fn ask(node: &Node, id: &str) -> Response {
    send(node, id).await.unwrap()
}

/// Checks that the answer is the result, and that it says where that lies.
async fn answered(response: Response, id: &str) {
    let status = response.status();
    assert!(response.headers().contains_key("content-location"));
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!((status.as_u16(), response.text().await.unwrap()), (200, format!("answer to {id}")));
}

/// Checks that there is no result yet, and returns where it will be.
async fn accepted(response: Response) -> String {
    assert_eq!(response.status(), 202);
    let place = response.headers()["location"].to_str().unwrap().to_owned();
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(response.json::<Value>().await.unwrap()["result"], place.as_str());
    place
}

async fn get(node: &Node, path: &str) -> Response {
    node.client.get(format!("{}{path}", node.url)).send().await.unwrap()
}

async fn results(node: &Node) -> Value {
    node.get("/v1/streams/answer.results").await["accepted"].clone()
}

#[tokio::test]
async fn a_slow_answer_comes_later_and_stays() {
    let receiver = Receiver::start().await;
    let berth = berth(&receiver, "300ms");
    let node = berth.start().await;
    answered(ask(&node, "quick").await, "quick").await;
    receiver.hold().await;
    let place = accepted(ask(&node, "slow").await).await;
    assert_eq!(get(&node, &place).await.status(), 202);
    receiver.release(1);
    answered(get(&node, &format!("{place}&wait=20s")).await, "slow").await;
    // Whoever asks again, in whatever way, gets the same and runs nothing.
    answered(ask(&node, "slow").await, "slow").await;
    answered(get(&node, "/v1/events/slow/result").await, "slow").await;
    node.kill().await;
    let node = berth.start().await;
    answered(get(&node, &place).await, "slow").await;
    answered(ask(&node, "slow").await, "slow").await;
    assert_eq!((receiver.ids(), results(&node).await), (vec!["quick".to_owned(), "slow".to_owned()], 2.into()));
    node.stop().await;
}

#[tokio::test]
async fn a_kill_while_a_client_waits_costs_nothing_but_the_wait() {
    let receiver = Receiver::start().await;
    let berth = berth(&receiver, "25s");
    receiver.hold().await;
    let node = berth.start().await;
    let (broken, ()) = tokio::join!(send(&node, "q"), async {
        until("the question is being worked on", || async { (receiver.ids() == ["q"]).then_some(()) }).await;
        node.signal(rustix::process::Signal::KILL);
    });
    broken.unwrap_err();
    drop(node);
    let node = berth.start().await;
    let (answer, ()) = tokio::join!(ask(&node, "q"), async {
        until("the question is worked on again", || async { (receiver.ids() == ["q", "q"]).then_some(()) }).await;
        receiver.release(2);
    });
    answered(answer, "q").await;
    let keys: Vec<_> =
        receiver.received().iter().map(|one| one.header("idempotency-key").unwrap().to_owned()).collect();
    assert_eq!(keys[0], keys[1], "the handler can tell that it is the same question");
    assert_eq!(results(&node).await, 1);
    let group = node.get("/v1/groups/answer").await;
    assert_eq!((&group["accepted"], &group["done"]), (&1.into(), &1.into()));
    node.stop().await;
}

#[tokio::test]
async fn a_stop_answers_those_who_wait() {
    let receiver = Receiver::start().await;
    let berth = berth(&receiver, "25s");
    let mut node = berth.start().await;
    node.json(&["group", "pause", "answer"]);
    let (response, ()) = tokio::join!(ask(&node, "q"), async {
        until("the client waits", || async {
            let metrics = get(&node, "/metrics").await.text().await.unwrap();
            metrics.contains("tidegate_waiting_requests 1").then_some(())
        })
        .await;
        node.signal(rustix::process::Signal::TERM);
    });
    let place = accepted(response).await;
    assert_eq!(node.ended().await, Some(0), "{}", node.log.text());
    let node = berth.start().await;
    node.json(&["group", "resume", "answer"]);
    answered(get(&node, &format!("{place}&wait=20s")).await, "q").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_is_a_problem_until_it_is_mended() {
    let receiver = Receiver::start().await;
    receiver.answer(500);
    let berth = berth(&receiver, "25s");
    let node = berth.start().await;
    let response = ask(&node, "q").await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (502, &"application/problem+json".parse().unwrap())
    );
    let problem: Value = response.json().await.unwrap();
    let told = ["type", "state", "class", "dead_letter"].map(|name| problem[name].as_str().unwrap());
    assert_eq!(told, ["urn:tidegate:problem:unanswered", "dead", "transient", "1"]);
    let (exit, out, err) = node.cli(&["result", "q"]);
    assert!(
        exit == 1 && out.is_empty() && err.contains("dead letter 1, parked: transient: answered 500"),
        "{exit} {err}"
    );
    receiver.answer(200);
    node.json(&["dlq", "reprocess", "--stream", "questions", "--id", "1", "--reason", "mended"]);
    let (exit, out, err) = node.cli(&["result", "q", "--wait", "20s"]);
    assert_eq!((exit, out.as_str()), (0, "answer to q"), "{err}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_waits_and_prints() {
    let receiver = Receiver::start().await;
    let berth = berth(&receiver, "1s");
    let node = berth.start().await;
    let (exit, out, err) = node.cli(&["publish", "questions", "--id", "q", "--data", "?", "--wait", "20s"]);
    assert_eq!((exit, out.as_str()), (0, "answer to q"), "{err}");
    assert_eq!(node.cli(&["result", "q"]).1, "answer to q");
    let whole = node.json(&["result", "q", "--source", "/tidegate/publish", "--group", "answer"]);
    assert_eq!((&whole["type"], &whole["data"]), (&"tidegate.result".into(), &"answer to q".into()));
    receiver.hold().await;
    let (exit, out, err) = node.cli(&["publish", "questions", "--id", "late", "--data", "?", "--wait", "100ms"]);
    assert!(exit == 1 && out.is_empty() && err.contains("late is in_flight"), "{exit} {out} {err}");
    receiver.release(1);
    assert_eq!(node.cli(&["result", "late", "--wait", "20s"]).1, "answer to late");
    let (exit, _, err) = node.cli(&["result", "unknown"]);
    assert!(exit == 1 && err.contains("no event \"unknown\""), "{exit} {err}");
    node.stop().await;
}

//! How a node ends, gently and otherwise, and what is there afterwards.

use std::collections::HashSet;

use rustix::process::Signal;

use crate::{
    node::{Berth, Log, Node, SAMPLE, until},
    receiver::Receiver,
};

fn sample(receiver: &Receiver) -> String {
    SAMPLE
        .replace("https://partner.example/hook", &receiver.url)
        .replace("rate: 50/s, ", "")
        .replace("order_by: subject", "lease: 5s")
}

/// Publishes from several sides at once until the node takes no more; returns the ids that it acknowledged.
async fn publish_until_refused(node: &Node, acknowledged: &std::sync::Mutex<Vec<String>>) {
    let publish = async |side: u32| {
        for number in 0_u32.. {
            let id = format!("{side}-{number}");
            let request = node.client.post(format!("{}/v1/streams/orders/events", node.url));
            let request = request.header("ce-specversion", "1.0").header("ce-source", "/load").header("ce-type", "t");
            match request.header("ce-id", &id).body("x").send().await {
                Ok(answer) if answer.status().is_success() => acknowledged.lock().unwrap().push(id),
                Ok(answer) => {
                    assert_eq!(answer.status().as_u16(), 503, "a node that stops refuses with 503");
                    assert!(answer.headers().contains_key("retry-after"));
                    return;
                }
                Err(_) => return,
            }
        }
    };
    tokio::join!(publish(0), publish(1), publish(2), publish(3));
}

/// Runs a node under load, ends it with a signal in the middle, and checks that all it acknowledged arrives.
async fn nothing_acknowledged_is_lost(signal: Signal, exit: Option<i32>) {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&sample(&receiver).replace("workers: 8", "workers: 2"));
    let node = berth.start().await;
    let acknowledged = std::sync::Mutex::new(Vec::new());
    let end = async {
        until("some are acknowledged", || async { (acknowledged.lock().unwrap().len() >= 200).then_some(()) }).await;
        node.signal(signal);
    };
    tokio::join!(publish_until_refused(&node, &acknowledged), end);
    let mut node = node;
    assert_eq!(node.ended().await, exit, "{}", node.log.text());
    let node = berth.start().await;
    let acknowledged = acknowledged.into_inner().unwrap();
    let arrived = || async {
        let arrived: HashSet<String> = receiver.ids().into_iter().collect();
        acknowledged.iter().all(|id| arrived.contains(id)).then_some(())
    };
    until("everything acknowledged arrives", arrived).await;
    until("nothing is left", || async {
        let group = node.get("/v1/groups/deliver").await;
        (group["waiting"] == 0 && group["in_flight"] == 0 && group["scheduled"] == 0).then_some(())
    })
    .await;
    assert_eq!(node.json(&["audit", "messages"])["balanced"], true);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_nothing() {
    nothing_acknowledged_is_lost(Signal::TERM, Some(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_under_load_loses_nothing() {
    nothing_acknowledged_is_lost(Signal::KILL, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_held_and_starts_nothing_new() {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&sample(&receiver));
    let mut node = berth.start().await;
    receiver.hold().await;
    for id in 0..20 {
        node.publish("orders", &id.to_string(), "a", "1").await;
    }
    until("eight requests are held", || async { (receiver.ids().len() == 8).then_some(()) }).await;
    node.signal(Signal::TERM);
    until("the node drains", || async { node.log.text().contains("node.draining").then_some(()) }).await;
    receiver.release(1000);
    assert_eq!(node.ended().await, Some(0), "{}", node.log.text());
    assert_eq!(receiver.ids().len(), 8, "nothing new was started");
    let node = berth.start().await;
    node.group_has("deliver", "done", 20).await;
    let mut ids = receiver.ids();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), receiver.ids().len()), (20, 20), "each went out once");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_takes_too_long_drops_what_is_held_and_says_what() {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&format!("{}shutdown: {{ grace: 100ms }}\n", sample(&receiver)));
    let mut node = berth.start().await;
    receiver.hold().await;
    node.publish("orders", "stuck", "a", "1").await;
    until("the request is held", || async { (receiver.ids().len() == 1).then_some(()) }).await;
    node.signal(Signal::TERM);
    assert_eq!(node.ended().await, Some(1));
    until("the log names it", || async { node.log.text().contains("event=stuck").then_some(()) }).await;
    until("the log ends", || async { node.log.text().contains("node.stopped").then_some(()) }).await;
    assert!(!node.log.text().contains("unhealthy"), "to be stopped is no illness: {}", node.log.text());
    receiver.release(1000);
    let node = berth.start().await;
    node.group_has("deliver", "done", 1).await;
    assert_eq!(receiver.received().len(), 2);
    let keys: Vec<_> =
        receiver.received().iter().map(|request| request.header("idempotency-key").unwrap().to_owned()).collect();
    assert_eq!(keys[0], keys[1]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_does_not_wait() {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&sample(&receiver));
    let mut node = berth.start().await;
    receiver.hold().await;
    node.publish("orders", "stuck", "a", "1").await;
    until("the request is held", || async { (receiver.ids().len() == 1).then_some(()) }).await;
    node.signal(Signal::INT);
    until("the node drains", || async { node.log.text().contains("node.draining").then_some(()) }).await;
    node.signal(Signal::INT);
    assert_eq!(node.ended().await, Some(1), "{}", node.log.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_declined_and_nothing_else_happens() {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&sample(&receiver));
    let node = berth.start().await;
    node.signal(Signal::HUP);
    until("the log says so", || async { node.log.text().contains("cannot yet").then_some(()) }).await;
    node.publish("orders", "1", "a", "1").await;
    node.group_has("deliver", "done", 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_has_lost_nothing() {
    let receiver = Receiver::start().await;
    receiver.answer(400);
    let berth = Berth::new(&sample(&receiver));
    let node = berth.start().await;
    node.publish("orders", "dead", "a", "1").await;
    node.group_has("deliver", "dead", 1).await;
    receiver.answer(200);
    for id in 0..50 {
        node.publish("orders", &format!("before-{id}"), "a", "1").await;
    }
    node.kill().await;
    let node = berth.start().await;
    for id in 0..10 {
        node.publish("orders", &format!("after-{id}"), "a", "1").await;
    }
    node.group_has("deliver", "done", 60).await;
    let audit = node.json(&["audit", "messages"]);
    assert_eq!(audit["balanced"], true, "{audit}");
    let mut ids = receiver.ids();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 61);
    assert_eq!(node.json(&["dlq", "list", "--stream", "orders"])["entries"][0]["event"]["id"], "dead");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_belongs_to_one_process() {
    let berth = Berth::new(SAMPLE);
    let node = berth.start().await;
    let mut second = berth.command().spawn().unwrap();
    let log = Log::of(&mut second);
    assert!(!second.wait().unwrap().success());
    until("it names the holder", || async { log.text().contains(&node.pid().to_string()).then_some(()) }).await;
    assert_eq!(node.cli(&["health"]).0, 0, "the first is not disturbed");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_said() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let berth = Berth::new(SAMPLE);
    let (exit, _, err) = crate::node::told(&berth.command().args(["--listen", &taken]).output().unwrap());
    assert_eq!(exit, 69, "{err}");
    assert!(err.contains(&format!("listen on {taken}")), "{err}");
    berth.start().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told() {
    let berth = Berth::new(SAMPLE);
    let path = berth.path().join("notify.sock");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let mut child = berth.command().env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let mut told = [0; 256];
    let length = socket.recv(&mut told).await.unwrap();
    assert!(told[..length].starts_with(b"READY=1"), "{:?}", String::from_utf8_lossy(&told[..length]));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    let length = socket.recv(&mut told).await.unwrap();
    assert!(told[..length].starts_with(b"STOPPING=1"), "{:?}", String::from_utf8_lossy(&told[..length]));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

//! A node whose streams lie in a Redis, PostgreSQL or NATS server, and what becomes of it when that server goes and comes back.

use std::collections::HashSet;

use tidegate_testkit::{NatsServer, PostgresServer, RedisServer};

use crate::{
    node::{Berth, Node, SAMPLE, tidegate, told, until},
    receiver::Receiver,
    resp::programs_for_redis_streams_find_the_same_there,
};

/// A server that keeps the streams.
pub(crate) trait Engine {
    /// How health says that it is away, and how promises say that it loses nothing.
    fn words(&self) -> [&'static str; 2];
    /// The keys of the configuration that choose it.
    fn keys(&self) -> String;
    fn kill(&mut self);
    fn run_again(&mut self);
}

impl Engine for RedisServer {
    fn words(&self) -> [&'static str; 2] {
        ["Redis cannot be reached", "appendfsync always"]
    }

    fn keys(&self) -> String {
        format!("redis: {{ timeout: 2s, takeover: 2s }}\nengine: {}", self.url())
    }

    fn kill(&mut self) {
        Self::kill(self);
    }

    fn run_again(&mut self) {
        Self::run_again(self);
    }
}

impl Engine for PostgresServer {
    fn words(&self) -> [&'static str; 2] {
        ["PostgreSQL cannot be reached", "synchronous_commit on"]
    }

    fn keys(&self) -> String {
        let address = self.url().replace("tester@", "");
        format!("postgres: {{ user: tester, timeout: 2s, takeover: 2s }}\nengine: {address}")
    }

    fn kill(&mut self) {
        Self::kill(self);
    }

    fn run_again(&mut self) {
        Self::run_again(self);
    }
}

impl Engine for NatsServer {
    fn words(&self) -> [&'static str; 2] {
        ["cannot be reached", "A server that crashes loses nothing"]
    }

    fn keys(&self) -> String {
        format!("nats: {{ timeout: 2s, takeover: 2s }}\nengine: {}", self.url())
    }

    fn kill(&mut self) {
        Self::kill(self);
    }

    fn run_again(&mut self) {
        Self::run_again(self);
    }
}

pub(crate) fn redis() -> RedisServer {
    RedisServer::start(&["--appendonly yes", "--appendfsync always"])
}

pub(crate) fn postgres() -> PostgresServer {
    PostgresServer::start(&["fsync=on"])
}

pub(crate) fn nats() -> NatsServer {
    NatsServer::start()
}

macro_rules! on_each_server {
    ($($test:ident),+ $(,)?) => {
        mod on_redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::redis()).await;
            })+
        }

        mod on_postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::postgres()).await;
            })+
        }

        mod on_nats {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::nats()).await;
            })+
        }
    };
}

pub(crate) use on_each_server;

on_each_server! {
    an_outage_of_the_server_loses_nothing_and_buries_nothing,
    a_killed_node_goes_on_where_it_was,
    what_a_killed_node_held_is_done_by_the_other,
    nodes_that_share_a_server_say_when_they_work_differently,
    programs_for_redis_streams_find_the_same_there,
}

pub(crate) fn sample(server: &impl Engine, receiver: &Receiver) -> String {
    SAMPLE
        .replace("engine: embedded", &server.keys())
        .replace("https://partner.example/hook", &receiver.url)
        .replace("rate: 50/s, ", "")
}

/// Publishes one event; tells whether it was accepted.
pub(crate) async fn publish(node: &Node, id: &str) -> bool {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/test"), ("ce-type", "test")];
    let (status, answer) = node.post("/v1/streams/orders/events", &headers, "x").await;
    assert!([200, 503, 504].contains(&status), "{status}: {answer}");
    status == 200
}

async fn all_arrive(receiver: &Receiver, ids: &[String]) {
    let arrived = || async {
        let arrived: HashSet<String> = receiver.ids().into_iter().collect();
        ids.iter().all(|id| arrived.contains(id)).then_some(())
    };
    until("everything acknowledged arrives", arrived).await;
}

async fn an_outage_of_the_server_loses_nothing_and_buries_nothing(mut server: impl Engine) {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&sample(&server, &receiver));
    let node = berth.start().await;
    let mut ids = Vec::new();
    for number in 0..20 {
        let id = number.to_string();
        assert!(publish(&node, &id).await);
        ids.push(id);
    }
    server.kill();
    assert!(!publish(&node, "refused").await, "nothing is accepted that cannot be kept");
    let [away, _] = server.words();
    let health = || async {
        let answer = node.client.get(format!("{}/health/detailed", node.url)).send().await.ok()?.text().await.ok()?;
        answer.contains(away).then_some(answer)
    };
    assert!(until("health tells of the outage", health).await.contains("degraded"));
    server.run_again();
    let again = || async { publish(&node, "after").await.then_some(()) };
    until("publishes are accepted again", again).await;
    ids.push("after".to_owned());
    all_arrive(&receiver, &ids).await;
    let waits = || async {
        // One of its connections may still be on its way to a server that is starting.
        let answer = node.client.get(format!("{}/v1/groups/deliver", node.url)).send().await.ok()?;
        let group: serde_json::Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        (group["waiting"] == 0 && group["in_flight"] == 0 && group["scheduled"] == 0).then_some(group)
    };
    let group = until("everything is settled", waits).await;
    let [accepted, done, dead, dropped] = ["accepted", "done", "dead", "dropped"].map(|count| group[count].as_u64());
    // What was refused because no answer came in time may be there all the same.
    assert!(matches!(accepted, Some(21 | 22)), "{group}");
    assert_eq!([done, dead, dropped], [accepted, Some(0), Some(0)], "{group}");
    node.stop().await;
}

async fn a_killed_node_goes_on_where_it_was(server: impl Engine) {
    let receiver = Receiver::start().await;
    let berth = Berth::new(&sample(&server, &receiver));
    let node = berth.start().await;
    node.cli(&["group", "pause", "deliver", "--reason", "test"]);
    let ids: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    for id in &ids {
        assert!(publish(&node, id).await);
    }
    let promises = node.get("/health/detailed").await["promises"].to_string();
    let [_, safe] = server.words();
    assert!(promises.contains(safe), "{promises}");
    node.kill().await;
    let node = berth.start().await;
    assert_eq!(node.get("/v1/groups/deliver").await["waiting"], 50, "what was wished is wished still");
    node.cli(&["group", "resume", "deliver"]);
    all_arrive(&receiver, &ids).await;
    node.group_has("deliver", "done", 50).await;
    node.stop().await;
}

/// Two nodes share a group. What one held when it was killed, the other has done long before its leases of a minute end.
async fn what_a_killed_node_held_is_done_by_the_other(server: impl Engine) {
    let receiver = Receiver::start().await;
    let config = sample(&server, &receiver).replace("workers: 8", "workers: 4\n    results: { keep: 1h }");
    let berths = [Berth::new(&config), Berth::new(&config.replace("harbour", "quay"))];
    let (one, two) = (berths[0].start().await, berths[1].start().await);
    for number in 0..8 {
        assert!(publish(if number % 2 == 0 { &one } else { &two }, &number.to_string()).await);
    }
    // Whoever asks one node for a result gets it, whichever of them made it.
    for number in 0..8 {
        let url = format!("{}/v1/events/{number}/result?wait=20s", one.url);
        let answer = one.client.get(url).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status == 200 && text == format!("answer to {number}"), "{status}: {text}");
    }
    receiver.hold().await;
    for number in 8..16 {
        assert!(publish(&one, &number.to_string()).await);
    }
    let all_sent = || async { (receiver.received().len() >= 16).then_some(()) };
    until("each node holds what it has workers for", all_sent).await;
    two.group_has("deliver", "in_flight", 8).await;
    one.kill().await;
    receiver.release(1000);
    two.group_has("deliver", "done", 16).await;
    let audit = two.json(&["audit", "messages"]);
    assert_eq!(audit["balanced"], true, "{audit}");
    two.stop().await;
}

#[tokio::test]
async fn a_check_says_what_may_be_lost_and_that_a_server_is_not_there() {
    let mut server = RedisServer::start(&["--maxmemory-policy allkeys-lru"]);
    let berth = Berth::new(&format!("version: 1\nengine: {}\nstreams: {{ orders: {{}} }}\n", server.url()));
    let config = berth.config().display().to_string();
    let run = |more: &[&str]| told(&tidegate(&[&["check", &config], more].concat()));
    let (_, out, err) = run(&[]);
    for word in ["engine: Redis ", "it keeps nothing on disk", "maxmemory-policy allkeys-lru", "warning: "] {
        assert!(out.contains(word), "{word:?} is not in {out}{err}");
    }
    server.kill();
    let (exit, out, err) = run(&[]);
    assert_ne!(exit, 0, "{out}");
    assert!(err.contains("engine: found ") && err.contains("Redis cannot be reached"), "{err}");
    assert_eq!(run(&["--offline"]).0, 0);
}

async fn nodes_that_share_a_server_say_when_they_work_differently(server: impl Engine) {
    let receiver = Receiver::start().await;
    let of = |name: &str, retry: &str| {
        let config = sample(&server, &receiver);
        assert!(config.contains("name: harbour") && config.contains("attempts: 8"), "{config}");
        Berth::new(&config.replace("name: harbour", &format!("name: {name}")).replace("attempts: 8", retry))
    };
    let (first, second) = (of("first", "attempts: 8"), of("second", "attempts: 9"));
    let (one, other) = (first.start().await, second.start().await);
    let peers = async |node: &Node| {
        let health = node.get("/health/detailed").await;
        health["components"].as_array().unwrap().iter().find(|part| part["component"] == "peers").cloned()
    };
    for (node, whom) in [(&one, "second"), (&other, "first")] {
        let differs = || async { peers(node).await.filter(|part| part["state"] == "degraded") };
        let part = until("the difference is seen", differs).await;
        let cause = part["cause"].as_str().unwrap();
        assert!(cause.contains("configured differently") && cause.contains(whom), "{cause}");
    }
    other.stop().await;
    let alone = || async { peers(&one).await.is_none().then_some(()) };
    until("who left is forgotten", alone).await;
    let third = of("second", "attempts: 8");
    let same = third.start().await;
    let agree = || async { peers(&one).await.filter(|part| part["state"] == "healthy") };
    until("they agree", agree).await;
    same.stop().await;
    one.stop().await;
}

#[tokio::test]
async fn a_check_knows_a_postgres_server_from_others() {
    let mut server = PostgresServer::start(&["fsync=off"]);
    let keys = server.keys();
    let check = |keys: &str, more: &[&str]| {
        let berth = Berth::new(&format!("version: 1\n{keys}\nstreams: {{ orders: {{}} }}\n"));
        told(&tidegate(&[&["check", &berth.config().display().to_string()], more].concat()))
    };
    let (exit, out, err) = check(&keys, &[]);
    assert_eq!(exit, 0, "{out}{err}");
    for word in ["engine: PostgreSQL ", "fsync off", "warning: "] {
        assert!(out.contains(word), "{word:?} is not in {out}{err}");
    }
    assert_eq!(
        server.psql("SELECT count(*) FROM pg_namespace WHERE nspname = 'tidegate'"),
        "0",
        "a check changes nothing"
    );
    let redis = RedisServer::start(&[]);
    let wrong = [
        (keys.replace("/postgres", "/nowhere"), "database \"nowhere\" does not exist"),
        (keys.replace("user: tester", "user: nobody"), "role \"nobody\" does not exist"),
        (keys.replace(&server.port().to_string(), &redis.port().to_string()), "answer as a PostgreSQL server does"),
    ];
    for (keys, word) in wrong {
        let (exit, out, err) = check(&keys, &[]);
        assert!(exit != 0 && err.contains("engine: found ") && err.contains(word), "{word:?}: {out}{err}");
    }
    server.kill();
    let (exit, out, err) = check(&keys, &[]);
    assert!(exit != 0 && err.contains("PostgreSQL cannot be reached"), "{out}{err}");
    assert_eq!(check(&keys, &["--offline"]).0, 0);
}

#[tokio::test]
async fn a_check_knows_a_nats_server() {
    let mut server = NatsServer::start();
    let check = |more: &[&str]| {
        let berth = Berth::new(&format!("version: 1\nengine: {}\nstreams: {{ orders: {{}} }}\n", server.url()));
        told(&tidegate(&[&["check", &berth.config().display().to_string()], more].concat()))
    };
    let (exit, out, err) = check(&[]);
    assert_eq!(exit, 0, "{out}{err}");
    for word in ["engine: NATS 2.", "stream TIDEGATE to be made", "sync_interval"] {
        assert!(out.contains(word), "{word:?} is not in {out}{err}");
    }
    server.kill();
    let berth = Berth::new(&format!("version: 1\nengine: {}\nstreams: {{ orders: {{}} }}\n", server.url()));
    let (exit, out, err) = told(&tidegate(&["check", &berth.config().display().to_string()]));
    assert_ne!(exit, 0, "{out}");
    assert!(err.contains("cannot be reached"), "{err}");
}

//! Programs for Redis Streams on a node that has no Redis: its own engine, and a listener that speaks their protocol.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use sha2::Digest as _;

use crate::{
    engine::Engine,
    node::{Berth, Node, tidegate, told, until},
};

const TOPIC: &str = "identity.user.v1";

fn config(more: &str) -> String {
    format!(
        r#"
version: 1
listeners:
  - {{ bind: "127.0.0.1:0" }}
  - {{ bind: "127.0.0.1:0", protocol: redis }}
streams:
  {TOPIC}: {{ dead_letters: {{ aliases: [identity.dlq] }} }}
  plain: {{}}
groups:
  spell_check_group: {{ from: {TOPIC}, order_by: partitionkey, lease: 30s, sink: {{ type: pull }} }}
  short: {{ from: plain, lease: 1s, retry: {{ attempts: 5, first: 1ms }}, sink: {{ type: pull }} }}
  inside: {{ from: plain, sink: {{ type: exec, command: ["true"] }} }}
{more}
"#
    )
}

async fn started(berth: &Berth, redis: &str) -> (Node, u16) {
    let mut command = berth.command();
    command.args(["--listen", redis]);
    let node = berth.start_by(command).await;
    let document: Value =
        serde_json::from_slice(&std::fs::read(berth.data().join("run/listeners.json")).unwrap()).unwrap();
    let address = document.pointer("/listeners/1/address").unwrap().as_str().unwrap();
    (node, address.rsplit_once(':').unwrap().1.parse().unwrap())
}

/// Runs `redis-cli`, as people and scripts do; returns what it prints.
fn redis(port: u16, words: &[&str]) -> String {
    let port = port.to_string();
    let output = Command::new("redis-cli").args(["-p", &port, "--no-auth-warning"]).args(words).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{words:?}: {out}{}", String::from_utf8_lossy(&output.stderr));
    out.trim_end().to_owned()
}

fn lines(port: u16, words: &[&str]) -> Vec<String> {
    redis(port, words).lines().map(str::to_owned).collect()
}

fn uuid(number: u32) -> String {
    format!("0191f8f2-0000-7000-8000-{number:012}")
}

/// Adds an envelope, as a program does that knows nothing of us.
fn envelope(port: u16, number: u32) -> String {
    let fields = [
        ("event_id", uuid(number)),
        ("event_type", "UserUpdated".to_owned()),
        ("topic", TOPIC.to_owned()),
        ("schema_version", "1".to_owned()),
        ("occurred_at", "2026-01-31T08:00:00Z".to_owned()),
        ("tenant_id", uuid(0)),
        ("aggregate_id", uuid(number % 3)),
        ("payload", format!("{{\"changes\":{number}}}")),
    ];
    let mut words = vec!["XADD", TOPIC, "MAXLEN", "~", "10", "*"];
    words.extend(fields.iter().flat_map(|(name, value)| [*name, value.as_str()]));
    redis(port, &words)
}

/// A consumer that is written for Redis; it goes with the test.
struct Consumer(Child);

impl Drop for Consumer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Consumer {
    fn start(port: u16, folder: &std::path::Path) -> Self {
        let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/outbox");
        let find = "import pathlib, place, sys; print(place.find_python(pathlib.Path(sys.argv[1])))";
        let found =
            Command::new("python3").args(["-B", "-c", find]).arg(folder).current_dir(&example).output().unwrap();
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
        let mut command = Command::new(String::from_utf8(found.stdout).unwrap().lines().last().unwrap());
        command.arg("-B").arg(example.join("consumer.py")).arg(format!("redis://127.0.0.1:{port}"));
        Self(command.arg(folder.join("consumer.log")).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

/// The consumer of the outbox example, as it is: over redis-py, in a group, while the node is killed and comes back.
#[tokio::test]
async fn a_consumer_that_is_written_for_redis_runs_without_it() {
    let berth = Berth::new(&config(""));
    let (node, port) = started(&berth, "127.0.0.1:0").await;
    let log = berth.path().join("consumer.log");
    let consumer = Consumer::start(port, berth.path());
    let told = |count: usize| {
        let log = log.clone();
        move || {
            let lines: Vec<String> =
                std::fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_owned).collect();
            std::future::ready((lines.len() >= count).then_some(lines))
        }
    };
    for number in 0..20 {
        envelope(port, number);
    }
    until("twenty are consumed", told(20)).await;
    node.kill().await;
    let (node, port) = started(&berth, &format!("127.0.0.1:{port}")).await;
    for number in 20..40 {
        envelope(port, number);
    }
    // One that came over HTTP is an envelope to those who read.
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", &*uuid(40)),
        ("ce-source", "/test"),
        ("ce-type", "UserUpdated"),
        ("ce-tenantid", &*uuid(0)),
        ("ce-subject", &*uuid(1)),
        ("content-type", "application/json"),
    ];
    let (status, answer) = node.post(&format!("/v1/streams/{TOPIC}/events"), &headers, r#"{"changes":40}"#).await;
    assert_eq!(status, 200, "{answer}");
    let seen = until("all are consumed", told(41)).await;
    for number in 0..=40 {
        let line = format!("ok {} {} {number}", uuid(number), uuid(number % 3));
        let count = seen.iter().filter(|one| **one == line).count();
        // What was read and not acknowledged when the node was killed came again.
        assert!(count == 1 || (count == 2 && number < 20), "{line}: {count} times in {seen:?}");
    }
    node.group_has("spell_check_group", "done", 41).await;
    assert_eq!(node.json(&["audit", "messages"])["balanced"], true);
    drop(consumer);
    node.stop().await;
}

/// On an engine in a server: ids of its own, and the same for those who publish and read.
pub(crate) async fn programs_for_redis_streams_find_the_same_there(server: impl Engine) {
    let berth = Berth::new(&config(&server.keys()));
    let (node, port) = started(&berth, "127.0.0.1:0").await;
    let plain = redis(port, &["XADD", "plain", "*", "b", "1", "a", "2"]);
    let ids: Vec<String> = (0..6).map(|number| envelope(port, number)).collect();
    assert_eq!(envelope(port, 3), ids[3], "a repeat");
    let all = |words: &[&str]| lines(port, words).into_iter().filter(|line| ids.contains(line)).collect::<Vec<_>>();
    assert_eq!(all(&["XRANGE", TOPIC, "-", "+"]), ids);
    let back: Vec<String> = ids.iter().rev().cloned().collect();
    assert_eq!(all(&["XREVRANGE", TOPIC, "+", "-"]), back);
    assert_eq!(all(&["XREVRANGE", TOPIC, &format!("({}", ids[4]), &ids[1], "COUNT", "2"]), back[2..4]);
    assert_eq!(all(&["XRANGE", TOPIC, &format!("({}", ids[1]), &ids[3]]), ids[2..4]);
    assert_eq!((redis(port, &["XLEN", TOPIC]), redis(port, &["XLEN", "plain"])), ("6".into(), "1".into()));
    assert_eq!(lines(port, &["XRANGE", "plain", "-", "+"]), [&plain, "b", "1", "a", "2"]);
    let mut came = Vec::new();
    while came.len() < ids.len() {
        let got = all(&[
            "XREADGROUP",
            "GROUP",
            "spell_check_group",
            "c",
            "COUNT",
            "2",
            "BLOCK",
            "5000",
            "STREAMS",
            TOPIC,
            ">",
        ]);
        assert!(!got.is_empty(), "{came:?}");
        assert_eq!(all(&["XREADGROUP", "GROUP", "spell_check_group", "c", "STREAMS", TOPIC, "0"]), got);
        let ack =
            [&["XACK", TOPIC, "spell_check_group"], &*got.iter().map(String::as_str).collect::<Vec<_>>()].concat();
        assert_eq!(redis(port, &ack), got.len().to_string());
        came.extend(got);
    }
    came.sort_by_key(|id| ids.iter().position(|other| other == id));
    assert_eq!(came, ids, "each once");
    node.group_has("spell_check_group", "done", 6).await;
    assert_eq!(node.json(&["audit", "messages"])["balanced"], true);
    node.stop().await;
}

#[tokio::test]
async fn streams_are_added_to_and_read_as_in_redis() {
    let berth = Berth::new(&config(""));
    let (node, port) = started(&berth, "127.0.0.1:0").await;
    assert_eq!(redis(port, &["PING"]), "PONG");
    // Fields of one's own come back as they were, in their order.
    let id = redis(port, &["XADD", "plain", "*", "z", "1", "a", "x \"y\" ä", "z", "2"]);
    assert_eq!(lines(port, &["XRANGE", "plain", "-", "+"]), [&id, "z", "1", "a", "x \"y\" ä", "z", "2"]);
    let first = envelope(port, 1);
    assert_eq!(envelope(port, 1), first, "a repeat has the place of the first");
    envelope(port, 2);
    let last = envelope(port, 3);
    assert_eq!((redis(port, &["XLEN", TOPIC]), redis(port, &["XLEN", "nothing"])), ("3".into(), "0".into()));
    let all = lines(port, &["XRANGE", TOPIC, "-", "+"]);
    assert!(all.len() == 3 * 19 && all[0] == first && all[38] == last, "{all:?}");
    let fields: Vec<&String> = all[1..19].iter().step_by(2).collect();
    assert_eq!(fields[..3], ["event_id", "event_type", "topic"]);
    assert_eq!(lines(port, &["XRANGE", TOPIC, &format!("({first}"), "+", "COUNT", "1"])[2], uuid(2));
    assert_eq!(lines(port, &["XREVRANGE", TOPIC, "+", "-", "COUNT", "1"])[0], last);
    let back = lines(port, &["XREVRANGE", TOPIC, "+", "-"]);
    assert_eq!((&back[0], &back[38]), (&last, &first));
    assert_eq!((redis(port, &["TYPE", TOPIC]), redis(port, &["TYPE", "nothing"])), ("stream".into(), "none".into()));
    let scanned = lines(port, &["SCAN", "0", "MATCH", "identity.*", "TYPE", "stream"]);
    assert_eq!(scanned, ["0", TOPIC, "identity.user.v1.dlq", "identity.dlq"]);
    let info = redis(port, &["INFO"]);
    assert!(
        ["used_memory:", "used_memory_human:", "aof_enabled:1", "loading:0"].iter().all(|word| info.contains(word)),
        "{info}"
    );
    let about = lines(port, &["XINFO", "STREAM", TOPIC]);
    assert_eq!((&about[..2], &about[3]), (&["length".to_owned(), "3".to_owned()][..], &last));
    // What is kept is a matter of the configuration.
    assert_eq!(redis(port, &["XTRIM", TOPIC, "MAXLEN", "0"]), "0");
    assert_eq!(redis(port, &["XDEL", TOPIC, &first]), "0");
    for (words, why) in [
        (&["XADD", "nothing", "*", "a", "b"][..], "ERR there is no stream \"nothing\""),
        (&["XADD", "plain", "7-1", "a", "b"], "ERR XADD takes * as the id"),
        (&["XADD", "plain", "*", "a"], "ERR wrong number of arguments for XADD"),
        (&["XADD", "identity.dlq", "*", "a", "b"], "ERR XADD adds no dead letters"),
        (&["XRANGE", "plain", "x", "+"], "ERR XRANGE takes ids"),
        (&["XRANGE", "plain", "-", "+", "LIMIT"], "ERR XRANGE does not know \"LIMIT\" here"),
        (&["GET", "plain"], "ERR unknown command \"GET\" here"),
        (&["SELECT", "1"], "ERR SELECT knows database 0 only"),
        (&["XLEN", "no name"], "ERR stream name \"no name\" may hold only"),
    ] {
        let said = redis(port, words);
        assert!(said.starts_with(why), "{words:?}: {said}");
    }
    node.stop().await;
}

#[tokio::test]
async fn consumers_hold_what_they_read_until_they_acknowledge_it() {
    let berth = Berth::new(&config(""));
    let (node, port) = started(&berth, "127.0.0.1:0").await;
    let ids: Vec<String> = (0..3).map(|number| envelope(port, number)).collect();
    let said = redis(port, &["XGROUP", "CREATE", TOPIC, "spell_check_group", "$", "MKSTREAM"]);
    assert!(said.starts_with("BUSYGROUP "), "{said}");
    let read = |consumer: &str, from: &str| {
        lines(port, &["XREADGROUP", "GROUP", "spell_check_group", consumer, "COUNT", "2", "STREAMS", TOPIC, from])
    };
    let new = read("one", ">");
    assert_eq!((new.len(), &new[0], &new[1], &new[20]), (39, &TOPIC.to_owned(), &ids[0], &ids[1]));
    assert_eq!(read("one", "0"), new, "it holds them");
    assert_eq!(read("one", &ids[0])[1], ids[1], "behind an id");
    assert_eq!(read("other", "0"), [TOPIC], "another one does not");
    assert_eq!(lines(port, &["XPENDING", TOPIC, "spell_check_group"]), ["2", &ids[0], &ids[1], "one", "2"]);
    let pending = lines(port, &["XPENDING", TOPIC, "spell_check_group", "-", "+", "10"]);
    assert_eq!(
        (pending.len(), &pending[0], &pending[1], &pending[3]),
        (8, &ids[0], &"one".to_owned(), &"1".to_owned())
    );
    // Another one takes over what is held for long enough.
    assert_eq!(redis(port, &["XCLAIM", TOPIC, "spell_check_group", "two", "60000", &ids[0]]), "");
    assert_eq!(lines(port, &["XCLAIM", TOPIC, "spell_check_group", "two", "0", &ids[0], "JUSTID"]), [&*ids[0]]);
    assert_eq!(read("two", "0")[1], ids[0]);
    let taken = lines(port, &["XAUTOCLAIM", TOPIC, "spell_check_group", "three", "0", "0", "COUNT", "1", "JUSTID"]);
    assert_eq!(taken[..2], [&*ids[1], &*ids[0]], "where to go on, and what was taken");
    let groups = lines(port, &["XINFO", "GROUPS", TOPIC]);
    assert_eq!(
        groups[..8],
        ["name", "spell_check_group", "consumers", "2", "pending", "2", "last-delivered-id", &ids[1]]
    );
    assert_eq!(groups[10..], ["lag", "1"]);
    assert_eq!(redis(port, &["XACK", TOPIC, "spell_check_group", &ids[0], &ids[1], "9-9"]), "2");
    assert_eq!(redis(port, &["XACK", TOPIC, "spell_check_group", &ids[0]]), "0", "once");
    assert_eq!(node.get("/v1/groups/spell_check_group").await["done"], 2);
    // Whoever waits gets what comes.
    let last = read("one", ">")[1].clone();
    assert_eq!((&last, &*redis(port, &["XACK", TOPIC, "spell_check_group", &last])), (&ids[2], "1"));
    let waiting = tokio::task::spawn_blocking(move || {
        lines(port, &["XREADGROUP", "GROUP", "spell_check_group", "one", "BLOCK", "0", "STREAMS", TOPIC, ">"])
    });
    until("it waits", || async {
        let view = node.get("/v1/groups/spell_check_group").await;
        (view["asking"] == 1).then_some(())
    })
    .await;
    let fresh = envelope(port, 9);
    assert_eq!(waiting.await.unwrap()[1], fresh);
    assert_eq!(redis(port, &["XACK", TOPIC, "spell_check_group", &fresh]), "1");
    for (words, why) in [
        (&["XREADGROUP", "GROUP", "nobody", "c", "STREAMS", TOPIC, ">"][..], "NOGROUP there is no group nobody"),
        (&["XREADGROUP", "GROUP", "short", "c", "STREAMS", TOPIC, ">"], "NOGROUP group short reads stream plain"),
        (
            &["XREADGROUP", "GROUP", "inside", "c", "STREAMS", "plain", ">"],
            "NOGROUP group inside has its workers inside",
        ),
        (&["XREADGROUP", "GROUP", "short", "c", "NOACK", "STREAMS", "plain", ">"], "ERR XREADGROUP NOACK would lose"),
        (
            &["XREADGROUP", "GROUP", "short", "c", "STREAMS", "plain", TOPIC, ">", ">"],
            "ERR XREADGROUP reads one stream",
        ),
        (&["XGROUP", "DESTROY", TOPIC, "short"], "ERR XGROUP knows CREATE"),
    ] {
        let said = redis(port, words);
        assert!(said.starts_with(why), "{words:?}: {said}");
    }
    assert_eq!(node.json(&["audit", "messages"])["balanced"], true);
    node.stop().await;
}

/// A consumer that died holds nothing for longer than a lease; after enough of that the event is a dead letter, which
/// programs for Redis find where they look for such.
#[tokio::test]
async fn what_a_dead_consumer_held_comes_again_and_then_to_the_dead_letters() {
    let berth = Berth::new(
        &config("")
            .replace("attempts: 5", "attempts: 2")
            .replace("from: plain, lease: 1s", &format!("from: {TOPIC}, lease: 1s")),
    );
    let (node, port) = started(&berth, "127.0.0.1:0").await;
    let id = envelope(port, 7);
    let read = |consumer: &str| {
        lines(port, &["XREADGROUP", "GROUP", "short", consumer, "BLOCK", "5000", "STREAMS", TOPIC, ">"])
    };
    assert_eq!(read("dies")[1], id);
    assert_eq!(read("dies too")[1], id, "as soon as the lease has run out");
    assert_eq!(redis(port, &["XACK", TOPIC, "short", "9-9"]), "0");
    until("it is a dead letter", || async {
        // The lease is looked at by whoever asks for work.
        redis(port, &["XREADGROUP", "GROUP", "short", "c", "STREAMS", TOPIC, ">"]);
        (redis(port, &["XLEN", "identity.dlq"]) == "1").then_some(())
    })
    .await;
    let letter = lines(port, &["XRANGE", "identity.dlq", "-", "+"]);
    assert_eq!(
        (&letter[1..3], &letter[9]),
        (&["original_event_id".to_owned(), uuid(7)][..], &"error_message".to_owned())
    );
    assert_eq!(lines(port, &["XREVRANGE", "identity.dlq", "+", "-", "COUNT", "5"]), letter);
    assert_eq!(redis(port, &["XDEL", "identity.dlq", &letter[0]]), "1");
    assert_eq!(
        (redis(port, &["XLEN", "identity.dlq"]), redis(port, &["XDEL", "identity.dlq", &letter[0]])),
        ("0".into(), "0".into())
    );
    let listed = node.json(&["dlq", "list", "--stream", TOPIC, "--state", "resolved"]);
    assert_eq!(listed["entries"].as_array().unwrap().len(), 1, "{listed}");
    node.stop().await;
}

fn words(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    out
}

/// Sends bytes, and reads until the other side has sent so many lines, or ended.
fn exchange(port: u16, bytes: &[u8], count: usize) -> Vec<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(bytes).unwrap();
    let (mut got, mut part) = (Vec::new(), [0; 4096]);
    while got.iter().filter(|byte| **byte == b'\n').count() < count {
        match stream.read(&mut part).unwrap() {
            0 => break,
            read => got.extend_from_slice(&part[..read]),
        }
    }
    String::from_utf8(got).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn what_is_sent_together_is_done_in_its_order_and_answered_one_by_one() {
    let berth = Berth::new(&config(""));
    let (node, port) = started(&berth, "127.0.0.1:0").await;
    let mut bytes = Vec::new();
    for number in 0..500 {
        bytes.extend(words(&["XADD", "plain", "*", "n", &number.to_string()]));
        if number == 250 {
            bytes.extend(words(&["XADD", "plain", "*", "odd"]));
            bytes.extend(words(&["XLEN", "plain"]));
        }
    }
    // A word and its length for each event, and a line each for what stands between them.
    let answers = exchange(port, &bytes, 1002);
    assert!(answers[502].starts_with("-ERR wrong number"), "{:?}", &answers[500..505]);
    assert_eq!(answers[503], ":251");
    let ids: Vec<u64> = answers.iter().filter_map(|line| line.strip_prefix("0-")?.parse().ok()).collect();
    assert!(ids.len() == 500 && ids.is_sorted(), "{ids:?}");
    let kept = lines(port, &["XRANGE", "plain", "-", "+"]);
    let numbers: Vec<String> = kept.iter().skip(2).step_by(3).cloned().collect();
    assert_eq!(numbers, (0..500).map(|number| number.to_string()).collect::<Vec<_>>());
    // A browser speaks here to nobody.
    let said = exchange(port, b"POST / HTTP/1.1\r\nhost: localhost\r\n\r\n", 99);
    assert_eq!(said, ["-ERR a request is a list of strings, as every client library sends it"]);
    assert_eq!(exchange(port, &[words(&["PING"]), words(&["QUIT"]), words(&["PING"])].concat(), 99), ["+PONG", "+OK"]);
    node.stop().await;
}

#[tokio::test]
async fn tokens_stand_where_passwords_stand() {
    let hash = |token: &str| {
        sha2::Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let tokens = format!(
        "tokens:\n  - {{ name: eve, role: viewer, hash: 'sha256:{}' }}\n  - {{ name: olaf, role: operator, hash: 'sha256:{}' }}\n",
        hash("see"),
        hash("work")
    );
    let berth = Berth::new(&config(&tokens));
    let (node, port) = started(&berth, "127.0.0.1:0").await;
    assert!(redis(port, &["PING"]).starts_with("NOAUTH "));
    let as_one = |token: &str, words: &[&str]| redis(port, &[&["--pass", token], words].concat());
    assert!(exchange(port, &words(&["AUTH", "guess"]), 1)[0].starts_with("-WRONGPASS "));
    assert_eq!(as_one("see", &["XLEN", "plain"]), "0");
    assert!(as_one("see", &["XADD", "plain", "*", "a", "b"]).starts_with("NOPERM token \"eve\" has the role viewer"));
    assert_eq!(as_one("work", &["XADD", "plain", "*", "a", "b"]), "0-1");
    let hello = exchange(port, &words(&["HELLO", "2", "AUTH", "default", "work"]), 3);
    assert_eq!(hello[2], "server");
    assert!(exchange(port, &words(&["HELLO", "3"]), 1)[0].starts_with("-NOPROTO "));
    node.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_those_who_wait() {
    let berth = Berth::new(&config(""));
    let (node, port) = started(&berth, "127.0.0.1:0").await;
    let waiting = tokio::task::spawn_blocking(move || {
        exchange(port, &words(&["XREADGROUP", "GROUP", "short", "c", "BLOCK", "0", "STREAMS", "plain", ">"]), 1)
    });
    until("it waits", || async { (node.get("/v1/groups/short").await["asking"] == 1).then_some(()) }).await;
    node.stop().await;
    let said = waiting.await.unwrap();
    assert!(said.is_empty() || said == ["*-1"], "{said:?}");
}

#[test]
fn a_wrong_protocol_is_named() {
    let check = |from: &str, to: &str, why: &str| {
        let berth = Berth::new(&config("").replace(from, to));
        let (exit, out, err) = told(&tidegate(&["check", &berth.config().display().to_string()]));
        assert!(exit != 0 && err.contains(why), "{out}{err}");
    };
    check("protocol: redis", "protocol: resp", "listeners[1].protocol");
    check(
        "- { bind: \"127.0.0.1:0\" }",
        "- { bind: \"127.0.0.1:0\", protocol: redis }",
        "the first listener speaks http",
    );
    check("protocol: redis", "protocol: redis, profile: signal-client", "are for protocol: http");
}

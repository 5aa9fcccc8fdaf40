//! A node whose every connection to a server is over TLS, with certificates of an authority that nobody else trusts.

use serde_json::Value;
use tidegate_testkit::{Authority, PostgresServer, RedisServer};

use crate::node::{Berth, Node, tidegate, told, until};

const TRUST: &str = "tls: { ca: ca.pem, cert: node.pem, key: '${file:node.key}' }";

fn config(redis: &RedisServer) -> String {
    format!(
        r#"
version: 1
engine: {url}
redis: {{ {TRUST} }}
streams: {{ users: {{ dedupe: {{ window: 1d }} }}, ops: {{}} }}
targets: {{ db: {{}}, broker: {{}} }}
sources:
  outbox: {{ type: postgres_outbox, url: "${{file:db.url}}", {TRUST}, target: db, to: users, poll: 50ms }}
  jobs: {{ type: redis_list, url: "${{file:queue.url}}", {TRUST}, target: broker, key: "rq:queue:x", every: 100ms, above: 9, to: ops }}
groups:
  mirror:
    from: users
    sink: {{ type: postgres, url: "${{file:db.url}}", {TRUST}, target: db, statement: "INSERT INTO mirror VALUES ($1->>'id')" }}
"#,
        url = redis.url()
    )
}

fn check(berth: &Berth, more: &[&str]) -> (i32, String, String) {
    told(&tidegate(&[&["check", &berth.config().display().to_string()], more].concat()))
}

#[tokio::test]
async fn a_node_speaks_to_all_its_servers_over_tls() {
    let ours = Authority::new();
    let (redis, postgres) = (RedisServer::start_safe(&ours), PostgresServer::start_safe(&ours));
    let berth = Berth::new(&config(&redis));
    std::fs::write(berth.path().join("ca.pem"), ours.certificate()).unwrap();
    berth.hide("db.url", &postgres.url());
    berth.hide("queue.url", &redis.url());
    ours.client("node").write(berth.path(), "node");
    let (exit, sql, err) = told(&tidegate(&["outbox", "ddl", &berth.config().display().to_string()]));
    assert_eq!(exit, 0, "{err}");
    let ledger = told(&tidegate(&["ledger", "ddl"]));
    assert_eq!(ledger.0, 0, "{}", ledger.2);
    postgres.psql(&sql);
    postgres.psql(&ledger.1);
    postgres.psql("CREATE TABLE mirror (id text)");
    let (exit, out, err) = check(&berth, &[]);
    assert!(exit == 0 && out.contains("engine: Redis "), "{out}{err}");
    let node: Node = berth.start().await;
    postgres.psql("INSERT INTO identity.outbox (event_type, aggregate_id, payload) VALUES ('UserUpdated', gen_random_uuid(), '{}')");
    let mirrored = || async { (postgres.psql("SELECT count(*) FROM mirror") == "1").then_some(()) };
    until("a row went through the outbox, Redis and the sink", mirrored).await;
    let depth = || async {
        let seen: Value = node.json(&["module", "show", "jobs"]);
        (seen.to_string().contains("\"depth\":0")).then_some(())
    };
    until("the queue is watched", depth).await;
    node.stop().await;
}

/// An HTTPS server in the folder of its papers, which asks for a certificate and writes down the bodies that it is sent.
const RECEIVER: &str = r#"
import http.server, ssl
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        open("bodies", "ab").write(body + b"\n")
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_): pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.pem", "server.key")
context.load_verify_locations("ca.pem")
context.verify_mode = ssl.CERT_REQUIRED
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
open("port", "w").write(str(server.server_port) + "\n")
server.serve_forever()
"#;

struct Receiver(std::process::Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A webhook goes to a server that only an authority of ours vouches for, and that wants to know who calls.
#[tokio::test]
async fn a_webhook_trusts_whom_it_is_told_to() {
    let ours = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ours.certificate()).unwrap();
    ours.server(&["127.0.0.1"]).write(folder.path(), "server");
    let mut command = std::process::Command::new("python3");
    let _receiver = Receiver(command.args(["-c", RECEIVER]).current_dir(folder.path()).spawn().unwrap());
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    let port = until("the receiver listens", || async { read("port").strip_suffix('\n').map(str::to_owned) }).await;
    let config = |tls: &str| {
        let sink = format!("sink: {{ type: webhook, url: 'https://127.0.0.1:{port}/hook', {tls} target: partner }}");
        format!(
            "version: 1\nstreams: {{ orders: {{}} }}\ntargets: {{ partner: {{}} }}\ngroups: {{ deliver: {{ from: orders, {sink} }} }}\n"
        )
    };
    let berth = Berth::new(&config(""));
    std::fs::write(berth.path().join("ca.pem"), ours.certificate()).unwrap();
    ours.client("node").write(berth.path(), "node");
    let (exit, out, err) = check(&berth, &[]);
    assert!(exit != 0 && (out + &err).contains("UnknownIssuer"), "the system trusts nobody like that: {err}");
    berth.configure(&config(&format!("{TRUST},")));
    let (exit, out, err) = check(&berth, &[]);
    assert_eq!(exit, 0, "{out}{err}");
    let node = berth.start().await;
    node.publish("orders", "1", "a", "{\"total\":7}").await;
    node.group_has("deliver", "done", 1).await;
    assert_eq!(read("bodies"), "{\"total\":7}\n");
    node.stop().await;
    let plain = config(&format!("{TRUST},")).replace("https://", "http://");
    berth.configure(&plain);
    let (exit, _, err) = check(&berth, &["--offline"]);
    assert!(exit == 78 && err.contains("sink.tls: is for an address such as https://host/path"), "{err}");
}

#[test]
fn what_is_wrong_with_certificates_is_said_before_a_node_starts() {
    let (ours, other) = (Authority::new(), Authority::new());
    let at = |engine: &str, section: &str| {
        Berth::new(&format!("version: 1\nengine: {engine}\n{section}\nstreams: {{ s: {{}} }}\n"))
    };
    let refused = |berth: &Berth, words: &[&str]| {
        std::fs::write(berth.path().join("ca.pem"), ours.certificate()).unwrap();
        ours.client("node").write(berth.path(), "node");
        other.client("node").write(berth.path(), "other");
        let (exit, out, err) = check(berth, &["--offline"]);
        assert_eq!(exit, 78, "{out}{err}");
        for word in words {
            assert!(err.contains(word), "{word:?} is not in {err}");
        }
        assert!(!err.contains("PRIVATE"), "{err}");
    };
    let redis = |tls: &str| at("rediss://127.0.0.1:1", &format!("redis: {{ tls: {{ {tls} }} }}"));
    refused(&redis("ca: nowhere.pem"), &["tidegate.yaml:3", "redis.tls.ca", "nowhere.pem"]);
    refused(&redis("ca: node.key"), &["redis.tls.ca", "node.key holds no certificate"]);
    refused(&redis("cert: node.pem"), &["redis.tls.cert", "needs its private key"]);
    refused(&redis("key: '${file:node.key}'"), &["redis.tls.key", "needs its certificate"]);
    refused(&redis("key: node.key"), &["redis.tls.key", "${file:"]);
    refused(&redis("cert: node.pem, key: '${file:other.key}'"), &["redis.tls.cert", "KeyMismatch"]);
    refused(&at("redis://127.0.0.1:1", "redis: { tls: { ca: ca.pem } }"), &["redis.tls", "rediss://"]);
    refused(&at("postgres://h/d", "postgres: { tls: { ca: ca.pem } }"), &["postgres.tls", "sslmode=verify-full"]);
    refused(&at("postgres://h/d?sslmode=verify-ca", ""), &["engine", "use verify-full"]);
    refused(&at("embedded", "nats: { tls: { ca: ca.pem } }"), &["nats", "engine: nats://"]);
}

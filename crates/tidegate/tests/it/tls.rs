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

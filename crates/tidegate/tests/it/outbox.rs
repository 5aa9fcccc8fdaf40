//! A transactional outbox in a real database: from the SQL that makes it, over a kill, to the row that is parked.

use serde_json::Value;
use tidegate_testkit::PostgresServer;

use crate::node::{Berth, Node, tidegate, told, until};

const CONFIG: &str = r#"
version: 1
listeners: [{ bind: "127.0.0.1:0" }, { profile: markdown-manager-relay, log: logs/relay.log }]
streams: { users: { dedupe: { window: 1d } }, odd: {} }
targets: { db: { timeout: 5s, breaker: { cooldown: 1s } } }
sources:
  outbox: { type: postgres_outbox, url: "${file:db.url}", target: db, to: users, poll: 50ms, batch: 20, rejects: odd, retry: { attempts: 1 } }
groups:
  project: { from: users, order_by: partitionkey, sink: { type: pull } }
"#;

fn outbox(berth: &Berth, verb: &str, more: &[&str]) -> (i32, String, String) {
    let config = berth.config();
    told(&tidegate(&[&["outbox", verb, config.to_str().unwrap()], more].concat()))
}

async fn published(node: &Node) -> u64 {
    node.get("/v1/streams/users").await["count"].as_u64().unwrap()
}

fn insert(from: u32, to: u32) -> String {
    format!(
        "INSERT INTO identity.outbox (event_type, aggregate_id, payload) SELECT 'UserUpdated', \
         lpad((n % 7)::text, 32, '0')::uuid, jsonb_build_object('n', n) FROM generate_series({from}, {}) n",
        to - 1
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_is_made_verified_relayed_over_a_kill_and_shown() {
    let mut server = PostgresServer::start(&[]);
    let berth = Berth::new(CONFIG);
    berth.hide("db.url", &server.url());
    let (exit, out, err) = outbox(&berth, "verify", &[]);
    assert!(exit == 1 && out.contains("there is no table identity.outbox") && out.contains("outbox ddl"), "{out}{err}");
    let (exit, out, err) = told(&tidegate(&["check", berth.config().to_str().unwrap()]));
    assert!(exit == 69 && (out + &err).contains("there is no table identity.outbox"), "{exit}");
    let (exit, sql, err) = outbox(&berth, "ddl", &[]);
    assert_eq!(exit, 0, "{err}");
    server.psql(&sql);
    let (exit, out, err) = outbox(&berth, "verify", &[]);
    assert_eq!((exit, out.as_str(), err.as_str()), (0, "table identity.outbox fits\n", ""));

    server.psql(&insert(0, 2000));
    let (exit, out, err) = outbox(&berth, "status", &["-o", "json"]);
    let status: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    assert_eq!((exit, &status["backlog"], &status["relay"]), (0, &2000.into(), &false.into()));
    assert!(status["oldest_age_seconds"].as_f64().is_some(), "{status}");
    let node = berth.start().await;
    until("it publishes", || async { (published(&node).await > 0).then_some(()) }).await;
    node.kill().await;
    server.psql(&insert(2000, 2010));
    let mut command = berth.command();
    command.args(["--listen", "127.0.0.1:0"]);
    let node = berth.start_by(command).await;
    let is_empty =
        || async { (server.psql("SELECT count(*) FROM identity.outbox WHERE NOT published") == "0").then_some(()) };
    until("everything is marked", is_empty).await;
    assert_eq!(published(&node).await, 2010, "each row once");

    server.psql("INSERT INTO identity.outbox (event_type, aggregate_id, payload) VALUES (E'no\\ntype', gen_random_uuid(), '{}')");
    let odd = || async { (node.get("/v1/streams/odd").await["count"] == 1).then_some(()) };
    until("the bad row is kept", odd).await;
    until("the row says so", || async { (outbox(&berth, "status", &[]).0 == 1).then_some(()) }).await;
    let (_, out, err) = outbox(&berth, "status", &[]);
    assert!(out.contains("parked after 1 attempts: attribute \"type\" holds a control character"), "{out}");
    assert!(err.contains("1 rows are parked"), "{err}");
    let figures = || async {
        let text = node.client.get(format!("{}/metrics", node.url)).send().await.unwrap().text().await.unwrap();
        let has = |line: &str| text.lines().any(|one| one == line);
        (has("tidegate_outbox_parked{source=\"outbox\"} 1") && has("tidegate_outbox_backlog{source=\"outbox\"} 0"))
            .then_some(text)
    };
    let text = until("the metrics say so", figures).await;
    assert!(text.contains("tidegate_source_rejected_total{source=\"outbox\"} 1"), "{text}");
    assert!(text.contains("tidegate_outbox_lag_seconds{source=\"outbox\"} "), "{text}");
    let shown = node.json(&["module", "show", "outbox"]);
    assert_eq!(
        (&shown["details"]["outbox"]["parked"], &shown["brought"]["rejected"]),
        (&1.into(), &1.into()),
        "{shown}"
    );
    the_relay_is_watched_by_its_old_names(&berth, &node, &mut server).await;
    node.stop().await;
}

async fn the_relay_is_watched_by_its_old_names(berth: &Berth, node: &Node, server: &mut PostgresServer) {
    let listeners = std::fs::read(berth.data().join("run/listeners.json")).unwrap();
    let listeners: Value = serde_json::from_slice(&listeners).unwrap();
    let url = format!("http://{}", listeners["listeners"][1]["address"].as_str().unwrap());
    let get = async |path: &str| node.client.get(format!("{url}{path}")).send().await.unwrap();
    let json = async |path: &str| get(path).await.json::<Value>().await.unwrap();
    let metrics = json("/metrics").await;
    // A life before this one brought some of the 2010 rows, and one of these was parked.
    let brought = metrics["events_published_total"]["users"].as_u64().unwrap();
    assert!((10..=2010).contains(&brought), "{metrics}");
    let rate = (brought as f64 * 10_000.0 / (brought + 1) as f64).round() / 100.0;
    assert_eq!(metrics["publish_success_total"], brought);
    assert_eq!((&metrics["publish_failure_total"], &metrics["success_rate"]), (&1.into(), &rate.into()), "{metrics}");
    assert_eq!((&metrics["events_dlq_total"]["users"], &metrics["outbox_backlog"]), (&1.into(), &0.into()));
    assert_eq!(metrics["metrics"]["publish_success_total"], brought, "old clients look one level down");
    assert!(metrics["recent_errors"][0]["error"].as_str().unwrap().contains("control character"), "{metrics}");
    let page = get("/metrics/prometheus").await.text().await.unwrap();
    assert!(page.contains(&format!("\nevents_published_total{{topic=\"users\"}} {brought}\n")), "{page}");
    let asked = node.client.get(format!("{url}/metrics")).header("accept", "text/plain;version=0.0.4").send().await;
    assert!(asked.unwrap().text().await.unwrap().contains("\noutbox_backlog 0\n"));
    assert_eq!(json("/health").await["service"], "relay-service");
    let log = std::fs::read_to_string(berth.path().join("logs/relay.log")).unwrap();
    assert!(log.lines().any(|line| line.contains("Moved event ") && line.contains(" to DLQ")), "{log}");

    let (exit, _, err) = node.cli(&["module", "pause", "outbox", "--reason", "test"]);
    assert_eq!(exit, 0, "{err}");
    server.psql(&insert(3000, 3101));
    let (exit, _, err) = node.cli(&["module", "resume", "outbox"]);
    assert_eq!(exit, 0, "{err}");
    until("all is published", || async {
        (json("/metrics").await["publish_success_total"] == brought + 101).then_some(())
    })
    .await;
    let health = json("/health/detailed").await;
    assert_eq!(health["services"]["database"]["status"], "healthy", "{health}");
    assert_eq!(health["services"]["redis"]["details"]["engine"], "embedded", "{health}");
    assert!(health["services"]["outbox"]["backlog"].is_u64(), "{health}");

    let database = async |state: &str| {
        let health = json("/health/detailed").await;
        (health["services"]["database"]["status"] == state).then_some(health)
    };
    server.kill();
    let health = until("health tells that the database is away", || database("degraded")).await;
    assert_eq!(health["status"], "degraded", "{health}");
    let log = || async { std::fs::read_to_string(berth.path().join("logs/relay.log")).ok() };
    let told = || async { log().await.filter(|log| log.contains("source/outbox is degraded: what it reads is away")) };
    until("the log tells it too", told).await;
    server.run_again();
    until("it is well again", || database("healthy")).await;
}

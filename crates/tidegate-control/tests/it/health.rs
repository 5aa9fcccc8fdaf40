//! Health, metrics, and what the node says of itself.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tidegate_control::{Control, MetricKind, Metrics};
use tidegate_core::{
    fault::{Fault, FaultKind},
    store::StoreStatus,
};

use crate::{
    ailing::Illness,
    node::{Node, intake, parts},
};

fn status(change: impl FnOnce(&mut StoreStatus)) -> Illness {
    let mut status = StoreStatus { engine: "embedded", ..StoreStatus::default() };
    change(&mut status);
    Illness::Status(status)
}

async fn words(node: &Node) -> [u16; 3] {
    let mut statuses = [0; 3];
    for (status, path) in statuses.iter_mut().zip(["/livez", "/readyz", "/health"]) {
        *status = node.get(path).await.status.as_u16();
    }
    statuses
}

fn component<'a>(detail: &'a Value, name: &str) -> &'a Value {
    fn find<'a>(components: &'a Value, name: &str) -> Option<&'a Value> {
        components
            .as_array()?
            .iter()
            .find_map(|one| if one["component"] == name { Some(one) } else { find(&one["components"], name) })
    }
    find(&detail["components"], name).unwrap_or_else(|| panic!("no {name} in {detail}"))
}

#[tokio::test]
async fn a_node_that_is_well_says_so() {
    let node = Node::start().await;
    assert_eq!(words(&node).await, [200, 200, 200]);
    assert_eq!(node.get("/health").await.good(), json!({ "status": "healthy" }));
    let detail = node.get("/health/detailed").await.good();
    assert_eq!(
        (&detail["status"], &detail["node"], &detail["environment"]),
        (&json!("healthy"), &json!("harbour"), &json!("test"))
    );
    for name in ["node", "store", "groups", "group/deliver", "targets", "target/partner", "services"] {
        let part = component(&detail, name);
        assert_eq!(part["state"], "healthy", "{part}");
        assert!(part["since"].is_string() && part["cause"].is_null(), "{part}");
    }
    assert!(detail["promises"]["loss_window"].is_string() && detail["promises"]["duplicate_window"].is_string());
    assert_eq!(detail["damage"], json!([]));
}

#[tokio::test]
async fn what_somebody_wished_for_is_no_illness() {
    let node = Node::start().await;
    node.post("/v1/groups/deliver/pause", json!({ "reason": "lunch" })).await.good();
    node.guard.trip("local", "they move");
    let detail = node.get("/health/detailed").await.good();
    assert_eq!(detail["status"], "healthy");
    let group = component(&detail, "group/deliver");
    assert_eq!(group["state"], "paused");
    assert!(group["cause"].as_str().unwrap().contains("lunch"), "{group}");
    assert_eq!(component(&detail, "target/partner")["state"], "disabled");
    node.guard.reset("local", "");
    node.guard.disable("410 gone");
    let detail = node.get("/health/detailed").await.good();
    assert_eq!(detail["status"], "degraded", "that the target disabled itself was nobody's wish");
    assert_eq!(component(&detail, "targets")["cause"], "target/partner");
}

#[tokio::test]
async fn troubles_of_the_store_show_in_each_place_as_they_should() {
    let node = Node::start().await;
    // A full disk: not well, but workers must still be able to settle here.
    node.ailing.ail(status(|status| status.refusing = Some("disk is full".into())));
    assert_eq!(words(&node).await, [200, 200, 200]);
    assert_eq!(node.get("/health").await.good()["status"], "degraded");

    node.ailing.ail(status(|status| status.damage = vec!["segment 7: one record".into()]));
    let detail = node.get("/health/detailed").await.good();
    assert_eq!((&detail["status"], &detail["damage"]), (&json!("degraded"), &json!(["segment 7: one record"])));

    node.ailing.ail(status(|status| status.failed = Some("sync failed".into())));
    assert_eq!(words(&node).await, [503, 503, 503]);
    let answer = node.get("/health/detailed").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["status"], "unhealthy");
    let problem = node.get("/livez").await.problem(503, "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("sync failed"), "{problem}");

    let long_ago = node.clock.now().minus(Duration::from_secs(120));
    node.ailing.ail(status(|status| status.progress_at = Some(long_ago)));
    assert_eq!(words(&node).await, [503, 200, 503], "alive means progress");
}

#[tokio::test]
async fn a_service_that_stands_still_is_seen() {
    let node = Node::start().await;
    let pulse = node.supervisor.pulse("clockwork", Duration::ZERO);
    loop {
        let answer = node.get("/livez").await;
        if answer.status == 503 {
            assert!(answer.json()["detail"].as_str().unwrap().contains("clockwork"), "{}", answer.text());
            break;
        }
    }
    assert_eq!(component(&node.get("/health/detailed").await.json(), "service/clockwork")["state"], "unhealthy");
    drop(pulse);
    assert_eq!(words(&node).await, [200, 200, 200], "what is gone promises nothing");
}

#[tokio::test]
async fn a_node_that_stops_is_not_ready() {
    let node = Node::start().await;
    node.stopper.drain();
    assert_eq!(words(&node).await, [200, 503, 200]);
    assert_eq!(node.get("/health").await.good()["status"], "degraded");
}

#[tokio::test]
async fn a_panic_is_answered_and_harms_nobody_else() {
    let node = Node::start().await;
    node.ailing.ail(Illness::Panic);
    let problem = node.get("/v1/streams").await.problem(500, "bug");
    assert!(!problem.to_string().contains("upset"), "{problem}");
    node.ailing.ail(Illness::Fault(Fault::new(
        FaultKind::Corrupt,
        tidegate_core::fault::Origin::Store,
        tidegate_core::fault::Retry::Never,
        "/data/segment-7 is damaged",
    )));
    let problem = node.get("/v1/streams").await.problem(500, "corrupt");
    assert!(!problem.to_string().contains("segment-7") && problem["instance"].is_string(), "{problem}");
    node.ailing.ail(Illness::None);
    node.get("/v1/streams").await.good();
}

/// Samples of a page of metrics by name, checked as the readers of the format check them.
fn samples(page: &str) -> BTreeMap<String, String> {
    let mut kinds = BTreeMap::new();
    let mut helped = Vec::new();
    let mut out = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && !helped.contains(&name), "{line}");
            helped.push(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            kinds.insert(name, kind);
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = family.filter(|family| kinds.get(family) == Some(&"histogram")).unwrap_or(name);
            assert!(kinds.contains_key(family) && helped.last() == Some(&family), "{line} stands in the wrong place");
            assert!(out.insert(series.to_owned(), value.to_owned()).is_none(), "{series} stands there twice");
        }
    }
    out
}

#[tokio::test]
async fn metrics_say_what_happened() {
    let node = Node::start().await;
    node.bury(&["a"]).await;
    node.publish(&["b", "c", "c"]).await;
    for delivery in node.claim(1).await {
        node.settle(&delivery, json!({ "outcome": "done" })).await;
    }
    node.post("/v1/dlq/orders/reprocess", json!({ "ids": ["99"] })).await.good();
    let answer = node.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let page = answer.text();
    let samples = samples(page);
    for (series, expect) in [
        ("tidegate_build_info{version=\"0.0.1\"}", "1"),
        ("tidegate_config_info{fingerprint=\"fingerprint-1\"}", "1"),
        ("tidegate_messages_accepted_total{stream=\"orders\"}", "3"),
        ("tidegate_messages_duplicate_total{stream=\"orders\"}", "1"),
        ("tidegate_messages_settled_total{group=\"deliver\",outcome=\"done\"}", "1"),
        ("tidegate_messages_settled_total{group=\"deliver\",outcome=\"dead\"}", "1"),
        ("tidegate_attempts_total{group=\"deliver\",result=\"done\",class=\"\"}", "1"),
        ("tidegate_attempts_total{group=\"deliver\",result=\"failed\",class=\"invalid\"}", "1"),
        ("tidegate_group_messages{group=\"deliver\",state=\"waiting\"}", "1"),
        ("tidegate_group_messages{group=\"deliver\",state=\"in_flight\"}", "0"),
        ("tidegate_queue_latency_seconds_count{group=\"deliver\"}", "2"),
        ("tidegate_handler_duration_seconds_count{group=\"deliver\"}", "2"),
        ("tidegate_dead_letters{stream=\"orders\",group=\"deliver\"}", "1"),
        ("tidegate_dead_letters_total{stream=\"orders\",group=\"deliver\",class=\"invalid\"}", "1"),
        ("tidegate_dead_letters{stream=\"other\",group=\"inside\"}", "0"),
        ("tidegate_dead_letters_total{stream=\"other\",group=\"inside\",class=\"poison\"}", "0"),
        ("tidegate_messages_settled_total{group=\"inside\",outcome=\"done\"}", "0"),
        ("tidegate_dlq_reprocess_total{stream=\"orders\",result=\"missing\"}", "1"),
        ("tidegate_leases_lost_total{group=\"deliver\"}", "0"),
        ("tidegate_breaker_state{target=\"partner\",state=\"closed\"}", "1"),
        ("tidegate_breaker_state{target=\"partner\",state=\"open\"}", "0"),
        ("tidegate_messages_unaccounted", "0"),
    ] {
        assert_eq!(samples.get(series).map(String::as_str), Some(expect), "{series} in\n{page}");
    }
    for name in ["tidegate_store_sync_seconds_count", "process_resident_memory_bytes", "process_open_fds"] {
        assert!(samples[name].parse::<f64>().unwrap() > 0.0, "{name}");
    }
    assert!(samples.contains_key("tidegate_last_progress_timestamp_seconds{component=\"store\"}"), "{page}");
    for spec in Metrics::catalogue() {
        let kind = match spec.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        assert!(page.contains(&format!("# TYPE {} {kind}\n", spec.name)), "{} is not on the page", spec.name);
    }
    node.ailing.ail(Illness::Unbalanced);
    assert!(node.get("/metrics").await.text().contains("\ntidegate_messages_unaccounted 2\n"));
}

#[tokio::test]
async fn the_node_describes_itself() {
    let node = Node::start().await;
    let version = node.get("/version").await.good();
    assert_eq!((&version["name"], &version["version"]), (&json!("tidegate"), &json!("0.0.1")));
    assert_eq!((&version["node"], &version["config"]), (&json!("harbour"), &json!("fingerprint-1")));
    let description = node.get("/openapi.json").await;
    assert_eq!(description.text(), tidegate_control::openapi());
    assert_eq!(description.good()["openapi"], "3.1.0");
    node.get("/nothing/here").await.problem(404, "missing");
    let answer = node.post("/v1/streams", json!({})).await;
    assert_eq!(answer.header("allow").map(|allow| allow.contains("GET")), Some(true));
    answer.problem(405, "method");
}

#[tokio::test]
async fn paths_of_sources_must_be_free_and_plain() {
    for (path, word) in [
        ("/metrics", "own API"),
        ("/v1/streams", "own API"),
        ("/v1", "own API"),
        ("orders", "must look like"),
        ("/", "must look like"),
        ("/a/{b}", "must look like"),
        ("/a//b", "must look like"),
        ("/shop/orders", "another source"),
    ] {
        let (mut parts, ..) = parts(Vec::new()).await;
        let late = intake(&parts.modules, "late", path).await;
        parts.intakes.push(late);
        let note = Control::new(parts).unwrap_err().note().to_owned();
        assert!(note.contains(word) && note.contains("late"), "{path}: {note}");
    }
}

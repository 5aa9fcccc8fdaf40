//! The documents of health of the roles.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tidegate_core::{fault::Result, names::GroupName};

use super::documents;
use crate::{
    api::Api,
    call::json as answer_json,
    health::{self, Component, State},
    metrics::process::ProcessFacts,
    problem::Problem,
    system::SystemFacts,
};

/// Rows that wait in the outbox from which on it is worth a warning, and from which on it is critical.
const BACKLOG: (u64, u64) = (100, 1000);

/// Something that a role depends on.
pub(super) struct Service {
    name: &'static str,
    state: State,
    document: Value,
}

#[derive(Serialize)]
struct Basic<'a> {
    status: &'static str,
    service: &'a str,
    version: &'a str,
}

/// How the node is in one word; asks nobody.
pub(super) fn basic(api: &Arc<Api>, service: &str) -> Result<Response, Problem> {
    let state = health::state(api);
    let basic = Basic { status: state.as_str(), service, version: &api.node.version };
    with_state(state, answer_json(&basic)?)
}

/// What every role depends on: the database of its outboxes, where there is one, and the engine.
pub(super) fn services(api: &Arc<Api>) -> Vec<Service> {
    let components = health::components(api);
    let outboxes: Vec<String> = api
        .modules
        .list()
        .unwrap_or_default()
        .into_iter()
        .filter(|module| module.kind == "postgres_outbox")
        .map(|module| format!("source/{}", module.name))
        .collect();
    let sources = components.iter().filter(|one| one.name() == "sources").flat_map(Component::parts);
    let database = sources.filter(|one| outboxes.iter().any(|name| name == one.name())).max_by_key(|one| one.state());
    let store = components.iter().find(|one| one.name() == "store");
    database.map(database_service).into_iter().chain(store.map(|store| engine_service(api, store))).collect()
}

fn database_service(component: &Component) -> Service {
    let details = json!(component.cause().unwrap_or("the relay reaches it"));
    let state = component.state();
    Service { name: "database", state, document: json!({ "status": state.as_str(), "details": details }) }
}

/// The engine stands in the place of the Redis of old; it says itself what it is.
fn engine_service(api: &Arc<Api>, component: &Component) -> Service {
    let status = api.store.status();
    let promises = api.store.promises();
    let bytes: Map<String, Value> =
        status.bytes.iter().map(|(what, bytes)| ((*what).to_owned(), json!(bytes))).collect();
    let state = component.state();
    let document = json!({
        "status": state.as_str(),
        "details": {
            "engine": status.engine,
            "cause": component.cause(),
            "bytes": bytes,
            "persistence": { "durable": promises.durable, "loss_window": promises.loss_window },
        },
    });
    Service { name: "redis", state, document }
}

/// The outbox by its backlog.
pub(super) fn outbox(api: &Arc<Api>) -> Service {
    let backlog = documents::backlog(api);
    let (state, word) = match backlog {
        None => (State::Healthy, "unknown"),
        Some(backlog) if backlog > BACKLOG.1 => (State::Degraded, "critical"),
        Some(backlog) if backlog > BACKLOG.0 => (State::Degraded, "warning"),
        Some(_) => (State::Healthy, "healthy"),
    };
    let details = match backlog {
        None => "not counted yet".to_owned(),
        Some(backlog) => format!("{backlog} rows are not published"),
    };
    Service { name: "outbox", state, document: json!({ "status": word, "details": details, "backlog": backlog }) }
}

/// The groups by how far behind they are.
pub(super) async fn consumer(api: &Arc<Api>, only: Option<&GroupName>) -> Result<Service> {
    let components = health::components(api);
    let parts: Vec<&Component> =
        components.iter().filter(|one| one.name() == "groups").flat_map(Component::parts).collect();
    let now = api.cx.clock.now();
    let (mut state, mut all) = (State::Healthy, Map::new());
    for group in documents::groups(api, only).await? {
        let part = parts.iter().find(|one| one.name() == format!("group/{}", group.name));
        let of_group = part.map_or(State::Healthy, |part| part.state());
        let last = api.memory.witness().and_then(|witness| witness.last([&group.name].into_iter()));
        let glance = api.groups.glance(&group.name).ok();
        let seconds = |time: std::time::Duration| time.as_secs_f64();
        all.insert(
            group.name.to_string(),
            json!({
                "status": of_group.as_str(),
                "cause": part.and_then(|part| part.cause()),
                "stream": group.stream.as_str(),
                "lag_seconds": documents::lag_seconds(api, &group),
                "lag_entries": group.waiting + group.scheduled,
                "pending": group.in_flight,
                "oldest_pending_seconds": documents::oldest_pending(api, &group.name).map_or(0.0, seconds),
                "idle_seconds": last.map(|last| seconds(now.since(last.at))),
                "workers": glance.map(|glance| if glance.pull { glance.asking } else { glance.workers }),
            }),
        );
        state = state.max(of_group);
    }
    let most = |name: &str| all.values().filter_map(|group| group.get(name)?.as_f64()).fold(0.0, f64::max);
    let sum = |name: &str| all.values().filter_map(|group| group.get(name)?.as_u64()).sum::<u64>();
    let document = json!({
        "status": state.as_str(),
        "lag_seconds": most("lag_seconds"),
        "lag_entries": sum("lag_entries"),
        "pending": sum("pending"),
        "oldest_pending_seconds": most("oldest_pending_seconds"),
        "details": all,
    });
    Ok(Service { name: "consumer", state, document })
}

/// Puts the parts together.
pub(super) fn answer(
    api: &Arc<Api>,
    service: &str,
    services: Vec<Service>,
    metrics: Map<String, Value>,
) -> Result<Response, Problem> {
    let state =
        services.iter().map(|service| service.state).chain([health::state(api)]).map(State::for_the_whole).max();
    let state = state.unwrap_or(State::Healthy);
    let services: Map<String, Value> =
        services.into_iter().map(|service| (service.name.to_owned(), service.document)).collect();
    let process = ProcessFacts::read();
    let mut metrics = metrics;
    metrics.remove("metrics");
    let document = json!({
        "status": state.as_str(),
        "service": service,
        "version": api.node.version,
        "timestamp": api.cx.clock.now(),
        "services": services,
        "metrics": metrics,
        "system": {
            "cpu_seconds": process.cpu_seconds,
            "memory_bytes": process.resident_bytes,
            "machine": SystemFacts::read(api.data.as_deref()),
        },
    });
    with_state(state, answer_json(&document)?)
}

fn with_state(state: State, mut response: Response) -> Result<Response, Problem> {
    if state == State::Unhealthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

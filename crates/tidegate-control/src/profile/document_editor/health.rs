//! The documents of health of the roles.

use std::{sync::Arc, time::Duration};

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::documents::{self, Member};
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
pub(super) fn services(api: &Arc<Api>, components: &[Component]) -> Vec<Service> {
    let outboxes = documents::outboxes(api);
    let is_outbox = |one: &&Component| outboxes.iter().any(|module| one.name() == format!("source/{}", module.name));
    let database = parts(components, "sources").filter(is_outbox).max_by_key(|one| one.state());
    let store = components.iter().find(|one| one.name() == "store");
    database.map(database_service).into_iter().chain(store.map(|store| engine_service(api, store))).collect()
}

/// The parts of a part.
fn parts<'a>(components: &'a [Component], of: &str) -> impl Iterator<Item = &'a Component> {
    components.iter().filter(move |one| one.name() == of).flat_map(Component::parts)
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

/// What the number of rows that wait in the outbox means.
fn of_backlog(backlog: Option<u64>) -> (State, &'static str) {
    match backlog {
        None => (State::Healthy, "unknown"),
        Some(backlog) if backlog > BACKLOG.1 => (State::Degraded, "critical"),
        Some(backlog) if backlog > BACKLOG.0 => (State::Degraded, "warning"),
        Some(_) => (State::Healthy, "healthy"),
    }
}

/// The outbox by its backlog.
pub(super) fn outbox(api: &Arc<Api>) -> Service {
    let backlog = documents::backlog(api);
    let (state, word) = of_backlog(backlog);
    let details =
        backlog.map_or_else(|| "not counted yet".to_owned(), |backlog| format!("{backlog} rows are not published"));
    Service { name: "outbox", state, document: json!({ "status": word, "details": details, "backlog": backlog }) }
}

/// Groups by how far behind they are.
pub(super) fn consumer(api: &Arc<Api>, components: &[Component], groups: &[Member]) -> Service {
    let now = api.cx.clock.now();
    let (mut state, mut all) = (State::Healthy, Map::new());
    for group in groups {
        let part = parts(components, "groups").find(|one| one.name() == format!("group/{}", group.name));
        let of_group = part.map_or(State::Healthy, Component::state);
        let last = api.memory.witness().and_then(|witness| witness.last([&group.name].into_iter()));
        let glance = api.groups.glance(&group.name).ok();
        let seconds = |time: Duration| time.as_secs_f64();
        all.insert(
            group.name.to_string(),
            json!({
                "status": of_group.as_str(),
                "cause": part.and_then(Component::cause),
                "stream": group.stream.as_str(),
                "lag_seconds": documents::lag_seconds(api, group),
                "lag_entries": group.status.as_ref().map(|status| status.waiting + status.scheduled),
                "pending": group.status.as_ref().map(|status| status.in_flight),
                "oldest_pending_seconds": documents::oldest_pending(api, &group.name).map_or(0.0, seconds),
                "idle_seconds": last.map(|last| seconds(now.since(last.at))),
                "workers": glance.map(|glance| if glance.pull { glance.asking } else { glance.workers }),
            }),
        );
        state = state.max(of_group);
    }
    // A part that nobody knows makes the whole unknown.
    let most = |name: &str| {
        all.values().map(|group| group.get(name)?.as_f64()).try_fold(0.0, |most, one| Some(f64::max(most, one?)))
    };
    let sum = |name: &str| all.values().map(|group| group.get(name)?.as_u64()).sum::<Option<u64>>();
    let document = json!({
        "status": state.as_str(),
        "lag_seconds": most("lag_seconds"),
        "lag_entries": sum("lag_entries"),
        "pending": sum("pending"),
        "oldest_pending_seconds": most("oldest_pending_seconds"),
        "details": all,
    });
    Service { name: "consumer", state, document }
}

/// Puts the parts together.
pub(super) fn answer(
    api: &Arc<Api>,
    service: &str,
    components: &[Component],
    services: Vec<Service>,
    mut metrics: Map<String, Value>,
) -> Result<Response, Problem> {
    let states = services.iter().map(|service| service.state).chain(components.iter().map(Component::state));
    let state = states.map(State::for_the_whole).max();
    let state = state.unwrap_or(State::Healthy);
    let services: Map<String, Value> =
        services.into_iter().map(|service| (service.name.to_owned(), service.document)).collect();
    let process = ProcessFacts::read();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_is_worth_a_warning_above_a_hundred_and_critical_above_a_thousand() {
        let words = [None, Some(0), Some(100), Some(101), Some(1000), Some(1001)].map(|rows| of_backlog(rows).1);
        assert_eq!(words, ["unknown", "healthy", "healthy", "warning", "warning", "critical"]);
        assert_eq!([Some(100), Some(101)].map(|rows| of_backlog(rows).0), [State::Healthy, State::Degraded]);
    }
}

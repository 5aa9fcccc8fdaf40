//! Profile `signal-client`: how a Signal bot runtime was watched. Its health server had `/live`, `/ready` and `/dlq`.

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use tidegate_core::{clock::Timestamp, fault::Result, guard::Gate};
use tidegate_engine::Glance;

use super::{PLAIN, Profile};
use crate::{
    api::routes,
    call::{Call, json},
    health,
    metrics::{alias::Alias, catalogue},
    problem::Problem,
};

pub(super) static PROFILE: Profile = Profile {
    name: "signal-client",
    summary: "/live, /ready, /dlq and the metrics of a Signal bot runtime",
    routes: ROUTES,
    aliases: ALIASES,
    ..PLAIN
};

routes! {
    static ROUTES;
    Get "/live" Anyone => live;
    Get "/ready" Anyone => ready;
    Get "/dlq" Viewer => dlq;
}

static ALIASES: &[Alias] = &[
    Alias {
        name: "message_queue_depth",
        of: &catalogue::GROUP_MESSAGES,
        labels: &[],
        only: &[("state", "waiting"), ("state", "scheduled")],
    },
    Alias { name: "message_queue_latency_seconds", of: &catalogue::QUEUE_LATENCY, labels: &[], only: &[] },
    Alias { name: "messages_processed_total", of: &catalogue::ATTEMPTS, labels: &[], only: &[("result", "done")] },
    Alias {
        name: "errors_occurred_total",
        of: &catalogue::ATTEMPTS,
        labels: &[("class", "class")],
        only: &[("result", "failed")],
    },
    Alias { name: "dead_letter_queue_depth", of: &catalogue::DEAD_LETTERS, labels: &[("queue", "stream")], only: &[] },
    Alias { name: "rate_limiter_wait_seconds", of: &catalogue::RATE_LIMITER_WAIT, labels: &[], only: &[] },
    Alias {
        name: "circuit_breaker_state",
        of: &catalogue::BREAKER_STATE,
        labels: &[("endpoint", "target"), ("state", "state")],
        only: &[],
    },
];

#[derive(Serialize)]
struct Live {
    status: &'static str,
}

async fn live(call: Call) -> Result<Response, Problem> {
    let stuck = health::stuck(&call.api).is_some();
    answer(!stuck, &Live { status: if stuck { "stuck" } else { "ok" } })
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    queue_ready: bool,
    worker_pool_ready: bool,
    /// Whether there is a source that brings messages.
    websocket_configured: bool,
    api_clients_ready: bool,
    queue_depth: u64,
    ingest_paused_until: Option<Timestamp>,
}

async fn ready(call: Call) -> Result<Response, Problem> {
    let api = &call.api;
    let groups = api.store.groups().await?;
    let glances: Vec<Glance> = groups.iter().filter_map(|group| api.groups.glance(&group.name).ok()).collect();
    let paused = api.publisher.paused();
    let ready = Ready {
        ready: health::unready(api).is_none(),
        queue_ready: api.store.status().failed.is_none(),
        worker_pool_ready: glances.iter().all(|glance| glance.paused.is_none() && (glance.workers > 0 || glance.pull)),
        websocket_configured: !api.modules.list()?.is_empty(),
        api_clients_ready: api.guards.iter().all(|guard| guard.gate() == Gate::Open),
        queue_depth: groups.iter().map(|group| group.waiting + group.scheduled).sum(),
        ingest_paused_until: paused.and_then(|pause| pause.until),
    };
    answer(ready.ready, &ready)
}

#[derive(Serialize)]
struct Dlq {
    enabled: bool,
    depth: u64,
    /// Always null: nothing is tried again while it lies in the dead letters. What waits for its retry is in its group.
    oldest_next_retry_at: Option<Timestamp>,
}

async fn dlq(call: Call) -> Result<Response, Problem> {
    let groups = call.api.store.groups().await?;
    json(&Dlq { enabled: true, depth: groups.iter().map(|group| group.parked).sum(), oldest_next_retry_at: None })
}

fn answer<T: Serialize>(well: bool, document: &T) -> Result<Response, Problem> {
    let mut response = json(document)?;
    if !well {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

//! The whole node at a glance: its parts, its rates of the last minute, its figures by the hour.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use tidegate_core::{clock::Timestamp, limits};
use utoipa::{IntoParams, ToSchema};

use super::bounded;
use crate::{
    call::{Call, json},
    health::{self, Component, State},
    observe::{hours::Report, sample::Sample},
    problem::Problem,
};

/// The node and its parts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeStatus {
    node: String,
    environment: Option<String>,
    version: String,
    /// Fingerprint of the configuration in force.
    config: String,
    pid: u32,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    uptime_seconds: f64,
    /// How often parts of the node were started again after a crash.
    restarts: u64,
    /// `healthy`, `degraded` or `unhealthy`.
    health: State,
    /// Parts that are not healthy.
    troubles: Vec<Trouble>,
    modules: Vec<ModuleStatus>,
    listeners: Vec<ListenerStatus>,
    services: Vec<ServiceStatus>,
}

/// A part that is not healthy.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Trouble {
    component: String,
    state: State,
    cause: Option<String>,
}

/// A source or a sink.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModuleStatus {
    name: String,
    /// `source` or `sink`.
    direction: &'static str,
    /// Its type in the configuration.
    #[serde(rename = "type")]
    kind: &'static str,
    /// `running`, `paused`, `disabled`, `ended` or `failing`.
    state: &'static str,
    /// The stream into which it brings, or whose events it takes.
    stream: String,
    /// How often it was started again after a crash.
    restarts: u64,
}

/// An address on which the node listens.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListenerStatus {
    address: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    restarts: u64,
}

/// A part that runs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServiceStatus {
    name: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    restarts: u64,
    /// The last crash.
    last_fault: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_fault_at: Option<Timestamp>,
}

/// Begin of the names of services that are listeners.
const LISTENER: &str = "listener ";

fn troubles(components: &[Component], out: &mut Vec<Trouble>) {
    for one in components {
        troubles(one.parts(), out);
        if one.state() != State::Healthy && one.parts().is_empty() {
            let cause = one.cause().map(str::to_owned);
            out.push(Trouble { component: one.name().to_owned(), state: one.state(), cause });
        }
    }
}

#[utoipa::path(
    get, path = "/v1/status", tag = "look", operation_id = "status",
    summary = "Show the node and its parts",
    responses((status = 200, description = "The node.", body = NodeStatus))
)]
pub(crate) async fn status(call: Call) -> Result<Response, Problem> {
    let api = &call.api;
    let modules = api.modules.list()?.into_iter().map(|view| ModuleStatus {
        name: view.name.to_string(),
        direction: view.direction.as_str(),
        kind: view.kind,
        state: view.state.as_str(),
        stream: view.stream.to_string(),
        restarts: view.restarts,
    });
    let modules = modules.collect();
    let mut services = api.supervisor.services();
    services.sort_by(|one, two| one.name.cmp(&two.name));
    let listeners = services.iter().filter_map(|service| {
        let address = service.name.strip_prefix(LISTENER)?.to_owned();
        Some(ListenerStatus { address, since: service.since, restarts: service.restarts })
    });
    let listeners = listeners.collect();
    let mut ill = Vec::new();
    troubles(&health::components(api), &mut ill);
    json(&NodeStatus {
        node: api.node.name.clone(),
        environment: api.node.environment.clone(),
        version: api.node.version.clone(),
        config: api.config.to_string(),
        pid: std::process::id(),
        started_at: api.started_at,
        uptime_seconds: api.cx.clock.now().since(api.started_at).as_secs_f64(),
        restarts: services.iter().map(|service| service.restarts).sum(),
        health: health::state(api),
        troubles: ill,
        modules,
        listeners,
        services: services
            .into_iter()
            .map(|service| {
                let (at, fault) = service.last_fault.unzip();
                ServiceStatus {
                    name: service.name,
                    since: service.since,
                    restarts: service.restarts,
                    last_fault: fault,
                    last_fault_at: at,
                }
            })
            .collect(),
    })
}

/// Rates and delays of about the last minute.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Top {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Time that rates and delays are counted over.
    window_seconds: f64,
    groups: Vec<TopGroup>,
    limiters: Vec<TopLimiter>,
    process: TopProcess,
}

/// A group. Times are in seconds; null where nothing was counted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TopGroup {
    group: String,
    stream: String,
    state: &'static str,
    in_per_second: f64,
    out_per_second: f64,
    /// Events that may run now.
    depth: u64,
    /// Events that wait for others to be done.
    blocked: u64,
    scheduled: u64,
    in_flight: u64,
    dead: u64,
    oldest_waiting_age_seconds: f64,
    /// From accept, or from when it was due, to the start of the handler.
    latency_p50: Option<f64>,
    latency_p95: Option<f64>,
    handler_p50: Option<f64>,
    handler_p95: Option<f64>,
    workers: usize,
    busy: usize,
    /// Time until nothing is left to do at these rates; null when the depth does not shrink.
    seconds_to_drain: Option<f64>,
}

/// The guard before a target. Times are in seconds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TopLimiter {
    target: String,
    /// Calls that ended, per second.
    calls_per_second: f64,
    /// Waits before calls; 0 when none was made.
    wait_p50: f64,
    wait_p95: f64,
    in_use: usize,
    concurrency: usize,
    waiting: usize,
    breaker: &'static str,
}

/// This process.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TopProcess {
    /// Processors used; 1 is one whole.
    cpu: Option<f64>,
    resident_bytes: Option<u64>,
    open_files: Option<u64>,
}

#[utoipa::path(
    get, path = "/v1/top", tag = "look", operation_id = "top",
    summary = "Show rates, delays and limits of the last minute",
    responses((status = 200, description = "The last minute.", body = Top))
)]
pub(crate) async fn top(call: Call) -> Result<Response, Problem> {
    let api = &call.api;
    let before = api.observed.baseline();
    let before = before.as_deref();
    let now = Sample::take(api).await?;
    let window_seconds = before.map_or(0.0, |before| now.at.since(before.at).as_secs_f64());
    let mut groups = Vec::new();
    for (name, status) in &now.groups {
        let Ok(glance) = api.groups.glance(name) else { continue };
        let counted = now.counted_since(before, name);
        let (in_per_second, out_per_second) = now.rates_since(before, name);
        groups.push(TopGroup {
            group: name.to_string(),
            stream: status.stream.to_string(),
            state: glance.state.as_str(),
            in_per_second,
            out_per_second,
            depth: status.waiting - status.blocked,
            blocked: status.blocked,
            scheduled: status.scheduled,
            in_flight: status.in_flight,
            dead: status.dead,
            oldest_waiting_age_seconds: status.oldest_waiting.unwrap_or_default().as_secs_f64(),
            latency_p50: counted.latency.quantile(0.5),
            latency_p95: counted.latency.quantile(0.95),
            handler_p50: counted.duration.quantile(0.5),
            handler_p95: counted.duration.quantile(0.95),
            workers: glance.workers,
            busy: if glance.pull { usize::try_from(status.in_flight).unwrap_or(usize::MAX) } else { glance.busy },
            seconds_to_drain: now.seconds_to_drain(before, name),
        });
    }
    let limiters = api.guards.iter().map(|guard| {
        let view = guard.view();
        let waits = now.waits_since(before, &view.name);
        TopLimiter {
            target: view.name.to_string(),
            calls_per_second: if window_seconds > 0.0 { waits.total() as f64 / window_seconds } else { 0.0 },
            wait_p50: waits.quantile(0.5).unwrap_or(0.0),
            wait_p95: waits.quantile(0.95).unwrap_or(0.0),
            in_use: view.concurrency.in_use,
            concurrency: view.concurrency.limit,
            waiting: view.concurrency.waiting,
            breaker: view.breaker.state.as_str(),
        }
    });
    let cpu = before.and_then(|before| Some(now.process.cpu_seconds? - before.process.cpu_seconds?));
    let process = TopProcess {
        cpu: cpu.filter(|_| window_seconds > 0.0).map(|used| used / window_seconds),
        resident_bytes: now.process.resident_bytes,
        open_files: now.process.open_files,
    };
    json(&Top { at: now.at, window_seconds, groups, limiters: limiters.collect(), process })
}

/// Which hours.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PerformanceQuery {
    /// Hours, the running one included, at most 168; 24 when absent.
    hours: Option<usize>,
}

#[utoipa::path(
    get, path = "/v1/reports/performance", tag = "look", operation_id = "report_performance",
    summary = "Report how attempts went in the last hours",
    description = "Counted in histograms by the hour that outlive the node; percentiles are estimated within their \
        buckets.",
    params(PerformanceQuery),
    responses((status = 200, description = "The report.", body = Report))
)]
pub(crate) async fn performance(call: Call) -> Result<Response, Problem> {
    let query: PerformanceQuery = call.query()?;
    let hours = bounded("hours", query.hours.unwrap_or(24), limits::REPORT_HOURS_MAX)?;
    // What happened since the last look belongs to it.
    call.api.observed.look(&call.api).await?;
    let hours = u32::try_from(hours).unwrap_or(u32::MAX);
    json(&call.api.observed.report(call.api.cx.clock.now(), hours))
}

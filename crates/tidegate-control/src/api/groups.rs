//! Groups: where they stand, and what an operator wants of them.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Timestamp,
    config::RateText,
    fault::{Fault, FaultKind, Result},
    guard::Gate,
    names::GroupName,
    store::OnFailure,
};
use tidegate_engine::{GroupView, SideView};
use utoipa::ToSchema;

use super::{Api, duration_text};
use crate::{
    call::{Call, json, parse},
    problem::Problem,
};

/// All groups.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    /// Groups that the configuration no longer names: they hold back retention until they are removed.
    unconfigured: Vec<Unconfigured>,
}

/// A group that nobody runs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Unconfigured {
    name: String,
    stream: String,
    /// Events that it has not settled.
    unsettled: u64,
}

/// A group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Group {
    name: String,
    stream: String,
    /// `running`, `paused` or `draining`; of a side group also `ended`: all of its range is handled.
    state: &'static str,
    /// How many batches are tried at a time.
    workers: usize,
    /// Of those, how many are busy.
    busy: usize,
    /// First event that it has not looked at.
    next: String,
    /// Events accepted since its start, or since the place that it was moved to.
    accepted: u64,
    /// May run now, or waits behind its order key or for other events to be done.
    waiting: u64,
    /// Of those, what waits for other events to be done.
    blocked: u64,
    /// Waits for a time.
    scheduled: u64,
    /// Lent to a worker.
    in_flight: u64,
    /// Settled as done; duplicates included.
    done: u64,
    /// Buried in the dead letters, whatever became of them there.
    dead: u64,
    /// Of those done, settled without an attempt.
    duplicates: u64,
    /// Of those done, those that the group's stages did not let through.
    skipped: u64,
    /// Settled as expired.
    expired: u64,
    /// Removed by policy or lost to damage before it was settled.
    dropped: u64,
    /// Leases lost since the start.
    leases_lost: u64,
    /// Age of the oldest event that may run now; 0 when there is none.
    oldest_waiting_age_seconds: f64,
    /// Age of the oldest event that waits for others to be done; 0 when there is none.
    oldest_blocked_age_seconds: f64,
    /// Order keys whose next delivery waits behind a busy or failed one.
    blocked_keys: u64,
    /// Why it does not claim, at somebody's wish.
    paused: Option<Paused>,
    /// It finishes what was there when somebody asked, and pauses then.
    drain: Option<Drain>,
    /// It is slowed down until it has caught up.
    pace: Option<Pace>,
    /// What a side group handles once more; none of other groups.
    side: Option<Side>,
    /// Its workers are outside of the node.
    pull: bool,
    /// Of those, so many wait for something to do right now.
    asking: usize,
    /// The target that its handler calls.
    target: Option<String>,
    /// What the target's guard allows: `open`, `probe`, `closed` or `disabled`.
    gate: &'static str,
    policy: Policy,
}

/// A pause.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Paused {
    by: String,
    reason: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// When it goes on by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// What a side group handles once more.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Side {
    /// The group whose stream it reads.
    of: String,
    /// The group whose handler and settings it has.
    with: String,
    /// First event that it handles.
    from: String,
    /// First event that it no longer handles.
    before: String,
    /// Whether it stays when it is done.
    keep: bool,
    by: String,
    reason: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// When all of its range was handled.
    #[schema(value_type = Option<String>, format = DateTime)]
    ended: Option<Timestamp>,
}

impl From<SideView> for Side {
    fn from(view: SideView) -> Self {
        Self {
            of: view.ask.of.into(),
            with: view.ask.with.into(),
            from: view.ask.from.to_string(),
            before: view.ask.before.to_string(),
            keep: view.ask.keep,
            by: view.ask.by,
            reason: view.ask.reason,
            since: view.at,
            ended: view.ended_at,
        }
    }
}

/// A group that comes to an end.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Drain {
    by: String,
    reason: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// When it pauses, whatever is left.
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
    /// What lies before this position is finished.
    before: String,
}

/// A group that is slowed down.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pace {
    #[schema(example = "50/s")]
    rate: String,
    /// It ends when the group comes to this position.
    before: String,
}

/// How a group works.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Policy {
    /// Longest time of one attempt.
    #[schema(example = "30s")]
    timeout: String,
    /// Longest time of one attempt that an event can ask for.
    #[schema(example = "30s")]
    timeout_max: String,
    /// How long a delivery is lent before it must be renewed.
    #[schema(example = "60s")]
    lease: String,
    retry: Retry,
    /// Where the order key stands.
    order_by: Option<String>,
    /// What a failed head does to its key: `skip` or `block`.
    on_failure: &'static str,
    /// How long the ledger remembers what is done.
    #[schema(example = "30d")]
    ledger: Option<String>,
    /// Whether events wait for those that their `after` names: `wait` or `ignore`.
    after: &'static str,
    /// How much time of waiting one step of an event's `priority` is worth; without it the order of the stream stands.
    #[schema(example = "5m")]
    priority_step: Option<String>,
    /// What stands between the stream and the handler, in order.
    #[schema(example = json!(["where type == \"order.placed\""]))]
    stages: Vec<String>,
}

/// How often and how soon a failed delivery is tried again.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Retry {
    attempts: u32,
    first: String,
    factor: f64,
    max: String,
}

impl Group {
    async fn look(api: &Api, name: &GroupName) -> Result<Self> {
        Ok(Self::new(api.groups.view(name).await?, api.sides.get(name)))
    }

    fn new(view: GroupView, side: Option<SideView>) -> Self {
        let status = view.status;
        let is_idle = status.waiting + status.scheduled + status.in_flight == 0;
        let has_ended = is_idle && side.as_ref().is_some_and(|side| side.ended_at.is_some());
        Self {
            name: status.name.into(),
            stream: status.stream.into(),
            state: if has_ended { "ended" } else { view.glance.state.as_str() },
            workers: view.glance.workers,
            busy: view.glance.busy,
            next: status.next.to_string(),
            accepted: status.accepted,
            waiting: status.waiting,
            blocked: status.blocked,
            scheduled: status.scheduled,
            in_flight: status.in_flight,
            done: status.done,
            dead: status.dead,
            duplicates: status.duplicates,
            skipped: status.skipped,
            expired: status.expired,
            dropped: status.dropped,
            leases_lost: status.leases_lost,
            oldest_waiting_age_seconds: status.oldest_waiting.unwrap_or_default().as_secs_f64(),
            oldest_blocked_age_seconds: status.oldest_blocked.unwrap_or_default().as_secs_f64(),
            blocked_keys: status.blocked_keys,
            paused: view.glance.paused.map(|pause| Paused {
                by: pause.by,
                reason: pause.reason,
                since: pause.at,
                until: pause.until,
            }),
            drain: view.glance.drain.map(|drain| Drain {
                by: drain.by,
                reason: drain.reason,
                since: drain.at,
                until: drain.until,
                before: drain.before.to_string(),
            }),
            pace: view.glance.pace.map(|pace| Pace {
                rate: RateText { count: pace.rate.count, per: pace.rate.per }.to_string(),
                before: pace.before.to_string(),
            }),
            side: side.map(Side::from),
            pull: view.glance.pull,
            asking: view.glance.asking,
            target: view.target.map(String::from),
            gate: gate_word(view.gate),
            policy: Policy {
                timeout: duration_text(view.policy.timeout),
                timeout_max: duration_text(view.policy.timeout_max.unwrap_or(view.policy.timeout)),
                lease: duration_text(view.policy.lease),
                retry: Retry {
                    attempts: view.policy.retry.attempts,
                    first: duration_text(view.policy.retry.first),
                    factor: view.policy.retry.factor,
                    max: duration_text(view.policy.retry.max),
                },
                order_by: view.spec.order_by.map(String::from),
                on_failure: match view.spec.on_failure {
                    OnFailure::Skip => "skip",
                    OnFailure::Block => "block",
                },
                ledger: view.spec.ledger.map(duration_text),
                after: if view.spec.after && view.spec.ledger.is_some() { "wait" } else { "ignore" },
                priority_step: view.spec.priority_step.map(duration_text),
                stages: view.policy.stages.words(),
            },
        }
    }
}

/// Returns the word for what a guard allows.
pub(crate) fn gate_word(gate: Gate) -> &'static str {
    match gate {
        Gate::Open => "open",
        Gate::Probe => "probe",
        Gate::ClosedUntil(_) => "closed",
        Gate::Disabled => "disabled",
    }
}

#[utoipa::path(
    get, path = "/v1/groups", tag = "groups", operation_id = "groups_list",
    summary = "List groups",
    responses((status = 200, description = "All groups.", body = Groups))
)]
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    let mut groups = Vec::new();
    for name in call.api.groups.names() {
        match Group::look(&call.api, &name).await {
            Ok(group) => groups.push(group),
            // A side group that ended while the others were looked at.
            Err(fault) if fault.kind == FaultKind::Missing => {}
            Err(fault) => return Err(fault.into()),
        }
    }
    let known = call.api.groups.names();
    let all = call.api.store.groups().await?;
    let unknown = all.into_iter().filter(|status| !known.contains(&status.name)).map(|status| Unconfigured {
        unsettled: status.waiting + status.scheduled + status.in_flight,
        name: status.name.into(),
        stream: status.stream.into(),
    });
    json(&Groups { groups, unconfigured: unknown.collect() })
}

#[utoipa::path(
    get, path = "/v1/groups/{group}", tag = "groups", operation_id = "groups_show",
    summary = "Show a group",
    params(("group" = String, Path, description = "Name of the group.")),
    responses((status = 200, description = "The group.", body = Group))
)]
pub(crate) async fn show(call: Call) -> Result<Response, Problem> {
    json(&Group::look(&call.api, &call.group()?).await?)
}

/// Why and for how long a group is paused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PauseAsk {
    /// Why.
    reason: String,
    /// When it goes on by itself; when somebody resumes it, when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// Why a group goes on.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ResumeAsk {
    /// Why.
    reason: String,
}

/// How many workers a group gets.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScaleAsk {
    /// At least 1, at most 4096.
    workers: usize,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// What was done to a group, and where it stands now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupAction {
    /// Id of this action.
    action: String,
    /// `paused`, `resumed`, `scaled` or `draining`.
    result: &'static str,
    group: Group,
}

pub(super) async fn done(
    call: &Call,
    group: &GroupName,
    what: &'static str,
    result: &'static str,
    reason: &str,
) -> Result<Response, Problem> {
    let action = call.action(what, group.as_str(), reason);
    json(&GroupAction { action, result, group: Group::look(&call.api, group).await? })
}

#[utoipa::path(
    post, path = "/v1/groups/{group}/pause", tag = "groups", operation_id = "groups_pause",
    summary = "Stop a group from claiming",
    description = "What it holds goes on. The pause outlives the node.",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = PauseAsk,
    responses((status = 200, description = "It is paused.", body = GroupAction))
)]
pub(crate) async fn pause(mut call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let body = call.json_body().await?;
    let ask: PauseAsk = parse(&body)?;
    if let Some(until) = ask.until.filter(|until| *until <= call.api.cx.clock.now()) {
        return Err(Fault::invalid(format!("until {until} has passed already")).into());
    }
    call.api.groups.pause(&group, &call.actor.name, &ask.reason, ask.until).await?;
    done(&call, &group, "group.pause", "paused", &ask.reason).await
}

#[utoipa::path(
    post, path = "/v1/groups/{group}/resume", tag = "groups", operation_id = "groups_resume",
    summary = "Let a paused group claim again",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = ResumeAsk,
    responses((status = 200, description = "It runs.", body = GroupAction))
)]
pub(crate) async fn resume(mut call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let body = call.json_body().await?;
    let ask: ResumeAsk = parse(&body)?;
    call.api.groups.resume(&group, &call.actor.name).await?;
    done(&call, &group, "group.resume", "resumed", &ask.reason).await
}

#[utoipa::path(
    post, path = "/v1/groups/{group}/scale", tag = "groups", operation_id = "groups_scale",
    summary = "Change the number of workers",
    description = "It stays so, over restarts too, until the configuration asks for another number than today.",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = ScaleAsk,
    responses((status = 200, description = "It is scaled.", body = GroupAction))
)]
pub(crate) async fn scale(mut call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let body = call.json_body().await?;
    let ask: ScaleAsk = parse(&body)?;
    call.api.groups.scale(&group, ask.workers, &call.actor.name).await?;
    done(&call, &group, "group.scale", "scaled", &ask.reason).await
}

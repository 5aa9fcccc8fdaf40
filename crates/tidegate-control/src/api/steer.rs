//! Moving groups through their streams: seek, with a rehearsal of what it would mean, and drain.

use std::time::Duration;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Timestamp,
    config::{RateText, Time},
    fault::{Fault, Result},
    guard::Rate,
    limits,
    notice::Notice,
    seek::{Rehearsal, SeekTo},
};
use tidegate_engine::{Pause, SeekAsk as EngineAsk};
use utoipa::ToSchema;

use super::groups::done;
use crate::{
    call::{Call, json, parse},
    problem::Problem,
};

/// Events that one request rehearses; whoever wants more asks again from where it ended.
pub(super) const REHEARSED_MAX: u64 = 200_000;
/// How long a seek waits by itself for what is in flight.
const WAIT: Time = Time::from_secs(10);
/// How long a drain may take by itself.
const DRAIN: Time = Time::from_secs(30);

/// Where a group is moved, and how.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeekAsk {
    /// `earliest`, `latest`, a position, `-100` for so many events back, an instant, or the id of an event (`id:` before
    /// it tells one that looks like something else).
    #[schema(example = "-100")]
    to: String,
    /// Only say what would become of the events from there on.
    #[serde(default)]
    dry_run: bool,
    /// Process also what the ledger knows as done.
    #[serde(default)]
    ignore_ledger: bool,
    /// Most deliveries until the group has come back to where it is now.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "50/s")]
    rate: Option<RateText>,
    /// How long what is in flight may take to finish first, at most 30 s.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "10s")]
    wait: Option<Time>,
    /// Why.
    #[serde(default)]
    reason: String,
}

/// What a seek did, or would do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sought {
    /// Id of this action; none of a dry run.
    action: Option<String>,
    /// `moved` or `rehearsed`.
    result: &'static str,
    group: String,
    /// First event that the group had not looked at.
    #[schema(value_type = String)]
    from: tidegate_core::delivery::Position,
    /// First event that it looks at next.
    #[schema(value_type = String)]
    to: tidegate_core::delivery::Position,
    /// What becomes of the events from `to` on, as the ledger stands now.
    events: Rehearsed,
}

/// What becomes of events.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rehearsed {
    /// Events that were counted.
    counted: u64,
    /// A handler runs for them.
    would_run: u64,
    /// The ledger knows them as done; no handler runs.
    would_skip: u64,
    /// They are past their `expirytime`.
    expired: u64,
    /// They are meant for another group.
    for_others: u64,
    /// Whether all events to the end of the stream were counted.
    complete: bool,
    /// Where to go on counting, when not all were counted.
    #[schema(value_type = Option<String>)]
    next: Option<tidegate_core::delivery::Position>,
}

impl From<&Rehearsal> for Rehearsed {
    fn from(counted: &Rehearsal) -> Self {
        Self {
            counted: counted.total(),
            would_run: counted.run,
            would_skip: counted.skipped,
            expired: counted.expired,
            for_others: counted.others,
            complete: counted.next.is_none(),
            next: counted.next,
        }
    }
}

impl Rehearsed {
    /// What becomes of the same events in a side group: it knows none as done, and what was sent back for the group
    /// itself is not for it.
    pub(super) fn in_a_side_group(counted: &Rehearsal) -> Self {
        Self {
            would_run: counted.run + counted.skipped - counted.own,
            would_skip: 0,
            for_others: counted.others + counted.own,
            ..Self::from(counted)
        }
    }
}

#[utoipa::path(
    post, path = "/v1/groups/{group}/seek", tag = "groups", operation_id = "groups_seek",
    summary = "Move a group to another place in its stream",
    description = "Claims are held back until what is in flight is finished; when it does not finish in time, nothing is \
        moved and the answer is 409. The move is one durable step. The accounting of the group starts anew at the new \
        place, retries of before are forgotten, the ledger stays: what it knows as done is not processed again unless \
        `ignore_ledger` says so. A dry run counts at most 200 000 events and says where to go on.",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = SeekAsk,
    responses((status = 200, description = "It is moved, or that is rehearsed.", body = Sought))
)]
pub(crate) async fn seek(mut call: Call) -> Result<Response, Problem> {
    let name = call.group()?;
    let body = call.json_body().await?;
    let ask: SeekAsk = parse(&body)?;
    let place: SeekTo = ask.to.parse()?;
    let wait = ask.wait.unwrap_or(WAIT).get();
    if wait > limits::CLAIM_WAIT_MAX {
        return Err(Fault::invalid(format!("wait is longer than {:?}", limits::CLAIM_WAIT_MAX)).into());
    }
    let groups = &call.api.groups;
    let to = groups.locate(&name, &place).await?;
    let from = groups.view(&name).await?.status.next;
    // Of a move only the first events are told: whoever wants to know it all asks before.
    let most = if ask.dry_run { REHEARSED_MAX } else { limits::PAGE_MAX as u64 };
    let latest = groups.locate(&name, &SeekTo::Latest).await?;
    let counted = groups.rehearse(&name, to..latest, ask.ignore_ledger, most).await?;
    let events = Rehearsed::from(&counted);
    if ask.dry_run {
        return json(&Sought { action: None, result: "rehearsed", group: name.into(), from, to, events });
    }
    let asked = EngineAsk {
        again: ask.ignore_ledger,
        rate: ask.rate.map(|rate| Rate { count: rate.count, per: rate.per }),
        wait,
        by: call.actor.name.to_string(),
        reason: ask.reason.clone(),
    };
    let sought = groups.seek(&name, to, &asked).await?;
    let action = Some(call.action("group.seek", name.as_str(), &ask.reason));
    json(&Sought { action, result: "moved", group: name.into(), from: sought.from, to: sought.to, events })
}

/// Why and how long a group drains.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DrainAsk {
    /// When it pauses, whatever is left; `30s` when absent.
    #[schema(value_type = Option<String>, example = "30s")]
    timeout: Option<Time>,
    /// Why.
    reason: String,
}

impl DrainAsk {
    pub(crate) fn timeout(&self) -> Result<Duration> {
        let timeout = self.timeout.unwrap_or(DRAIN);
        if timeout.get() > limits::DRAIN_MAX {
            return Err(Fault::invalid(format!("timeout is longer than {:?}", limits::DRAIN_MAX)));
        }
        Ok(timeout.get())
    }
}

#[utoipa::path(
    post, path = "/v1/groups/{group}/drain", tag = "groups", operation_id = "groups_drain",
    summary = "Let a group finish what is there, and pause then",
    description = "The answer comes at once; the group is `draining` until it is `paused`. What is accepted meanwhile \
        waits in the stream. What is left when the time is over waits too. Resuming ends it.",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = DrainAsk,
    responses((status = 200, description = "It drains.", body = super::groups::GroupAction))
)]
pub(crate) async fn drain(mut call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let body = call.json_body().await?;
    let ask: DrainAsk = parse(&body)?;
    let until = call.api.cx.clock.now().plus(ask.timeout()?);
    call.api.groups.drain(&group, &call.actor.name, &ask.reason, until).await?;
    done(&call, &group, "group.drain", "draining", &ask.reason).await
}

/// Why and for how long no events are taken.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct IntakeAsk {
    /// Why.
    reason: String,
    /// When it goes on by itself; when somebody resumes it, when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// What was done to the intake.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IntakeAction {
    /// Id of this action.
    action: String,
    /// `paused` or `resumed`.
    result: &'static str,
}

#[utoipa::path(
    post, path = "/v1/intake/pause", tag = "node", operation_id = "intake_pause",
    summary = "Take no events from sources that can refuse",
    description = "They are answered 503; the node is not ready meanwhile. Sources that cannot refuse go on storing, and \
        groups go on with what is there. The pause outlives the node.",
    request_body = IntakeAsk,
    responses((status = 200, description = "It is paused.", body = IntakeAction))
)]
pub(crate) async fn pause_intake(mut call: Call) -> Result<Response, Problem> {
    let body = call.json_body().await?;
    let ask: IntakeAsk = parse(&body)?;
    let at = call.api.cx.clock.now();
    if let Some(until) = ask.until.filter(|until| *until <= at) {
        return Err(Fault::invalid(format!("until {until} has passed already")).into());
    }
    let (by, reason) = (call.actor.name.to_string(), ask.reason.clone());
    call.api.publisher.pause(Pause { by, reason, at, until: ask.until, disabled: false }).await?;
    json(&IntakeAction { action: call.action("intake.pause", "intake", &ask.reason), result: "paused" })
}

#[utoipa::path(
    post, path = "/v1/intake/resume", tag = "node", operation_id = "intake_resume",
    summary = "Take events again",
    request_body = IntakeAsk,
    responses((status = 200, description = "They are taken.", body = IntakeAction))
)]
pub(crate) async fn resume_intake(mut call: Call) -> Result<Response, Problem> {
    let body = call.json_body().await?;
    let ask: IntakeAsk = parse(&body)?;
    call.api.publisher.resume(&call.actor.name).await?;
    json(&IntakeAction { action: call.action("intake.resume", "intake", &ask.reason), result: "resumed" })
}

/// What became of each group of a node that drains.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeDrain {
    /// Id of this action.
    action: String,
    /// Groups that finish what is there.
    draining: Vec<String>,
    /// Groups that were paused already.
    paused: Vec<String>,
}

#[utoipa::path(
    post, path = "/v1/drain", tag = "node", operation_id = "node_drain",
    summary = "Let all groups finish what is there, and pause then",
    description = "Groups that are paused stay so. Events are taken and stored meanwhile, unless the intake is paused too.",
    request_body = DrainAsk,
    responses((status = 200, description = "They drain.", body = NodeDrain))
)]
pub(crate) async fn drain_node(mut call: Call) -> Result<Response, Problem> {
    let body = call.json_body().await?;
    let ask: DrainAsk = parse(&body)?;
    let until = call.api.cx.clock.now().plus(ask.timeout()?);
    let (mut draining, mut paused) = (Vec::new(), Vec::new());
    for group in call.api.groups.names() {
        if call.api.groups.view(&group).await?.glance.paused.is_some() {
            paused.push(group.into());
        } else {
            call.api.groups.drain(&group, &call.actor.name, &ask.reason, until).await?;
            draining.push(group.into());
        }
    }
    json(&NodeDrain { action: call.action("node.drain", "node", &ask.reason), draining, paused })
}

/// Why a group is removed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RemoveAsk {
    /// Why.
    reason: String,
}

/// A group that was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Removed {
    /// Id of this action.
    action: String,
    /// Always `removed`.
    result: &'static str,
    group: String,
    /// Events that it had not settled.
    unsettled: u64,
}

#[utoipa::path(
    post, path = "/v1/groups/{group}/remove", tag = "groups", operation_id = "groups_remove",
    summary = "Forget a group that the configuration no longer names, or end a side group",
    description = "Its progress and its ledger are gone, and it no longer holds back retention. A side group is stopped \
        first; what it holds may finish within 10 s. A group that is in the configuration is answered with 409.",
    params(("group" = String, Path, description = "Name of the group.")),
    request_body = RemoveAsk,
    responses((status = 200, description = "It is gone.", body = Removed))
)]
pub(crate) async fn remove(mut call: Call) -> Result<Response, Problem> {
    let group = call.group()?;
    let body = call.json_body().await?;
    let ask: RemoveAsk = parse(&body)?;
    let is_side = call.api.sides.get(&group).is_some();
    if !is_side && call.api.groups.names().contains(&group) {
        let note = format!("group {group} is in the configuration; take it out there first");
        return Err(Fault::conflict(note).into());
    }
    let status = call.api.store.group(&group).await?;
    let (by, reason) = (call.actor.name.to_string(), ask.reason.clone());
    if is_side {
        call.api.sides.remove(&group, &by, &reason).await?;
    } else {
        call.api.store.remove_group(&group).await?;
        call.api.groups.forget(&group).await?;
        call.api.cx.notices.emit(&Notice::GroupRemoved { group: group.clone(), by, reason });
    }
    let unsettled = status.waiting + status.scheduled + status.in_flight;
    let action = call.action("group.remove", group.as_str(), &ask.reason);
    json(&Removed { action, result: "removed", group: group.into(), unsettled })
}

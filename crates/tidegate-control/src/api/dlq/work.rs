//! What an operator does with dead letters: back into the stream, taken care of, given up.
//!
//! Each step is one commit of the store. Many entries are many steps: those that are meant are written down first,
//! oldest first, so that an entry that dies again meanwhile is not met a second time.

use std::time::Duration;

use axum::response::Response;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    delivery::Position,
    fault::{Fault, FaultKind, Result},
    limits,
    names::{GroupName, StreamName},
    notice::Notice,
    store::{DeadAction, DeadQuery, DeadState, DeadStep, DeadStepStatus},
};
use utoipa::ToSchema;

use super::{AskedState, READ_STEP};
use crate::{
    api::Api,
    call::{Call, json, parse},
    problem::Problem,
};

/// Time after which no more steps are begun, so that the answer comes inside the time of a request.
const WORK_TIME: Duration = Duration::from_secs(limits::REQUEST_SECONDS_MAX * 3 / 4);

/// Most entries that one request may name.
const IDS_MAX: usize = 10_000;

/// Most entries that one request moves; 16 bytes of memory each.
const MATCHED_MAX: usize = 1_000_000;

/// Which dead letters are moved, and how.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MoveAsk {
    /// These, at most 10000. Either `ids` or `all` is given.
    #[schema(value_type = Option<Vec<String>>)]
    ids: Option<Vec<Position>>,
    /// All that `state` and `group` allow.
    all: bool,
    /// With `all`: only in this state; `parked` when absent.
    state: AskedState,
    /// With `all`: only of this group.
    #[schema(value_type = Option<String>)]
    group: Option<GroupName>,
    /// Only count.
    dry_run: bool,
    /// For reprocess: also those that were reprocessed before.
    force: bool,
    /// Why.
    reason: String,
}

/// What became of the dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Job {
    /// Id of this action.
    job: String,
    stream: String,
    /// Entries that were meant and exist.
    matched: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reprocessed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discarded: Option<u64>,
    /// Entries that do not exist, or whose state forbids it.
    failed: u64,
    /// `done`; `dry_run` when nothing was to be moved; `stopped` when the time of the request was over before all were
    /// moved: ask again for the rest.
    state: &'static str,
    /// What became of each entry that was named, in input order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<JobResult>,
}

/// What became of one entry.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobResult {
    id: String,
    /// `moved`, `missing` or `refused`; in a dry run `matched` in place of `moved`.
    status: &'static str,
    /// For `refused`: the state that forbids it.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// Where it went, when it was reprocessed.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
}

/// The three things that can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Reprocess,
    Resolve,
    Discard,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Reprocess => "reprocess",
            Self::Resolve => "resolve",
            Self::Discard => "discard",
        }
    }
}

#[utoipa::path(
    post, path = "/v1/dlq/{stream}/reprocess", tag = "dlq", operation_id = "dlq_reprocess",
    summary = "Put dead letters back into their stream",
    description = "With the same event, order key and history, for the group that buried them. Never twice, unless forced.",
    params(("stream" = String, Path, description = "The stream, or its `.dlq`.")),
    request_body = MoveAsk,
    responses((status = 200, description = "What became of them.", body = Job))
)]
pub(crate) async fn reprocess(call: Call) -> Result<Response, Problem> {
    work(call, Verb::Reprocess).await
}

#[utoipa::path(
    post, path = "/v1/dlq/{stream}/resolve", tag = "dlq", operation_id = "dlq_resolve",
    summary = "Note that somebody took care of dead letters elsewhere",
    params(("stream" = String, Path, description = "The stream, or its `.dlq`.")),
    request_body = MoveAsk,
    responses((status = 200, description = "What became of them.", body = Job))
)]
pub(crate) async fn resolve(call: Call) -> Result<Response, Problem> {
    work(call, Verb::Resolve).await
}

#[utoipa::path(
    post, path = "/v1/dlq/{stream}/discard", tag = "dlq", operation_id = "dlq_discard",
    summary = "Give dead letters up",
    params(("stream" = String, Path, description = "The stream, or its `.dlq`.")),
    request_body = MoveAsk,
    responses((status = 200, description = "What became of them.", body = Job))
)]
pub(crate) async fn discard(call: Call) -> Result<Response, Problem> {
    work(call, Verb::Discard).await
}

async fn work(mut call: Call, verb: Verb) -> Result<Response, Problem> {
    let stream = call.stream()?;
    let body = call.json_body().await?;
    let ask: MoveAsk = parse(&body)?;
    check(&ask, verb)?;
    let action = match verb {
        Verb::Reprocess => DeadAction::Reprocess { force: ask.force, edited: Vec::new() },
        Verb::Resolve => DeadAction::Resolve,
        Verb::Discard => DeadAction::Discard,
    };
    let named = ask.ids.is_some();
    let api = call.api.clone();
    let clock = api.cx.clock.stopwatch();
    // One at a time: two that write down the same entries would both count them.
    let _turn = if named { None } else { Some(turn(&api)?) };
    let ids = match &ask.ids {
        Some(ids) => ids.clone(),
        None => select(&api, &stream, &ask).await?,
    };
    let mut mover =
        Mover { api: &api, stream: &stream, action, call: &call, reason: &ask.reason, moved: Moved::default() };
    if ask.dry_run {
        mover.look(&ids, named, verb, ask.force).await?;
    } else {
        mover.go(&ids, named, || clock.elapsed() < WORK_TIME).await?;
    }
    let moved = mover.moved;
    let stopped = !ask.dry_run && moved.seen() < ids.len() as u64;
    let state = if ask.dry_run {
        "dry_run"
    } else if stopped {
        "stopped"
    } else {
        "done"
    };
    tell(&call, &stream, verb, &ask, &moved);
    let count = |asked: Verb| (asked == verb).then_some(if ask.dry_run { 0 } else { moved.moved });
    json(&Job {
        job: call.action(verb.name(), stream.as_str(), &ask.reason),
        stream: stream.origin().into(),
        matched: (ids.len() as u64).saturating_sub(moved.missing),
        reprocessed: count(Verb::Reprocess),
        resolved: count(Verb::Resolve),
        discarded: count(Verb::Discard),
        failed: moved.missing + moved.refused,
        state,
        results: moved.results,
    })
}

fn check(ask: &MoveAsk, verb: Verb) -> Result<()> {
    let wrong = |note: &str| Err(Fault::invalid(note.to_owned()));
    match &ask.ids {
        Some(_) if ask.all => return wrong("either ids or all, not both"),
        None if !ask.all => return wrong("which dead letters: give ids, or all"),
        Some(ids) if ids.len() > IDS_MAX => {
            return wrong(&format!("{} ids in one request, the limit is {IDS_MAX}", ids.len()));
        }
        Some(_) if ask.group.is_some() || ask.state != AskedState::Parked => {
            return wrong("state and group choose among all; ids say it already");
        }
        Some(_) | None => {}
    }
    let again = verb == Verb::Reprocess && ask.force;
    if ask.state != AskedState::Parked && !again {
        return wrong("only parked dead letters can be moved; reprocess moves others with force");
    }
    if ask.force && verb != Verb::Reprocess {
        return wrong("force is for reprocess only");
    }
    Ok(())
}

fn turn(api: &Api) -> Result<tokio::sync::MutexGuard<'_, ()>> {
    api.dead_work.try_lock().map_err(|_| Fault::conflict("other work on all dead letters of a stream is under way"))
}

/// Writes down which entries are meant, oldest first.
async fn select(api: &Api, stream: &StreamName, ask: &MoveAsk) -> Result<Vec<Position>> {
    let mut query =
        DeadQuery { state: ask.state.state(), group: ask.group.clone(), limit: READ_STEP, ..DeadQuery::default() };
    let mut ids = Vec::new();
    loop {
        let step = api.store.dead_letters(stream, &query).await?;
        ids.extend(step.items.iter().map(|dead| dead.id));
        query.before = step.items.last().map(|dead| dead.id);
        if step.next.is_none() || query.before.is_none() || ids.len() >= MATCHED_MAX {
            ids.reverse();
            return Ok(ids);
        }
    }
}

/// What became of the entries so far.
#[derive(Debug, Default)]
struct Moved {
    moved: u64,
    missing: u64,
    refused: u64,
    results: Vec<JobResult>,
}

impl Moved {
    fn seen(&self) -> u64 {
        self.moved + self.missing + self.refused
    }

    fn add(&mut self, id: Position, status: DeadStepStatus, word: &'static str, shown: bool) {
        let (status, state, position) = match status {
            DeadStepStatus::Moved(position) => {
                self.moved += 1;
                (word, None, position)
            }
            DeadStepStatus::Missing => {
                self.missing += 1;
                ("missing", None, None)
            }
            DeadStepStatus::Refused(state) => {
                self.refused += 1;
                ("refused", Some(state.as_str()), None)
            }
        };
        if shown {
            let position = position.map(|position| position.to_string());
            self.results.push(JobResult { id: id.to_string(), status, state, position });
        }
    }
}

/// Moves entries step by step.
struct Mover<'a> {
    api: &'a Api,
    stream: &'a StreamName,
    action: DeadAction,
    call: &'a Call,
    reason: &'a str,
    moved: Moved,
}

impl Mover<'_> {
    async fn go(&mut self, ids: &[Position], named: bool, go_on: impl Fn() -> bool) -> Result<()> {
        let mut size = limits::DEAD_STEP_MAX;
        let mut rest = ids;
        while !rest.is_empty() && go_on() {
            let (step, tail) = rest.split_at(size.min(rest.len()));
            match self.step(step).await {
                Ok(statuses) => {
                    for (id, status) in step.iter().zip(statuses) {
                        self.moved.add(*id, status, "moved", named);
                    }
                    rest = tail;
                }
                // Entries that are large together do not fit one commit; fewer do.
                Err(fault) if fault.kind == FaultKind::Limited && step.len() > 1 => size = step.len() / 2,
                // What is moved is moved: an answer that says so is worth more than a fault that does not.
                Err(fault) if self.moved.moved > 0 => {
                    tracing::warn!(?fault, stream = %self.stream, "stopped moving dead letters");
                    return Ok(());
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    async fn step(&self, ids: &[Position]) -> Result<Vec<DeadStepStatus>> {
        let step = DeadStep {
            stream: self.stream.clone(),
            ids: ids.to_vec(),
            action: self.action.clone(),
            by: self.call.actor.name.clone(),
            note: ByteString::from(self.reason),
            job: ByteString::new(),
            progress: None,
        };
        self.api.store.move_dead(&step).await
    }

    /// Says what would become of the entries.
    async fn look(&mut self, ids: &[Position], named: bool, verb: Verb, force: bool) -> Result<()> {
        if !named {
            self.moved.moved = ids.len() as u64;
            return Ok(());
        }
        for id in ids {
            let status = match self.api.store.dead_letter(self.stream, *id).await {
                Ok(dead) => would(dead.state, verb, force),
                Err(fault) if fault.kind == FaultKind::Missing => DeadStepStatus::Missing,
                Err(fault) => return Err(fault),
            };
            self.moved.add(*id, status, "matched", true);
        }
        Ok(())
    }
}

/// Says what a step would do with an entry in a state.
fn would(state: DeadState, verb: Verb, force: bool) -> DeadStepStatus {
    let free = state == DeadState::Parked || (verb == Verb::Reprocess && force);
    if free { DeadStepStatus::Moved(None) } else { DeadStepStatus::Refused(state) }
}

fn tell(call: &Call, stream: &StreamName, verb: Verb, ask: &MoveAsk, moved: &Moved) {
    if ask.dry_run {
        return;
    }
    if verb == Verb::Reprocess {
        call.api.metrics.reprocessed(stream, "reprocessed", moved.moved);
        call.api.metrics.reprocessed(stream, "refused", moved.refused);
        call.api.metrics.reprocessed(stream, "missing", moved.missing);
    }
    if moved.moved > 0 {
        call.api.cx.notices.emit(&Notice::DeadMoved {
            stream: stream.origin(),
            action: verb.name(),
            count: moved.moved,
            by: call.actor.name.to_string(),
            reason: ask.reason.clone(),
        });
    }
}

//! Jobs on dead letters: how far they came, and their end by hand.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use tidegate_core::{clock::Timestamp, config::Time};
use tidegate_engine::{JobVerb, JobView};
use utoipa::ToSchema;

use super::work::wait;
use crate::{
    call::{Call, json, parse},
    problem::Problem,
};

/// A job on dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Job {
    /// Id of the job, and of the action that started it.
    job: String,
    stream: String,
    /// `reprocess`, `resolve`, `discard` or `purge`.
    verb: &'static str,
    /// `running`; `done`; `dry_run` when nothing was to be moved; `stopped` when it ended itself, see `why`; `cancelled`.
    state: &'static str,
    /// The node that drives it, where several share an engine.
    #[serde(skip_serializing_if = "String::is_empty")]
    node: String,
    /// Why it stopped, or what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
    by: String,
    reason: String,
    /// The expression that chose.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    /// Entries that there were to look at when it started.
    total: u64,
    /// Of those, looked at so far.
    looked: u64,
    /// Of those, entries that were meant and exist.
    matched: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reprocessed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discarded: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purged: Option<u64>,
    /// Entries that do not exist, whose state forbids it, or that the patch does not fit.
    failed: u64,
    /// Reprocessed ones that were done since, as far as the job waits for them: canaries, and all with
    /// `stop_on_fail_rate`.
    settled: u64,
    /// Reprocessed ones that failed again, as far as the job waits for them.
    failed_again: u64,
    /// Reprocessed ones that the job waits for now.
    open: u64,
    /// Reprocessed ones that were parked again when the job was undone.
    recalled: u64,
    /// What became of each entry that was named, in input order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<JobResult>,
}

/// What became of one entry.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobResult {
    id: String,
    /// `moved`, `missing`, `refused`, or `unfit` when the patch does not fit; in a dry run `matched` in place of `moved`.
    status: &'static str,
    /// For `refused`: the state that forbids it.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// Where it went, when it was reprocessed.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
}

impl Job {
    pub(crate) fn new(view: &JobView) -> Self {
        let (ask, now) = (&view.ask, &view.progress);
        let count = |verb: JobVerb| (ask.verb == verb).then_some(now.moved);
        Self {
            job: view.id.clone(),
            stream: ask.stream.to_string(),
            verb: ask.verb.as_str(),
            state: now.state.as_str(),
            node: now.node.clone(),
            why: now.why.clone(),
            created_at: now.created_at,
            ended_at: now.ended_at,
            by: ask.by.clone(),
            reason: ask.reason.clone(),
            filter: ask.filter.as_ref().map(|filter| filter.source().to_owned()),
            total: now.total,
            looked: now.looked,
            matched: now.matched,
            reprocessed: count(JobVerb::Reprocess),
            resolved: count(JobVerb::Resolve),
            discarded: count(JobVerb::Discard),
            purged: count(JobVerb::Purge),
            failed: now.failed(),
            settled: now.settled,
            failed_again: now.failed_again,
            open: now.open(),
            recalled: now.recalled,
            results: view
                .became
                .iter()
                .map(|one| JobResult {
                    id: one.id.to_string(),
                    status: one.status,
                    state: one.state.map(tidegate_core::store::DeadState::as_str),
                    position: one.position.map(|position| position.to_string()),
                })
                .collect(),
        }
    }
}

/// Jobs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Jobs {
    jobs: Vec<Job>,
}

#[utoipa::path(
    get, path = "/v1/dlq/jobs", tag = "dlq", operation_id = "dlq_jobs",
    summary = "List jobs on dead letters, newest first",
    description = "Those that run, and the last hundred that ended.",
    responses((status = 200, description = "The jobs.", body = Jobs))
)]
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    // While the engine is away this node tells what it knows.
    drop(call.api.desk.look().await);
    let jobs = call.api.desk.jobs();
    json(&Jobs { jobs: jobs.iter().map(|view| Job { results: Vec::new(), ..Job::new(view) }).collect() })
}

/// How a job is shown.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ShowQuery {
    /// How long the answer waits for the end of the job; not at all when absent.
    #[param(value_type = Option<String>)]
    wait: Option<Time>,
}

#[utoipa::path(
    get, path = "/v1/dlq/jobs/{job}", tag = "dlq", operation_id = "dlq_job",
    summary = "Show a job on dead letters",
    params(("job" = String, Path, description = "Id of the job."), ShowQuery),
    responses((status = 200, description = "The job.", body = Job))
)]
pub(crate) async fn show(call: Call) -> Result<Response, Problem> {
    let query: ShowQuery = call.query()?;
    let id = call.job()?;
    drop(call.api.desk.look().await);
    let view = match query.wait {
        None => call.api.desk.job(&id)?,
        Some(time) => call.api.desk.wait(&id, wait(Some(time))?).await?,
    };
    json(&Job::new(&view))
}

/// How a job is ended.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CancelAsk {
    /// Park again what the job reprocessed and no handler has seen yet.
    undo: bool,
    /// Why.
    reason: String,
}

#[utoipa::path(
    post, path = "/v1/dlq/jobs/{job}/cancel", tag = "dlq", operation_id = "dlq_cancel",
    summary = "End a job on dead letters",
    params(("job" = String, Path, description = "Id of the job.")),
    request_body = CancelAsk,
    responses((status = 200, description = "The job as it ended.", body = Job))
)]
pub(crate) async fn cancel(mut call: Call) -> Result<Response, Problem> {
    let body = call.json_body().await?;
    let ask: CancelAsk = parse(&body)?;
    let id = call.job()?.into_owned();
    let view = call.api.desk.cancel(&id, ask.undo, wait(None)?).await?;
    call.action("dlq.cancel", &id, &ask.reason);
    json(&Job::new(&view))
}

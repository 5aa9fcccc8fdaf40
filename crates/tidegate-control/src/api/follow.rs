//! What happens, as it happens: notices and events, and the node's log.

use std::{path::PathBuf, time::Duration};

use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use tidegate_core::{clock::Timestamp, fault::Fault, service::Context};
use utoipa::IntoParams;

use super::bounded;
use crate::{
    call::Call,
    follow::{ALIVE_EVERY, AsyncNext, Seat, Subscribed, Subscription, lines},
    logs::{LogQuery, LogTail, read_logs},
    problem::Problem,
};

/// Time between two looks at the log.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Lines of the log when the request does not say.
const LINES_DEFAULT: usize = 200;
/// Most lines of the log in one answer.
const LINES_MAX: usize = 100_000;

/// What is subscribed to.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SubscribeQuery {
    /// Names of notices such as `group.paused`, or `stream/NAME` for the events of a stream; `*` stands for anything,
    /// and commas separate several. `*` alone, all notices, when absent.
    pattern: Option<String>,
}

#[utoipa::path(
    get, path = "/v1/subscribe", tag = "look", operation_id = "subscribe",
    summary = "Follow notices and events as they come",
    description = "One JSON document a line: `{\"at\",\"notice\",\"fields\"}` for a notice, \
        `{\"at\",\"stream\",\"position\",\"event\"}` for an event. A follower that is too slow for its notices is told \
        `{\"dropped\":N}`; events are never dropped. An empty line shows that the node is alive.",
    params(SubscribeQuery),
    responses((status = 200, description = "Lines until the client leaves.", body = String, content_type = "application/x-ndjson"))
)]
pub(crate) async fn subscribe(call: Call) -> Result<Response, Problem> {
    let query: SubscribeQuery = call.query()?;
    let subscription = Subscription::open(&call.api, query.pattern.as_deref().unwrap_or("*")).await?;
    Ok(lines(subscription, Subscribed))
}

/// Which lines of the log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogsQuery {
    /// Only from this time on.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Only this bad or worse: `trace`, `debug`, `info`, `warn` or `error`.
    level: Option<String>,
    /// Only with this text anywhere in the line.
    grep: Option<String>,
    /// Most lines, the newest; 200 when absent.
    limit: Option<usize>,
    /// Go on with new lines until the client leaves.
    #[serde(default)]
    follow: bool,
}

#[utoipa::path(
    get, path = "/v1/logs", tag = "look", operation_id = "logs",
    summary = "Read the node's log",
    description = "The log is kept in a bounded number of files in the data directory, one JSON document a line.",
    params(LogsQuery),
    responses((status = 200, description = "Lines, oldest first.", body = String, content_type = "application/x-ndjson"))
)]
pub(crate) async fn logs(call: Call) -> Result<Response, Problem> {
    let ask: LogsQuery = call.query()?;
    let limit = bounded("limit", ask.limit.unwrap_or(LINES_DEFAULT), LINES_MAX)?;
    let Some(data) = &call.api.data else { return Err(Fault::missing("this node keeps no log").into()) };
    let dir: PathBuf = data.join("logs");
    let level = ask.level.map(|level| level.parse().map_err(Fault::invalid)).transpose()?;
    let query = LogQuery { since: ask.since, level, grep: ask.grep };
    let seat = if ask.follow { Some(call.api.followers.seat()?) } else { None };
    let tail = LogTail::at_end(&dir);
    let first = read_logs(&dir, &query, limit);
    Ok(lines(Reading { first: Some(first), tail, query, cx: call.api.cx.clone(), seat }, Read))
}

/// A log that is being read.
struct Reading {
    first: Option<Vec<String>>,
    tail: LogTail,
    query: LogQuery,
    cx: Context,
    /// None: what was there at first is all.
    seat: Option<Seat>,
}

struct Read;

impl AsyncNext<Reading> for Read {
    async fn next(&self, state: &mut Reading) -> Option<Bytes> {
        if let Some(first) = state.first.take().filter(|first| !first.is_empty()) {
            return Some(joined(&first));
        }
        state.seat.as_ref()?;
        let quiet_until = state.cx.clock.now().plus(ALIVE_EVERY);
        loop {
            let fresh = state.tail.read(&state.query);
            if !fresh.is_empty() {
                return Some(joined(&fresh));
            }
            if state.cx.clock.now() >= quiet_until {
                return Some(Bytes::from_static(b"\n"));
            }
            tokio::select! {
                () = state.cx.clock.sleep(LOOK_EVERY) => {}
                () = state.cx.stop.draining() => return None,
            }
        }
    }
}

fn joined(lines: &[String]) -> Bytes {
    let mut out = lines.join("\n");
    out.push('\n');
    out.into()
}

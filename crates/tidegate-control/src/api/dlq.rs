//! Dead letters: list, show, report; and what an operator does with them, see [`work`].

mod document;
pub(crate) mod import;
pub(crate) mod jobs;
pub(crate) mod work;

use std::{collections::HashMap, time::Duration};

use axum::response::Response;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Timestamp,
    config::Time,
    delivery::Position,
    fault::{Fault, Result},
    limits,
    names::{GroupName, StreamName},
    store::{DeadQuery, DeadReport, DeadState},
};
use tidegate_engine::{DESK_NAMES, dead_scope};
use tidegate_rules::{EVENT_NAMES, Expr};
use utoipa::{IntoParams, ToSchema};

pub(crate) use self::document::Entry;
use super::bounded;
use crate::{
    api::Api,
    call::{Call, json, json_bytes},
    problem::Problem,
};

/// Entries that are read from the store in one step: a page is never held in memory beyond its bytes and one step.
const READ_STEP: usize = 64;

/// Entries of a page when the request does not say.
const PAGE_DEFAULT: usize = 100;

/// Longest time that one page is looked for.
const LOOK_TIME: Duration = Duration::from_secs(10);

/// Signatures that a report shows.
const TOP: usize = 100;

/// Newest entries that a report shows.
const RECENT: usize = 5;

/// Which state is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AskedState {
    /// Waits for somebody.
    #[default]
    Parked,
    /// Went back into its stream.
    Reprocessed,
    /// Somebody took care of it elsewhere.
    Resolved,
    /// Somebody gave it up.
    Discarded,
    /// Retention gave it up.
    Expired,
    /// Whatever the state.
    All,
}

impl AskedState {
    fn state(self) -> Option<DeadState> {
        match self {
            Self::Parked => Some(DeadState::Parked),
            Self::Reprocessed => Some(DeadState::Reprocessed),
            Self::Resolved => Some(DeadState::Resolved),
            Self::Discarded => Some(DeadState::Discarded),
            Self::Expired => Some(DeadState::Expired),
            Self::All => None,
        }
    }
}

/// Which entries are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only in this state; `parked` when absent.
    #[serde(default)]
    #[param(inline)]
    state: AskedState,
    /// Only of this group.
    #[param(value_type = Option<String>)]
    group: Option<GroupName>,
    /// Only those for which this expression is true; see reprocess for what it sees.
    #[serde(rename = "where")]
    #[param(value_type = Option<String>, rename = "where")]
    filter: Option<Expr>,
    /// Only those buried longer ago than this, such as `30d`.
    #[param(value_type = Option<String>)]
    older: Option<Time>,
    /// Only older than this id.
    #[param(value_type = Option<String>)]
    before: Option<Position>,
    /// Only newer than this id, and oldest first; `next` then goes into `after`. `0` starts at the oldest.
    #[param(value_type = Option<String>)]
    after: Option<Position>,
    /// Most entries, at most 1000; 100 when absent.
    limit: Option<usize>,
}

/// A page of dead letters, newest first; `next` goes into `before` for the next page, and is null at the end. With
/// `where`, a page may be short when many had to be looked at.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the shape of an answer that is written entry by entry")]
pub(crate) struct Entries {
    entries: Vec<Entry>,
    next: Option<String>,
}

#[utoipa::path(
    get, path = "/v1/dlq/{stream}", tag = "dlq", operation_id = "dlq_list",
    summary = "List dead letters, newest first",
    params(("stream" = String, Path, description = "The stream, its `.dlq`, or an alias of that."), ListQuery),
    responses((status = 200, description = "A page of dead letters.", body = Entries))
)]
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    let stream = call.dead_of()?;
    let query: ListQuery = call.query()?;
    let limit = bounded("limit", query.limit.unwrap_or(PAGE_DEFAULT), limits::PAGE_MAX)?;
    let mut ask = DeadQuery {
        state: query.state.state(),
        group: query.group,
        before: query.before,
        after: query.after,
        until: query.older.map(|older| call.api.cx.clock.now().minus(older.get())),
        limit: READ_STEP,
        ..DeadQuery::default()
    };
    if let Some(filter) = &query.filter {
        let known: Vec<&str> = EVENT_NAMES.into_iter().chain(DESK_NAMES).collect();
        filter.require(&known).map_err(|fault| fault.within("where"))?;
    }
    let watch = call.api.cx.clock.stopwatch();
    let mut out = b"{\"entries\":[".to_vec();
    let mut taken = 0;
    let next = loop {
        ask.limit = if query.filter.is_some() { READ_STEP } else { READ_STEP.min(limit - taken) };
        let step = call.api.store.dead_letters(&stream, &ask).await?;
        let mut is_read = true;
        for dead in step.items {
            if taken == limit {
                is_read = false;
                break;
            }
            let place = Some(dead.id);
            *if query.after.is_some() { &mut ask.after } else { &mut ask.before } = place;
            if let Some(filter) = &query.filter
                && !filter.test(&dead_scope(&dead)).map_err(|fault| fault.within("where"))?
            {
                continue;
            }
            if taken > 0 {
                out.push(b',');
            }
            taken += 1;
            let entry = Entry::new(dead)?;
            serde_json::to_writer(&mut out, &entry)
                .map_err(|err| Fault::bug("write a dead letter as JSON").because(err))?;
            if out.len() >= limits::CLAIM_BYTES_MAX {
                is_read = false;
                break;
            }
        }
        if step.next.is_none() && is_read {
            break None;
        }
        if taken == limit || !is_read || watch.elapsed() > LOOK_TIME {
            break if query.after.is_some() { ask.after } else { ask.before };
        }
        tokio::task::yield_now().await;
    };
    out.extend_from_slice(b"],\"next\":");
    match next {
        Some(next) => crate::call::write_shown(next, &mut out),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(json_bytes(out))
}

#[utoipa::path(
    get, path = "/v1/dlq/{stream}/{id}", tag = "dlq", operation_id = "dlq_show",
    summary = "Show a dead letter",
    params(
        ("stream" = String, Path, description = "The stream, its `.dlq`, or an alias of that."),
        ("id" = String, Path, description = "Id of the dead letter."),
    ),
    responses((status = 200, description = "The dead letter.", body = Entry))
)]
pub(crate) async fn show(call: Call) -> Result<Response, Problem> {
    let (stream, text) = (call.dead_of()?, call.id()?);
    // What is no id is the id of none: whoever looks for an entry is told that it is not there, in whatever form they ask.
    let id = text.parse().map_err(|_| Fault::missing(format!("there is no dead letter {text:?} of {stream}")))?;
    json(&Entry::new(call.api.store.dead_letter(&stream, id).await?)?)
}

/// What a report looks at.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReportQuery {
    /// How far back; 24 when absent, at most 8760.
    hours: Option<usize>,
    /// Compare with as many hours before.
    #[serde(default)]
    compare: bool,
}

/// Dead letters of a stream in numbers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Report {
    stream: String,
    time_window_hours: usize,
    #[schema(value_type = String, format = DateTime)]
    start_time: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    end_time: Timestamp,
    /// Entries buried in the window, whatever their state now.
    total_failed_messages: u64,
    /// With `compare`: entries buried in as many hours before.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_total_failed_messages: Option<u64>,
    /// With `compare`: how many more than before.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<i64>,
    /// Of those, by signature, most frequent first, at most 100.
    top_errors: Vec<TopError>,
    /// Of those, by CloudEvents type.
    #[schema(value_type = Object)]
    event_types: serde_json::Map<String, serde_json::Value>,
    /// Of those, by group.
    #[schema(value_type = Object)]
    groups: serde_json::Map<String, serde_json::Value>,
    /// Of those, by class of the last fault.
    #[schema(value_type = Object)]
    classes: serde_json::Map<String, serde_json::Value>,
    /// Of those, by state now.
    #[schema(value_type = Object)]
    states: serde_json::Map<String, serde_json::Value>,
    /// All that wait for somebody, whenever they were buried, by group.
    #[schema(value_type = Object)]
    parked: serde_json::Map<String, serde_json::Value>,
    /// Entries of the window by time: 24 equal parts of it, oldest first.
    trend: Vec<u64>,
    /// When the oldest entry that waits for somebody was buried.
    #[schema(value_type = Option<String>, format = DateTime)]
    oldest: Option<Timestamp>,
    /// The newest of the window.
    recent_messages: Vec<Recent>,
}

/// How often one kind of fault happened.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TopError {
    signature: String,
    count: u64,
    /// With `compare`: how often before.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_count: Option<u64>,
    /// Id of the newest entry with this signature.
    example_id: String,
}

/// A dead letter in short.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Recent {
    id: String,
    event_id: String,
    event_type: String,
    group: String,
    state: &'static str,
    class: &'static str,
    message: String,
    #[schema(value_type = String, format = DateTime)]
    failed_at: Timestamp,
}

fn counts<K: ToString>(counts: Vec<(K, u64)>) -> serde_json::Map<String, serde_json::Value> {
    counts.into_iter().map(|(key, count)| (key.to_string(), count.into())).collect()
}

#[utoipa::path(
    get, path = "/v1/dlq/{stream}/report", tag = "dlq", operation_id = "dlq_report",
    summary = "Count dead letters",
    params(("stream" = String, Path, description = "The stream, its `.dlq`, or an alias of that."), ReportQuery),
    responses((status = 200, description = "The report.", body = Report))
)]
pub(crate) async fn report(call: Call) -> Result<Response, Problem> {
    let stream = call.dead_of()?;
    let query: ReportQuery = call.query()?;
    let hours = bounded("hours", query.hours.unwrap_or(24), 24 * 365)?;
    let end = call.api.cx.clock.now();
    let start = end.minus(Duration::from_secs(3600) * u32::try_from(hours).unwrap_or(u32::MAX));
    let DeadReport { total, states, signatures, kinds, groups, classes, oldest, parked, trend } =
        call.api.store.dead_report(&stream, start, end.plus(Duration::from_millis(1))).await?;
    let before = if query.compare {
        let earlier = start.minus(end.since(start));
        Some(call.api.store.dead_report(&stream, earlier, start).await?)
    } else {
        None
    };
    let counted: Option<HashMap<&str, u64>> =
        before.as_ref().map(|before| before.signatures.iter().map(|(text, count, _)| (&**text, *count)).collect());
    json(&Report {
        previous_total_failed_messages: before.as_ref().map(|before| before.total),
        change: before.as_ref().map(|before| total as i64 - before.total as i64),
        recent_messages: recent(&call.api, &stream, start).await?,
        stream: stream.into(),
        time_window_hours: hours,
        start_time: start,
        end_time: end,
        total_failed_messages: total,
        top_errors: signatures
            .into_iter()
            .take(TOP)
            .map(|(signature, count, example)| TopError {
                previous_count: counted.as_ref().map(|counted| counted.get(&*signature).copied().unwrap_or(0)),
                signature: signature.to_string(),
                count,
                example_id: example.to_string(),
            })
            .collect(),
        event_types: counts(kinds),
        groups: counts(groups),
        classes: counts(classes),
        states: counts(states.into_iter().map(|(state, count)| (state.as_str(), count)).collect()),
        parked: counts(parked),
        trend,
        oldest,
    })
}

async fn recent(api: &Api, stream: &StreamName, since: Timestamp) -> Result<Vec<Recent>> {
    let ask = DeadQuery { since: Some(since), limit: RECENT, ..DeadQuery::default() };
    let newest = api.store.dead_letters(stream, &ask).await?.items;
    let short = |dead: tidegate_core::store::DeadLetter| Recent {
        id: dead.id.to_string(),
        event_id: dead.event.id.to_string(),
        event_type: dead.event.kind.to_string(),
        group: dead.group.into(),
        state: dead.state.as_str(),
        class: dead.class.as_str(),
        message: dead.message.to_string(),
        failed_at: dead.failed_at,
    };
    Ok(newest.into_iter().map(short).collect())
}

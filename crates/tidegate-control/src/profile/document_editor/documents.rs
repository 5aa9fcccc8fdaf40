//! The documents of metrics of the roles. All members are at the top; old clients find the same under `metrics`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value, json};
use tidegate_core::{
    fault::{FaultKind, Result},
    names::{GroupName, StreamName},
    store::GroupStatus,
};
use tidegate_engine::{Direction, ModuleView};

use crate::{
    api::Api,
    profile::{
        Figure, FigureSpec,
        figures::{Fold, members},
    },
};

pub(super) static RELAY: &[&FigureSpec] =
    &[&PUBLISHED, &BURIED, &BACKLOG, &PUBLISH_SUCCESS, &PUBLISH_FAILURE, &RELAY_RATE];
pub(super) static CONSUMER: &[&FigureSpec] = &[&CONSUMED, &LAG, &PROCESSED, &FAILED, &CONSUMER_RATE];

const fn split(name: &'static str, label: &'static str, fold: Fold, help: &'static str) -> FigureSpec {
    FigureSpec { name, label: Some(label), help, fold }
}

const fn one(name: &'static str, help: &'static str) -> FigureSpec {
    FigureSpec { name, label: None, help, fold: Fold::Each }
}

static PUBLISHED: FigureSpec =
    split("events_published_total", "topic", Fold::Each, "Events that sources brought into a stream since the start.");
static BURIED: FigureSpec = split(
    "events_dlq_total",
    "topic",
    Fold::Each,
    "Deliveries of a stream buried in the dead letters, and rows that its sources parked, since the start.",
);
static BACKLOG: FigureSpec = one("outbox_backlog", "Rows of all outboxes that are not published.");
static PUBLISH_SUCCESS: FigureSpec = one("publish_success_total", "Events that sources brought since the start.");
static PUBLISH_FAILURE: FigureSpec =
    one("publish_failure_total", "Publishes that a stream refused, and rows that were parked, since the start.");
static RELAY_RATE: FigureSpec = one("success_rate", "Share of publishes that went well, in percent.");
static CONSUMED: FigureSpec =
    split("events_consumed_total", "topic", Fold::Each, "Attempts at events of a stream that ended since the start.");
static LAG: FigureSpec = split(
    "consumer_lag_seconds",
    "consumer_group",
    Fold::Max,
    "Age of the oldest event that waits for a group, or longest time that it works on one; 0 when it has caught up. Not known while the store is away.",
);
static PROCESSED: FigureSpec = one("events_processed_success", "Attempts that ended well since the start.");
static FAILED: FigureSpec = one("events_processed_failure", "Attempts that failed since the start.");
static CONSUMER_RATE: FigureSpec = one("success_rate", "Share of attempts that ended well, in percent.");

/// A part of a whole in percent, to two decimals; none of nothing.
pub(super) fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 * 10_000.0 / whole as f64).round() / 100.0)
}

/// A rate of success; where nothing was tried, nothing failed.
fn success_rate(success: f64, failure: f64) -> f64 {
    percent(success as u64, (success + failure) as u64).unwrap_or(100.0)
}

/// The sources over an outbox.
pub(super) fn outboxes(api: &Api) -> Vec<ModuleView> {
    let mut all = sources(api);
    all.retain(|source| source.details.get("outbox").is_some());
    all
}

fn sources(api: &Api) -> Vec<ModuleView> {
    let mut all = api.modules.list().unwrap_or_default();
    all.retain(|module| module.direction == Direction::Source);
    all
}

/// The sources whose events are published: those over an outbox, or all where there is none.
fn relays(api: &Api) -> Vec<ModuleView> {
    let outboxes = outboxes(api);
    if outboxes.is_empty() { sources(api) } else { outboxes }
}

/// Rows of all outboxes that are not published; none before they were counted.
pub(super) fn backlog(api: &Api) -> Option<u64> {
    let known = outboxes(api).into_iter().filter_map(|source| source.details.get("outbox")?.get("backlog")?.as_u64());
    known.fold(None, |sum, backlog| Some(sum.unwrap_or(0) + backlog))
}

/// Counts up what the relay did.
pub(super) async fn relay(api: Arc<Api>) -> Result<Vec<Figure>> {
    let sources = relays(&api);
    let (buried, refused) = api.metrics.misfortunes();
    let topics: BTreeSet<_> = sources.iter().map(|source| source.stream.clone()).collect();
    let (mut published, mut lost) = (BTreeMap::<String, f64>::new(), BTreeMap::<String, f64>::new());
    for topic in &topics {
        published.insert(topic.to_string(), 0.0);
        lost.insert(topic.to_string(), buried.get(topic).copied().unwrap_or(0) as f64);
    }
    let mut failure: u64 = topics.iter().filter_map(|topic| refused.get(topic)).sum();
    for source in &sources {
        *published.entry(source.stream.to_string()).or_default() += source.brought.accepted as f64;
        *lost.entry(source.stream.to_string()).or_default() += source.brought.rejected as f64;
        failure += source.brought.rejected;
    }
    let (success, failure) = (published.values().sum::<f64>(), failure as f64);
    Ok(vec![
        PUBLISHED.split(published),
        BURIED.split(lost),
        BACKLOG.one(backlog(&api).unwrap_or(0) as f64),
        PUBLISH_SUCCESS.one(success),
        PUBLISH_FAILURE.one(failure),
        RELAY_RATE.one(success_rate(success, failure)),
    ])
}

/// The document of the relay.
pub(super) async fn relay_document(api: &Arc<Api>) -> Result<Map<String, Value>> {
    let figures = relay(Arc::clone(api)).await?;
    let last = relays(api).into_iter().filter_map(|source| source.brought.accepted_at).max();
    let mut all = members(&figures);
    all.insert("last_publish_timestamp".to_owned(), json!(last));
    all.insert("recent_errors".to_owned(), json!(api.memory.witness().map(|witness| witness.refused())));
    Ok(document(api, all.into()))
}

/// A group that a listener is about.
pub(super) struct Member {
    pub(super) name: GroupName,
    pub(super) stream: StreamName,
    /// What the store tells of it; none while the store is away.
    pub(super) status: Option<GroupStatus>,
}

/// The groups that a listener is about. Who asks while the store is away is told what is known without it.
pub(super) async fn groups(api: &Api, only: Option<&GroupName>) -> Result<Vec<Member>> {
    let told = match only {
        Some(group) => api.store.group(group).await.map(|one| vec![one]),
        None => api.store.groups().await,
    };
    let told = match told {
        Err(fault) if matches!(fault.kind, FaultKind::Unavailable | FaultKind::Timeout) => None,
        told => Some(told?),
    };
    if let Some(told) = told {
        let member =
            |one: GroupStatus| Member { name: one.name.clone(), stream: one.stream.clone(), status: Some(one) };
        return Ok(told.into_iter().map(member).collect());
    }
    let names = only.map_or_else(|| api.groups.names(), |one| vec![one.clone()]);
    let known = |name: GroupName| Some(Member { stream: api.groups.glance(&name).ok()?.stream, name, status: None });
    Ok(names.into_iter().filter_map(known).collect())
}

/// How far behind a group is, in seconds; none while the store is away.
pub(super) fn lag_seconds(api: &Api, group: &Member) -> Option<f64> {
    let status = group.status.as_ref()?;
    let waits = status.oldest_waiting.max(status.oldest_blocked).unwrap_or_default();
    Some(waits.max(oldest_pending(api, &group.name).unwrap_or_default()).as_secs_f64())
}

/// Longest time that a group works on one event.
pub(super) fn oldest_pending(api: &Api, group: &GroupName) -> Option<Duration> {
    let now = api.cx.clock.now();
    let running = api.groups.running().into_iter().filter(|attempt| attempt.group == *group);
    running.map(|attempt| now.since(attempt.since)).max()
}

/// Counts up what consumers did.
pub(super) async fn consumer(api: Arc<Api>, only: Option<GroupName>) -> Result<Vec<Figure>> {
    let groups = groups(&api, only.as_ref()).await?;
    Ok(figures(&api, &groups))
}

fn figures(api: &Api, groups: &[Member]) -> Vec<Figure> {
    let (counted, _) = api.metrics.counted();
    let (mut consumed, mut lags) = (BTreeMap::<String, f64>::new(), BTreeMap::new());
    let (mut success, mut ended) = (0, 0);
    for group in groups {
        let (all, done) = counted.get(&group.name).map_or((0, 0), |one| (one.duration.total(), one.done));
        *consumed.entry(group.stream.to_string()).or_default() += all as f64;
        lags.extend(lag_seconds(api, group).map(|lag| (group.name.to_string(), lag)));
        (success, ended) = (success + done, ended + all);
    }
    let (success, failure) = (success as f64, ended.saturating_sub(success) as f64);
    vec![
        CONSUMED.split(consumed),
        LAG.split(lags),
        PROCESSED.one(success),
        FAILED.one(failure),
        CONSUMER_RATE.one(success_rate(success, failure)),
    ]
}

/// The document of consumers of these groups.
pub(super) fn consumer_document(api: &Api, groups: &[Member]) -> Map<String, Value> {
    let names = || groups.iter().map(|group| &group.name);
    let witness = api.memory.witness();
    let last = witness.and_then(|witness| witness.last(names()));
    let mut all = members(&figures(api, groups));
    if groups.iter().any(|group| group.status.is_none()) {
        all.insert(LAG.name.to_owned(), Value::Null);
    }
    all.extend([
        ("service_name".to_owned(), json!(api.node.name)),
        ("consumer_group".to_owned(), json!(names().next().map(GroupName::as_str))),
        ("last_consumed_timestamp".to_owned(), json!(last.as_ref().map(|last| last.at))),
        ("last_processed_event_id".to_owned(), json!(last.as_ref().map(|last| &*last.event))),
        ("recent_errors".to_owned(), json!(witness.map(|witness| witness.failed(names())))),
    ]);
    document(api, all.into())
}

/// Adds what every document has, and the members once more under `metrics`.
pub(super) fn document(api: &Api, figures: Value) -> Map<String, Value> {
    let Value::Object(mut all) = figures else { return Map::new() };
    let now = api.cx.clock.now();
    all.insert("uptime_seconds".to_owned(), json!(now.since(api.started_at).as_secs_f64()));
    all.insert("timestamp".to_owned(), json!(now));
    let mirror = all.clone();
    all.insert("status".to_owned(), json!("success"));
    all.insert("metrics".to_owned(), mirror.into());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_two_decimals() {
        assert_eq!(success_rate(1247.0, 8.0), 99.36);
        assert_eq!(success_rate(1241.0, 3.0), 99.76);
        assert_eq!(success_rate(0.0, 0.0), 100.0);
        assert_eq!(success_rate(0.0, 3.0), 0.0);
    }
}

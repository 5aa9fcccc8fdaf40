//! How the node is: each part with its state, cause and since when, and the node as a whole from them.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use tidegate_core::{
    clock::Timestamp,
    guard::{BreakerState, GuardView},
    service::StopPhase,
    store::{Promises, StoreStatus, StreamStatus},
};
use tidegate_engine::{Direction, Glance, ModuleState, ModuleView, Pause, WATERMARKS, backlog_percent};
use utoipa::ToSchema;

use crate::{api::Api, metrics::process::ProcessFacts, system::SystemFacts};

/// Times that a part may let pass what it promised as its longest time between two signs of life.
const LATE_FACTOR: u32 = 3;

/// Time without progress after which the store counts as stuck. Longer than the longest pause of a disk that is only
/// slow, shorter than what a caller waits for an answer.
const STORE_STUCK: Duration = Duration::from_secs(30);

/// State of a part, from good to bad; a part that is off at somebody's wish is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// All is well.
    Healthy,
    /// Off at somebody's wish, for a while.
    Paused,
    /// Off until somebody turns it on.
    Disabled,
    /// It works, but not as it should.
    Degraded,
    /// It does not work.
    Unhealthy,
}

impl State {
    /// Returns the word used in answers.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// What it means for the whole: what somebody wished for is no illness.
    pub(crate) fn for_the_whole(self) -> Self {
        match self {
            Self::Healthy | Self::Paused | Self::Disabled => Self::Healthy,
            Self::Degraded => Self::Degraded,
            Self::Unhealthy => Self::Unhealthy,
        }
    }
}

/// How the node is, part by part.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthDetail {
    /// `healthy`, `degraded` or `unhealthy`.
    status: State,
    node: String,
    environment: Option<String>,
    version: String,
    /// Fingerprint of the configuration in force.
    config: String,
    components: Vec<Component>,
    promises: PromisesDetail,
    /// Damage that the store found: each with place and consequence.
    damage: Vec<String>,
    process: ProcessDetail,
    system: SystemFacts,
    /// Bytes of the store, by what they are for.
    data_bytes: BTreeMap<&'static str, u64>,
}

/// This process.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProcessDetail {
    pid: u32,
    /// Processor time used so far.
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    open_files: Option<u64>,
    max_files: Option<u64>,
    uptime_seconds: f64,
}

/// A part of the node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Component {
    /// What it is, such as `store`, `group/deliver`, `target/partner` or `service/upkeep`.
    component: String,
    state: State,
    /// Why it is not healthy.
    cause: Option<String>,
    /// Since when it is in this state, as far as this node has seen it.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Parts of this part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion, value_type = Vec<Component>)]
    components: Vec<Self>,
}

/// What the engine promises, in words where no number says it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PromisesDetail {
    loss_window: String,
    duplicate_window: String,
    ordered_by_key: bool,
    atomic_settle: bool,
    durable: bool,
    shared: bool,
    /// Events wait for others that they name.
    dependencies: bool,
    /// Groups take what is more urgent first.
    priorities: bool,
}

impl Component {
    #[cfg(test)]
    pub(crate) fn new(name: &str, state: State, cause: Option<&str>, since: Timestamp, components: Vec<Self>) -> Self {
        Self { component: name.to_owned(), state, cause: cause.map(str::to_owned), since, components }
    }

    pub(crate) fn name(&self) -> &str {
        &self.component
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    pub(crate) fn parts(&self) -> &[Self] {
        &self.components
    }
}

impl HealthDetail {
    pub(crate) fn state(&self) -> State {
        self.status
    }
}

impl From<Promises> for PromisesDetail {
    fn from(promises: Promises) -> Self {
        Self {
            loss_window: promises.loss_window,
            duplicate_window: promises.duplicate_window,
            ordered_by_key: promises.ordered_by_key,
            atomic_settle: promises.atomic_settle,
            durable: promises.durable,
            shared: promises.shared,
            dependencies: promises.dependencies,
            priorities: promises.priorities,
        }
    }
}

/// Remembers since when each part is in its state.
#[derive(Debug, Default)]
pub(crate) struct Health {
    seen: Mutex<HashMap<String, (State, Timestamp)>>,
}

/// What was found of a part; `since` when the part knows it itself.
struct Found {
    state: State,
    cause: Option<String>,
    since: Option<Timestamp>,
}

impl Found {
    fn healthy() -> Self {
        Self { state: State::Healthy, cause: None, since: None }
    }

    fn because(state: State, cause: impl Into<String>) -> Self {
        Self { state, cause: Some(cause.into()), since: None }
    }

    fn since(self, since: Timestamp) -> Self {
        Self { since: Some(since), ..self }
    }
}

impl Health {
    fn component(&self, component: String, found: Found, now: Timestamp, components: Vec<Component>) -> Component {
        let Found { state, cause, since } = found;
        let mut seen = self.seen.lock();
        let entry = seen.entry(component.clone()).or_insert((state, now));
        if entry.0 != state {
            *entry = (state, now);
        }
        let since = since.unwrap_or(entry.1);
        Component { component, state, cause, since, components }
    }

    /// A part that is as bad as the worst of its own parts.
    fn parent(&self, component: &str, now: Timestamp, parts: Vec<Component>) -> Component {
        let state = worst(&parts);
        let cause = parts.iter().find(|part| part.state == state && state != State::Healthy);
        let cause = cause.map(|part| part.component.clone());
        self.component(component.to_owned(), Found { state, cause, since: None }, now, parts)
    }
}

fn worst(parts: &[Component]) -> State {
    parts.iter().map(|part| part.state.for_the_whole()).max().unwrap_or(State::Healthy)
}

/// How the node is as a whole. Asks nobody: whatever takes time was looked at before.
pub(crate) fn state(api: &Api) -> State {
    worst(&components(api))
}

/// Looks at every part.
pub(crate) fn components(api: &Api) -> Vec<Component> {
    let now = api.cx.clock.now();
    let health = &api.health;
    let status = api.store.status();
    let seen = api.observed.newest();
    let mut groups = Vec::new();
    for name in api.groups.names() {
        let Ok(glance) = api.groups.glance(&name) else { continue };
        let waiting = seen.as_ref().and_then(|seen| seen.groups.get(&name)).map_or(0, |status| status.waiting);
        groups.push(health.component(
            format!("group/{name}"),
            group(&glance, waiting, api.started_at, now),
            now,
            Vec::new(),
        ));
    }
    let all_streams = seen.iter().flat_map(|seen| &seen.streams).filter(|status| !status.name.is_dead_letters());
    let streams = all_streams
        .map(|status| health.component(format!("stream/{}", status.name), stream(status), now, Vec::new()))
        .collect();
    let known = api.groups.names();
    for status in seen.iter().flat_map(|seen| seen.groups.values()).filter(|status| !known.contains(&status.name)) {
        let needs = api.sides.get(&status.name).map(|side| format!("its replay needs group {}, which", side.ask.with));
        let it = needs.as_deref().unwrap_or("it");
        let cause = format!("{it} is not in the configuration; it holds back retention of {}", status.stream);
        let found = Found::because(State::Degraded, cause);
        groups.push(health.component(format!("group/{}", status.name), found, now, Vec::new()));
    }
    let targets = api.guards.iter().map(|guard| {
        let view = guard.view();
        health.component(format!("target/{}", view.name), target(&view), now, Vec::new())
    });
    let services = api.supervisor.progress().into_iter().map(|progress| {
        let late = now.since(progress.at) > progress.every * LATE_FACTOR;
        let found = if late {
            Found::because(State::Unhealthy, "it made no progress").since(progress.at)
        } else {
            Found::healthy()
        };
        health.component(format!("service/{}", progress.name), found, now, Vec::new())
    });
    let sources = api.modules.list().unwrap_or_default().into_iter();
    let sources = sources.filter(|module| module.direction == Direction::Source);
    let sources = sources.map(|view| health.component(format!("source/{}", view.name), source(&view), now, Vec::new()));
    let mut all = vec![
        health.component("node".to_owned(), node(api), now, Vec::new()),
        health.component("store".to_owned(), store(&status, now), now, Vec::new()),
        health.parent("services", now, services.collect()),
        health.parent("sources", now, sources.collect()),
        health.component("intake".to_owned(), intake(api), now, Vec::new()),
        health.parent("streams", now, streams),
        health.parent("groups", now, groups),
        health.parent("targets", now, targets.collect()),
    ];
    all.extend(around(api, now));
    all
}

/// What is around the node: the others on its engine, and what it needs outside. Only what there is.
fn around(api: &Api, now: Timestamp) -> Vec<Component> {
    let health = &api.health;
    let mut all = Vec::new();
    if api.peers.others() > 0 {
        let found = match api.peers.disagreement() {
            Some(what) => Found::because(State::Degraded, what),
            None => Found::healthy(),
        };
        all.push(health.component("peers".to_owned(), found, now, Vec::new()));
    }
    let upstreams = api.upstreams.list().into_iter().map(|upstream| {
        let found = match (&upstream.fault, upstream.at) {
            (Some(fault), Some(_)) => Found::because(State::Degraded, fault.clone()),
            (None, _) | (_, None) => Found::healthy(),
        };
        health.component(format!("upstream/{}", upstream.name), found, now, Vec::new())
    });
    let upstreams: Vec<Component> = upstreams.collect();
    if !upstreams.is_empty() {
        all.push(health.parent("upstreams", now, upstreams));
    }
    all
}

/// Tells everything about how the node is.
pub(crate) fn detail(api: &Api) -> HealthDetail {
    let components = components(api);
    let status = api.store.status();
    let facts = ProcessFacts::read();
    HealthDetail {
        status: worst(&components),
        node: api.node.name.clone(),
        environment: api.node.environment.clone(),
        version: api.node.version.clone(),
        config: api.config.to_string(),
        components,
        promises: api.store.promises().into(),
        damage: status.damage,
        process: ProcessDetail {
            pid: std::process::id(),
            cpu_seconds: facts.cpu_seconds,
            resident_bytes: facts.resident_bytes,
            open_files: facts.open_files,
            max_files: facts.max_files,
            uptime_seconds: api.cx.clock.now().since(api.started_at).as_secs_f64(),
        },
        system: SystemFacts::read(api.data.as_deref()),
        data_bytes: status.bytes.into_iter().collect(),
    }
}

fn node(api: &Api) -> Found {
    match api.cx.stop.phase() {
        StopPhase::Running => Found::healthy(),
        StopPhase::Draining => Found::because(State::Degraded, "the node stops: it takes no more events"),
        StopPhase::Aborted => Found::because(State::Unhealthy, "the node stops"),
    }
}

fn store(status: &StoreStatus, now: Timestamp) -> Found {
    if let Some(reason) = &status.failed {
        return Found::because(
            State::Unhealthy,
            format!("it cannot be written until the node is started again: {reason}"),
        );
    }
    if let Some(at) = status.progress_at.filter(|at| now.since(*at) > STORE_STUCK) {
        return Found::because(State::Unhealthy, "it made no progress").since(at);
    }
    if let Some(reason) = &status.refusing {
        return Found::because(State::Degraded, format!("publishes are refused: {reason}"));
    }
    if let Some(first) = status.damage.first() {
        let more = status.damage.len() - 1;
        return Found::because(State::Degraded, format!("damage was found, see damage: {first} (and {more} more)"));
    }
    Found::healthy()
}

fn intake(api: &Api) -> Found {
    match api.publisher.paused() {
        Some(pause) => {
            Found::because(State::Paused, format!("paused by {}: {}", pause.by, pause.reason)).since(pause.at)
        }
        None => Found::healthy(),
    }
}

fn stream(status: &StreamStatus) -> Found {
    let group = status.slowest.as_ref().map(ToString::to_string).unwrap_or_default();
    let most = status.max_backlog.unwrap_or(0);
    match backlog_percent(status).filter(|percent| *percent >= WATERMARKS[0]) {
        Some(percent) => {
            let cause = format!("its backlog is at {percent} % of {most}: {} events wait for {group}", status.backlog);
            Found::because(State::Degraded, cause)
        }
        None if status.overdue > 0 => {
            let cause = format!("it keeps {} events beyond its retention for {group}", status.overdue);
            Found::because(State::Degraded, cause)
        }
        None => Found::healthy(),
    }
}

/// Time after which work that nobody outside asks for makes the group ill.
const WORKER_GONE: Duration = Duration::from_secs(20);

fn group(glance: &Glance, waiting: u64, started_at: Timestamp, now: Timestamp) -> Found {
    if let Some(pause) = &glance.paused {
        return halted(pause);
    }
    let last = glance.asked_at.unwrap_or(started_at);
    let gone = glance.pull && glance.asking == 0 && waiting > 0 && now.since(last) >= WORKER_GONE;
    if gone {
        let cause = format!("{waiting} events wait and no worker asks for them");
        return Found::because(State::Degraded, cause).since(last);
    }
    Found::healthy()
}

fn halted(pause: &Pause) -> Found {
    let (state, word) = if pause.disabled { (State::Disabled, "disabled") } else { (State::Paused, "paused") };
    Found::because(state, format!("{word} by {}: {}", pause.by, pause.reason)).since(pause.at)
}

fn source(view: &ModuleView) -> Found {
    if let Some(pause) = &view.halted {
        return halted(pause);
    }
    match (view.state, &view.fault) {
        (ModuleState::Failing, Some((at, fault))) => {
            Found::because(State::Degraded, format!("it crashed and starts again: {fault}")).since(*at)
        }
        _ => match (&view.brought.away, &view.brought.refused) {
            (Some(why), _) => Found::because(State::Degraded, format!("what it reads is away: {why}")),
            (None, Some(why)) => Found::because(State::Degraded, format!("its stream takes nothing: {why}")),
            (None, None) => Found::healthy(),
        },
    }
}

fn target(view: &GuardView) -> Found {
    let breaker = &view.breaker;
    let cause = breaker.reason.clone().unwrap_or_else(|| "its breaker is not closed".to_owned());
    let found = if breaker.tripped {
        Found::because(State::Disabled, cause)
    } else if breaker.disabled || breaker.state != BreakerState::Closed {
        Found::because(State::Degraded, cause)
    } else {
        Found::healthy()
    };
    found.since(breaker.since)
}

/// When each part that must not stand still last made progress.
pub(crate) fn progress(api: &Api) -> Vec<(String, Timestamp)> {
    let store = api.store.status().progress_at.map(|at| ("store".to_owned(), at));
    let services = api.supervisor.progress().into_iter().map(|progress| (progress.name, progress.at));
    store.into_iter().chain(services).collect()
}

/// Says why the node makes no progress, when it does not: only starting it again helps.
pub(crate) fn stuck(api: &Api) -> Option<String> {
    let now = api.cx.clock.now();
    let status = api.store.status();
    let found = store(&status, now);
    if found.state == State::Unhealthy {
        return found.cause.map(|cause| format!("store: {cause}"));
    }
    let late = |progress: &tidegate_engine::Progress| now.since(progress.at) > progress.every * LATE_FACTOR;
    let service = api.supervisor.progress().into_iter().find(late)?;
    Some(format!("{} has made no progress since {}", service.name, service.at))
}

/// Says why the node takes no requests, when it does not.
pub(crate) fn unready(api: &Api) -> Option<String> {
    if api.cx.stop.phase() != StopPhase::Running {
        return Some("the node stops".to_owned());
    }
    if let Some(reason) = api.store.status().failed {
        return Some(format!("the store failed: {reason}"));
    }
    api.publisher.paused().map(|pause| format!("intake is paused by {}: {}", pause.by, pause.reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    #[test]
    fn work_that_nobody_asks_for_makes_a_group_ill() {
        let glance = |pull, asking, asked_at| Glance {
            stream: tidegate_core::names::StreamName::new("orders").unwrap(),
            state: tidegate_engine::GroupState::Running,
            workers: 1,
            busy: 0,
            paused: None,
            drain: None,
            pace: None,
            pull,
            asking,
            asked_at,
        };
        let ago = |seconds| NOW.minus(Duration::from_secs(seconds));
        let check = |glance: &Glance, waiting, expect: State| {
            assert_eq!(group(glance, waiting, ago(60), NOW).state, expect, "{glance:?} {waiting}");
        };
        check(&glance(true, 0, None), 1, State::Degraded);
        check(&glance(true, 0, None), 0, State::Healthy);
        check(&glance(true, 1, None), 1, State::Healthy);
        check(&glance(true, 0, Some(ago(19))), 1, State::Healthy);
        check(&glance(true, 0, Some(ago(20))), 1, State::Degraded);
        check(&glance(false, 0, None), 1, State::Healthy);
    }

    #[test]
    fn the_store_is_as_bad_as_its_worst_trouble() {
        let check = |status: StoreStatus, expect: State| assert_eq!(store(&status, NOW).state, expect, "{status:?}");
        let well = || StoreStatus { progress_at: Some(NOW), ..StoreStatus::default() };
        check(well(), State::Healthy);
        check(StoreStatus { damage: vec!["x".into()], ..well() }, State::Degraded);
        check(StoreStatus { refusing: Some("full".into()), ..well() }, State::Degraded);
        check(StoreStatus { progress_at: Some(NOW.minus(STORE_STUCK * 2)), ..well() }, State::Unhealthy);
        check(StoreStatus { failed: Some("sync".into()), refusing: Some("full".into()), ..well() }, State::Unhealthy);
    }

    #[test]
    fn the_whole_is_as_bad_as_the_worst_but_for_wishes() {
        let health = Health::default();
        let part = |state| health.component("x".into(), Found { state, cause: None, since: None }, NOW, Vec::new());
        let check = |states: &[State], expect| {
            assert_eq!(worst(&states.iter().copied().map(part).collect::<Vec<_>>()), expect, "{states:?}");
        };
        check(&[], State::Healthy);
        check(&[State::Healthy, State::Paused, State::Disabled], State::Healthy);
        check(&[State::Paused, State::Degraded], State::Degraded);
        check(&[State::Degraded, State::Unhealthy, State::Healthy], State::Unhealthy);
    }

    #[test]
    fn a_state_is_since_when_it_began() {
        let health = Health::default();
        let look =
            |state, at| health.component("x".into(), Found { state, cause: None, since: None }, at, Vec::new()).since;
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        assert_eq!(look(State::Healthy, NOW), NOW);
        assert_eq!(look(State::Healthy, later(5)), NOW);
        assert_eq!(look(State::Degraded, later(6)), later(6));
        assert_eq!(look(State::Degraded, later(9)), later(6));
        assert_eq!(look(State::Healthy, later(10)), later(10));
    }
}

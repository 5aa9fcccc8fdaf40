//! Says why an event is where it is in a group. Pure: everything that is known is handed in.

use serde::Serialize;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    guard::{BreakerState, Gate, GuardView},
    limits,
    store::{DeadLetter, StoreStatus},
    whereabouts::{Place, Standing, Wait},
};
use tidegate_engine::{GroupState, GroupView, Running};
use utoipa::ToSchema;

use crate::awaited::Awaited;

/// Why an event is where it is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Reason {
    /// A stable word, such as `group_paused` or `key_blocked`.
    pub(crate) reason: &'static str,
    /// Since when, where that is known.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) since: Option<Timestamp>,
    /// The same for people.
    pub(crate) detail: String,
    /// When it ends by itself, where that is known.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) until: Option<Timestamp>,
}

impl Reason {
    pub(crate) fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, since: None, detail: detail.into(), until: None }
    }

    fn since(self, since: impl Into<Option<Timestamp>>) -> Self {
        Self { since: since.into(), ..self }
    }

    fn until(self, until: impl Into<Option<Timestamp>>) -> Self {
        Self { until: until.into(), ..self }
    }
}

/// What is known when somebody asks.
pub(crate) struct Facts<'a> {
    pub(crate) now: Timestamp,
    pub(crate) standing: &'a Standing,
    /// None: this node does not run the group.
    pub(crate) group: Option<&'a GroupView>,
    pub(crate) guard: Option<&'a GuardView>,
    pub(crate) store: &'a StoreStatus,
    /// Who works on the event.
    pub(crate) running: Option<&'a Running>,
    /// The longest-running attempt of the group.
    pub(crate) busiest: Option<&'a Running>,
    /// Since when the group's loop has not moved, when it has stopped moving.
    pub(crate) stuck_since: Option<Timestamp>,
    /// Its dead letter.
    pub(crate) letter: Option<&'a DeadLetter>,
    /// Position and id of the event that it waits for.
    pub(crate) rival: Option<(Position, String)>,
    /// The events that must be done before it.
    pub(crate) awaited: &'a [Awaited],
    /// Its priority, in a group that goes by it.
    pub(crate) priority: Option<u8>,
}

/// Where an event stands, in a word, and why; the strongest reason first.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) state: &'static str,
    pub(crate) because: Vec<Reason>,
}

/// Explains.
pub(crate) fn explain(facts: &Facts<'_>) -> Verdict {
    let (state, own) = own_reason(facts);
    let mut because: Vec<Reason> = own.into_iter().collect();
    if let Place::After { waits_for } = &facts.standing.place {
        because.extend(waits::reasons(facts, waits_for));
    }
    if matches!(state, "waiting" | "blocked" | "scheduled") {
        because.extend(obstacles(facts));
        because.extend(less_urgent(facts));
        if because.is_empty() {
            because.push(nothing(facts));
        }
    }
    Verdict { state, because }
}

/// The reason that lies in the event itself.
fn own_reason(facts: &Facts<'_>) -> (&'static str, Option<Reason>) {
    let done = |detail: String, at: Option<Timestamp>| ("done", Some(Reason::new("done", detail).since(at)));
    match &facts.standing.place {
        Place::Absent => ("unknown", Some(Reason::new("not_accepted", "the stream has no such position"))),
        Place::Foreign => {
            let detail = "it is not for this group: it lies before its start, or was sent back for another group";
            ("foreign", Some(Reason::new("not_for_group", detail)))
        }
        Place::Waiting { held_up: true, .. } => {
            let most = limits::ORDER_LOOKAHEAD_MAX;
            let detail = format!(
                "{most} events wait in memory, for order keys, others or their turn; the group looks no further until some go"
            );
            ("waiting", Some(Reason::new("lookahead_full", detail)))
        }
        Place::Waiting { held_up: false, .. } => ("waiting", None),
        Place::Blocked { .. } => ("blocked", Some(blocked(facts))),
        Place::After { .. } => ("blocked", None),
        Place::Scheduled { until, wait } => ("scheduled", Some(scheduled(facts, *until, *wait))),
        // It counts as waiting again: whoever claims next gets it.
        Place::Lent { until } if *until <= facts.now => ("waiting", Some(lent(facts, *until))),
        Place::Lent { until } => ("in_flight", Some(lent(facts, *until))),
        Place::Settling => ("in_flight", Some(Reason::new("settling", "what becomes of it is being written"))),
        Place::Done { at: Some(at) } => done("it is done".to_owned(), Some(*at)),
        Place::Done { at: None } => done("it is done; the time is no longer known".to_owned(), None),
        Place::Skipped => {
            let stages = facts.group.map(|group| group.policy.stages.words().join("; ")).unwrap_or_default();
            let detail = format!("the stages of the group did not let it through; they are now: {stages}");
            ("done", Some(Reason::new("skipped", detail)))
        }
        Place::Duplicate { of, at } => {
            let detail = format!("the same event was done at position {of}, so this one was not tried");
            ("done", Some(Reason::new("duplicate", detail).since(*at)))
        }
        Place::Expired => ("expired", Some(Reason::new("expired", "it was past its expirytime before its turn came"))),
        Place::Dropped => {
            let detail = "it was removed before it was settled, by the retention of its stream or by damage";
            ("dropped", Some(Reason::new("dropped", detail)))
        }
        Place::Dead { id, state, at } => {
            let mut detail = format!("dead letter {id}, {}", state.as_str());
            if let Some(letter) = facts.letter {
                detail += &format!("; {}: {}", letter.class.as_str(), letter.message);
                if let Some(change) = &letter.changed {
                    let to = change.position.map(|to| format!(" to position {to}")).unwrap_or_default();
                    detail += &format!("; {}{to} by {} at {}", state.as_str(), change.by, change.at);
                    if !change.note.is_empty() {
                        detail += &format!(": {}", change.note);
                    }
                }
            }
            ("dead", Some(Reason::new("dead", detail).since(*at)))
        }
        Place::Settled => {
            let detail = "it is settled, and nothing that is kept says how: done, or removed by retention";
            ("settled", Some(Reason::new("settled", detail)))
        }
    }
}

/// Returns the word for where an event stands.
pub(crate) fn word(place: &Place) -> &'static str {
    match place {
        Place::Absent => "unknown",
        Place::Foreign => "foreign",
        Place::Waiting { .. } => "waiting",
        Place::Blocked { .. } | Place::After { .. } => "blocked",
        Place::Scheduled { .. } => "scheduled",
        Place::Lent { .. } | Place::Settling => "in_flight",
        Place::Done { .. } | Place::Skipped | Place::Duplicate { .. } => "done",
        Place::Expired => "expired",
        Place::Dropped => "dropped",
        Place::Dead { .. } => "dead",
        Place::Settled => "settled",
    }
}

fn rival(facts: &Facts<'_>) -> String {
    match &facts.rival {
        Some((position, id)) => format!("event {id} at position {position}"),
        None => "another event".to_owned(),
    }
}

fn blocked(facts: &Facts<'_>) -> Reason {
    Reason::new("key_blocked", format!("its order key is held by {}", rival(facts)))
}

fn scheduled(facts: &Facts<'_>, until: Timestamp, wait: Wait) -> Reason {
    let tries = facts.standing.attempts;
    match wait {
        Wait::DeliverAt => Reason::new("deliver_at", "its deliverat has not come").until(until),
        Wait::Twin(_) => {
            Reason::new("twin_running", format!("the same event is being processed: {}", rival(facts))).until(until)
        }
        Wait::Retry => {
            let last = facts.standing.history.last();
            let of = facts.group.map(|group| format!(" of {}", group.policy.retry.attempts)).unwrap_or_default();
            let why = last.map(|last| format!("; the last: {}: {}", last.class.as_str(), last.message));
            let detail = match why {
                Some(why) => format!("{tries} attempts{of} are spent and the next one waits{why}"),
                None => "it was put off by its handler".to_owned(),
            };
            Reason::new("retry_scheduled", detail).since(last.map(|last| last.at.plus(last.took))).until(until)
        }
    }
}

fn lent(facts: &Facts<'_>, until: Timestamp) -> Reason {
    if until <= facts.now {
        let detail = "its lease has run out; it comes back with the next claim of the group";
        return Reason::new("lease_expired", detail).since(until);
    }
    match facts.running {
        None => Reason::new("leased", "it is lent to a worker").until(until),
        Some(running) => {
            let who = match &running.by {
                Some(by) => format!("a worker outside of the node, asked for by {by}"),
                None => "a worker of the node".to_owned(),
            };
            let detail = format!("{who} works on attempt {}", running.attempt);
            Reason::new("leased", detail).since(running.since).until(until)
        }
    }
}

/// What keeps the group from taking more work, the strongest first.
fn obstacles(facts: &Facts<'_>) -> Vec<Reason> {
    let mut all = Vec::new();
    if let Some(why) = &facts.store.failed {
        all.push(Reason::new(
            "store_failed",
            format!("the store takes nothing until the node is started again: {why}"),
        ));
    }
    let Some(group) = facts.group else {
        all.push(Reason::new("no_worker", "this node does not run the group: it is not in its configuration"));
        return all;
    };
    if let Some(drain) = &group.glance.drain {
        let detail =
            format!("the group finishes what lies before {} and pauses then, as {} asked", drain.before, drain.by);
        all.push(Reason::new("group_draining", detail).since(drain.at).until(Some(drain.until)));
    } else if group.glance.state == GroupState::Draining {
        all.push(Reason::new("draining", "the node stops and takes no new work"));
    }
    if let Some(pace) = &group.glance.pace {
        let (count, per) = (pace.rate.count, pace.rate.per);
        let detail = format!("the group is slowed down to {count} events in {per:?} until it has caught up");
        all.push(Reason::new("group_slowed", detail));
    }
    if let Some(pause) = &group.glance.paused {
        let why = if pause.reason.is_empty() { "without a reason" } else { &pause.reason };
        let (reason, word) = if pause.disabled { ("group_disabled", "disabled") } else { ("group_paused", "paused") };
        let detail = format!("the group is {word} by {}: {why}", pause.by);
        all.push(Reason::new(reason, detail).since(pause.at).until(pause.until));
    }
    if let Some(since) = facts.stuck_since {
        all.push(Reason::new("group_stuck", "the group's loop has made no progress").since(since));
    }
    all.extend(facts.guard.and_then(|guard| gate(guard, group.gate, facts.now)));
    all.extend(workers(facts, group));
    if group.status.in_flight >= limits::IN_FLIGHT_MAX as u64 {
        let detail = format!("{} events are lent, the most that may be", group.status.in_flight);
        all.push(Reason::new("in_flight_full", detail));
    }
    all
}

/// What the guard of the group's target forbids.
fn gate(guard: &GuardView, gate: Gate, now: Timestamp) -> Option<Reason> {
    let (name, breaker) = (&guard.name, &guard.breaker);
    let why = breaker.reason.clone().unwrap_or_else(|| "no reason is known".to_owned());
    if breaker.disabled {
        let detail = format!("target {name} wants nothing any more, until somebody resets it: {why}");
        return Some(Reason::new("target_disabled", detail).since(breaker.since));
    }
    match breaker.state {
        BreakerState::Open => {
            let detail = format!("the breaker of target {name} is open: {why}");
            return Some(Reason::new("breaker_open", detail).since(breaker.since).until(breaker.until));
        }
        BreakerState::HalfOpen => {
            let detail = format!("one call to target {name} is tried to see whether it is back: {why}");
            return Some(Reason::new("breaker_open", detail).since(breaker.since).until(breaker.until));
        }
        BreakerState::Closed => {}
    }
    if let Some(until) = breaker.held_until.filter(|until| *until > now) {
        let detail = format!("target {name} asked for silence");
        return Some(Reason::new("target_throttled", detail).until(until));
    }
    let closed = match gate {
        Gate::ClosedUntil(until) => Some(until),
        Gate::Open | Gate::Probe | Gate::Disabled => None,
    };
    if closed.is_some() || !guard.rate.wait.is_zero() {
        let rate = guard.rate.limit.map(|rate| format!("; it takes {} calls in {:?}", rate.count, rate.per));
        let detail = format!("the rate of target {name} is used up{}", rate.unwrap_or_default());
        let until = now.plus(guard.rate.wait).max(closed.unwrap_or(Timestamp::ZERO));
        return Some(Reason::new("rate_limited", detail).until(until));
    }
    let places = guard.concurrency;
    (places.in_use >= places.limit).then(|| {
        let detail = format!("all {} calls that target {name} takes at a time are made", places.limit);
        Reason::new("concurrency_full", detail)
    })
}

/// Whether there is anybody to work.
fn workers(facts: &Facts<'_>, group: &GroupView) -> Option<Reason> {
    if !group.glance.pull {
        let longest = facts.busiest.map(|one| format!("; event {} the longest", one.event)).unwrap_or_default();
        return (group.glance.busy >= group.glance.workers).then(|| {
            let detail = format!("all {} workers are busy{longest}", group.glance.workers);
            Reason::new("workers_busy", detail).since(facts.busiest.map(|one| one.since))
        });
    }
    if group.glance.asking > 0 {
        return None;
    }
    let Some(at) = group.glance.asked_at else {
        return Some(Reason::new("no_worker", "no worker has asked for work since the node was started"));
    };
    if facts.busiest.is_some() && facts.now.since(at) < limits::CLAIM_WAIT_MAX * 2 {
        let detail = format!("{} events are lent and no worker asks for more", group.status.in_flight);
        return Some(Reason::new("workers_busy", detail).since(at));
    }
    Some(Reason::new("no_worker", "no worker asks for work").since(at))
}

/// Whether others go before it, in a group that takes what is more urgent first.
fn less_urgent(facts: &Facts<'_>) -> Option<Reason> {
    let (Some(priority), Place::Waiting { ahead: ahead @ 1.., .. }) = (facts.priority, &facts.standing.place) else {
        return None;
    };
    let detail = format!("its priority is {priority}, and up to {ahead} events stand before it");
    Some(Reason::new("priority", detail))
}

fn nothing(facts: &Facts<'_>) -> Reason {
    let ahead = match facts.standing.place {
        Place::Waiting { ahead, .. } => ahead,
        Place::Absent | Place::Foreign | Place::Blocked { .. } | Place::Scheduled { .. } | Place::Lent { .. } => 0,
        Place::Settling | Place::Done { .. } | Place::Duplicate { .. } | Place::Expired | Place::Dropped => 0,
        Place::Dead { .. } | Place::Skipped | Place::Settled | Place::After { .. } => 0,
    };
    match ahead {
        0 => Reason::new("next", "nothing holds it back: it is taken next"),
        1 => Reason::new("queued", "one event stands before it"),
        more => Reason::new("queued", format!("{more} events stand before it")),
    }
}

mod waits;

#[cfg(test)]
mod tests;

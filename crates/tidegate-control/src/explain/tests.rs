//! The table: every state that an event can be in, and the reason that is given.

use std::time::Duration;

use tidegate_core::{
    after::EventName,
    decide::RetryPolicy,
    delivery::Attempt,
    event::Event,
    fault::FaultClass,
    guard::{BreakerView, ConcurrencyView, Rate, RateView, WaitsView},
    names::{GroupName, StreamName, TargetName},
    store::{DeadChange, DeadState, GroupSpec, GroupStatus, OnFailure, Start},
};
use tidegate_engine::{Drain, Glance, GroupPolicy, Pace, Pause};

use super::*;
use crate::awaited::AwaitedState;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const BEFORE: Timestamp = Timestamp::from_millis(900_000);
const LATER: Timestamp = Timestamp::from_millis(1_100_000);
const AT: Position = Position::number(7);

fn name() -> GroupName {
    GroupName::new("deliver").unwrap()
}

fn group() -> GroupView {
    let stream = StreamName::new("orders").unwrap();
    let status = GroupStatus {
        name: name(),
        stream: stream.clone(),
        next: Position::START,
        accepted: 9,
        done: 0,
        duplicates: 0,
        skipped: 0,
        waiting: 9,
        unseen: 9,
        scheduled: 0,
        in_flight: 0,
        dead: 0,
        parked: 0,
        expired: 0,
        dropped: 0,
        blocked: 0,
        oldest_blocked: None,
        oldest_waiting: None,
        blocked_keys: 0,
        leases_lost: 0,
    };
    let spec = GroupSpec {
        name: name(),
        stream: stream.clone(),
        start: Start::Earliest,
        end: None,
        order_by: None,
        on_failure: OnFailure::Skip,
        ledger: Some(Duration::from_secs(7 * 86_400)),
        after: true,
        priority_step: None,
        mark_claims: false,
    };
    let (timeout, lease) = (Duration::from_secs(30), Duration::from_secs(60));
    let policy = GroupPolicy {
        name: name(),
        stream,
        workers: 4,
        timeout,
        timeout_max: None,
        lease,
        retry: RetryPolicy::default(),
        stages: tidegate_rules::Stages::default(),
        results: None,
    };
    GroupView {
        status,
        glance: Glance {
            stream: StreamName::new("orders").unwrap(),
            state: GroupState::Running,
            workers: 4,
            busy: 0,
            paused: None,
            drain: None,
            pace: None,
            pull: false,
            asking: 0,
            asked_at: None,
        },
        target: None,
        gate: Gate::Open,
        spec,
        policy,
    }
}

fn guard() -> GuardView {
    GuardView {
        name: TargetName::new("partner").unwrap(),
        gate: Gate::Open,
        breaker: BreakerView {
            state: BreakerState::Closed,
            since: BEFORE,
            failures: 0,
            until: None,
            tripped: false,
            disabled: false,
            reason: None,
            held_until: None,
        },
        rate: RateView {
            limit: Some(Rate { count: 5, per: Duration::from_secs(1) }),
            share: tidegate_core::guard::Share::WHOLE,
            wait: Duration::ZERO,
        },
        concurrency: ConcurrencyView { limit: 2, in_use: 0, waiting: 0 },
        waits: WaitsView { count: 0, total: Duration::ZERO, longest: Duration::ZERO },
        retries_allowed: 1.0,
        timeout: Duration::from_secs(10),
        calls: 0,
        refused: 0,
        last_error: None,
        by_hand: None,
    }
}

fn running(by: Option<&str>) -> Running {
    Running { group: name(), event: "other".into(), position: AT, by: by.map(Into::into), attempt: 2, since: BEFORE }
}

fn letter() -> DeadLetter {
    DeadLetter {
        id: AT,
        stream: StreamName::new("orders").unwrap(),
        group: name(),
        position: AT,
        state: DeadState::Resolved,
        event: Event::new("e", "/s", "t"),
        class: FaultClass::Invalid,
        message: "no price".into(),
        signature: "no price".into(),
        attempts: Vec::new(),
        failed_at: BEFORE,
        config: "f".into(),
        changed: Some(DeadChange {
            at: BEFORE,
            by: "anna".into(),
            note: "by phone".into(),
            job: "".into(),
            position: None,
        }),
    }
}

/// Everything that a case may change; a waiting event of a group that is well, before it is changed.
struct World {
    standing: Standing,
    group: Option<GroupView>,
    guard: GuardView,
    store: StoreStatus,
    running: Option<Running>,
    busiest: Option<Running>,
    stuck_since: Option<Timestamp>,
    letter: Option<DeadLetter>,
    awaited: Vec<Awaited>,
    priority: Option<u8>,
}

fn judged(change: impl FnOnce(&mut World)) -> Verdict {
    let mut world = World {
        standing: Place::Waiting { ahead: 0, held_up: false }.into(),
        group: Some(group()),
        guard: guard(),
        store: StoreStatus::default(),
        running: None,
        busiest: None,
        stuck_since: None,
        letter: None,
        awaited: Vec::new(),
        priority: None,
    };
    change(&mut world);
    explain(&Facts {
        now: NOW,
        standing: &world.standing,
        group: world.group.as_ref(),
        guard: Some(&world.guard),
        store: &world.store,
        running: world.running.as_ref(),
        busiest: world.busiest.as_ref(),
        stuck_since: world.stuck_since,
        letter: world.letter.as_ref(),
        rival: Some((AT, "first".to_owned())),
        awaited: &world.awaited,
        priority: world.priority,
    })
}

/// State, reason, since, until, and a part of the detail.
type Expect = (&'static str, &'static str, Option<Timestamp>, Option<Timestamp>, &'static str);

#[track_caller]
fn check(expect: Expect, change: impl FnOnce(&mut World)) {
    let verdict = judged(change);
    let (state, reason, since, until, part) = expect;
    let first = &verdict.because[0];
    assert_eq!((verdict.state, first.reason, first.since, first.until), (state, reason, since, until), "{verdict:?}");
    assert!(first.detail.contains(part), "{part:?} is not in {:?}", first.detail);
}

fn of(world: &mut World) -> &mut GroupView {
    world.group.as_mut().unwrap()
}

#[test]
fn what_an_event_waits_for_is_named_with_where_it_stands() {
    let named = |id: &str| EventName { source: "/jobs".into(), id: id.to_owned().into() };
    let waits = |state: AwaitedState| {
        move |world: &mut World| {
            world.standing = Place::After { waits_for: vec![named("a")] }.into();
            world.awaited = vec![Awaited { name: named("a"), state }];
        }
    };
    let open = AwaitedState::Open { position: AT, word: "in_flight" };
    check(("blocked", "after_open", None, None, "event a of /jobs at position 7, which is in flight"), waits(open));
    let unknown = AwaitedState::Unknown { whole: true };
    check(("blocked", "after_unknown", None, None, "has not come, or the ledger of 7d"), waits(unknown));
    let far = AwaitedState::Unknown { whole: false };
    check(("blocked", "after_unknown", None, None, "was not found"), waits(far));
    let dead = |state| AwaitedState::Dead { letter: AT, state, at: BEFORE };
    let parked = waits(dead(DeadState::Parked));
    check(("blocked", "after_dead", Some(BEFORE), None, "dead letter 7, parked: reprocess that"), parked);
    let resolved = waits(dead(DeadState::Resolved));
    check(("blocked", "after_dead", Some(BEFORE), None, "resolved: let this one go"), resolved);
    let expired = waits(AwaitedState::Ended { word: "expired" });
    check(("blocked", "after_ended", None, None, "expired before it was done"), expired);
    let circle = waits(AwaitedState::Circle { by: vec![named("b"), named("c")] });
    check(("blocked", "after_circle", None, None, "waits for this one by way of b, c"), circle);
    check(("blocked", "after_open", None, None, "done now"), waits(AwaitedState::Done));
    check(("blocked", "after_open", None, None, "not looked for"), waits(AwaitedState::NotSought));
    let many = judged(|world| {
        let names: Vec<EventName> = (0..10).map(|number| named(&number.to_string())).collect();
        let state = |at| if at == 9 { dead(DeadState::Parked) } else { AwaitedState::Unknown { whole: true } };
        world.awaited =
            names.iter().enumerate().map(|(at, name)| Awaited { name: name.clone(), state: state(at) }).collect();
        world.standing = Place::After { waits_for: names }.into();
        world.group.as_mut().unwrap().glance.busy = 4;
    });
    let words: Vec<&str> = many.because.iter().map(|reason| reason.reason).collect();
    assert_eq!((words[0], words.len()), ("after_dead", 10), "what lasts comes first: {words:?}");
    assert_eq!(words[8..], ["after_more", "workers_busy"], "and what would hold it back then");
}

#[test]
fn what_lies_in_the_event_itself() {
    let placed = |place: Place| move |world: &mut World| world.standing = place.into();
    check(("unknown", "not_accepted", None, None, "no such"), placed(Place::Absent));
    check(("foreign", "not_for_group", None, None, "another group"), placed(Place::Foreign));
    check(("waiting", "next", None, None, "next"), |_| {});
    let queued = Place::Waiting { ahead: 3, held_up: false };
    check(("waiting", "queued", None, None, "3 events"), placed(queued.clone()));
    check(("waiting", "priority", None, None, "its priority is 7, and up to 3 events stand before it"), |world| {
        world.standing = queued.into();
        world.priority = Some(7);
    });
    let held_up = Place::Waiting { ahead: 3, held_up: true };
    check(("waiting", "lookahead_full", None, None, "order keys"), placed(held_up));
    let blocked = Place::Blocked { by: Some(AT) };
    check(("blocked", "key_blocked", None, None, "event first at position 7"), placed(blocked));
    let later = |wait| Place::Scheduled { until: LATER, wait };
    check(("scheduled", "deliver_at", None, Some(LATER), "deliverat"), placed(later(Wait::DeliverAt)));
    check(("scheduled", "twin_running", None, Some(LATER), "event first"), placed(later(Wait::Twin(AT))));
    check(("scheduled", "retry_scheduled", None, Some(LATER), "put off"), placed(later(Wait::Retry)));
    check(("in_flight", "settling", None, None, "written"), placed(Place::Settling));
    check(("done", "done", Some(BEFORE), None, "done"), placed(Place::Done { at: Some(BEFORE) }));
    check(("done", "done", None, None, "no longer known"), placed(Place::Done { at: None }));
    let duplicate = Place::Duplicate { of: AT, at: BEFORE };
    check(("done", "duplicate", Some(BEFORE), None, "position 7"), placed(duplicate));
    check(("done", "skipped", None, None, "stages"), placed(Place::Skipped));
    check(("expired", "expired", None, None, "expirytime"), placed(Place::Expired));
    check(("dropped", "dropped", None, None, "retention"), placed(Place::Dropped));
    check(("settled", "settled", None, None, "nothing that is kept"), placed(Place::Settled));
}

#[test]
fn what_was_tried_before() {
    check(("scheduled", "retry_scheduled", Some(NOW), Some(LATER), "2 attempts of 8 are spent"), |world| {
        let took = Duration::from_millis(100_000);
        let last = Attempt { at: BEFORE, took, class: FaultClass::Timeout, message: "too slow".to_owned() };
        let place = Place::Scheduled { until: LATER, wait: Wait::Retry };
        world.standing = Standing { place, attempts: 2, crashes: 0, history: vec![last] };
    });
    check(
        ("dead", "dead", Some(BEFORE), None, "dead letter 7, resolved; invalid: no price; resolved by anna"),
        |world| {
            world.standing = Place::Dead { id: AT, state: DeadState::Resolved, at: BEFORE }.into();
            world.letter = Some(letter());
        },
    );
    check(("dead", "dead", Some(BEFORE), None, "dead letter 7, parked"), |world| {
        world.standing = Place::Dead { id: AT, state: DeadState::Parked, at: BEFORE }.into();
    });
}

#[test]
fn who_works_on_it() {
    let lent = |until: Timestamp| move |world: &mut World| world.standing = Place::Lent { until }.into();
    check(("in_flight", "leased", None, Some(LATER), "a worker"), lent(LATER));
    check(("waiting", "lease_expired", Some(BEFORE), None, "run out"), lent(BEFORE));
    for (by, part) in [(Some("anna"), "asked for by anna works on attempt 2"), (None, "a worker of the node")] {
        check(("in_flight", "leased", Some(BEFORE), Some(LATER), part), |world| {
            lent(LATER)(world);
            world.running = Some(running(by));
        });
    }
}

#[test]
fn what_holds_the_group_back() {
    check(("waiting", "store_failed", None, None, "fsync"), |world| world.store.failed = Some("fsync".into()));
    check(("waiting", "no_worker", None, None, "does not run"), |world| world.group = None);
    check(("waiting", "draining", None, None, "stops"), |world| of(world).glance.state = GroupState::Draining);
    check(("waiting", "group_paused", Some(BEFORE), Some(LATER), "by anna: partner is down"), |world| {
        let (by, reason) = ("anna".to_owned(), "partner is down".to_owned());
        of(world).glance.paused = Some(Pause { by, reason, at: BEFORE, until: Some(LATER), disabled: false });
    });
    check(("waiting", "group_disabled", Some(BEFORE), None, "disabled by anna: without a reason"), |world| {
        let (by, reason) = ("anna".to_owned(), String::new());
        of(world).glance.paused = Some(Pause { by, reason, at: BEFORE, until: None, disabled: true });
    });
    check(("waiting", "group_draining", Some(BEFORE), Some(LATER), "lies before 7"), |world| {
        of(world).glance.state = GroupState::Draining;
        let (by, reason) = ("anna".to_owned(), "deploy".to_owned());
        of(world).glance.drain = Some(Drain { by, reason, at: BEFORE, until: LATER, before: AT });
    });
    check(("waiting", "group_slowed", None, None, "10 events in 1s"), |world| {
        let rate = Rate { count: 10, per: Duration::from_secs(1) };
        of(world).glance.pace = Some(Pace { rate, before: AT });
    });
    check(("waiting", "group_stuck", Some(BEFORE), None, "no progress"), |world| world.stuck_since = Some(BEFORE));
    check(("waiting", "workers_busy", Some(BEFORE), None, "all 4 workers are busy; event other"), |world| {
        of(world).glance.busy = 4;
        world.busiest = Some(running(None));
    });
    check(("waiting", "in_flight_full", None, None, "65536"), |world| {
        of(world).status.in_flight = limits::IN_FLIGHT_MAX as u64;
    });
}

#[test]
fn what_workers_outside_do() {
    let pull = |asking: usize, asked_at: Option<Timestamp>, holds: bool| {
        move |world: &mut World| {
            (of(world).glance.pull, of(world).glance.asking, of(world).glance.asked_at) = (true, asking, asked_at);
            world.busiest = holds.then(|| running(Some("anna")));
        }
    };
    let recent = NOW.minus(Duration::from_secs(5));
    check(("waiting", "no_worker", None, None, "since the node was started"), pull(0, None, false));
    check(("waiting", "no_worker", Some(BEFORE), None, "no worker asks"), pull(0, Some(BEFORE), true));
    check(("waiting", "no_worker", Some(recent), None, "no worker asks"), pull(0, Some(recent), false));
    check(("waiting", "workers_busy", Some(recent), None, "asks for more"), pull(0, Some(recent), true));
    check(("waiting", "next", None, None, ""), pull(1, Some(BEFORE), false));
}

#[test]
fn what_the_guard_forbids() {
    let breaker = |change: fn(&mut BreakerView)| move |world: &mut World| change(&mut world.guard.breaker);
    check(("waiting", "breaker_open", Some(BEFORE), Some(LATER), "partner is open: refused"), {
        breaker(|breaker| {
            (breaker.state, breaker.until) = (BreakerState::Open, Some(LATER));
            breaker.reason = Some("refused".to_owned());
        })
    });
    check(("waiting", "breaker_open", Some(BEFORE), None, "see whether it is back"), {
        breaker(|breaker| breaker.state = BreakerState::HalfOpen)
    });
    check(("waiting", "breaker_open", Some(BEFORE), None, "tripped by anna"), {
        breaker(|breaker| {
            (breaker.state, breaker.tripped) = (BreakerState::Open, true);
            breaker.reason = Some("tripped by anna".to_owned());
        })
    });
    check(("waiting", "target_disabled", Some(BEFORE), None, "wants nothing any more"), {
        breaker(|breaker| (breaker.state, breaker.disabled) = (BreakerState::Open, true))
    });
    check(("waiting", "target_throttled", None, Some(LATER), "asked for silence"), {
        breaker(|breaker| breaker.held_until = Some(LATER))
    });
    check(("waiting", "rate_limited", None, Some(LATER), "5 calls in 1s"), |world| {
        world.guard.rate.wait = LATER.since(NOW);
    });
    check(("waiting", "concurrency_full", None, None, "all 2 calls"), |world| world.guard.concurrency.in_use = 2);
}

#[test]
fn what_waits_for_two_things_is_told_both() {
    let verdict = judged(|world| {
        world.standing = Place::Blocked { by: Some(AT) }.into();
        let (by, reason) = ("anna".to_owned(), String::new());
        of(world).glance.paused = Some(Pause { by, reason, at: BEFORE, until: None, disabled: false });
        world.guard.breaker.state = BreakerState::Open;
    });
    let reasons: Vec<_> = verdict.because.iter().map(|reason| reason.reason).collect();
    assert_eq!(reasons, ["key_blocked", "group_paused", "breaker_open"]);
    let settled = judged(|world| {
        world.standing = Place::Done { at: None }.into();
        world.store.failed = Some("fsync".into());
    });
    assert_eq!(settled.because.len(), 1, "what is settled waits for nothing: {settled:?}");
}

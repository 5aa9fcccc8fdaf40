//! What happens in a run: random operations, as a busy node and its operators would ask for them.

use std::time::Duration;

use bytes::Bytes;
use tidegate_core::{
    after::AFTER,
    dedupe::DedupeKey,
    delivery::{Attempt, LeaseToken, Position, Settlement},
    event::{DELIVER_AT, Data, EXPIRY_TIME, Event, PARTITION_KEY},
    fault::{Failure, FaultClass},
    names::{GroupName, StreamName},
    order::OrderBy,
    priority::PRIORITY,
    store::{
        DeadAction, DeadKeep, DeadProgress, DeadState, DeadStep, DedupeWindow, Durability, GroupSpec, OnFailure,
        Retain, Start, StreamSpec,
    },
};

use super::{
    at_once,
    expect::promise,
    model::{Op, Settling, State, identity},
    world::{Judged, World},
};

pub(super) fn stream_name(name: &str) -> StreamName {
    StreamName::new(name).expect("good names")
}

pub(super) fn group_name(name: &str) -> GroupName {
    GroupName::new(name).expect("good names")
}

const STREAMS: [&str; 4] = ["plain", "windowed", "bounded", "dropping"];

fn stream(name: &str) -> StreamSpec {
    let retain = |count: u64, drop_unsettled| Retain { count: Some(count), drop_unsettled, ..Retain::default() };
    let window = DedupeWindow { key: DedupeKey::IDENTITY, window: Duration::from_secs(60), entries: 10_000 };
    StreamSpec {
        name: stream_name(name),
        durability: Durability::Sync,
        retain: match name {
            "windowed" => retain(40, false),
            "bounded" => retain(10, false),
            "dropping" => retain(30, true),
            _ => Retain::default(),
        },
        max_backlog: (name == "bounded").then_some(60),
        dedupe: (name == "windowed").then_some(window),
        dead: DeadKeep::default(),
    }
}

fn group(name: &str, from: &str, order: Option<OnFailure>, ledger: bool, mark_claims: bool) -> GroupSpec {
    let after = ["free", "blocking", "guest"].contains(&name);
    let urgent = ["free", "ordered", "blocking", "lossy"].contains(&name);
    GroupSpec {
        name: group_name(name),
        stream: stream_name(from),
        start: Start::Earliest,
        end: None,
        order_by: order.map(|_| OrderBy::Attribute(PARTITION_KEY.into())),
        on_failure: order.unwrap_or_default(),
        // Longer than any run, so that the model need not guess when an entry went.
        ledger: ledger.then_some(Duration::from_secs(30 * 24 * 3600)),
        after,
        priority_step: urgent.then_some(Duration::from_secs(7)),
        mark_claims,
    }
}

fn groups() -> [GroupSpec; 6] {
    [
        group("free", "plain", None, true, false),
        group("ordered", "plain", Some(OnFailure::Skip), false, false),
        group("blocking", "windowed", Some(OnFailure::Block), true, true),
        group("second", "windowed", None, true, false),
        group("limited", "bounded", Some(OnFailure::Skip), false, false),
        group("lossy", "dropping", None, false, true),
    ]
}

/// Declares the streams and the groups.
pub(super) fn set_up(world: &mut World<'_>) -> Judged {
    for name in STREAMS {
        world.perform(&Op::DeclareStream(stream(name)))?;
    }
    for spec in groups() {
        world.perform(&Op::DeclareGroup(spec))?;
    }
    Ok(())
}

/// Numbers the events of a run, and remembers names that may come again.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    next: u64,
}

impl Publisher {
    fn event(&mut self, world: &mut World<'_>, to: &str) -> Event {
        let now = world.now();
        let rng = &mut world.rng;
        self.next += 1;
        let repeats = rng.u8(0..8) == 0 && self.next > 5;
        let name = if repeats { rng.u64(self.next.saturating_sub(30)..self.next) } else { self.next };
        let size = match rng.u8(0..20) {
            0 => 6000,
            1..=4 => 700,
            _ => 40,
        };
        let len = rng.usize(0..size);
        let filler: String = std::iter::repeat_with(|| rng.alphanumeric()).take(len).collect();
        let mut event = Event::new(format!("e{name}"), "/sim", "sim.happened");
        event = match rng.u8(0..3) {
            0 => event.with_data(Data::Json(Bytes::from(format!("{{\"n\":{},\"x\":\"{filler}\"}}", self.next)))),
            1 => event.with_data(Data::Binary(vec![0; filler.len() * 2].into())).with_subject(self.next.to_string()),
            _ => event.with_data(Data::Text(format!("{} {filler}", self.next).into())),
        };
        if rng.u8(0..4) > 0 {
            event = event.with_extension(PARTITION_KEY, format!("k{}", rng.u8(0..5)));
        }
        if rng.u8(0..6) == 0 {
            let names = (0..rng.u8(1..4)).map(|_| rng.u64(self.next.saturating_sub(12)..self.next + 4));
            let names: Vec<String> = names.filter(|other| *other != name).map(|other| format!("e{other}")).collect();
            if !names.is_empty() {
                event = event.with_extension(AFTER, names.join(","));
            }
        }
        if rng.u8(0..3) == 0 {
            event = event.with_extension(PRIORITY, rng.u8(0..10).to_string());
        }
        let soon = |rng: &mut fastrand::Rng| now.plus(Duration::from_millis(rng.u64(1..60_000))).to_string();
        if rng.u8(0..12) == 0 {
            event = event.with_extension(DELIVER_AT, soon(rng));
        }
        if rng.u8(0..16) == 0 && to != "dropping" && to != "bounded" {
            event = event.with_extension(EXPIRY_TIME, soon(rng));
        }
        event
    }
}

/// One random step.
pub(super) fn step(world: &mut World<'_>, publisher: &mut Publisher) -> Judged {
    match world.rng.u8(0..100) {
        0..30 => publish(world, publisher),
        30..55 => claim(world),
        55..80 => settle(world, publisher),
        80..84 => extend(world),
        84..89 => {
            let by = Duration::from_millis(world.rng.u64(1..40_000));
            world.clock.advance(by);
            Ok(())
        }
        89..92 => move_dead(world),
        92 => unblock(world),
        93 => forget(world),
        94 => put_state(world),
        95 => regroup(world),
        96 => seek(world),
        _ => world.perform(&Op::Upkeep).map(drop),
    }
}

fn publish(world: &mut World<'_>, publisher: &mut Publisher) -> Judged {
    let to = STREAMS[world.rng.usize(0..STREAMS.len())];
    let count = if world.rng.u8(0..4) == 0 { world.rng.usize(2..20) } else { 1 };
    let events = (0..count).map(|_| publisher.event(world, to)).collect();
    world.perform(&Op::Append(stream_name(to), events)).map(drop)
}

fn some_group(world: &mut World<'_>) -> Option<GroupName> {
    let names: Vec<GroupName> = world.model.groups.keys().cloned().collect();
    world.rng.choice(names)
}

fn claim(world: &mut World<'_>) -> Judged {
    let Some(group) = some_group(world) else { return Ok(()) };
    world.perform(&Op::Claim(group)).map(drop)
}

/// Everything that is lent, by the model.
pub(super) fn lent(world: &World<'_>) -> Vec<(GroupName, LeaseToken)> {
    let mut all = Vec::new();
    for (name, group) in &world.model.groups {
        for life in group.lives.values() {
            if let State::Lent { token, .. } = life.state {
                all.push((name.clone(), token));
            }
        }
    }
    all
}

fn settle(world: &mut World<'_>, publisher: &mut Publisher) -> Judged {
    let mut held = lent(world);
    world.rng.shuffle(&mut held);
    held.truncate(world.rng.usize(1..8));
    let mut all: Vec<Settling> = Vec::new();
    for (group, token) in held {
        let (settlement, attempt) = settlement(world, publisher, &group, token);
        all.push((group, token, settlement, attempt));
    }
    if world.rng.u8(0..4) == 0 && !world.stale.is_empty() {
        let (group, token) = world.stale[world.rng.usize(0..world.stale.len())].clone();
        if world.model.groups.contains_key(&group) {
            all.insert(world.rng.usize(0..=all.len()), (group, token, Settlement::Done(Vec::new()), None));
        }
    }
    if all.is_empty() { Ok(()) } else { world.perform(&Op::Settle(all)).map(drop) }
}

fn settlement(
    world: &mut World<'_>,
    publisher: &mut Publisher,
    group: &GroupName,
    token: LeaseToken,
) -> (Settlement, Option<Attempt>) {
    let now = world.now();
    let life = &world.model.groups[group].lives[&token.position];
    let (attempts, crashes) = (life.attempts.least + 1, life.crashes.least);
    let message = format!("failure {}", world.rng.u8(0..3));
    let failed = Attempt { at: now, took: Duration::from_millis(7), class: FaultClass::Transient, message };
    match world.rng.u8(0..20) {
        0..3 => (Settlement::Release, None),
        3..6 => {
            let at = now.plus(Duration::from_millis(world.rng.u64(0..20_000)));
            (Settlement::RetryAt { at, attempts, crashes }, Some(failed))
        }
        6 => {
            let at = now.plus(Duration::from_secs(3));
            (Settlement::RetryAt { at, attempts: attempts - 1, crashes: crashes + 1 }, None)
        }
        7..9 => {
            let failure = Failure::new(FaultClass::Invalid, failed.message.clone());
            (Settlement::Bury { failure, config: "sim".into() }, Some(failed))
        }
        19 => (Settlement::Skip, None),
        9..11 => {
            let to = ["plain", "windowed"][world.rng.usize(0..2)];
            let outputs = (0..world.rng.usize(1..4)).map(|_| (stream_name(to), publisher.event(world, to))).collect();
            (Settlement::Done(outputs), None)
        }
        _ => (Settlement::Done(Vec::new()), None),
    }
}

fn extend(world: &mut World<'_>) -> Judged {
    let held = lent(world);
    let Some((group, token)) = world.rng.choice(held) else { return Ok(()) };
    let until = world.now().plus(Duration::from_millis(world.rng.u64(1..90_000)));
    world.extend(&group, token, until)
}

fn move_dead(world: &mut World<'_>) -> Judged {
    world.learn_letters()?;
    let streams: Vec<StreamName> = world.model.letters.keys().cloned().collect();
    let Some(stream) = world.rng.choice(streams) else { return Ok(()) };
    let letters: Vec<_> = world.model.letters[&stream]
        .iter()
        .filter(|letter| world.model.groups.contains_key(&letter.group))
        .map(|letter| (letter.id.unwrap_or_default(), letter.state, letter.event.clone(), letter.group.clone()))
        .collect();
    let (action, ids) = match world.rng.u8(0..6) {
        0 => (DeadAction::Resolve, pick(world, &letters)),
        1 => (DeadAction::Discard, pick(world, &letters)),
        2 => {
            let Some((id, _, event, _)) = world.rng.choice(&letters).cloned() else { return Ok(()) };
            let edited = event.with_data(Data::Text("edited".into()));
            (DeadAction::Reprocess { force: false, edited: vec![edited] }, vec![id])
        }
        3 => {
            let Some((id, state, event, group)) = world.rng.choice(&letters).cloned() else { return Ok(()) };
            // Forcing lets the ledger forget; that must not meet another event of the same name.
            let force = matches!(state, DeadState::Parked | DeadState::Reprocessed) && !has_open(world, &group, &event);
            (DeadAction::Reprocess { force, edited: Vec::new() }, vec![id])
        }
        _ => (DeadAction::Reprocess { force: false, edited: Vec::new() }, pick(world, &letters)),
    };
    if ids.is_empty() {
        return Ok(());
    }
    // What a job knows of its progress is there exactly when the step is.
    let progress =
        world.rng.bool().then(|| DeadProgress { key: "desk/job".to_owned(), was: None, value: vec![world.rng.u8(..)] });
    let step = DeadStep {
        stream: stream.dead_letters(),
        ids,
        action,
        by: "sim".into(),
        note: "because".into(),
        job: "job".into(),
        progress,
    };
    world.perform(&Op::MoveDead(step)).map(drop)
}

/// Something that waits, by what the store says, is let go or buried.
fn unblock(world: &mut World<'_>) -> Judged {
    let Some(group) = some_group(world) else { return Ok(()) };
    let mut listed = blocked(world, &group)?;
    world.rng.shuffle(&mut listed);
    listed.truncate(world.rng.usize(1..4));
    let bury = world.rng.u8(0..3) == 0;
    if listed.is_empty() { Ok(()) } else { world.perform(&Op::Unblock(group, listed, bury)).map(drop) }
}

/// What waits for other events, by what the store says: each of them must be one that does.
pub(super) fn blocked(world: &World<'_>, name: &GroupName) -> Judged<Vec<Position>> {
    // A disk that fails may hide some.
    let Ok(page) = at_once(world.store().blocked(name, Position::START, 1000)) else { return Ok(Vec::new()) };
    let group = &world.model.groups[name];
    let stream = &world.model.streams[&group.spec.stream];
    for one in &page.items {
        let (_, may) = group.waits(stream, one.stored.position, world.now());
        promise!(may, "{name} lists {} as waiting for {:?}", one.stored.event.id, one.waits_for);
    }
    Ok(page.items.into_iter().map(|one| one.stored.position).collect())
}

fn pick(world: &mut World<'_>, letters: &[(Position, DeadState, Event, GroupName)]) -> Vec<Position> {
    let mut ids: Vec<Position> = letters.iter().map(|(id, ..)| *id).collect();
    world.rng.shuffle(&mut ids);
    ids.truncate(world.rng.usize(1..4));
    if world.rng.u8(0..8) == 0 {
        ids.push(Position::number(1_000_000));
    }
    ids
}

/// Whether the group holds an event of this name that is not settled.
fn has_open(world: &World<'_>, group: &GroupName, event: &Event) -> bool {
    let group = &world.model.groups[group];
    let stream = &world.model.streams[&group.spec.stream];
    let open = group.lives.iter().filter(|(_, life)| !life.is_over());
    open.into_iter().any(|(position, _)| identity(&stream.events[position].event) == identity(event))
}

fn forget(world: &mut World<'_>) -> Judged {
    let Some(name) = some_group(world) else { return Ok(()) };
    let group = &world.model.groups[&name];
    if group.spec.ledger.is_none() {
        return Ok(());
    }
    let known: Vec<_> = group.ledger.keys().cloned().collect();
    let Some((source, id)) = world.rng.choice(known) else { return Ok(()) };
    let event = Event::new(id.clone(), source.clone(), "x");
    if has_open(world, &name, &event) {
        return Ok(());
    }
    world.perform(&Op::Forget(name, (source, id))).map(drop)
}

fn put_state(world: &mut World<'_>) -> Judged {
    let key = format!("key{}", world.rng.u8(0..4));
    let value = (world.rng.u8(0..4) > 0).then(|| vec![world.rng.u8(..); world.rng.usize(0..300)]);
    world.perform(&Op::PutState(key, value)).map(drop)
}

/// A group is moved to somewhere in its stream, or just beside it.
fn seek(world: &mut World<'_>) -> Judged {
    let Some(name) = some_group(world) else { return Ok(()) };
    let stream = &world.model.streams[&world.model.groups[&name].spec.stream];
    let (first, last) = (stream.first.low.max(1), stream.last().low);
    let to = world.rng.u64(first.saturating_sub(1)..=last + 2);
    let again = world.rng.u8(0..4) == 0;
    world.perform(&Op::Seek(name, Position::number(to), again)).map(drop)
}

/// A group comes or goes; only one that never buried anything goes.
fn regroup(world: &mut World<'_>) -> Judged {
    let name = group_name("guest");
    if world.model.groups.contains_key(&name) {
        let buried = world.model.letters.values().flatten().any(|letter| letter.group == name);
        if buried {
            return Ok(());
        }
        return world.perform(&Op::RemoveGroup(name)).map(drop);
    }
    let mut spec = group("guest", "plain", None, world.rng.bool(), world.rng.bool());
    spec.start = if world.rng.bool() { Start::Earliest } else { Start::Latest };
    world.perform(&Op::DeclareGroup(spec)).map(drop)
}

//! How a run ends: everything is worked off, or bits flip and the store has to notice.

use std::{collections::BTreeMap, time::Duration};

use tidegate_core::{
    delivery::{Position, Settled, Settlement},
    fault::FaultKind,
    names::GroupName,
    store::Claim,
};

use super::{
    Survived, at_once,
    expect::{self, promise},
    model::{End, Model, Op},
    steps,
    world::{Judged, World},
};

/// More rounds than any run needs to end.
const ROUNDS_MAX: usize = 1000;

/// Works off everything that is left: at the end each event is done, dead, expired, dropped or a duplicate.
pub(super) fn drain(world: &mut World<'_>) -> Judged {
    for round in 0..ROUNDS_MAX {
        let held = steps::lent(world);
        if !held.is_empty() {
            let done = held.into_iter().map(|(group, token)| (group, token, Settlement::Done(Vec::new()), None));
            world.perform(&Op::Settle(done.collect()))?;
        }
        world.clock.advance(Duration::from_secs(5));
        // What waits for events that never come, or for each other, has to be let go.
        for group in world.model.groups.keys().cloned().collect::<Vec<_>>() {
            let listed = if round % 8 == 7 { steps::blocked(world, &group)? } else { Vec::new() };
            if !listed.is_empty() {
                world.perform(&Op::Unblock(group, listed, false))?;
            }
        }
        for group in world.model.groups.keys().cloned().collect::<Vec<_>>() {
            world.perform(&Op::Claim(group))?;
        }
        let now = world.now();
        let open = |model: &Model| {
            let groups = model.groups.values();
            groups.map(|group| group.backlog(&model.streams[&group.spec.stream], now).0).sum::<u64>()
        };
        if open(&world.model) == 0 && steps::lent(world).is_empty() && nothing_left(world).is_ok() {
            return world.check_everything();
        }
    }
    nothing_left(world)?;
    Err(format!("work is left after {ROUNDS_MAX} rounds"))
}

/// The store's own counts must say the same as the model: nothing is open any more.
fn nothing_left(world: &mut World<'_>) -> Judged {
    for status in at_once(world.store().groups()).map_err(|fault| format!("{fault:?}"))? {
        let open = status.waiting + status.scheduled + status.in_flight;
        promise!(open == 0, "everything was worked off, and {} counts {open} open: {status:?}", status.name);
        promise!(status.blocked_keys == 0, "everything was worked off, and keys are blocked: {status:?}");
    }
    Ok(())
}

/// Flips bits in what was synced. Whatever is missing afterwards has to be reported.
pub(super) fn flip(world: &mut World<'_>, survived: &mut Survived) -> Judged {
    let while_open = world.rng.bool();
    if !while_open {
        at_once(world.store().close()).map_err(|fault| format!("closing: {fault:?}"))?;
        world.drop_store();
    }
    for _ in 0..world.rng.usize(1..4) {
        let flipped = world.disk.flip_random(&mut world.rng, |path| !path.ends_with("lock"));
        world.log.push(format!("flipped {flipped:?}"));
    }
    if while_open {
        // The running store may meet the damage while it reads; it must never pass on what it did not take in.
        relaxed_drain(world, 3)?;
    }
    let before = world.model.clone();
    survived.reopenings += 1;
    if let Err(fault) = world.open_damaged() {
        promise!(fault.kind == FaultKind::Corrupt, "damage makes the store say {fault:?}");
        survived.reported += 1;
        return Ok(());
    }
    let reported = judge_damaged(world, before, while_open)?;
    relaxed_drain(world, 40)?;
    for group in at_once(world.store().groups()).map_err(|fault| format!("{fault:?}"))? {
        promise!(group.difference() == 0, "the accounting does not balance after damage: {group:?}");
    }
    if reported {
        survived.reported += 1
    } else {
        survived.harmless += 1
    }
    Ok(())
}

/// Compares with what was acknowledged; a difference without a report is the silent gap that must not be.
fn judge_damaged(world: &mut World<'_>, mut before: Model, drained: bool) -> Judged<bool> {
    let store = world.store();
    before.reopen(End::Died);
    let now = world.now();
    let same = if drained {
        // Work went on after the flip, so only what nobody settles can be compared: the events themselves.
        events_are_there(world, &before)
    } else {
        expect::everything(&*store, &mut before, now)
    };
    let damage = world.damage();
    if let Err(what) = &same {
        promise!(!damage.is_empty() || what.contains("Corrupt"), "bits flipped and nobody says so: {what}");
    }
    Ok(!damage.is_empty() || same.is_err())
}

fn events_are_there(world: &World<'_>, before: &Model) -> Judged {
    for (name, stream) in &before.streams {
        let mut kept = BTreeMap::new();
        let mut from = Position::START;
        loop {
            let page = at_once(world.store().read(name, from, 500)).map_err(|fault| format!("{fault:?}"))?;
            kept.extend(page.items.into_iter().map(|stored| (stored.position, stored.event)));
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        let first = kept.keys().next().copied().unwrap_or_default().max(stream.first);
        for (position, facts) in stream.events.range(first..) {
            let same = kept.get(position) == Some(&facts.event);
            promise!(same, "{} at {position} of {name} is not what it was", facts.event.id);
        }
    }
    Ok(())
}

/// Works on without expecting anything but this: what is lent is what was published, and answers are honest faults.
fn relaxed_drain(world: &mut World<'_>, rounds: usize) -> Judged {
    if !world.is_open() {
        return Ok(());
    }
    let groups: Vec<GroupName> = world.model.groups.keys().cloned().collect();
    for _ in 0..rounds {
        for name in &groups {
            let ask = Claim { group: name.clone(), max: 10, lease: world.lease, before: None };
            let Ok(claimed) = at_once(world.store().claim(&ask)) else { continue };
            let stream = &world.model.streams[&world.model.groups[name].spec.stream];
            for delivery in &claimed.deliveries {
                let facts = stream.events.get(&delivery.position);
                let same = facts.is_some_and(|facts| facts.event == delivery.event);
                promise!(same, "{name} was lent {:?}, which nobody published there", delivery.event);
            }
            let settled = claimed.deliveries.iter().map(|delivery| Settled {
                token: delivery.lease.token,
                settlement: Settlement::Done(Vec::new()),
                attempt: None,
            });
            // A store that met the damage may refuse; it may not lie.
            drop(at_once(world.store().settle(settled.collect())));
        }
        world.clock.advance(Duration::from_secs(20));
    }
    Ok(())
}

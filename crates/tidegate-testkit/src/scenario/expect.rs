//! Compares what a store shows with what the model says it must show.

use std::collections::VecDeque;

use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    names::StreamName,
    store::{DeadQuery, GroupStatus, Store, StreamStatus},
};

use super::{
    at_once,
    model::{Fresh, GroupModel, Letter, Model, State, StreamModel},
};

/// Fails with the words of a broken promise.
macro_rules! promise {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}
pub(super) use promise;

/// Reads what each stream holds beyond the last event that the model knows.
pub(super) fn fresh(store: &dyn Store, model: &Model) -> Result<Fresh, String> {
    let mut fresh = Fresh::new();
    for (name, stream) in &model.streams {
        let mut from = Position { low: stream.last().low + 1, ..stream.last() };
        let mut events = VecDeque::new();
        loop {
            let page = at_once(store.read(name, from, 1000)).map_err(|fault| format!("read {name}: {fault:?}"))?;
            events.extend(page.items);
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        fresh.insert(name.clone(), events);
    }
    Ok(fresh)
}

/// Checks that the store shows nothing that nobody asked for.
pub(super) fn nothing_more(fresh: &Fresh) -> Result<(), String> {
    for (name, events) in fresh {
        let ids: Vec<_> = events.iter().map(|stored| stored.event.id.as_ref() as &str).collect();
        promise!(ids.is_empty(), "{name} holds {ids:?}, which nobody acknowledged or asked for");
    }
    Ok(())
}

/// Checks all counts, and takes over how far retention came.
pub(super) fn counts(store: &dyn Store, model: &mut Model, now: Timestamp) -> Result<(), String> {
    let streams = at_once(store.streams()).map_err(|fault| format!("streams: {fault:?}"))?;
    let groups = at_once(store.groups()).map_err(|fault| format!("groups: {fault:?}"))?;
    for name in model.streams.keys().cloned().collect::<Vec<_>>() {
        let status = streams.iter().find(|status| status.name == name);
        let status = status.ok_or_else(|| format!("stream {name} is gone"))?;
        stream_counts(model, &name, status)?;
        let dead = streams.iter().find(|status| status.name == name.dead_letters());
        let letters = model.letters.get(&name).map_or(0, Vec::len) as u64;
        let accepted = dead.map(|status| status.accepted);
        promise!(accepted == Some(letters), "{name} has {accepted:?} dead letters in its counts, not {letters}");
    }
    promise!(groups.len() == model.groups.len(), "there are {} groups, not {}", groups.len(), model.groups.len());
    for status in &groups {
        let group = model.groups.get(&status.name).ok_or_else(|| format!("group {} was removed", status.name))?;
        let stream = &model.streams[&group.spec.stream];
        group_counts(group, stream, status, now)?;
    }
    Ok(())
}

fn stream_counts(model: &mut Model, name: &StreamName, status: &StreamStatus) -> Result<(), String> {
    let stream = &model.streams[name];
    let accepted = stream.events.len() as u64;
    promise!(status.accepted == accepted, "{name} accepted {accepted} events and counts {}", status.accepted);
    promise!(status.quarantined == 0, "{name} has {} quarantined events on a good disk", status.quarantined);
    let first = status.first.unwrap_or_else(|| Position { low: stream.last().low + 1, ..stream.last() });
    promise!(first >= stream.first, "{name} started at {} and starts at {first} now", stream.first);
    if let Some(last) = status.last {
        promise!(last == stream.last(), "{name} ends at {last}, not at {}", stream.last());
    }
    let keeps = stream.spec.retain == tidegate_core::store::Retain::default();
    let oldest = stream.events.keys().next().copied().unwrap_or(first);
    promise!(!keeps || first <= oldest, "{name} lost events before {first} without a bound");
    if let Some(stream) = model.streams.get_mut(name) {
        stream.first = first;
    }
    Ok(())
}

fn group_counts(group: &GroupModel, stream: &StreamModel, status: &GroupStatus, now: Timestamp) -> Result<(), String> {
    let name = &group.spec.name;
    promise!(status.difference() == 0, "the accounting of {name} does not balance: {status:?}");
    let accepted = group.lives.len() as u64;
    promise!(status.accepted == accepted, "{name} accepted {accepted} events and counts {}", status.accepted);
    let (mut open, mut unrun, mut duplicate, mut expired, mut dropped) = (0, 0, 0, 0, 0);
    let (mut held, mut lent) = (0, 0);
    for (position, life) in group.lives.iter().filter(|(_, life)| !life.is_over()) {
        open += 1;
        if let State::Lent { until, .. } = life.state {
            lent += 1;
            held += u64::from(until > now);
        }
        let why = group.unrun(stream, *position, now);
        unrun += u64::from(why.any());
        duplicate += u64::from(why.duplicate);
        expired += u64::from(why.expired);
        dropped += u64::from(why.dropped);
    }
    let gone = status.duplicates + status.expired + status.dropped;
    promise!(status.duplicates <= duplicate, "{name} counts {} duplicates of {duplicate}", status.duplicates);
    promise!(status.expired <= expired, "{name} counts {} expired of {expired}", status.expired);
    promise!(status.dropped <= dropped, "{name} counts {} dropped of {dropped}", status.dropped);
    promise!(gone <= unrun, "{name} let {gone} deliveries go of {unrun} that nobody has to run");
    let done = group.done + status.duplicates;
    promise!(status.done == done, "{name} has {done} done and counts {}", status.done);
    promise!(status.skipped == group.skipped, "{name} has {} skipped, not {}", group.skipped, status.skipped);
    promise!(status.dead == group.dead, "{name} has {} dead and counts {}", group.dead, status.dead);
    let left = status.waiting + status.scheduled + status.in_flight;
    promise!(left == open - gone, "{name} has {} open deliveries and counts {left}: {status:?}", open - gone);
    let lends = held <= status.in_flight && status.in_flight <= lent;
    promise!(lends, "{name} counts {} in flight, not {held} to {lent}", status.in_flight);
    let blocked = group.lives.keys().filter(|position| group.waits(stream, **position, now).1).count() as u64;
    promise!(status.blocked <= blocked, "{name} counts {} that wait for others, at most {blocked} do", status.blocked);
    let lost = status.leases_lost;
    let counted = group.leases_lost <= lost && lost <= group.leases_lost + group.leases_lost_maybe;
    promise!(counted, "{name} counts {lost} lost leases, not {}", group.leases_lost);
    Ok(())
}

/// Checks everything that can be read: all events, all dead letters, all state, all ledgers.
pub(super) fn everything(store: &dyn Store, model: &mut Model, now: Timestamp) -> Result<(), String> {
    counts(store, model, now)?;
    for (name, stream) in &model.streams {
        events(store, name, stream)?;
    }
    learn_letters(store, model)?;
    let mut states = at_once(store.states("")).map_err(|fault| format!("states: {fault:?}"))?;
    states.sort();
    let expected: Vec<_> = model.states.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    promise!(states == expected, "the control state is {states:?}, not {expected:?}");
    for group in model.groups.values() {
        ledger(store, group, &model.streams[&group.spec.stream])?;
    }
    Ok(())
}

fn events(store: &dyn Store, name: &StreamName, stream: &StreamModel) -> Result<(), String> {
    let mut expected = stream.events.range(stream.first..);
    let mut from = Position::START;
    loop {
        let page = at_once(store.read(name, from, 100)).map_err(|fault| format!("read {name}: {fault:?}"))?;
        for stored in page.items {
            let Some((position, facts)) = expected.next() else {
                return Err(format!("{name} holds {} at {}, which is too much", stored.event.id, stored.position));
            };
            let (got, at) = (&stored.event, stored.position);
            promise!(at == *position, "{name} holds {} at {at}, expected is {} at {position}", got.id, facts.event.id);
            promise!(*got == facts.event, "{name} holds {got:?} at {at}, not {:?}", facts.event);
        }
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    let missing = expected.next().map(|(position, facts)| format!("{} at {position}", facts.event.id));
    promise!(missing.is_none(), "{name} lost {missing:?} and what follows");
    Ok(())
}

/// Compares the dead letters and learns the ids of new ones.
pub(super) fn learn_letters(store: &dyn Store, model: &mut Model) -> Result<(), String> {
    for (stream, letters) in &mut model.letters {
        let mut listed = Vec::new();
        let mut query = DeadQuery { limit: 100, ..DeadQuery::default() };
        loop {
            let page = at_once(store.dead_letters(stream, &query));
            let page = page.map_err(|fault| format!("dead letters of {stream}: {fault:?}"))?;
            listed.extend(page.items);
            match page.next {
                Some(next) => query.before = Some(next),
                None => break,
            }
        }
        listed.reverse();
        promise!(listed.len() == letters.len(), "{stream} has {} dead letters, not {}", listed.len(), letters.len());
        let mut last = Position::START;
        for (got, expected) in listed.iter().zip(letters.iter_mut()) {
            let id = got.id;
            promise!(id > last, "dead letters of {stream} are not in order");
            last = id;
            promise!(expected.id.is_none_or(|known| known == id), "dead letter {id} of {stream} changed its id");
            expected.id = Some(id);
            same_letter(got, expected).map_err(|what| format!("dead letter {id} of {stream}: {what}"))?;
        }
    }
    Ok(())
}

fn same_letter(got: &tidegate_core::store::DeadLetter, expected: &Letter) -> Result<(), String> {
    promise!(got.event == expected.event, "the event is {:?}, not {:?}", got.event, expected.event);
    promise!(got.group == expected.group, "the group is {}, not {}", got.group, expected.group);
    promise!(got.position == expected.position, "the place is {}, not {}", got.position, expected.position);
    promise!(got.state == expected.state, "the state is {:?}, not {:?}", got.state, expected.state);
    promise!(*got.message == *expected.message, "the message is {:?}, not {:?}", got.message, expected.message);
    let attempts = u32::try_from(got.attempts.len()).unwrap_or(u32::MAX);
    promise!(expected.attempts.contains(attempts), "{attempts} attempts are kept, not {:?}", expected.attempts);
    Ok(())
}

fn ledger(store: &dyn Store, group: &GroupModel, stream: &StreamModel) -> Result<(), String> {
    let name = &group.spec.name;
    let asked: Vec<_> =
        stream.events.values().map(|facts| (facts.event.source.clone(), facts.event.id.clone())).collect();
    let answers = at_once(store.done(name, &asked)).map_err(|fault| format!("ledger of {name}: {fault:?}"))?;
    for ((source, id), known) in asked.iter().zip(answers) {
        let expected = group.ledger.contains_key(&(source.to_string(), id.to_string()));
        promise!(known == expected, "the ledger of {name} says {known} of {id}, not {expected}");
    }
    Ok(())
}

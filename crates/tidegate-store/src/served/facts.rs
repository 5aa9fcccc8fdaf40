//! What is read from events before a server gets them, and the bounds on what one step of a server may bring.

use std::time::Duration;

use tidegate_core::{
    clock::Timestamp,
    delivery::{Settled, Settlement},
    event::Event,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    names::{GroupName, StreamName},
    store::StreamSpec,
};

/// Most settlements in one step of the server.
const STEP_MAX: usize = 500;

/// An instant in an attribute.
pub(crate) fn instant(event: &Event, name: &str) -> Option<Timestamp> {
    Timestamp::parse(event.extension(name)?).ok()
}

/// A fault for what is more than a step may bring.
pub(crate) fn too_much(note: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note.into())
}

/// Refuses events that one append cannot bring; how large each is, `size` tells.
pub(crate) fn check_append(name: &StreamName, events: &[Event]) -> Result<()> {
    if name.is_dead_letters() {
        return Err(Fault::invalid(format!("stream {:?} takes only dead letters", name.as_str())));
    }
    if events.len() > limits::BATCH_EVENTS_MAX {
        let note = format!("{} events at once are more than the limit of {}", events.len(), limits::BATCH_EVENTS_MAX);
        return Err(too_much(note));
    }
    let bytes: usize = events.iter().map(|event| event.size() + 48).sum();
    if bytes > limits::STEP_BYTES_MAX {
        let note = format!("the batch takes {bytes} bytes, more than the limit of {}", limits::STEP_BYTES_MAX);
        return Err(too_much(note));
    }
    Ok(())
}

/// Refuses outputs of one delivery that one commit cannot bring.
pub(crate) fn check_outputs(outputs: &[(StreamName, Event)]) -> Result<()> {
    let bytes: usize = outputs.iter().map(|(_, event)| event.size() + 64).sum();
    if bytes > limits::STEP_BYTES_MAX - limits::COMMIT_BYTES_MAX {
        return Err(too_much(format!("outputs of one delivery take {bytes} bytes, more than one commit holds")));
    }
    Ok(())
}

/// How many of these settlements fit one step.
pub(crate) fn step_len(settled: &[Settled]) -> usize {
    let mut bytes = 0;
    for (index, one) in settled.iter().enumerate() {
        bytes += match &one.settlement {
            Settlement::Done(outputs) => outputs.iter().map(|(_, event)| event.size()).sum(),
            Settlement::Bury { .. } => limits::EVENT_BYTES_MAX / 16,
            Settlement::Skip | Settlement::Release | Settlement::RetryAt { .. } => 0,
        };
        if index > 0 && (index == STEP_MAX || bytes > limits::STEP_BYTES_MAX) {
            return index;
        }
    }
    settled.len()
}

/// Says that a group holds an append of so many events back, and when to come again at its rate.
pub(crate) fn full(spec: &StreamSpec, group: &GroupName, backlog: u64, count: usize, rate: f64) -> Fault {
    let most = spec.max_backlog.unwrap_or(u64::MAX);
    let seconds = (((backlog + count as u64).saturating_sub(most)) as f64 / rate.max(0.1)).clamp(1.0, 60.0);
    let note = format!(
        "stream {:?} holds {backlog} events that group {:?} has not settled; its max_backlog is {most}",
        spec.name.as_str(),
        group.as_str()
    );
    Fault::limited(note, Duration::from_secs_f64(seconds.ceil()))
}

//! The line of each notice: its level, its fields and its words.

use std::time::Duration;

use tidegate_core::notice::Notice;
use tracing::{debug, error, info, warn};

/// Tells whether a notice belongs to the path of a message.
pub(super) fn is_frequent(notice: &Notice) -> bool {
    matches!(
        notice,
        Notice::Accepted { .. }
            | Notice::Claimed { .. }
            | Notice::AttemptStarted { .. }
            | Notice::AttemptDone { .. }
            | Notice::AttemptFailed { .. }
            | Notice::AttemptInterrupted { .. }
            | Notice::Settled { .. }
            | Notice::ResultKept { .. }
            | Notice::TargetCalled { .. }
    )
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a notice of the path of a message.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other half is in `rare`, where every notice is named")]
pub(super) fn frequent(notice: &Notice) {
    let name = notice.name();
    match notice {
        Notice::Accepted { stream, count, duplicates } => debug!(notice = name, %stream, count, duplicates, "accepted"),
        Notice::Claimed { group, count, duplicates, expired } => {
            debug!(notice = name, %group, count, duplicates, expired, "claimed");
        }
        Notice::AttemptStarted { group, event, position, attempt, waited } => {
            debug!(notice = name, %group, %event, %position, attempt, waited_ms = ms(*waited), "attempt started");
        }
        Notice::AttemptDone { group, event, position, attempt, took } => {
            debug!(notice = name, %group, %event, %position, attempt, took_ms = ms(*took), "attempt done");
        }
        Notice::AttemptFailed { group, event, position, attempt, took, class, message, retry_at } => {
            let retry_at = retry_at.map(|at| at.to_string()).unwrap_or_default();
            debug!(notice = name, %group, %event, %position, attempt, took_ms = ms(*took), %class, retry_at, "attempt failed: {message}");
        }
        Notice::AttemptInterrupted { group, event, position, attempt } => {
            debug!(notice = name, %group, %event, %position, attempt, "attempt interrupted");
        }
        Notice::ResultKept { group, event, position } => {
            debug!(notice = name, %group, %event, %position, "result kept");
        }
        Notice::Settled { group, outcome, count } => debug!(notice = name, %group, outcome, count, "settled"),
        Notice::TargetCalled { target, result, waited, took } => {
            debug!(notice = name, %target, result, waited_ms = ms(*waited), took_ms = ms(*took), "target called");
        }
        _ => {}
    }
}

/// Writes any other notice.
pub(super) fn rare(notice: &Notice) {
    match notice {
        Notice::Accepted { .. }
        | Notice::Claimed { .. }
        | Notice::AttemptStarted { .. }
        | Notice::AttemptDone { .. }
        | Notice::AttemptFailed { .. }
        | Notice::AttemptInterrupted { .. }
        | Notice::Settled { .. }
        | Notice::ResultKept { .. }
        | Notice::DeadReprocessed { .. }
        | Notice::TargetCalled { .. } => {}
        Notice::ListenerBound { .. }
        | Notice::NodeReady { .. }
        | Notice::NodeDraining { .. }
        | Notice::NodeStopped { .. }
        | Notice::ServiceRestarted { .. }
        | Notice::StoreOpened { .. }
        | Notice::StoreDamaged { .. }
        | Notice::StoreRefusing { .. }
        | Notice::StoreRecovered {}
        | Notice::StoreFailed { .. }
        | Notice::InputRejected { .. }
        | Notice::SourceHalted { .. }
        | Notice::SourceResumed { .. }
        | Notice::QueueLate { .. }
        | Notice::MemoryHigh { .. }
        | Notice::DiskFilling { .. }
        | Notice::HealthChanged { .. }
        | Notice::ModuleReported { .. } => of_the_node(notice),
        Notice::Refused { .. }
        | Notice::LeaseLost { .. }
        | Notice::DeadLettered { .. }
        | Notice::DeadMoved { .. }
        | Notice::DeskJobEnded { .. }
        | Notice::DeskJobTakenOver { .. }
        | Notice::GroupPaused { .. }
        | Notice::GroupResumed { .. }
        | Notice::GroupScaled { .. }
        | Notice::GroupSought { .. }
        | Notice::ReplayStarted { .. }
        | Notice::ReplayEnded { .. }
        | Notice::Shed { .. }
        | Notice::BacklogHigh { .. }
        | Notice::BacklogEased { .. }
        | Notice::RetentionHeld { .. }
        | Notice::IntakePaused { .. }
        | Notice::IntakeResumed { .. }
        | Notice::GroupRemoved { .. }
        | Notice::GroupDraining { .. }
        | Notice::GroupDrained { .. }
        | Notice::Unblocked { .. }
        | Notice::BreakerOpened { .. }
        | Notice::BreakerProbing { .. }
        | Notice::BreakerClosed { .. }
        | Notice::TargetDisabled { .. }
        | Notice::TargetLimited { .. } => {
            of_the_work(notice);
            of_the_flow(notice);
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "`rare` names every notice")]
fn of_the_node(notice: &Notice) {
    let name = notice.name();
    match notice {
        Notice::ListenerBound { address } => info!(notice = name, address, "listening on {address}"),
        Notice::NodeReady { took } => info!(notice = name, took_ms = ms(*took), "the node takes work"),
        Notice::NodeDraining { grace } => {
            info!(notice = name, grace_ms = ms(*grace), "stopping: no new work, what is held may finish");
        }
        Notice::NodeStopped { clean: true, .. } => info!(notice = name, clean = true, "stopped"),
        Notice::NodeStopped { clean: false, still_running } => {
            warn!(notice = name, clean = false, still_running, "stopped with {still_running} still running");
        }
        Notice::ServiceRestarted { service, fault, after } => {
            warn!(notice = name, service, after_ms = ms(*after), "{service} ended in error and starts again: {fault}");
        }
        Notice::StoreOpened { took, replayed } => info!(notice = name, took_ms = ms(*took), replayed, "store opened"),
        Notice::StoreDamaged { place, what } => error!(notice = name, place, "damage in {place}: {what}"),
        Notice::StoreRefusing { reason } => warn!(notice = name, "publishes are refused: {reason}"),
        Notice::StoreRecovered {} => info!(notice = name, "publishes are taken again"),
        Notice::StoreFailed { reason } => {
            error!(notice = name, "nothing can be written until the node is started again: {reason}")
        }
        Notice::InputRejected { module, place, why } => {
            warn!(notice = name, %module, place, "{module}: {place} is no event: {why}");
        }
        Notice::SourceHalted { module, disabled, by, reason, until } => {
            let until = until.map(|at| at.to_string()).unwrap_or_default();
            let state = if *disabled { "disabled" } else { "paused" };
            info!(notice = name, %module, by, reason, until, "source {module} is {state}");
        }
        Notice::SourceResumed { module, by } => info!(notice = name, %module, by, "source {module} runs again"),
        Notice::QueueLate { .. }
        | Notice::MemoryHigh { .. }
        | Notice::DiskFilling { .. }
        | Notice::HealthChanged { .. } => of_the_watch(notice),
        Notice::ModuleReported { module, what } => info!(notice = name, %module, "{module}: {what}"),
        _ => {}
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "`rare` names every notice")]
fn of_the_watch(notice: &Notice) {
    let name = notice.name();
    match notice {
        Notice::QueueLate { group, queue, latency, depth } => {
            let queue_latency = latency.as_secs_f64();
            warn!(notice = name, queue_latency, %group, %queue, depth, "{group} is late: {depth} events wait, the oldest or most of them for {queue_latency:.1} s");
        }
        Notice::MemoryHigh { resident, threshold } => {
            warn!(
                notice = name,
                resident,
                threshold,
                "memory pressure: the process holds {resident} bytes of memory, warned from {threshold} on"
            );
        }
        Notice::DiskFilling { percent, free } => {
            warn!(
                notice = name,
                percent, free, "the disk of the data directory is {percent} % full: {free} bytes are free"
            );
        }
        Notice::HealthChanged { component, from, to, cause } => match *to {
            "unhealthy" => error!(notice = name, component, from, to, "{component} is unhealthy: {cause}"),
            "degraded" => warn!(notice = name, component, from, to, "{component} is degraded: {cause}"),
            _ => info!(notice = name, component, from, to, "{component} is {to}, it was {from}"),
        },
        _ => {}
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "`rare` names every notice")]
fn of_the_work(notice: &Notice) {
    let name = notice.name();
    match notice {
        Notice::Refused { stream, reason } => warn!(notice = name, %stream, "publish into {stream} refused: {reason}"),
        Notice::LeaseLost { group, count } => warn!(notice = name, %group, count, "{group} lost {count} leases"),
        Notice::DeadLettered { stream, group, event, class, message, attempts } => {
            warn!(notice = name, %stream, %group, %event, %class, attempts, "event {event} is a dead letter of {group}: {message}");
        }
        Notice::DeadMoved { stream, action, count, by, reason } => {
            info!(notice = name, %stream, action, count, by, reason, "{action} {count} dead letters of {stream}");
        }
        Notice::DeskJobTakenOver { job, stream, from } => {
            info!(notice = name, job, %stream, from, "job on dead letters of {stream} goes on here, {from} is gone");
        }
        Notice::DeskJobEnded { job, stream, state, moved, failed, why } => {
            info!(notice = name, job, %stream, state, moved, failed, why, "job on dead letters of {stream}: {state}, {moved} moved");
        }
        Notice::GroupPaused { group, by, reason, until } => {
            let until = until.map(|at| at.to_string()).unwrap_or_default();
            info!(notice = name, %group, by, reason, until, "{group} is paused");
        }
        Notice::GroupResumed { group, by } => info!(notice = name, %group, by, "{group} takes work again"),
        Notice::GroupScaled { group, workers, by } => {
            info!(notice = name, %group, workers, by, "{group} has {workers} workers")
        }
        Notice::GroupSought { group, from, to, by, reason } => {
            info!(notice = name, %group, %from, %to, by, reason, "{group} was moved from {from} to {to}");
        }
        Notice::GroupDraining { group, by, reason, until } => {
            info!(notice = name, %group, by, reason, %until, "{group} finishes what is there and pauses then");
        }
        Notice::Unblocked { group, event, position, rejected, by, reason } => {
            let what = if *rejected { "is rejected" } else { "waits for no other event any more" };
            info!(notice = name, %group, %event, %position, by, reason, "event {event} of {group} {what}");
        }
        Notice::GroupDrained { group, left, by } => {
            info!(notice = name, %group, left, by, "{group} is drained and paused, {left} are left");
        }
        Notice::BreakerOpened { target, class, message, until } => {
            warn!(notice = name, %target, %class, %until, "breaker of {target} opened: {message}");
        }
        Notice::BreakerProbing { target } => info!(notice = name, %target, "breaker of {target} lets one call through"),
        Notice::BreakerClosed { target, open_for } => {
            info!(notice = name, %target, open_for_ms = ms(*open_for), "breaker of {target} closed");
        }
        Notice::TargetLimited { target, concurrency, rate } => {
            info!(notice = name, %target, concurrency, rate, "{target} gets at most {concurrency} calls at a time, rate {rate}");
        }
        Notice::TargetDisabled { target, message } => {
            error!(notice = name, %target, "target {target} wants nothing any more and is disabled until it is reset: {message}");
        }
        _ => {}
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "`rare` names every notice")]
fn of_the_flow(notice: &Notice) {
    let name = notice.name();
    let of =
        |group: &Option<tidegate_core::names::GroupName>| group.as_ref().map(ToString::to_string).unwrap_or_default();
    match notice {
        Notice::Shed { stream, count } => {
            warn!(notice = name, %stream, count, "{count} events of {stream} were dropped to make room");
        }
        Notice::BacklogHigh { stream, group, percent, backlog, most } => {
            let group = of(group);
            warn!(notice = name, %stream, group, percent, backlog, most, "{stream} holds {backlog} unsettled events, over {percent} % of {most}");
        }
        Notice::BacklogEased { stream, backlog, most } => {
            info!(notice = name, %stream, backlog, most, "{stream} holds {backlog} unsettled events, few enough again");
        }
        Notice::RetentionHeld { stream, group, events } => {
            let group = of(group);
            warn!(notice = name, %stream, group, events, "{stream} keeps {events} events beyond its retention for {group}");
        }
        Notice::IntakePaused { by, reason, until } => {
            let until = until.map(|at| at.to_string()).unwrap_or_default();
            info!(notice = name, by, reason, until, "no events are taken from sources that can refuse");
        }
        Notice::IntakeResumed { by } => info!(notice = name, by, "events are taken again"),
        Notice::ReplayStarted { group, of, with, from, before, by, reason } => {
            info!(notice = name, %group, %of, %with, %from, %before, by, reason, "{group} handles {of} once more from {from} on and before {before}");
        }
        Notice::ReplayEnded { group, of, done, duplicates, skipped, dead, expired, dropped } => {
            info!(notice = name, %group, %of, done, duplicates, skipped, dead, expired, dropped, "{group} has handled its range of {of}: {done} done, {dead} dead");
        }
        Notice::GroupRemoved { group, by, reason } => info!(notice = name, %group, by, reason, "{group} is removed"),
        _ => {}
    }
}

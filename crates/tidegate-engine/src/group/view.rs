//! What an operator sees of a group.

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    fault::Result,
    guard::Gate,
    names::{GroupName, StreamName, TargetName},
    service::StopPhase,
    store::{GroupSpec, GroupStatus},
};

use super::{Drain, Group, GroupPolicy, Pace, Pause};

/// Where a group stands.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupView {
    /// Counts.
    pub status: GroupStatus,
    /// What is known of it without asking the store.
    pub glance: Glance,
    /// The target that its handler calls.
    pub target: Option<TargetName>,
    /// What the target's guard allows.
    pub gate: Gate,
    /// How it reads its stream.
    pub spec: GroupSpec,
    /// How it works.
    pub policy: GroupPolicy,
}

/// What is known of a group without asking the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Glance {
    /// The stream whose events it processes.
    pub stream: StreamName,
    /// Whether it claims.
    pub state: GroupState,
    /// How many batches are tried at a time.
    pub workers: usize,
    /// Of those, how many are busy.
    pub busy: usize,
    /// Why it does not claim, at somebody's wish.
    pub paused: Option<Pause>,
    /// It finishes what was there when somebody asked, and pauses then.
    pub drain: Option<Drain>,
    /// It is slowed down until it has caught up.
    pub pace: Option<Pace>,
    /// Its workers are outside of the node.
    pub pull: bool,
    /// Workers outside that ask for work right now.
    pub asking: usize,
    /// When a worker outside last asked for work; none when none has since the node was started.
    pub asked_at: Option<Timestamp>,
}

/// Whether a group claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// It claims what its workers can take.
    Running,
    /// It claims nothing, at somebody's wish.
    Paused,
    /// It claims nothing more, because the node stops; or nothing new, because somebody wants it to come to an end.
    Draining,
}

impl GroupState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Running, Self::Paused, Self::Draining];

    /// Returns the word used in JSON and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }
}

/// A delivery that somebody works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The group.
    pub group: GroupName,
    /// The event's id.
    pub event: ByteString,
    /// Its place in the stream.
    pub position: Position,
    /// Who asked for it, when the worker is outside of the node.
    pub by: Option<ByteString>,
    /// Number of the attempt.
    pub attempt: u32,
    /// Since when.
    pub since: Timestamp,
}

impl Group {
    pub(crate) fn glance(&self) -> Glance {
        let desired = self.desired.borrow().clone();
        let state = match (self.cx.stop.phase(), &desired.paused) {
            (StopPhase::Draining | StopPhase::Aborted, _) => GroupState::Draining,
            (StopPhase::Running, Some(_)) => GroupState::Paused,
            (StopPhase::Running, None) if desired.drain.is_some() => GroupState::Draining,
            (StopPhase::Running, None) => GroupState::Running,
        };
        Glance {
            stream: self.stream.clone(),
            state,
            workers: desired.workers,
            busy: self.busy(),
            paused: desired.paused,
            drain: desired.drain,
            pace: desired.pace,
            pull: self.handler.is_none(),
            asking: self.lent.asking(),
            asked_at: self.lent.asked_at(),
        }
    }

    pub(crate) async fn view(&self) -> Result<GroupView> {
        let status = self.store.group(&self.name).await?;
        Ok(GroupView {
            status,
            glance: self.glance(),
            target: self.guard.as_ref().map(|guard| guard.target().clone()),
            gate: self.gate(),
            spec: self.spec.clone(),
            policy: self.policy.clone(),
        })
    }

    /// Returns what somebody works on, here or outside.
    pub(crate) fn running(&self) -> Vec<Running> {
        let mut running = self.lent_now();
        for batch in self.flight.batches() {
            running.extend(batch.deliveries.iter().map(|delivery| Running {
                group: self.name.clone(),
                event: delivery.event.id.clone(),
                position: delivery.position,
                by: None,
                attempt: delivery.attempt,
                since: batch.since(),
            }));
        }
        running.sort_by_key(|one| one.since);
        running
    }
}

//! Dead letters in the seam to an engine: what is known of them, and what can be done with them.

use std::time::Duration;

use async_trait::async_trait;
use bytestring::ByteString;

use super::{Appended, Page};
use crate::{
    clock::Timestamp,
    delivery::{Attempt, Position},
    event::Event,
    fault::{FaultClass, Result},
    names::{GroupName, StreamName},
};

/// State of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadState {
    /// Waits for somebody.
    Parked,
    /// Went back into its stream.
    Reprocessed,
    /// Somebody took care of it elsewhere.
    Resolved,
    /// Somebody gave it up.
    Discarded,
    /// Retention gave it up.
    Expired,
}

impl DeadState {
    /// All states, in the order of their stored numbers.
    pub const ALL: [Self; 5] = [Self::Parked, Self::Reprocessed, Self::Resolved, Self::Discarded, Self::Expired];

    /// Returns the word used in JSON and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Reprocessed => "reprocessed",
            Self::Resolved => "resolved",
            Self::Discarded => "discarded",
            Self::Expired => "expired",
        }
    }
}

/// A dead letter: the untouched event and everything known of its death.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct DeadLetter {
    /// Its place in the dead-letter stream; its id.
    pub id: Position,
    /// Stream it came from.
    pub stream: StreamName,
    /// Group that could not process it.
    pub group: GroupName,
    /// Its place in the stream it came from.
    pub position: Position,
    /// State.
    pub state: DeadState,
    /// The event, untouched.
    pub event: Event,
    /// Class of the last fault.
    pub class: FaultClass,
    /// Message of the last fault.
    pub message: ByteString,
    /// The message without its variable parts.
    pub signature: ByteString,
    /// Attempts, oldest first, at most [`crate::limits::HISTORY_MAX`].
    pub attempts: Vec<Attempt>,
    /// When it was buried.
    pub failed_at: Timestamp,
    /// Fingerprint of the configuration at that time.
    pub config: ByteString,
    /// Who changed its state, when and why; none while it was never touched.
    pub changed: Option<DeadChange>,
}

/// Who changed the state of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadChange {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: ByteString,
    /// Why.
    pub note: ByteString,
    /// The job that did it; empty when none did.
    pub job: ByteString,
    /// Where it went, when it was reprocessed.
    pub position: Option<Position>,
}

/// What is known of a dead letter without reading it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadEntry {
    /// Its place in the dead-letter stream; its id.
    pub id: Position,
    /// Group that could not process it.
    pub group: GroupName,
    /// Its place in the stream it came from; [`Position::START`] when it was imported.
    pub position: Position,
    /// State.
    pub state: DeadState,
    /// Class of the last fault.
    pub class: FaultClass,
    /// When it was buried.
    pub failed_at: Timestamp,
}

/// Which dead letters; newest first, unless `after` is given.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct DeadQuery {
    /// Only in this state.
    pub state: Option<DeadState>,
    /// Only of this group.
    pub group: Option<GroupName>,
    /// Only older than this id.
    pub before: Option<Position>,
    /// Only newer than this id, and oldest first.
    pub after: Option<Position>,
    /// Only buried at or after this time.
    pub since: Option<Timestamp>,
    /// Only buried before this time.
    pub until: Option<Timestamp>,
    /// Most entries.
    pub limit: usize,
}

/// What is done with dead letters.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum DeadAction {
    /// Back into the stream it came from, for the group that buried it, with the same event, key and history.
    Reprocess {
        /// Also when it was reprocessed before.
        force: bool,
        /// Edited events in place of the originals, which stay untouched: none, or one for each entry in its order.
        /// Each keeps `id` and `source`.
        edited: Vec<Event>,
    },
    /// Parked again, of those that were reprocessed and that no handler has seen since.
    Recall,
    /// Somebody took care of it elsewhere.
    Resolve,
    /// Give it up.
    Discard,
    /// Forget it for good; only what is not parked.
    Purge,
}

/// A step on dead letters: all of it in one commit.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct DeadStep {
    /// Stream: the source stream or its `.dlq`.
    pub stream: StreamName,
    /// The entries; at most [`crate::limits::DEAD_STEP_MAX`].
    pub ids: Vec<Position>,
    /// What is done.
    pub action: DeadAction,
    /// Who does it.
    pub by: ByteString,
    /// Why.
    pub note: ByteString,
    /// The job that does it; empty when none does.
    pub job: ByteString,
    /// Control state that is kept in the same commit, whatever becomes of the entries.
    pub progress: Option<DeadProgress>,
}

/// How far a job came, as control state that goes with a step.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadProgress {
    /// Its key.
    pub key: String,
    /// What it must be before the step; otherwise nothing is moved and the answer is a conflict. None = whatever it is.
    pub was: Option<Vec<u8>>,
    /// What it is after the step.
    pub value: Vec<u8>,
}

/// What became of one entry of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum DeadStepStatus {
    /// Done; for a reprocess with the new position.
    Moved(Option<Position>),
    /// There is no such entry.
    Missing,
    /// Its state forbids it.
    Refused(DeadState),
}

/// Dead letters of one stream in numbers.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct DeadReport {
    /// Entries buried in the time asked for, whatever their state.
    pub total: u64,
    /// Of those, by time: as many equal parts of the time asked for as [`DeadReport::PARTS`].
    pub trend: Vec<u64>,
    /// Of those, by state.
    pub states: Vec<(DeadState, u64)>,
    /// Of those, by signature: count and newest example, most frequent first.
    pub signatures: Vec<(ByteString, u64, Position)>,
    /// Of those, by event type.
    pub kinds: Vec<(ByteString, u64)>,
    /// Of those, by group.
    pub groups: Vec<(GroupName, u64)>,
    /// Of those, by class.
    pub classes: Vec<(FaultClass, u64)>,
    /// When the oldest parked entry was buried.
    pub oldest: Option<Timestamp>,
    /// All parked entries, whenever they were buried, by group.
    pub parked: Vec<(GroupName, u64)>,
}

impl DeadReport {
    /// Parts of a trend.
    pub const PARTS: usize = 24;
}

/// How long dead letters are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadKeep {
    /// Those that wait for somebody expire after this time; none = never.
    pub parked: Option<Duration>,
    /// All others stay readable for this time after their last change.
    pub settled: Duration,
}

impl Default for DeadKeep {
    fn default() -> Self {
        Self { parked: None, settled: Duration::from_secs(7 * 86_400) }
    }
}

/// A dead letter from elsewhere.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct DeadImport {
    /// Group that could not process it; it must exist.
    pub group: GroupName,
    /// State.
    pub state: DeadState,
    /// The event, untouched.
    pub event: Event,
    /// Class of the last fault.
    pub class: FaultClass,
    /// Message of the last fault.
    pub message: ByteString,
    /// Attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// When it was buried.
    pub failed_at: Timestamp,
    /// Fingerprint of the configuration at that time.
    pub config: ByteString,
    /// Who changed its state, when and why.
    pub changed: Option<DeadChange>,
}

/// The dead letters of streams.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Lists dead letters.
    async fn dead_letters(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadLetter>>;

    /// Lists what is known of dead letters without reading them.
    async fn dead_entries(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadEntry>>;

    /// Returns one dead letter.
    async fn dead_letter(&self, stream: &StreamName, id: Position) -> Result<DeadLetter>;

    /// Moves dead letters in one commit; returns what became of each, in input order. A step that is too large for
    /// one commit is refused as limited.
    async fn move_dead(&self, step: &DeadStep) -> Result<Vec<DeadStepStatus>>;

    /// Counts dead letters buried in a time.
    async fn dead_report(&self, stream: &StreamName, since: Timestamp, until: Timestamp) -> Result<DeadReport>;

    /// Takes in dead letters from elsewhere in one commit. One whose event, group and time of burial are there already
    /// is answered with the id that it has.
    async fn import_dead(&self, stream: &StreamName, letters: Vec<DeadImport>) -> Result<Vec<Appended>>;
}

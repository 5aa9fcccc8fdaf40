//! What is asked of a job, and how far it came: both as they are kept.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tidegate_core::{
    clock::Timestamp,
    config::RateText,
    delivery::Position,
    fault::{Fault, Result},
    limits,
    names::{GroupName, StreamName},
    store::DeadState,
};
use tidegate_rules::Expr;

use super::{PREFIX, filter::known_names, patch::Patch};

/// What a job does with each dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobVerb {
    /// Back into its stream.
    Reprocess,
    /// Somebody took care of it elsewhere.
    Resolve,
    /// Give it up.
    Discard,
    /// Forget it for good.
    Purge,
}

impl JobVerb {
    /// Returns the word used in JSON and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reprocess => "reprocess",
            Self::Resolve => "resolve",
            Self::Discard => "discard",
            Self::Purge => "purge",
        }
    }
}

/// What is asked of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobAsk {
    /// The stream that the dead letters came from.
    pub stream: StreamName,
    /// What is done.
    pub verb: JobVerb,
    /// These; none = all that the members below choose.
    pub ids: Option<Vec<Position>>,
    /// Only in this state; none = any that the verb allows.
    pub state: Option<DeadState>,
    /// Only of this group.
    pub group: Option<GroupName>,
    /// Only those for which this is true.
    pub filter: Option<Expr>,
    /// Only buried before this time.
    pub until: Option<Timestamp>,
    /// Only count.
    pub dry_run: bool,
    /// Also what was reprocessed before.
    pub force: bool,
    /// At most so many in a time.
    pub rate: Option<RateText>,
    /// So many are reprocessed first; the first one that fails ends the job.
    pub canary: u64,
    /// Ends the job when more than this part of the reprocessed ones fails again.
    pub stop_on_fail_rate: Option<f64>,
    /// What is changed in each event.
    pub patch: Option<Patch>,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
}

impl JobAsk {
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |note: &str| Err(Fault::invalid(note.to_owned()));
        let many = self.ids.as_ref().map_or(0, Vec::len);
        if many > limits::DEAD_IDS_MAX {
            return wrong(&format!("{many} ids in one request, the limit is {}", limits::DEAD_IDS_MAX));
        }
        if self.canary > limits::DEAD_FOLLOWED_MAX as u64 {
            return wrong(&format!("canary is {}, it must be at most {}", self.canary, limits::DEAD_FOLLOWED_MAX));
        }
        if self.stop_on_fail_rate.is_some_and(|rate| !(0.0..=1.0).contains(&rate)) {
            return wrong("stop_on_fail_rate must be between 0 and 1");
        }
        let is_for_reprocess =
            self.force || self.canary > 0 || self.stop_on_fail_rate.is_some() || self.patch.is_some();
        if self.verb != JobVerb::Reprocess && is_for_reprocess {
            return wrong("force, canary, stop_on_fail_rate and patch are for reprocess only");
        }
        if let Some(filter) = &self.filter {
            filter.require(&known_names()).map_err(|fault| fault.within("where"))?;
        }
        Ok(())
    }

    /// Tells whether it waits for the outcome of all that it moves.
    pub(super) fn follows_all(&self) -> bool {
        self.stop_on_fail_rate.is_some()
    }
}

/// How a job is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It has not ended.
    #[default]
    Running,
    /// It did all there was to do.
    Done,
    /// It only counted.
    DryRun,
    /// It ended itself: too many failed, or it could not go on.
    Stopped,
    /// Somebody ended it.
    Cancelled,
}

impl JobState {
    /// Tells whether nothing more happens.
    pub fn is_final(self) -> bool {
        self != Self::Running
    }

    /// Returns the word used in JSON and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::DryRun => "dry_run",
            Self::Stopped => "stopped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A reprocessed entry whose outcome is waited for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Followed {
    pub(super) id: Position,
    pub(super) group: GroupName,
    pub(super) to: Position,
}

/// How far a job came.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobProgress {
    /// State.
    pub state: JobState,
    /// The node that drives it; empty where there can be only one.
    pub node: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it ended before all was done.
    pub why: Option<String>,
    /// Entries that it has to look at, when they were counted.
    pub total: u64,
    /// Entries that it looked at.
    pub looked: u64,
    /// Of those, what it is meant for.
    pub matched: u64,
    /// Of those, moved; in a dry run none.
    pub moved: u64,
    /// Of those, not moved because their state forbids it.
    pub refused: u64,
    /// Entries that do not exist.
    pub missing: u64,
    /// Entries that the patch does not fit.
    pub unfit: u64,
    /// Moved ones that were done since, as far as it waits for them.
    pub settled: u64,
    /// Moved ones that failed again, as far as it waits for them.
    pub failed_again: u64,
    /// Moved ones that were taken back.
    pub recalled: u64,
    /// First id that is not its business any more.
    pub(super) upto: Position,
    /// Everything up to here is handled.
    pub(super) cursor: Position,
    /// So many of the named ones are handled.
    pub(super) next: usize,
    /// The last step, which may be on its way.
    pub(super) step: Vec<Position>,
    pub(super) following: Vec<Followed>,
    /// New deaths up to here were looked at.
    pub(super) deaths: Position,
    /// Last outcomes: true = failed again.
    pub(super) recent: VecDeque<bool>,
    /// It is being cancelled, and what nobody has seen is taken back.
    pub(super) undoing: bool,
}

impl JobProgress {
    /// Entries that were meant and not moved.
    pub fn failed(&self) -> u64 {
        self.refused + self.missing + self.unfit
    }

    /// Reprocessed entries whose outcome is waited for.
    pub fn open(&self) -> u64 {
        self.following.len() as u64
    }

    pub(super) fn end(&mut self, state: JobState, why: Option<String>, at: Timestamp) {
        self.state = state;
        self.why = why.or_else(|| self.why.take());
        self.ended_at = Some(at);
        self.step.clear();
        self.following.clear();
        self.undoing = false;
    }
}

/// What became of one entry that was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Became {
    /// Its place among those that were named.
    pub named: usize,
    /// The entry.
    pub id: Position,
    /// `moved`, `matched`, `missing`, `refused` or `unfit`.
    pub status: &'static str,
    /// The state that forbids it.
    pub state: Option<DeadState>,
    /// Where it went.
    pub position: Option<Position>,
}

/// A job as it is now.
#[derive(Debug, Clone)]
pub struct JobView {
    /// Id.
    pub id: String,
    /// What was asked.
    pub ask: Arc<JobAsk>,
    /// How far it came.
    pub progress: JobProgress,
    /// What became of the entries that were named; lost when the node stops.
    pub became: Vec<Became>,
}

pub(super) fn ask_key(id: &str) -> String {
    format!("{PREFIX}{id}/ask")
}

pub(super) fn progress_key(id: &str) -> String {
    format!("{PREFIX}{id}/progress")
}

/// Where a wish to end a job is kept, for the node that drives it.
pub(super) fn cancel_key(id: &str) -> String {
    format!("{PREFIX}{id}/cancel")
}

pub(super) fn write<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|err| Fault::bug("a job cannot be written as JSON").because(err))
}

pub(super) fn read<T: DeserializeOwned>(id: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value)
        .map_err(|err| Fault::corrupt(format!("stored state of job {id} is not readable")).because(err))
}

//! The one error type that crosses a crate boundary, and the classes by which faults of attempts are judged.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{limits, names::TargetName};

/// Result whose error is a [`Fault`].
pub type Result<T, E = Fault> = std::result::Result<T, E>;

/// What went wrong, whose fault it is, and what to do about it.
#[derive(Clone)]
pub struct Fault {
    /// Kind; picks the HTTP status and the exit code.
    pub kind: FaultKind,
    /// Whose fault it is.
    pub origin: Origin,
    /// Whether and when trying again makes sense.
    pub retry: Retry,
    note: Cow<'static, str>,
    violation: Option<Arc<Violation>>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// Where data does not have the form that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// JSON pointer of the value; empty for the whole.
    pub pointer: String,
    /// Place of its event in the batch.
    pub index: Option<usize>,
    /// What is wrong with it.
    pub message: String,
}

/// The nine kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FaultKind {
    /// The input is wrong.
    Invalid,
    /// The named thing does not exist.
    Missing,
    /// The thing is in a state that forbids the operation.
    Conflict,
    /// The caller may not do this.
    Denied,
    /// A limit is reached; later it may work.
    Limited,
    /// A needed service, or the disk, is not there.
    Unavailable,
    /// It took too long.
    Timeout,
    /// Stored bytes are not what was written.
    Corrupt,
    /// Tidegate is wrong.
    Bug,
}

/// Whose fault it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The one who asked.
    Caller,
    /// The handler of a group.
    Handler,
    /// The engine that stores streams.
    Store,
    /// An outside destination.
    Target(TargetName),
    /// This program.
    Tidegate,
}

/// Whether and when trying again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retry {
    /// It will fail again.
    Never,
    /// It may work later.
    Later,
    /// It may work after this time.
    After(Duration),
}

impl Fault {
    /// Makes a fault; `note` says what was attempted on what, and stands alone.
    pub fn new(kind: FaultKind, origin: Origin, retry: Retry, note: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, origin, retry, note: note.into(), violation: None, source: None }
    }

    /// The caller's input is wrong.
    pub fn invalid(note: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultKind::Invalid, Origin::Caller, Retry::Never, note)
    }

    /// The named thing does not exist.
    pub fn missing(note: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultKind::Missing, Origin::Caller, Retry::Never, note)
    }

    /// The thing is in a state that forbids the operation.
    pub fn conflict(note: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultKind::Conflict, Origin::Caller, Retry::Never, note)
    }

    /// The caller may not do this.
    pub fn denied(note: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultKind::Denied, Origin::Caller, Retry::Never, note)
    }

    /// A limit is reached; try after `after`.
    pub fn limited(note: impl Into<Cow<'static, str>>, after: Duration) -> Self {
        Self::new(FaultKind::Limited, Origin::Tidegate, Retry::After(after), note)
    }

    /// A needed service or the disk is not there.
    pub fn unavailable(origin: Origin, note: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultKind::Unavailable, origin, Retry::Later, note)
    }

    /// Stored bytes are not what was written.
    pub fn corrupt(note: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultKind::Corrupt, Origin::Store, Retry::Never, note)
    }

    /// Tidegate itself is wrong.
    pub fn bug(note: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultKind::Bug, Origin::Tidegate, Retry::Never, note)
    }

    /// Keeps the cause, for the log.
    #[must_use]
    pub fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Says which value does not have the form that was asked for.
    #[must_use]
    pub fn violates(mut self, violation: Violation) -> Self {
        self.violation = Some(Arc::new(violation));
        self
    }

    /// Says which event of a batch a violation is in.
    #[must_use]
    pub fn at_index(mut self, index: usize) -> Self {
        if let Some(violation) = &mut self.violation {
            Arc::make_mut(violation).index = Some(index);
        }
        self
    }

    /// Returns the value that does not have the form that was asked for.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_deref()
    }

    /// Says in which larger step it happened.
    #[must_use]
    pub fn within(mut self, step: impl fmt::Display) -> Self {
        self.note = format!("{step}: {}", self.note).into();
        self
    }

    /// Returns the note for the operator.
    pub fn note(&self) -> &str {
        &self.note
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.note)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} fault of {:?}: {}", self.kind, self.origin, self.note)?;
        if let Some(source) = &self.source {
            write!(f, " (because: {source})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

/// How the fault of an attempt is judged, before it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultClass {
    /// It may work next time. Spends an attempt.
    Transient,
    /// No answer in time. Spends an attempt.
    Timeout,
    /// The target asks to slow down. Spends nothing; waits for what it was told.
    Throttled,
    /// Credentials or configuration of the target are wrong. Spends nothing; opens the breaker.
    Auth,
    /// The target is not there. Spends nothing; opens the breaker.
    DependencyDown,
    /// The message can never be processed. Dead letter at once.
    Invalid,
    /// The handler crashed on it. Counted apart; quarantined after [`limits::CRASHES_MAX`].
    Poison,
    /// Whether the effect happened is unknown. Spends nothing; retried with the same idempotency key.
    Ambiguous,
}

impl FaultClass {
    /// All classes, in the order of their stored numbers.
    pub const ALL: [Self; 8] = [
        Self::Transient,
        Self::Timeout,
        Self::Throttled,
        Self::Auth,
        Self::DependencyDown,
        Self::Invalid,
        Self::Poison,
        Self::Ambiguous,
    ];

    /// Tells whether a fault of this class spends one of the message's attempts.
    pub fn spends_attempt(self) -> bool {
        matches!(self, Self::Transient | Self::Timeout | Self::Poison)
    }

    /// Tells whether a fault of this class says something about the target rather than the message.
    pub fn blames_target(self) -> bool {
        matches!(self, Self::Auth | Self::DependencyDown)
    }

    /// Returns the word used in metrics, JSON and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Timeout => "timeout",
            Self::Throttled => "throttled",
            Self::Auth => "auth",
            Self::DependencyDown => "dependency_down",
            Self::Invalid => "invalid",
            Self::Poison => "poison",
            Self::Ambiguous => "ambiguous",
        }
    }

    /// Returns the stored number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Reads a stored number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for FaultClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an attempt failed: what the handler reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Class; decides what happens next.
    pub class: FaultClass,
    /// What happened, for the operator; cut to [`limits::FAULT_BYTES_MAX`].
    pub message: String,
    /// For throttled: how long the target asked to wait.
    pub after: Option<Duration>,
}

impl Failure {
    /// Makes a failure of a class.
    pub fn new(class: FaultClass, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > limits::FAULT_BYTES_MAX {
            let mut end = limits::FAULT_BYTES_MAX;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
        }
        Self { class, message, after: None }
    }

    /// Adds the wait that the target asked for.
    #[must_use]
    pub fn after(mut self, after: Duration) -> Self {
        self.after = Some(after);
        self
    }

    /// Returns the message with its variable parts taken out, so that like failures group together.
    ///
    /// See [`crate::signature`].
    pub fn signature(&self) -> String {
        crate::signature(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_keep_their_numbers() {
        for (code, class) in FaultClass::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(class.code()), code);
            assert_eq!(FaultClass::from_code(class.code()), Some(class));
        }
        assert_eq!(FaultClass::from_code(8), None);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let failure = Failure::new(FaultClass::Invalid, "ä".repeat(limits::FAULT_BYTES_MAX));
        assert!(failure.message.len() <= limits::FAULT_BYTES_MAX);
        assert!(failure.message.chars().all(|c| c == 'ä'));
    }
}

//! How the program ends: exit codes, and what goes to the terminal before them.

use std::{fmt, process::ExitCode};

use tidegate_core::fault::{Fault, FaultKind};

/// Exit codes. Scripts branch on them; a new one is a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done, or the answer is yes.
    Ok = 0,
    /// The answer is no: not there, not healthy, not balanced.
    No = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Too many of the reprocessed dead letters failed again.
    FailedAgain = 3,
    /// A dead letter was reprocessed already.
    Already = 4,
    /// A needed service is not there or takes nothing now.
    Unavailable = 69,
    /// Tidegate itself is wrong.
    Internal = 70,
    /// The caller may not do this.
    Denied = 77,
    /// The configuration is wrong.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not do what it was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    /// Exit code.
    pub(crate) exit: Exit,
    /// What to print; empty when everything is printed already.
    pub(crate) message: String,
}

impl Failed {
    /// Ends with a code and a message.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Ends with a code after everything was printed.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        let exit = match fault.kind {
            FaultKind::Invalid => Exit::Usage,
            FaultKind::Missing | FaultKind::Conflict => Exit::No,
            FaultKind::Denied => Exit::Denied,
            FaultKind::Limited | FaultKind::Unavailable | FaultKind::Timeout => Exit::Unavailable,
            FaultKind::Corrupt | FaultKind::Bug => Exit::Internal,
        };
        let mut message = fault.to_string();
        let mut cause = std::error::Error::source(&fault);
        while let Some(inner) = cause {
            message.push_str(&format!(": {inner}"));
            cause = inner.source();
        }
        Self { exit, message }
    }
}

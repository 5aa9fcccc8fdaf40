//! Past attempts as lines of text, which the server keeps and cuts.

use serde::{Deserialize, Serialize};
use tidegate_core::{clock::Timestamp, delivery::Attempt, fault::FaultClass};

/// A past attempt as a line of JSON.
#[derive(Serialize, Deserialize)]
struct Line {
    at: i64,
    /// In microseconds.
    took: u64,
    class: u8,
    message: String,
}

/// Writes an attempt as a line.
pub(crate) fn line(attempt: &Attempt) -> String {
    let line = Line {
        at: attempt.at.as_millis(),
        took: u64::try_from(attempt.took.as_micros()).unwrap_or(u64::MAX),
        class: attempt.class.code(),
        message: attempt.message.clone(),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

/// Reads attempts, oldest first; a line that is not one is passed over.
pub(crate) fn attempts(lines: &str) -> Vec<Attempt> {
    let read = |text: &str| {
        let line: Line = serde_json::from_str(text).ok()?;
        Some(Attempt {
            at: Timestamp::from_millis(line.at),
            took: std::time::Duration::from_micros(line.took),
            class: FaultClass::from_code(line.class)?,
            message: line.message,
        })
    };
    lines.lines().filter_map(read).collect()
}

/// Writes attempts as lines.
pub(crate) fn lines(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| line(attempt) + "\n").collect()
}

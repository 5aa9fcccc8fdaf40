//! What an expression sees of a dead letter.

use serde_json::json;
use tidegate_core::store::DeadLetter;
use tidegate_rules::{EVENT_NAMES, Scope};

/// Names that an expression over dead letters knows beside those of the event.
pub const DESK_NAMES: [&str; 6] = ["fault", "group", "stream", "state", "failed_at", "attempts"];

/// All names that an expression over dead letters knows.
pub(super) fn known_names() -> Vec<&'static str> {
    EVENT_NAMES.into_iter().chain(DESK_NAMES).collect()
}

/// Makes the scope of an expression over a dead letter.
pub fn dead_scope(letter: &DeadLetter) -> Scope<'_> {
    let fault = json!({
        "class": letter.class.as_str(),
        "message": &*letter.message,
        "signature": &*letter.signature,
    });
    Scope::event(&letter.event)
        .with("fault", fault)
        .with("group", letter.group.as_str().into())
        .with("stream", letter.stream.as_str().into())
        .with("state", letter.state.as_str().into())
        .with("failed_at", letter.failed_at.to_string().into())
        .with("attempts", letter.attempts.len().into())
}

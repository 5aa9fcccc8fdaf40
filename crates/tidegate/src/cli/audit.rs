//! `tidegate audit`: accounts for every message.

use clap::Subcommand;
use serde_json::Value;

use super::Asking;
use crate::{
    exit::{Exit, Failed},
    ui::{column, wide},
};

/// Accounts.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Show for each group that accepted = done + waiting + scheduled + in flight + dead + expired + dropped; exit code
    /// 1 when it is not.
    Messages,
}

impl Audit {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let Self::Messages = self;
        let answer = cx.node.get(&["v1", "audit", "messages"], &[]).await?;
        let columns = [
            column("stream", "/stream"),
            column("group", "/group"),
            column("accepted", "/accepted"),
            column("done", "/done"),
            wide("skipped", "/skipped"),
            column("waiting", "/waiting"),
            column("scheduled", "/scheduled"),
            column("in flight", "/in_flight"),
            column("dead", "/dead"),
            column("expired", "/expired"),
            column("dropped", "/dropped"),
            column("difference", "/difference"),
        ];
        cx.ui.list(&answer, super::rows(&answer, "rows"), &columns);
        if answer.get("balanced").and_then(Value::as_bool) == Some(true) {
            cx.ui.line("balanced: every message is accounted for");
            return Ok(());
        }
        Err(Failed::new(Exit::No, "not balanced: messages are unaccounted for"))
    }
}

//! `tidegate module`: sources and sinks, and what can be done with them by hand.

use clap::Subcommand;
use serde_json::json;

use super::{Asking, Because, instant};
use crate::{
    exit::Failed,
    ui::{Column, column, wide},
};

const COLUMNS: &[Column] = &[
    column("module", "/name"),
    column("direction", "/direction"),
    column("type", "/type"),
    column("stream", "/stream"),
    column("state", "/state"),
    column("accepted", "/brought/accepted"),
    column("rejected", "/brought/rejected"),
    column("next", "/details/next/0"),
    wide("restarts", "/restarts"),
    wide("until", "/halted/until"),
    wide("reason", "/halted/reason"),
    wide("last error", "/last_error/message"),
];

/// Modules.
#[derive(Debug, Subcommand)]
pub(super) enum Module {
    /// List all sources and sinks.
    List,
    /// Show one module: what it brought, its next fires or how far it has read.
    Show {
        /// Module; source.NAME and sink.NAME tell apart those that share a name.
        name: String,
    },
    /// Bring or take nothing for a while; it stays so over restarts.
    Pause {
        /// Module.
        name: String,
        #[command(flatten)]
        because: Because,
        /// When it resumes by itself: an instant, or a duration such as 30m.
        #[arg(long, value_parser = instant)]
        until: Option<String>,
    },
    /// Let a paused module go on.
    Resume {
        /// Module.
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Turn a disabled module on.
    Enable {
        /// Module.
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Turn a module off until it is enabled; it stays so over restarts.
    Disable {
        /// Module.
        name: String,
        #[command(flatten)]
        because: Because,
    },
}

impl Module {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let (name, verb, because, until) = match self {
            Self::List => {
                let answer = cx.node.get(&["v1", "modules"], &[]).await?;
                cx.ui.list(&answer, super::rows(&answer, "modules"), COLUMNS);
                return Ok(());
            }
            Self::Show { name } => {
                cx.ui.record(&cx.node.get(&["v1", "modules", &name], &[]).await?);
                return Ok(());
            }
            Self::Pause { name, because, until } => (name, "pause", because, until),
            Self::Resume { name, because } => (name, "resume", because, None),
            Self::Enable { name, because } => (name, "enable", because, None),
            Self::Disable { name, because } => (name, "disable", because, None),
        };
        let mut document = json!({ "reason": because.reason });
        if let Some(until) = until {
            document["until"] = until.into();
        }
        cx.ui.record(&cx.node.post(&["v1", "modules", &name, verb], &document).await?);
        Ok(())
    }
}

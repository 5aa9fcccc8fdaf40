//! `tidegate target`: destinations outside the node and their breakers.

use clap::Subcommand;
use serde_json::json;

use super::{Asking, Because};
use crate::{
    exit::Failed,
    ui::{Column, column, wide},
};

pub(super) const COLUMNS: &[Column] = &[
    column("target", "/name"),
    column("breaker", "/breaker/state"),
    wide("since", "/breaker/since"),
    column("failures", "/breaker/failures"),
    column("last error", "/last_error/message"),
];

/// Targets.
#[derive(Debug, Subcommand)]
pub(super) enum Target {
    /// List all targets.
    List,
    /// Show one target.
    Show {
        /// Target.
        name: String,
    },
    /// Open the breaker: nothing is sent until it is reset.
    Trip {
        /// Target.
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Close the breaker and forget what made it open.
    Reset {
        /// Target.
        name: String,
        #[command(flatten)]
        because: Because,
    },
}

impl Target {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        match self {
            Self::List => {
                let answer = cx.node.get(&["v1", "targets"], &[]).await?;
                cx.ui.list(&answer, super::rows(&answer, "targets"), COLUMNS);
            }
            Self::Show { name } => cx.ui.record(&cx.node.get(&["v1", "targets", &name], &[]).await?),
            Self::Trip { name, because } => act(cx, &name, "trip", because).await?,
            Self::Reset { name, because } => act(cx, &name, "reset", because).await?,
        }
        Ok(())
    }
}

async fn act(cx: &Asking, name: &str, verb: &str, because: Because) -> Result<(), Failed> {
    let answer = cx.node.post(&["v1", "targets", name, verb], &json!({ "reason": because.reason })).await?;
    cx.ui.list(&answer, std::slice::from_ref(&answer["target"]), COLUMNS);
    Ok(())
}

//! `tidegate target`: destinations outside the node and their breakers.

use clap::Subcommand;
use serde_json::{Value, json};
use tidegate_core::config::RateText;

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
    column("rate", "/rate/limit"),
    column("concurrency", "/concurrency/limit"),
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
    /// Change how much may be sent, at once and over restarts, until the limits in the configuration change. What is
    /// not named goes back to the configuration.
    Limit {
        /// Target.
        name: String,
        /// Most calls in any stretch of time, such as 20/s.
        #[arg(long, required_unless_present_any = ["concurrency", "configured"])]
        rate: Option<RateText>,
        /// Most calls at a time.
        #[arg(long)]
        concurrency: Option<u32>,
        /// Both as the configuration says.
        #[arg(long, conflicts_with_all = ["rate", "concurrency"])]
        configured: bool,
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
            Self::Trip { name, because } => act(cx, &name, "trip", json!({ "reason": because.reason })).await?,
            Self::Reset { name, because } => act(cx, &name, "reset", json!({ "reason": because.reason })).await?,
            Self::Limit { name, rate, concurrency, configured: _, because } => {
                let rate = rate.map(|rate| rate.to_string());
                let document = json!({ "rate": rate, "concurrency": concurrency, "reason": because.reason });
                act(cx, &name, "limit", document).await?;
            }
        }
        Ok(())
    }
}

async fn act(cx: &Asking, name: &str, verb: &str, document: Value) -> Result<(), Failed> {
    let answer = cx.node.post(&["v1", "targets", name, verb], &document).await?;
    cx.ui.list(&answer, std::slice::from_ref(&answer["target"]), COLUMNS);
    Ok(())
}

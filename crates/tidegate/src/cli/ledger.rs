//! `tidegate ledger`: what a group remembers of what is done.

use clap::Subcommand;
use serde_json::json;

use super::{Agreed, Asking, Because};
use crate::exit::Failed;

/// The ledger of a group.
#[derive(Debug, Subcommand)]
pub(super) enum Ledger {
    /// Show how much a group remembers, and what that costs.
    Show {
        /// Group.
        group: String,
    },
    /// Forget one event, so that it may run again.
    Forget {
        /// Group.
        group: String,
        /// CloudEvents `id` of the event.
        #[arg(long)]
        id: String,
        /// CloudEvents `source` of the event.
        #[arg(long)]
        source: String,
        #[command(flatten)]
        because: Because,
        #[command(flatten)]
        agreed: Agreed,
    },
}

impl Ledger {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        match self {
            Self::Show { group } => cx.ui.record(&cx.node.get(&["v1", "ledger", &group], &[]).await?),
            Self::Forget { group, id, source, because, agreed } => {
                cx.ui.confirm(agreed.yes, &format!("make group {group} forget that it has done event {id:?}"))?;
                let document = json!({ "id": id, "source": source, "reason": because.reason });
                cx.ui.record(&cx.node.post(&["v1", "ledger", &group, "forget"], &document).await?);
            }
        }
        Ok(())
    }
}

//! `tidegate group blocked` and `unblock`: what waits for other events, and letting it go by hand.

use clap::Args;
use serde_json::{Value, json};

use super::{Asking, Because, rows};
use crate::{
    exit::Failed,
    ui::{Column, column},
};

const COLUMNS: &[Column] = &[
    column("position", "/position"),
    column("event", "/id"),
    column("age s", "/age_seconds"),
    column("waits for", "/for"),
];

/// Which of what waits.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Blocked {
    /// Most entries.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Where to begin.
    #[arg(long, value_name = "POSITION")]
    from: Option<String>,
}

impl Blocked {
    pub(super) async fn run(self, cx: &Asking, group: &str) -> Result<(), Failed> {
        let limit = self.limit.to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(self.from.as_deref().map(|from| ("from", from)));
        let answer = cx.node.get(&["v1", "groups", group, "blocked"], &query).await?;
        let mut shown = rows(&answer, "blocked").to_vec();
        for row in &mut shown {
            let waits: Vec<String> = rows(row, "waits_for").iter().map(waited_for).collect();
            row["for"] = waits.join(", ").into();
        }
        if shown.is_empty() && !cx.ui.is_json() {
            cx.ui.line(&format!("nothing in {group} waits for other events"));
            return Ok(());
        }
        cx.ui.list(&answer, &shown, COLUMNS);
        if let Some(next) = answer["next"].as_str().filter(|_| !cx.ui.is_json()) {
            cx.ui.line(&format!("there are more: --from {next}"));
        }
        Ok(())
    }
}

/// An event that is waited for, with where it stands.
fn waited_for(row: &Value) -> String {
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    format!("{} ({})", text("id"), text("state").replace('_', " "))
}

/// What waits no longer.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Unblock {
    /// The event of this id.
    #[arg(long, required_unless_present = "waits_for")]
    id: Option<String>,
    /// All that wait for the event of this id.
    #[arg(long, value_name = "ID", conflicts_with = "id")]
    waits_for: Option<String>,
    /// Source of the event of that id, where the id alone is not enough.
    #[arg(long)]
    source: Option<String>,
    /// Into the dead letters; without it they run.
    #[arg(long)]
    reject: bool,
    #[command(flatten)]
    because: Because,
}

impl Unblock {
    pub(super) async fn run(self, cx: &Asking, group: &str) -> Result<(), Failed> {
        let mut document = json!({
            "outcome": if self.reject { "reject" } else { "run" },
            "reason": self.because.reason,
        });
        for (name, value) in [("id", self.id), ("waits_for", self.waits_for), ("source", self.source)] {
            if let Some(value) = value {
                document[name] = value.into();
            }
        }
        cx.ui.record(&cx.node.post(&["v1", "groups", group, "unblock"], &document).await?);
        Ok(())
    }
}

//! `tidegate ledger`: what a group remembers of what is done.

use clap::Subcommand;
use serde_json::json;
use tidegate_modules::sink::postgres::{Key, ddl};

use super::{Agreed, Asking, Because};
use crate::{
    exit::{Exit, Failed},
    ui::{Column, column, wide},
};

const COLUMNS: &[Column] = &[
    column("group", "/group"),
    column("stream", "/stream"),
    column("success", "/success"),
    column("failure", "/failure"),
    column("skipped", "/skipped"),
    column("entries", "/entries"),
    wide("bytes on disk", "/disk_bytes"),
    wide("bytes in memory", "/memory_bytes"),
];

/// The ledger of a group.
#[derive(Debug, Subcommand)]
pub(super) enum Ledger {
    /// Show how much a group remembers and what that costs, or what it remembers of one event.
    Show {
        /// Group.
        group: String,
        /// CloudEvents `id` of one event.
        #[arg(long, requires = "source")]
        id: Option<String>,
        /// CloudEvents `source` of that event.
        #[arg(long, requires = "id")]
        source: Option<String>,
    },
    /// Show what each group has done, skipped and failed.
    Stats,
    /// Print SQL that makes the ledger table of sinks of type postgres, and the function that cleans it; it may be run again.
    Ddl {
        /// Table, with its schema when it is not on the search path of the role.
        #[arg(long, default_value = "event_ledger")]
        table: String,
        /// Know events by their id alone, as in a table that other programs write too; ids must be unique over all sources.
        #[arg(long)]
        by_id: bool,
    },
    /// Forget what was done long ago; a ledger does so by itself after its `keep`.
    Cleanup {
        /// Group; all groups when it is left out.
        #[arg(long)]
        group: Option<String>,
        /// Forget what was done longer ago than so many days.
        #[arg(long)]
        days: u32,
        #[command(flatten)]
        because: Because,
        #[command(flatten)]
        agreed: Agreed,
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
            Self::Show { group, id: Some(id), source: Some(source) } => {
                let query = [("id", id.as_str()), ("source", source.as_str())];
                cx.ui.record(&cx.node.get(&["v1", "ledger", &group, "entry"], &query).await?);
            }
            Self::Show { group, .. } => cx.ui.record(&cx.node.get(&["v1", "ledger", &group], &[]).await?),
            Self::Stats => {
                let answer = cx.node.get(&["v1", "ledger"], &[]).await?;
                cx.ui.list(&answer, super::rows(&answer, "ledgers"), COLUMNS);
            }
            Self::Ddl { table, by_id } => {
                let sql = ddl(&table, if by_id { Key::Id } else { Key::Event });
                let wrong =
                    || Failed::new(Exit::Usage, format!("{table:?} is no table, or a schema, a dot and a table"));
                cx.ui.raw(sql.ok_or_else(wrong)?.as_bytes());
            }
            Self::Cleanup { group, days, because, agreed } => {
                let whose = group.as_deref().unwrap_or("every group");
                cx.ui.confirm(agreed.yes, &format!("make {whose} forget what was done more than {days} days ago"))?;
                let groups = match group {
                    Some(group) => vec![group],
                    None => {
                        let answer = cx.node.get(&["v1", "ledger"], &[]).await?;
                        let rows = super::rows(&answer, "ledgers").iter();
                        rows.filter_map(|row| row["group"].as_str().map(str::to_owned)).collect()
                    }
                };
                let document = json!({ "older": format!("{days}d"), "reason": because.reason });
                let mut cleaned = Vec::new();
                for group in groups {
                    cleaned.push(cx.node.post(&["v1", "ledger", &group, "cleanup"], &document).await?);
                }
                cx.ui.record(&json!({ "ledgers": cleaned }));
            }
            Self::Forget { group, id, source, because, agreed } => {
                cx.ui.confirm(agreed.yes, &format!("make group {group} forget that it has done event {id:?}"))?;
                let document = json!({ "id": id, "source": source, "reason": because.reason });
                cx.ui.record(&cx.node.post(&["v1", "ledger", &group, "forget"], &document).await?);
            }
        }
        Ok(())
    }
}

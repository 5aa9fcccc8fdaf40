//! `tidegate report`: figures over time.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Asking, rows};
use crate::{
    exit::Failed,
    ui::{Column, column},
};

const SUMMARY: &[Column] = &[
    column("group", "/group"),
    column("attempts", "/total"),
    column("success", "/success"),
    column("failed", "/failed"),
    column("avg ms", "/avg_ms"),
    column("median ms", "/median_ms"),
    column("p95 ms", "/p95_ms"),
    column("p99 ms", "/p99_ms"),
];

const SLOWEST: &[Column] = &[
    column("slowest", "/event"),
    column("group", "/group"),
    column("position", "/position"),
    column("attempt", "/attempt"),
    column("ms", "/took_ms"),
];

/// Reports.
#[derive(Debug, Subcommand)]
pub(super) enum Report {
    /// How attempts went: how many, how long, the slowest, for each group. After a crash of the node its last minute may
    /// be missing from the figures; what was done is counted by `audit messages`.
    Performance {
        /// Hours, the running one included.
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=168))]
        hours: u16,
    },
}

impl Report {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let Self::Performance { hours } = self;
        let hours = hours.to_string();
        let answer = cx.node.get(&["v1", "reports", "performance"], &[("hours", &hours)]).await?;
        if cx.ui.is_json() {
            cx.ui.json(&answer);
            return Ok(());
        }
        let named = |name: &str, of: &Value| {
            let mut row = of.clone();
            row["group"] = json!(name);
            for member in ["avg_ms", "median_ms", "p95_ms", "p99_ms"] {
                if let Some(number) = row[member].as_f64() {
                    row[member] = json!((number * 1000.0).round() / 1000.0);
                }
            }
            row
        };
        let groups = answer["groups"].as_object().into_iter().flatten();
        let mut all: Vec<Value> = groups.map(|(name, of)| named(name, of)).collect();
        all.push(named("all", &answer));
        cx.ui.line(&format!("the last {hours} hours"));
        cx.ui.list(&answer, &all, SUMMARY);
        if !rows(&answer, "slowest").is_empty() {
            cx.ui.line("");
            cx.ui.list(&answer, rows(&answer, "slowest"), SLOWEST);
        }
        Ok(())
    }
}

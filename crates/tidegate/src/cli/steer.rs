//! Moving groups through their streams: the parts of the command line that several nouns share.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_core::{
    clock::Clock,
    config::{RateText, Time},
};

use super::{Asking, Because};
use crate::exit::{Exit, Failed};

/// Between two looks at whether a drain is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Where a group is moved, and how.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Seek {
    /// Where to: earliest, latest, a position, -100 for so many events back, an instant, or the id of an event.
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    to: String,
    /// Only say how many events would run from there on, and how many the ledger would skip.
    #[arg(long)]
    dry_run: bool,
    /// Process also what the ledger knows as done.
    #[arg(long)]
    ignore_ledger: bool,
    /// Most deliveries until the group has come back to where it is now, such as 50/s.
    #[arg(long)]
    rate: Option<RateText>,
    /// How long what is in flight may take to finish first.
    #[arg(long, default_value = "10s")]
    wait: Time,
    #[command(flatten)]
    because: Because,
}

impl Seek {
    pub(super) async fn run(self, cx: &Asking, group: &str) -> Result<(), Failed> {
        let mut document = json!({
            "to": self.to,
            "dry_run": self.dry_run,
            "ignore_ledger": self.ignore_ledger,
            "wait": self.wait.to_string(),
            "reason": self.because.reason,
        });
        if let Some(rate) = self.rate {
            document["rate"] = rate.to_string().into();
        }
        let path = ["v1", "groups", group, "seek"];
        let mut answer = cx.node.post(&path, &document).await?;
        // A rehearsal of many events comes in parts.
        while let Some(next) = answer.pointer("/events/next").filter(|_| self.dry_run).and_then(Value::as_str) {
            let counted = answer.pointer("/events/counted").and_then(Value::as_u64).unwrap_or(0);
            cx.ui.progress(&format!("counted {counted} events"), &json!({ "counted": counted }));
            document["to"] = next.into();
            let more = cx.node.post(&path, &document).await?;
            add(&mut answer, &more);
        }
        cx.ui.progress_over();
        cx.ui.record(&answer);
        Ok(())
    }
}

/// Adds the counts of a later part.
fn add(answer: &mut Value, more: &Value) {
    for name in ["counted", "would_run", "would_skip", "expired", "for_others"] {
        let one = |value: &Value| value["events"][name].as_u64().unwrap_or(0);
        answer["events"][name] = (one(answer) + one(more)).into();
    }
    for name in ["next", "complete"] {
        answer["events"][name] = more["events"][name].clone();
    }
}

/// How a group or a node comes to an end.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Drain {
    /// When it pauses, whatever is left.
    #[arg(long, default_value = "30s")]
    timeout: Time,
    /// Do not wait for the end.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    because: Because,
}

impl Drain {
    pub(super) async fn run(self, cx: &Asking, group: &str) -> Result<(), Failed> {
        let document = json!({ "timeout": self.timeout.to_string(), "reason": self.because.reason });
        let answer = cx.node.post(&["v1", "groups", group, "drain"], &document).await?;
        if self.no_wait {
            cx.ui.record(&answer);
            return Ok(());
        }
        let clock = Clock::real();
        loop {
            let now = cx.node.get(&["v1", "groups", group], &[]).await?;
            if now["state"] != "draining" {
                cx.ui.record(&now);
                let left = now["waiting"].as_u64().unwrap_or(0) + now["in_flight"].as_u64().unwrap_or(0);
                let why = now["paused"]["reason"].as_str().unwrap_or_default();
                if why.starts_with("drained until its deadline") {
                    return Err(Failed::new(Exit::No, format!("{group} is not drained: {left} wait or are in flight")));
                }
                return Ok(());
            }
            clock.sleep(LOOK_EVERY).await;
        }
    }
}

/// Taking events in.
#[derive(Debug, Subcommand)]
pub(super) enum Ingest {
    /// Refuse what sources that can refuse bring; the others go on storing.
    Pause {
        #[command(flatten)]
        because: Because,
        /// When it goes on by itself: an instant, or a duration such as 30m.
        #[arg(long, value_parser = super::instant)]
        until: Option<String>,
    },
    /// Take events again.
    Resume {
        #[command(flatten)]
        because: Because,
    },
}

impl Ingest {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let (verb, document) = match self {
            Self::Pause { because, until } => ("pause", json!({ "reason": because.reason, "until": until })),
            Self::Resume { because } => ("resume", json!({ "reason": because.reason })),
        };
        cx.ui.record(&cx.node.post(&["v1", "intake", verb], &document).await?);
        Ok(())
    }
}

impl Drain {
    /// Drains all groups.
    pub(super) async fn run_all(self, cx: &Asking) -> Result<(), Failed> {
        let document = json!({ "timeout": self.timeout.to_string(), "reason": self.because.reason });
        let answer = cx.node.post(&["v1", "drain"], &document).await?;
        if self.no_wait {
            cx.ui.record(&answer);
            return Ok(());
        }
        let clock = Clock::real();
        loop {
            let now = cx.node.get(&["v1", "groups"], &[]).await?;
            let groups = super::rows(&now, "groups");
            let late = |group: &&Value| {
                group["paused"]["reason"].as_str().is_some_and(|why| why.starts_with("drained until its deadline"))
            };
            if groups.iter().all(|group| group["state"] != "draining") {
                cx.ui.list(&now, groups, super::group::COLUMNS);
                let names: Vec<&str> = groups.iter().filter(late).filter_map(|group| group["name"].as_str()).collect();
                if names.is_empty() {
                    return Ok(());
                }
                return Err(Failed::new(Exit::No, format!("not drained: {}", names.join(", "))));
            }
            clock.sleep(LOOK_EVERY).await;
        }
    }
}

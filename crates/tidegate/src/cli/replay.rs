//! `tidegate group replay`: a side group handles a range of a stream once more.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tidegate_core::{clock::Clock, config::RateText};

use super::{Asking, Because};
use crate::exit::{Exit, Failed};

/// Between two looks at whether a side group is done.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is handled once more, and by whom.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Replay {
    /// First event: earliest, a position, -100 for so many events back, an instant, or the id of an event.
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    from: String,
    /// Last event; one that is named is handled too. Without it: all that is there now.
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    to: Option<String>,
    /// Name of the side group; no group may have it.
    #[arg(long, value_name = "NAME", required_unless_present = "dry_run")]
    into: Option<String>,
    /// Group whose handler and settings are used in place of its own.
    #[arg(long, value_name = "GROUP")]
    with: Option<String>,
    /// Most deliveries, such as 10/s.
    #[arg(long)]
    rate: Option<RateText>,
    /// Keep the side group when it is done, until it is removed.
    #[arg(long)]
    keep: bool,
    /// Only say how many events would run, and how many the group itself would skip.
    #[arg(long)]
    dry_run: bool,
    /// Wait until all is handled; exit code 1 when there are dead letters.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    #[command(flatten)]
    because: Because,
}

impl Replay {
    pub(super) async fn run(self, cx: &Asking, group: &str) -> Result<(), Failed> {
        let document = json!({
            "from": self.from, "to": self.to, "into": self.into, "with": self.with,
            "rate": self.rate.map(|rate| rate.to_string()), "keep": self.keep, "dry_run": self.dry_run,
            "reason": self.because.reason,
        });
        let answer = cx.node.post(&["v1", "groups", group, "replay"], &document).await?;
        match &self.into {
            Some(side) if self.wait => {
                cx.ui.line(&words(&answer));
                wait(cx, side, &answer).await
            }
            Some(_) | None => {
                if cx.ui.is_json() {
                    cx.ui.json(&answer);
                } else {
                    cx.ui.line(&words(&answer));
                }
                Ok(())
            }
        }
    }
}

/// Says in a line what a replay does, or would do.
fn words(answer: &Value) -> String {
    let text = |name: &str| answer[name].as_str().unwrap_or("?").to_owned();
    let count = |of: &str, name: &str| answer[of][name].as_u64().unwrap_or(0);
    let (of, with) = (text("of"), text("with"));
    let (from, before) = (text("from"), text("before"));
    let least = if answer["events"]["complete"].as_bool() == Some(true) { "" } else { "at least " };
    let others = ["expired", "for_others"].map(|name| count("events", name));
    let mut words = match answer["group"].as_str() {
        Some(side) if answer["result"] == "started" => format!("{side} handles"),
        Some(_) | None => "a side group would handle".to_owned(),
    };
    words += &format!(" {least}{} events of {of}, from {from} on and before {before}", count("events", "would_run"));
    if with != of {
        words += &format!(", like {with}");
    }
    if others.iter().any(|count| *count > 0) {
        words += &format!("; {} are expired and {} are for others", others[0], others[1]);
    }
    let (run, skip) = (count("in_group", "would_run"), count("in_group", "would_skip"));
    words + &format!("; {of} itself would run {run} and skip {skip} as done")
}

/// Waits until a side group has handled its range, or is gone because it has.
async fn wait(cx: &Asking, side: &str, started: &Value) -> Result<(), Failed> {
    let clock = Clock::real();
    let mut last = Value::Null;
    loop {
        let reply = cx.node.look(&["v1", "groups", side], &[]).await?;
        let is_gone = reply.status() == 404;
        if !is_gone {
            last = reply.ok()?.value();
        }
        let handled = ["done", "dead", "expired", "dropped"].map(|name| last[name].as_u64().unwrap_or(0));
        cx.ui.progress(
            &format!("{side}: {} of {} done", handled[0], last["accepted"]),
            &json!({ "done": handled[0], "accepted": last["accepted"], "dead": handled[1] }),
        );
        if is_gone || !last["side"]["ended"].is_null() {
            cx.ui.progress_over();
            if cx.ui.is_json() {
                cx.ui.json(&json!({ "started": started, "group": last, "gone": is_gone }));
            }
            // One that is gone had no dead letters left.
            let dead = if is_gone { 0 } else { last["dead"].as_u64().unwrap_or(0) };
            if dead > 0 {
                let stream = last["stream"].as_str().unwrap_or("?");
                let note = format!(
                    "{side} has handled its range: {} done, {dead} dead; it stays until somebody decides about them: tidegate dlq list --stream {stream}",
                    handled[0]
                );
                return Err(Failed::new(Exit::No, note));
            }
            cx.ui.line(&format!("{side} has handled its range"));
            return Ok(());
        }
        clock.sleep(LOOK_EVERY).await;
    }
}

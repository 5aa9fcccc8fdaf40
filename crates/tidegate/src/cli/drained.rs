//! `tidegate group wait-drained`: waits until a group has nothing left to do.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tidegate_core::{clock::Clock, config::Time};

use super::{Asking, rows};
use crate::{
    exit::{Exit, Failed},
    ui,
};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Time between two words on how it goes.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Wait until nothing of a group waits or runs; exit code 1 when that takes too long.
#[derive(Debug, Args)]
pub(super) struct WaitDrained {
    /// Group.
    #[arg(required_unless_present = "group")]
    name: Option<String>,
    /// Group, the same as the name alone.
    #[arg(long, conflicts_with = "name")]
    group: Option<String>,
    /// Longest wait.
    #[arg(long, default_value = "120s")]
    timeout: Time,
    /// Wait for what is scheduled for later too.
    #[arg(long)]
    scheduled: bool,
}

impl WaitDrained {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let name = self.name.or(self.group).unwrap_or_default();
        let clock = Clock::real();
        let watch = clock.stopwatch();
        let mut told = None::<Duration>;
        loop {
            let group = cx.node.get(&["v1", "groups", &name], &[]).await?;
            let count = |member: &str| group[member].as_u64().unwrap_or(0);
            let left = count("waiting") + count("in_flight") + if self.scheduled { count("scheduled") } else { 0 };
            let waited = watch.elapsed();
            let estimate = if left == 0 { Some(0.0) } else { estimate(cx, &name).await? };
            let is_over = left == 0 || waited >= self.timeout.get();
            if is_over || told.is_none_or(|told| waited >= told + TELL_EVERY) {
                told = Some(waited);
                tell(cx, &name, left, waited, estimate);
            }
            if left == 0 {
                return Ok(());
            }
            if is_over {
                let note = match estimate {
                    Some(seconds) => format!("at this rate it would take {seconds:.0} s more"),
                    None => format!("it does not shrink: `tidegate group show {name}` and `tidegate explain` say why"),
                };
                let message = format!("group {name} still has {left} events after {}: {note}", self.timeout);
                return Err(Failed::new(Exit::No, message));
            }
            clock.sleep(LOOK_EVERY.min(self.timeout.get().saturating_sub(waited))).await;
        }
    }
}

async fn estimate(cx: &Asking, name: &str) -> Result<Option<f64>, Failed> {
    let top = cx.node.get(&["v1", "top"], &[]).await?;
    let row = rows(&top, "groups").iter().find(|row| row["group"] == name);
    Ok(row.and_then(|row| row["seconds_to_drain"].as_f64()))
}

fn tell(cx: &Asking, name: &str, left: u64, waited: Duration, estimate: Option<f64>) {
    if cx.ui.is_json() {
        let waited = waited.as_secs_f64();
        let row: Value = json!({
            "group": name, "drained": left == 0, "left": left, "waited_seconds": waited, "seconds_to_drain": estimate,
        });
        return cx.ui.json_line(&row);
    }
    if left == 0 {
        return cx.ui.line(&format!("group {name} is drained after {:.1} s", waited.as_secs_f64()));
    }
    if ui::is_terminal() {
        let more =
            estimate.map_or_else(|| "it does not shrink".to_owned(), |seconds| format!("about {seconds:.0} s more"));
        ui::error_line(&format!("{left} left, {more}"));
    }
}

//! Jobs on dead letters from the command line: started, watched to their end, judged.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Place, Which};
use crate::{
    cli::{Asking, rows},
    exit::{Exit, Failed},
    ui::{self, cell, column, wide},
};

/// Part that may fail again before `--until-empty` gives up, when the command does not say.
const FAIL_RATE: f64 = 0.2;

/// Send dead letters through their group again.
#[derive(Debug, Args)]
pub(crate) struct Reprocess {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    which: Which,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Also those that were reprocessed already.
    #[arg(long)]
    force: bool,
    /// At most so many in a time, such as 5/s.
    #[arg(long)]
    rate: Option<String>,
    /// So many first; when one of them fails again, stop before all others.
    #[arg(long, default_value_t = 0)]
    canary: u64,
    /// Stop when more than this part fails again, 0 to 1.
    #[arg(long, value_name = "PART")]
    stop_on_fail_rate: Option<f64>,
    /// File with a JSON merge patch or a JSON Patch of the CloudEvent; the dead letter keeps the original.
    #[arg(long, value_name = "FILE")]
    patch: Option<PathBuf>,
    /// Go on until none is parked; exit code 3 when too many fail again.
    #[arg(long, conflicts_with_all = ["ids", "dry_run", "force"])]
    until_empty: bool,
    /// Answer with the job instead of waiting for its end.
    #[arg(long, conflicts_with_all = ["until_empty", "dry_run"])]
    detach: bool,
    /// Why; kept with the dead letter.
    #[arg(long, default_value = "")]
    reason: String,
}

impl Reprocess {
    pub(crate) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let mut members = self.which.members();
        members.insert("dry_run".to_owned(), self.dry_run.into());
        members.insert("force".to_owned(), self.force.into());
        members.insert("canary".to_owned(), self.canary.into());
        members.insert("reason".to_owned(), self.reason.as_str().into());
        if let Some(rate) = &self.rate {
            members.insert("rate".to_owned(), json!(rate));
        }
        let fail_rate = self.stop_on_fail_rate.or(self.until_empty.then_some(FAIL_RATE));
        if let Some(rate) = fail_rate {
            members.insert("stop_on_fail_rate".to_owned(), json!(rate));
        }
        if let Some(path) = &self.patch {
            let wrong = |error: &dyn std::fmt::Display| Failed::usage(format!("{}: {error}", path.display()));
            let bytes = std::fs::read(path).map_err(|error| wrong(&error))?;
            let patch: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(&error))?;
            members.insert("patch".to_owned(), patch);
        }
        if self.detach {
            members.insert("wait".to_owned(), "0s".into());
            let document = Value::Object(members);
            cx.ui.record(&cx.node.post(&["v1", "dlq", &self.place.stream, "reprocess"], &document).await?);
            return Ok(());
        }
        let document = Value::Object(members);
        if self.until_empty {
            return self.until_empty(cx, &document).await;
        }
        let answer = run(cx, &self.place.stream, "reprocess", &document).await?;
        cx.ui.record(&answer);
        judge(&answer)
    }

    async fn until_empty(&self, cx: &Asking, document: &Value) -> Result<(), Failed> {
        loop {
            let answer = run(cx, &self.place.stream, "reprocess", document).await?;
            let left = self.left(cx).await?;
            if left == 0 {
                cx.ui.record(&answer);
                return judge(&answer);
            }
            if !is_done(&answer) || count(&answer, "reprocessed") == 0 {
                cx.ui.record(&answer);
                judge(&answer)?;
                return Err(Failed::new(Exit::FailedAgain, "some are parked still, and none of them could be moved"));
            }
        }
    }

    /// Returns whether any is parked.
    async fn left(&self, cx: &Asking) -> Result<usize, Failed> {
        let given = [("group", &self.which.group), ("where", &self.which.filter), ("older", &self.which.older)];
        let mut query = vec![("limit", "1"), ("state", "parked")];
        query.extend(given.into_iter().filter_map(|(name, value)| value.as_deref().map(|value| (name, value))));
        let answer = cx.node.get(&["v1", "dlq", &self.place.stream], &query).await?;
        Ok(rows(&answer, "entries").len())
    }
}

/// Starts a job and watches it to its end.
pub(super) async fn run(cx: &Asking, stream: &str, verb: &str, document: &Value) -> Result<Value, Failed> {
    let mut document = document.clone();
    document["wait"] = "1s".into();
    let mut answer = cx.node.post(&["v1", "dlq", stream, verb], &document).await?;
    let job = answer["job"].as_str().unwrap_or_default().to_owned();
    let mut was_shown = false;
    while answer["state"] == "running" {
        was_shown = true;
        ui::progress(&in_words(&answer), &answer);
        answer = cx.node.get(&["v1", "dlq", "jobs", &job], &[("wait", "1s")]).await?;
    }
    if was_shown {
        ui::progress_end();
    }
    Ok(answer)
}

fn in_words(job: &Value) -> String {
    let number = |name: &str| count(job, name);
    let moved: u64 = ["reprocessed", "resolved", "discarded", "purged"].into_iter().map(number).sum();
    let mut words = format!("{} of {} looked at, {moved} moved", number("looked"), number("total"));
    if number("settled") + number("failed_again") + number("open") > 0 {
        let (settled, failed, open) = (number("settled"), number("failed_again"), number("open"));
        words.push_str(&format!(", {settled} done, {failed} failed again, {open} on their way"));
    }
    if let Some(why) = job["why"].as_str() {
        words.push_str(&format!("; {why}"));
    }
    words
}

/// Lists jobs, or shows one.
pub(super) async fn jobs(cx: &Asking, job: Option<&str>) -> Result<(), Failed> {
    if let Some(job) = job {
        cx.ui.record(&cx.node.get(&["v1", "dlq", "jobs", job], &[]).await?);
        return Ok(());
    }
    let answer = cx.node.get(&["v1", "dlq", "jobs"], &[]).await?;
    let columns = [
        column("job", "/job"),
        column("stream", "/stream"),
        column("verb", "/verb"),
        column("state", "/state"),
        column("total", "/total"),
        column("looked", "/looked"),
        column("matched", "/matched"),
        column("failed", "/failed"),
        wide("done", "/settled"),
        wide("failed again", "/failed_again"),
        wide("by", "/by"),
        column("why", "/why"),
        column("created", "/created_at"),
    ];
    cx.ui.list(&answer, rows(&answer, "jobs"), &columns);
    Ok(())
}

fn count(answer: &Value, name: &str) -> u64 {
    answer.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn is_done(answer: &Value) -> bool {
    answer["state"] == "done"
}

/// Tells from what became of each dead letter how the command ends.
pub(super) fn judge(answer: &Value) -> Result<(), Failed> {
    let why = answer.get("why").map(cell).filter(|why| why != "-").unwrap_or_default();
    match answer["state"].as_str() {
        Some("stopped") if count(answer, "failed_again") > 0 => return Err(Failed::new(Exit::FailedAgain, why)),
        Some("stopped") => return Err(Failed::new(Exit::No, why)),
        Some("cancelled") => return Err(Failed::new(Exit::No, "somebody cancelled the job")),
        Some(_) | None => {}
    }
    let failed = count(answer, "failed");
    if failed == 0 {
        return Ok(());
    }
    let of = |status: &str, state: Option<&str>| {
        let results = rows(answer, "results").iter();
        results
            .filter(|result| result["status"] == status && state.is_none_or(|state| result["state"] == state))
            .count()
    };
    let (missing, already) = (of("missing", None) as u64, of("refused", Some("reprocessed")) as u64);
    Err(if already == failed {
        Failed::new(Exit::Already, format!("{already} reprocessed already; --force does it again"))
    } else if missing > 0 {
        Failed::new(Exit::No, format!("{missing} of them do not exist"))
    } else if !why.is_empty() {
        Failed::new(Exit::No, format!("{failed} of them could not be moved: {why}"))
    } else {
        Failed::new(Exit::No, format!("{failed} of them are in a state that forbids it"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_what_became_of_them() {
        let exit = |failed: u64, results: Value, state: &str, again: u64| {
            let answer = json!({ "failed": failed, "results": results, "state": state, "failed_again": again });
            judge(&answer).map_err(|failed| failed.exit)
        };
        let moved = json!({ "status": "moved" });
        let missing = json!({ "status": "missing" });
        let again = json!({ "status": "refused", "state": "reprocessed" });
        let resolved = json!({ "status": "refused", "state": "resolved" });
        assert_eq!(exit(0, json!([moved]), "done", 0), Ok(()));
        assert_eq!(exit(0, json!([]), "stopped", 0), Err(Exit::No));
        assert_eq!(exit(0, json!([]), "stopped", 1), Err(Exit::FailedAgain));
        assert_eq!(exit(0, json!([]), "cancelled", 0), Err(Exit::No));
        assert_eq!(exit(1, json!([moved, again]), "done", 0), Err(Exit::Already));
        assert_eq!(exit(2, json!([missing, again]), "done", 0), Err(Exit::No));
        assert_eq!(exit(1, json!([resolved]), "done", 0), Err(Exit::No));
    }

    #[test]
    fn progress_is_told_in_words() {
        let job = json!({ "total": 10, "looked": 4, "reprocessed": 3, "settled": 2, "failed_again": 1, "open": 0 });
        assert_eq!(in_words(&job), "4 of 10 looked at, 3 moved, 2 done, 1 failed again, 0 on their way");
    }
}

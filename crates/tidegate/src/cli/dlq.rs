//! `tidegate dlq`: dead letters, and what becomes of them.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{Agreed, Asking};
use crate::{
    exit::{Exit, Failed},
    ui::{Column, cell, column, wide},
};

const COLUMNS: &[Column] = &[
    column("id", "/id"),
    column("failed at", "/failed_at"),
    column("group", "/group"),
    column("state", "/state"),
    column("event", "/event/id"),
    column("type", "/event/type"),
    column("class", "/fault/class"),
    column("message", "/fault/message"),
    wide("signature", "/fault/signature"),
    wide("note", "/note"),
];

/// Dead letters.
#[derive(Debug, Subcommand)]
pub(super) enum Dlq {
    /// List dead letters, newest first.
    List(List),
    /// Show one dead letter with all its attempts.
    Inspect {
        #[command(flatten)]
        place: Place,
        /// Dead letter.
        #[arg(long)]
        id: String,
    },
    /// Send dead letters through their group again; exit code 4 when one was reprocessed already.
    Reprocess(Reprocess),
    /// Say that somebody took care of dead letters elsewhere.
    Resolve {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// What was done; kept with the dead letter.
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Give dead letters up.
    Discard {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// Why; kept with the dead letter.
        #[arg(long, default_value = "")]
        note: String,
        #[command(flatten)]
        agreed: Agreed,
    },
    /// Count dead letters by what went wrong.
    Report {
        #[command(flatten)]
        place: Place,
        /// How far back.
        #[arg(long, default_value_t = 24)]
        hours: u32,
        /// Compare with as many hours before.
        #[arg(long)]
        compare: bool,
    },
}

/// Which stream.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Stream, or its dead-letter stream.
    #[arg(long)]
    stream: String,
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Dead letters by id; may be given several times.
    #[arg(long = "id", value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All parked dead letters.
    #[arg(long)]
    all: bool,
    /// With --all: only those of this group.
    #[arg(long, requires = "all")]
    group: Option<String>,
}

impl Which {
    fn members(&self) -> Map<String, Value> {
        let mut members = Map::new();
        if self.all {
            members.insert("all".to_owned(), json!(true));
        } else {
            members.insert("ids".to_owned(), json!(self.ids));
        }
        if let Some(group) = &self.group {
            members.insert("group".to_owned(), json!(group));
        }
        members
    }

    fn in_words(&self, stream: &str) -> String {
        match &self.group {
            Some(group) => format!("all parked dead letters of {group} in {stream}"),
            None if self.all => format!("all parked dead letters of {stream}"),
            None => format!("dead letter {} of {stream}", self.ids.join(", ")),
        }
    }
}

/// List dead letters.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
    /// Most entries.
    #[arg(long, default_value_t = 20)]
    count: u32,
    /// Only in this state: parked, reprocessed, resolved, discarded, expired, or all.
    #[arg(long, default_value = "parked")]
    state: String,
    /// Only of this group.
    #[arg(long)]
    group: Option<String>,
    /// Only older than this id.
    #[arg(long)]
    before: Option<String>,
}

/// Send dead letters through their group again.
#[derive(Debug, Args)]
pub(super) struct Reprocess {
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
    /// Go on until none is parked.
    #[arg(long, conflicts_with_all = ["ids", "dry_run"])]
    until_empty: bool,
    /// Why; kept with the dead letter.
    #[arg(long, default_value = "")]
    reason: String,
}

impl Dlq {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        match self {
            Self::List(list) => list.run(cx).await,
            Self::Inspect { place, id } => inspect(cx, &place.stream, &id).await,
            Self::Reprocess(reprocess) => reprocess.run(cx).await,
            Self::Resolve { place, which, note } => decide(cx, &place.stream, "resolve", &which, &note).await,
            Self::Discard { place, which, note, agreed } => {
                cx.ui.confirm(agreed.yes, &format!("give up {}", which.in_words(&place.stream)))?;
                decide(cx, &place.stream, "discard", &which, &note).await
            }
            Self::Report { place, hours, compare } => report(cx, &place.stream, hours, compare).await,
        }
    }
}

impl List {
    async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let count = self.count.to_string();
        let mut query = vec![("limit", count.as_str()), ("state", self.state.as_str())];
        let given = [("group", &self.group), ("before", &self.before)];
        query.extend(given.into_iter().filter_map(|(name, value)| value.as_deref().map(|value| (name, value))));
        let answer = cx.node.get(&["v1", "dlq", &self.place.stream], &query).await?;
        cx.ui.list(&answer, super::rows(&answer, "entries"), COLUMNS);
        if let Some(next) = answer.get("next").filter(|next| !next.is_null()) {
            cx.ui.line(&format!("older ones with --before {}", cell(next)));
        }
        Ok(())
    }
}

async fn inspect(cx: &Asking, stream: &str, id: &str) -> Result<(), Failed> {
    let mut entry = cx.node.get(&["v1", "dlq", stream, id], &[]).await?;
    // Names under which scripts of an outbox backbone know the same values.
    let aliases = [
        ("dlq_id", "/id"),
        ("original_event_id", "/event/id"),
        ("event_type", "/event/type"),
        ("aggregate_id", "/event/subject"),
        ("payload", "/event/data"),
        ("error_message", "/fault/message"),
        ("created_at", "/event/time"),
    ];
    let values = aliases.map(|(name, pointer)| (name, entry.pointer(pointer).cloned().unwrap_or_default()));
    if let Some(members) = entry.as_object_mut() {
        for (name, value) in values {
            members.entry(name).or_insert(value);
        }
    }
    cx.ui.record(&entry);
    Ok(())
}

async fn decide(cx: &Asking, stream: &str, verb: &str, which: &Which, note: &str) -> Result<(), Failed> {
    let mut members = which.members();
    members.insert("reason".to_owned(), note.into());
    let answer = cx.node.post(&["v1", "dlq", stream, verb], &Value::Object(members)).await?;
    cx.ui.record(&answer);
    judge(&answer)
}

async fn report(cx: &Asking, stream: &str, hours: u32, is_compared: bool) -> Result<(), Failed> {
    let ask = |hours: u32| async move {
        cx.node.get(&["v1", "dlq", stream, "report"], &[("hours", &hours.to_string())]).await
    };
    let mut answer = ask(hours).await?;
    if is_compared {
        let both = ask(hours.saturating_mul(2)).await?;
        let total = |report: &Value| report.get("total_failed_messages").and_then(Value::as_i64).unwrap_or(0);
        let (now, before) = (total(&answer), total(&both) - total(&answer));
        if let Some(members) = answer.as_object_mut() {
            members.insert("previous_total_failed_messages".to_owned(), before.into());
            members.insert("change".to_owned(), (now - before).into());
        }
    }
    cx.ui.record(&answer);
    Ok(())
}

impl Reprocess {
    async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let mut members = self.which.members();
        members.insert("dry_run".to_owned(), self.dry_run.into());
        members.insert("force".to_owned(), self.force.into());
        members.insert("reason".to_owned(), self.reason.as_str().into());
        let document = Value::Object(members);
        let mut before = u64::MAX;
        loop {
            let answer = cx.node.post(&["v1", "dlq", &self.place.stream, "reprocess"], &document).await?;
            cx.ui.record(&answer);
            judge(&answer)?;
            let matched = count(&answer, "matched");
            if !self.until_empty || matched == 0 {
                return Ok(());
            }
            // Those that fail again at once are parked again: without this, a target that is still broken would be
            // asked for ever.
            if matched >= before {
                return Err(Failed::new(
                    Exit::No,
                    format!("{matched} are parked again: what made them fail still does"),
                ));
            }
            before = matched;
        }
    }
}

fn count(answer: &Value, name: &str) -> u64 {
    answer.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// Tells from what became of each dead letter how the command ends.
fn judge(answer: &Value) -> Result<(), Failed> {
    let failed = count(answer, "failed");
    if failed > 0 {
        let of = |status: &str, state: Option<&str>| {
            let results = super::rows(answer, "results").iter();
            results
                .filter(|result| result["status"] == status && state.is_none_or(|state| result["state"] == state))
                .count()
        };
        let (missing, already) = (of("missing", None) as u64, of("refused", Some("reprocessed")) as u64);
        return Err(if already == failed {
            Failed::new(Exit::Already, format!("{already} reprocessed already; --force does it again"))
        } else if missing > 0 {
            Failed::new(Exit::No, format!("{missing} of them do not exist"))
        } else {
            Failed::new(Exit::No, format!("{failed} of them are in a state that forbids it"))
        });
    }
    if answer.get("state").and_then(Value::as_str) == Some("stopped") {
        return Err(Failed::new(
            Exit::No,
            "the time of one request is over before all were moved; ask again for the rest",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_what_became_of_them() {
        let exit = |failed: u64, results: Value, state: &str| {
            judge(&json!({ "failed": failed, "results": results, "state": state })).map_err(|failed| failed.exit)
        };
        let moved = json!({ "status": "moved" });
        let missing = json!({ "status": "missing" });
        let again = json!({ "status": "refused", "state": "reprocessed" });
        let resolved = json!({ "status": "refused", "state": "resolved" });
        assert_eq!(exit(0, json!([moved]), "done"), Ok(()));
        assert_eq!(exit(0, json!([]), "stopped"), Err(Exit::No));
        assert_eq!(exit(1, json!([moved, again]), "done"), Err(Exit::Already));
        assert_eq!(exit(2, json!([missing, again]), "done"), Err(Exit::No));
        assert_eq!(exit(1, json!([resolved]), "done"), Err(Exit::No));
    }
}

//! `tidegate dlq`: dead letters, and what becomes of them.

mod files;
mod work;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use self::{
    files::{Export, Import, Purge},
    work::{Reprocess, judge},
};
use super::{Agreed, Asking};
use crate::{
    exit::Failed,
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
    /// List jobs on dead letters, newest first.
    Jobs {
        /// Only this one.
        job: Option<String>,
    },
    /// End a job on dead letters.
    Cancel {
        /// Job.
        job: String,
        /// Park again what it reprocessed and no handler has seen yet.
        #[arg(long)]
        undo: bool,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Write dead letters to a file, one JSON document a line, oldest first.
    Export(Export),
    /// Take dead letters in from a file; those that are there already are left alone.
    Import(Import),
    /// Forget dead letters that are not parked, for good.
    Purge(Purge),
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
    /// Stream, its dead-letter stream, or an alias of that.
    #[arg(long)]
    stream: String,
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Dead letters by id; may be given several times.
    #[arg(long = "id", value_name = "ID", required_unless_present_any = ["all", "filter"], conflicts_with_all = ["all", "filter"])]
    ids: Vec<String>,
    /// Parked dead letters for which this expression is true, such as `fault.message.contains("timeout")`.
    #[arg(long = "where", value_name = "EXPRESSION", conflicts_with = "all")]
    filter: Option<String>,
    /// All parked dead letters.
    #[arg(long)]
    all: bool,
    /// With --all or --where: only those of this group.
    #[arg(long, conflicts_with = "ids")]
    group: Option<String>,
    /// With --all or --where: only those buried longer ago than this, such as 12h.
    #[arg(long, conflicts_with = "ids", value_name = "AGE")]
    older: Option<String>,
}

impl Which {
    fn members(&self) -> Map<String, Value> {
        let mut members = Map::new();
        if self.all {
            members.insert("all".to_owned(), json!(true));
        } else if let Some(filter) = &self.filter {
            members.insert("where".to_owned(), json!(filter));
        } else {
            members.insert("ids".to_owned(), json!(self.ids));
        }
        for (name, value) in [("group", &self.group), ("older", &self.older)] {
            if let Some(value) = value {
                members.insert(name.to_owned(), json!(value));
            }
        }
        members
    }

    fn in_words(&self, stream: &str) -> String {
        match &self.group {
            Some(group) => format!("all parked dead letters of {group} in {stream}"),
            None if self.all => format!("all parked dead letters of {stream}"),
            None if self.filter.is_some() => format!("parked dead letters of {stream} that match"),
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
    /// Only those for which this expression is true, such as `fault.class == "timeout"`.
    #[arg(long = "where", value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Only older than this id.
    #[arg(long)]
    before: Option<String>,
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
            Self::Jobs { job } => work::jobs(cx, job.as_deref()).await,
            Self::Cancel { job, undo, reason } => {
                let document = json!({ "undo": undo, "reason": reason });
                cx.ui.record(&cx.node.post(&["v1", "dlq", "jobs", &job, "cancel"], &document).await?);
                Ok(())
            }
            Self::Export(export) => export.run(cx).await,
            Self::Import(import) => import.run(cx).await,
            Self::Purge(purge) => purge.run(cx).await,
            Self::Report { place, hours, compare } => report(cx, &place.stream, hours, compare).await,
        }
    }
}

impl List {
    async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let count = self.count.to_string();
        let mut query = vec![("limit", count.as_str()), ("state", self.state.as_str())];
        let given = [("group", &self.group), ("before", &self.before), ("where", &self.filter)];
        query.extend(given.into_iter().filter_map(|(name, value)| value.as_deref().map(|value| (name, value))));
        let answer = cx.node.get(&["v1", "dlq", &self.place.stream], &query).await?;
        let rows = super::rows(&answer, "entries");
        if rows.is_empty() {
            let state = if self.state == "all" { "" } else { &self.state };
            cx.ui.line(&format!("no {state} dead letters of {}", self.place.stream).replace("  ", " "));
        } else {
            cx.ui.list(&answer, rows, COLUMNS);
        }
        if cx.ui.is_json() {
            if rows.is_empty() {
                cx.ui.json(&answer);
            }
            return Ok(());
        }
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
    let answer = work::run(cx, stream, verb, &Value::Object(members)).await?;
    cx.ui.record(&answer);
    judge(&answer)
}

async fn report(cx: &Asking, stream: &str, hours: u32, is_compared: bool) -> Result<(), Failed> {
    let hours = hours.to_string();
    let mut query = vec![("hours", hours.as_str())];
    if is_compared {
        query.push(("compare", "true"));
    }
    let answer = cx.node.get(&["v1", "dlq", stream, "report"], &query).await?;
    if cx.ui.is_json() {
        cx.ui.json(&answer);
        return Ok(());
    }
    let text = |name: &str| cell(answer.get(name).unwrap_or(&Value::Null));
    cx.ui.line(&format!(
        "{} dead letters of {stream} in {} hours",
        text("total_failed_messages"),
        text("time_window_hours")
    ));
    if is_compared {
        cx.ui.line(&format!("{} in as many hours before: {}", text("previous_total_failed_messages"), text("change")));
    }
    cx.ui.line(&format!("oldest that waits: {}", text("oldest")));
    for name in ["states", "groups", "event_types", "classes", "trend"] {
        cx.ui.line(&format!("{name}: {}", text(name)));
    }
    let mut columns = vec![column("count", "/count")];
    if is_compared {
        columns.push(column("before", "/previous_count"));
    }
    columns.extend([column("signature", "/signature"), column("example", "/example_id")]);
    cx.ui.list(&answer, super::rows(&answer, "top_errors"), &columns);
    Ok(())
}

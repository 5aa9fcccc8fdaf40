//! `tidegate trace` and `tidegate explain`: the life of one event, and why it is where it is.

use clap::Args;
use serde_json::Value;

use super::{Asking, rows};
use crate::{
    exit::{Exit, Failed},
    ui::{Column, cell, column},
};

const TIMELINE: &[Column] = &[
    column("at", "/at"),
    column("what", "/what"),
    column("group", "/group"),
    column("attempt", "/attempt"),
    column("detail", "/detail"),
];

/// Which event.
#[derive(Debug, Args)]
struct Which {
    /// Its id.
    id: String,
    /// Its source, where the id alone is not enough; it also finds an event that is too old to be searched for.
    #[arg(long)]
    source: Option<String>,
    /// Only in this stream.
    #[arg(long)]
    stream: Option<String>,
    /// Only what this group does with it.
    #[arg(long)]
    group: Option<String>,
}

impl Which {
    async fn ask(&self, cx: &Asking, what: &str) -> Result<Value, Failed> {
        let all = [("source", &self.source), ("stream", &self.stream), ("group", &self.group)];
        let query: Vec<(&str, &str)> =
            all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
        cx.node.get(&["v1", "events", &self.id, what], &query).await
    }
}

fn text<'a>(document: &'a Value, name: &str) -> &'a str {
    document.get(name).and_then(Value::as_str).unwrap_or("-")
}

/// Tell the life of an event.
#[derive(Debug, Args)]
pub(super) struct Trace {
    #[command(flatten)]
    which: Which,
}

impl Trace {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let answer = self.which.ask(cx, "trace").await?;
        let (id, source) = (cell(&answer["id"]), cell(&answer["source"]));
        cx.ui.line(&format!("{id} of {source} in {} at {}", text(&answer, "stream"), text(&answer, "position")));
        cx.ui.list(&answer, rows(&answer, "timeline"), TIMELINE);
        if answer["complete"] == false {
            cx.ui.line("older steps may be missing: they are no longer kept, or lie beyond what is read at once");
        }
        Ok(())
    }
}

/// Say why an event does not run now.
#[derive(Debug, Args)]
pub(super) struct Explain {
    #[command(flatten)]
    which: Which,
}

impl Explain {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let answer = self.which.ask(cx, "explain").await?;
        if cx.ui.is_json() {
            cx.ui.json(&answer);
        } else {
            self.show(cx, &answer);
        }
        if text(&answer, "state") == "unknown" { Err(Failed::silent(Exit::No)) } else { Ok(()) }
    }

    fn show(&self, cx: &Asking, answer: &Value) {
        let id = cell(&answer["id"]);
        let groups = rows(answer, "groups");
        if groups.is_empty() {
            cx.ui.line(&format!("{id}: {}", text(answer, "state")));
            reasons(cx, answer);
        }
        for group in groups {
            let (name, state, position) = (text(group, "group"), text(group, "state"), text(group, "position"));
            cx.ui.line(&format!("{id} in {name}: {state}, position {position} of {}", text(answer, "stream")));
            reasons(cx, group);
        }
    }
}

fn reasons(cx: &Asking, of: &Value) {
    for reason in rows(of, "because") {
        let mut line = format!("  {}: {}", text(reason, "reason"), cell(&reason["detail"]));
        for (word, name) in [("since", "since"), ("until", "until")] {
            if let Some(at) = reason.get(name).and_then(Value::as_str) {
                line += &format!(", {word} {at}");
            }
        }
        cx.ui.line(&line);
    }
}

//! `tidegate trace`, `explain` and `result`: the life of one event, why it is where it is, and what was answered to it.

use clap::Args;
use serde_json::Value;
use tidegate_core::{clock::Clock, cloudevents, config::Time, limits};

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

/// Print the result of an event: what a group's handler answered to it.
#[derive(Debug, Args)]
pub(super) struct Outcome {
    /// Id of the event.
    id: String,
    /// Its source: with it the result is found however old it is, without it among the newest.
    #[arg(long)]
    source: Option<String>,
    /// Its stream.
    #[arg(long)]
    stream: Option<String>,
    /// Its position in the stream.
    #[arg(long, requires = "stream")]
    position: Option<String>,
    /// The group that answers, when several do.
    #[arg(long)]
    group: Option<String>,
    /// How long to wait while there is none.
    #[arg(long, default_value = "0s")]
    wait: Time,
}

impl Outcome {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let Self { id, source, stream, position, group, wait } = self;
        let all = [("source", source), ("stream", stream), ("position", position), ("group", group)];
        let known: Vec<(&str, String)> = all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        print_result(cx, &id, &known, wait).await
    }
}

/// The problem of an event that ended without an answer.
const UNANSWERED: &str = "urn:tidegate:problem:unanswered";

/// Waits for a result and prints it as it is; for programs, as the whole CloudEvent.
pub(super) async fn print_result(cx: &Asking, id: &str, known: &[(&str, String)], wait: Time) -> Result<(), Failed> {
    let clock = Clock::real();
    let watch = clock.stopwatch();
    loop {
        let left = wait.get().saturating_sub(watch.elapsed()).min(limits::CLAIM_WAIT_MAX);
        let text = Time::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)).to_string();
        let mut query: Vec<(&str, &str)> = known.iter().map(|(name, value)| (*name, value.as_str())).collect();
        query.push(("wait", &text));
        let form = if cx.ui.is_json() { cloudevents::STRUCTURED } else { "*/*" };
        let reply = cx.node.look_as(&["v1", "events", id, "result"], &query, form).await?;
        // Whatever the status, it is the event that ended so, and neither the node nor the command line is wrong.
        let exit = if reply.value()["type"] == UNANSWERED { Some(Exit::No) } else { None };
        let reply = reply.ok().map_err(|failed| Failed { exit: exit.unwrap_or(failed.exit), ..failed })?;
        if reply.status() != 202 {
            match cx.ui.is_json() {
                true => cx.ui.json(&reply.value()),
                false => cx.ui.body(reply.body()),
            }
            return Ok(());
        }
        if watch.elapsed() >= wait.get() {
            return Err(Failed::new(Exit::No, not_yet(id, &reply.value())));
        }
    }
}

fn not_yet(id: &str, document: &Value) -> String {
    let until =
        document.get("until").and_then(Value::as_str).map_or_else(String::new, |until| format!(" until {until}"));
    let (group, state) = (text(document, "group"), text(document, "state"));
    format!("no result of group {group} yet: {id} is {state}{until}; `tidegate explain {id}` says why")
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

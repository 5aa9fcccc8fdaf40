//! `tidegate top`, `subscribe` and `logs`: what happens, as it happens.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::Value;
use tidegate_control::{LogLevel, LogQuery, read_logs};
use tidegate_core::{
    clock::{Clock, Timestamp},
    config::Time,
};

use super::{Asking, Global, rows};
use crate::{
    client::Node,
    exit::{Exit, Failed},
    ui::{self, Column, Ui, cell, column},
};

/// Puts the cursor home and clears what is below: a screen that does not flicker.
const HOME: &[u8] = b"\x1b[H\x1b[J";

const GROUPS: &[Column] = &[
    column("group", "/group"),
    column("state", "/state"),
    column("in/s", "/in_per_second"),
    column("out/s", "/out_per_second"),
    column("depth", "/depth"),
    column("blocked", "/blocked"),
    column("in flight", "/in_flight"),
    column("oldest", "/oldest_waiting_age_seconds"),
    column("latency p50", "/latency_p50"),
    column("p95", "/latency_p95"),
    column("handler p50", "/handler_p50"),
    column("p95", "/handler_p95"),
    column("busy", "/busy"),
    column("workers", "/workers"),
    column("dead", "/dead"),
    column("drained in", "/seconds_to_drain"),
];

const LIMITERS: &[Column] = &[
    column("target", "/target"),
    column("breaker", "/breaker"),
    column("calls/s", "/calls_per_second"),
    column("wait p50", "/wait_p50"),
    column("p95", "/wait_p95"),
    column("in use", "/in_use"),
    column("of", "/concurrency"),
    column("waiting", "/waiting"),
];

/// Show rates, delays and limits of the last minute, again and again.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Show it once and end.
    #[arg(long)]
    once: bool,
    /// Time between two looks.
    #[arg(long, default_value = "2s")]
    every: Time,
}

impl Top {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let clock = Clock::real();
        loop {
            let answer = cx.node.get(&["v1", "top"], &[]).await?;
            if cx.ui.is_json() && !self.once {
                cx.ui.json_line(&answer);
            } else {
                if !self.once && ui::is_terminal() {
                    cx.ui.raw(HOME);
                }
                show_top(cx, &answer);
            }
            if self.once {
                return Ok(());
            }
            clock.sleep(self.every.get().max(Duration::from_millis(100))).await;
        }
    }
}

/// Cuts numbers to what an eye takes in.
fn rounded(row: &Value) -> Value {
    let short = |value: &Value| match value.as_f64().filter(|_| value.is_f64()) {
        Some(number) if number >= 100.0 => Value::String(format!("{number:.0}")),
        Some(number) if number >= 1.0 => Value::String(format!("{number:.1}")),
        Some(number) => Value::String(format!("{number:.4}")),
        None => value.clone(),
    };
    let members = row.as_object().into_iter().flatten();
    Value::Object(members.map(|(name, value)| (name.clone(), short(value))).collect())
}

fn show_top(cx: &Asking, answer: &Value) {
    if cx.ui.is_json() {
        return cx.ui.json(answer);
    }
    let process = rounded(&answer["process"]);
    cx.ui.line(&format!(
        "{}  cpu {}  memory {} MiB  open files {}  over {:.0} s; times in seconds",
        cell(&answer["at"]),
        cell(&process["cpu"]),
        process["resident_bytes"].as_u64().unwrap_or(0) / (1024 * 1024),
        cell(&process["open_files"]),
        answer["window_seconds"].as_f64().unwrap_or(0.0),
    ));
    for (name, columns) in [("groups", GROUPS), ("limiters", LIMITERS)] {
        let rows: Vec<Value> = rows(answer, name).iter().map(rounded).collect();
        if !rows.is_empty() {
            cx.ui.line("");
            cx.ui.list(answer, &rows, columns);
        }
    }
}

/// Follow notices and events as they come.
#[derive(Debug, Args)]
pub(super) struct Subscribe {
    /// Notices by name such as `group.paused` or `message.*`, or `stream/NAME` for the events of a stream; commas separate
    /// several.
    #[arg(default_value = "*")]
    pattern: String,
    /// End after so many lines.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl Subscribe {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let mut left = self.count.unwrap_or(u64::MAX);
        if left == 0 {
            return Ok(());
        }
        cx.node
            .lines(&["v1", "subscribe"], &[("pattern", &self.pattern)], |line| {
                show_line(cx.ui, line);
                left -= 1;
                left > 0
            })
            .await?;
        if left == 0 || self.count.is_none() { Ok(()) } else { Err(Failed::new(Exit::Unavailable, "the node ended")) }
    }
}

fn show_line(ui: Ui, line: &str) {
    let read: Value = serde_json::from_str(line).unwrap_or_default();
    if ui.is_json() || !read.is_object() {
        return ui.raw(format!("{line}\n").as_bytes());
    }
    if let Some(dropped) = read.get("dropped") {
        return ui.line(&format!("… {dropped} notices were dropped: this reader is too slow"));
    }
    let at = cell(&read["at"]);
    if let Some(stream) = read.get("stream").and_then(Value::as_str) {
        let event = &read["event"];
        let data = event.get("data").or_else(|| event.get("data_base64")).unwrap_or(&Value::Null);
        let (id, kind) = (cell(&event["id"]), cell(&event["type"]));
        return ui.line(&format!("{at} {stream} {} {id} {kind} {}", cell(&read["position"]), cell(data)));
    }
    let fields = read["fields"].as_object().into_iter().flatten();
    let fields: Vec<String> = fields.map(|(name, value)| format!("{name}={}", cell(value))).collect();
    ui.line(&format!("{at} {} {}", cell(&read["notice"]), fields.join(" ")));
}

/// Read the node's log.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Only from this time on: an instant, or a duration back from now such as 1h.
    #[arg(long, value_parser = ago)]
    since: Option<Timestamp>,
    /// Go on with new lines.
    #[arg(long, short)]
    follow: bool,
    /// Only this bad or worse: trace, debug, info, warn or error.
    #[arg(long)]
    level: Option<LogLevel>,
    /// Only lines with this text.
    #[arg(long)]
    grep: Option<String>,
    /// Most lines, the newest.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Data directory to read from in place of asking a node; also of a node that is stopped.
    #[arg(long, value_name = "DIR", conflicts_with = "follow")]
    data: Option<PathBuf>,
}

/// Reads an instant, or a duration back from now.
fn ago(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Time>() {
        return Ok(Clock::real().now().minus(time.get()));
    }
    Timestamp::parse(text)
        .map_err(|_| format!("{text:?} is neither an instant such as 2026-01-31T08:00:00Z nor a duration such as 30m"))
}

impl Logs {
    pub(super) fn run(self, global: &Global, ui: Ui) -> Result<(), Failed> {
        if let Some(data) = &self.data {
            let query = LogQuery { since: self.since, level: self.level, grep: self.grep.clone() };
            let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
            read_logs(&data.join("logs"), &query, limit).iter().for_each(|line| show_log(ui, line));
            return Ok(());
        }
        let node = Node::new(&global.url, global.token.clone())?;
        super::wait(self.ask(&node, ui))
    }

    async fn ask(self, node: &Node, ui: Ui) -> Result<(), Failed> {
        let (limit, since) = (self.limit.to_string(), self.since.map(|at| at.to_string()));
        let level = self.level.map(|level| format!("{level:?}").to_ascii_lowercase());
        let follow = self.follow.then(|| "true".to_owned());
        let all = [
            ("limit", Some(&limit)),
            ("since", since.as_ref()),
            ("level", level.as_ref()),
            ("grep", self.grep.as_ref()),
            ("follow", follow.as_ref()),
        ];
        let query: Vec<(&str, &str)> =
            all.into_iter().filter_map(|(name, value)| Some((name, value?.as_str()))).collect();
        node.lines(&["v1", "logs"], &query, |line| {
            show_log(ui, line);
            true
        })
        .await
    }
}

fn show_log(ui: Ui, line: &str) {
    let read: Value = serde_json::from_str(line).unwrap_or_default();
    let Some(members) = read.as_object().filter(|_| !ui.is_json()) else {
        return ui.raw(format!("{line}\n").as_bytes());
    };
    let text = |name: &str| read.get(name).map(cell).unwrap_or_default();
    let first = ["timestamp", "level", "message"];
    let more = members.iter().filter(|(name, _)| !first.contains(&name.as_str()));
    let more: Vec<String> = more.map(|(name, value)| format!("{name}={}", cell(value))).collect();
    ui.line(&format!("{} {:5} {} {}", text("timestamp"), text("level"), text("message"), more.join(" ")));
}

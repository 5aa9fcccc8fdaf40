//! `tidegate status`, `health`, `metrics` and `version`: a look at a node.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_core::config::Time;

use super::Asking;
use crate::{
    exit::{Exit, Failed},
    ui::{Column, Ui, cell, column, wide},
};

const TROUBLES: &[Column] = &[column("trouble", "/component"), column("state", "/state"), column("cause", "/cause")];
const LISTENERS: &[Column] =
    &[column("listener", "/address"), column("since", "/since"), column("restarts", "/restarts")];
const MODULES: &[Column] = &[
    column("module", "/name"),
    column("direction", "/direction"),
    column("state", "/state"),
    column("stream", "/stream"),
];

/// Show how a node is doing.
#[derive(Debug, Args)]
pub(super) struct Status {}

impl Status {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let health = cx.node.look(&["health", "detailed"], &[]).await?;
        // An unhealthy node answers 503 with the same document.
        let health = if health.status() == 503 && health.value().is_object() { health } else { health.ok()? };
        let health = health.value();
        let status = cx.node.get(&["v1", "status"], &[]).await?;
        let streams = cx.node.get(&["v1", "streams"], &[]).await?;
        let groups = cx.node.get(&["v1", "groups"], &[]).await?;
        let targets = cx.node.get(&["v1", "targets"], &[]).await?;
        if cx.ui.is_json() {
            let rows = |document: &Value, name: &str| document.get(name).cloned().unwrap_or_default();
            let mut document = status;
            document["health"] = health;
            document["streams"] = rows(&streams, "streams");
            document["groups"] = rows(&groups, "groups");
            document["targets"] = rows(&targets, "targets");
            cx.ui.json(&document);
        } else {
            let state = health.get("status").or_else(|| health.get("state")).unwrap_or(&Value::Null);
            cx.ui.line(&format!("node     {} at {}", cell(state), cx.node.origin()));
            let uptime = Time::from_secs(status["uptime_seconds"].as_f64().unwrap_or(0.0) as u64);
            let (version, restarts) = (cell(&status["version"]), cell(&status["restarts"]));
            cx.ui.line(&format!("up       {uptime}, version {version}, {restarts} restarts of its parts"));
            for (name, columns) in [("troubles", TROUBLES), ("listeners", LISTENERS), ("modules", MODULES)] {
                if !super::rows(&status, name).is_empty() {
                    cx.ui.line("");
                    cx.ui.list(&status, super::rows(&status, name), columns);
                }
            }
            cx.ui.line("");
            cx.ui.list(&streams, super::rows(&streams, "streams"), super::stream::COLUMNS);
            cx.ui.line("");
            cx.ui.list(&groups, super::rows(&groups, "groups"), super::group::COLUMNS);
            if !super::rows(&targets, "targets").is_empty() {
                cx.ui.line("");
                cx.ui.list(&targets, super::rows(&targets, "targets"), super::target::COLUMNS);
            }
        }
        Ok(())
    }
}

/// Tell whether a node is healthy.
#[derive(Debug, Args)]
pub(super) struct Health {
    /// Show every component with its cause.
    #[arg(long)]
    detailed: bool,
}

impl Health {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let path: &[&str] = if self.detailed { &["health", "detailed"] } else { &["health"] };
        let reply = cx.node.look(path, &[]).await?;
        let document = reply.value();
        if reply.status() == 503 && document.is_object() {
            self.show(cx, &document);
            return Err(Failed::silent(Exit::No));
        }
        reply.ok()?;
        self.show(cx, &document);
        Ok(())
    }

    fn show(&self, cx: &Asking, document: &Value) {
        let mut rows = Vec::new();
        flatten(document, &mut rows);
        if rows.is_empty() || cx.ui.is_json() {
            return cx.ui.record(document);
        }
        let columns = [
            column("component", "/component"),
            column("state", "/state"),
            column("cause", "/cause"),
            wide("since", "/since"),
            wide("runbook", "/runbook"),
        ];
        cx.ui.list(document, &rows, &columns);
    }
}

/// Lists the components of a tree, each before those below it.
fn flatten(document: &Value, rows: &mut Vec<Value>) {
    for component in super::rows(document, "components") {
        rows.push(component.clone());
        flatten(component, rows);
    }
}

/// Print a node's metrics.
#[derive(Debug, Args)]
pub(super) struct Metrics {
    #[command(subcommand)]
    what: Option<MetricsWhat>,
}

/// What of the metrics.
#[derive(Debug, Subcommand)]
enum MetricsWhat {
    /// List every metric that there is: name, kind, labels and meaning. Asks no node.
    List,
}

impl Metrics {
    pub(super) fn is_list(&self) -> bool {
        self.what.is_some()
    }

    pub(super) fn list(self, ui: Ui) -> Result<(), Failed> {
        let metrics: Vec<Value> = tidegate_control::Metrics::catalogue()
            .iter()
            .map(|spec| {
                json!({ "name": spec.name, "type": spec.kind.as_str(), "labels": spec.labels, "help": spec.help })
            })
            .collect();
        let columns =
            [column("name", "/name"), column("type", "/type"), column("labels", "/labels"), column("help", "/help")];
        ui.list(&json!({ "metrics": metrics }), &metrics, &columns);
        Ok(())
    }

    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let reply = cx.node.look(&["metrics"], &[]).await?.ok()?;
        if cx.ui.is_json() {
            let text = String::from_utf8_lossy(reply.body());
            cx.ui.json(&Value::Array(text.lines().filter_map(sample).collect()));
        } else {
            cx.ui.raw(reply.body());
        }
        Ok(())
    }
}

/// Reads one line of the text format; none for a comment.
fn sample(line: &str) -> Option<Value> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    Some(json!({ "series": series, "value": value.parse::<f64>().ok() }))
}

/// Print the version.
#[derive(Debug, Args)]
pub(super) struct Version {}

impl Version {
    pub(super) fn run(self, ui: Ui) -> Result<(), Failed> {
        let version = env!("CARGO_PKG_VERSION");
        if ui.is_json() {
            ui.json(&json!({ "version": version }))
        } else {
            ui.line(&format!("tidegate {version}"))
        }
        Ok(())
    }
}

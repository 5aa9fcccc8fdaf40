//! `tidegate check`: reads a configuration, looks whether everything fits, and tries to reach what is needed.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Asking, Global, preflight::usual, rows};
use crate::{
    client::Node,
    config::Config,
    exit::{Exit, Failed},
    preflight,
    ui::{Column, Ui, column},
    wire,
};

const PROBES: &[Column] = &[
    column("direction", "/direction"),
    column("name", "/name"),
    column("reachable", "/reachable"),
    column("fault", "/fault"),
];

const UPSTREAMS: &[Column] = &[
    column("upstream", "/name"),
    column("target", "/target"),
    column("reachable", "/reachable"),
    column("took ms", "/took_ms"),
    column("fault", "/fault"),
];

/// Check a configuration, and whether everything that it needs is there.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Check {
    /// Configuration file; `tidegate.yaml` when there is one.
    config: Option<PathBuf>,
    /// Do not try to reach anything.
    #[arg(long)]
    offline: bool,
    /// Let warnings fail it too.
    #[arg(long)]
    strict: bool,
    #[command(subcommand)]
    what: Option<What>,
}

/// One thing to check.
#[derive(Debug, Subcommand)]
enum What {
    /// Tell whether the limit of open files is enough for the workers; exit code 1 when it is not.
    Limits {
        /// Configuration file; `tidegate.yaml` when there is one.
        config: Option<PathBuf>,
    },
    /// Try to reach what a group's sink needs; exit code 69 when it is not there.
    Upstream {
        /// Name of the group, or of the target behind it.
        name: String,
        /// Configuration file to read in place of asking a node.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Tell whether a node's metrics can be read; exit code 69 when they cannot.
    Metrics,
}

impl Check {
    pub(super) fn run(self, global: &Global, ui: Ui) -> Result<(), Failed> {
        let ask =
            || -> Result<Asking, Failed> { Ok(Asking { ui, node: Node::new(&global.url, global.token.clone())? }) };
        match self.what {
            None => self.whole(ui),
            Some(What::Limits { config }) => {
                let config = usual(config.as_deref())?;
                super::preflight::answer(ui, &[preflight::open_files(&config)], self.strict)
            }
            Some(What::Upstream { name, config: Some(path) }) => upstream_of(ui, &path, &name),
            Some(What::Upstream { name, config: None }) => super::wait(upstream(&ask()?, &name)),
            Some(What::Metrics) => super::wait(metrics(&ask()?)),
        }
    }

    fn whole(self, ui: Ui) -> Result<(), Failed> {
        let config = usual(self.config.as_deref())?;
        let mut checks = preflight::check(&config);
        if !self.offline {
            checks.extend(super::wait(async { Ok::<_, Failed>(wire::look_at_engine(&config).await) })?);
            checks.extend(super::wait(async { Ok::<_, Failed>(wire::beside::look(&config).await) })?);
        }
        let probes = if self.offline { Vec::new() } else { super::wait(wire::probe(&config))? };
        let rows: Vec<Value> = probes
            .iter()
            .map(|probe| {
                let fault = probe.result.as_ref().err().map(ToString::to_string);
                let group = (probe.direction == "sink").then_some(&probe.name);
                json!({
                    "direction": probe.direction,
                    "name": probe.name,
                    "group": group,
                    "reachable": fault.is_none(),
                    "fault": fault,
                })
            })
            .collect();
        let lost = probes.iter().filter(|probe| probe.result.is_err()).count();
        let mut document = preflight::document(&checks, self.strict);
        let fits = document["ok"] == true;
        document["ok"] = json!(fits && lost == 0);
        document["config"] = json!(self.config.as_ref().map(|path| path.display().to_string()));
        document["fingerprint"] = json!(config.fingerprint());
        document["streams"] = json!(config.streams.len());
        document["groups"] = json!(config.groups.len());
        document["probes"] = json!(rows);
        if ui.is_json() {
            ui.json(&document);
        } else {
            summary(ui, self.config.as_deref(), &config);
            for one in checks.iter().filter(|one| ["engine", "engines", "store_format"].contains(&one.name)) {
                if one.name != "store_format" && one.ok {
                    ui.line(&format!("{}: {}", one.name, one.found));
                }
                if let Some(warning) = &one.warning {
                    ui.line(&format!("warning: {warning}"));
                }
            }
            if !rows.is_empty() {
                ui.list(&document, &rows, PROBES);
            }
        }
        if !fits {
            let wrong = checks.iter().filter(|one| !preflight::is_ok(one, self.strict));
            let wrong: Vec<String> = wrong.map(preflight::Checked::mismatch).collect();
            return Err(Failed::new(Exit::No, wrong.join("\n")));
        }
        match lost {
            0 => Ok(()),
            count => Err(Failed::new(
                Exit::Unavailable,
                format!("{count} of {} sources and sinks cannot be reached", probes.len()),
            )),
        }
    }
}

fn summary(ui: Ui, path: Option<&Path>, config: &Config) {
    ui.line(&format!(
        "{}: good; {} streams, {} sources, {} targets, {} groups; fingerprint {}",
        path.map_or_else(|| "configuration".to_owned(), |path| path.display().to_string()),
        config.streams.len(),
        config.sources.len(),
        config.targets.len(),
        config.groups.len(),
        config.fingerprint()
    ));
}

/// Asks a node to try.
async fn upstream(cx: &Asking, name: &str) -> Result<(), Failed> {
    let answer = cx.node.post(&["v1", "upstreams", name, "probe"], &json!({})).await?;
    cx.ui.list(&answer, rows(&answer, "upstreams"), UPSTREAMS);
    if answer["ok"] == true {
        return Ok(());
    }
    let lost = rows(&answer, "upstreams").iter().filter(|one| one["reachable"] == false);
    let lost: Vec<String> =
        lost.map(|one| format!("upstream {name} cannot be reached: {}", crate::ui::cell(&one["fault"]))).collect();
    Err(Failed::new(Exit::Unavailable, lost.join("\n")))
}

/// Tries from here, without a node.
fn upstream_of(ui: Ui, path: &Path, name: &str) -> Result<(), Failed> {
    let mut config = super::open(path)?;
    config.sources.clear();
    config.groups.retain(|group, settings| {
        group.as_str() == name || settings.sink.target().is_some_and(|target| target.as_str() == name)
    });
    if config.groups.is_empty() {
        return Err(Failed::new(Exit::No, format!("{} has no group and no target {name:?}", path.display())));
    }
    let probes = super::wait(wire::probe(&config))?;
    for probe in &probes {
        if let Err(fault) = &probe.result {
            return Err(Failed::new(Exit::Unavailable, format!("upstream {name} cannot be reached: {fault}")));
        }
    }
    ui.line(&format!("upstream {name} is reachable"));
    Ok(())
}

/// Reads a node's metrics and looks whether there are some.
async fn metrics(cx: &Asking) -> Result<(), Failed> {
    let reply = cx.node.look(&["metrics"], &[]).await?.ok()?;
    let text = String::from_utf8_lossy(reply.body()).into_owned();
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    let found = tidegate_control::Metrics::catalogue().iter().filter(|spec| text.contains(spec.name)).count();
    cx.ui.record(&json!({ "ok": samples > 0, "samples": samples, "metrics": found }));
    if samples > 0 { Ok(()) } else { Err(Failed::new(Exit::Unavailable, "the node shows no metrics")) }
}

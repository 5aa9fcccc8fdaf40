//! `tidegate check`: reads a configuration, resolves its references and tries to reach its targets.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::{
    config::Config,
    exit::{Exit, Failed},
    ui::{Ui, column},
    wire,
};

/// Check a configuration.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Configuration file.
    config: PathBuf,
    /// Do not try to reach anything.
    #[arg(long)]
    offline: bool,
}

impl Check {
    pub(super) fn run(self, ui: Ui) -> Result<(), Failed> {
        let config = super::open(&self.config)?;
        let probes = if self.offline { Vec::new() } else { super::wait(wire::probe(&config))? };
        let rows: Vec<_> = probes
            .iter()
            .map(|probe| {
                let fault = probe.result.as_ref().err().map(ToString::to_string);
                json!({ "group": probe.group.as_str(), "reachable": fault.is_none(), "fault": fault })
            })
            .collect();
        let document = json!({
            "config": self.config.display().to_string(),
            "fingerprint": config.fingerprint(),
            "streams": config.streams.len(),
            "groups": config.groups.len(),
            "probes": rows,
        });
        if ui.is_json() {
            ui.json(&document);
        } else {
            self.summary(ui, &config);
            if !rows.is_empty() {
                let columns = [column("group", "/group"), column("reachable", "/reachable"), column("fault", "/fault")];
                ui.list(&document, &rows, &columns);
            }
        }
        match probes.iter().filter(|probe| probe.result.is_err()).count() {
            0 => Ok(()),
            count => {
                Err(Failed::new(Exit::Unavailable, format!("{count} of {} sinks cannot be reached", probes.len())))
            }
        }
    }

    fn summary(&self, ui: Ui, config: &Config) {
        ui.line(&format!(
            "{}: good; {} streams, {} sources, {} targets, {} groups; fingerprint {}",
            self.config.display(),
            config.streams.len(),
            config.sources.len(),
            config.targets.len(),
            config.groups.len(),
            config.fingerprint()
        ));
    }
}

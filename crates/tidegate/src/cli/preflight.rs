//! `tidegate compatibility`: tells whether this machine, its data and the configuration fit this program.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::rows;
use crate::{
    config::{Config, VERSION},
    exit::{Exit, Failed},
    preflight::{self, Checked},
    ui::{Column, Ui, column},
};

pub(super) const COLUMNS: &[Column] = &[
    column("check", "/name"),
    column("ok", "/ok"),
    column("found", "/found"),
    column("required", "/required"),
    column("warning", "/warning"),
];

/// Configuration that is taken when none is named.
pub(super) const USUAL: &str = "tidegate.yaml";

/// Tell whether everything fits; exit code 1 when it does not.
#[derive(Debug, Args)]
pub(super) struct Compatibility {
    /// Configuration file; `tidegate.yaml` when there is one, and else what a node takes without.
    config: Option<PathBuf>,
    /// Data directory in place of `node.data`.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Let warnings fail it too.
    #[arg(long)]
    strict: bool,
}

impl Compatibility {
    pub(super) fn run(self, ui: Ui) -> Result<(), Failed> {
        let mut config = usual(self.config.as_deref())?;
        if let Some(data) = self.data {
            config.node.data = data;
        }
        answer(ui, &preflight::check(&config), self.strict)
    }
}

/// Reads the configuration that is meant; the one without settings when there is none.
pub(super) fn usual(path: Option<&Path>) -> Result<Config, Failed> {
    match path {
        Some(path) => super::open(path),
        None if Path::new(USUAL).exists() => super::open(Path::new(USUAL)),
        None => {
            let bare = format!("version: {VERSION}\n");
            let nothing = tidegate_core::config::NoReferences;
            Config::read(&bare, "no configuration", &nothing)
                .map_err(|errors| Failed::new(Exit::Configuration, errors.to_string()))
        }
    }
}

/// Prints what was checked.
pub(super) fn answer(ui: Ui, checks: &[Checked], strict: bool) -> Result<(), Failed> {
    let document = preflight::document(checks, strict);
    ui.list(&document, rows(&document, "checks"), COLUMNS);
    verdict(checks, strict, &document)
}

fn verdict(checks: &[Checked], strict: bool, document: &Value) -> Result<(), Failed> {
    if document["ok"] == true {
        return Ok(());
    }
    let wrong = checks.iter().filter(|one| !preflight::is_ok(one, strict));
    let wrong: Vec<String> =
        wrong.map(|one| one.warning.clone().filter(|_| one.ok).unwrap_or_else(|| one.mismatch())).collect();
    Err(Failed::new(Exit::No, wrong.join("\n")))
}

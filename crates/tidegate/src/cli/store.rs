//! `tidegate store`: the data directory of a stopped node.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;
use tidegate_core::fault::Fault;

use crate::{
    exit::{Exit, Failed},
    ui::Ui,
};

/// The data directory.
#[derive(Debug, Subcommand)]
pub(super) enum Store {
    /// Describe what lies in a data directory.
    Info {
        /// Data directory of a stopped node.
        dir: PathBuf,
    },
    /// Read everything and report damage; exit code 1 when there is some.
    Check {
        /// Data directory of a stopped node.
        dir: PathBuf,
    },
}

impl Store {
    pub(super) fn run(self, ui: Ui) -> Result<(), Failed> {
        match self {
            Self::Info { dir } => show(ui, &tidegate_store::describe(&dir)?),
            Self::Check { dir } => {
                let report = tidegate_store::check(&dir)?;
                show(ui, &report)?;
                if report.ok {
                    return Ok(());
                }
                Err(Failed::new(Exit::No, "the store is damaged"))
            }
        }
    }
}

fn show(ui: Ui, document: &impl Serialize) -> Result<(), Failed> {
    let document = serde_json::to_value(document).map_err(|error| Fault::bug("write the report").because(error))?;
    ui.record(&document);
    Ok(())
}

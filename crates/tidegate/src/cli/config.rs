//! `tidegate config`: what a configuration may hold.

use clap::Subcommand;
use tidegate_core::fault::Fault;

use crate::{config, exit::Failed, ui::Ui};

/// The configuration.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
}

impl Config {
    pub(super) fn run(self, ui: Ui) -> Result<(), Failed> {
        let Self::Schema = self;
        let schema = serde_json::to_value(schemars::schema_for!(config::Config))
            .map_err(|error| Fault::bug("write the schema").because(error))?;
        ui.json(&schema);
        Ok(())
    }
}

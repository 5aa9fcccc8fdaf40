//! `tidegate man`: manual pages, one for each command.

use std::path::PathBuf;

use clap::Args;

use crate::{
    exit::{Exit, Failed},
    ui::Ui,
};

/// Write manual pages.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// Directory for the pages; made when it is not there.
    dir: PathBuf,
}

impl Man {
    pub(super) fn run(self, ui: Ui) -> Result<(), Failed> {
        let fail = |error: std::io::Error| Failed::new(Exit::No, format!("write into {}: {error}", self.dir.display()));
        std::fs::create_dir_all(&self.dir).map_err(fail)?;
        let command = super::command_line().disable_help_subcommand(true);
        clap_mangen::generate_to(command, &self.dir).map_err(fail)?;
        ui.line(&format!(
            "manual pages are in {}; read one with `man -l {}/tidegate.1`",
            self.dir.display(),
            self.dir.display()
        ));
        Ok(())
    }
}

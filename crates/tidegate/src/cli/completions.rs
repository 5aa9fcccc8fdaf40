//! `tidegate completions`: scripts for shells.

use clap::Args;
use clap_complete::Shell;

use crate::{exit::Failed, ui::Ui};

/// Print a completion script.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, ui: Ui) -> Result<(), Failed> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command_line(), "tidegate", &mut script);
        ui.raw(&script);
        Ok(())
    }
}

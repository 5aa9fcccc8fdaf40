//! Writes the generated pages again, by running the tests that compare them, with leave to overwrite.

use std::{path::Path, process::Command};

use anyhow::Context as _;

use crate::ui;

/// Reruns the tests of the generated pages; true when they pass.
pub(crate) fn command(root: &Path) -> anyhow::Result<bool> {
    let status = Command::new("cargo")
        .args(["test", "--package", "tidegate", "--test", "it", "generated"])
        .env("TIDEGATE_BLESS", "1")
        .current_dir(root)
        .status()
        .context("run cargo test")?;
    if status.success() {
        ui::line("docs: the generated pages are fresh; look at `git diff docs openapi`");
    }
    Ok(status.success())
}

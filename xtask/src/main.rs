//! Automation of this repository: `cargo xtask tidy | measure | docs`.
//!
//! It depends on none of the product crates, so that it runs when they do not compile.

mod docs;
mod measure;
mod rust;
mod sizes;
mod tidy;
mod tree;
mod ui;

use std::{path::PathBuf, process::ExitCode};

const USAGE: &str = "\
cargo xtask COMMAND

  tidy [--bless]      check the rules of docs/style.md; --bless lowers xtask/ratchet.txt
  measure [--build]   print sizes and dependency count; --build also times a cold and a warm build
  docs                write the generated pages again (docs/reference, openapi)";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let root = root();
    let done = match words.as_slice() {
        ["tidy"] => tidy::command(&root),
        ["tidy", "--bless"] => tidy::bless(&root),
        ["measure"] => measure::command(&root, false),
        ["measure", "--build"] => measure::command(&root, true),
        ["docs"] => docs::command(&root),
        [] | ["help" | "-h" | "--help"] => {
            ui::line(USAGE);
            return ExitCode::SUCCESS;
        }
        _ => {
            ui::complain(USAGE);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            ui::complain(&format!("xtask: {error:#}"));
            ExitCode::from(70)
        }
    }
}

/// Returns the root of the repository: the parent of this crate's folder.
fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

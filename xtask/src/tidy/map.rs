//! The code map of ARCHITECTURE.md names every folder of the crates, and only paths that exist.

use std::collections::BTreeSet;

use super::Finding;
use crate::tree::Tree;

const PATH: &str = "ARCHITECTURE.md";
const HEADING: &str = "## Code map";
const RULE: &str = "map";

/// Folders made by test tools; they hold no code.
const TOOL_FOLDERS: [&str; 2] = ["snapshots", "proptest-regressions"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(file) = tree.file(PATH) else {
        return vec![finding(1, "the file is missing".to_owned(), "write it, with a code map".to_owned())];
    };
    let named = named(&file.text);
    let Some(start) = file.text.lines().position(|line| line == HEADING) else {
        return vec![finding(1, format!("there is no `{HEADING}`"), "add the section".to_owned())];
    };
    let mut findings = Vec::new();
    for (line, path) in &named {
        if !tree.holds(path) {
            let mend = "correct the path, or remove it from the map".to_owned();
            findings.push(finding(*line, format!("`{path}` does not exist"), mend));
        }
    }
    let named: BTreeSet<&str> = named.iter().map(|(_, path)| path.trim_end_matches('/')).collect();
    for folder in tree.folders().into_iter().filter(|folder| is_code(folder)) {
        if !named.contains(folder) && !holds_only_tests(tree, folder) {
            let mend = format!("add a line that begins with `{folder}/` and says what it is for");
            findings.push(finding(start + 1, format!("the map does not name `{folder}/`"), mend));
        }
    }
    findings
}

fn finding(line: usize, what: String, mend: String) -> Finding {
    Finding { path: PATH.to_owned(), line, rule: RULE, what, mend }
}

/// Tells whether a folder is a crate, or lies inside a crate's sources.
fn is_code(folder: &str) -> bool {
    let parts: Vec<&str> = folder.split('/').collect();
    match parts.as_slice() {
        ["crates", _] => true,
        ["crates", _, "src", inner @ ..] => !inner.is_empty() && !inner.iter().any(|part| TOOL_FOLDERS.contains(part)),
        _ => false,
    }
}

/// Tells whether a folder holds nothing but the `tests.rs` of the file beside it.
fn holds_only_tests(tree: &Tree, folder: &str) -> bool {
    let tests = format!("{folder}/tests.rs");
    tree.files.iter().filter(|file| file.path.starts_with(&format!("{folder}/"))).all(|file| file.path == tests)
}

/// Returns the paths in backticks of the code map, each with its line.
fn named(text: &str) -> Vec<(usize, &str)> {
    let mut named = Vec::new();
    let mut is_inside = false;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("## ") {
            is_inside = line == HEADING;
        }
        if is_inside {
            let quoted = line.split('`').skip(1).step_by(2).map(|quoted| quoted.trim_start_matches("./"));
            named.extend(quoted.filter(|quoted| is_path(quoted)).map(|quoted| (number + 1, quoted)));
        }
    }
    named
}

/// Tells a path of this repository from other things in backticks; a route begins with a slash.
fn is_path(text: &str) -> bool {
    let is_plain = text.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-/".contains(letter));
    text.contains('/') && !text.starts_with('/') && is_plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::expect;

    const MAP: &str = "# A\n`no/map` here\n## Code map\n- `crates/a/`: all.\n- `crates/a/src/b/`: `GET /x/y`, `./run` and `a/{b}`.\n## Next\n`no/map`\n";

    #[test]
    fn every_folder_is_named() {
        let files =
            [(PATH, MAP), ("crates/a/src/lib.rs", ""), ("crates/a/src/b/c.rs", ""), ("crates/a/src/d/tests.rs", "")];
        expect(check, &files, &[]);
        let files =
            [(PATH, MAP), ("crates/a/src/b/c.rs", ""), ("crates/a/src/d/e/f.rs", ""), ("crates/a/src/snapshots/x", "")];
        expect(check, &files, &["ARCHITECTURE.md:3", "ARCHITECTURE.md:3"]);
    }

    #[test]
    fn every_named_path_exists() {
        expect(check, &[(PATH, MAP), ("crates/a/src/lib.rs", "")], &["ARCHITECTURE.md:5"]);
    }

    #[test]
    fn the_map_itself_exists() {
        expect(check, &[], &["ARCHITECTURE.md:1"]);
        expect(check, &[(PATH, "# A\n")], &["ARCHITECTURE.md:1"]);
    }
}

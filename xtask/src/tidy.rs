//! The rules of `docs/style.md` that a program can check, one file per concern.
//!
//! A rule is a function from the files to findings. It never writes; only `--bless` does, and only downwards.

mod arrows;
mod decisions;
mod header;
mod links;
mod lock;
mod map;
mod names;
mod orphans;
mod proofs;
mod ratchet;
mod tests_kept;
mod todo;
mod words;

use std::{fmt, fs, path::Path};

use anyhow::Context as _;

use crate::{tree::Tree, ui};

/// Something that is against a rule: where, which, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) rule: &'static str,
    pub(crate) what: String,
    pub(crate) mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, what, mend } = self;
        write!(f, "{path}:{line}: [{rule}] {what}\n    mend: {mend}")
    }
}

/// The rules that need nothing but the files.
const RULES: [fn(&Tree) -> Vec<Finding>; 13] = [
    parses,
    header::check,
    ratchet::check,
    names::check,
    words::check,
    map::check,
    todo::check,
    tests_kept::check,
    orphans::check,
    lock::check,
    decisions::check,
    links::check,
    proofs::check,
];

/// Checks every rule and prints the findings; true when there are none.
pub(crate) fn command(root: &Path) -> anyhow::Result<bool> {
    let tree = Tree::read(root)?;
    let findings = check(root, &tree)?;
    for finding in &findings {
        ui::line(&finding.to_string());
    }
    ui::line(&format!("tidy: {} files, {} findings", tree.files.len(), findings.len()));
    Ok(findings.is_empty())
}

/// Lowers the numbers of the ratchet to today's sizes, then checks.
pub(crate) fn bless(root: &Path) -> anyhow::Result<bool> {
    let tree = Tree::read(root)?;
    if let Some(text) = ratchet::blessed(&tree) {
        fs::write(root.join(ratchet::PATH), text).with_context(|| format!("write {}", ratchet::PATH))?;
    }
    command(root)
}

fn check(root: &Path, tree: &Tree) -> anyhow::Result<Vec<Finding>> {
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(tree)).collect();
    findings.extend(arrows::check(&arrows::read(root)?));
    findings.sort();
    Ok(findings)
}

/// Reports Rust files that do not parse; the other rules cannot see into them.
fn parses(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        if let Some(Err(error)) = &file.rust {
            findings.push(Finding {
                path: file.path.clone(),
                line: error.line,
                rule: "parses",
                what: format!("the file does not parse: {}", error.reason),
                mend: "make it compile".to_owned(),
            });
        }
    }
    findings
}

/// Expects that a rule finds exactly these `path:line` places in these files.
#[cfg(test)]
fn expect(rule: fn(&Tree) -> Vec<Finding>, files: &[(&str, &str)], places: &[&str]) {
    let findings = rule(&Tree::of(files));
    let found: Vec<String> = findings.iter().map(|found| format!("{}:{}", found.path, found.line)).collect();
    assert_eq!(found, places, "{findings:#?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let root = crate::root();
        let tree = Tree::read(&root).unwrap();
        let findings = check(&root, &tree).unwrap();
        let text: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), text.join("\n"));
    }

    #[test]
    fn a_finding_names_place_rule_and_cure() {
        let finding = Finding {
            path: "a.rs".to_owned(),
            line: 3,
            rule: "todo",
            what: "a TODO without a name".to_owned(),
            mend: "name somebody".to_owned(),
        };
        assert_eq!(finding.to_string(), "a.rs:3: [todo] a TODO without a name\n    mend: name somebody");
    }

    #[test]
    fn a_broken_file_is_found() {
        expect(parses, &[("a.rs", "fn a() {}\n"), ("b.rs", "fn a() {}\nfn b( {}\n")], &["b.rs:2"]);
    }
}

//! Every Rust file begins with one sentence that says what it is for.

use super::Finding;
use crate::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.rust.is_some()) {
        let first = file.text.lines().next().unwrap_or_default();
        if first.strip_prefix("//! ").is_none_or(|sentence| sentence.trim().is_empty()) {
            findings.push(Finding {
                path: file.path.clone(),
                line: 1,
                rule: "header",
                what: "the first line is not a `//!` sentence".to_owned(),
                mend: "begin the file with `//! ` and one sentence that says what it is for".to_owned(),
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::expect;

    #[test]
    fn the_first_line_is_a_sentence() {
        let files = [("a.rs", "//! Keeps time.\n"), ("b.rs", "use std::fmt;\n"), ("c.rs", "//! \n"), ("d.rs", "")];
        expect(check, &files, &["b.rs:1", "c.rs:1", "d.rs:1"]);
    }
}

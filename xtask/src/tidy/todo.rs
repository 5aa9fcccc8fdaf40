//! A `TODO` carries the name of who will do it, in parentheses.

use super::Finding;
use crate::{rust::Rust, tree::Tree};

const MARKS: [&str; 2] = ["TODO", "FIXME"];
const ENDINGS: [&str; 6] = [".rs", ".py", ".sh", ".toml", ".yaml", ".yml"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| ENDINGS.iter().any(|ending| file.path.ends_with(ending))) {
        let rust = file.rust.as_ref().and_then(|rust| rust.as_ref().ok());
        for (number, line) in file.text.lines().enumerate() {
            let is_text = |column| rust.is_some_and(|rust| is_in_string(rust, &file.text, number + 1, column));
            for (mark, at) in marks(line) {
                let rest = line.get(at + mark.len()..).unwrap_or_default();
                if !has_name(rest) && !is_text(line[..at].chars().count()) {
                    findings.push(Finding {
                        path: file.path.clone(),
                        line: number + 1,
                        rule: "todo",
                        what: format!("a {mark} without a name"),
                        mend: format!("write `{mark}(name): …`, or do it now"),
                    });
                }
            }
        }
    }
    findings
}

/// Returns the marks of a line that stand as whole words and are not quoted, with their byte offsets.
fn marks(line: &str) -> Vec<(&'static str, usize)> {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    for mark in MARKS {
        for (at, _) in line.match_indices(mark) {
            let before = line[..at].chars().next_back();
            let after = line[at + mark.len()..].chars().next();
            let is_quoted = before == Some('`');
            if !is_quoted && !before.is_some_and(is_word) && !after.is_some_and(is_word) {
                found.push((mark, at));
            }
        }
    }
    found
}

/// Tells whether what follows the mark is a name in parentheses.
fn has_name(rest: &str) -> bool {
    let name = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(name, _)| name);
    name.is_some_and(|name| name.chars().any(char::is_alphanumeric))
}

/// Tells whether a place lies inside a string of the program; a document comment is no such string.
fn is_in_string(rust: &Rust, text: &str, line: usize, column: usize) -> bool {
    let place = (line, column);
    rust.tokens.iter().any(|token| {
        let (start, end) = ((token.start.line, token.start.column), (token.end.line, token.end.column));
        let first = text.lines().nth(start.0 - 1).and_then(|line| line.chars().nth(start.1));
        token.is_literal && start <= place && place < end && first != Some('/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::expect;

    #[test]
    fn a_mark_carries_a_name() {
        expect(check, &[("a.rs", "// TODO(jan): later\n// METODO, `TODO`\n"), ("a.md", "TODO\n")], &[]);
        let bad = "// TODO: later\nfn a() {} // FIXME() x\n/// TODO in a document\nfn b() {}\n";
        expect(check, &[("a.rs", bad), ("b.py", "# TODO\n")], &["a.rs:1", "a.rs:2", "a.rs:3", "b.py:1"]);
    }

    #[test]
    fn a_mark_in_a_string_is_text() {
        expect(check, &[("a.rs", "const A: &str = \"é TODO\";\nconst B: &str = \"\n// TODO\n\";\n")], &[]);
        expect(check, &[("a.rs", "const A: &str = \"é TODO\"; // TODO\n")], &["a.rs:1"]);
    }
}

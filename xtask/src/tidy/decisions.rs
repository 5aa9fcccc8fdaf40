//! Decision records stay short, are numbered, and say what would change our mind.

use std::collections::BTreeMap;

use super::Finding;
use crate::tree::{File, Tree};

const FOLDER: &str = "docs/decisions/";
const LINES_MAX: usize = 60;
const HEADING: &str = "## What would change our mind";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut numbers: BTreeMap<&str, &str> = BTreeMap::new();
    for file in &tree.files {
        let Some(name) = file.path.strip_prefix(FOLDER).filter(|name| name.ends_with(".md")) else { continue };
        let Some(number) = number(name) else {
            findings.push(finding(file, 1, "the name has no number".to_owned(), "name it `NNNN-title.md`"));
            continue;
        };
        if let Some(other) = numbers.insert(number, &file.path) {
            findings.push(finding(file, 1, format!("{other} has the same number"), "take the next free number"));
        }
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            let mend = "keep the decision and its reasons, move the rest to where it is used";
            findings.push(finding(file, LINES_MAX + 1, format!("{lines} lines, the limit is {LINES_MAX}"), mend));
        }
        if !file.text.lines().any(|line| line == HEADING) {
            findings.push(finding(file, 1, format!("there is no `{HEADING}`"), "say it in two sentences"));
        }
    }
    findings
}

fn finding(file: &File, line: usize, what: String, mend: &str) -> Finding {
    Finding { path: file.path.clone(), line, rule: "decisions", what, mend: mend.to_owned() }
}

/// Returns the four digits before the first dash.
fn number(name: &str) -> Option<&str> {
    let (number, _) = name.split_once('-')?;
    (number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::expect;

    #[test]
    fn a_record_is_short_numbered_and_open_to_change() {
        let good = format!("# A\n{HEADING}\n{}", "\n".repeat(58));
        expect(check, &[("docs/decisions/0001-a.md", &good), ("docs/other.md", "")], &[]);
        let long = format!("{good}\n");
        expect(check, &[("docs/decisions/0001-a.md", &long)], &["docs/decisions/0001-a.md:61"]);
        expect(check, &[("docs/decisions/a.md", &good)], &["docs/decisions/a.md:1"]);
        expect(check, &[("docs/decisions/0001-a.md", "# A\n")], &["docs/decisions/0001-a.md:1"]);
        let twins = [("docs/decisions/0001-a.md", good.as_str()), ("docs/decisions/0001-b.md", &good)];
        expect(check, &twins, &["docs/decisions/0001-b.md:1"]);
    }
}

//! Paths carry no version or leftovers: a migration is finished, not kept beside what it replaces.

use super::Finding;
use crate::tree::Tree;

const BANNED: [&str; 5] = ["v2", "v3", "old", "legacy", "compat"];

/// Paths that may carry such a word, each with the reason.
const ALLOWED: [(&str, &str); 0] = [];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        let path = file.path.as_str();
        let words = path.split(['/', '-', '_', '.']);
        let Some(word) = words.map(str::to_lowercase).find(|word| BANNED.contains(&word.as_str())) else { continue };
        if !ALLOWED.iter().any(|(allowed, _)| *allowed == path) {
            findings.push(Finding {
                path: path.to_owned(),
                line: 1,
                rule: "words",
                what: format!("the path carries `{word}`"),
                mend: "finish the migration and give it the plain name".to_owned(),
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
    fn paths_carry_no_leftovers() {
        expect(check, &[("src/hold.rs", ""), ("src/compatibility.rs", ""), ("api/v1.json", "")], &[]);
        let bad = [("src/api_v2.rs", ""), ("src/legacy/a.rs", ""), ("docs/Old-names.md", ""), ("compat.toml", "")];
        expect(check, &bad, &["src/api_v2.rs:1", "src/legacy/a.rs:1", "docs/Old-names.md:1", "compat.toml:1"]);
    }
}

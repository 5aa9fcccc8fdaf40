//! The page of guarantees names tests that exist: a promise without its proof is only a wish.

use super::Finding;
use crate::tree::Tree;

const PAGE: &str = "docs/guarantees.md";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(page) = tree.files.iter().find(|file| file.path == PAGE) else { return Vec::new() };
    let mut findings = Vec::new();
    for (index, line) in page.text.lines().enumerate() {
        for (path, test) in line.split('`').skip(1).step_by(2).filter_map(|span| span.split_once(".rs::")) {
            let path = format!("crates/{path}.rs");
            let wanted = format!("fn {test}(");
            let found = tree.files.iter().any(|file| file.path == path && file.text.contains(&wanted));
            if !found {
                findings.push(Finding {
                    path: PAGE.to_owned(),
                    line: index + 1,
                    rule: "proofs",
                    what: format!("there is no test {test} in {path}"),
                    mend: "name the test that proves the sentence, or write it".to_owned(),
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::expect;

    #[test]
    fn every_proof_is_a_test_that_exists() {
        let code = ("crates/a/tests/it/b.rs", "fn it_holds() {}\n");
        expect(check, &[(PAGE, "Proof: `a/tests/it/b.rs::it_holds`\n"), code], &[]);
        expect(check, &[(PAGE, "\nProof: `a/tests/it/b.rs::it_lies`\n"), code], &["docs/guarantees.md:2"]);
        expect(check, &[(PAGE, "Proof: `a/tests/it/c.rs::it_holds`\n"), code], &["docs/guarantees.md:1"]);
    }
}

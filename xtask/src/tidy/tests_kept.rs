//! Tests run and do not wait on time: no ignored test, no sleeping thread.

use syn::visit::{self, Visit};

use super::Finding;
use crate::{
    rust::{Rust, Token},
    tree::Tree,
};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, rust) in tree.rust() {
        let mut ignored = Ignored(Vec::new());
        ignored.visit_file(&rust.ast);
        findings.extend(ignored.0.into_iter().map(|line| Finding {
            path: file.path.clone(),
            line,
            rule: "ignored",
            what: "an ignored test".to_owned(),
            mend: "mend the test or delete it; a missing server is a named skip inside the test".to_owned(),
        }));
        findings.extend(sleeps(&file.path, rust).into_iter().map(|line| Finding {
            path: file.path.clone(),
            line,
            rule: "sleep",
            what: "a test that sleeps".to_owned(),
            mend: "wait on a notice, a condition with a deadline, or the paused clock".to_owned(),
        }));
    }
    findings
}

struct Ignored(Vec<usize>);

impl<'ast> Visit<'ast> for Ignored {
    fn visit_attribute(&mut self, attr: &'ast syn::Attribute) {
        let is_direct = attr.path().is_ident("ignore");
        let is_conditional = attr.path().is_ident("cfg_attr")
            && attr.meta.require_list().is_ok_and(|list| {
                let words = list.tokens.to_string();
                words.rsplit(',').any(|word| word.trim().split([' ', '=']).next() == Some("ignore"))
            });
        if is_direct || is_conditional {
            self.0.push(attr.pound_token.spans[0].start().line);
        }
        visit::visit_attribute(self, attr);
    }
}

/// Returns the lines of tests on which a thread sleeps.
fn sleeps(path: &str, rust: &Rust) -> Vec<usize> {
    let is_test_file = path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("tidegate-testkit/");
    let tests = rust.test_lines();
    let texts = |tokens: &[Token]| tokens.iter().map(|token| token.text.clone()).collect::<Vec<_>>();
    let mut lines = Vec::new();
    for tokens in rust.tokens.windows(4) {
        let line = tokens[0].start.line;
        if texts(tokens) == ["thread", ":", ":", "sleep"]
            && (is_test_file || tests.iter().any(|range| range.contains(&line)))
        {
            lines.push(line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::expect;

    #[test]
    fn tests_are_not_ignored() {
        expect(check, &[("a.rs", "#[test]\nfn ignore() {}\n/// Says \"#[ignore]\".\nfn b() {}\n")], &[]);
        let bad =
            "#[test]\n#[ignore]\nfn a() {}\n#[ignore = \"slow\"]\nfn b() {}\n#[cfg_attr(windows, ignore)]\nfn c() {}\n";
        expect(check, &[("a.rs", bad)], &["a.rs:2", "a.rs:4", "a.rs:6"]);
    }

    #[test]
    fn tests_do_not_sleep() {
        let sleep = "fn a() {\n    std::thread::sleep(d);\n}\n";
        expect(check, &[("crates/a/src/lib.rs", sleep)], &[]);
        let places = ["crates/a/tests/it/b.rs:2", "crates/tidegate-testkit/src/lib.rs:2"];
        let files = [("crates/a/tests/it/b.rs", sleep), ("crates/tidegate-testkit/src/lib.rs", sleep)];
        expect(check, &files, &places);
        let inner = "fn a() {}\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn b() { assert!({ thread::sleep(d); true }); }\n}\n";
        expect(check, &[("crates/a/src/lib.rs", inner)], &["crates/a/src/lib.rs:5"]);
    }
}

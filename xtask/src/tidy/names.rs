//! Names say what a thing is: words that fit everything are banned at the end of types, files and folders.

use std::collections::BTreeSet;

use syn::visit::{self, Visit};

use super::Finding;
use crate::tree::Tree;

const BANNED: [&str; 11] =
    ["manager", "helper", "util", "common", "misc", "data", "info", "processor", "base", "impl", "service"];

/// Whole names that the glossary defines although their word is banned as an ending.
const DEFINED: [&str; 2] = ["service", "data"];

const RULE: &str = "names";
const MEND: &str = "name it by its noun in docs/glossary.md, or by what it does";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = of_paths(tree);
    for (file, rust) in tree.rust() {
        let mut walk = Types { path: &file.path, findings: &mut findings };
        walk.visit_file(&rust.ast);
    }
    findings
}

/// Checks the names of Rust files and of the folders around them.
fn of_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for file in tree.files.iter().filter(|file| file.rust.is_some()) {
        let mut rest = file.path.trim_end_matches(".rs");
        loop {
            let name = rest.rsplit('/').next().unwrap_or(rest);
            let words: Vec<&str> = name.split(['_', '-']).collect();
            if seen.insert(rest)
                && let Some(word) = banned(&words)
            {
                let what = format!("`{name}` ends in `{word}`");
                findings.push(finding(&file.path, 1, what));
            }
            let Some((folder, _)) = rest.rsplit_once('/') else { break };
            rest = folder;
        }
        if file.path.ends_with("/mod.rs") {
            let what = "`mod.rs` says nothing in a list of open files".to_owned();
            let mend = "name it `foo.rs` beside the folder `foo/`".to_owned();
            findings.push(Finding { mend, ..finding(&file.path, 1, what) });
        }
    }
    findings
}

fn finding(path: &str, line: usize, what: String) -> Finding {
    Finding { path: path.to_owned(), line, rule: RULE, what, mend: MEND.to_owned() }
}

/// Returns the banned word at the end of a name, in the singular.
fn banned(words: &[&str]) -> Option<&'static str> {
    let last = words.last()?.to_ascii_lowercase();
    let last = last.strip_suffix('s').unwrap_or(&last);
    let word = BANNED.into_iter().find(|word| *word == last)?;
    let is_defined = words.len() == 1 && DEFINED.contains(&word);
    (!is_defined).then_some(word)
}

struct Types<'a> {
    path: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl Types<'_> {
    fn note(&mut self, name: &syn::Ident) {
        let text = name.to_string();
        if let Some(word) = banned(&camel_words(&text)) {
            let what = format!("`{text}` ends in `{word}`");
            self.findings.push(finding(self.path, name.span().start().line, what));
        }
    }
}

impl<'ast> Visit<'ast> for Types<'_> {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.note(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.note(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.note(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.note(&item.ident);
        visit::visit_item_type(self, item);
    }
}

/// Splits `HttpDoor` into `Http` and `Door`.
fn camel_words(name: &str) -> Vec<&str> {
    let mut starts: Vec<usize> =
        name.char_indices().filter(|(_, letter)| letter.is_uppercase()).map(|(at, _)| at).collect();
    starts.push(name.len());
    starts.windows(2).filter_map(|pair| name.get(pair[0]..pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::expect;

    #[test]
    fn types_may_not_end_in_a_banned_word() {
        let good = "struct Metadata;\nenum Data { Info }\ntrait Service {}\nenum DataKind {}\n";
        expect(check, &[("a.rs", good)], &[]);
        let bad = "struct GroupManager;\nenum Info {}\ntrait JournalBase {}\ntype Utils = ();\nmod m { struct MailService; }\n";
        expect(check, &[("a.rs", bad)], &["a.rs:1", "a.rs:2", "a.rs:3", "a.rs:4", "a.rs:5"]);
    }

    #[test]
    fn files_and_folders_may_not_end_in_a_banned_word() {
        let good = [("src/service.rs", ""), ("src/data_kind.rs", ""), ("docs/common.md", "")];
        expect(check, &good, &[]);
        let bad = [("src/util.rs", ""), ("src/mail_helpers/a.rs", ""), ("src/mail_helpers/b.rs", "")];
        expect(check, &bad, &["src/util.rs:1", "src/mail_helpers/a.rs:1"]);
    }

    #[test]
    fn files_are_not_called_mod() {
        expect(check, &[("src/group.rs", ""), ("src/group/mod.rs", "")], &["src/group/mod.rs:1"]);
    }
}

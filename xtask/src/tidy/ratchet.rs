//! Files and functions stay short; the list of today's exceptions may only shrink.
//!
//! A line of the list is `file LINES PATH` or `fn LINES PATH NAME`. Adding a line is done by hand, so that
//! somebody sees it in the change; `--bless` only lowers numbers and removes lines.

use std::{collections::BTreeMap, fmt::Write as _};

use super::Finding;
use crate::{
    sizes::{self, Kind, Size},
    tree::Tree,
};

/// Path of the list.
pub(super) const PATH: &str = "xtask/ratchet.txt";

const RULE: &str = "ratchet";

type Key = (Kind, String, String);

/// What a line of the list says.
struct Entry {
    key: Key,
    lines: usize,
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let over = over(tree);
    let mut listed = BTreeMap::new();
    let mut findings = Vec::new();
    for (number, line) in list(tree).lines().enumerate().filter(|(_, line)| !is_remark(line)) {
        let finding = |what: String, mend: &str| Finding {
            path: PATH.to_owned(),
            line: number + 1,
            rule: RULE,
            what,
            mend: mend.to_owned(),
        };
        let Some(entry) = Entry::parse(line) else {
            let mend = "write `file LINES PATH` or `fn LINES PATH NAME`";
            findings.push(finding(format!("cannot read `{line}`"), mend));
            continue;
        };
        match over.get(&entry.key) {
            None => {
                findings.push(finding(format!("`{line}` is no exception any more"), "run `cargo xtask tidy --bless`"))
            }
            Some(size) if size.lines < entry.lines => {
                let what = format!("`{line}` has shrunk to {} lines", size.lines);
                findings.push(finding(what, "run `cargo xtask tidy --bless`"));
            }
            Some(_) => {}
        }
        listed.insert(entry.key, entry.lines);
    }
    for (key, size) in &over {
        let allowed = listed.get(key).copied();
        if allowed.is_none_or(|allowed| size.lines > allowed) {
            findings.push(too_long(size, allowed));
        }
    }
    findings
}

/// Returns the list with its numbers lowered to today's sizes, or nothing when it stays as it is.
pub(super) fn blessed(tree: &Tree) -> Option<String> {
    let over = over(tree);
    let before = list(tree);
    let mut after = String::new();
    for line in before.lines() {
        let entry = if is_remark(line) { None } else { Entry::parse(line) };
        match entry.map(|entry| (over.get(&entry.key), entry)) {
            None => _ = writeln!(after, "{line}"),
            Some((None, _)) => {}
            Some((Some(size), entry)) => {
                _ = writeln!(after, "{}", Entry { lines: size.lines.min(entry.lines), ..entry }.print());
            }
        }
    }
    (after != before).then_some(after)
}

/// Returns what is longer than its limit; of several functions of one name, the longest.
fn over(tree: &Tree) -> BTreeMap<Key, Size> {
    let mut over: BTreeMap<Key, Size> = BTreeMap::new();
    for size in sizes::all(tree).into_iter().filter(|size| size.lines > size.kind.limit()) {
        let longest = over.entry(key(&size)).or_insert_with(|| size.clone());
        if longest.lines < size.lines {
            *longest = size;
        }
    }
    over
}

fn key(size: &Size) -> Key {
    (size.kind, size.path.clone(), size.name.clone())
}

fn list(tree: &Tree) -> &str {
    tree.file(PATH).map(|file| file.text.as_str()).unwrap_or_default()
}

fn is_remark(line: &str) -> bool {
    line.starts_with('#') || line.trim().is_empty()
}

fn too_long(size: &Size, allowed: Option<usize>) -> Finding {
    let Size { kind, path, name, line, lines } = size.clone();
    let (subject, cure) = match kind {
        Kind::File => ("the file".to_owned(), "move a concern of its own into a file of its own"),
        Kind::Function => (format!("`{name}`"), "keep the branches here and move the steps into functions"),
    };
    let limit = match allowed {
        Some(allowed) => format!("{PATH} allows {allowed}"),
        None => format!("the limit is {}", kind.limit()),
    };
    let what = format!("{subject} has {lines} lines, {limit}");
    Finding { path, line, rule: RULE, what, mend: cure.to_owned() }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (kind, lines, path, name) = match words.as_slice() {
            ["file", lines, path] => (Kind::File, lines, path, ""),
            ["fn", lines, path, name] => (Kind::Function, lines, path, *name),
            _ => return None,
        };
        Some(Self { key: (kind, (*path).to_owned(), name.to_owned()), lines: lines.parse().ok()? })
    }

    fn print(&self) -> String {
        let (kind, path, name) = &self.key;
        match kind {
            Kind::File => format!("file {} {path}", self.lines),
            Kind::Function => format!("fn {} {path} {name}", self.lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::expect;

    fn file(lines: usize) -> String {
        format!("//! Long.\n{}", "\n".repeat(lines - 1))
    }

    fn function(lines: usize) -> String {
        format!("//! Long.\nimpl A {{\nfn b() {{\n{}}}\n}}\n", "\n".repeat(lines - 2))
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        expect(check, &[("a.rs", &file(600)), ("b.rs", &function(70))], &[]);
        expect(check, &[("a.rs", &file(601)), ("b.rs", &function(71))], &["a.rs:1", "b.rs:3"]);
    }

    #[test]
    fn a_listed_size_may_not_grow() {
        let list = "# why\nfile 700 a.rs\nfn 90 b.rs A::b\n";
        expect(check, &[(PATH, list), ("a.rs", &file(700)), ("b.rs", &function(90))], &[]);
        expect(check, &[(PATH, list), ("a.rs", &file(701)), ("b.rs", &function(91))], &["a.rs:1", "b.rs:3"]);
    }

    #[test]
    fn a_listed_size_that_shrank_is_lowered() {
        let list = "file 700 a.rs\nfn 90 b.rs A::b\n";
        let places = [format!("{PATH}:1"), format!("{PATH}:2")];
        let files = [(PATH, list), ("a.rs", &file(650)), ("b.rs", &function(20))];
        expect(check, &files, &places.each_ref().map(String::as_str));
        expect(check, &[(PATH, "file many a.rs\n")], &[&places[0]]);
    }

    #[test]
    fn bless_lowers_and_removes_but_never_raises_or_adds() {
        let list = "# why\nfile 700 a.rs\nfn 90 b.rs A::b\nfile 610 c.rs\n";
        let files = [
            (PATH, list),
            ("a.rs", &*file(650)),
            ("b.rs", &*function(20)),
            ("c.rs", &*file(999)),
            ("d.rs", &*file(999)),
        ];
        let after = blessed(&Tree::of(&files));
        assert_eq!(after.as_deref(), Some("# why\nfile 650 a.rs\nfile 610 c.rs\n"));
        let files = [(PATH, "# why\nfile 650 a.rs\n"), ("a.rs", &*file(650))];
        assert_eq!(blessed(&Tree::of(&files)), None);
    }
}

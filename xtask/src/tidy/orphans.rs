//! Every Rust file is reached by `mod` lines from a root; a forgotten test file would pass by never running.

use std::collections::BTreeSet;

use super::Finding;
use crate::{rust::Rust, tree::Tree};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = tree.files.iter().map(|file| file.path.clone()).filter(|path| is_root(path)).collect();
    while let Some(path) = open.pop() {
        let rust = tree.file(&path).and_then(|file| file.rust.as_ref()).and_then(|rust| rust.as_ref().ok());
        if let Some(rust) = rust {
            open.extend(children(&path, rust).into_iter().filter(|child| !reached.contains(child)));
        }
        reached.insert(path);
    }
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.rust.is_some() && area(&file.path).is_some()) {
        if !reached.contains(&file.path) {
            findings.push(Finding {
                path: file.path.clone(),
                line: 1,
                rule: "orphans",
                what: "no `mod` line leads to this file, so it is never compiled".to_owned(),
                mend: "declare it with `mod` in the file above it, or delete it".to_owned(),
            });
        }
    }
    findings
}

/// Splits a path into its kind of folder (`src`, `tests`, …) and what comes after, for files of our crates.
fn area(path: &str) -> Option<(&str, Vec<&str>)> {
    let mut parts = path.split('/');
    match parts.next()? {
        "crates" => _ = parts.next()?,
        "xtask" => {}
        _ => return None,
    }
    let area = parts.next()?;
    matches!(area, "src" | "tests" | "benches" | "examples").then(|| (area, parts.collect()))
}

/// Tells whether cargo compiles a file without being led to it.
fn is_root(path: &str) -> bool {
    match area(path) {
        Some(("src", rest)) => matches!(rest.as_slice(), ["lib.rs" | "main.rs"] | ["bin", _] | ["bin", _, "main.rs"]),
        Some((_, rest)) => matches!(rest.as_slice(), [_] | [_, "main.rs"]),
        None => false,
    }
}

/// Returns the paths that the `mod` lines of a file may lead to.
fn children(path: &str, rust: &Rust) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.trim_end_matches(".rs");
    let owns_folder = is_root(path) || stem == "mod";
    let base = if owns_folder { folder.to_owned() } else { format!("{folder}/{stem}") };
    let mut found = Vec::new();
    collect(&rust.ast.items, folder, &base, &mut found);
    found
}

fn collect(items: &[syn::Item], folder: &str, base: &str, found: &mut Vec<String>) {
    for item in items {
        let syn::Item::Mod(module) = item else { continue };
        let name = module.ident.to_string();
        let name = name.trim_start_matches("r#");
        if let Some((_, inner)) = &module.content {
            collect(inner, folder, &format!("{base}/{name}"), found);
        } else if let Some(given) = given_path(module) {
            found.push(join(folder, &given));
        } else {
            found.push(format!("{base}/{name}.rs"));
            found.push(format!("{base}/{name}/mod.rs"));
        }
    }
}

/// Returns the path of `#[path = "…"]`.
fn given_path(module: &syn::ItemMod) -> Option<String> {
    let value = module.attrs.iter().find(|attr| attr.path().is_ident("path"))?.meta.require_name_value().ok()?;
    let syn::Expr::Lit(literal) = &value.value else { return None };
    let syn::Lit::Str(text) = &literal.lit else { return None };
    Some(text.value())
}

/// Joins a relative path to a folder and takes out `..`.
pub(super) fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::expect;

    #[test]
    fn a_test_file_is_declared() {
        let main = ("crates/a/tests/it/main.rs", "mod b;\n#[path = \"../shared/d.rs\"]\nmod d;\n");
        let good = [
            main,
            ("crates/a/tests/it/b.rs", "mod c;"),
            ("crates/a/tests/it/b/c.rs", ""),
            ("crates/a/tests/shared/d.rs", ""),
        ];
        expect(check, &good, &[]);
        let bad = [main, ("crates/a/tests/it/c.rs", ""), ("crates/a/tests/it/b/c.rs", "")];
        expect(check, &bad, &["crates/a/tests/it/c.rs:1", "crates/a/tests/it/b/c.rs:1"]);
    }

    #[test]
    fn a_source_file_is_declared() {
        let lib = ("crates/a/src/lib.rs", "pub mod b { mod c; }\n");
        expect(
            check,
            &[lib, ("crates/a/src/b/c.rs", ""), ("crates/a/build.rs", ""), ("crates/a/src/bin/x.rs", "")],
            &[],
        );
        expect(
            check,
            &[lib, ("crates/a/src/c.rs", ""), ("xtask/src/x.rs", "")],
            &["crates/a/src/c.rs:1", "xtask/src/x.rs:1"],
        );
    }
}

//! Relative links of the documents lead to files and headings that exist.

use super::{Finding, orphans::join};
use crate::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, target) in targets(&file.text) {
            if let Some(what) = broken(tree, &file.path, target) {
                findings.push(Finding {
                    path: file.path.clone(),
                    line,
                    rule: "links",
                    what,
                    mend: "correct the link; it is relative to the file it stands in".to_owned(),
                });
            }
        }
    }
    findings
}

/// Says what is wrong with a link, if anything is.
fn broken(tree: &Tree, from: &str, target: &str) -> Option<String> {
    let is_outside = target.contains("://") || target.starts_with("mailto:");
    if is_outside || target.is_empty() {
        return None;
    }
    let (path, heading) = target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = if path.is_empty() { from.to_owned() } else { join(folder, path) };
    if !tree.holds(&path) {
        return Some(format!("`{target}` leads to {path}, which does not exist"));
    }
    let heading = heading?;
    let file = tree.file(&path).filter(|file| file.path.ends_with(".md"))?;
    let is_there = prose(&file.text).any(|(_, line)| line.starts_with('#') && anchor(line) == heading);
    (!is_there).then(|| format!("{path} has no heading `#{heading}`"))
}

/// Returns the lines outside fenced code, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((number + 1, line))
    })
}

/// Returns the targets of `[text](target)` and `[name]: target`, each with its line.
fn targets(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        for piece in line.split('`').step_by(2) {
            let inline = piece.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            found.extend(inline.map(|(target, _)| (number, bare(target))));
        }
        if let Some((_, target)) = line.split_once("]: ").filter(|_| line.starts_with('[')) {
            found.push((number, bare(target)));
        }
    }
    found
}

/// Takes a title and angle brackets off a target.
fn bare(target: &str) -> &str {
    let first = target.split_whitespace().next().unwrap_or_default();
    first.trim_start_matches('<').trim_end_matches('>')
}

/// Returns the anchor that viewers give to a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::expect;

    #[test]
    fn links_lead_somewhere() {
        let good = "# One: two\n[a](../a.md#top) [b](<b.md> \"title\") [c](#one-two) [d](https://x.example/y)\n`[e](no.md)`\n```\n[f](no.md)\n```\n[g]: b.md\n";
        expect(check, &[("a.md", "# Top\n"), ("docs/b.md", ""), ("docs/c.md", good)], &[]);
        let bad = "[a](b.md)\n[b](#three)\n[c]: d.md\n[d](../a.md#bottom)\n";
        let places = ["docs/c.md:1", "docs/c.md:2", "docs/c.md:3", "docs/c.md:4"];
        expect(check, &[("a.md", "# Top\n"), ("docs/c.md", bad)], &places);
    }
}

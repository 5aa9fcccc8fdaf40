//! Prints the numbers that are watched: sizes, dependencies and, on request, build times.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{
    sizes::{self, Kind, Size},
    tree::Tree,
    ui,
};

const LONGEST_SHOWN: usize = 10;

/// Prints the measurements; `is_build_wanted` also builds a copy of the repository twice.
pub(crate) fn command(root: &Path, is_build_wanted: bool) -> anyhow::Result<bool> {
    let tree = Tree::read(root)?;
    let (files, functions): (Vec<Size>, Vec<Size>) =
        sizes::all(&tree).into_iter().partition(|size| size.kind == Kind::File);
    print_files(&files);
    print_functions(functions);
    if let Some(lock) = tree.file("Cargo.lock") {
        ui::line(&format!("\npackages in Cargo.lock: {}", packages(&lock.text)));
    }
    if is_build_wanted {
        print_builds(root, &tree)?;
    }
    Ok(true)
}

fn print_files(files: &[Size]) {
    let mut areas: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for file in files {
        areas.entry(area(&file.path)).or_default().push(file.lines);
    }
    let total = ("total", files.iter().map(|file| file.lines).collect());
    let row = |cells: [&str; 6]| {
        let [name, rest @ ..] = cells;
        let rest = rest.map(|cell| format!("{cell:>8}")).concat();
        ui::line(&format!("{name:<28}{rest}"));
    };
    row(["lines per file", "files", "lines", "median", "p90", "max"]);
    for (area, mut lines) in areas.into_iter().chain([total]) {
        lines.sort_unstable();
        let cells = [lines.len(), lines.iter().sum(), rank(&lines, 50), rank(&lines, 90), rank(&lines, 100)];
        let cells = cells.map(|cell| cell.to_string());
        let [files, sum, median, p90, max] = cells.each_ref().map(String::as_str);
        row([area, files, sum, median, p90, max]);
    }
}

fn print_functions(mut functions: Vec<Size>) {
    functions.sort_by_key(|function| std::cmp::Reverse(function.lines));
    let long = functions.iter().filter(|function| function.lines > function.kind.limit()).count();
    ui::line(&format!("\nfunctions: {}, over the limit: {long}; the longest:", functions.len()));
    for function in functions.iter().take(LONGEST_SHOWN) {
        ui::line(&format!("{:>6}  {}:{} {}", function.lines, function.path, function.line, function.name));
    }
}

/// Returns the crate's folder, or the first folder outside `crates/`.
fn area(path: &str) -> &str {
    let depth = if path.starts_with("crates/") { 2 } else { 1 };
    let end = path.match_indices('/').nth(depth - 1).map_or(path.len(), |(at, _)| at);
    path.get(..end).unwrap_or(path)
}

/// Returns the value at a percentile of sorted values, by nearest rank.
fn rank(sorted: &[usize], percent: usize) -> usize {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

fn packages(lock: &str) -> usize {
    lock.lines().filter(|line| *line == "[[package]]").count()
}

/// Builds a copy of the repository, so that neither its sources nor its `target` are touched.
fn print_builds(root: &Path, tree: &Tree) -> anyhow::Result<()> {
    let scratch = root.join("target").join("measure");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("empty {}", scratch.display()))?;
    }
    for file in &tree.files {
        let to = scratch.join(&file.path);
        let folder = to.parent().context("a file lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        fs::copy(root.join(&file.path), &to).with_context(|| format!("copy to {}", to.display()))?;
    }
    let built = print_scratch_builds(&scratch);
    fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
    built
}

fn print_scratch_builds(scratch: &Path) -> anyhow::Result<()> {
    ui::line("\nbuild of the whole workspace, dev profile:");
    print_build(scratch, "cold", None)?;
    print_build(scratch, "warm, nothing changed", None)?;
    print_build(scratch, "warm, tidegate changed", Some("crates/tidegate/src/main.rs"))?;
    print_build(scratch, "warm, tidegate-core changed", Some("crates/tidegate-core/src/lib.rs"))
}

fn print_build(scratch: &Path, name: &str, changed: Option<&str>) -> anyhow::Result<()> {
    if let Some(path) = changed {
        let path = scratch.join(path);
        let mut text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.push_str("\n// Changed to measure a warm build.\n");
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let took = time(
        Command::new("cargo")
            .args(["build", "--workspace", "--target-dir"])
            .arg(scratch.join("target"))
            .current_dir(scratch),
    )?;
    ui::line(&format!("{name:<28}{:>8.1} s", took.as_secs_f64()));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "measures a real build; this program has no clock of its own")]
fn time(command: &mut Command) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output().context("run cargo build")?;
    if !output.status.success() {
        bail!("cargo build failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_values_that_occur() {
        let sorted: Vec<usize> = (1..=10).collect();
        assert_eq!([50, 90, 100].map(|percent| rank(&sorted, percent)), [5, 9, 10]);
        assert_eq!((rank(&[7], 50), rank(&[], 90)), (7, 0));
    }

    #[test]
    fn areas_are_crates() {
        assert_eq!(area("crates/tidegate-core/src/lib.rs"), "crates/tidegate-core");
        assert_eq!(area("xtask/src/main.rs"), "xtask");
    }

    #[test]
    fn packages_are_counted() {
        assert_eq!(packages("[[package]]\nname = \"a\"\n\n[[package]]\nname = \"b\"\n"), 2);
    }
}

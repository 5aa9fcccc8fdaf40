//! The files of the repository, read once, so that every rule is a pure function of them.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::rust::Rust;

/// Folders that are never part of the sources.
const SKIPPED: [&str; 5] = [".git", "target", "node_modules", "__pycache__", "data"];

/// File by which cargo and other tools mark a folder that can be made again.
const CACHE_MARK: &str = "CACHEDIR.TAG";

/// All files of the repository, in order of their paths.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
}

/// One file.
pub(crate) struct File {
    /// Path from the root of the repository, with `/` on every system.
    pub(crate) path: String,
    /// Content; empty when the file is not UTF-8.
    pub(crate) text: String,
    /// The parsed program, for Rust files.
    pub(crate) rust: Option<Result<Rust, ParseError>>,
}

/// Where and why a Rust file could not be parsed.
pub(crate) struct ParseError {
    pub(crate) line: usize,
    pub(crate) reason: String,
}

impl Tree {
    /// Reads every file under `root` that is not build output.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut paths = Vec::new();
        collect(root, &mut paths)?;
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                // Editors and tests make and remove files while we look.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
            };
            let inside = path.strip_prefix(root).context("a walked path lies under the root")?;
            let parts: Vec<_> = inside.iter().map(|part| part.to_string_lossy()).collect();
            files.push(File::new(&parts.join("/"), String::from_utf8(bytes).unwrap_or_default()));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { files })
    }

    /// Returns the file at a path.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Returns the Rust files that parse.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&File, &Rust)> {
        self.files.iter().filter_map(|file| match &file.rust {
            Some(Ok(rust)) => Some((file, rust)),
            Some(Err(_)) | None => None,
        })
    }

    /// Returns every folder that holds a file, at any depth, without a slash at the end.
    pub(crate) fn folders(&self) -> BTreeSet<&str> {
        let mut folders = BTreeSet::new();
        for file in &self.files {
            let mut rest = file.path.as_str();
            while let Some((folder, _)) = rest.rsplit_once('/') {
                folders.insert(folder);
                rest = folder;
            }
        }
        folders
    }

    /// Tells whether a path names a file or a folder.
    pub(crate) fn holds(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let inside = format!("{path}/");
        self.files.iter().any(|file| file.path == path || file.path.starts_with(&inside))
    }
}

impl File {
    pub(crate) fn new(path: &str, text: String) -> Self {
        let rust = path.ends_with(".rs").then(|| Rust::parse(&text));
        Self { path: path.to_owned(), text, rust }
    }
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        let Ok(kind) = entry.file_type() else { continue };
        let name = entry.file_name();
        if kind.is_dir() {
            let is_skipped = SKIPPED.iter().any(|skipped| name == *skipped);
            if !is_skipped && !entry.path().join(CACHE_MARK).exists() {
                collect(&entry.path(), paths)?;
            }
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
impl Tree {
    /// Makes a tree of the given paths and contents.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| File::new(path, (*text).to_owned())).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_at_every_depth() {
        let tree = Tree::of(&[("a/b/c.rs", "//! C.\n"), ("d.md", "")]);
        assert_eq!(tree.folders().into_iter().collect::<Vec<_>>(), ["a", "a/b"]);
        assert!(tree.holds("a/b/") && tree.holds("a/b/c.rs") && !tree.holds("a/x"));
    }

    #[test]
    fn build_output_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        for path in ["src/lib.rs", "target/debug/x.rs", ".git/config", "out/CACHEDIR.TAG", "out/x.rs"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "//! Text.\n").unwrap();
        }
        let tree = Tree::read(root.path()).unwrap();
        assert_eq!(tree.files.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["src/lib.rs"]);
    }
}

//! The directories of the simulated disk: names as the process sees them, and as a crash may leave them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use super::contents::Survival;

/// Number of a file, whatever its name.
pub(super) type Node = u64;

/// A change of a directory that was not synced.
#[derive(Debug, Clone)]
enum Change {
    Link { path: PathBuf, node: Node },
    Unlink { path: PathBuf, node: Node },
    Rename { from: PathBuf, to: PathBuf, node: Node },
    Folder { path: PathBuf },
}

impl Change {
    fn in_dir(&self, dir: &Path) -> bool {
        match self {
            Self::Link { path, .. } | Self::Unlink { path, .. } | Self::Folder { path } => path.parent() == Some(dir),
            Self::Rename { to, .. } => to.parent() == Some(dir),
        }
    }
}

/// Names of files and folders.
#[derive(Debug, Clone, Default)]
struct Tree {
    files: BTreeMap<PathBuf, Node>,
    folders: BTreeSet<PathBuf>,
}

impl Tree {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Link { path, node } => {
                self.files.insert(path.clone(), *node);
            }
            Change::Unlink { path, node } => {
                if self.files.get(path) == Some(node) {
                    self.files.remove(path);
                }
            }
            Change::Rename { from, to, node } => {
                if self.files.get(from) == Some(node) {
                    self.files.remove(from);
                }
                self.files.insert(to.clone(), *node);
            }
            Change::Folder { path } => {
                self.folders.insert(path.clone());
            }
        }
    }
}

/// All names of the disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    live: Tree,
    durable: Tree,
    /// Changes since, with the moment of each.
    pending: Vec<(u64, Change)>,
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        self.live.files.get(path).copied()
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, Node)> {
        self.live.files.iter().map(|(path, node)| (path, *node))
    }

    /// Returns every file that has, had or may again have a name.
    pub(super) fn reachable(&self) -> BTreeSet<Node> {
        let pending = self.pending.iter().filter_map(|(_, change)| match change {
            Change::Link { node, .. } | Change::Unlink { node, .. } | Change::Rename { node, .. } => Some(*node),
            Change::Folder { .. } => None,
        });
        self.live.files.values().chain(self.durable.files.values()).copied().chain(pending).collect()
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.live.folders.contains(dir) {
            return Err(missing(dir));
        }
        let all = self.live.files.keys().chain(&self.live.folders);
        let inside = all.filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    pub(super) fn link(&mut self, path: &Path, node: Node, moment: u64) -> io::Result<()> {
        match path.parent() {
            Some(dir) if self.live.folders.contains(dir) => {}
            Some(_) | None => return Err(missing(path)),
        }
        self.change(Change::Link { path: path.to_owned(), node }, moment);
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path, moment: u64) -> io::Result<()> {
        let node = self.get(path).ok_or_else(|| missing(path))?;
        self.change(Change::Unlink { path: path.to_owned(), node }, moment);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, moment: u64) -> io::Result<()> {
        let node = self.get(from).ok_or_else(|| missing(from))?;
        self.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), node }, moment);
        Ok(())
    }

    pub(super) fn create_dir(&mut self, dir: &Path, moment: u64) {
        let missing: Vec<_> = dir.ancestors().filter(|path| !self.live.folders.contains(*path)).collect();
        for path in missing.into_iter().rev() {
            self.change(Change::Folder { path: path.to_owned() }, moment);
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.live.folders.contains(dir) {
            return Err(missing(dir));
        }
        let (done, left) = std::mem::take(&mut self.pending).into_iter().partition(|(_, change)| change.in_dir(dir));
        self.pending = left;
        let done: Vec<(u64, Change)> = done;
        for (_, change) in &done {
            self.durable.apply(change);
        }
        Ok(())
    }

    /// Makes all names durable: the state of a disk that was left alone for long.
    pub(super) fn settle(&mut self) {
        self.pending.clear();
        self.durable = self.live.clone();
    }

    pub(super) fn crash(&mut self, survival: &Survival, rng: &mut fastrand::Rng) {
        for (moment, change) in std::mem::take(&mut self.pending) {
            let survived = match survival {
                Survival::Nothing => false,
                Survival::Everything => true,
                Survival::Until(last) => moment <= *last,
                Survival::Each(chance) => rng.f64() < *chance,
            };
            if survived {
                self.durable.apply(&change);
            }
        }
        // What lies in a folder that was lost is lost with it.
        let folders = self.durable.folders.clone();
        let there = |path: &Path| path.ancestors().skip(1).all(|dir| folders.contains(dir));
        self.durable.folders.retain(|path| there(path));
        self.durable.files.retain(|path, _| there(path));
        self.live = self.durable.clone();
    }

    fn change(&mut self, change: Change, moment: u64) {
        self.live.apply(&change);
        self.pending.push((moment, change));
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} is not on the simulated disk", path.display()))
}

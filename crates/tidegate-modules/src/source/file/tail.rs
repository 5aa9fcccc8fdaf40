//! A file that is read piece by piece while others write it, rename it and cut it.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tidegate_core::fault::{Fault, Origin, Result};

use crate::source::lines::Splitter;

/// Bytes that are read at a time.
const PIECE: usize = 256 * 1024;
/// Bytes of the digest of a first line that name a file.
const FIRST_BYTES: usize = 6;

/// How far a file was read. What it says is durable before anything behind it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    device: u64,
    inode: u64,
    /// How many files were read before this one: one that was cut counts as another.
    generation: u64,
    /// Digest of its first line, empty while there is none: a file system gives the inode of a file that was removed to
    /// the next one.
    pub(super) first: String,
    /// Where the next line begins.
    pub(super) offset: u64,
    /// Lines before that.
    pub(super) line: u64,
    /// Whether another file stands in its place and this one is read to its end.
    pub(super) is_done: bool,
}

impl Kept {
    /// Returns what names the file in the ids of its events.
    pub(super) fn mark(&self) -> String {
        format!("{}.{}", self.first, self.generation)
    }

    fn is_of(&self, found: &Metadata) -> bool {
        (self.device, self.inode) == (found.dev(), found.ino())
    }
}

/// What became of a file since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// It is still there.
    Same,
    /// It is shorter than what was read of it.
    Cut,
    /// Another file stands in its place.
    Replaced,
}

/// A file that is read from a place on.
#[derive(Debug)]
pub(super) struct Tail {
    file: Arc<File>,
    pub(super) lines: Splitter,
    pub(super) kept: Kept,
    /// Its size at the last look.
    pub(super) size: u64,
}

/// Returns the directory of a file.
pub(super) fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Does something with the disk where it may take its time.
async fn at_disk<T: Send + 'static>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| Fault::bug(format!("read {}", path.display())).because(error))?;
    done.map_err(|error| {
        Fault::unavailable(Origin::Tidegate, format!("read {}: {error}", path.display())).because(error)
    })
}

/// Opens a file; none when there is none, or something that is no ordinary file.
fn open(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    // Looked at before it is opened: to open a pipe is to wait for its other end.
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => return Err(io::Error::other("is no ordinary file")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    match File::open(path) {
        Ok(file) => {
            let found = file.metadata()?;
            Ok(Some((file, found)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the digest of a file's first line; empty when it has no end yet.
fn first_line(file: &File, line_max: usize) -> io::Result<String> {
    let mut start = vec![0; line_max.min(64 * 1024)];
    let read = file.read_at(&mut start, 0)?;
    let read = start.get(..read).unwrap_or_default();
    let length = match read.iter().position(|byte| *byte == b'\n') {
        Some(length) => length,
        // Longer than what is looked at: its beginning names it.
        None if read.len() == start.len() => read.len(),
        None => return Ok(String::new()),
    };
    let digest = Sha256::digest(read.get(..length).unwrap_or_default());
    Ok(digest.iter().take(FIRST_BYTES).map(|byte| format!("{byte:02x}")).collect())
}

/// Finds the file that was read before, in its place or renamed beside it; none when it is gone or was cut.
fn find(path: &Path, before: &Kept, line_max: usize) -> io::Result<Option<(File, Metadata)>> {
    let is_it = |file: &File, found: &Metadata| -> io::Result<bool> {
        let is_same = before.is_of(found) && found.len() >= before.offset;
        Ok(is_same && (before.first.is_empty() || first_line(file, line_max)? == before.first))
    };
    if let Some((file, found)) = open(path)?
        && is_it(&file, &found)?
    {
        return Ok(Some((file, found)));
    }
    let Ok(beside) = std::fs::read_dir(directory(path)) else { return Ok(None) };
    let by_inode = beside.filter_map(|entry| {
        entry.ok().filter(|entry| {
            use std::os::unix::fs::DirEntryExt as _;
            entry.ino() == before.inode
        })
    });
    let paths: Vec<PathBuf> = by_inode.map(|entry| entry.path()).collect();
    for path in paths {
        if let Some((file, found)) = open(&path).ok().flatten()
            && is_it(&file, &found)?
        {
            return Ok(Some((file, found)));
        }
    }
    Ok(None)
}

impl Tail {
    /// Goes on where a file was left; none when it is gone or was cut.
    pub(super) async fn resume(path: &Path, before: &Kept, line_max: usize) -> Result<Option<Self>> {
        let (own, kept) = (path.to_owned(), before.clone());
        let found = at_disk(path, move || find(&own, &kept, line_max)).await?;
        Ok(found.map(|(file, found)| Self::new(file, &found, before.clone(), line_max)))
    }

    /// Begins with the file that stands there; none when there is none.
    pub(super) async fn start(path: &Path, before: Option<&Kept>, line_max: usize) -> Result<Option<Self>> {
        let own = path.to_owned();
        let opened = at_disk(path, move || {
            let Some((file, found)) = open(&own)? else { return Ok(None) };
            let first = first_line(&file, line_max)?;
            Ok(Some((file, found, first)))
        });
        let Some((file, found, first)) = opened.await? else { return Ok(None) };
        let generation = before.map_or(0, |before| before.generation + 1);
        let (device, inode) = (found.dev(), found.ino());
        let kept = Kept { device, inode, generation, first, offset: 0, line: 0, is_done: false };
        Ok(Some(Self::new(file, &found, kept, line_max)))
    }

    fn new(file: File, found: &Metadata, kept: Kept, line_max: usize) -> Self {
        let lines = Splitter::new(kept.offset, kept.line, line_max);
        Self { file: Arc::new(file), lines, kept, size: found.len() }
    }

    /// Reads a piece; false at the end of the file.
    pub(super) async fn read(&mut self) -> Result<bool> {
        let (file, from) = (self.file.clone(), self.lines.read_to());
        let piece = at_disk(Path::new("a piece of the file"), move || {
            let mut piece = vec![0; PIECE];
            let read = file.read_at(&mut piece, from)?;
            piece.truncate(read);
            Ok(piece)
        });
        let piece = piece.await?;
        self.lines.push(&piece);
        Ok(!piece.is_empty())
    }

    /// Returns the digest of the first line.
    pub(super) async fn first_line(&self, line_max: usize) -> Result<String> {
        let file = self.file.clone();
        let first = at_disk(Path::new("the first line of the file"), move || first_line(&file, line_max)).await?;
        // Only a file that ends without an end of line has none by now.
        Ok(if first.is_empty() { "only".to_owned() } else { first })
    }

    /// Looks what became of the file and of its place.
    pub(super) async fn look(&mut self, path: &Path) -> Result<Look> {
        let (file, own) = (self.file.clone(), path.to_owned());
        let looked = at_disk(path, move || {
            let there = match std::fs::metadata(&own) {
                Ok(there) => Some(there),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            Ok((file.metadata()?.len(), there))
        });
        let (size, there) = looked.await?;
        self.size = size;
        if size < self.lines.read_to() {
            return Ok(Look::Cut);
        }
        // Where nothing stands just now, something may stand soon; until then more may be written here.
        let is_replaced = there.is_some_and(|there| !self.kept.is_of(&there));
        Ok(if is_replaced { Look::Replaced } else { Look::Same })
    }
}

//! A copy of the files of the store, built from the log: what a node reads, and what it goes on from when it leads.
//!
//! The copy lies in a folder of its own, is never synced, and is thrown away when the node ends: the log is the truth.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf as _, Bytes};
use serde::{Deserialize, Serialize};
use tidegate_core::fault::{Fault, Origin, Result};

use super::link::Entry;

/// Subject of the list of all files.
pub(super) const LIST: &str = "log.list";
/// Subject of the mark of the node that leads.
pub(super) const MARK: &str = "log.mark";

/// Subject of the changes to a file.
pub(super) fn subject(id: &str) -> String {
    format!("log.file.{id}")
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Name of the node.
    pub(super) node: String,
    /// Number of its process.
    pub(super) boot: u64,
    /// Whether it has gone in order: any other may lead at once.
    pub(super) left: bool,
    /// Grows with each sign of life.
    pub(super) sign: u64,
}

/// One change to a file, as it stands in a message.
#[derive(Debug)]
pub(super) enum Change<'a> {
    Write(u64, &'a [u8]),
    Length(u64),
}

/// Bytes that a change takes beside what is written.
pub(super) const CHANGE_HEAD: usize = 13;

impl Change<'_> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let (at, bytes): (_, &[u8]) = match self {
            Self::Write(at, bytes) => (at, bytes),
            Self::Length(at) => (at, &[]),
        };
        out.push(u8::from(matches!(self, Self::Length(_))));
        out.extend_from_slice(&at.to_le_bytes());
        // A message is far below four gigabytes.
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    }

    /// Carries out all changes of a message.
    fn apply_all(mut payload: Bytes, file: &fs::File) -> io::Result<()> {
        while payload.remaining() >= CHANGE_HEAD {
            let (kind, at, len) = (payload.get_u8(), payload.get_u64_le(), payload.get_u32_le() as usize);
            if len > payload.remaining() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let bytes = payload.split_to(len);
            if kind == 0 { file.write_all_at(&bytes, at)? } else { file.set_len(at)? }
        }
        if payload.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// The copy as far as the log was read.
#[derive(Debug)]
pub(super) struct Copy {
    folder: Folder,
    files: BTreeMap<String, Arc<fs::File>>,
    /// Path of each file and which one it is.
    names: BTreeMap<String, String>,
    /// The newest mark and the number of its message.
    pub(super) mark: Option<(Mark, u64)>,
    /// Number of the next message.
    pub(super) next: u64,
}

/// A folder that goes with its owner.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// What a copy consists of, for the node that goes on from it.
pub(super) struct Taken {
    pub(super) folder: Folder,
    /// Path, which file it is, and the file.
    pub(super) files: Vec<(String, String, Arc<fs::File>)>,
    /// Files that nobody lists: what they held is freed.
    pub(super) orphans: Vec<String>,
}

fn failed(folder: &Path, error: &io::Error) -> Fault {
    Fault::unavailable(Origin::Store, format!("copy of the NATS log in {}: {error}", folder.display()))
}

impl Copy {
    /// An empty copy in a folder of its own below `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let path = dir.join(format!("copy-{:016x}", fastrand::u64(..)));
        fs::create_dir_all(&path).map_err(|error| failed(&path, &error))?;
        Ok(Self { folder: Folder(path), files: BTreeMap::new(), names: BTreeMap::new(), mark: None, next: 1 })
    }

    fn file(&mut self, id: &str) -> io::Result<Arc<fs::File>> {
        if let Some(file) = self.files.get(id) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(create(self.folder.path(), id)?);
        self.files.insert(id.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    /// Takes in a message.
    pub(super) fn apply(&mut self, entry: Entry) -> Result<()> {
        let subject = format!("log.{}", entry.subject);
        let damaged = |what: &str| Fault::corrupt(format!("message {} of the NATS log is no {what}", entry.number));
        match subject.as_str() {
            LIST => {
                let names: BTreeMap<String, String> =
                    postcard::from_bytes(&entry.payload).map_err(|_| damaged("list of files"))?;
                let before = std::mem::replace(&mut self.names, names);
                for id in before.into_values() {
                    if !self.names.values().any(|listed| *listed == id) {
                        self.forget(&id);
                    }
                }
            }
            MARK => {
                let mark = postcard::from_bytes(&entry.payload).map_err(|_| damaged("mark of a node"))?;
                self.mark = Some((mark, entry.number));
            }
            _ => {
                let id = entry.subject.strip_prefix("file.").ok_or_else(|| damaged("change to a file"))?;
                let file = self.file(id).map_err(|error| failed(self.folder.path(), &error))?;
                Change::apply_all(entry.payload, &file).map_err(|error| {
                    let cut = error.kind() == io::ErrorKind::UnexpectedEof;
                    if cut { damaged("change to a file") } else { failed(self.folder.path(), &error) }
                })?;
            }
        }
        self.next = entry.number + 1;
        Ok(())
    }

    fn forget(&mut self, id: &str) {
        self.files.remove(id);
        drop(fs::remove_file(self.folder.path().join(id)));
    }

    /// Hands over what the copy consists of.
    pub(super) fn take(mut self) -> Result<Taken> {
        let mut files = Vec::new();
        for (path, id) in std::mem::take(&mut self.names) {
            let file = self.file(&id).map_err(|error| failed(self.folder.path(), &error))?;
            files.push((path, id, file));
        }
        let orphans: Vec<String> =
            self.files.keys().filter(|id| !files.iter().any(|(_, listed, _)| listed == *id)).cloned().collect();
        for id in &orphans {
            self.forget(id);
        }
        Ok(Taken { folder: self.folder, files, orphans })
    }
}

/// Makes an empty file.
pub(super) fn create(folder: &Path, id: &str) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(folder.join(id))
}

//! A disk whose files lie in the log: what is written goes to the copy at once, and is durable when the server has
//! acknowledged it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    files::{CHANGE_HEAD, Change, Folder, LIST, Taken, create, subject},
    link::Link,
    log::{Log, Write},
};
use crate::disk::{Disk, DiskFile, RealDisk};

/// The disk of the node that leads.
#[derive(Debug)]
pub(super) struct LogDisk(Arc<Files>);

#[derive(Debug)]
struct Files {
    folder: Folder,
    log: Arc<Log>,
    link: Arc<Link>,
    /// Path and file.
    names: Mutex<BTreeMap<String, Arc<File>>>,
    /// Whether the list in the log is another one.
    changed: AtomicBool,
    /// Files that are on no list any more, and can be freed when the log says so too.
    gone: Mutex<Vec<String>>,
    /// Files that this node has made, and what tells them from those of others.
    made: AtomicU64,
    epoch: u64,
}

/// One file, whatever its path.
#[derive(Debug)]
struct File {
    id: String,
    copy: Arc<fs::File>,
    /// Changes that are not yet on their way, as messages.
    pending: Mutex<Vec<Vec<u8>>>,
}

#[derive(Debug)]
struct Handle {
    file: Arc<File>,
    files: Arc<Files>,
}

impl LogDisk {
    /// Goes on from a copy. `epoch`: a number that no other leading node has or had.
    pub(super) fn new(link: &Arc<Link>, log: &Arc<Log>, taken: Taken, epoch: u64) -> Self {
        let files = taken.files.into_iter();
        let names = files.map(|(path, id, copy)| (path, Arc::new(File { id, copy, pending: Mutex::default() })));
        Self(Arc::new(Files {
            folder: taken.folder,
            log: Arc::clone(log),
            link: Arc::clone(link),
            names: Mutex::new(names.collect()),
            changed: AtomicBool::new(false),
            gone: Mutex::new(taken.orphans),
            made: AtomicU64::new(0),
            epoch,
        }))
    }
}

fn named(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Files {
    /// Sends the list of files when it is another one than that in the log, and waits for everything sent before.
    fn flush(&self) -> io::Result<()> {
        let freed = if self.changed.swap(false, Ordering::AcqRel) {
            let names = self.names.lock();
            let list: BTreeMap<&String, &String> = names.iter().map(|(path, file)| (path, &file.id)).collect();
            let payload = postcard::to_stdvec(&list).map_err(io::Error::other)?;
            self.log.send(Write { subject: LIST.to_owned(), replaces: true, payload: payload.into() })?;
            std::mem::take(&mut *self.gone.lock())
        } else {
            Vec::new()
        };
        self.log.barrier()?;
        if !freed.is_empty() {
            let link = Arc::clone(&self.link);
            self.link.spawn(async move {
                for id in freed {
                    // What stays is nobody's, and is freed by the next node that leads.
                    drop(link.purge(&subject(&id)).await);
                }
            });
        }
        Ok(())
    }

    fn touch(&self) {
        self.changed.store(true, Ordering::Release);
    }
}

impl Disk for LogDisk {
    fn open(&self, path: &Path, create_it: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut names = self.0.names.lock();
        let file = match names.get(&named(path)) {
            Some(file) => Arc::clone(file),
            None if create_it => {
                let id = format!("{}-{}", self.0.epoch, self.0.made.fetch_add(1, Ordering::Relaxed));
                let copy = Arc::new(create(self.0.folder.path(), &id)?);
                let file = Arc::new(File { id, copy, pending: Mutex::default() });
                names.insert(named(path), Arc::clone(&file));
                self.0.touch();
                file
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(Handle { file, files: Arc::clone(&self.0) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = self.0.names.lock();
        let inside = names.keys().map(Path::new).filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.0.names.lock();
        let file = names.remove(&named(from)).ok_or(io::ErrorKind::NotFound)?;
        if let Some(replaced) = names.insert(named(to), file) {
            self.0.gone.lock().push(replaced.id.clone());
        }
        self.0.touch();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let file = self.0.names.lock().remove(&named(path)).ok_or(io::ErrorKind::NotFound)?;
        drop(fs::remove_file(self.0.folder.path().join(&file.id)));
        self.0.gone.lock().push(file.id.clone());
        self.0.touch();
        Ok(())
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.0.flush()
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(self.0.folder.path())
    }

    fn lock(&self, _: &Path, _: &str) -> io::Result<Result<Box<dyn Send + Sync>, String>> {
        // Who may write is decided by the log.
        Ok(Ok(Box::new(())))
    }
}

impl Handle {
    /// Notes a change, in as many messages as it takes.
    fn note(&self, at: u64, bytes: &[u8], pending: &mut Vec<Vec<u8>>) {
        let most = self.files.log.payload_max;
        let mut done = 0;
        while done < bytes.len() {
            if pending.last().is_none_or(|message| message.len() + CHANGE_HEAD >= most) {
                pending.push(Vec::new());
            }
            let Some(message) = pending.last_mut() else { return };
            let count = (most - message.len() - CHANGE_HEAD).min(bytes.len() - done);
            Change::Write(at + done as u64, &bytes[done..done + count]).encode(message);
            done += count;
        }
    }

    /// Sends what is noted, in order.
    fn send(&self, pending: &mut Vec<Vec<u8>>) -> io::Result<()> {
        for message in pending.drain(..) {
            let write = Write { subject: subject(&self.file.id), replaces: false, payload: message.into() };
            self.files.log.send(write)?;
        }
        Ok(())
    }
}

impl DiskFile for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.copy.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut pending = self.file.pending.lock();
        self.file.copy.write_all_at(bytes, offset)?;
        self.note(offset, bytes, &mut pending);
        // Nobody may ask for it to be synced for a while: the end of this process shall not take it away.
        self.send(&mut pending)
    }

    fn append_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.copy.write_all_at(bytes, offset)?;
        self.note(offset, bytes, &mut self.file.pending.lock());
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.send(&mut self.file.pending.lock())?;
        self.files.flush()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.copy.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut pending = self.file.pending.lock();
        if len == self.file.copy.metadata()?.len() {
            return Ok(());
        }
        self.file.copy.set_len(len)?;
        let mut message = Vec::with_capacity(CHANGE_HEAD);
        Change::Length(len).encode(&mut message);
        pending.push(message);
        self.send(&mut pending)
    }
}

//! The only door to the disk. Tests put a disk in it that forgets, tears, flips and fills up.

use std::{
    collections::HashMap,
    fmt::Debug,
    fs, io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};

/// A place where files lie.
pub trait Disk: Send + Sync + Debug {
    /// Opens a file to read and write; makes it when `create`, else a missing file is `NotFound`.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>>;
    /// Returns the names of the files in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Renames a file over another.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and its parents.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes what was created, renamed and removed in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Returns the bytes that may still be written.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Locks a file against other processes; `Err(holder)` inside when another one holds it.
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Result<Box<dyn Send + Sync>, String>>;
}

/// An open file.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads at an offset; short only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes at an offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all bytes behind everything written so far: behind them the file ends or holds zeros. They will be synced
    /// soon and hardly be read, so a disk may spare its cache.
    fn append_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)
    }
    /// Makes the content durable.
    fn sync(&self) -> io::Result<()>;
    /// Returns the length.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros).
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Tells whether there are no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Reads a whole file.
pub(crate) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// The machine's disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
        Ok(Box::new(RealFile { file, path: path.to_owned(), around: Mutex::new(Around::Unopened) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Result<Box<dyn Send + Sync>, String>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                file.write_all_at(holder.as_bytes(), 0)?;
                Ok(Ok(Box::new(file)))
            }
            Err(fs::TryLockError::WouldBlock) => Ok(Err(fs::read_to_string(path)?)),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Unit of writes around the page cache: no less than the sector of any disk in use.
const BLOCK: usize = 4096;

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    path: PathBuf,
    around: Mutex<Around>,
}

/// The way to the disk around the page cache.
///
/// A journal is written once, synced at once and read back rarely. Through the page cache each byte is copied, and each
/// page found, locked, marked and unmarked, in the time in which the sync could already run; and pages used for the first
/// time have to be got from the system. What goes around it goes in whole blocks: the last one is filled up with zeros,
/// and written again with more in it by the next append.
#[derive(Debug)]
enum Around {
    Unopened,
    Open(Blocks),
    /// The file system knows no such way.
    Closed,
}

/// Whole blocks on their way to the disk.
#[derive(Debug)]
struct Blocks {
    file: fs::File,
    /// Holds the blocks of the last append from its first aligned byte on.
    buffer: Vec<u8>,
    /// Where the last append ended, when nothing else was written since.
    end: Option<u64>,
    /// The bytes of its last block, as far as written.
    last: Vec<u8>,
}

impl Blocks {
    fn open(path: &Path) -> io::Result<Self> {
        let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let file = fs::OpenOptions::new().read(true).write(true).custom_flags(direct).open(path)?;
        Ok(Self { file, buffer: Vec::new(), end: None, last: Vec::new() })
    }

    fn append(&mut self, cached: &fs::File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let head = usize::try_from(offset % BLOCK as u64).map_err(io::Error::other)?;
        let start = offset - head as u64;
        if self.end != Some(offset) {
            self.last.resize(head, 0);
            cached.read_exact_at(&mut self.last, start)?;
        }
        self.end = None;
        let filled = head + bytes.len();
        let len = filled.next_multiple_of(BLOCK);
        if self.buffer.len() < len + BLOCK {
            self.buffer = vec![0; (len + BLOCK).next_power_of_two()];
        }
        let skip = self.buffer.as_ptr().align_offset(BLOCK);
        let blocks = &mut self.buffer[skip..skip + len];
        blocks[..head].copy_from_slice(&self.last);
        blocks[head..filled].copy_from_slice(bytes);
        blocks[filled..].fill(0);
        self.file.write_all_at(blocks, start)?;
        self.last.clear();
        self.last.extend_from_slice(&blocks[filled - filled % BLOCK..filled]);
        self.end = Some(offset + bytes.len() as u64);
        Ok(())
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Around::Open(blocks) = &mut *self.around.lock() {
            blocks.end = None;
        }
        self.file.write_all_at(bytes, offset)
    }

    fn append_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut around = self.around.lock();
        if matches!(*around, Around::Unopened) {
            *around = Blocks::open(&self.path).map_or(Around::Closed, Around::Open);
        }
        if let Around::Open(blocks) = &mut *around {
            match blocks.append(&self.file, bytes, offset) {
                // The file system took the flag and does not take the writes.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => *around = Around::Closed,
                other => return other,
            }
        }
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // A file whose length is set is mostly one that is written to its end: it gives back the memory of its blocks.
        *self.around.lock() = Around::Unopened;
        self.file.set_len(len)
    }
}

/// A disk in memory that never fails: the `memory` engine, for tests.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<MemoryFiles>);

#[derive(Debug, Default)]
struct MemoryFiles {
    files: Mutex<HashMap<PathBuf, MemoryFile>>,
    locks: Arc<Mutex<HashMap<PathBuf, String>>>,
}

#[derive(Debug, Clone, Default)]
struct MemoryFile(Arc<RwLock<Vec<u8>>>);

/// Lets go of a lock in memory when it is dropped.
struct MemoryLock(PathBuf, Arc<Mutex<HashMap<PathBuf, String>>>);

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.1.lock().remove(&self.0);
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut files = self.0.files.lock();
        let file = match (files.get(path), create) {
            (Some(file), _) => file.clone(),
            (None, true) => files.entry(path.to_owned()).or_default().clone(),
            (None, false) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(file))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.0.files.lock();
        let names = files.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.files.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.files.lock().remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Result<Box<dyn Send + Sync>, String>> {
        let mut locks = self.0.locks.lock();
        if let Some(other) = locks.get(path) {
            return Ok(Err(other.clone()));
        }
        locks.insert(path.to_owned(), holder.to_owned());
        Ok(Ok(Box::new(MemoryLock(path.to_owned(), Arc::clone(&self.0.locks)))))
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.read();
        let start = usize::try_from(offset).map_err(io::Error::other)?.min(bytes.len());
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut file = self.0.write();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        if file.len() < start + bytes.len() {
            file.resize(start + bytes.len(), 0);
        }
        file[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.write().resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exercise(disk: &dyn Disk, dir: &Path) {
        disk.create_dir(dir).unwrap();
        let path = dir.join("a");
        assert_eq!(disk.open(&path, false).unwrap_err().kind(), io::ErrorKind::NotFound);
        let file = disk.open(&path, true).unwrap();
        file.write_at(b"world", 6).unwrap();
        file.write_at(b"hello ", 0).unwrap();
        file.sync().unwrap();
        assert_eq!(read_all(&*file).unwrap(), b"hello world");
        file.set_len(5).unwrap();
        let mut buffer = [0; 9];
        assert_eq!(file.read_at(&mut buffer, 3).unwrap(), 2);
        disk.rename(&path, &dir.join("b")).unwrap();
        assert_eq!(disk.list(dir).unwrap(), ["b"]);
        disk.remove(&dir.join("b")).unwrap();
        assert!(disk.list(dir).unwrap().is_empty());
        disk.sync_dir(dir).unwrap();
        assert!(disk.free_bytes(dir).unwrap() > 0);
        let lock = dir.join("lock");
        let held = disk.lock(&lock, "first").unwrap();
        assert!(held.is_ok());
        assert_eq!(disk.lock(&lock, "second").unwrap().err().as_deref(), Some("first"));
        drop(held);
        assert!(disk.lock(&lock, "third").unwrap().is_ok());
    }

    /// Appends of all sizes, with other writes between them, read back as if there were no blocks.
    fn append(disk: &dyn Disk, dir: &Path) {
        disk.create_dir(dir).unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        let mut file = disk.open(&dir.join("a"), true).unwrap();
        let mut wanted = Vec::new();
        for round in 0..400 {
            let mut bytes = vec![0; rng.choice([1, 17, 300, 4095, 4096, 4097, 20_000]).unwrap()];
            bytes.fill_with(|| rng.u8(1..));
            if rng.u8(..4) == 0 {
                file.write_at(&bytes, wanted.len() as u64).unwrap();
            } else {
                file.append_at(&bytes, wanted.len() as u64).unwrap();
            }
            wanted.extend_from_slice(&bytes);
            match rng.u8(..10) {
                0 => {
                    let at = rng.usize(..wanted.len());
                    wanted[at] = 0;
                    file.write_at(&[0], at as u64).unwrap();
                }
                1 => file = disk.open(&dir.join("a"), false).unwrap(),
                2 => file.set_len(wanted.len() as u64).unwrap(),
                3 => file.sync().unwrap(),
                _ => {}
            }
            let mut found = read_all(&*file).unwrap();
            assert!(found.iter().skip(wanted.len()).all(|byte| *byte == 0), "round {round}");
            found.truncate(wanted.len());
            assert!(found == wanted, "round {round}");
        }
    }

    #[test]
    fn appends_read_back() {
        append(&MemoryDisk::default(), Path::new("/m"));
        let dir = tempfile::tempdir().unwrap();
        append(&RealDisk, &dir.path().join("d"));
    }

    #[test]
    fn both_disks_do_the_same() {
        exercise(&MemoryDisk::default(), Path::new("/m"));
        let dir = tempfile::tempdir().unwrap();
        exercise(&RealDisk, &dir.path().join("d"));
    }
}

//! The log in files: lines of JSON in a bounded number of files of bounded size, the oldest given up first.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tidegate_control::log_files;
use tidegate_core::limits;
use tracing_subscriber::fmt::MakeWriter;

/// Files of the log. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct LogFiles(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    dir: PathBuf,
    number: u64,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

fn open(dir: &Path, number: u64) -> io::Result<(File, u64)> {
    let path = dir.join(format!("tidegate-{number:08}.jsonl"));
    let file = File::options().create(true).append(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

impl LogFiles {
    /// Goes on behind the newest line in a directory.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        Self::open_with(dir, limits::LOG_FILE_BYTES_MAX as u64)
    }

    fn open_with(dir: &Path, bytes_max: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let number = log_files(dir).last().map_or(1, |(number, _)| *number);
        let (file, bytes) = open(dir, number)?;
        Ok(Self(Arc::new(Mutex::new(Open { dir: dir.to_owned(), number, file, bytes, bytes_max }))))
    }
}

impl Open {
    fn roll(&mut self) -> io::Result<()> {
        let (file, bytes) = open(&self.dir, self.number + 1)?;
        (self.number, self.file, self.bytes) = (self.number + 1, file, bytes);
        let files = log_files(&self.dir);
        for (_, path) in files.iter().take(files.len().saturating_sub(limits::LOG_FILES_MAX)) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.roll()?;
        }
        self.bytes += line.len() as u64;
        self.file.write_all(line)
    }
}

/// Writes one line.
pub(super) struct LineWriter<'a>(MutexGuard<'a, Open>);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A full disk must not stop the node from speaking on standard error; the line is lost here.
        drop(self.0.put(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFiles {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let files = LogFiles::open_with(dir.path(), 100).unwrap();
        for number in 0..100 {
            writeln!(files.make_writer(), "{{\"line\":{number},\"more\":\"xxxxxxxxxxxxxxxxxxxx\"}}").unwrap();
        }
        let kept = log_files(dir.path());
        assert_eq!(kept.len(), limits::LOG_FILES_MAX);
        for (_, path) in &kept {
            assert!(fs::metadata(path).unwrap().len() <= 100);
        }
        let newest = fs::read_to_string(&kept.last().unwrap().1).unwrap();
        assert!(newest.contains("\"line\":99"), "{newest}");
        drop(files);
        let again = LogFiles::open_with(dir.path(), 1000).unwrap();
        writeln!(again.make_writer(), "{{}}").unwrap();
        assert_eq!(fs::read_to_string(&kept.last().unwrap().1).unwrap(), newest + "{}\n", "it goes on in the newest");
    }
}

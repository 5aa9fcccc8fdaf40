//! Sink `file`: events as lines of JSON at the end of a file, synced before they are settled, rotated by size.
//!
//! **Invariant:** a batch is written whole or taken back: what is half written is cut off before the next write.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    cloudevents,
    config::{self, Spot},
    delivery::{Delivery, Outcome},
    fault::{Failure, Fault, FaultClass, Origin, Result},
    guard::Guard,
    handler::{Handler, Probe, Sink},
    names::TargetName,
    service::Context,
};
use tokio::sync::Mutex;

use crate::registry::{ModuleKind, ModuleSpec, SinkParts, SinkSettings};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "file",
    kind: ModuleKind::Sink,
    summary: "writes events as lines of JSON into a file",
    schema: || schemars::schema_for!(FileSinkConfig),
};

/// Events that are written, and synced, together.
const BATCH: usize = 256;
/// Most files that are kept beside the newest.
const KEEP_MAX: u32 = 1_000;
/// Bytes at the end of a file in which the last end of a line is looked for.
const TORN_BYTES: u64 = 2 * 1024 * 1024;

/// Writes each event as a line in the JSON format of CloudEvents. After a crash between the write and the settlement a
/// line may be there twice, with the same `source` and `id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSinkConfig {
    /// Path of the file; relative to the directory in which the node is started. Its directory must be there.
    pub path: PathBuf,
    /// When events count as written.
    #[serde(default)]
    pub sync: FileSync,
    /// When the file is renamed and a new one begun; without, never.
    #[serde(default)]
    pub rotate: Option<Rotate>,
    /// Target whose guard stands before the file; without, there is none.
    #[serde(default)]
    pub target: Option<TargetName>,
}

/// When events count as written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileSync {
    /// After a sync to disk: what is settled is in the file, whatever happens to the machine.
    #[default]
    Always,
    /// After handing them to the operating system: what is settled may be missing after a power loss.
    Os,
}

/// When the file is renamed and a new one begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Before it would be larger than this.
    pub size: config::Bytes,
    /// How many files are kept beside the newest: `PATH.1` is the youngest of them. The oldest is removed.
    #[serde(default = "keep")]
    pub keep: u32,
}

fn keep() -> u32 {
    5
}

impl SinkSettings for FileSinkConfig {
    fn target(&self) -> Option<&TargetName> {
        self.target.as_ref()
    }

    fn owns(&self) -> Option<(&'static str, String)> {
        Some(("path", self.path.display().to_string()))
    }

    fn check(&self, here: &Spot<'_>) {
        here.at("path").require(self.path.file_name().is_some(), || "must name a file".to_owned());
        if let Some(rotate) = &self.rotate {
            let here = here.at("rotate");
            here.at("size").require(rotate.size.get() > 0, || "must be more than zero".to_owned());
            here.at("keep").require((1..=KEEP_MAX).contains(&rotate.keep), || format!("must be 1 to {KEEP_MAX}"));
        }
    }

    fn open(&self, parts: SinkParts) -> Result<Option<Arc<dyn Sink>>> {
        let file = Arc::new(Mutex::new(Out { config: self.clone(), open: None }));
        Ok(Some(Arc::new(FileSink { path: self.path.clone(), file, guard: parts.guard })))
    }
}

/// Writes events into a file.
#[derive(Debug)]
struct FileSink {
    path: PathBuf,
    file: Arc<Mutex<Out>>,
    guard: Option<Arc<Guard>>,
}

#[derive(Debug)]
struct Out {
    config: FileSinkConfig,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
    size: u64,
}

#[async_trait]
impl Handler for FileSink {
    async fn handle(&self, _: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        let is_retry = batch.iter().any(|delivery| delivery.attempt > 1);
        let written = match &self.guard {
            Some(guard) => guard.call(is_retry, self.write(batch)).await,
            None => self.write(batch).await,
        };
        let outcome = written.map_or_else(Outcome::Failed, |()| Outcome::DONE);
        vec![outcome; batch.len()]
    }

    fn batch_max(&self) -> usize {
        BATCH
    }

    fn guard(&self) -> Option<Arc<Guard>> {
        self.guard.clone()
    }

    fn in_process(&self) -> bool {
        // It writes bytes and can break on none.
        false
    }
}

#[async_trait]
impl Probe for FileSink {
    async fn probe(&self, _: &Context) -> Result<()> {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let fault = |what: String| Fault::unavailable(Origin::Tidegate, what);
        if !directory.is_dir() {
            return Err(fault(format!("{} is no directory", directory.display())));
        }
        match std::fs::metadata(&self.path) {
            Ok(found) if !found.is_file() => Err(fault(format!("{} is no ordinary file", self.path.display()))),
            Ok(_) => match OpenOptions::new().append(true).open(&self.path) {
                Ok(_) => Ok(()),
                Err(error) => Err(fault(format!("write {}: {error}", self.path.display()))),
            },
            Err(_) => Ok(()),
        }
    }
}

impl FileSink {
    async fn write(&self, batch: &[Delivery]) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for delivery in batch {
            cloudevents::write_json(&delivery.event, &mut lines);
            lines.push(b'\n');
        }
        // The lock goes with the work: an attempt that is called off does not let the next one in between.
        let mut file = self.file.clone().lock_owned().await;
        let written = tokio::task::spawn_blocking(move || file.write(&lines)).await;
        let failed =
            |what: String| Failure::new(FaultClass::DependencyDown, format!("write {}: {what}", self.path.display()));
        written.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
    }
}

impl Out {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut open = self.ready(lines.len() as u64)?;
        let before = open.size;
        let sync = self.config.sync == FileSync::Always;
        let written = open.file.write_all(lines).and_then(|()| if sync { open.file.sync_data() } else { Ok(()) });
        match written {
            Ok(()) => {
                open.size = before + lines.len() as u64;
                self.open = Some(open);
                Ok(())
            }
            Err(error) => {
                // What is half there is cut off; where that fails too, the next opening does it.
                drop(open.file.set_len(before));
                Err(error)
            }
        }
    }

    /// Returns the file, with room for so many bytes.
    fn ready(&mut self, more: u64) -> io::Result<Open> {
        let path = self.config.path.clone();
        let is_there = |open: &Open| std::fs::metadata(&path).is_ok_and(|found| found.ino() == open.inode);
        // Somebody else may have rotated it.
        let open = match self.open.take().filter(is_there) {
            Some(open) => open,
            None => begin(&path)?,
        };
        match &self.config.rotate {
            Some(rotate) if open.size > 0 && open.size + more > rotate.size.get() => {
                open.file.sync_data()?;
                shift(&path, rotate.keep)?;
                begin(&path)
            }
            Some(_) | None => Ok(open),
        }
    }
}

/// Opens the file at its end, and makes its last line whole.
fn begin(path: &Path) -> io::Result<Open> {
    let is_new = !path.exists();
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("is no ordinary file"));
    }
    if is_new {
        sync_directory(path)?;
    }
    let size = mend(&mut file, found.len())?;
    Ok(Open { inode: found.ino(), size, file })
}

/// Cuts off the beginning of a line that a crash left at the end; a line that only lacks its end is given one.
fn mend(file: &mut File, size: u64) -> io::Result<u64> {
    let from = size.saturating_sub(TORN_BYTES);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let torn = tail.get(whole..).unwrap_or_default();
    if torn.is_empty() {
        return Ok(size);
    }
    if serde_json::from_slice::<serde::de::IgnoredAny>(torn).is_ok() || (whole == 0 && from > 0) {
        file.write_all(b"\n")?;
        return Ok(size + 1);
    }
    let keep = from + whole as u64;
    file.set_len(keep)?;
    Ok(keep)
}

/// Renames the files, each to the next number; the oldest is removed.
fn shift(path: &Path, keep: u32) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..keep).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    std::fs::rename(path, numbered(1))?;
    sync_directory(path)
}

/// Syncs the names in a file's directory.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(directory: &Path, rotate: Option<Rotate>) -> Out {
        let path = directory.join("out.jsonl");
        Out { config: FileSinkConfig { path, sync: FileSync::Always, rotate, target: None }, open: None }
    }

    #[test]
    fn files_are_rotated_before_they_are_too_large() {
        let directory = tempfile::tempdir().unwrap();
        let mut out = out(directory.path(), Some(Rotate { size: config::Bytes::new(10), keep: 2 }));
        for line in ["1234\n", "5678\n", "abcd\n", "a line that is longer than a file\n", "z\n"] {
            out.write(line.as_bytes()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
        assert_eq!(read("out.jsonl"), "z\n");
        assert_eq!(read("out.jsonl.1"), "a line that is longer than a file\n");
        assert_eq!(read("out.jsonl.2"), "abcd\n");
        assert!(!directory.path().join("out.jsonl.3").exists());
    }

    #[test]
    fn a_torn_line_is_cut_off_and_a_whole_one_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.jsonl");
        for (before, after) in
            [("{}\n{\"a\":", "{}\n2\n"), ("{}\n{}", "{}\n{}\n2\n"), ("{", "2\n"), ("", "2\n"), ("{}\n", "{}\n2\n")]
        {
            std::fs::write(&path, before).unwrap();
            out(directory.path(), None).write(b"2\n").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after, "{before:?}");
        }
    }

    #[test]
    fn a_file_that_somebody_else_renamed_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut out = out(directory.path(), None);
        out.write(b"1\n").unwrap();
        std::fs::rename(&out.config.path, directory.path().join("aside")).unwrap();
        out.write(b"2\n").unwrap();
        assert_eq!(std::fs::read_to_string(&out.config.path).unwrap(), "2\n");
        std::fs::remove_file(&out.config.path).unwrap();
        std::fs::create_dir(&out.config.path).unwrap();
        assert!(out.write(b"3\n").is_err(), "a directory is no file");
    }
}

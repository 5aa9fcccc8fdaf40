//! Source `file`: lines of a file as events, from where it stopped, over rotation and truncation.
//!
//! **Invariant:** the position is kept after the events before it are durable. What comes again after a crash has the
//! same id, made of the file and the place of the line, unless the line is an event with an id of its own.

mod tail;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_core::{
    config::{self, Spot, Time},
    fault::{Fault, Origin, Result},
    handler::Probe,
    names::StreamName,
    service::Context,
    source::{Feed, Source},
};

use self::tail::{Kept, Look, Tail};
use super::lines::{self, Batch, LineDefaults, LineFormat, LineRules};
use crate::registry::{ModuleKind, ModuleSpec, OpenSource, SourceParts, SourceSettings};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "file",
    kind: ModuleKind::Source,
    summary: "brings the lines of a file, and follows it over rotation",
    schema: || schemars::schema_for!(FileConfig),
};

/// Key under which the position is kept.
const POSITION: &str = "position";
/// Shortest time between two looks at a file.
const POLL_MIN: Time = Time::from_millis(10);
/// Longest time between two looks at a file.
const POLL_MAX: Time = Time::from_secs(3600);

/// Brings each line of a file as an event, from where it stopped. A file that is renamed away is read to its end before
/// the new one; one that was cut is read from its start. Both are told in the log. A file that came and went between two
/// looks was never seen: rotate no more often than `poll`. A line that is no event is counted,
/// told with its place, and left out or kept in the stream of `rejects`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Path of the file; relative to the directory in which the node is started. It may be missing for now.
    pub path: PathBuf,
    /// Stream into which events go.
    pub to: StreamName,
    /// What a line holds.
    #[serde(default)]
    pub format: LineFormat,
    /// Attributes given to events of plain lines. Their ids are made of the file and the place of the line.
    #[serde(default)]
    pub defaults: LineDefaults,
    /// Whether it waits at the end of the file for more. Without, the source ends there, and a last line needs no end.
    #[serde(default = "follow")]
    pub follow: bool,
    /// Time between two looks for more.
    #[serde(default = "poll")]
    pub poll: Time,
    /// Longest line; a longer one is rejected.
    #[serde(default = "lines::line_max")]
    pub line_max: config::Bytes,
    /// Stream that keeps the lines that are no events, each with its place and the reason; without, they are left out.
    #[serde(default)]
    pub rejects: Option<StreamName>,
}

fn follow() -> bool {
    true
}

fn poll() -> Time {
    Time::from_millis(500)
}

impl SourceSettings for FileConfig {
    fn to(&self) -> &StreamName {
        &self.to
    }

    fn more_streams(&self) -> Vec<(&'static str, &StreamName)> {
        self.rejects.iter().map(|stream| ("rejects", stream)).collect()
    }

    fn check(&self, here: &Spot<'_>) {
        here.at("path").require(!self.path.as_os_str().is_empty(), || "must not be empty".to_owned());
        here.at("poll")
            .require((POLL_MIN..=POLL_MAX).contains(&self.poll), || format!("must be {POLL_MIN} to {POLL_MAX}"));
        lines::check_line_max(self.line_max, &here.at("line_max"));
        self.defaults.check(&here.at("defaults"));
    }

    fn open(&self, parts: SourceParts) -> Result<OpenSource> {
        Ok(OpenSource::Runs(Arc::new(FileSource::new(self.clone(), &parts))))
    }
}

/// A file that is read.
#[derive(Debug)]
pub(super) struct FileSource {
    config: FileConfig,
    rules: LineRules,
    shown: Mutex<Shown>,
}

/// Where it stands.
#[derive(Debug, Default)]
struct Shown {
    state: &'static str,
    offset: u64,
    line: u64,
    size: u64,
}

#[async_trait]
impl Probe for FileSource {
    async fn probe(&self, _: &Context) -> Result<()> {
        let path = &self.config.path;
        let fault = |what: String| Fault::unavailable(Origin::Tidegate, what);
        match tokio::fs::File::open(path).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let directory = tail::directory(path);
                match tokio::fs::metadata(directory).await {
                    Ok(found) if found.is_dir() => Ok(()),
                    Ok(_) | Err(_) => Err(fault(format!("{} is no directory", directory.display()))),
                }
            }
            Err(error) => Err(fault(format!("cannot read {}: {error}", path.display()))),
        }
    }
}

#[async_trait]
impl Source for FileSource {
    async fn run(&self, feed: &Feed) -> Result<()> {
        let mut kept: Option<Kept> = feed.recall(POSITION).await?;
        loop {
            let Some(tail) = self.find(feed, &mut kept).await? else { return Ok(()) };
            if !self.read(feed, tail, &mut kept).await? {
                return Ok(());
            }
        }
    }

    fn details(&self) -> Value {
        let shown = self.shown.lock();
        json!({
            "file": self.config.path,
            "state": shown.state,
            "offset": shown.offset,
            "line": shown.line,
            "size": shown.size,
        })
    }
}

impl FileSource {
    pub(super) fn new(config: FileConfig, parts: &SourceParts) -> Self {
        let name = parts.name.as_str();
        let rejects = config.rejects.as_ref();
        let clock = parts.clock.clone();
        let rules = LineRules::new(name, &config.to, config.format, &config.defaults, rejects, clock);
        Self { config, rules, shown: Mutex::new(Shown { state: "not started", ..Shown::default() }) }
    }

    fn line_max(&self) -> usize {
        usize::try_from(self.config.line_max.get()).unwrap_or(usize::MAX)
    }

    /// Finds the file that is to be read next and where; waits for it. None when the source is told to stop.
    async fn find(&self, feed: &Feed, kept: &mut Option<Kept>) -> Result<Option<Tail>> {
        let mut is_told = false;
        loop {
            if let Some(before) = kept.as_ref().filter(|kept| !kept.is_done)
                && let Some(tail) = Tail::resume(&self.config.path, before, self.line_max()).await?
            {
                return Ok(Some(tail));
            }
            if let Some(fresh) = Tail::start(&self.config.path, kept.as_ref(), self.line_max()).await? {
                if let Some(before) = kept.as_ref().filter(|kept| !kept.is_done) {
                    let (path, offset) = (self.config.path.display(), before.offset);
                    feed.report(format!("{path} is another file than before, or was cut, and that one was read up to byte {offset}: reading from its start"));
                }
                // Kept before the first line is brought: the ids of its lines hold the number of the file.
                feed.keep(POSITION, &fresh.kept).await?;
                *kept = Some(fresh.kept.clone());
                return Ok(Some(fresh));
            }
            if !is_told {
                is_told = true;
                feed.report(format!("{} is not there: waiting for it", self.config.path.display()));
            }
            self.shown.lock().state = "waiting for the file";
            if !feed.sleep(self.config.poll.get()).await {
                return Ok(None);
            }
        }
    }

    /// Reads a file until another stands in its place; false when the source is told to stop or has ended.
    async fn read(&self, feed: &Feed, mut tail: Tail, kept: &mut Option<Kept>) -> Result<bool> {
        let mut batch = Batch::default();
        let mut is_last_look = false;
        loop {
            let has_more = tail.read().await?;
            while let Some(line) = tail.lines.next_line() {
                batch.add(line);
                if batch.is_full() && !self.bring(feed, &mut tail, kept, &mut batch).await? {
                    return Ok(false);
                }
            }
            if has_more {
                is_last_look = false;
                continue;
            }
            if !self.bring(feed, &mut tail, kept, &mut batch).await? {
                return Ok(false);
            }
            let look = if self.config.follow { tail.look(&self.config.path).await? } else { Look::Replaced };
            match look {
                Look::Same => {
                    self.show(&tail, "at the end");
                    if !feed.sleep(self.config.poll.get()).await {
                        return Ok(false);
                    }
                }
                Look::Cut => return Ok(true),
                // Somebody may have written between the last read and the rename: one more look before it is left.
                Look::Replaced if !is_last_look => is_last_look = true,
                Look::Replaced => {
                    batch.lines.extend(tail.lines.rest());
                    if !self.bring(feed, &mut tail, kept, &mut batch).await? {
                        return Ok(false);
                    }
                    if !self.config.follow {
                        self.show(&tail, "ended");
                        return Ok(false);
                    }
                    tail.kept.is_done = true;
                    feed.keep(POSITION, &tail.kept).await?;
                    feed.report(format!("{} was replaced and is read to its end", self.config.path.display()));
                    *kept = Some(tail.kept);
                    return Ok(true);
                }
            }
        }
    }

    /// Brings the lines of a batch and keeps the position behind them; false when the source is told to stop before.
    async fn bring(&self, feed: &Feed, tail: &mut Tail, kept: &mut Option<Kept>, batch: &mut Batch) -> Result<bool> {
        let Some(last) = batch.lines.last() else { return Ok(true) };
        let (offset, line) = (last.end, last.number);
        if tail.kept.first.is_empty() {
            tail.kept.first = tail.first_line(self.line_max()).await?;
        }
        batch.lines.retain(|line| !line.is_blank());
        let file = self.config.path.display().to_string();
        if !self.rules.bring(feed, &file, &tail.kept.mark(), &batch.lines).await? {
            return Ok(false);
        }
        (tail.kept.offset, tail.kept.line) = (offset, line);
        feed.keep(POSITION, &tail.kept).await?;
        *kept = Some(tail.kept.clone());
        batch.clear();
        self.show(tail, "reading");
        Ok(true)
    }

    fn show(&self, tail: &Tail, state: &'static str) {
        let size = tail.size.max(tail.kept.offset);
        *self.shown.lock() = Shown { state, offset: tail.kept.offset, line: tail.kept.line, size };
    }
}

#[cfg(test)]
mod tests;

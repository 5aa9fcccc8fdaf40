//! Source `stdin`: lines of standard input as events.
//!
//! A pipe cannot be read twice. What was read from it and is not durable yet is lost with the process; when the source
//! is paused, it is kept, and the writer is held back. A file on standard input is read like a `file`, from where it
//! stopped.

use std::{io::Read as _, os::fd::AsFd as _, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_core::{
    cloudevents,
    config::{self, Spot, Time},
    fault::{Fault, Origin, Result},
    handler::Probe,
    names::StreamName,
    service::Context,
    source::{Feed, Source},
};
use tokio::sync::mpsc;

use super::{
    file::{FileConfig, FileSource},
    lines::{self, Batch, LineDefaults, LineFormat, LineRules, Splitter},
};
use crate::registry::{ModuleKind, ModuleSpec, OpenSource, SourceParts, SourceSettings};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "stdin",
    kind: ModuleKind::Source,
    summary: "brings the lines of standard input",
    schema: || schemars::schema_for!(StdinConfig),
};

/// Bytes that are read at a time.
const PIECE: usize = 64 * 1024;
/// Pieces that may wait; then the writer is held back.
const PIECES: usize = 4;
/// How standard input is called in places.
const NAME: &str = "stdin";

/// Brings each line of standard input as an event. At the end of the input the source has ended and the node goes on.
/// Lines of a pipe get fresh ids: what was read and is not durable is lost when the process dies. A file on standard
/// input is read from where it stopped, as the source `file` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdinConfig {
    /// Stream into which events go.
    pub to: StreamName,
    /// What a line holds.
    #[serde(default)]
    pub format: LineFormat,
    /// Attributes given to events of plain lines.
    #[serde(default)]
    pub defaults: LineDefaults,
    /// Longest line; a longer one is rejected.
    #[serde(default = "lines::line_max")]
    pub line_max: config::Bytes,
    /// Stream that keeps the lines that are no events, each with its place and the reason; without, they are left out.
    #[serde(default)]
    pub rejects: Option<StreamName>,
}

impl SourceSettings for StdinConfig {
    fn to(&self) -> &StreamName {
        &self.to
    }

    fn more_streams(&self) -> Vec<(&'static str, &StreamName)> {
        self.rejects.iter().map(|stream| ("rejects", stream)).collect()
    }

    fn check(&self, here: &Spot<'_>) {
        lines::check_line_max(self.line_max, &here.at("line_max"));
        self.defaults.check(&here.at("defaults"));
    }

    fn open(&self, parts: SourceParts) -> Result<OpenSource> {
        let found = own_input()?.metadata().map_err(unreadable)?;
        if found.is_file() {
            return Ok(OpenSource::Runs(Arc::new(FileSource::new(self.as_file(), &parts))));
        }
        let (name, rejects) = (parts.name.as_str(), self.rejects.as_ref());
        let clock = parts.clock.clone();
        let mark = cloudevents::fresh_id(clock.now()).to_string();
        let rules = LineRules::new(name, &self.to, self.format, &self.defaults, rejects, clock);
        let line_max = usize::try_from(self.line_max.get()).unwrap_or(usize::MAX);
        let state =
            State { pieces: None, lines: Splitter::new(0, 0, line_max), batch: Batch::default(), has_ended: false };
        Ok(OpenSource::Runs(Arc::new(StdinSource {
            rules,
            mark,
            state: tokio::sync::Mutex::new(state),
            shown: Mutex::default(),
        })))
    }
}

impl StdinConfig {
    /// Returns the same settings for a file that stands on standard input.
    fn as_file(&self) -> FileConfig {
        FileConfig {
            path: "/dev/stdin".into(),
            to: self.to.clone(),
            format: self.format,
            defaults: self.defaults.clone(),
            follow: false,
            poll: Time::from_secs(1),
            line_max: self.line_max,
            rejects: self.rejects.clone(),
        }
    }
}

fn unreadable(error: std::io::Error) -> Fault {
    Fault::unavailable(Origin::Tidegate, format!("standard input cannot be read: {error}")).because(error)
}

fn own_input() -> Result<std::fs::File> {
    std::io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from).map_err(unreadable)
}

/// Reads in a thread of its own, which may wait for ever without holding anything back but itself.
fn read_beside(mut input: std::fs::File) -> Result<Pieces> {
    let (send, receive) = mpsc::channel(PIECES);
    let read = move || {
        loop {
            let mut piece = vec![0; PIECE];
            let read = match input.read(&mut piece) {
                Ok(0) => return,
                Ok(length) => {
                    piece.truncate(length);
                    Ok(Bytes::from(piece))
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_error = read.is_err();
            if send.blocking_send(read).is_err() || is_error {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("stdin".to_owned()).spawn(read);
    thread
        .map_err(|error| Fault::unavailable(Origin::Tidegate, format!("start a thread for standard input: {error}")))?;
    Ok(receive)
}

/// Standard input that is read.
#[derive(Debug)]
struct StdinSource {
    rules: LineRules,
    /// Names this input in the ids of its lines: nobody can tell a pipe from another.
    mark: String,
    /// Outlives a pause: what was read is not read again.
    state: tokio::sync::Mutex<State>,
    shown: Mutex<Shown>,
}

#[derive(Debug)]
struct State {
    /// None until the source runs for the first time.
    pieces: Option<Pieces>,
    lines: Splitter,
    batch: Batch,
    has_ended: bool,
}

#[derive(Debug, Default)]
struct Shown {
    line: u64,
    bytes: u64,
    has_ended: bool,
}

/// Longest time that a batch waits for more while pieces come.
const GATHER: Duration = Duration::from_millis(5);

#[async_trait]
impl Probe for StdinSource {
    async fn probe(&self, _: &Context) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Source for StdinSource {
    async fn run(&self, feed: &Feed) -> Result<()> {
        let mut state = self.state.lock().await;
        let mut pieces = match state.pieces.take() {
            Some(pieces) => pieces,
            None => read_beside(own_input()?)?,
        };
        let ended = self.read(feed, &mut state, &mut pieces).await;
        state.pieces = Some(pieces);
        ended
    }

    fn details(&self) -> Value {
        let shown = self.shown.lock();
        json!({ "line": shown.line, "bytes": shown.bytes, "state": if shown.has_ended { "ended" } else { "reading" } })
    }
}

/// What is read beside the source.
type Pieces = mpsc::Receiver<std::io::Result<Bytes>>;

impl StdinSource {
    async fn read(&self, feed: &Feed, state: &mut State, pieces: &mut Pieces) -> Result<()> {
        loop {
            // What a stop left comes first.
            if !self.bring(feed, state).await? {
                return Ok(());
            }
            if state.has_ended {
                self.shown.lock().has_ended = true;
                return Ok(());
            }
            let piece = tokio::select! {
                biased;
                () = feed.stop.draining() => return Ok(()),
                piece = pieces.recv() => piece,
            };
            Self::take(state, piece)?;
            while !state.batch.is_full() && !state.has_ended {
                let more = tokio::select! {
                    biased;
                    more = pieces.recv() => more,
                    () = feed.clock.sleep(GATHER) => break,
                };
                Self::take(state, more)?;
            }
        }
    }

    fn take(state: &mut State, piece: Option<std::io::Result<Bytes>>) -> Result<()> {
        match piece {
            Some(Ok(piece)) => {
                state.lines.push(&piece);
                while let Some(line) = state.lines.next_line() {
                    state.batch.add(line);
                }
            }
            None => {
                state.has_ended = true;
                state.batch.lines.extend(state.lines.rest());
            }
            Some(Err(error)) => {
                let note = format!("read standard input: {error}");
                return Err(Fault::unavailable(Origin::Tidegate, note).because(error));
            }
        }
        Ok(())
    }

    async fn bring(&self, feed: &Feed, state: &mut State) -> Result<bool> {
        let Some(last) = state.batch.lines.last() else { return Ok(true) };
        let (line, bytes) = (last.number, last.end);
        state.batch.lines.retain(|line| !line.is_blank());
        for part in state.batch.lines.chunks(lines::BATCH_LINES) {
            if !self.rules.bring(feed, NAME, &self.mark, part).await? {
                return Ok(false);
            }
        }
        state.batch.clear();
        let mut shown = self.shown.lock();
        (shown.line, shown.bytes) = (line, bytes);
        Ok(true)
    }
}

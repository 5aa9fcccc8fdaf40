//! A node: the real binary in a process of its own, with its files in a scratch directory.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tidegate_core::clock::Clock;

use crate::{http, process::Owned};

/// Longest wait for a node to be ready, or for a group to catch up without any progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// A place for nodes; outlives them.
pub(crate) struct Berth {
    dir: TempDir,
    threads: usize,
    listeners: usize,
}

/// A node that runs.
pub(crate) struct Node {
    pub(crate) process: Owned,
    pub(crate) address: SocketAddr,
    /// Of all its listeners.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// Returns the binary: `tidegate` beside this program.
pub(crate) fn program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("find this program")?.with_file_name("tidegate");
    ensure!(path.exists(), "{} is not there: cargo build --release -p tidegate -p tidegate-bench", path.display());
    Ok(path)
}

/// Returns the configuration of a node with one stream, one way in, and a group with the given sink.
pub(crate) fn configuration(group: &str, more: &str) -> String {
    with_stream("max_backlog: off", group, more)
}

/// The same, with settings of the stream.
pub(crate) fn with_stream(stream: &str, group: &str, more: &str) -> String {
    format!(
        "version: 1\nnode: {{ name: bench, data: ./data, environment: development }}\nengine: embedded\n\
         streams:\n  events: {{ {stream} }}\ngroups:\n  work: {{ from: events, {group} }}\n{more}"
    )
}

/// The group of pull workers.
pub(crate) const PULL: &str = "lease: 60s, sink: { type: pull }";

impl Berth {
    pub(crate) fn new(parent: &Path, threads: usize, configuration: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tidegate-bench-node-").tempdir_in(parent)?;
        fs::write(dir.path().join("tidegate.yaml"), configuration)?;
        Ok(Self { dir, threads, listeners: 1 })
    }

    /// Gives nodes so many listeners, those that are configured.
    pub(crate) fn listening(self, listeners: usize) -> Self {
        Self { listeners, ..self }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts a node and waits until it is ready.
    pub(crate) fn start(&self) -> Result<Node> {
        let log = self.dir.path().join("log");
        let mut command = Command::new(program()?);
        command.current_dir(self.dir.path()).args(["run", "tidegate.yaml", "--data", "data"]);
        command.args(["--listen", "127.0.0.1:0"].repeat(self.listeners));
        command.args(["--log-level", "warn", "--threads", &self.threads.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let mut process = Owned::spawn(&mut command)?;
        let listeners = self.data().join("run/listeners.json");
        let watch = Clock::real().stopwatch();
        loop {
            if let Some(status) = process.0.try_wait()? {
                bail!("the node ended with {status}: {}", fs::read_to_string(&log)?);
            }
            let addresses = addresses(&listeners, process.pid()).unwrap_or_default();
            if let Some(&address) = addresses.first() {
                return Ok(Node { process, address, addresses });
            }
            ensure!(watch.elapsed() < PATIENCE, "the node is not ready: {}", fs::read_to_string(&log)?);
            pause(Duration::from_millis(2));
        }
    }
}

/// Waits, in a thread of our own.
pub(crate) fn pause(time: Duration) {
    let watch = Clock::real().stopwatch();
    while let Some(left) = time.checked_sub(watch.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

fn addresses(listeners: &Path, pid: u32) -> Option<Vec<SocketAddr>> {
    let document: Value = serde_json::from_slice(&fs::read(listeners).ok()?).ok()?;
    // A file that a killed node left behind names another process.
    let listed = document["listeners"].as_array().filter(|_| document["pid"] == pid)?;
    listed.iter().map(|listener| listener["address"].as_str()?.parse().ok()).collect()
}

impl Node {
    /// Returns a number of the group, such as `done`.
    pub(crate) fn count(&self, member: &str) -> Result<u64> {
        let view = http::get(self.address, "/v1/groups/work")?;
        view[member].as_u64().with_context(|| format!("the group has no {member}: {view}"))
    }

    /// Waits until so many are done; fails when the group stands still.
    pub(crate) fn wait_for_done(&self, wanted: u64) -> Result<()> {
        let clock = Clock::real();
        let (mut watch, mut last) = (clock.stopwatch(), 0);
        loop {
            let done = self.count("done")?;
            if done >= wanted {
                return Ok(());
            }
            if done > last {
                (watch, last) = (clock.stopwatch(), done);
            }
            ensure!(watch.elapsed() < PATIENCE, "the group stands still at {done} of {wanted}");
            pause(Duration::from_millis(10));
        }
    }
}

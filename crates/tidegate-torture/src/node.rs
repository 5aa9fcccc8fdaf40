//! The processes of a run: the node and its workers, each killed by its own id and never outliving the run.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::clock;

/// Longest wait for a node to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Configuration of a node with workers, for the engine that is named in it.
pub(crate) const CONFIGURATION: &str = "\
version: 1
node: { name: torture, data: ./data, environment: development }
engine: ENGINE
listeners: [ { bind: \"127.0.0.1:0\" } ]
streams:
  work: { durability: sync, dedupe: { window: 10m, entries: 5000000 }, max_backlog: 10000000 }
groups:
  workers:
    from: work
    order_by: partitionkey
    on_failure: block
    lease: 5s
    retry: { attempts: 50, first: 100ms }
    ledger: { keep: 1d }
    sink: { type: pull }
";

/// A process of ours: it is killed, by its id, when this is dropped.
#[derive(Debug)]
pub(crate) struct Owned(Child);

impl Owned {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self(child))
    }

    /// Kills it with SIGKILL and waits until it is gone; fails when it was gone before.
    pub(crate) fn kill(&mut self, name: &str) -> Result<()> {
        if let Some(status) = self.0.try_wait()? {
            bail!("{name} ended by itself with {status}");
        }
        self.0.kill().with_context(|| format!("kill {name}"))?;
        self.0.wait().with_context(|| format!("wait for {name}"))?;
        Ok(())
    }

    /// Returns how it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.0.try_wait()?)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A place for nodes, one after the other.
#[derive(Debug)]
pub(crate) struct Berth {
    dir: PathBuf,
    binary: PathBuf,
    starts: usize,
}

impl Berth {
    pub(crate) fn new(dir: &Path, binary: &Path, configuration: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("tidegate.yaml"), configuration)?;
        let binary = fs::canonicalize(binary).with_context(|| format!("find {}", binary.display()))?;
        Ok(Self { dir: dir.to_owned(), binary, starts: 0 })
    }

    /// Starts a process of the node; it need not be ready.
    pub(crate) fn spawn(&mut self) -> Result<Owned> {
        self.starts += 1;
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.dir).args(["run", "tidegate.yaml", "--data", "data", "--log-level", "warn"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(self.log())?);
        Owned::spawn(&mut command)
    }

    fn log(&self) -> PathBuf {
        self.dir.join(format!("node-{}.log", self.starts))
    }

    /// Waits until a node answers, and returns where it is.
    pub(crate) fn wait_until_ready(&self, node: &mut Owned) -> Result<SocketAddr> {
        let (listeners, deadline) = (self.dir.join("data/run/listeners.json"), clock::after(PATIENCE));
        let log = || fs::read_to_string(self.log()).unwrap_or_default();
        loop {
            if let Some(status) = node.ended()? {
                bail!("the node ended with {status}: {}", log());
            }
            let address = address(&listeners, node.0.id());
            if let Some(address) = address.filter(|address| crate::http::get(*address, "/readyz").is_ok()) {
                return Ok(address);
            }
            ensure!(clock::now() < deadline, "the node is not ready: {}", log());
            clock::pause(Duration::from_millis(2));
        }
    }

    /// Returns lines of the nodes' logs that speak of damage or a panic.
    pub(crate) fn alarms(&self) -> Vec<String> {
        let logs = (1..=self.starts).map(|start| self.dir.join(format!("node-{start}.log")));
        let text: String = logs.filter_map(|path| fs::read_to_string(path).ok()).collect();
        let is_alarm = |line: &&str| ["panic", "ERROR", "damage", "quarantine"].iter().any(|word| line.contains(word));
        text.lines().filter(is_alarm).map(str::to_owned).collect()
    }
}

fn address(listeners: &Path, pid: u32) -> Option<SocketAddr> {
    let document: Value = serde_json::from_slice(&fs::read(listeners).ok()?).ok()?;
    // A file that a killed node left behind names another process.
    let address = document.pointer("/listeners/0/address")?.as_str()?;
    (document["pid"] == pid).then(|| address.parse().ok())?
}

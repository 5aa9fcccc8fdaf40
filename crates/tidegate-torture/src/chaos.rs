//! What is done to the processes of a run: kills at random moments, and what was in flight just before.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    Settings, clock,
    http::Connection,
    node::{Berth, CONFIGURATION, Owned},
    publisher::Shared,
    server::{Engine, Server},
    ui,
    worker::{ADDRESS, HOME},
};

const WORKERS: usize = 4;

/// Publishers rest when so many events wait, and go on at half of it.
const WAITING_MAX: u64 = 100_000;

/// Who was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Node,
    /// The server that the nodes share.
    Server,
    /// The worker with this log.
    Worker(usize),
}

/// A kill. It happened between the two instants.
#[derive(Debug)]
pub(crate) struct Kill {
    pub(crate) victim: Victim,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// `in_flight` of the group just before: the most of the last samples.
    /// None when there was no sample since the node was started.
    pub(crate) sampled: Option<u64>,
}

/// What the group said of itself lately.
#[derive(Debug, Default)]
pub(crate) struct Samples(Mutex<VecDeque<u64>>);

impl Samples {
    /// Samples until it is over; bounded by the end of the run.
    pub(crate) fn run(&self, shared: &Shared) {
        let mut connection = None;
        while !shared.is_over.load(Ordering::Relaxed) {
            if connection.is_none() {
                connection = shared.node.get().and_then(|address| Connection::open(address).ok());
            }
            let answer = connection.as_mut().and_then(|open| open.ask("GET", "/v1/groups/workers", "", b"").ok());
            match answer.and_then(|answer| answer.json().ok()) {
                Some(view) => {
                    let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    recent.push_back(view["in_flight"].as_u64().unwrap_or_default());
                    if recent.len() > 10 {
                        recent.pop_front();
                    }
                    let waiting = view["waiting"].as_u64().unwrap_or_default();
                    let was_held = shared.is_held.load(Ordering::Relaxed);
                    let limit = if was_held { WAITING_MAX / 2 } else { WAITING_MAX };
                    shared.is_held.store(waiting > limit, Ordering::Relaxed);
                }
                None => connection = None,
            }
            clock::pause(Duration::from_millis(5));
        }
    }

    fn most(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().max()
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The processes of a run.
pub(crate) struct Chaos<'a> {
    nodes: Vec<(Berth, Owned)>,
    /// The server that the nodes share.
    server: Option<Server>,
    workers: Vec<(usize, Owned)>,
    dir: PathBuf,
    /// Instant at which workers end in any case.
    end: u64,
    logs: usize,
    shared: &'a Shared,
    pub(crate) kills: Vec<Kill>,
    /// Kills of nodes that were not ready yet.
    pub(crate) early_kills: usize,
    pub(crate) slowest_start: u64,
}

impl<'a> Chaos<'a> {
    pub(crate) fn start(dir: &Path, settings: &Settings, shared: &'a Shared) -> Result<Self> {
        // Nodes with a journal each have nothing to share.
        let apart = settings.engine == Engine::Embedded && settings.nodes > 1;
        let server = Server::start(if apart { Engine::Redis } else { settings.engine }, dir)?;
        let engine = server.as_ref().map_or_else(|| "engine: embedded".to_owned(), Server::keys);
        let mut nodes = Vec::new();
        for number in 0..settings.nodes {
            let name = format!("name: torture-{number}");
            let configuration = CONFIGURATION.replace("engine: ENGINE", &engine).replace("name: torture", &name);
            let mut berth = Berth::new(&dir.join(format!("node-{number}")), &settings.binary, &configuration)?;
            let node = berth.spawn()?;
            nodes.push((berth, node));
        }
        let end = clock::after(Duration::from_secs(settings.seconds + 600));
        let (workers, kills) = (Vec::new(), Vec::new());
        let dir = dir.to_owned();
        let mut chaos =
            Self { nodes, server, workers, dir, end, logs: 0, shared, kills, early_kills: 0, slowest_start: 0 };
        for number in 0..settings.nodes {
            chaos.wait_until_ready(number)?;
        }
        for _ in 0..WORKERS {
            chaos.start_worker()?;
        }
        Ok(chaos)
    }

    pub(crate) fn logs(&self) -> usize {
        self.logs
    }

    /// Lines of the nodes' logs that speak of damage or a panic.
    pub(crate) fn alarms(&self) -> Vec<String> {
        self.nodes.iter().flat_map(|(berth, _)| berth.alarms()).collect()
    }

    pub(crate) fn server_kills(&self) -> Option<usize> {
        let kills = || self.kills.iter().filter(|kill| kill.victim == Victim::Server).count();
        self.server.as_ref().map(|_| kills())
    }

    fn wait_until_ready(&mut self, number: usize) -> Result<()> {
        let (berth, node) = &mut self.nodes[number];
        let address = berth.wait_until_ready(node)?;
        self.tell(number, Some(address))
    }

    /// Tells publishers and workers where a node is, each in one step.
    fn tell(&self, number: usize, address: Option<std::net::SocketAddr>) -> Result<()> {
        self.shared.node.set(number, address);
        let draft = self.dir.join("address.draft");
        fs::write(&draft, self.shared.node.lines())?;
        fs::rename(draft, self.dir.join(ADDRESS))?;
        Ok(())
    }

    fn start_worker(&mut self) -> Result<()> {
        let log = self.logs;
        self.logs += 1;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.arg("worker").arg("--dir").arg(&self.dir).arg("--log").arg(log_path(&self.dir, log));
        command.args(["--end", &self.end.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
        self.workers.push((log, Owned::spawn(&mut command)?));
        Ok(())
    }

    /// Kills at random moments, until the time is up.
    pub(crate) fn run(&mut self, settings: &Settings, samples: &Samples) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(settings.seed);
        let (start, length) = (clock::now(), clock::nanos(Duration::from_secs(settings.seconds)));
        let mut moments: Vec<(u64, bool)> = (0..settings.kills * 2)
            .map(|number| (start + random.u64(length / 20..length - length / 20), number % 2 == 0))
            .collect();
        moments.sort_unstable();
        let servers = if self.server.is_some() { settings.server_kills.min(settings.kills) } else { 0 };
        for (index, (at, is_node)) in moments.into_iter().enumerate() {
            clock::wait_until(at);
            if index * servers / (settings.kills * 2) < (index + 1) * servers / (settings.kills * 2) {
                self.kill_server(&mut random)?;
            }
            if is_node {
                self.kill_node(&mut random, samples.most())?;
                samples.clear();
            } else {
                let sampled = samples.most();
                let (log, mut worker) = self.workers.swap_remove(random.usize(..self.workers.len()));
                let from = clock::now();
                worker.kill(&format!("worker {log}"))?;
                self.kills.push(Kill { victim: Victim::Worker(log), from, to: clock::now(), sampled });
                self.start_worker()?;
            }
        }
        clock::wait_until(start + length);
        Ok(())
    }

    /// Kills the server that the nodes share and starts it anew on what it has on disk.
    fn kill_server(&mut self, random: &mut fastrand::Rng) -> Result<()> {
        let Some(server) = &mut self.server else { return Ok(()) };
        let from = clock::now();
        server.kill()?;
        clock::pause(Duration::from_millis(random.u64(1..1_000)));
        server.run()?;
        // What a claim or a settle without an answer did is known to nobody.
        self.kills.push(Kill { victim: Victim::Server, from, to: clock::now(), sampled: None });
        ui::step("server killed and back");
        Ok(())
    }

    /// Kills a node and starts it anew; one time in four the next one is killed while it starts.
    pub(crate) fn kill_node(&mut self, random: &mut fastrand::Rng, sampled: Option<u64>) -> Result<()> {
        let number = random.usize(..self.nodes.len());
        self.tell(number, None)?;
        let (berth, node) = &mut self.nodes[number];
        let from = clock::now();
        node.kill("the node")?;
        self.kills.push(Kill { victim: Victim::Node, from, to: clock::now(), sampled });
        if random.u8(..4) == 0 {
            let mut early = berth.spawn()?;
            clock::pause(Duration::from_micros(random.u64(1_000..80_000)));
            early.kill("a starting node")?;
            self.early_kills += 1;
        }
        let began = clock::now();
        *node = berth.spawn()?;
        self.wait_until_ready(number)?;
        let took = clock::now() - began;
        self.slowest_start = self.slowest_start.max(took);
        let sampled = sampled.map_or_else(|| "no sample of what was".to_owned(), |count| count.to_string());
        ui::step(format!("node killed with {sampled} in flight, ready again after {} ms", took / 1_000_000));
        Ok(())
    }

    /// Sends the workers home and waits for them.
    pub(crate) fn send_home(&mut self) -> Result<()> {
        fs::write(self.dir.join(HOME), "")?;
        let deadline = clock::after(Duration::from_secs(30));
        for (log, worker) in &mut self.workers {
            let status = loop {
                match worker.ended()? {
                    Some(status) => break status,
                    None if clock::now() > deadline => bail!("worker {log} does not go home"),
                    None => clock::pause(Duration::from_millis(5)),
                }
            };
            ensure!(status.success(), "worker {log} ended with {status}");
        }
        Ok(())
    }
}

pub(crate) fn log_path(dir: &Path, log: usize) -> PathBuf {
    dir.join(format!("worker-{log}.log"))
}

//! Servers of a run: a Redis, a PostgreSQL, a NATS on free ports, with files of their own, killed by their own ids.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{clock, node::Owned, resp::Connection};

/// Longest wait for a server to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let deadline = clock::after(PATIENCE);
    while !is_so() {
        ensure!(clock::now() < deadline, "{what} is not ready");
        clock::pause(Duration::from_millis(10));
    }
    Ok(())
}

/// A Redis that answers after its sync.
pub(crate) struct Redis {
    dir: PathBuf,
    pub(crate) port: u16,
    running: Option<Owned>,
}

impl Redis {
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let dir = dir.join("redis");
        fs::create_dir(&dir)?;
        let mut server = Self { dir, port: free_port()?, running: None };
        server.run()?;
        Ok(server)
    }

    /// Starts it on what it left on disk.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--appendonly", "yes"]);
        command.args(["--appendfsync", "always", "--dir"]).arg(&self.dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.running = Some(Owned::spawn(&mut command)?);
        let port = self.port;
        let answers = || Connection::open(port).and_then(|mut open| open.ask(&["PING"])).is_ok();
        wait_until("Redis", answers)
    }

    /// Kills it as a crash does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.running.take().context("Redis runs")?.kill("Redis")
    }
}

/// What keeps the streams of the nodes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// The node's own journal.
    Embedded,
    /// A Redis that answers after its sync.
    Redis,
    /// A PostgreSQL that answers after its sync.
    Postgres,
    /// A NATS with JetStream.
    Nats,
}

/// The server that the nodes of a run share.
pub(crate) enum Server {
    Redis(Redis),
    Postgres(Postgres),
    Nats(Nats),
}

impl Server {
    /// Starts it; none where each node keeps its own.
    pub(crate) fn start(engine: Engine, dir: &Path) -> Result<Option<Self>> {
        Ok(match engine {
            Engine::Embedded => None,
            Engine::Redis => Some(Self::Redis(Redis::start(dir)?)),
            Engine::Postgres => Some(Self::Postgres(Postgres::start_with(&["fsync=on"])?)),
            Engine::Nats => Some(Self::Nats(Nats::start(dir)?)),
        })
    }

    /// The keys of the configuration that choose it.
    pub(crate) fn keys(&self) -> String {
        match self {
            Self::Redis(redis) => format!("engine: redis://127.0.0.1:{}/0", redis.port),
            Self::Postgres(postgres) => {
                let url = postgres.url().replace("torture@", "");
                format!("postgres: {{ user: torture }}\nengine: {url}")
            }
            Self::Nats(nats) => format!("engine: nats://127.0.0.1:{}", nats.port),
        }
    }

    /// Kills it as a crash does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        match self {
            Self::Redis(redis) => redis.kill(),
            Self::Postgres(postgres) => postgres.running.take().context("PostgreSQL runs")?.kill("PostgreSQL"),
            Self::Nats(nats) => nats.running.take().context("NATS runs")?.kill("NATS"),
        }
    }

    /// Starts it on what it left on disk.
    pub(crate) fn run(&mut self) -> Result<()> {
        match self {
            Self::Redis(redis) => redis.run(),
            Self::Postgres(postgres) => postgres.run(),
            Self::Nats(nats) => nats.run(),
        }
    }
}

/// A NATS with JetStream.
pub(crate) struct Nats {
    dir: PathBuf,
    port: u16,
    running: Option<Owned>,
}

impl Nats {
    fn start(dir: &Path) -> Result<Self> {
        let mut server = Self { dir: dir.join("nats"), port: free_port()?, running: None };
        server.run()?;
        Ok(server)
    }

    fn run(&mut self) -> Result<()> {
        let mut command = Command::new("nats-server");
        command.args(["--addr", "127.0.0.1", "--port", &self.port.to_string(), "--jetstream", "--store_dir"]);
        command.arg(&self.dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.running = Some(Owned::spawn(&mut command)?);
        let port = self.port;
        wait_until("NATS", || TcpStream::connect(("127.0.0.1", port)).is_ok())
    }
}

/// A PostgreSQL with an empty database.
pub(crate) struct Postgres {
    /// Apart from the scratch directory: its user must be able to enter.
    dir: tempfile::TempDir,
    port: u16,
    /// Settings such as `fsync=off`.
    settings: Vec<String>,
    running: Option<Owned>,
}

impl Postgres {
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(&["fsync=off"])
    }

    fn start_with(settings: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tidegate-torture-pg-").tempdir()?;
        if let Some((user, group)) = other_user()? {
            chown(dir.path(), Some(user), Some(group))?;
        }
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Self { dir, port: free_port()?, settings, running: None };
        let files = server.files();
        let mut make = server.as_user("initdb")?;
        make.arg("-D").arg(&files).args(["-U", "torture", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let made = make.stdin(Stdio::null()).output().context("run initdb")?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        server.run()?;
        Ok(server)
    }

    fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    fn run(&mut self) -> Result<()> {
        let mut command = self.as_user("postgres")?;
        command.arg("-D").arg(self.files()).arg("-k").arg(self.dir.path()).args(["-h", "127.0.0.1"]);
        command.args(["-p", &self.port.to_string(), "-c", "shared_buffers=64MB", "-c", "max_connections=40"]);
        command.args(self.settings.iter().flat_map(|setting| ["-c", setting]));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // After a kill the last of its children may still hold the folder, and it ends again at once.
        let mut left = 50;
        loop {
            self.running = Some(Owned::spawn(&mut command)?);
            let up = wait_until("PostgreSQL", || self.has_ended() || self.sql("SELECT 1").is_ok());
            if !self.has_ended() || left == 0 {
                return up;
            }
            left -= 1;
            clock::pause(Duration::from_millis(50));
        }
    }

    fn has_ended(&mut self) -> bool {
        self.running.as_mut().is_none_or(|running| !matches!(running.ended(), Ok(None)))
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://torture@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs SQL and returns what it prints.
    pub(crate) fn sql(&self, sql: &str) -> Result<String> {
        let done = self.psql().args(["-c", sql]).stdin(Stdio::null()).output().context("run psql")?;
        ensure!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?.trim_end().to_owned())
    }

    /// A session that runs what is written to it.
    pub(crate) fn session(&self) -> Result<Child> {
        let mut command = self.psql();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().context("run psql")
    }

    fn psql(&self) -> Command {
        let mut command = Command::new(program("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url()]);
        command
    }

    /// A command of the server, which refuses to run as root.
    fn as_user(&self, name: &str) -> Result<Command> {
        let program = program(name);
        let mut command = match other_user()? {
            None => Command::new(program),
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
                command.arg(program);
                command
            }
        };
        command.current_dir(self.dir.path()).env("LC_ALL", "C");
        Ok(command)
    }
}

/// User and group of PostgreSQL, for a run as root.
fn other_user() -> Result<Option<(u32, u32)>> {
    if !rustix::process::getuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find_map(|line| line.strip_prefix("postgres:")).context("there is no user postgres")?;
    let mut fields = line.split(':').skip(1).map(str::parse);
    let (user, group) = (fields.next().context("a user has a number")??, fields.next().context("and a group")??);
    Ok(Some((user, group)))
}

/// Finds a program of the newest version that Debian installed, or on the path.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists());
    found.max().unwrap_or_else(|| PathBuf::from(name))
}

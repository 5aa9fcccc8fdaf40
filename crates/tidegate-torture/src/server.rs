//! Servers of a run: a Redis and a PostgreSQL on free ports, with files of their own, killed by their own ids.

use std::{
    fs,
    net::TcpListener,
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
    pub(crate) kills: usize,
}

impl Redis {
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let dir = dir.join("redis");
        fs::create_dir(&dir)?;
        let mut server = Self { dir, port: free_port()?, running: None, kills: 0 };
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
        self.kills += 1;
        self.running.take().context("Redis runs")?.kill("Redis")
    }
}

/// A PostgreSQL with an empty database.
pub(crate) struct Postgres {
    /// Apart from the scratch directory: its user must be able to enter.
    dir: tempfile::TempDir,
    port: u16,
    running: Option<Owned>,
}

impl Postgres {
    pub(crate) fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tidegate-torture-pg-").tempdir()?;
        if let Some((user, group)) = other_user()? {
            chown(dir.path(), Some(user), Some(group))?;
        }
        let mut server = Self { dir, port: free_port()?, running: None };
        let files = server.dir.path().join("files");
        let mut make = server.as_user("initdb")?;
        make.arg("-D").arg(&files).args(["-U", "torture", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let made = make.stdin(Stdio::null()).output().context("run initdb")?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut command = server.as_user("postgres")?;
        command.arg("-D").arg(&files).arg("-k").arg(server.dir.path()).args(["-h", "127.0.0.1", "-c", "fsync=off"]);
        command.args(["-p", &server.port.to_string(), "-c", "shared_buffers=64MB", "-c", "max_connections=40"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        server.running = Some(Owned::spawn(&mut command)?);
        wait_until("PostgreSQL", || server.sql("SELECT 1").is_ok())?;
        Ok(server)
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

//! A real PostgreSQL server for one test: its own process, a scratch folder, a free port, and an end whatever becomes of the test.
//!
//! A machine without PostgreSQL fails the test: what is not tested is not promised.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Signal, getuid};

use crate::{
    authority::Authority,
    server_process::{ServerProcess, on_a_free_port},
};

/// The user as whom the server runs when the test runs as root, which the server refuses.
const USER: &str = "postgres";

/// A running server, or one that is about to run again.
#[derive(Debug)]
pub struct PostgresServer {
    dir: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
    is_safe: bool,
    running: Option<ServerProcess>,
}

impl PostgresServer {
    /// Starts a server with an empty database. `settings` are such as `max_connections=20`.
    pub fn start(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        give_away(dir.path());
        let settings = settings.iter().map(|text| (*text).to_owned()).collect();
        let server = Self { dir, port: 0, settings, is_safe: false, running: None };
        server.make();
        server.started()
    }

    /// Starts a server that is spoken to over TLS only, and asks its clients for a certificate of the same authority.
    pub fn start_safe(authority: &Authority) -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        authority.settle(dir.path());
        for file in ["server.key", "server.pem", "ca.pem"] {
            if let Some((user, group)) = other_user() {
                chown(dir.path().join(file), Some(user), Some(group)).expect("the file is given to the server's user");
            }
        }
        give_away(dir.path());
        let file = |name: &str| dir.path().join(name).display().to_string();
        let settings = vec![
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", file("server.pem")),
            format!("ssl_key_file={}", file("server.key")),
            format!("ssl_ca_file={}", file("ca.pem")),
        ];
        let server = Self { dir, port: 0, settings, is_safe: true, running: None };
        server.make();
        let rules = "local all all trust\nhostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n";
        fs::write(server.files().join("pg_hba.conf"), rules).expect("the rules are written");
        server.started()
    }

    fn started(mut self) -> Self {
        on_a_free_port(|port| {
            self.port = port;
            self.run()
        });
        self
    }

    /// Address over TCP.
    pub fn url(&self) -> String {
        let safe = if self.is_safe { "?sslmode=verify-full" } else { "" };
        format!("postgres://tester@127.0.0.1:{}/postgres{safe}", self.port)
    }

    /// Address of the socket in the scratch folder.
    fn socket(&self) -> String {
        format!("host={} port={} user=tester dbname=postgres", self.dir.path().display(), self.port)
    }

    /// Port on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server as a crash does. Its children see that and end by themselves.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }

    /// Ends the server in order, as a restart of its service does: who is connected is thrown out.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop(Signal::INT);
        }
    }

    /// Starts the server again after a kill or a stop, on what it left on disk.
    pub fn run_again(&mut self) {
        // After a kill, the last of its children may still hold the folder for a moment.
        let is_up = self.running.is_none() && (0..20).any(|_| self.run());
        assert!(is_up, "PostgreSQL does not start again");
    }

    /// Stops the server and everything that it runs in their tracks; connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a stopped server go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("the server runs");
        // Itself first, so that it makes no more children while they are looked for.
        running.signal(signal);
        running.signal_children(signal);
    }

    /// Runs SQL with `psql` and returns what it prints, without heads and alignment.
    pub fn psql(&self, sql: &str) -> String {
        let mut command = Command::new(program("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.socket(), "-c", sql]);
        let output = command.stdin(Stdio::null()).output().expect("psql is installed: apt-get install postgresql");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// Copies the files of a server that never ran: making them takes seconds.
    fn make(&self) {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(template()).arg(self.files());
        assert!(copy.status().is_ok_and(|status| status.success()), "the files of a new server are copied");
    }

    /// Runs the server and returns whether it got its port and its folder.
    fn run(&mut self) -> bool {
        let mut command = as_user(&program("postgres"), self.dir.path());
        command.arg("-D").arg(self.files()).arg("-k").arg(self.dir.path());
        command.args(["-p", &self.port.to_string(), "-h", "127.0.0.1"]);
        // The tests kill processes, not the machine: what the system has is safe without a sync.
        let usual = ["fsync=off", "shared_buffers=16MB", "max_connections=30", "logging_collector=off"];
        for setting in usual.into_iter().chain(self.settings.iter().map(String::as_str)) {
            command.args(["-c", setting]);
        }
        let missing = "PostgreSQL is installed: apt-get install postgresql";
        self.running = ServerProcess::run(command, "ready to accept connections", missing);
        self.running.is_some()
    }
}

/// Returns the files of a server that never ran, which all tests of a user share; made by whoever comes first.
fn template() -> PathBuf {
    let user = other_user().map_or_else(|| getuid().as_raw(), |(user, _)| user);
    let name = format!("tidegate-postgres-{}-{user}", version(&program("initdb")));
    let place = std::env::temp_dir().join(name);
    // One that somebody else put there is not trusted.
    let is_ours = |place: &Path| fs::symlink_metadata(place).is_ok_and(|found| found.is_dir() && found.uid() == user);
    if is_ours(&place) {
        return place;
    }
    let dir = tempfile::tempdir().expect("a scratch folder");
    give_away(dir.path());
    let made = dir.path().join("files");
    init(&made, dir.path());
    // Somebody else may have been faster.
    if fs::rename(&made, &place).is_ok() || is_ours(&place) {
        return place;
    }
    panic!("{} is not a folder of user {user}: remove it", place.display());
}

/// Gives a scratch folder to the server's user.
fn give_away(folder: &Path) {
    if let Some((user, group)) = other_user() {
        chown(folder, Some(user), Some(group)).expect("the folder is given to the server's user");
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("the folder is the server's alone");
}

/// Makes the files of a server.
fn init(files: &Path, folder: &Path) {
    let mut command = as_user(&program("initdb"), folder);
    let how = ["-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"];
    let output = command.arg("-D").arg(files).args(how).stdin(Stdio::null()).output();
    let output = output.expect("PostgreSQL is installed: apt-get install postgresql");
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
}

/// User and group of the server, when the test runs as root.
fn other_user() -> Option<(u32, u32)> {
    if !getuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("the users of this machine");
    let line = users.lines().find_map(|line| line.strip_prefix(&format!("{USER}:")));
    let mut fields = line.expect("the user postgres is there: apt-get install postgresql").split(':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// A command that runs as the server's user, in the scratch folder; the process is that of the program itself.
fn as_user(program: &Path, folder: &Path) -> Command {
    let mut command = match other_user() {
        None => Command::new(program),
        Some((user, group)) => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
            command.arg(program);
            command
        }
    };
    command.current_dir(folder).env("LC_ALL", "C");
    command
}

/// Finds a program of the newest version that Debian installed, or on the path.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists());
    found.max_by_key(|path| version(path)).unwrap_or_else(|| PathBuf::from(name))
}

fn version(path: &Path) -> u32 {
    let number = path.iter().nth(4).and_then(|number| number.to_str());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
    }
}

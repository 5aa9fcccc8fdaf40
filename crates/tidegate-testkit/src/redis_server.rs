//! A real Redis server for one test: its own process, a scratch folder, a free port, and an end whatever becomes of the test.
//!
//! A machine without `redis-server` fails the test: what is not tested is not promised.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// Longest time that the server may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// A running server, or one that is about to run again.
#[derive(Debug)]
pub struct RedisServer {
    dir: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    server: Child,
    /// Ends the server when this process is gone without having done so.
    guard: Child,
}

impl RedisServer {
    /// Starts a server. `settings` are arguments such as `--appendonly yes`; without any, nothing is kept on disk.
    pub fn start(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let settings = settings.iter().map(|text| (*text).to_owned()).collect();
        let mut server = Self { dir, port: 0, settings, running: None };
        // Somebody may take the port between looking for it and listening on it.
        for _ in 0..5 {
            server.port = free_port();
            if server.run() {
                return server;
            }
        }
        panic!("redis-server found no free port");
    }

    /// Address over TCP.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Address of the socket in the scratch folder.
    pub fn socket_url(&self) -> String {
        format!("redis+unix://{}", self.dir.path().join("socket").display())
    }

    /// Port on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server as a crash does.
    pub fn kill(&mut self) {
        if let Some(Running { mut server, mut guard }) = self.running.take() {
            drop(guard.kill());
            drop(guard.wait());
            drop(server.kill());
            drop(server.wait());
        }
    }

    /// Ends the server in order, as a restart of its service does.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        if let Some(Running { mut server, mut guard }) = self.running.take() {
            drop(server.wait());
            drop(guard.kill());
            drop(guard.wait());
        }
    }

    /// Starts the server again after a kill or a stop, on what it left on disk.
    pub fn run_again(&mut self) {
        assert!(self.running.is_none() && self.run(), "redis-server does not start again");
    }

    /// Stops the server in its tracks; connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a stopped server go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("the server runs");
        let pid = i32::try_from(running.server.id()).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, signal).expect("the server takes signals");
    }

    /// Runs the server and returns whether it got its port.
    fn run(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        let (dir, port) = (self.dir.path(), self.port.to_string());
        command.args(["--bind", "127.0.0.1", "--port", &port, "--loglevel", "notice", "--unixsocket"]);
        command.arg(dir.join("socket")).arg("--dir").arg(dir);
        // The last setting of a name counts.
        command.args(["--save", "", "--appendonly", "no"]).args(self.settings.iter().flat_map(|text| text.split(' ')));
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null()).spawn();
        let mut server = spawned.expect("redis-server is installed: apt-get install redis-server");
        let guard = guard(server.id());
        let lines = BufReader::new(server.stdout.take().expect("its output is read")).lines();
        let (tell, told) = mpsc::channel();
        // Reads to the end, so that the server is never held up by what it says.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok).filter(|line| line.contains("Ready to accept connections")) {
                drop(tell.send(line));
            }
        });
        self.running = Some(Running { server, guard });
        let is_ready = told.recv_timeout(READY).is_ok();
        if !is_ready {
            self.kill();
        }
        is_ready
    }
}

/// A shell that waits until this process is gone, however it ends, and then ends the server by its number.
fn guard(server: u32) -> Child {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("read _; kill -9 {server}")).stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell starts")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

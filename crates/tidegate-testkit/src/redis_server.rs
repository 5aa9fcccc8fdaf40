//! A real Redis server for one test: its own process, a scratch folder, a free port, and an end whatever becomes of the test.
//!
//! A machine without `redis-server` fails the test: what is not tested is not promised.

use std::process::Command;

use rustix::process::Signal;

use crate::{
    authority::Authority,
    server_process::{ServerProcess, on_a_free_port},
};

/// A running server, or one that is about to run again.
#[derive(Debug)]
pub struct RedisServer {
    dir: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
    is_safe: bool,
    running: Option<ServerProcess>,
}

impl RedisServer {
    /// Starts a server. `settings` are arguments such as `--appendonly yes`; without any, nothing is kept on disk.
    pub fn start(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let settings = settings.iter().map(|text| (*text).to_owned()).collect();
        Self { dir, port: 0, settings, is_safe: false, running: None }.started()
    }

    /// Starts a server that is spoken to over TLS only, and asks its clients for a certificate of the same authority.
    pub fn start_safe(authority: &Authority) -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        authority.settle(dir.path());
        let file = |name: &str| dir.path().join(name).display().to_string();
        let settings = vec![
            format!("--tls-cert-file {} --tls-key-file {}", file("server.pem"), file("server.key")),
            format!("--tls-ca-cert-file {} --tls-auth-clients yes", file("ca.pem")),
        ];
        Self { dir, port: 0, settings, is_safe: true, running: None }.started()
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
        format!("redis{}://127.0.0.1:{}/0", if self.is_safe { "s" } else { "" }, self.port)
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
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }

    /// Ends the server in order, as a restart of its service does.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop(Signal::TERM);
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
        self.running.as_ref().expect("the server runs").signal(signal);
    }

    /// Runs the server and returns whether it got its port.
    fn run(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        let (dir, port) = (self.dir.path(), self.port.to_string());
        let (plain, safe) = if self.is_safe { ("0", &*port) } else { (&*port, "0") };
        command.args([
            "--bind",
            "127.0.0.1",
            "--port",
            plain,
            "--tls-port",
            safe,
            "--loglevel",
            "notice",
            "--unixsocket",
        ]);
        command.arg(dir.join("socket")).arg("--dir").arg(dir);
        // The last setting of a name counts.
        command.args(["--save", "", "--appendonly", "no"]).args(self.settings.iter().flat_map(|text| text.split(' ')));
        let missing = "redis-server is installed: apt-get install redis-server";
        self.running = ServerProcess::run(command, "Ready to accept connections", missing);
        self.running.is_some()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

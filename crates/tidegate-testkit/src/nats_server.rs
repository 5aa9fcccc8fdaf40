//! A real NATS server with JetStream for one test: its own process, a scratch folder, a free port, and an end whatever
//! becomes of the test.
//!
//! A machine without `nats-server` fails the test: what is not tested is not promised.

use std::process::Command;

use rustix::process::Signal;

use crate::{
    authority::Authority,
    server_process::{ServerProcess, on_a_free_port},
};

/// A running server, or one that is about to run again.
#[derive(Debug)]
pub struct NatsServer {
    dir: tempfile::TempDir,
    port: u16,
    is_safe: bool,
    running: Option<ServerProcess>,
}

impl NatsServer {
    /// Starts a server.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        Self { dir, port: 0, is_safe: false, running: None }.started()
    }

    /// Starts a server that is spoken to over TLS only, and asks its clients for a certificate of the same authority.
    pub fn start_safe(authority: &Authority) -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        authority.settle(dir.path());
        Self { dir, port: 0, is_safe: true, running: None }.started()
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
        format!("{}://127.0.0.1:{}", if self.is_safe { "tls" } else { "nats" }, self.port)
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
        assert!(self.running.is_none() && self.run(), "nats-server does not start again");
    }

    /// Takes everything away that the server has on disk; it must not run.
    pub fn lose(&mut self) {
        assert!(self.running.is_none(), "the server runs");
        std::fs::remove_dir_all(self.dir.path().join("jetstream")).expect("its files are there");
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
        let mut command = Command::new("nats-server");
        command.args(["--addr", "127.0.0.1", "--port", &self.port.to_string(), "--jetstream", "--store_dir"]);
        command.arg(self.dir.path());
        if self.is_safe {
            for (option, file) in [("--tlscert", "server.pem"), ("--tlskey", "server.key"), ("--tlscacert", "ca.pem")] {
                command.arg(option).arg(self.dir.path().join(file));
            }
            command.args(["--tls", "--tlsverify"]);
        }
        let missing = "nats-server is installed: apt-get install nats-server";
        self.running = ServerProcess::run(command, "Server is ready", missing);
        self.running.is_some()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

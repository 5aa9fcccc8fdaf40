//! The process of a real server for one test: it says when it is ready, takes signals, and ends whatever becomes of the test.

use std::{
    io::{BufRead as _, BufReader, Read},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// Longest time that a server may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// Ports that are tried: somebody may take one between looking for it and listening on it.
const PORTS: usize = 5;

/// A running server.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    server: Child,
    /// Ends the server when this process is gone without having done so.
    guard: Child,
}

impl ServerProcess {
    /// Runs a server; none when it ends before it says that it is ready, in a line of standard output or standard error
    /// that has `ready` in it.
    pub(crate) fn run(mut command: Command, ready: &'static str, missing: &str) -> Option<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = command.spawn().expect(missing);
        let guard = guard(server.id());
        let (tell, told) = mpsc::channel();
        read(server.stdout.take().expect("its output is read"), ready, tell.clone());
        read(server.stderr.take().expect("its errors are read"), ready, tell);
        let process = Self { server, guard };
        if told.recv_timeout(READY).is_ok() {
            return Some(process);
        }
        process.kill();
        None
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, signal).expect("the server takes signals");
    }

    /// Sends a signal to the processes that it started.
    pub(crate) fn signal_children(&self, signal: Signal) {
        let parent = self.server.id().to_string();
        for process in std::fs::read_dir("/proc").expect("the processes of this machine").flatten() {
            let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
            // The name may hold anything; behind it stand the state and the number of the parent.
            let its_parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
            let number = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            if let Some(pid) = number.filter(|_| its_parent == Some(parent.as_str())) {
                // It may have ended meanwhile.
                let _gone = kill_process(pid, signal);
            }
        }
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(mut self) {
        drop(self.guard.kill());
        drop(self.guard.wait());
        drop(self.server.kill());
        drop(self.server.wait());
    }

    /// Ends it by a signal, and waits for its end.
    pub(crate) fn stop(mut self, signal: Signal) {
        self.signal(signal);
        drop(self.server.wait());
        drop(self.guard.kill());
        drop(self.guard.wait());
    }
}

/// Tries free ports until `run` gets one.
pub(crate) fn on_a_free_port(mut run: impl FnMut(u16) -> bool) {
    let got = (0..PORTS).any(|_| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        run(port)
    });
    assert!(got, "the server found no free port");
}

/// Reads to the end, so that the server is never held up by what it says.
fn read(from: impl Read + Send + 'static, ready: &'static str, tell: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if line.contains(ready) {
                drop(tell.send(line));
            }
        }
    });
}

/// A shell that waits until this process is gone, however it ends, and then ends the server by its number.
fn guard(server: u32) -> Child {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("read _; kill -9 {server}")).stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell starts")
}

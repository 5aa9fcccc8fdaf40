//! A node in a process of its own, with its files in a directory that goes with it.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tidegate_core::clock::Clock;

/// Longest wait for anything; far more than anything takes on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Configuration of design and README, as it stands.
pub(crate) const SAMPLE: &str = r#"
version: 1
node: { name: harbour, data: ./data, environment: staging }
engine: embedded                      # redis://…  nats://…  postgres://…
listeners:
  - { bind: "127.0.0.1:7300" }        # API, metrics, health, dashboard
streams:
  orders: { retain: { age: 7d, count: 1000000 }, max_backlog: 500000, on_full: reject }
sources:
  intake: { type: http, path: /orders, to: orders }
targets:
  partner: { concurrency: 16, rate: 50/s, breaker: { failures: 5, cooldown: 30s } }
groups:
  deliver:
    from: orders
    workers: 8
    order_by: subject
    timeout: 30s
    retry: { attempts: 8, first: 1s, factor: 2, max: 5m }
    ledger: { keep: 30d }
    sink: { type: webhook, url: "https://partner.example/hook", target: partner, secret: "${env:PARTNER_SECRET}" }
"#;

/// Waits until `look` finds what it looks for; fails with `what` when it never does.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let clock = Clock::real();
    let watch = clock.stopwatch();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(watch.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        clock.sleep(POLL).await;
    }
}

/// Runs the program to its end.
pub(crate) fn tidegate(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env_remove("TIDEGATE_URL").env_remove("TIDEGATE_TOKEN").env_remove("TIDEGATE_LOG").stdin(Stdio::null());
    // Where a configuration names no data directory, it lies where the program runs.
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.env("PARTNER_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    command
}

/// Exit code, standard output and standard error.
pub(crate) fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A place for a node: a directory with its configuration and its data. Outlives the processes in it.
#[derive(Debug)]
pub(crate) struct Berth {
    dir: TempDir,
}

impl Berth {
    pub(crate) fn new(config: &str) -> Self {
        let berth = Self { dir: tempfile::tempdir().unwrap() };
        berth.configure(config);
        berth
    }

    pub(crate) fn configure(&self, config: &str) {
        std::fs::write(self.config(), config).unwrap();
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("tidegate.yaml")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Writes a secret that the configuration names by `${file:…}`.
    pub(crate) fn hide(&self, name: &str, secret: &str) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, secret).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The command that starts a node here, on a free port.
    pub(crate) fn command(&self) -> Command {
        let mut command = program();
        command.current_dir(self.dir.path()).arg("run").arg(self.config()).arg("--data").arg(self.data());
        command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Starts a node and waits until it is ready.
    pub(crate) async fn start(&self) -> Node {
        self.start_with(&[]).await
    }

    /// Starts a node with more variables in its environment.
    pub(crate) async fn start_with(&self, variables: &[(&str, &str)]) -> Node {
        let mut command = self.command();
        command.envs(variables.iter().copied());
        self.start_by(command).await
    }

    /// Starts a node by a command and waits until it is ready.
    pub(crate) async fn start_by(&self, mut command: Command) -> Node {
        let mut child = command.spawn().unwrap();
        let log = Log::of(&mut child);
        let listeners = self.data().join("run/listeners.json");
        let pid = child.id();
        let child = Mutex::new(child);
        let url = until("the node is ready", || async {
            if let Some(status) = child.lock().unwrap().try_wait().unwrap() {
                panic!("the node ended with {status}:\n{}", log.text());
            }
            let document: Value = serde_json::from_slice(&std::fs::read(&listeners).ok()?).ok()?;
            // A file that a killed node left behind names another process.
            let address = document.pointer("/listeners/0/address")?.as_str()?;
            (document["pid"] == pid && log.text().contains("tidegate ready")).then(|| format!("http://{address}"))
        });
        let (url, child) = (url.await, child.into_inner().unwrap());
        tidegate_tls::install();
        Node { child, url, log, client: reqwest::Client::builder().build().unwrap() }
    }
}

/// What a process wrote to standard error, while it still runs.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Mutex<String>>);

impl Log {
    pub(crate) fn of(child: &mut Child) -> Self {
        let log = Self(Arc::default());
        let (into, from) = (log.clone(), BufReader::new(child.stderr.take().unwrap()));
        std::thread::spawn(move || {
            for line in from.lines().map_while(Result::ok) {
                let mut text = into.0.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
        log
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    pub(crate) url: String,
    pub(crate) log: Log,
    pub(crate) client: reqwest::Client,
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Node {
    /// Takes the end to which the node's standard input is bound.
    pub(crate) fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a client command against this node.
    pub(crate) fn cli(&self, args: &[&str]) -> (i32, String, String) {
        told(&program().args(args).env("TIDEGATE_URL", &self.url).output().unwrap())
    }

    /// Runs a client command that must go well, and returns its JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let (exit, out, err) = self.cli(&[args, &["-o", "json"]].concat());
        assert_eq!(exit, 0, "{args:?}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    }

    /// Sends a body with headers; returns status and answer.
    pub(crate) async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> (u16, Value) {
        let mut request = self.client.post(format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
    }

    /// Publishes a JSON document as the data of an event.
    pub(crate) async fn publish(&self, stream: &str, id: &str, subject: &str, document: &str) {
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-source", "/test"),
            ("ce-type", "test"),
            ("ce-subject", subject),
            ("content-type", "application/json"),
        ];
        let (status, answer) = self.post(&format!("/v1/streams/{stream}/events"), &headers, document.to_owned()).await;
        assert_eq!(status, 200, "{answer}");
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.get_now(path).await.unwrap_or_else(|refused| panic!("GET {path}: {refused}"))
    }

    /// Asks for a document; an error says that the store does not answer now.
    async fn get_now(&self, path: &str) -> Result<Value, String> {
        let response = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        let status = response.status();
        let bytes = response.bytes().await.unwrap();
        let text = String::from_utf8_lossy(&bytes);
        if status.as_u16() == 503 {
            return Err(text.into_owned());
        }
        assert!(status.is_success(), "GET {path}: {status} {text}");
        Ok(serde_json::from_slice(&bytes).unwrap())
    }

    /// Waits until a member of a group's view has a value. While another node takes over, there may be no view.
    pub(crate) async fn group_has(&self, group: &str, member: &str, value: u64) {
        let path = format!("/v1/groups/{group}");
        until(&format!("{group} has {value} {member}"), || async {
            self.get_now(&path).await.is_ok_and(|view| view[member] == value).then_some(())
        })
        .await;
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end of the process; returns its exit code, none when a signal ended it.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let child = Mutex::new(&mut self.child);
        until("the process ends", || async { child.lock().unwrap().try_wait().unwrap() }).await.code()
    }

    /// Stops the node gently.
    pub(crate) async fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        assert_eq!(self.ended().await, Some(0), "{}", self.log.text());
    }

    /// Kills the process without warning.
    pub(crate) async fn kill(mut self) {
        self.signal(rustix::process::Signal::KILL);
        assert_eq!(self.ended().await, None);
    }
}

//! A process and everything it starts: limits, pipes, and the end of all of it.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tidegate_core::{
    clock::{Clock, Timestamp},
    fault::{Failure, Fault, FaultClass, Result},
    names::ModuleName,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{ChildStderr, ChildStdin, ChildStdout, Command},
    sync::Notify,
};

use super::ExecConfig;

/// Where programs are looked for when the configuration does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Sets the limit of memory and becomes the program. A shell does it, so that the limit holds from the first moment.
const LIMITED: &str = "ulimit -v \"$1\" || exit 126; shift; exec \"$@\"";
/// Wait for the rest of what an ended process wrote; a child that left its group may hold the pipe for ever.
const REST: Duration = Duration::from_millis(200);
/// Lines of standard error in the log in one stretch of time; the rest is counted.
const LOGGED_MAX: u32 = 20;
const STRETCH: Duration = Duration::from_secs(1);
/// Bytes of a line of standard error that are logged.
const LOGGED_BYTES: usize = 1024;

/// A program that can be started.
#[derive(Debug)]
pub(super) struct Program {
    command: Vec<String>,
    directory: Option<PathBuf>,
    path: String,
    variables: Vec<(String, Hidden)>,
    memory_kib: Option<u64>,
    output: usize,
    stderr: Arc<ErrorLog>,
}

/// A value that may be secret.
struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Program {
    pub(super) fn new(config: &ExecConfig, name: ModuleName, clock: Clock) -> Result<Self> {
        if config.command.is_empty() {
            return Err(Fault::invalid("command: must name a program"));
        }
        let open = config.env.iter().map(|(name, value)| (name.clone(), Hidden(value.clone())));
        let secret = config.secret_env.iter().map(|(name, value)| (name.clone(), Hidden(value.expose().to_owned())));
        Ok(Self {
            command: config.command.clone(),
            directory: config.directory.clone(),
            path: config.env.get("PATH").cloned().unwrap_or_else(|| PATH.to_owned()),
            variables: open.chain(secret).collect(),
            memory_kib: config.memory.map(|memory| memory.get() / 1024),
            output: usize::try_from(config.output.get()).unwrap_or(usize::MAX),
            stderr: Arc::new(ErrorLog { name, clock, state: Mutex::default() }),
        })
    }

    pub(super) fn output(&self) -> usize {
        self.output
    }

    fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// Says why the program cannot be run, when it cannot.
    pub(super) fn find(&self) -> Result<(), String> {
        let program = self.program();
        let can_run = |path: &Path| {
            std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        let base = self.directory.clone().unwrap_or_else(|| PathBuf::from("."));
        let is_there = if program.contains('/') {
            can_run(&base.join(program))
        } else {
            self.path.split(':').any(|directory| can_run(&Path::new(directory).join(program)))
        };
        if !base.is_dir() {
            return Err(format!("{} is no directory", base.display()));
        }
        if is_there { Ok(()) } else { Err(format!("program {program:?} is not there or may not be run")) }
    }

    /// Starts a process in a group of its own.
    pub(super) fn start(&self, more: &[(&'static str, String)]) -> Result<Child, Failure> {
        let mut command = match self.memory_kib {
            None => Command::new(self.program()),
            Some(kib) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", LIMITED, "tidegate", &kib.to_string(), self.program()]);
                shell
            }
        };
        command.args(self.command.iter().skip(1)).env_clear().env("PATH", &self.path);
        command.envs(self.variables.iter().map(|(name, value)| (name, &value.0)));
        command.envs(more.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let failure = |what: String| Failure::new(FaultClass::DependencyDown, what);
        let mut process =
            command.spawn().map_err(|error| failure(format!("cannot start {:?}: {error}", self.program())))?;
        let group = process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(group), (Some(stdin), Some(stdout), Some(stderr))) = (group, pipes) else {
            return Err(failure("a started process has no pipes".to_owned()));
        };
        let log = self.stderr.clone();
        let errors = Errors { pipe: stderr, line: Vec::new(), last: String::new(), log };
        Ok(Child { process, group, is_over: false, stdin: Some(stdin), stdout, errors, output: self.output })
    }
}

/// How a process for one event ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself; with the beginning of what it wrote to standard output, as far as that is wanted.
    Exited(ExitStatus, Vec<u8>),
    /// It wrote more than it may.
    Flooded,
}

/// A process that runs. When it is dropped, its whole group is killed.
#[derive(Debug)]
pub(super) struct Child {
    process: tokio::process::Child,
    group: Pid,
    is_over: bool,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: ChildStdout,
    pub(super) errors: Errors,
    pub(super) output: usize,
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Child {
    fn kill(&mut self) {
        if !self.is_over {
            self.is_over = true;
            // It fails when all of them are gone.
            kill_process_group(self.group, Signal::KILL).ok();
        }
    }

    /// Says how it ended, when it has.
    pub(super) fn has_ended(&mut self) -> Option<String> {
        match self.process.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Waits for its end, after its pipes have told that it comes; kills what is left of its group.
    pub(super) async fn end(&mut self) -> String {
        let ended = tokio::time::timeout(REST, self.process.wait()).await;
        self.kill();
        // What it wrote before it ended is still in the pipe, and is why it ended.
        drop(tokio::time::timeout(REST, self.errors.pump()).await);
        match ended {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "it closed its standard output and was killed".to_owned(),
        }
    }

    /// The last line that it wrote to standard error.
    pub(super) fn last_words(&self) -> String {
        self.errors.last.clone()
    }

    /// Gives it its input, reads what it writes and waits for its end. At most `wanted` bytes of its output are kept.
    pub(super) async fn run(&mut self, input: &[u8], wanted: usize) -> Ended {
        let (flooded, mut said) = (Notify::new(), Vec::new());
        let ended = {
            let (stdin, stdout, errors) = (self.stdin.take(), &mut self.stdout, &mut self.errors);
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // Who does not read its input to the end has no need of it.
                    drop(stdin.write_all(input).await);
                }
            };
            let read = async {
                let (mut piece, mut total) = (vec![0; 16 * 1024], 0);
                while let Ok(length @ 1..) = stdout.read(&mut piece).await {
                    total += length;
                    let room = (wanted - said.len()).min(length);
                    said.extend_from_slice(piece.get(..room).unwrap_or_default());
                    if total > self.output {
                        flooded.notify_one();
                        std::future::pending::<()>().await;
                    }
                }
            };
            let pump = async { tokio::join!(feed, read, errors.pump()) };
            tokio::pin!(pump);
            let mut is_pumped = false;
            loop {
                tokio::select! {
                    status = self.process.wait() => {
                        if !self.is_over {
                            self.is_over = true;
                            kill_process_group(self.group, Signal::KILL).ok();
                        }
                        if !is_pumped {
                            drop(tokio::time::timeout(REST, &mut pump).await);
                        }
                        break status.ok();
                    }
                    _ = &mut pump, if !is_pumped => is_pumped = true,
                    () = flooded.notified() => break None,
                }
            }
        };
        self.errors.flush();
        match ended {
            Some(status) => Ended::Exited(status, said),
            None => {
                self.kill();
                Ended::Flooded
            }
        }
    }
}

/// Standard error of a process, on its way to the log.
#[derive(Debug)]
pub(super) struct Errors {
    pipe: ChildStderr,
    line: Vec<u8>,
    last: String,
    log: Arc<ErrorLog>,
}

impl Errors {
    /// Reads until the pipe ends. It can be called off at any time.
    pub(super) async fn pump(&mut self) {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = self.pipe.read(&mut piece).await {
            for byte in piece.iter().take(length) {
                match byte {
                    b'\n' => self.flush(),
                    byte if self.line.len() < LOGGED_BYTES => self.line.push(*byte),
                    _ => {}
                }
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.line).trim().to_owned();
        self.line.clear();
        if !text.is_empty() {
            self.log.write(&text);
            self.last = text;
        }
    }
}

/// The way of standard error into the log, at most so many lines at a time.
#[derive(Debug)]
struct ErrorLog {
    name: ModuleName,
    clock: Clock,
    state: Mutex<Flow>,
}

#[derive(Debug, Default)]
struct Flow {
    since: Timestamp,
    lines: u32,
    held: u64,
}

impl ErrorLog {
    fn write(&self, text: &str) {
        let now = self.clock.now();
        let held = {
            let mut flow = self.state.lock();
            if now.since(flow.since) >= STRETCH || now < flow.since {
                (flow.since, flow.lines) = (now, 0);
            }
            flow.lines += 1;
            if flow.lines > LOGGED_MAX {
                flow.held += 1;
                return;
            }
            std::mem::take(&mut flow.held)
        };
        let name = &self.name;
        if held > 0 {
            tracing::warn!(group = %name, held, "held back {held} more lines of standard error of {name}");
        }
        tracing::info!(group = %name, "{name} says: {text}");
    }
}

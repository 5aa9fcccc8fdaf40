//! Sink `exec`: programs on this machine, one process for each event or workers that live on and speak lines of JSON.
//!
//! **Invariant:** a process never outlives the attempt it was started for, nor a worker the sink: whatever way an
//! attempt ends, the whole process group is killed.

mod child;
mod protocol;

use std::{collections::BTreeMap, path::PathBuf, process::ExitStatus, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::{Clock, Timestamp},
    config::{self, Secret, Spot},
    delivery::{Delivery, Outcome},
    fault::{Failure, Fault, FaultClass, Origin, Result},
    guard::Guard,
    handler::{Handler, Probe, Sink},
    limits,
    names::{ModuleName, TargetName},
    result::Answer,
    service::Context,
};

use self::{
    child::{Child, Ended, Program},
    protocol::Exchange,
};
use crate::registry::{ModuleKind, ModuleSpec, SinkParts, SinkSettings};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "exec",
    kind: ModuleKind::Sink,
    summary: "runs a program for each event, or keeps workers that speak lines of JSON",
    schema: || schemars::schema_for!(ExecConfig),
};

/// Wait before a worker is started again after a crash; doubles with each crash in a row.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// Longest such wait.
const RESTART_MAX: Duration = Duration::from_secs(30);
/// Smallest memory limit: less does not even hold a shell.
const MEMORY_MIN: u64 = 16 * 1024 * 1024;

/// Runs a program on this machine. The group's `timeout` limits an attempt, its `workers` the processes at a time.
/// `docs/exec.md` describes what a program reads and answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecConfig {
    /// Program and arguments; no shell reads them.
    pub command: Vec<String>,
    /// How the program is used.
    #[serde(default)]
    pub mode: ExecMode,
    /// Events that a worker is given at a time, with `mode: worker`. It may answer them in any order.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Directory in which it runs; default: that of the node.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// Its environment, in which nothing else is but `PATH`, unless that is set here, and what names the delivery.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables whose values are secret.
    #[serde(default)]
    pub secret_env: BTreeMap<String, Secret>,
    /// Most address space of each process, such as `512MiB`; without, there is no limit.
    #[serde(default)]
    pub memory: Option<config::Bytes>,
    /// Content type of what a program writes to standard output, with `mode: each` and a group that keeps results; without,
    /// it is JSON, text or bytes, by what it is.
    #[serde(default)]
    pub content_type: Option<String>,
    /// Most bytes on standard output for each event; a program that writes more is killed.
    #[serde(default = "output")]
    pub output: config::Bytes,
    /// Target whose guard stands before the program; without, there is none.
    #[serde(default)]
    pub target: Option<TargetName>,
}

/// How a program is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecMode {
    /// One process for each event, which reads the event from standard input; its exit code is the outcome.
    #[default]
    Each,
    /// Processes that live on: an event is a line on standard input, an outcome a line on standard output.
    Worker,
}

fn batch() -> usize {
    1
}

fn output() -> config::Bytes {
    config::Bytes::new(1024 * 1024)
}

impl SinkSettings for ExecConfig {
    fn target(&self) -> Option<&TargetName> {
        self.target.as_ref()
    }

    fn check(&self, here: &Spot<'_>) {
        let has_program = self.command.first().is_some_and(|program| !program.is_empty());
        here.at("command").require(has_program, || "must name a program".to_owned());
        let has_zero = self.command.iter().any(|word| word.contains('\0'));
        here.at("command").require(!has_zero, || "must not hold a zero byte".to_owned());
        let most = limits::EXEC_BATCH_MAX;
        here.at("batch").require((1..=most).contains(&self.batch), || format!("must be 1 to {most}"));
        let fits = self.mode == ExecMode::Worker || self.batch == 1;
        here.at("batch").require(fits, || "needs mode: worker".to_owned());
        for (key, name) in self.variables() {
            let is_plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            here.at(key).at(name).require(is_plain, || format!("{name:?} is not the name of a variable"));
            let is_own = name.starts_with("TIDEGATE_");
            here.at(key).at(name).require(!is_own, || format!("{name:?} is set by the sink itself"));
        }
        let has_type = self.content_type.as_ref();
        here.at("content_type").require(has_type.is_none_or(|kind| is_media_type(kind)), || {
            "must be a content type such as application/json".to_owned()
        });
        let fits = self.mode == ExecMode::Each || has_type.is_none();
        here.at("content_type").require(fits, || "needs mode: each; a worker says it with each answer".to_owned());
        let memory = self.memory.is_none_or(|memory| memory.get() >= MEMORY_MIN);
        here.at("memory").require(memory, || format!("must be at least {}", config::Bytes::new(MEMORY_MIN)));
        let most = limits::EXEC_OUTPUT_BYTES_MAX as u64;
        here.at("output")
            .require((1..=most).contains(&self.output.get()), || format!("must be 1B to {}", config::Bytes::new(most)));
    }

    fn open(&self, parts: SinkParts) -> Result<Option<Arc<dyn Sink>>> {
        let program = Program::new(self, parts.name.clone(), parts.clock.clone())?;
        Ok(Some(Arc::new(Exec {
            mode: self.mode,
            batch: self.batch,
            name: parts.name,
            program: Arc::new(program),
            guard: parts.guard,
            answers: parts.answers,
            content_type: self.content_type.clone(),
            clock: parts.clock,
            idle: Mutex::default(),
            restart: Mutex::new(Backoff { wait: RESTART_FIRST, not_before: Timestamp::ZERO }),
        })))
    }
}

impl ExecConfig {
    fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let open = self.env.keys().map(|name| ("env", name.as_str()));
        open.chain(self.secret_env.keys().map(|name| ("secret_env", name.as_str())))
    }
}

/// Runs a program.
#[derive(Debug)]
struct Exec {
    mode: ExecMode,
    batch: usize,
    name: ModuleName,
    program: Arc<Program>,
    guard: Option<Arc<Guard>>,
    /// Whether what is answered is wanted.
    answers: bool,
    /// Content type of what a process for one event writes.
    content_type: Option<String>,
    clock: Clock,
    /// Workers that wait for an event.
    idle: Mutex<Vec<Child>>,
    restart: Mutex<Backoff>,
}

/// When a worker may be started after a crash.
#[derive(Debug)]
struct Backoff {
    wait: Duration,
    not_before: Timestamp,
}

#[async_trait]
impl Handler for Exec {
    async fn handle(&self, _: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        match self.mode {
            ExecMode::Each => {
                let mut outcomes = Vec::with_capacity(batch.len());
                for delivery in batch {
                    outcomes.push(self.guarded(delivery.attempt > 1, || self.each(delivery)).await);
                }
                outcomes
            }
            ExecMode::Worker => self.worked(batch).await,
        }
    }

    fn batch_max(&self) -> usize {
        self.batch
    }

    fn guard(&self) -> Option<Arc<Guard>> {
        self.guard.clone()
    }

    fn in_process(&self) -> bool {
        // It runs in a process of its own: an event cannot take the node down with it.
        false
    }
}

#[async_trait]
impl Probe for Exec {
    async fn probe(&self, _: &Context) -> Result<()> {
        self.program.find().map_err(|why| Fault::unavailable(Origin::Tidegate, why))
    }
}

/// Outcomes of a batch, none where nobody answered.
type Answers = Vec<Option<Outcome>>;

impl Exec {
    /// Makes a call through the guard, when there is one. What is no fault of the target is none to the guard either.
    async fn guarded<F>(&self, is_retry: bool, call: impl FnOnce() -> F) -> Outcome
    where
        F: Future<Output = Outcome>,
    {
        let Some(guard) = &self.guard else { return call().await };
        let through = async {
            match call().await {
                Outcome::Failed(failure) => Err(failure),
                outcome @ (Outcome::Done(_)
                | Outcome::Answered { .. }
                | Outcome::Snooze(_)
                | Outcome::Reject(_)
                | Outcome::Interrupted) => Ok(outcome),
            }
        };
        guard.call(is_retry, through).await.unwrap_or_else(Outcome::Failed)
    }

    /// Runs a process for one event.
    async fn each(&self, delivery: &Delivery) -> Outcome {
        let input = protocol::event_line(delivery);
        let mut child = match self.program.start(&protocol::variables(&self.name, delivery)) {
            Ok(child) => child,
            Err(failure) => return Outcome::Failed(failure),
        };
        let wanted = if self.answers { limits::RESULT_BYTES_MAX + 1 } else { 0 };
        match child.run(&input, wanted).await {
            Ended::Exited(status, said) if self.answers && status.success() => Outcome::answered(self.answer(said)),
            Ended::Exited(status, _) => outcome_of(status, child.last_words()),
            Ended::Flooded => Outcome::Failed(self.flooded()),
        }
    }

    fn answer(&self, said: Vec<u8>) -> Answer {
        let guess = || match std::str::from_utf8(&said) {
            Ok(text) if serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok() => "application/json",
            Ok(_) => "text/plain; charset=utf-8",
            Err(_) => "application/octet-stream",
        };
        let kind = self.content_type.as_deref().unwrap_or_else(guess).to_owned();
        if said.is_empty() { Answer::NOTHING } else { Answer::new(Some(&kind), said.into()) }
    }

    fn flooded(&self) -> Failure {
        let most = self.program.output();
        Failure::new(FaultClass::Poison, format!("wrote more than {most} bytes to standard output and was killed"))
    }

    async fn worked(&self, batch: &[Delivery]) -> Vec<Outcome> {
        let is_retry = batch.iter().any(|delivery| delivery.attempt > 1);
        let mut answers: Answers = vec![None; batch.len()];
        let crashed = self.guarded_exchange(is_retry, batch, &mut answers).await;
        let open = answers.iter().filter(|answer| answer.is_none()).count();
        let mut outcomes = Vec::with_capacity(batch.len());
        for (delivery, answer) in batch.iter().zip(answers) {
            outcomes.push(match (answer, &crashed) {
                (Some(outcome), _) => outcome,
                // Nobody knows which of them broke the worker: each is tried alone.
                (None, Some(failure)) if open > 1 && failure.class == FaultClass::Poison => {
                    let mut alone: Answers = vec![None];
                    let crashed = self.guarded_exchange(true, std::slice::from_ref(delivery), &mut alone).await;
                    let answer = alone.pop().flatten();
                    answer.or(crashed.map(Outcome::Failed)).unwrap_or(Outcome::Interrupted)
                }
                (None, Some(failure)) => Outcome::Failed(failure.clone()),
                (None, None) => Outcome::Interrupted,
            });
        }
        outcomes
    }

    async fn guarded_exchange(&self, is_retry: bool, batch: &[Delivery], answers: &mut Answers) -> Option<Failure> {
        let Some(guard) = &self.guard else { return self.exchange(batch, answers).await.err() };
        guard.call(is_retry, self.exchange(batch, answers)).await.err()
    }

    /// Gives a worker a batch and waits for its answers; the failure is that of what stays open.
    async fn exchange(&self, batch: &[Delivery], answers: &mut Answers) -> Result<(), Failure> {
        let mut child = self.worker().await?;
        let mut exchange = Exchange::new(&self.name, batch, answers, self.answers);
        match exchange.run(&mut child).await {
            Ok(()) => {
                self.restart.lock().wait = RESTART_FIRST;
                self.idle.lock().push(child);
                Ok(())
            }
            Err(failure) => {
                let mut restart = self.restart.lock();
                restart.not_before = self.clock.now().plus(restart.wait);
                restart.wait = (restart.wait * 2).min(RESTART_MAX);
                Err(failure)
            }
        }
    }

    /// Takes a worker that waits, or starts one when it may be started.
    async fn worker(&self) -> Result<Child, Failure> {
        loop {
            let Some(mut child) = self.idle.lock().pop() else { break };
            match child.has_ended() {
                None => return Ok(child),
                Some(how) => {
                    tracing::warn!(group = %self.name, "worker of {} ended while it was idle: {how}", self.name)
                }
            }
        }
        let not_before = self.restart.lock().not_before;
        self.clock.sleep_until(not_before).await;
        self.program.start(&[])
    }
}

/// Tells whether a text looks like `type/subtype`, with parameters or without.
fn is_media_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or("").trim();
    let is_token = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_graphic() && c != '/');
    essence.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub)) && text.is_ascii()
}

/// Says what an exit code means.
fn outcome_of(status: ExitStatus, words: String) -> Outcome {
    use std::os::unix::process::ExitStatusExt as _;
    let said = if words.is_empty() { String::new() } else { format!(": {words}") };
    let failed =
        |class, what: &str, code: i32| Outcome::Failed(Failure::new(class, format!("exit code {code}, {what}{said}")));
    match status.code() {
        Some(0) => Outcome::DONE,
        Some(65) => Outcome::Reject(Failure::new(FaultClass::Invalid, format!("exit code 65, rejected{said}"))),
        Some(69) => failed(FaultClass::DependencyDown, "what it needs is not there", 69),
        Some(75) => failed(FaultClass::Transient, "to be tried again", 75),
        Some(77) => failed(FaultClass::Auth, "it was denied", 77),
        Some(code @ (126 | 127)) => failed(FaultClass::DependencyDown, "the program cannot be run", code),
        Some(code) => failed(FaultClass::Transient, "failed", code),
        None => {
            let signal = status.signal().unwrap_or(0);
            Outcome::Failed(Failure::new(FaultClass::Poison, format!("ended by signal {signal}{said}")))
        }
    }
}

#[cfg(test)]
mod tests;

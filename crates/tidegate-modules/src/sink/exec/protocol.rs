//! What a program reads and what it answers: lines of JSON, matched by the token of the delivery.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_core::{
    cloudevents,
    config::Time,
    delivery::{Delivery, Outcome},
    fault::{Failure, Fault, FaultClass, Result},
    limits,
    names::ModuleName,
    result::Answer,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Answers, child::Child};

/// Letters of a wrong answer that are shown.
const SHOWN: usize = 120;

/// Returns an event as a line.
pub(super) fn event_line(delivery: &Delivery) -> Vec<u8> {
    let mut line = Vec::with_capacity(delivery.event.size() + 256);
    cloudevents::write_json(&delivery.event, &mut line);
    line.push(b'\n');
    line
}

/// Returns what a process for one event finds in its environment.
pub(super) fn variables(name: &ModuleName, delivery: &Delivery) -> [(&'static str, String); 5] {
    [
        ("TIDEGATE_GROUP", name.to_string()),
        ("TIDEGATE_STREAM", delivery.stream.to_string()),
        ("TIDEGATE_POSITION", delivery.position.to_string()),
        ("TIDEGATE_ATTEMPT", delivery.attempt.to_string()),
        ("TIDEGATE_TOKEN", delivery.lease.token.to_string()),
    ]
}

/// Appends a delivery as a line; the members are those of a claim over HTTP, and the group and the stream.
fn write_delivery(name: &ModuleName, delivery: &Delivery, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let Delivery { stream, position, attempt, lease, .. } = delivery;
    let token = lease.token;
    // Names, tokens and positions hold nothing that JSON escapes.
    let written = write!(
        out,
        "{{\"token\":\"{token}\",\"group\":\"{name}\",\"stream\":\"{stream}\",\"position\":\"{position}\",\"attempt\":{attempt},\"event\":"
    );
    debug_assert!(written.is_ok(), "a vector takes every byte");
    cloudevents::write_json(&delivery.event, out);
    out.extend_from_slice(b"}\n");
}

/// An answer of a worker.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    token: String,
    outcome: Word,
    #[serde(default)]
    after: Option<Time>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    content_type: Option<String>,
}

/// What a worker says of a delivery; the words of settling over HTTP.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Done,
    Retry,
    Reject,
    Release,
}

impl Line {
    fn outcome(self) -> Result<Outcome> {
        let is_done = matches!(self.outcome, Word::Done);
        if !is_done && (self.result.is_some() || self.content_type.is_some()) {
            return Err(Fault::invalid("only what is done has a result"));
        }
        let after = self.after.map(Duration::from);
        let reason = |otherwise: &str| self.reason.clone().unwrap_or_else(|| otherwise.to_owned());
        Ok(match self.outcome {
            Word::Done => match &self.result {
                Some(result) => Outcome::answered(Answer::of_json(result, self.content_type.as_deref())?),
                None => Outcome::DONE,
            },
            Word::Retry => {
                let failure = Failure::new(FaultClass::Transient, reason("worker asked for a retry"));
                Outcome::Failed(Failure { after, ..failure })
            }
            Word::Reject => Outcome::Reject(Failure::new(FaultClass::Invalid, reason("worker rejected the event"))),
            Word::Release => after.map_or(Outcome::Interrupted, Outcome::Snooze),
        })
    }
}

/// One batch on its way through a worker.
pub(super) struct Exchange<'a> {
    name: &'a ModuleName,
    tokens: Vec<String>,
    input: Vec<u8>,
    answers: &'a mut Answers,
    /// Longest line.
    line_max: usize,
    /// Answers for nobody.
    strange: u64,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(name: &'a ModuleName, batch: &[Delivery], answers: &'a mut Answers, results: bool) -> Self {
        let tokens = batch.iter().map(|delivery| delivery.lease.token.to_string()).collect();
        let mut input = Vec::new();
        for delivery in batch {
            write_delivery(name, delivery, &mut input);
        }
        let line_max = limits::ANSWER_BYTES_MAX + if results { limits::RESULT_BYTES_MAX } else { 0 };
        Self { name, tokens, input, answers, line_max, strange: 0 }
    }

    /// Gives the worker its lines and takes its answers until there is one for each delivery.
    pub(super) async fn run(&mut self, child: &mut Child) -> Result<(), Failure> {
        let read = {
            let (stdin, stdout, errors, most) = (&mut child.stdin, &mut child.stdout, &mut child.errors, child.output);
            let most = most.saturating_mul(self.tokens.len().max(1));
            let input = std::mem::take(&mut self.input);
            let feed = async {
                if let Some(stdin) = stdin
                    && stdin.write_all(&input).await.is_ok()
                {
                    drop(stdin.flush().await);
                }
                // The end of the exchange is in the answers, whatever becomes of the input.
                std::future::pending::<()>().await;
            };
            let listen = async {
                errors.pump().await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                read = self.read(stdout, most) => read,
                () = feed => Ok(()),
                () = listen => Ok(()),
            }
        };
        if self.strange > 0 {
            let (name, count) = (self.name, self.strange);
            tracing::warn!(group = %name, count, "worker of {name} gave {count} answers that nobody waited for");
        }
        match read {
            Ok(()) => Ok(()),
            Err(Broken::Ended) => {
                let how = child.end().await;
                let words = child.last_words();
                let said = if words.is_empty() { String::new() } else { format!(": {words}") };
                Err(Failure::new(FaultClass::Poison, format!("worker ended before it answered ({how}){said}")))
            }
            Err(Broken::Said(what)) => Err(Failure::new(FaultClass::Poison, what)),
        }
    }

    async fn read(&mut self, stdout: &mut tokio::process::ChildStdout, most: usize) -> Result<(), Broken> {
        let (mut piece, mut line, mut total) = (vec![0; 16 * 1024], Vec::new(), 0);
        loop {
            let Ok(length @ 1..) = stdout.read(&mut piece).await else { return Err(Broken::Ended) };
            total += length;
            for byte in piece.iter().take(length) {
                if *byte != b'\n' {
                    line.push(*byte);
                    continue;
                }
                self.take(&line)?;
                line.clear();
            }
            if total > most {
                return Err(Broken::Said(format!("worker wrote more than {most} bytes to standard output")));
            }
            if line.len() > self.line_max {
                let most = self.line_max;
                return Err(Broken::Said(format!("worker answered a line of more than {most} bytes")));
            }
            // Half a line after the last answer would be the beginning of nobody's answer.
            if line.is_empty() && self.answers.iter().all(Option::is_some) {
                return Ok(());
            }
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Broken> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let wrong = |why: &dyn std::fmt::Display| {
            let text = String::from_utf8_lossy(line);
            let shown: String = text.chars().take(SHOWN).collect();
            Broken::Said(format!("worker answered what is no answer ({why}): {shown:?}"))
        };
        let answer: Line = serde_json::from_slice(line).map_err(|error| wrong(&error))?;
        let found = self.tokens.iter().position(|token| *token == answer.token);
        match found.and_then(|index| self.answers.get_mut(index)) {
            // The first answer counts.
            Some(slot @ None) => *slot = Some(answer.outcome().map_err(|fault| wrong(&fault))?),
            Some(Some(_)) | None => self.strange += 1,
        }
        Ok(())
    }
}

/// Why an exchange came to no good end.
enum Broken {
    /// The worker closed its output or died.
    Ended,
    Said(String),
}

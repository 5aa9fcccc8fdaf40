//! A listener that speaks the part of the Redis protocol that programs on Redis Streams use, so that they run on any engine.
//!
//! Streams and groups are those of the configuration. A connection works on one request after the other; what was sent
//! together is answered together, and events that were added together become durable together.

mod args;
mod groups;
mod lent;
mod streams;
mod talk;
mod wire;

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use tidegate_core::{clock::Clock, event::Event, fault::Result, limits, names::StreamName, service::Stop};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

pub(crate) use self::lent::Lent;
use self::{
    args::{Args, Refusal},
    talk::Talk,
    wire::{Reply, Words},
};
use crate::{Control, Role};

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 * 1024;
/// Wait after the system refused to hand over a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Time in which a client must take an answer.
const WRITE: Duration = Duration::from_secs(60);
/// Time that a connection may be kept open without a request.
const IDLE: Duration = Duration::from_secs(limits::RESP_IDLE_SECONDS_MAX);
/// Time in which a request must be complete once it has begun.
const WHOLE: Duration = Duration::from_secs(limits::REQUEST_SECONDS_MAX);

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Reply, Refusal>> + Send + 'a>>;

/// Who answers a command.
#[derive(Clone, Copy)]
enum Run {
    /// Needs nothing but the connection.
    Here(fn(&mut Talk, Args) -> Result<Reply, Refusal>),
    /// Asks the node.
    There(for<'a> fn(&'a Talk, Args) -> Answer<'a>),
    /// Adds an event.
    Add,
}

/// A command: its name, who may give it, who answers.
struct Command {
    name: &'static str,
    /// None: whoever can reach the listener may give it.
    role: Option<Role>,
    run: Run,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const fn here(name: &'static str, role: Option<Role>, run: fn(&mut Talk, Args) -> Result<Reply, Refusal>) -> Command {
    Command { name, role, run: Run::Here(run) }
}

const fn there(name: &'static str, role: Role, run: for<'a> fn(&'a Talk, Args) -> Answer<'a>) -> Command {
    Command { name, role: Some(role), run: Run::There(run) }
}

/// All commands.
static COMMANDS: &[Command] = &[
    here("AUTH", None, talk::auth),
    here("HELLO", None, talk::hello),
    here("QUIT", None, talk::quit),
    here("PING", Some(Role::Viewer), talk::ping),
    here("ECHO", Some(Role::Viewer), talk::echo),
    here("SELECT", Some(Role::Viewer), talk::select),
    here("CLIENT", Some(Role::Viewer), talk::client),
    here("COMMAND", Some(Role::Viewer), talk::command),
    here("INFO", Some(Role::Viewer), talk::info),
    Command { name: "XADD", role: Some(Role::Operator), run: Run::Add },
    there("XLEN", Role::Viewer, |talk, args| Box::pin(streams::xlen(talk, args))),
    there("XRANGE", Role::Viewer, |talk, args| Box::pin(streams::xrange(talk, args))),
    there("XREVRANGE", Role::Viewer, |talk, args| Box::pin(streams::xrevrange(talk, args))),
    there("XDEL", Role::Operator, |talk, args| Box::pin(streams::xdel(talk, args))),
    here("XTRIM", Some(Role::Operator), streams::xtrim),
    there("TYPE", Role::Viewer, |talk, args| Box::pin(streams::kind(talk, args))),
    there("EXISTS", Role::Viewer, |talk, args| Box::pin(streams::exists(talk, args))),
    there("SCAN", Role::Viewer, |talk, args| Box::pin(streams::scan(talk, args))),
    there("XGROUP", Role::Operator, |talk, args| Box::pin(groups::xgroup(talk, args))),
    there("XREADGROUP", Role::Operator, |talk, args| Box::pin(groups::xreadgroup(talk, args))),
    there("XACK", Role::Operator, |talk, args| Box::pin(groups::xack(talk, args))),
    there("XCLAIM", Role::Operator, |talk, args| Box::pin(groups::xclaim(talk, args))),
    there("XAUTOCLAIM", Role::Operator, |talk, args| Box::pin(groups::xautoclaim(talk, args))),
    there("XPENDING", Role::Viewer, |talk, args| Box::pin(groups::xpending(talk, args))),
    there("XINFO", Role::Viewer, |talk, args| Box::pin(groups::xinfo(talk, args))),
];

/// Finds the command of a request.
fn find(request: &Words) -> Result<&'static Command, Refusal> {
    let name = request.first().map_or(&[][..], |name| name);
    let found = COMMANDS.iter().find(|command| name.eq_ignore_ascii_case(command.name.as_bytes()));
    found.ok_or_else(|| Refusal::new(format!("unknown command {:?} here", String::from_utf8_lossy(name))))
}

/// Serves the Redis protocol until `stop` drains and what is being worked on is answered, or it aborts.
///
/// Consumers settle over these connections: give it a `stop` that drains only after the groups have.
pub async fn serve_redis(listener: TcpListener, control: &Control, stop: Stop, clock: Clock) -> Result<()> {
    let mut held = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if held.len() < limits::CONNECTIONS_MAX => {
                    let talk = Talk::new(Arc::clone(&control.0), stop.clone());
                    held.spawn(hold(stream, talk, stop.clone(), clock.clone()));
                }
                Ok((mut stream, _)) => {
                    // Whoever does not take it at once is not told.
                    drop(stream.try_write(b"-ERR max number of clients reached\r\n"));
                    drop(stream.shutdown().await);
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection of the Redis protocol");
                    clock.sleep(ACCEPT_RETRY).await;
                }
            },
            Some(_) = held.join_next(), if !held.is_empty() => {}
            () = stop.draining() => break,
        }
    }
    drop(listener);
    loop {
        tokio::select! {
            ended = held.join_next() => if ended.is_none() { return Ok(()) },
            // Dropping the set ends the connections.
            () = stop.aborted() => return Ok(()),
        }
    }
}

/// Works on the requests of one client until it leaves.
async fn hold(mut stream: TcpStream, mut talk: Talk, stop: Stop, clock: Clock) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut input = BytesMut::new();
    let mut out = Vec::new();
    loop {
        let mut requests = Vec::new();
        let wrong = loop {
            match wire::take(&mut input) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break None,
                Err(wrong) => break Some(wrong),
            }
        };
        if !answer_all(&mut stream, &mut input, &mut talk, requests, &mut out).await {
            return;
        }
        if let Some(wrong) = wrong {
            Reply::Refused(format!("ERR {wrong}")).write(&mut out);
        }
        if !out.is_empty() {
            tokio::select! {
                written = stream.write_all(&out) => if written.is_err() { return },
                () = clock.sleep(WRITE) => return,
                () = stop.aborted() => return,
            }
            out.clear();
            out.shrink_to(READ_BYTES);
        }
        if wrong.is_some() || talk.is_over() {
            drop(stream.shutdown().await);
            return;
        }
        let patience = if input.is_empty() { IDLE } else { WHOLE };
        input.reserve(READ_BYTES);
        tokio::select! {
            read = stream.read_buf(&mut input) => if !matches!(read, Ok(1..)) { return },
            () = clock.sleep(patience) => return,
            () = stop.draining() => return,
        }
    }
}

/// Answers requests in their order; false when the client has left over it.
async fn answer_all(
    stream: &mut TcpStream,
    input: &mut BytesMut,
    talk: &mut Talk,
    requests: Vec<Words>,
    out: &mut Vec<u8>,
) -> bool {
    // Events for one stream that came one behind the other.
    let mut added: Option<(StreamName, Vec<Event>)> = None;
    for request in requests {
        let command = match find(&request).and_then(|command| talk.admit(command.role, command.name).map(|()| command))
        {
            Ok(command) => command,
            Err(refusal) => {
                add(talk, &mut added, out).await;
                Reply::Refused(refusal.0).write(out);
                continue;
            }
        };
        let args = Args::new(command.name, request);
        let answer = match command.run {
            Run::Add => match streams::addition(talk, args) {
                Ok(addition) => {
                    if added.as_ref().is_some_and(|(stream, all)| {
                        *stream != addition.stream || all.len() >= limits::BATCH_EVENTS_MAX
                    }) {
                        add(talk, &mut added, out).await;
                    }
                    added.get_or_insert_with(|| (addition.stream, Vec::new())).1.push(addition.event);
                    continue;
                }
                Err(refusal) => Err(refusal),
            },
            Run::Here(run) => {
                add(talk, &mut added, out).await;
                run(talk, args)
            }
            Run::There(run) => {
                add(talk, &mut added, out).await;
                let work = run(talk, args);
                match while_there(stream, input, work).await {
                    Some(answer) => answer,
                    None => return false,
                }
            }
        };
        add(talk, &mut added, out).await;
        answer.unwrap_or_else(|refusal| Reply::Refused(refusal.0)).write(out);
        if talk.is_over() {
            break;
        }
    }
    add(talk, &mut added, out).await;
    true
}

async fn add(talk: &Talk, added: &mut Option<(StreamName, Vec<Event>)>, out: &mut Vec<u8>) {
    if let Some((stream, events)) = added.take() {
        streams::add(talk, &stream, events).await.iter().for_each(|reply| reply.write(out));
    }
}

/// Lets work go on as long as the client is there: one that waits for something new and is gone should get nothing. What it
/// sends meanwhile is kept for later.
async fn while_there(
    stream: &mut TcpStream,
    input: &mut BytesMut,
    mut work: Answer<'_>,
) -> Option<Result<Reply, Refusal>> {
    loop {
        let has_room = input.len() < limits::BODY_BYTES_MAX;
        input.reserve(if has_room { READ_BYTES } else { 0 });
        tokio::select! {
            biased;
            answer = &mut work => return Some(answer),
            read = stream.read_buf(input), if has_room => if !matches!(read, Ok(1..)) { return None },
        }
    }
}

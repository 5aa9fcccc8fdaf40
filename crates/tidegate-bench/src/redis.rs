//! The peer Redis, `appendfsync always`: started on a free port, spoken to in RESP by hand.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use tempfile::TempDir;
use tidegate_core::clock::Clock;

use crate::{
    drive::{Answer, Dialog, Driven, Plan, drive},
    process::Owned,
};

/// Name of the series, and what is said when the server is not there.
pub(crate) const NAME: &str = "Redis always";

/// How much of what the engine does is done by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// XADD with one field; XREADGROUP, and a transaction of XACK and ledger.
    Plain,
    /// A publish that knows repeats, with the fields of an envelope; a ledger that is asked before it is written.
    Once,
    /// XADD, XREADGROUP and XACK: the ledger is the node's.
    Node,
}

/// A Redis server of ours.
pub(crate) struct Redis {
    pub(crate) process: Owned,
    address: SocketAddr,
    _dir: TempDir,
}

/// Returns the version of the server on the path, when there is one.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("redis-server").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().find_map(|word| word.strip_prefix("v=").map(str::to_owned))
}

/// Finds a port that nobody listens on.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Redis {
    pub(crate) fn start(parent: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tidegate-bench-redis-").tempdir_in(parent)?;
        let address = free_address()?;
        let settings = [
            ("--port", address.port().to_string()),
            ("--bind", address.ip().to_string()),
            ("--dir", dir.path().display().to_string()),
            ("--appendonly", "yes".to_owned()),
            ("--appendfsync", "always".to_owned()),
            // No snapshots and no rewrites: neither would be to its advantage here.
            ("--auto-aof-rewrite-percentage", "0".to_owned()),
            ("--save", String::new()),
        ];
        let mut command = Command::new("redis-server");
        command
            .args(settings.iter().flat_map(|(name, value)| [*name, value]))
            .stdout(Stdio::null())
            .stdin(Stdio::null());
        let redis = Self { process: Owned::spawn(&mut command)?, address, _dir: dir };
        redis.wait_until_ready()?;
        Ok(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let watch = Clock::real().stopwatch();
        loop {
            if self.call(&[b"PING"], 1).is_ok_and(|answer| answer.starts_with("+PONG")) {
                return Ok(());
            }
            ensure!(watch.elapsed() < Duration::from_secs(10), "redis-server did not answer");
            std::thread::yield_now();
        }
    }

    /// Makes one call and returns a line of the answer, counted from 1.
    fn call(&self, words: &[&[u8]], wanted: usize) -> Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        let mut out = Vec::new();
        command(&mut out, words);
        stream.write_all(&out)?;
        let line = BufReader::new(stream).lines().nth(wanted.saturating_sub(1));
        Ok(line.transpose()?.unwrap_or_default())
    }

    /// Publishes on so many connections, plain or in a script that knows repeats.
    pub(crate) fn publish(&self, form: Form, size: usize, connections: usize, plan: Plan) -> Result<Driven> {
        if form != Form::Once {
            return publish(self.address, size, connections, plan);
        }
        let script = self.call(&[b"SCRIPT", b"LOAD", ONCE], 2)?;
        let dialogs = (0..connections)
            .map(|_| PublishOnce { body: random(size), script: script.clone(), next: fastrand::u64(..) })
            .collect();
        drive(self.address, dialogs, plan)
    }

    /// Reads so many events in a group, acknowledges them and remembers each in a ledger, all in one transaction per batch;
    /// with [`Form::Once`] it asks the ledger first, as it must be asked when an event may come again.
    pub(crate) fn settle(&self, form: Form, size: usize, workers: usize, batch: usize, count: u64) -> Result<Driven> {
        fill(self.address, size, count)?;
        let answer = self.call(&[b"XGROUP", b"CREATE", STREAM, b"work", b"0"], 1)?;
        ensure!(answer.starts_with("+OK"), "make a group in Redis: {answer}");
        consume(self.address, form, workers, batch)
    }
}

/// Publishes with XADD on so many connections.
pub(crate) fn publish(address: SocketAddr, size: usize, connections: usize, plan: Plan) -> Result<Driven> {
    let dialogs = (0..connections).map(|_| Publish { body: random(size) }).collect();
    drive(address, dialogs, plan)
}

/// As long as it takes.
const WHOLE: Plan = Plan { depth: 1, warm: Duration::ZERO, time: Duration::from_secs(600), rate: None };

/// Publishes so many events.
pub(crate) fn fill(address: SocketAddr, size: usize, count: u64) -> Result<()> {
    let left = std::rc::Rc::new(std::cell::Cell::new(count));
    let fill = (0..4).map(|_| Fill { body: random(size), left: left.clone(), pending: Vec::new() }).collect();
    drive(address, fill, Plan { depth: 500, ..WHOLE })?;
    Ok(())
}

/// Reads everything in the group and acknowledges it.
pub(crate) fn consume(address: SocketAddr, form: Form, workers: usize, batch: usize) -> Result<Driven> {
    let dialogs = (0..workers).map(|number| Consume::new(form, number, batch)).collect();
    drive(address, dialogs, WHOLE)
}

const STREAM: &[u8] = b"events";

/// Appends an event unless its id was seen in the last ten minutes.
const ONCE: &[u8] = b"if redis.call('SET', KEYS[2], 1, 'NX', 'PX', 600000) then \
    return redis.call('XADD', KEYS[1], '*', unpack(ARGV)) end return ''";

/// Random letters: fields that are no envelope must be text for a node.
fn random(size: usize) -> Vec<u8> {
    std::iter::repeat_with(fastrand::alphanumeric).take(size).map(|letter| letter as u8).collect()
}

/// Appends a command in RESP.
fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    head(out, words.len());
    words.iter().for_each(|one| word(out, one));
}

fn head(out: &mut Vec<u8>, words: usize) {
    out.extend_from_slice(format!("*{words}\r\n").as_bytes());
}

fn word(out: &mut Vec<u8>, word: &[u8]) {
    out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

/// Reads the line at `at` without its type; returns it and where the next one starts.
fn line(input: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = input.get(at..)?;
    let end = rest.iter().position(|byte| *byte == b'\r')?;
    (rest.len() > end + 1).then(|| (&rest[1..end], at + end + 2))
}

fn number(text: &[u8]) -> i64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(-1)
}

/// Skips the value at `at`, calling `each` on every string in it; none while it is not complete.
fn skip<'a>(input: &'a [u8], at: usize, each: &mut impl FnMut(&'a [u8])) -> Result<Option<usize>> {
    let Some((text, next)) = line(input, at) else { return Ok(None) };
    match input[at] {
        b'+' | b':' => Ok(Some(next)),
        b'-' => bail!("Redis refused: {}", String::from_utf8_lossy(text)),
        b'$' => {
            let Ok(length) = usize::try_from(number(text)) else { return Ok(Some(next)) };
            if input.len() < next + length + 2 {
                return Ok(None);
            }
            each(&input[next..next + length]);
            Ok(Some(next + length + 2))
        }
        b'*' => {
            let mut at = next;
            for _ in 0..number(text).max(0) {
                match skip(input, at, each)? {
                    Some(next) => at = next,
                    None => return Ok(None),
                }
            }
            Ok(Some(at))
        }
        other => bail!("Redis answered with {:?}", char::from(other)),
    }
}

/// XADD for ever.
struct Publish {
    body: Vec<u8>,
}

impl Dialog for Publish {
    fn ask(&mut self, out: &mut Vec<u8>) -> bool {
        command(out, &[b"XADD", STREAM, b"*", b"d", &self.body]);
        true
    }

    fn answer(&mut self, input: &[u8]) -> Result<Option<Answer>> {
        Ok(skip(input, 0, &mut |_| ())?.map(|used| Answer { used, messages: 1 }))
    }
}

/// For ever as well, each with an id of its own and all fields of an envelope.
struct PublishOnce {
    body: Vec<u8>,
    script: String,
    next: u64,
}

impl Dialog for PublishOnce {
    fn ask(&mut self, out: &mut Vec<u8>) -> bool {
        self.next = self.next.wrapping_add(1);
        let id = format!("{:016x}", self.next);
        let seen = format!("seen:{id}");
        const NOBODY: &[u8] = b"00000000-0000-0000-0000-000000000000";
        let fields: [(&[u8], &[u8]); 9] = [
            (b"event_id", id.as_bytes()),
            (b"event_type", b"bench.event"),
            (b"topic", STREAM),
            (b"schema_version", b"1"),
            (b"occurred_at", b"2026-01-01T00:00:00.000Z"),
            (b"tenant_id", NOBODY),
            (b"aggregate_id", NOBODY),
            (b"aggregate_type", b"event"),
            (b"payload", &self.body),
        ];
        head(out, 5 + 2 * fields.len());
        [b"EVALSHA", self.script.as_bytes(), b"2", STREAM, seen.as_bytes()].iter().for_each(|one| word(out, one));
        for (name, value) in fields {
            word(out, name);
            word(out, value);
        }
        true
    }

    fn answer(&mut self, input: &[u8]) -> Result<Option<Answer>> {
        Ok(skip(input, 0, &mut |_| ())?.map(|used| Answer { used, messages: 1 }))
    }
}

/// XADD until so many are there.
struct Fill {
    body: Vec<u8>,
    left: std::rc::Rc<std::cell::Cell<u64>>,
    pending: Vec<u8>,
}

impl Dialog for Fill {
    fn ask(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(left) = self.left.get().checked_sub(1) else { return false };
        self.left.set(left);
        if self.pending.is_empty() {
            command(&mut self.pending, &[b"XADD", STREAM, b"*", b"d", &self.body]);
        }
        out.extend_from_slice(&self.pending);
        true
    }

    fn answer(&mut self, input: &[u8]) -> Result<Option<Answer>> {
        Ok(skip(input, 0, &mut |_| ())?.map(|used| Answer { used, messages: 1 }))
    }
}

/// A worker: one round trip settles a batch with its ledger entries and reads the next.
struct Consume {
    form: Form,
    name: String,
    batch: usize,
    /// Ids that were read and are not acknowledged.
    held: Vec<Vec<u8>>,
    /// How many answers the last request has, and how many messages it settled.
    expected: usize,
    settled: u64,
    is_empty: bool,
}

impl Consume {
    fn new(form: Form, number: usize, batch: usize) -> Self {
        Self { form, name: format!("w{number}"), batch, held: Vec::new(), expected: 0, settled: 0, is_empty: false }
    }
}

impl Dialog for Consume {
    fn ask(&mut self, out: &mut Vec<u8>) -> bool {
        if self.is_empty && self.held.is_empty() {
            return false;
        }
        self.expected = 1;
        self.settled = self.held.len() as u64;
        let ledger = |id: &Vec<u8>| [b"ledger:", &id[..]].concat();
        if !self.held.is_empty() {
            if self.form == Form::Node {
                head(out, 3 + self.held.len());
                [b"XACK", STREAM, b"work"].iter().for_each(|one| word(out, one));
                self.held.iter().for_each(|id| word(out, id));
                self.expected += 1;
            }
            if self.form == Form::Once {
                head(out, 1 + self.held.len());
                word(out, b"MGET");
                self.held.iter().for_each(|id| word(out, &ledger(id)));
                self.expected += 1;
            }
            if self.form != Form::Node {
                command(out, &[b"MULTI"]);
                head(out, 3 + self.held.len());
                [b"XACK", STREAM, b"work"].iter().for_each(|one| word(out, one));
                self.held.iter().for_each(|id| word(out, id));
                for id in &self.held {
                    command(out, &[b"SET", &ledger(id), b"1", b"EX", b"604800"]);
                }
                command(out, &[b"EXEC"]);
                self.expected += 3 + self.held.len();
            }
        }
        let count = self.batch.to_string();
        let name = self.name.as_bytes();
        command(out, &[b"XREADGROUP", b"GROUP", b"work", name, b"COUNT", count.as_bytes(), b"STREAMS", STREAM, b">"]);
        true
    }

    fn answer(&mut self, input: &[u8]) -> Result<Option<Answer>> {
        let mut at = 0;
        for _ in 1..self.expected {
            match skip(input, at, &mut |_| ())? {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        let mut strings = Vec::new();
        let Some(used) = skip(input, at, &mut |text| strings.push(text))? else { return Ok(None) };
        // The name of the stream, then for each event its id, a field and a value.
        self.held = strings.iter().skip(1).step_by(3).map(|id| id.to_vec()).collect();
        self.is_empty = self.held.is_empty();
        Ok(Some(Answer { used, messages: self.settled }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_skipped_when_they_are_complete() {
        let answer = b"*2\r\n$3\r\nabc\r\n*1\r\n:5\r\n+OK\r\n";
        let mut seen = Vec::new();
        let used = skip(answer, 0, &mut |text| seen.push(text)).unwrap().unwrap();
        assert_eq!((used, &answer[used..]), (21, &b"+OK\r\n"[..]));
        assert_eq!(seen, [b"abc"]);
        for end in 0..21 {
            assert!(skip(&answer[..end], 0, &mut |_| ()).unwrap().is_none(), "{end}");
        }
        assert!(skip(b"-ERR no\r\n", 0, &mut |_| ()).is_err());
    }
}

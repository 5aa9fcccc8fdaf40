//! A load generator: one thread, many connections, each with some requests under way, over epoll.
//!
//! It is meant to cost little beside the server that it measures, since both share the processors.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};
use tidegate_core::clock::{Clock, Stopwatch};

use crate::spread::Spread;

/// What is said on one connection.
pub(crate) trait Dialog {
    /// Appends the next request; false when there is none any more.
    fn ask(&mut self, out: &mut Vec<u8>) -> bool;

    /// Takes the answer to the oldest request from the front of `input`; none while it is not complete.
    fn answer(&mut self, input: &[u8]) -> Result<Option<Answer>>;
}

/// A complete answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// Bytes that it took.
    pub(crate) used: usize,
    /// Messages that it stands for.
    pub(crate) messages: u64,
}

/// What a generator did.
#[derive(Debug, Default)]
pub(crate) struct Driven {
    /// Messages inside the time that counts.
    pub(crate) messages: u64,
    /// Messages in all, warm-up and end included.
    pub(crate) total: u64,
    /// Time that counts.
    pub(crate) time: Duration,
    /// Times of the requests inside the time that counts.
    pub(crate) spread: Spread,
}

impl Driven {
    pub(crate) fn per_second(&self) -> f64 {
        self.messages as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// How long to drive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Requests under way on each connection.
    pub(crate) depth: usize,
    /// Time before counting starts.
    pub(crate) warm: Duration,
    /// Time that counts; it ends sooner when the dialogs have nothing more to ask.
    pub(crate) time: Duration,
    /// Requests per second at most; as many as are answered when absent.
    pub(crate) rate: Option<f64>,
}

const READ_BYTES: usize = 256 * 1024;
/// Longest silence of a server before the generator gives up.
const SILENCE: Duration = Duration::from_secs(30);

struct Connection<D> {
    stream: TcpStream,
    dialog: D,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Whether epoll tells when there is room to write.
    is_choked: bool,
    /// When the requests under way were asked, oldest first.
    asked: std::collections::VecDeque<Stopwatch>,
}

impl<D: Dialog> Connection<D> {
    fn ask(&mut self, count: usize, clock: &Clock) {
        for _ in 0..count {
            if !self.dialog.ask(&mut self.output) {
                return;
            }
            self.asked.push_back(clock.stopwatch());
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let mut done = 0;
        while done < self.output.len() {
            match self.stream.write(&self.output[done..]) {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.output.drain(..done);
        Ok(())
    }

    /// Reads what is there; returns the answers that are complete now.
    fn read(&mut self, scratch: &mut [u8], driven: &mut Driven, counts: bool) -> Result<usize> {
        let count = match self.stream.read(scratch) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        // Mostly a whole answer comes at once and is never copied.
        let kept = !self.input.is_empty();
        if kept {
            self.input.extend_from_slice(&scratch[..count]);
        }
        let input = std::mem::take(&mut self.input);
        let bytes = if kept { &input[..] } else { &scratch[..count] };
        let (mut used, mut answers) = (0, 0);
        while let Some(answer) = self.dialog.answer(&bytes[used..])? {
            used += answer.used;
            answers += 1;
            driven.total += answer.messages;
            let watch = self.asked.pop_front().context("an answer that nobody asked for")?;
            if counts {
                driven.messages += answer.messages;
                driven.spread.add(watch.elapsed());
            }
            if used == bytes.len() {
                break;
            }
        }
        self.input = bytes[used..].to_vec();
        Ok(answers)
    }
}

/// Keeps requests to a rate.
struct Pace {
    rate: Option<f64>,
    asked: u64,
    started: Stopwatch,
}

impl Pace {
    /// Says how many of the wanted requests may be made now.
    fn grant(&mut self, wanted: usize) -> usize {
        let Some(rate) = self.rate else { return wanted };
        let due = (self.started.elapsed().as_secs_f64() * rate) as u64;
        let granted = wanted.min(usize::try_from(due.saturating_sub(self.asked)).unwrap_or(usize::MAX));
        self.asked += granted as u64;
        granted
    }

    /// Says how long to wait for an answer before the next look.
    fn patience(&self) -> Timespec {
        let wait = if self.rate.is_some() { Duration::from_millis(1) } else { SILENCE };
        Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: i64::from(wait.subsec_nanos()) }
    }
}

/// Drives dialogs against a server, one connection each, until the time is up and every request is answered.
pub(crate) fn drive<D: Dialog>(address: SocketAddr, dialogs: Vec<D>, plan: Plan) -> Result<Driven> {
    let clock = Clock::real();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(dialogs.len());
    for (number, dialog) in dialogs.into_iter().enumerate() {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        connections.push(Connection {
            stream,
            dialog,
            input: Vec::new(),
            output: Vec::new(),
            is_choked: false,
            asked: std::collections::VecDeque::new(),
        });
    }
    let mut pace = Pace { rate: plan.rate, asked: 0, started: clock.stopwatch() };
    let mut driven = Driven::default();
    let mut scratch = vec![0; READ_BYTES];
    let mut events = Vec::with_capacity(connections.len());
    let (started, mut counting) = (clock.stopwatch(), None::<Stopwatch>);
    let mut silent = clock.stopwatch();
    for connection in &mut connections {
        connection.ask(pace.grant(plan.depth), &clock);
        connection.write()?;
    }
    let mut is_over = false;
    while (pace.rate.is_some() && !is_over) || connections.iter().any(|connection| !connection.asked.is_empty()) {
        epoll::wait(&poll, spare_capacity(&mut events), Some(&pace.patience()))?;
        if !events.is_empty() {
            silent = clock.stopwatch();
        } else if silent.elapsed() > SILENCE && connections.iter().any(|connection| !connection.asked.is_empty()) {
            bail!("the server said nothing for {SILENCE:?}");
        }
        if counting.is_none() && started.elapsed() >= plan.warm {
            counting = Some(clock.stopwatch());
        }
        is_over = counting.as_ref().is_some_and(|counting| counting.elapsed() >= plan.time);
        if is_over && driven.time.is_zero() {
            driven.time = counting.as_ref().map(Stopwatch::elapsed).unwrap_or_default();
        }
        for event in events.drain(..) {
            let number = usize::try_from(event.data.u64())?;
            let connection = connections.get_mut(number).context("an event of no connection")?;
            let answers = connection.read(&mut scratch, &mut driven, counting.is_some() && !is_over)?;
            if !is_over {
                connection.ask(pace.grant(answers), &clock);
            }
            connection.write()?;
            let choked = !connection.output.is_empty();
            if choked != connection.is_choked {
                connection.is_choked = choked;
                let flags = if choked { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
                epoll::modify(&poll, &connection.stream, event.data, flags)?;
            }
        }
        if pace.rate.is_some() && !is_over {
            for connection in connections.iter_mut().filter(|connection| connection.asked.len() < plan.depth) {
                connection.ask(pace.grant(plan.depth - connection.asked.len()), &clock);
                connection.write()?;
            }
        }
    }
    if driven.time.is_zero() {
        driven.time = counting.as_ref().map(Stopwatch::elapsed).unwrap_or_default();
    }
    Ok(driven)
}

//! `tidegate-bench pickup`: at a steady rate, the time from the acceptance of an event until a handler has it.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use async_trait::async_trait;
use clap::Args;
use parking_lot::Mutex;
use tidegate_core::{
    clock::{Clock, Stopwatch},
    delivery::{Delivery, Outcome},
    handler::Handler,
    notice::Notices,
    service::Context,
};
use tidegate_rules::Stages;
use tokio::task::JoinSet;

use crate::{
    Settings,
    board::{Board, Sense},
    bodies::Bodies,
    drive::Dialog as _,
    engine::{Crew, Works},
    engine_runs::{PROBE, open, repeat},
    http::{EVENTS, Head, Post, header},
    node::{Berth, configuration, pause},
    spread::{Spread, millis},
    stage::{Stage, group_spec, stream_name, stream_spec},
};

#[derive(Debug, Args)]
pub(crate) struct Pickup {
    #[command(flatten)]
    settings: Settings,
    /// Messages per second.
    #[arg(long, default_value_t = 300)]
    rate: u64,
    /// Workers of the group.
    #[arg(long, default_value_t = 8)]
    workers: usize,
}

/// Publishers side by side, each with its share of the rate.
const PUBLISHERS: u64 = 4;

/// When the publish of each message began, when it was answered, and when a handler had it; 0 = not yet.
struct Times {
    watch: Stopwatch,
    called: Vec<AtomicU64>,
    accepted: Vec<AtomicU64>,
    started: Vec<AtomicU64>,
}

impl Times {
    fn new(count: u64) -> Arc<Self> {
        let make = || (0..count).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { watch: Clock::real().stopwatch(), called: make(), accepted: make(), started: make() })
    }

    fn note(&self, times: &[AtomicU64], number: usize) {
        if let Some(time) = times.get(number) {
            time.store(u64::try_from(self.watch.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Returns the times from one moment to the other; a handler that was quicker than the answer counts as zero.
    fn spread(&self, from: &[AtomicU64]) -> Spread {
        let mut spread = Spread::default();
        for (from, to) in from.iter().zip(&self.started) {
            let (from, to) = (from.load(Ordering::Relaxed), to.load(Ordering::Relaxed));
            if from > 0 && to > 0 {
                spread.add(Duration::from_nanos(to.saturating_sub(from)));
            }
        }
        spread
    }
}

struct Noting(Arc<Times>);

#[async_trait]
impl Handler for Noting {
    async fn handle(&self, _: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        for delivery in batch {
            if let Some(number) = Bodies::number(&delivery.event) {
                self.0.note(&self.0.started, number);
            }
        }
        vec![Outcome::DONE; batch.len()]
    }
}

async fn in_process(stage: &Stage, settings: &Settings, ask: &Pickup, marked: bool) -> Result<Arc<Times>> {
    let times = Times::new((settings.seconds * ask.rate as f64) as u64);
    let mut spec = group_spec("work", "events");
    spec.mark_claims = marked;
    stage.store.declare_stream(&stream_spec("events")).await?;
    let crew = Crew { spec, workers: ask.workers, handler: Arc::new(Noting(times.clone())), stages: Stages::default() };
    let works = Works::start(&stage.store, Notices::default(), crew).await?;
    let bodies = Bodies::new(settings.size);
    let beat = ask.beat(times.watch.elapsed());
    let mut tasks = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let (times, bodies) = (times.clone(), bodies.clone());
        let (through, clock) = (works.publisher.clone(), works.cx.clock.clone());
        tasks.spawn(async move {
            for turn in beat.turns(publisher) {
                clock.sleep(beat.wait(turn, times.watch.elapsed())).await;
                let event = bodies.event();
                let number = Bodies::number(&event).context("an event without a number")?;
                times.note(&times.called, number);
                through.publish(&stream_name("events"), vec![event]).await?;
                times.note(&times.accepted, number);
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    works.stop().await?;
    Ok(times)
}

/// Times of one message on its way through a node, from a settings start.
#[derive(Debug, Default, Clone, Copy)]
struct Trip {
    sent: Option<Duration>,
    answered: Option<Duration>,
    arrived: Option<Duration>,
}

/// Trips by id, and the clock for them.
struct Trips {
    watch: Stopwatch,
    by_id: Mutex<HashMap<u64, Trip>>,
}

impl Trips {
    fn note(&self, id: u64, change: impl FnOnce(&mut Trip, Duration)) {
        let now = self.watch.elapsed();
        change(self.by_id.lock().entry(id).or_default(), now);
    }

    fn spread(&self, from: impl Fn(&Trip) -> Option<Duration>) -> Spread {
        let mut spread = Spread::default();
        for trip in self.by_id.lock().values() {
            if let (Some(from), Some(to)) = (from(trip), trip.arrived) {
                spread.add(to.saturating_sub(from));
            }
        }
        spread
    }

    fn is_complete(&self) -> bool {
        self.by_id.lock().values().all(|trip| trip.arrived.is_some())
    }
}

/// Reads one message from a connection; none when it was closed.
fn read_message(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<Option<(Head, Vec<u8>)>> {
    let mut scratch = [0; 16 * 1024];
    loop {
        if let Some(head) = Head::read(input)?
            && input.len() >= head.end()
        {
            return Ok(Some((head, input.drain(..head.end()).collect())));
        }
        let count = stream.read(&mut scratch)?;
        if count == 0 {
            return Ok(None);
        }
        input.extend_from_slice(&scratch[..count]);
    }
}

fn id_of(message: &[u8], head: Head) -> Option<u64> {
    let text = std::str::from_utf8(&message[..head.body]).ok()?;
    u64::from_str_radix(header(text, "ce-id")?, 16).ok()
}

/// Receives webhooks in threads of this process, so that both ends read one clock.
fn receive(trips: &Arc<Trips>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let trips = trips.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let trips = trips.clone();
            std::thread::spawn(move || serve(stream, &trips));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream, trips: &Trips) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::new();
    while let Some((head, message)) = read_message(&mut stream, &mut input)? {
        if let Some(id) = id_of(&message, head) {
            trips.note(id, |trip, now| trip.arrived = Some(now));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
    Ok(())
}

/// Publishing at a steady rate.
#[derive(Debug, Clone, Copy)]
struct Beat {
    /// When the first message is due.
    start: Duration,
    rate: u64,
    count: u64,
}

impl Beat {
    /// Returns the turns of one publisher.
    fn turns(self, publisher: u64) -> impl Iterator<Item = u64> {
        (publisher..self.count).step_by(PUBLISHERS as usize)
    }

    /// Returns the wait until a turn is due.
    fn wait(self, turn: u64, now: Duration) -> Duration {
        (self.start + Duration::from_secs_f64(turn as f64 / self.rate as f64)).saturating_sub(now)
    }
}

/// Publishes at its share of the rate over one connection.
fn send(address: SocketAddr, trips: &Trips, size: usize, publisher: u64, beat: Beat) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut post = Post::one(EVENTS, size, usize::try_from(publisher)?);
    let (mut out, mut input) = (Vec::new(), Vec::new());
    for turn in beat.turns(publisher) {
        pause(beat.wait(turn, trips.watch.elapsed()));
        out.clear();
        post.ask(&mut out);
        let head = Head::read(&out)?.context("a request of ours has no head")?;
        let id = id_of(&out, head).context("a request of ours has no id")?;
        trips.note(id, |trip, now| trip.sent = Some(now));
        stream.write_all(&out)?;
        let Some((head, answer)) = read_message(&mut stream, &mut input)? else {
            bail!("the node closed a connection")
        };
        ensure!(head.status == 200, "the node answered {}", String::from_utf8_lossy(&answer));
        trips.note(id, |trip, now| trip.answered = Some(now));
    }
    Ok(())
}

fn through_node(settings: &Settings, ask: &Pickup) -> Result<Arc<Trips>> {
    let trips = Arc::new(Trips { watch: Clock::real().stopwatch(), by_id: Mutex::default() });
    let receiver = receive(&trips)?;
    let group =
        format!("workers: {}, sink: {{ type: webhook, url: \"http://{receiver}/hook\", target: local }}", ask.workers);
    let targets = format!("targets:\n  local: {{ concurrency: {} }}\n", ask.workers);
    let berth = Berth::new(&settings.dir, settings.threads, &configuration(&group, &targets))?;
    let node = berth.start()?;
    let beat = ask.beat(trips.watch.elapsed());
    std::thread::scope(|scope| {
        let (trips, address) = (&trips, node.address);
        let start = |publisher| scope.spawn(move || send(address, trips, settings.size, publisher, beat));
        let senders: Vec<_> = (0..PUBLISHERS).map(start).collect();
        senders.into_iter().try_for_each(|sender| sender.join().map_err(|_| anyhow!("a publisher panicked"))?)
    })?;
    let watch = Clock::real().stopwatch();
    while !trips.is_complete() {
        ensure!(watch.elapsed() < Duration::from_secs(30), "some webhooks never came");
        pause(Duration::from_millis(5));
    }
    Ok(trips)
}

impl Pickup {
    fn beat(&self, start: Duration) -> Beat {
        Beat { start, rate: self.rate, count: (self.settings.seconds * self.rate as f64) as u64 }
    }

    pub(crate) fn run(&self) -> Result<()> {
        let settings = &self.settings;
        let mut board = open(&format!("pickup at {} msg/s", self.rate), settings);
        let runtime = settings.runtime()?;
        let names = ["engine, accepted → handler", "engine, accepted → handler, each claim synced first"];
        repeat(&mut board, settings, |board, _| {
            for (marked, name) in [false, true].into_iter().zip(names) {
                let stage = Stage::open(&settings.dir)?;
                let times = runtime.block_on(in_process(&stage, settings, self, marked))?;
                add(board, name, &times.spread(&times.accepted));
                add(board, &name.replace("accepted", "publish called"), &times.spread(&times.called));
            }
            let trips = through_node(settings, self)?;
            add(board, "node, accepted → webhook arrives", &trips.spread(|trip| trip.answered));
            add(board, "node, publish sent → webhook arrives", &trips.spread(|trip| trip.sent));
            Ok(())
        })?;
        for name in names.into_iter().chain(["node, accepted → webhook arrives"]) {
            let p50 = format!("{name}: p50");
            board.add_product(&format!("{p50} in syncs"), "syncs", &p50, PROBE, 1e-3);
            board.expect(&format!("{p50}, in syncs"), &format!("{p50} in syncs"), Sense::AtMost, 3.0, None);
            board.expect(&format!("{name}: p99"), &format!("{name}: p99"), Sense::AtMost, 10.0, Some(3.0));
        }
        board.note("a handler that has the event before its publisher has the answer counts as 0");
        board.print(PROBE);
        Ok(())
    }
}

/// Adds the middle and the end of a spread.
fn add(board: &mut Board, name: &str, spread: &Spread) {
    board.add(&format!("{name}: p50"), "ms", millis(spread.share(0.5)));
    board.add(&format!("{name}: p99"), "ms", millis(spread.share(0.99)));
    board.add(&format!("{name}: longest"), "ms", millis(spread.most()));
}

//! The log: one JetStream stream that holds every change to the files of the store, in the order in which they were made.
//!
//! Each message names the number that the one before it must have. So the server itself refuses whatever does not come
//! from the one who wrote last: two nodes that both believe to lead cannot both write.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc as blocking,
    },
    time::Duration,
};

use async_nats::{
    HeaderMap,
    jetstream::{message::PublishMessage, publish::PublishAck},
};
use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesOrdered};
use parking_lot::Mutex;
use tidegate_core::{
    clock::Clock,
    fault::{Fault, Origin},
};
use tokio::sync::{mpsc, oneshot, watch};

use super::link::{Head, Link};

/// Header that names the writer of a message.
pub(super) const WRITER: &str = "Tidegate-Writer";
/// Messages that may be on their way at once.
const FLYING_MAX: usize = 64;
/// Bytes that may wait for the server while nobody waits for them; then whoever writes more waits too.
const WAITING_MAX: usize = 32 << 20;
/// Longest time that one look at the end of the log may take while it is found out what has arrived.
const PROBE: Duration = Duration::from_secs(1);
/// Time between two tries to reach the server.
const REST: Duration = Duration::from_millis(100);

/// Why nothing can be written any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Another node has written: it leads now.
    Fenced,
    /// The server no longer has what it had acknowledged.
    Lost(String),
}

impl Ended {
    fn error(&self) -> io::Error {
        match self {
            Self::Fenced => io::Error::other("another node leads now"),
            Self::Lost(what) => io::Error::other(what.clone()),
        }
    }
}

/// One message to be written.
#[derive(Debug, Clone)]
pub(super) struct Write {
    /// Subject below that of the store.
    pub(super) subject: String,
    /// Whether it stands for all earlier ones of its subject, which go.
    pub(super) replaces: bool,
    pub(super) payload: Bytes,
}

#[derive(Debug)]
enum Order {
    Write(Write),
    /// Answered when everything before it is acknowledged.
    Barrier(Told),
}

/// Who waits for an acknowledgement: a thread, or a task.
#[derive(Debug)]
enum Told {
    Thread(blocking::SyncSender<io::Result<()>>),
    Task(oneshot::Sender<io::Result<()>>),
}

impl Told {
    /// Tells; who waited may have gone.
    fn tell(self, how: io::Result<()>) {
        match self {
            Self::Thread(thread) => drop(thread.try_send(how)),
            Self::Task(task) => drop(task.send(how)),
        }
    }
}

/// The way into the log of the one node that leads.
#[derive(Debug)]
pub(super) struct Log {
    orders: mpsc::UnboundedSender<Order>,
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<Ended>>,
    /// Most bytes of one message.
    pub(super) payload_max: usize,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    messages: AtomicU64,
    bytes: AtomicU64,
    /// Why the server does not acknowledge now; none while it does.
    trouble: Mutex<Option<String>>,
}

impl Log {
    /// Goes on behind a message that this writer has written.
    pub(super) fn start(link: &Arc<Link>, writer: String, last: u64) -> Arc<Self> {
        let (orders, queue) = mpsc::unbounded_channel();
        let (end, ended) = watch::channel(None);
        let shared = Arc::<Shared>::default();
        let task = Writer {
            link: Arc::clone(link),
            writer,
            acknowledged: last,
            last,
            flying: VecDeque::new(),
            shared: Arc::clone(&shared),
            end,
        };
        link.spawn(task.run(queue));
        Arc::new(Self { orders, shared, ended, payload_max: link.payload_max() })
    }

    /// Hands a message over. It will be written behind all before it, and nobody is told.
    pub(super) fn send(&self, write: Write) -> io::Result<()> {
        let waiting = self.shared.waiting.fetch_add(write.payload.len(), Ordering::AcqRel);
        self.orders.send(Order::Write(write)).map_err(|_| self.gone())?;
        if waiting > WAITING_MAX { self.barrier() } else { Ok(()) }
    }

    /// Waits until everything handed over before is acknowledged by the server.
    pub(super) fn barrier(&self) -> io::Result<()> {
        let (tell, told) = blocking::sync_channel(1);
        self.orders.send(Order::Barrier(Told::Thread(tell))).map_err(|_| self.gone())?;
        told.recv().unwrap_or_else(|_| Err(self.gone()))
    }

    /// Writes a message, and returns when it is acknowledged.
    pub(super) async fn write(&self, write: Write) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        self.shared.waiting.fetch_add(write.payload.len(), Ordering::AcqRel);
        self.orders.send(Order::Write(write)).map_err(|_| self.gone())?;
        self.orders.send(Order::Barrier(Told::Task(tell))).map_err(|_| self.gone())?;
        told.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> io::Error {
        self.ended.borrow().as_ref().map_or_else(|| io::Error::other("the store is closed"), Ended::error)
    }

    /// Why the server does not acknowledge now; none while it does.
    pub(super) fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().clone()
    }

    /// Returns when nothing can be written any more.
    pub(super) async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or(Ended::Fenced),
            Err(_) => Ended::Lost("the store is closed".to_owned()),
        }
    }

    /// Tells whether nothing can be written any more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Messages written and their bytes.
    pub(super) fn written(&self) -> (u64, u64) {
        (self.shared.messages.load(Ordering::Relaxed), self.shared.bytes.load(Ordering::Relaxed))
    }
}

/// A message on its way.
struct Flying {
    write: Write,
    number: u64,
    barriers: Vec<Told>,
}

struct Writer {
    link: Arc<Link>,
    writer: String,
    /// Number of the newest message that the server has acknowledged, and of the newest that was sent.
    acknowledged: u64,
    last: u64,
    flying: VecDeque<Flying>,
    shared: Arc<Shared>,
    end: watch::Sender<Option<Ended>>,
}

type Acks = FuturesOrdered<<async_nats::jetstream::context::PublishAckFuture as IntoFuture>::IntoFuture>;

impl Writer {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Order>) {
        let mut acks = Acks::new();
        let ended = loop {
            let good = tokio::select! {
                biased;
                Some(ack) = acks.next(), if !acks.is_empty() => self.answered(ack),
                order = queue.recv(), if self.flying.len() < FLYING_MAX => match order {
                    None => return,
                    Some(order) => self.carry_out(order, &mut acks).await,
                },
            };
            if !good {
                acks = Acks::new();
                if let Err(ended) = self.recover(&mut acks).await {
                    break ended;
                }
            }
        };
        let error = || Err(ended.error());
        for barrier in self.flying.drain(..).flat_map(|flying| flying.barriers) {
            barrier.tell(error());
        }
        queue.close();
        self.end.send_replace(Some(ended.clone()));
        while let Some(order) = queue.recv().await {
            if let Order::Barrier(barrier) = order {
                barrier.tell(error());
            }
        }
    }

    /// Takes in an answer of the server; false when something is wrong.
    fn answered<E>(&mut self, ack: Result<PublishAck, E>) -> bool {
        let Some(front) = self.flying.front() else { return true };
        if !ack.is_ok_and(|ack| ack.sequence == front.number) {
            return false;
        }
        self.acknowledge();
        true
    }

    fn acknowledge(&mut self) {
        let Some(done) = self.flying.pop_front() else { return };
        self.acknowledged = done.number;
        let bytes = done.write.payload.len();
        self.shared.waiting.fetch_sub(bytes, Ordering::AcqRel);
        self.shared.messages.fetch_add(1, Ordering::Relaxed);
        self.shared.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        for barrier in done.barriers {
            barrier.tell(Ok(()));
        }
    }

    /// Carries out an order; false when the message could not be sent.
    async fn carry_out(&mut self, order: Order, acks: &mut Acks) -> bool {
        match order {
            Order::Write(write) => {
                self.last += 1;
                self.flying.push_back(Flying { write, number: self.last, barriers: Vec::new() });
                self.send(self.flying.len() - 1, acks).await
            }
            Order::Barrier(barrier) => {
                match self.flying.back_mut() {
                    Some(flying) => flying.barriers.push(barrier),
                    None => barrier.tell(Ok(())),
                }
                true
            }
        }
    }

    async fn send(&self, index: usize, acks: &mut Acks) -> bool {
        let Some(Flying { write, number, .. }) = self.flying.get(index) else { return true };
        let publish = message(&self.writer, write, number - 1);
        match self.link.context.send_publish(self.link.subject(&write.subject), publish).await {
            Ok(ack) => {
                acks.push_back(ack.into_future());
                true
            }
            Err(_) => false,
        }
    }

    /// Finds out what of that which was sent has arrived, and sends the rest again.
    async fn recover(&mut self, acks: &mut Acks) -> Result<(), Ended> {
        let clock = Clock::real();
        let mut tries = 0_u32;
        loop {
            // What was asked of a server that has ended since is never answered.
            let head = tokio::time::timeout(PROBE, self.link.head()).await;
            match head.unwrap_or_else(|_| Err(Fault::unavailable(Origin::Store, "no answer"))) {
                Ok(Head::Last(last)) => match self.judge(last).await {
                    Ok(true) => {}
                    Ok(false) => {
                        clock.sleep(REST).await;
                        continue;
                    }
                    Err(ended) => return Err(ended),
                },
                // A server that has just started may not have found its streams yet.
                Ok(Head::Missing) if tries > 20 => {
                    return Err(Ended::Lost("the JetStream stream of the store is gone".to_owned()));
                }
                Ok(Head::Missing) | Err(_) => {
                    tries += 1;
                    *self.shared.trouble.lock() = Some("the NATS server does not acknowledge".to_owned());
                    self.link.nudge(tries).await;
                    clock.sleep(REST).await;
                    continue;
                }
            }
            tries = 0;
            let mut good = true;
            for index in 0..self.flying.len() {
                good = good && self.send(index, acks).await;
            }
            if good {
                *self.shared.trouble.lock() = None;
                return Ok(());
            }
            acks.clear();
            clock.sleep(REST).await;
        }
    }

    /// Compares what the server has with what was sent; false when it has to be asked again.
    async fn judge(&mut self, last: u64) -> Result<bool, Ended> {
        if last < self.acknowledged {
            let lost = self.acknowledged - last;
            return Err(Ended::Lost(format!("the NATS server has lost {lost} messages that it had acknowledged")));
        }
        if last > self.acknowledged {
            // Each names the one before it: if the last is ours, so are all between.
            match self.link.writer_of(last).await {
                Ok(Some(writer)) if writer == self.writer => {}
                Ok(_) => return Err(Ended::Fenced),
                Err(_) => return Ok(false),
            }
            while self.flying.front().is_some_and(|flying| flying.number <= last) {
                self.acknowledge();
            }
        }
        Ok(true)
    }
}

/// Makes a message that is written only right behind another one.
pub(super) fn message(writer: &str, write: &Write, behind: u64) -> PublishMessage {
    let mut headers = HeaderMap::new();
    headers.insert(WRITER, writer);
    if write.replaces {
        headers.insert("Nats-Rollup", "sub");
    }
    PublishMessage::build().payload(write.payload.clone()).headers(headers).expected_last_sequence(behind)
}

//! Publishers: single events at full speed, each with the same id until it is answered.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::{
    clock,
    http::{Answer, Connection},
    worker::AGAIN_AFTER,
};

pub(crate) const PUBLISHERS: usize = 16;

/// Order keys of each publisher; no other has them.
pub(crate) const KEYS: usize = 64;

/// Source of all events.
const SOURCE: &str = "/torture";

/// Where each node is now; nowhere between a kill and the next start.
#[derive(Debug, Default)]
pub(crate) struct Where(Mutex<BTreeMap<usize, SocketAddr>>);

impl Where {
    fn all(&self) -> MutexGuard<'_, BTreeMap<usize, SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, node: usize, address: Option<SocketAddr>) {
        match address {
            Some(address) => self.all().insert(node, address),
            None => self.all().remove(&node),
        };
    }

    /// One of those that run.
    pub(crate) fn get(&self) -> Option<SocketAddr> {
        fastrand::choice(self.all().values().copied())
    }

    /// A line for each that runs.
    pub(crate) fn lines(&self) -> String {
        self.all().values().map(|address| format!("{address}\n")).collect()
    }
}

/// What the threads of a run share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) node: Where,
    /// Whether publishers go home after the event they are at.
    pub(crate) is_over: AtomicBool,
    /// Whether publishers rest, because the workers are far behind.
    pub(crate) is_held: AtomicBool,
    /// Events in doubt that are given up after this instant; 0 = none yet.
    pub(crate) give_up_at: AtomicU64,
}

/// An acknowledged event; its number is its index.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) key: usize,
    pub(crate) seq: u64,
    pub(crate) position: String,
    pub(crate) acknowledged: bool,
}

/// What a publisher did.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) sent: Vec<Sent>,
    pub(crate) retries: u64,
    pub(crate) refused: u64,
    pub(crate) duplicates: u64,
    /// Sent once, yet answered as a duplicate.
    pub(crate) false_duplicates: Vec<String>,
}

impl Record {
    /// All that was sent, with its id.
    pub(crate) fn ids(&self, publisher: usize) -> impl Iterator<Item = (String, &Sent)> {
        self.sent.iter().enumerate().map(move |(number, sent)| (format!("{publisher}-{number}"), sent))
    }
}

/// Publishes until it is over.
pub(crate) fn publish(shared: &Shared, number: usize, seed: u64) -> Result<Record> {
    let mut random = fastrand::Rng::with_seed(seed ^ ((number as u64 + 1) << 32));
    let (mut record, mut seqs, mut connection) = (Record::default(), [0_u64; KEYS], None);
    while !shared.is_over.load(Ordering::Relaxed) {
        if shared.is_held.load(Ordering::Relaxed) {
            clock::pause(AGAIN_AFTER);
            continue;
        }
        let key = random.usize(..KEYS);
        let event =
            Event { id: format!("{number}-{}", record.sent.len()), key: format!("{number}.{key}"), seq: seqs[key] };
        let structured = random.bool();
        let mut sent = Sent { key, seq: seqs[key], position: String::new(), acknowledged: false };
        seqs[key] += 1;
        let mut tries = 0;
        while !sent.acknowledged && !is_given_up(shared) {
            tries += 1;
            match event.send(shared, &mut connection, structured) {
                Some(answer) if answer.status == 200 => {
                    let (position, duplicate) = read(&answer.json()?, &event.id)?;
                    sent.position = position;
                    sent.acknowledged = true;
                    record.duplicates += u64::from(duplicate);
                    if duplicate && tries == 1 {
                        record.false_duplicates.push(event.id.clone());
                    }
                }
                Some(answer) if matches!(answer.status, 429 | 503) => {
                    record.refused += 1;
                    clock::pause(AGAIN_AFTER);
                }
                // 504: the engine did not answer in time, and may have stored it all the same.
                Some(answer) if answer.status == 504 => clock::pause(AGAIN_AFTER),
                Some(answer) => bail!("publish of {}: {}", event.id, answer.text()),
                None => clock::pause(AGAIN_AFTER),
            }
        }
        record.retries += tries - 1;
        record.sent.push(sent);
    }
    Ok(record)
}

fn is_given_up(shared: &Shared) -> bool {
    let at = shared.give_up_at.load(Ordering::Relaxed);
    at > 0 && clock::now() > at
}

struct Event {
    id: String,
    key: String,
    seq: u64,
}

impl Event {
    /// Sends it once; none when there was no answer.
    fn send(&self, shared: &Shared, connection: &mut Option<Connection>, structured: bool) -> Option<Answer> {
        if connection.is_none() {
            *connection = Some(Connection::open(shared.node.get()?).ok()?);
        }
        let data = json!({"key": self.key, "seq": self.seq});
        let (headers, body) = if structured { self.structured(&data) } else { self.binary(&data) };
        let answer = connection.as_mut()?.ask("POST", "/v1/streams/work/events", &headers, body.as_bytes());
        if answer.is_err() {
            *connection = None;
        }
        answer.ok()
    }

    fn structured(&self, data: &Value) -> (String, String) {
        let event = json!({
            "specversion": "1.0", "id": self.id, "source": SOURCE, "type": "torture.event", "partitionkey": self.key,
            "data": data,
        });
        ("content-type: application/cloudevents+json\r\n".to_owned(), event.to_string())
    }

    fn binary(&self, data: &Value) -> (String, String) {
        let headers = format!(
            "ce-specversion: 1.0\r\nce-id: {}\r\nce-source: {SOURCE}\r\nce-type: torture.event\r\n\
             ce-partitionkey: {}\r\ncontent-type: application/json\r\n",
            self.id, self.key
        );
        (headers, data.to_string())
    }
}

/// Reads position and whether it was known from the answer to a publish.
fn read(answer: &Value, id: &str) -> Result<(String, bool)> {
    let accepted = &answer["accepted"][0];
    match (accepted["id"].as_str(), accepted["position"].as_str(), accepted["duplicate"].as_bool()) {
        (Some(found), Some(position), Some(duplicate)) if found == id => Ok((position.to_owned(), duplicate)),
        _ => bail!("publish of {id}: odd answer {answer}"),
    }
}

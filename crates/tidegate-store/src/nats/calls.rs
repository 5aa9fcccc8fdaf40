//! Calls from one node to the one that leads, and their answers: messages of NATS, in as many parts as it takes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{HeaderMap, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_core::fault::{Fault, FaultKind, Origin, Result, Retry};
use tokio::sync::oneshot;

use super::{link::Link, verbs::Call};

/// Version of what nodes say to each other.
pub(super) const VERSION: u32 = 1;
/// Header that says which part a message is, and of how many.
const PART: &str = "Tidegate-Part";
/// Most parts of one message.
const PARTS_MAX: usize = 4096;
/// Messages of which parts are missing that are kept; the oldest goes first.
const TORN_MAX: usize = 256;

/// What a node wants of the one that leads.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) version: u32,
    pub(super) node: String,
    pub(super) boot: u64,
    /// Calls for deliveries whose answers never came.
    pub(super) unheard: Vec<u64>,
    pub(super) what: What,
}

/// Kinds of requests.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum What {
    /// A sign of life.
    Hello,
    /// What the node works on; answered with what all do.
    Meet(String),
    /// It goes.
    Leave,
    /// A verb of the seam.
    Verb(Box<Call>),
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Answered {
    /// The answer, written down.
    With(Vec<u8>),
    /// Nobody leads now, or nobody there heard it.
    Nobody,
    /// No answer in time: it may have been carried out.
    Late,
}

/// Messages of which not all parts have come.
#[derive(Debug, Default)]
pub(super) struct Torn {
    parts: HashMap<String, Vec<Option<Bytes>>>,
    order: VecDeque<String>,
}

impl Torn {
    /// Takes in a part; returns the whole when it was the last one that was missing.
    pub(super) fn add(&mut self, key: &str, headers: Option<&HeaderMap>, payload: Bytes) -> Option<Bytes> {
        let Some(part) = headers.and_then(|headers| headers.get(PART)) else { return Some(payload) };
        let (index, count) = part.as_str().split_once('/')?;
        let (index, count): (usize, usize) = (index.parse().ok()?, count.parse().ok()?);
        if index >= count || count > PARTS_MAX {
            return None;
        }
        let parts = self.parts.entry(key.to_owned()).or_insert_with(|| {
            self.order.push_back(key.to_owned());
            vec![None; count]
        });
        *parts.get_mut(index)? = Some(payload);
        if parts.iter().all(Option::is_some) {
            let whole = self.parts.remove(key)?;
            self.order.retain(|other| *other != key);
            return Some(whole.into_iter().flatten().flatten().collect());
        }
        if self.order.len() > TORN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.parts.remove(&oldest);
        }
        None
    }
}

/// Sends a message in as many parts as it takes.
pub(super) async fn send(link: &Link, to: Subject, reply: Option<Subject>, body: Vec<u8>) -> Result<()> {
    let most = link.payload_max();
    let body = Bytes::from(body);
    let count = body.len().div_ceil(most).max(1);
    for index in 0..count {
        let part = body.slice(index * most..body.len().min((index + 1) * most));
        let mut headers = HeaderMap::new();
        if count > 1 {
            headers.insert(PART, format!("{index}/{count}").as_str());
        }
        let sent = match &reply {
            Some(reply) => link.client.publish_with_reply_and_headers(to.clone(), reply.clone(), headers, part).await,
            None => link.client.publish_with_headers(to.clone(), headers, part).await,
        };
        sent.map_err(|error| link.fault("tell another node", &error))?;
    }
    Ok(())
}

/// Subject of the calls to a process. Each has its own, so that no call is carried out by two that believe to lead.
pub(super) fn subject(leader: u64) -> String {
    format!("call.{leader:016x}")
}

/// The way to the node that leads.
#[derive(Debug)]
pub(super) struct Caller {
    link: Arc<Link>,
    /// Subject under which answers come.
    answers: String,
    next: AtomicU64,
    waiting: Arc<Mutex<HashMap<String, oneshot::Sender<Option<Bytes>>>>>,
}

impl Caller {
    pub(super) async fn open(link: &Arc<Link>, boot: u64) -> Result<Self> {
        let answers = link.subject(&format!("answer.{boot:016x}"));
        let subscribed = link.client.subscribe(format!("{answers}.*")).await;
        let subscriber = subscribed.map_err(|error| link.fault("listen for answers", &error))?;
        let waiting = Arc::<Mutex<HashMap<String, oneshot::Sender<Option<Bytes>>>>>::default();
        link.spawn(hear(subscriber, Arc::clone(&waiting)));
        Ok(Self { link: Arc::clone(link), answers, next: AtomicU64::new(1), waiting })
    }

    /// A number for a call.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request to the process that leads, and waits for its answer.
    pub(super) async fn ask(&self, leader: u64, number: u64, request: &Request, timeout: Duration) -> Result<Answered> {
        let reply = format!("{}.{number}", self.answers);
        let (tell, told) = oneshot::channel();
        self.waiting.lock().insert(reply.clone(), tell);
        let body = super::verbs::written(request)?;
        let to = Subject::from(self.link.subject(&subject(leader)));
        let asked = async {
            send(&self.link, to, Some(Subject::from(reply.clone())), body).await?;
            Ok(match told.await {
                Ok(Some(answer)) => Answered::With(answer.to_vec()),
                Ok(None) => Answered::Nobody,
                Err(_) => Answered::Late,
            })
        };
        let answered = tokio::time::timeout(timeout, asked).await;
        self.waiting.lock().remove(&reply);
        answered.unwrap_or(Ok(Answered::Late))
    }
}

async fn hear(mut subscriber: Subscriber, waiting: Arc<Mutex<HashMap<String, oneshot::Sender<Option<Bytes>>>>>) {
    let mut torn = Torn::default();
    while let Some(message) = subscriber.next().await {
        let answer = if message.status == Some(StatusCode::NO_RESPONDERS) {
            None
        } else {
            match torn.add(&message.subject, message.headers.as_ref(), message.payload) {
                Some(whole) => Some(whole),
                None => continue,
            }
        };
        if let Some(tell) = waiting.lock().remove(message.subject.as_str()) {
            // Whoever asked may have gone.
            drop(tell.send(answer));
        }
    }
}

/// A fault for a call without an answer.
pub(super) fn late(address: &str, timeout: Duration) -> Fault {
    let note = format!(
        "NATS at {address}: no answer in {timeout:?} from the node that leads; whether it was done is not known"
    );
    Fault::new(FaultKind::Timeout, Origin::Store, Retry::Later, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(torn: &mut Torn, key: &str, which: &str, text: &'static str) -> Option<Bytes> {
        let mut headers = HeaderMap::new();
        headers.insert(PART, which);
        torn.add(key, Some(&headers), Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn parts_become_a_whole_whatever_comes_between() {
        let mut torn = Torn::default();
        assert_eq!(torn.add("a", None, Bytes::from_static(b"whole")).as_deref(), Some(&b"whole"[..]));
        assert_eq!(part(&mut torn, "a", "1/3", "b"), None);
        assert_eq!(part(&mut torn, "b", "0/2", "x"), None);
        assert_eq!(part(&mut torn, "a", "0/3", "a"), None);
        assert_eq!(part(&mut torn, "a", "2/3", "c").as_deref(), Some(&b"abc"[..]));
        assert_eq!(part(&mut torn, "b", "1/2", "y").as_deref(), Some(&b"xy"[..]));
        for nonsense in ["3/3", "0/100000", "x/2", "1", ""] {
            assert_eq!(part(&mut torn, "c", nonsense, "z"), None, "{nonsense}");
        }
    }

    #[test]
    fn what_never_becomes_whole_is_forgotten() {
        let mut torn = Torn::default();
        for number in 0..=TORN_MAX {
            assert_eq!(part(&mut torn, &number.to_string(), "0/2", "a"), None);
        }
        assert_eq!(part(&mut torn, "0", "1/2", "b"), None, "its first part is gone");
        assert!(torn.parts.len() <= TORN_MAX + 1);
    }
}

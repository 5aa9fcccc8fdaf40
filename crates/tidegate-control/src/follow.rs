//! Answers that go on until the client leaves: notices and events as they come. One JSON document a line; an empty line
//! now and then shows that the node is alive.
//!
//! Each follower has a bounded queue of notices. What does not fit is dropped for it alone, and it is told how many.
//! Events are read from their streams at the follower's own pace, so none is dropped.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, header};
use parking_lot::RwLock;
use serde_json::json;
use tidegate_core::{
    clock::{Clock, Timestamp},
    cloudevents,
    delivery::Position,
    fault::{Fault, Result},
    limits,
    names::StreamName,
    notice::{Listener, Notice},
    service::Context,
    store::Stored,
};
use tokio::sync::{Notify, mpsc};

use crate::{
    api::Api,
    call::{write_shown, write_string},
};

/// Marks an answer that goes on: its time is that of each piece, not of the whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GoesOn;

/// Time without a line after which an empty one is sent.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Time between two looks for events; publishes are noticed at once, what the store itself appends is not.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Events that are read in one step.
const READ_STEP: usize = 64;
/// Begin of a pattern that asks for events.
const STREAMS: &str = "stream/";

/// Tells whether a text fits a pattern, in which `*` stands for anything.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match left.find(part) {
            Some(at) => left = left.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    left.ends_with(last)
}

/// All who follow.
#[derive(Debug)]
pub(crate) struct Followers {
    count: AtomicUsize,
    all: RwLock<Vec<Arc<Follower>>>,
    clock: Clock,
}

#[derive(Debug)]
struct Follower {
    patterns: Vec<String>,
    queue: mpsc::Sender<(Timestamp, Notice)>,
    dropped: AtomicU64,
    /// Somebody published.
    published: Notify,
}

impl Followers {
    pub(crate) fn listening(cx: &Context) -> Arc<Self> {
        let followers = Arc::new(Self { count: AtomicUsize::new(0), all: RwLock::default(), clock: cx.clock.clone() });
        cx.notices.listen(Arc::<Self>::clone(&followers));
        followers
    }

    /// Gives a place to one more; refuses when there are too many.
    pub(crate) fn seat(self: &Arc<Self>) -> Result<Seat> {
        let seat = Seat { followers: Arc::clone(self), follower: None };
        if self.count.fetch_add(1, Ordering::Relaxed) >= limits::FOLLOWERS_MAX {
            let note = format!("{} requests follow the node already, the most that may", limits::FOLLOWERS_MAX);
            return Err(Fault::limited(note, Duration::from_secs(10)));
        }
        Ok(seat)
    }
}

impl Listener for Followers {
    fn notice(&self, notice: &Notice) {
        // This is the path of a message: without followers it costs one load.
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        for follower in self.all.read().iter() {
            if matches!(notice, Notice::Accepted { .. }) {
                follower.published.notify_one();
            }
            let wanted = follower.patterns.iter().any(|pattern| fits(pattern, notice.name()));
            if wanted && follower.queue.try_send((self.clock.now(), notice.clone())).is_err() {
                follower.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A place among the followers; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    followers: Arc<Followers>,
    follower: Option<Arc<Follower>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.followers.count.fetch_sub(1, Ordering::Relaxed);
        if let Some(follower) = &self.follower {
            self.followers.all.write().retain(|other| !Arc::ptr_eq(other, follower));
        }
    }
}

/// Answers with lines until `next` has none left.
pub(crate) fn lines<S: Send + 'static>(state: S, next: impl AsyncNext<S>) -> Response {
    let stream = unfold(state, next);
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response.extensions_mut().insert(GoesOn);
    response
}

/// Makes the next piece of an answer that goes on.
pub(crate) trait AsyncNext<S>: Send + 'static {
    fn next(&self, state: &mut S) -> impl Future<Output = Option<Bytes>> + Send;
}

fn unfold<S: Send + 'static>(
    state: S,
    next: impl AsyncNext<S>,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    futures::stream::unfold((state, next), |(mut state, next)| async move {
        let piece = next.next(&mut state).await?;
        Some((Ok(piece), (state, next)))
    })
}

/// One subscription.
pub(crate) struct Subscription {
    api: Arc<Api>,
    seat: Seat,
    notices: mpsc::Receiver<(Timestamp, Notice)>,
    /// Streams that are read, and the last position that was sent or is not wanted.
    streams: BTreeMap<StreamName, Position>,
}

impl Subscription {
    /// Subscribes to notices and events; patterns are separated by commas.
    pub(crate) async fn open(api: &Arc<Api>, patterns: &str) -> Result<Self> {
        let patterns: Vec<String> = patterns.split(',').map(|one| one.trim().to_owned()).collect();
        let mut streams = BTreeMap::new();
        let all = api.store.streams().await?;
        for pattern in patterns.iter().filter_map(|pattern| pattern.strip_prefix(STREAMS)) {
            let wanted: Vec<_> = all.iter().filter(|stream| fits(pattern, stream.name.as_str())).collect();
            if wanted.is_empty() {
                return Err(Fault::missing(format!("there is no stream {pattern:?}")));
            }
            streams.extend(wanted.iter().map(|stream| (stream.name.clone(), stream.last.unwrap_or(Position::START))));
        }
        let known = |pattern: &&String| Notice::ALL.iter().any(|(name, ..)| fits(pattern, name));
        if let Some(wrong) = patterns.iter().find(|one| !one.starts_with(STREAMS) && !known(one)) {
            return Err(Fault::invalid(format!(
                "pattern {wrong:?} fits no notice; say a notice such as group.paused or message.*, or stream/NAME"
            )));
        }
        let mut seat = api.followers.seat()?;
        let (queue, notices) = mpsc::channel(limits::FOLLOWER_QUEUE_MAX);
        let (dropped, published) = (AtomicU64::new(0), Notify::new());
        let follower = Arc::new(Follower { patterns, queue, dropped, published });
        api.followers.all.write().push(Arc::clone(&follower));
        seat.follower = Some(follower);
        Ok(Self { api: Arc::clone(api), seat, notices, streams })
    }

    /// Takes what is there now.
    async fn take(&mut self, out: &mut Vec<u8>) {
        while out.len() < limits::BODY_BYTES_MAX / 4
            && let Ok((at, notice)) = self.notices.try_recv()
        {
            write_notice(at, &notice, out);
        }
        let dropped = self.seat.follower.as_ref().map_or(0, |one| one.dropped.swap(0, Ordering::Relaxed));
        if dropped > 0 {
            out.extend_from_slice(json!({ "dropped": dropped }).to_string().as_bytes());
            out.push(b'\n');
        }
        for (stream, last) in &mut self.streams {
            // A stream that cannot be read now is read at the next look.
            let Ok(page) = self.api.store.read(stream, *last, READ_STEP).await else { continue };
            for stored in page.items.iter().filter(|stored| stored.position > *last) {
                write_event(stream, stored, out);
            }
            *last = page.items.last().map_or(*last, |stored| stored.position.max(*last));
        }
    }
}

/// Sends notices and events as they come.
pub(crate) struct Subscribed;

impl AsyncNext<Subscription> for Subscribed {
    async fn next(&self, state: &mut Subscription) -> Option<Bytes> {
        let cx = state.api.cx.clone();
        let quiet_until = cx.clock.now().plus(ALIVE_EVERY);
        loop {
            let mut out = Vec::new();
            state.take(&mut out).await;
            if !out.is_empty() {
                return Some(out.into());
            }
            let follower = state.seat.follower.clone()?;
            let look = async {
                if state.streams.is_empty() {
                    cx.clock.sleep_until(quiet_until).await;
                } else {
                    tokio::select! {
                        () = follower.published.notified() => {}
                        () = cx.clock.sleep(LOOK_EVERY) => {}
                    }
                }
            };
            tokio::select! {
                came = state.notices.recv() => {
                    let (at, notice) = came?;
                    write_notice(at, &notice, &mut out);
                    return Some(out.into());
                }
                () = look => {}
                () = cx.stop.draining() => return None,
            }
            if cx.clock.now() >= quiet_until {
                return Some(Bytes::from_static(b"\n"));
            }
        }
    }
}

fn write_notice(at: Timestamp, notice: &Notice, out: &mut Vec<u8>) {
    let fields: serde_json::Map<String, serde_json::Value> =
        notice.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let line = json!({ "at": at.to_string(), "notice": notice.name(), "fields": fields });
    out.extend_from_slice(line.to_string().as_bytes());
    out.push(b'\n');
}

fn write_event(stream: &StreamName, stored: &Stored, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"at\":");
    write_shown(stored.accepted_at, out);
    out.extend_from_slice(b",\"stream\":");
    write_string(stream.as_str(), out);
    out.extend_from_slice(b",\"position\":");
    write_shown(stored.position, out);
    out.extend_from_slice(b",\"event\":");
    cloudevents::write_json(&stored.event, out);
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "group.paused"),
            ("group.*", "group.paused"),
            ("*.paused", "group.paused"),
            ("g*.*d", "group.paused"),
            ("group.paused", "group.paused"),
            ("a*a", "aa"),
            ("*aa", "aaa"),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("group", "group.paused"), ("group.*", "module.x"), ("*.paused", "group.pausedx"), ("a*a", "a")]
        {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }
}

//! Who leads: one node goes on from the log and works for all, the others follow it in the log and take its place.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::Subscriber;
use futures::StreamExt as _;
use tidegate_core::{
    clock::{Clock, Stopwatch},
    fault::{Fault, Result},
    store::Broker as _,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Role, Shared, TRY,
    calls::{Answered, Torn, What, send, subject},
    disk::LogDisk,
    files::{Copy, MARK, Mark},
    link::Head,
    log::{Ended, Log, Write, message},
    serve::{not_leading, serve},
    verbs::written,
};
use crate::embedded::{Embedded, EmbeddedOptions};

/// Signs of life in the time after which a node counts as gone: a few may be late.
const SIGNS: u32 = 5;
/// Most of the time between two looks at the log.
const LOOK: Duration = Duration::from_secs(1);
/// How often a process of our own name is asked that may still be there.
const OWN_NAME: u32 = 4;

/// A node that leads.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) store: Arc<Embedded>,
    pub(super) log: Arc<Log>,
}

/// Why a node no longer leads.
enum Over {
    /// Another node leads.
    Fenced,
    /// The log is gone, or ends before its end.
    Lost(String),
    /// Another process works under our name.
    Replaced,
    /// It was closed; somebody waits for that.
    Closed(oneshot::Sender<Result<()>>),
}

/// What a follower knows of the node that leads.
#[derive(Debug)]
struct Watch {
    sign: Option<u64>,
    silent: Stopwatch,
}

/// Follows and leads, in turn, until the store is closed.
pub(super) async fn stand(shared: Arc<Shared>, mut close: oneshot::Receiver<oneshot::Sender<Result<()>>>) {
    loop {
        let copy = tokio::select! {
            closed = &mut close => {
                shared.leave().await;
                shared.become_(Role::Closed);
                if let Ok(tell) = closed {
                    drop(tell.send(Ok(())));
                }
                return;
            }
            copy = follow(&shared) => copy,
        };
        let Some((copy, last)) = copy else { return };
        let leading = match take(&shared, copy, last).await {
            Ok(Some(leading)) => leading,
            Ok(None) => continue,
            Err(fault) => {
                shared.become_(Role::Failed(fault));
                return;
            }
        };
        match lead(&shared, &leading, &mut close).await {
            Over::Fenced => {
                tracing::warn!("another node leads now");
                shared.become_(Role::Following);
                end(leading).await;
            }
            Over::Lost(what) => {
                shared.told(what);
                shared.become_(Role::Following);
                end(leading).await;
            }
            Over::Replaced => {
                shared.become_(Role::Failed(super::sessions::taken(&shared.options.node)));
                vacate(&shared, &leading).await;
                end(leading).await;
                return;
            }
            Over::Closed(tell) => {
                let closed = leading.store.close().await;
                vacate(&shared, &leading).await;
                shared.become_(Role::Closed);
                end(leading).await;
                drop(tell.send(closed));
                return;
            }
        }
    }
}

/// Lets go of a store: its threads may wait for the log.
async fn end(leading: Arc<Leading>) {
    drop(tokio::task::spawn_blocking(move || drop(leading)).await);
}

/// Follows the log until this node may lead: returns the copy and the number of the last message. None when it never will.
async fn follow(shared: &Arc<Shared>) -> Option<(Copy, u64)> {
    let clock = Clock::real();
    let mut copy = None;
    let mut watch = Watch { sign: None, silent: clock.stopwatch() };
    loop {
        if let Role::Failed(_) = shared.role() {
            return None;
        }
        match look(shared, &mut copy, &mut watch).await {
            Ok(Some(last)) => {
                if let Some(copy) = copy.take() {
                    return Some((copy, last));
                }
            }
            Ok(None) => {}
            Err(fault) => {
                // While the server is silent, nobody can show a sign of life.
                watch.silent = clock.stopwatch();
                shared.trouble(Some(fault.note().to_owned()));
                shared.link.nudge(4).await;
            }
        }
        tokio::select! {
            () = clock.sleep(LOOK.min(shared.options.takeover / SIGNS)) => {}
            () = shared.again.notified() => {}
        }
    }
}

/// Reads the log to its end; returns its number when this node may lead.
async fn look(shared: &Arc<Shared>, slot: &mut Option<Copy>, watch: &mut Watch) -> Result<Option<u64>> {
    let looking = Clock::real().stopwatch();
    let Head::Last(last) = shared.link.head().await? else {
        *slot = None;
        shared.link.make(shared.options.replicas).await?;
        return Ok(None);
    };
    if slot.as_ref().is_some_and(|copy| copy.next > last + 1) {
        // Another log under the same name, or one that has lost its end.
        *slot = None;
    }
    let is_first = slot.is_none();
    let mut copy = match slot.take() {
        Some(copy) => copy,
        None => Copy::new(&shared.options.dir)?,
    };
    if copy.next <= last {
        let from = copy.next;
        let apply = |entry| {
            shared.followed.fetch_add(u64::from(is_first), Ordering::Relaxed);
            copy.apply(entry)
        };
        shared.link.read(from, last, apply).await?;
        copy.next = last + 1;
    }
    let mark = copy.mark.clone();
    *slot = Some(copy);
    shared.trouble(None);
    if looking.elapsed() > shared.options.takeover / SIGNS {
        // Whoever leads may have had to wait for the server as long as we did.
        watch.silent = Clock::real().stopwatch();
    }
    let leader = mark.as_ref().filter(|(mark, _)| !mark.left).map(|(mark, _)| mark.boot);
    *shared.leader.lock() = leader;
    let Some((mark, _)) = mark else { return Ok(Some(last)) };
    if mark.left || mark.boot == shared.boot {
        return Ok(Some(last));
    }
    if mark.node == shared.options.node {
        // An earlier process of this node, or another one under its name: if it is there, it gives way.
        for _ in 0..OWN_NAME {
            match shared.ask(What::Hello, TRY).await? {
                Answered::Nobody => return Ok(Some(last)),
                Answered::With(_) => return Ok(None),
                Answered::Late => {}
            }
        }
        return Ok(Some(last));
    }
    if watch.sign != Some(mark.sign) {
        (watch.sign, watch.silent) = (Some(mark.sign), Clock::real().stopwatch());
    }
    if watch.silent.elapsed() >= shared.options.takeover {
        tracing::warn!("node {:?} shows no sign of life: this node leads now", mark.node);
        return Ok(Some(last));
    }
    shared.hello(&mark.node).await;
    Ok(None)
}

fn mark(shared: &Shared, left: bool) -> Result<Write> {
    let mark = Mark { node: shared.options.node.clone(), boot: shared.boot, left, sign: fastrand::u64(..) };
    Ok(Write { subject: MARK.to_owned(), replaces: true, payload: written(&mark)?.into() })
}

/// Takes the lead behind the last message; none when another node was first.
async fn take(shared: &Arc<Shared>, copy: Copy, last: u64) -> Result<Option<Arc<Leading>>> {
    let writer = format!("{}/{:016x}", shared.options.node, shared.boot ^ fastrand::u64(..));
    let write = mark(shared, false)?;
    let to = shared.link.subject(&write.subject);
    let sent = shared.link.context.send_publish(to, message(&writer, &write, last)).await;
    let Ok(ack) = sent else { return Ok(None) };
    let Ok(ack) = ack.await else { return Ok(None) };
    let taken = copy.take()?;
    let log = Log::start(&shared.link, writer, ack.sequence);
    let disk = Arc::new(LogDisk::new(&shared.link, &log, taken, ack.sequence));
    let options = EmbeddedOptions {
        disk,
        clock: shared.options.clock.clone(),
        notices: shared.options.notices.clone(),
        spares: 0,
        ..EmbeddedOptions::new("/")
    };
    let opened = tokio::task::spawn_blocking(move || Embedded::open(options)).await;
    match opened.map_err(|error| Fault::bug(format!("opening the store: {error}")))? {
        Ok(store) => Ok(Some(Arc::new(Leading { store, log }))),
        // It was taken from us meanwhile.
        Err(_) if log.has_ended() => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Says that this node leads no longer, so that another one may at once.
async fn vacate(shared: &Shared, leading: &Leading) {
    if let Ok(write) = mark(shared, true) {
        // Without an answer in time, the others see it by our silence.
        drop(tokio::time::timeout(shared.options.timeout, leading.log.write(write)).await);
    }
}

/// Leads: shows signs of life, works for the others, looks after those that have gone.
async fn lead(
    shared: &Arc<Shared>,
    leading: &Arc<Leading>,
    close: &mut oneshot::Receiver<oneshot::Sender<Result<()>>>,
) -> Over {
    let (replace, mut replaced) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let calls = match shared.link.client.subscribe(shared.link.subject(&subject(shared.boot))).await {
        Ok(calls) => calls,
        Err(error) => return Over::Lost(format!("listening for other nodes: {error}")),
    };
    let hearing = shared.link.work(hear(Arc::clone(shared), Arc::clone(leading), calls, replace, stopped));
    shared.start();
    shared.restore(&leading.store).await;
    shared.become_(Role::Leading(Arc::clone(leading)));
    let over = tokio::select! {
        Some(()) = replaced.recv() => Over::Replaced,
        Ok(tell) = &mut *close => Over::Closed(tell),
        () = beat(shared, leading) => match leading.log.ended().await {
            Ended::Fenced => Over::Fenced,
            Ended::Lost(what) => Over::Lost(what),
        },
    };
    drop(stop);
    drop(tokio::time::timeout(shared.options.timeout.min(LOOK), hearing).await);
    over
}

/// Shows signs of life and looks after the other nodes, until nothing can be written any more.
async fn beat(shared: &Arc<Shared>, leading: &Arc<Leading>) {
    let clock = Clock::real();
    let every = LOOK.min(shared.options.takeover / SIGNS);
    loop {
        clock.sleep(every).await;
        let Ok(write) = mark(shared, false) else { return };
        let watch = clock.stopwatch();
        if leading.log.write(write).await.is_err() {
            return;
        }
        // While the server kept us waiting, nobody else could be heard.
        shared.tend(leading, watch.elapsed() < every).await;
    }
}

/// Answers the calls of other nodes.
async fn hear(
    shared: Arc<Shared>,
    leading: Arc<Leading>,
    mut calls: Subscriber,
    replace: mpsc::Sender<()>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut torn = Torn::default();
    let mut leads = true;
    loop {
        let message = tokio::select! {
            message = calls.next() => message,
            _ = &mut stopped, if leads => {
                leads = false;
                // What has come already is answered: nobody shall wait for us.
                drop(calls.drain().await);
                continue;
            }
        };
        let Some(message) = message else { return };
        let Some(reply) = message.reply else { continue };
        let Some(body) = torn.add(&reply, message.headers.as_ref(), message.payload) else { continue };
        if !leads {
            if let Some(answer) = not_leading() {
                drop(send(&shared.link, reply, None, answer).await);
            }
            continue;
        }
        let (shared, leading, replace) = (Arc::clone(&shared), Arc::clone(&leading), replace.clone());
        shared.link.clone().work(async move {
            if let Some(answer) = serve(&shared, &leading, &reply, &body, &replace).await {
                // Who gets no answer asks again.
                drop(send(&shared.link, reply, None, answer).await);
            }
        });
    }
}

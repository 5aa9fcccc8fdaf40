//! Brings events from a stream of another engine: a group there lends them, and they are settled when they are durable here.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytestring::ByteString;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_core::{
    delivery::{Delivery, Settled, Settlement},
    event::Event,
    fault::{Failure, Fault, FaultClass, Result, Retry},
    handler::Probe,
    names::{GroupName, ModuleName, StreamName},
    service::{Context, StopPhase},
    source::{Feed, Source},
    store::{Beside, Claim, GroupSpec, GroupStatus, Store},
};

use super::StreamSourceConfig;
use crate::sink::stream::{BATCH, Forward, Stays};

/// How long what is brought is lent; extended while it waits for room.
const LEASE: Duration = Duration::from_secs(60);
/// Longest wait for work; also how often what is shown of the group is looked up.
const LOOK: Duration = Duration::from_secs(1);
/// Wait before an engine that failed is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Brings events from another engine.
#[derive(Debug)]
pub(super) struct Bring {
    forward: Forward,
    beside: Arc<dyn Beside>,
    from: StreamName,
    group: GroupName,
    seen: Mutex<Option<GroupStatus>>,
}

/// What became of a delivery.
enum Brought {
    /// It is durable here, or was here before.
    Here,
    /// It can never be.
    Never(Failure),
    /// The source was told to stop before.
    Not,
}

impl Bring {
    pub(super) fn new(
        name: ModuleName,
        beside: Arc<dyn Beside>,
        config: &StreamSourceConfig,
        group: GroupName,
    ) -> Self {
        let forward = Forward { name, to: config.to.clone() };
        Self { forward, beside, from: config.from.clone(), group, seen: Mutex::default() }
    }

    /// Returns the other store, with the group in it.
    async fn open(&self) -> Result<Arc<dyn Store>> {
        let store = self.beside.store().await?;
        if !store.streams().await?.iter().any(|stream| stream.name == self.from) {
            return Err(Fault::missing(format!("there is no stream {} in it", self.from)));
        }
        match store.groups().await?.into_iter().find(|group| group.name == self.group) {
            Some(group) if group.stream != self.from => Err(Fault::conflict(format!(
                "its group {} reads stream {}, not {}",
                self.group, group.stream, self.from
            ))),
            Some(_) => Ok(store),
            None => {
                // What is passed on is not worked on: whoever works on it here waits for the others.
                let spec = GroupSpec {
                    after: false,
                    mark_claims: false,
                    ..GroupSpec::new(self.group.clone(), self.from.clone())
                };
                store.declare_group(&spec).await?;
                Ok(store)
            }
        }
    }

    /// Brings what there is, until the engine fails or the source is to stop.
    async fn bring(&self, feed: &Feed, store: &dyn Store) -> Result<()> {
        let mut looked = None;
        while feed.stop.phase() == StopPhase::Running {
            let now = feed.clock.now();
            if looked.is_none_or(|at| now.since(at) >= LOOK) {
                *self.seen.lock() = Some(store.group(&self.group).await?);
                looked = Some(now);
            }
            let ask = Claim { group: self.group.clone(), max: BATCH, lease: LEASE, before: None };
            let claimed = store.claim(&ask).await?;
            feed.away(None);
            if claimed.deliveries.is_empty() {
                let until = claimed.next_due.map_or(now.plus(LOOK), |due| due.min(now.plus(LOOK)));
                tokio::select! {
                    biased;
                    () = feed.stop.draining() => {}
                    () = store.wait(&self.group, until) => {}
                }
                continue;
            }
            let brought = self.take(feed, store, &claimed.deliveries).await?;
            let settle = |(delivery, brought): (&Delivery, Brought)| {
                let settlement = match brought {
                    Brought::Here => Settlement::Done(Vec::new()),
                    Brought::Never(failure) => Settlement::Bury { failure, config: ByteString::from_static("bridge") },
                    Brought::Not => Settlement::Release,
                };
                Settled { token: delivery.lease.token, settlement, attempt: None }
            };
            store.settle(claimed.deliveries.iter().zip(brought).map(settle).collect()).await?;
        }
        Ok(())
    }

    /// Makes deliveries durable here; says of each what became of it.
    async fn take(&self, feed: &Feed, store: &dyn Store, lent: &[Delivery]) -> Result<Vec<Brought>> {
        let mut brought = Vec::with_capacity(lent.len());
        let mut events = Vec::with_capacity(lent.len());
        for delivery in lent {
            brought.push(match self.forward.prepare(delivery, false) {
                Ok(event) => {
                    events.push(event);
                    Brought::Not
                }
                Err(Stays::Been(what)) => {
                    feed.report(what);
                    Brought::Here
                }
                Err(Stays::Never(failure)) => Brought::Never(failure),
            });
        }
        let together =
            if events.is_empty() { Ok(true) } else { self.deliver(feed, store, lent, events.clone()).await? };
        let mut events = events.into_iter();
        for one in &mut brought {
            if !matches!(one, Brought::Not) {
                continue;
            }
            let Some(event) = events.next() else { continue };
            let done = match &together {
                // One that cannot come must not keep the others back.
                Err(_) if lent.len() > 1 => self.deliver(feed, store, lent, vec![event]).await?,
                other => other.clone(),
            };
            match done {
                Ok(true) => *one = Brought::Here,
                Ok(false) => {}
                Err(failure) => *one = Brought::Never(failure),
            }
        }
        Ok(brought)
    }

    /// Publishes here, and keeps the leases there while it takes long. False when the source is to stop before.
    async fn deliver(
        &self,
        feed: &Feed,
        store: &dyn Store,
        lent: &[Delivery],
        events: Vec<Event>,
    ) -> Result<Result<bool, Failure>> {
        let tokens: Vec<_> = lent.iter().map(|delivery| delivery.lease.token).collect();
        let mut delivered = std::pin::pin!(feed.deliver(&self.forward.to, events));
        loop {
            tokio::select! {
                biased;
                done = &mut delivered => return match done {
                    Ok(done) => Ok(Ok(done.is_some())),
                    Err(fault) if fault.retry == Retry::Never => {
                        Ok(Err(Failure::new(FaultClass::Invalid, fault.note().to_owned())))
                    }
                    Err(fault) => Err(fault),
                },
                () = feed.clock.sleep(LEASE / 3) => {
                    store.extend(&tokens, feed.clock.now().plus(LEASE)).await?;
                }
            }
        }
    }

    fn told(&self, fault: &Fault) -> String {
        format!("engine {}: {}", self.beside.name(), fault.note())
    }
}

#[async_trait]
impl Probe for Bring {
    async fn probe(&self, _: &Context) -> Result<()> {
        let store =
            self.beside.store().await.map_err(|fault| fault.within(format!("engine {}", self.beside.name())))?;
        if store.streams().await?.iter().any(|stream| stream.name == self.from) {
            return Ok(());
        }
        Err(Fault::missing(format!("there is no stream {} in engine {}", self.from, self.beside.name())))
    }
}

#[async_trait]
impl Source for Bring {
    async fn run(&self, feed: &Feed) -> Result<()> {
        while feed.stop.phase() == StopPhase::Running {
            let brought = async {
                let store = self.open().await?;
                self.bring(feed, &*store).await
            };
            if let Err(fault) = brought.await {
                feed.away(Some(&self.told(&fault)));
                feed.sleep(AGAIN).await;
            }
        }
        Ok(())
    }

    fn details(&self) -> Value {
        let seen = self.seen.lock();
        let left = seen.as_ref().map(|group| group.waiting + group.scheduled + group.in_flight);
        json!({
            "engine": self.beside.name(),
            "stream": self.from,
            "group": self.group,
            "left": left,
            "dead": seen.as_ref().map(|group| group.dead),
        })
    }
}

//! Runs one source: while nobody halted it, with a stop of its own, and after a crash again.

use std::{panic::AssertUnwindSafe, sync::Arc};

use async_trait::async_trait;
use futures::FutureExt;
use tidegate_core::{
    event::Event,
    fault::{Fault, Result},
    names::{ModuleName, StreamName},
    service::{self, Context, Service},
    source::{Feed, Inlet, Source},
    store::{Appended, Store, own_key},
};

use super::{Body, Inner, Module};
use crate::{
    group::{Pause, forget_if},
    peers::States,
    publisher::Publisher,
    supervisor::panic_text,
};

fn key(name: &ModuleName, what: &str) -> String {
    format!("source/{name}/{what}")
}

/// Returns what is wanted of a source as the store has it.
pub(super) async fn restore(store: &dyn Store, name: &ModuleName) -> Result<Option<Pause>> {
    told(&store.states(&key(name, "halted")).await?.into_iter().collect(), name)
}

/// Finds what is wanted of a source.
pub(super) fn told(states: &States, name: &ModuleName) -> Result<Option<Pause>> {
    let read = states.get(&key(name, "halted")).map(|value| serde_json::from_slice(value)).transpose();
    read.map_err(|error| Fault::corrupt(format!("stored state of source {name} is not readable")).because(error))
}

pub(super) async fn keep(store: &dyn Store, name: &ModuleName, pause: Option<&Pause>) -> Result<()> {
    let value = pause.map(serde_json::to_vec).transpose();
    let value = value.map_err(|error| Fault::bug("state of a source cannot be written as JSON").because(error))?;
    store.put_state(&key(name, "halted"), value.as_deref()).await
}

async fn get(store: &dyn Store, key: &str) -> Result<Option<Vec<u8>>> {
    let states = store.states(key).await?;
    Ok(states.into_iter().find(|(name, _)| name == key).map(|(_, value)| value))
}

/// The node's streams and memory, as one source sees them.
struct Port {
    name: ModuleName,
    store: Arc<dyn Store>,
    publisher: Publisher,
}

#[async_trait]
impl Inlet for Port {
    async fn publish(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        self.publisher.publish(stream, events).await
    }

    async fn recall(&self, what: &str) -> Result<Option<Vec<u8>>> {
        get(&*self.store, &self.key(what)).await
    }

    async fn keep(&self, what: &str, value: &[u8]) -> Result<()> {
        self.store.put_state(&self.key(what), Some(value)).await
    }
}

impl Port {
    /// What a source remembers is about this node: a place in a file here, and not in that of another.
    fn key(&self, what: &str) -> String {
        own_key(&*self.store, &key(&self.name, &format!("kept/{what}")))
    }
}

/// Keeps one source running.
pub(super) struct Runner {
    pub(super) module: Arc<Module>,
    pub(super) node: Arc<Inner>,
}

/// Why a stretch of running or standing still came to its end.
enum Turn {
    /// Somebody wants something else of the source.
    Changed,
    /// The node stops.
    Over,
    /// There is nothing more to bring.
    Ended,
}

#[async_trait]
impl Service for Runner {
    fn name(&self) -> String {
        format!("source/{}", self.module.name)
    }

    async fn run(&self, cx: Context) -> Result<()> {
        loop {
            let halted = self.module.halted.subscribe().borrow().clone();
            let is_disabled = halted.as_ref().is_some_and(|pause| pause.disabled);
            let turn = match &self.module.body {
                // What cannot wait would be lost: it is read while paused too, and waits in the stream.
                Body::Source(source) if halted.is_none() || (!is_disabled && !source.can_wait()) => {
                    self.bring(source, &cx, &halted).await?
                }
                Body::Source(_) | Body::Entrance(_) | Body::Group(_) => self.changed(&cx, &halted).await?,
            };
            match turn {
                Turn::Changed => {}
                Turn::Over => return Ok(()),
                Turn::Ended => match self.changed(&cx, &halted).await? {
                    Turn::Over => return Ok(()),
                    Turn::Changed | Turn::Ended => {}
                },
            }
        }
    }
}

impl Runner {
    /// Runs the source until the node stops, or until it is wanted otherwise, and then lets it finish.
    async fn bring(&self, source: &Arc<dyn Source>, cx: &Context, halted: &Option<Pause>) -> Result<Turn> {
        let (stopper, stop) = service::stop();
        let port = Port {
            name: self.module.name.clone(),
            store: self.node.store.clone(),
            publisher: self.node.publisher.clone(),
        };
        let brought = self.module.brought.clone();
        let name = self.module.name.clone();
        let feed = Feed::new(name, cx.clock.clone(), stop, cx.notices.clone(), Arc::new(port), brought);
        {
            let mut run = self.module.run.lock();
            (run.is_failing, run.has_ended) = (false, false);
        }
        // A panic is caught here to be shown with the module; to the supervisor it is a crash like any other.
        let running = async {
            let ended = AssertUnwindSafe(source.run(&feed)).catch_unwind().await;
            ended.unwrap_or_else(|panic| Err(Fault::bug(panic_text(&*panic))))
        };
        tokio::pin!(running);
        let turn = tokio::select! {
            ended = &mut running => return self.ended(ended, cx),
            turn = self.changed(cx, halted) => turn?,
        };
        stopper.drain();
        tokio::select! {
            ended = &mut running => self.ended(ended, cx).map(|_| turn),
            () = cx.stop.aborted() => Ok(Turn::Over),
        }
    }

    fn ended(&self, ended: Result<()>, cx: &Context) -> Result<Turn> {
        let mut run = self.module.run.lock();
        match ended {
            Ok(()) => {
                run.has_ended = true;
                Ok(Turn::Ended)
            }
            Err(fault) => {
                run.is_failing = true;
                run.restarts += 1;
                run.fault = Some((cx.clock.now(), fault.to_string()));
                Err(fault)
            }
        }
    }

    /// Goes on when the time of the pause is up; somebody may have halted the source anew in the meantime.
    async fn end_pause(&self, cx: &Context) -> Result<()> {
        let now = cx.clock.now();
        let _changing = self.module.changing.lock().await;
        let is_over = |pause: &Pause| pause.until.is_some_and(|until| until <= now);
        let Some(pause) = self.module.halted.borrow().clone().filter(is_over) else { return Ok(()) };
        let is_it = |value: &[u8]| serde_json::from_slice::<Pause>(value).is_ok_and(|kept| kept == pause);
        if forget_if(&*self.node.store, &key(&self.module.name, "halted"), is_it).await? {
            self.node.went_on(&self.module, "tidegate");
            return Ok(());
        }
        self.node.take_over(&self.module).await
    }

    /// Waits until something else is wanted of the source than now, its pause is over, or the node stops.
    async fn changed(&self, cx: &Context, now: &Option<Pause>) -> Result<Turn> {
        let mut halted = self.module.halted.subscribe();
        let pause_over = async {
            match now.as_ref().and_then(|pause| pause.until) {
                Some(until) => cx.clock.sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        // What it waits for is dropped at once: it holds a lock.
        let wanted_otherwise = async { drop(halted.wait_for(|wanted| wanted != now).await) };
        tokio::select! {
            () = cx.stop.draining() => Ok(Turn::Over),
            () = wanted_otherwise => Ok(Turn::Changed),
            () = pause_over => {
                self.end_pause(cx).await?;
                Ok(Turn::Changed)
            }
        }
    }
}

//! Wakes those who wait for work: by this process's own steps, and by what others say on a channel of the server. Its task
//! also shows the node's signs of life.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use parking_lot::RwLock;
use tidegate_core::clock::Clock;
use tokio::sync::Notify;

use super::{RedisOptions, beat::Beat, link::Link, registry::Registry};
use crate::served::bells::Bells;

/// Time between two tries to listen again.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest silence before the connection is made anew: a server that is gone says nothing either.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest time that beginning to listen may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The bells of all groups, and the task that rings them for others.
pub(crate) struct Wake {
    bells: Bells,
    listener: tokio::task::AbortHandle,
}

impl Wake {
    #[expect(
        clippy::disallowed_methods,
        reason = "an engine is opened before there is a supervisor; the task ends with it"
    )]
    pub(crate) fn start(
        link: &Arc<Link>,
        registry: &Arc<RwLock<Registry>>,
        options: &RedisOptions,
        beat: Beat,
    ) -> Self {
        let bells = Bells::default();
        let listener = Listener {
            link: Arc::clone(link),
            channel: format!("{}tidegate:wake", options.prefix),
            bells: bells.clone(),
            registry: Arc::clone(registry),
            clock: options.clock.clone(),
        };
        let both = async { tokio::join!(listener.run(), beat.run()) };
        Self { bells, listener: tokio::spawn(both).abort_handle() }
    }

    pub(crate) fn stop(&self) {
        self.listener.abort();
    }

    /// The bell of a group.
    pub(crate) fn bell(&self, group: u32) -> Arc<Notify> {
        self.bells.of(group)
    }

    /// Rings for those who wait for work of these groups.
    pub(crate) fn ring(&self, groups: &[u32]) {
        self.bells.ring(groups);
    }
}

struct Listener {
    link: Arc<Link>,
    channel: String,
    bells: Bells,
    registry: Arc<RwLock<Registry>>,
    clock: Clock,
}

impl Listener {
    /// Listens until it is stopped; while the server is away, waiters look by themselves.
    async fn run(self) {
        loop {
            // A connection that is lost is made again, whatever was the reason.
            self.hear().await;
            self.clock.sleep(AGAIN).await;
        }
    }

    async fn hear(&self) -> Option<()> {
        let made = tokio::time::timeout(CONNECT, self.link.client().get_async_pubsub()).await;
        let mut listening = made.ok()?.ok()?;
        tokio::time::timeout(CONNECT, listening.subscribe(&self.channel)).await.ok()?.ok()?;
        let mut messages = listening.on_message();
        loop {
            let message = tokio::time::timeout(SILENCE, messages.next()).await.ok()??;
            self.ring(&message.get_payload::<String>().unwrap_or_default());
        }
    }

    /// `g` and a number names a group, `s` and a number a stream that got events.
    fn ring(&self, message: &str) {
        let Some((what, id)) = message.split_at_checked(1) else { return };
        let Ok(id) = id.parse::<u32>() else { return };
        let groups = match what {
            "g" => vec![id],
            _ => self.registry.read().readers(id),
        };
        self.bells.ring(&groups);
    }
}

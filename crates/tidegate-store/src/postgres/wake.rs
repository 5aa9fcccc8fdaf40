//! Wakes those who wait for work: by this process's own steps, and by what other nodes say through the server. Its tasks
//! also show the node's signs of life.

use std::{collections::BTreeSet, future::poll_fn, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tidegate_core::clock::Clock;
use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;

use super::{
    PostgresOptions,
    beat::Beat,
    link::{Lane, Link},
};
use crate::served::{bells::Bells, declared::Registry};

/// Time between two tries to listen again.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest silence before the connection is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest time that beginning to listen may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Most groups and streams that one message names: a message is bounded by the server.
const NAMES_MAX: usize = 500;

/// The bells of all groups, and the tasks that ring them for others.
pub(crate) struct Wake {
    bells: Bells,
    herald: Arc<Herald>,
    tasks: tokio::task::AbortHandle,
}

/// What is told to other nodes. A message has its own transaction, so that nobody waits for its lock.
#[derive(Default)]
struct Herald {
    /// `g` and a number names a group, `s` and a number a stream that got events.
    news: Mutex<BTreeSet<(char, u32)>>,
    pressed: Notify,
}

impl Wake {
    #[expect(
        clippy::disallowed_methods,
        reason = "an engine is opened before there is a supervisor; the task ends with it"
    )]
    pub(crate) fn start(
        link: &Arc<Link>,
        registry: &Arc<RwLock<Registry>>,
        options: &PostgresOptions,
        beat: Beat,
    ) -> Self {
        let bells = Bells::default();
        let herald = Arc::<Herald>::default();
        let listener = Listener {
            link: Arc::clone(link),
            channel: format!("tidegate_{}", options.schema),
            bells: bells.clone(),
            registry: Arc::clone(registry),
            clock: options.clock.clone(),
        };
        let told = Arc::clone(&herald);
        let all = async move {
            let others = Arc::clone(&beat.others);
            tokio::join!(listener.run(), beat.run(), told.run(&listener.link, &listener.channel, &others))
        };
        Self { bells, herald, tasks: tokio::spawn(all).abort_handle() }
    }

    pub(crate) fn stop(&self) {
        self.tasks.abort();
    }

    /// The bell of a group.
    pub(crate) fn bell(&self, group: u32) -> Arc<Notify> {
        self.bells.of(group)
    }

    /// Rings for those who wait for work of these groups, here and elsewhere.
    pub(crate) fn ring(&self, groups: &[u32]) {
        self.bells.ring(groups);
        self.herald.tell('g', groups.iter().copied());
    }

    /// Rings for those who wait for events of these streams.
    pub(crate) fn ring_streams(&self, registry: &RwLock<Registry>, streams: &[u32]) {
        let readers: Vec<u32> = {
            let registry = registry.read();
            streams.iter().flat_map(|stream| registry.readers(*stream)).collect()
        };
        self.bells.ring(&readers);
        self.herald.tell('s', streams.iter().copied());
    }
}

impl Herald {
    fn tell(&self, what: char, ids: impl Iterator<Item = u32>) {
        self.news.lock().extend(ids.map(|id| (what, id)));
        self.pressed.notify_one();
    }

    async fn run(&self, link: &Link, channel: &str, others: &std::sync::atomic::AtomicBool) {
        loop {
            self.pressed.notified().await;
            loop {
                let mut news = std::mem::take(&mut *self.news.lock());
                // Where nobody else is, nobody has to hear it.
                if news.is_empty() || !others.load(std::sync::atomic::Ordering::Acquire) {
                    break;
                }
                if news.len() > NAMES_MAX {
                    let first = *news.iter().nth(NAMES_MAX).unwrap_or(&('z', 0));
                    self.news.lock().extend(news.split_off(&first));
                }
                let words: Vec<String> = news.iter().map(|(what, id)| format!("{what}{id}")).collect();
                let told = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";
                // Who does not hear it looks by itself.
                drop(link.ask(Lane::Beat, told, &[&channel, &words.join(" ")]).await);
            }
        }
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
    async fn run(&self) {
        loop {
            // A connection that is lost is made again, whatever was the reason.
            self.hear().await;
            self.clock.sleep(AGAIN).await;
        }
    }

    async fn hear(&self) -> Option<()> {
        let made = tokio::time::timeout(CONNECT, self.link.dial()).await;
        let (client, mut connection) = made.ok()?.ok()?;
        let listen = format!("LISTEN {}", self.channel);
        let mut asked = std::pin::pin!(client.batch_execute(&listen));
        let mut answered = false;
        loop {
            let step = poll_fn(|cx| {
                while let std::task::Poll::Ready(message) = connection.poll_message(cx) {
                    match message {
                        Some(Ok(AsyncMessage::Notification(news))) => self.ring(news.payload()),
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return std::task::Poll::Ready(None),
                    }
                }
                if answered {
                    return std::task::Poll::Pending;
                }
                asked.as_mut().poll(cx).map(|listened| listened.ok())
            });
            match tokio::time::timeout(if answered { SILENCE } else { CONNECT }, step).await {
                Ok(Some(())) if !answered => answered = true,
                // A server that is gone says nothing either: then it does not answer this.
                Err(_) if answered => {
                    asked.set(client.batch_execute(""));
                    answered = false;
                }
                Ok(_) | Err(_) => return None,
            }
        }
    }

    fn ring(&self, message: &str) {
        let mut groups = Vec::new();
        for word in message.split(' ') {
            let Some((what, id)) = word.split_at_checked(1) else { continue };
            let Ok(id) = id.parse::<u32>() else { continue };
            match what {
                "g" => groups.push(id),
                _ => groups.extend(self.registry.read().readers(id)),
            }
        }
        self.bells.ring(&groups);
    }
}

//! The connection to the server, and the few things that are asked of JetStream.

use std::{future::Future, time::Duration};

use async_nats::{
    Client, ConnectOptions,
    connection::State,
    jetstream::{
        Context,
        consumer::{AckPolicy, DeliverPolicy, pull},
        context::ContextBuilder,
        message::StreamMessage,
        response::Response,
        stream::{Config, DiscardPolicy, Info, RawMessageErrorKind, StorageType},
    },
};
use futures::StreamExt as _;
use tidegate_core::fault::{Fault, FaultKind, Origin, Result, Retry};
use tokio::runtime::Handle;

use super::{NatsOptions, Threads, log::WRITER};

/// Code of JetStream's answer that there is no such stream.
const NO_STREAM: u64 = 10_059;
/// Room in a message for its headers.
const HEADERS: usize = 1024;
/// Messages that are fetched at once; each may be as large as a commit.
const FETCH: usize = 32;
/// Longest wait for the next of them.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest time between two signs of life of the connection.
const PING: Duration = Duration::from_secs(5);

/// The connection, and the threads that serve it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) timeout: Duration,
    address: String,
    /// First word of all subjects.
    prefix: String,
    stream: String,
    runtime: Handle,
    work: Handle,
}

/// Where the log ends.
pub(super) enum Head {
    Last(u64),
    /// There is no log.
    Missing,
}

/// A message that was read.
pub(super) struct Entry {
    /// Subject below that of the store.
    pub(super) subject: String,
    pub(super) number: u64,
    pub(super) payload: bytes::Bytes,
}

/// What the server says of itself and of the log.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) version: String,
    pub(super) replicas: usize,
    pub(super) in_memory: bool,
}

impl Link {
    pub(super) async fn open(options: &NatsOptions, threads: &Threads) -> Result<Self> {
        let (handle, work) = threads.handles().ok_or_else(|| Fault::bug("the threads have ended"))?;
        let shown = options.url.rsplit('@').next().unwrap_or_default();
        let is_safe = shown.starts_with("tls://") || !options.tls.is_unset();
        let address = shown.rsplit("://").next().unwrap_or_default().to_owned();
        let mut connect = ConnectOptions::new()
            .name(format!("tidegate {}", options.node))
            .ping_interval(PING.min(options.timeout))
            .connection_timeout(options.timeout.min(Duration::from_secs(5)))
            .request_timeout(Some(options.timeout))
            .reconnect_delay_callback(|tries| Duration::from_millis(100).saturating_mul(tries.min(10) as u32));
        connect = match (&options.user, &options.password) {
            (Some(user), password) => connect.user_and_password(user.clone(), password.clone().unwrap_or_default()),
            (None, Some(token)) => connect.token(token.clone()),
            (None, None) => connect,
        };
        if is_safe {
            connect = connect.require_tls(true).tls_client_config(tidegate_tls::client(&options.tls)?);
        }
        let url = options.url.clone();
        // Its tasks belong to the runtime of the store, so that they outlive that of whoever opens it.
        let connected = handle.spawn(async move { connect.connect(url).await }).await;
        let client = connected
            .map_err(|error| Fault::bug(format!("connecting to NATS: {error}")))?
            .map_err(|error| refused(&address, &error))?;
        let context =
            ContextBuilder::new().timeout(options.timeout).max_ack_inflight(4096).backpressure_on_inflight(true);
        let context = context.build(client.clone());
        let stream = options.prefix.replace('.', "_").to_ascii_uppercase();
        let prefix = options.prefix.clone();
        Ok(Self { client, context, timeout: options.timeout, address, prefix, stream, runtime: handle, work })
    }

    /// Host and port of the server, without what is secret in its address.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Name of the JetStream stream.
    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    /// Runs a task that may wait for the log.
    pub(super) fn work<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        self.work.spawn(work)
    }

    /// Runs a task that never waits for the log in its thread.
    pub(super) fn spawn<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        self.runtime.spawn(work)
    }

    /// A subject of the store.
    pub(super) fn subject(&self, below: &str) -> String {
        format!("{}.{below}", self.prefix)
    }

    /// Most bytes of one message.
    pub(super) fn payload_max(&self) -> usize {
        self.client.max_payload().saturating_sub(HEADERS).max(4096)
    }

    /// Tells whether the server is there.
    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// After some tries in vain on a connection that looks well, makes a new one.
    pub(super) async fn nudge(&self, tries: u32) {
        if tries.is_multiple_of(4) && self.is_connected() {
            drop(self.client.force_reconnect().await);
        }
    }

    async fn info(&self) -> Result<Option<Info>> {
        let asked = self.context.request(format!("STREAM.INFO.{}", self.stream), &()).await;
        match asked.map_err(|error| self.fault("look at the log", &error))? {
            Response::Ok(info) => Ok(Some(info)),
            Response::Err { error } if error.error_code().0 == NO_STREAM => Ok(None),
            Response::Err { error } => Err(self.fault("look at the log", &error)),
        }
    }

    /// Says where the log ends.
    pub(super) async fn head(&self) -> Result<Head> {
        Ok(self.info().await?.map_or(Head::Missing, |info| Head::Last(info.state.last_sequence)))
    }

    /// Makes the log when it is missing.
    pub(super) async fn make(&self, replicas: usize) -> Result<()> {
        if self.info().await?.is_some() {
            return Ok(());
        }
        let config = Config {
            name: self.stream.clone(),
            subjects: vec![self.subject("log.>")],
            description: Some("the journal of Tidegate; only Tidegate may write to it".to_owned()),
            // What is removed is removed by us; a server that is full refuses.
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            num_replicas: replicas,
            allow_rollup: true,
            ..Config::default()
        };
        let made = self.context.get_or_create_stream(config).await;
        made.map(drop).map_err(|error| self.fault("make the log", &error))
    }

    /// Returns what the server says of itself and of the log.
    pub(super) async fn facts(&self) -> Result<Option<Facts>> {
        let version = self.client.server_info().version;
        Ok(self.info().await?.map(|info| Facts {
            version,
            replicas: info.config.num_replicas,
            in_memory: info.config.storage == StorageType::Memory,
        }))
    }

    /// Returns the writer of a message; none when it is gone or has none.
    pub(super) async fn writer_of(&self, number: u64) -> Result<Option<String>> {
        let message = self.message(number).await?;
        Ok(message.and_then(|message| message.headers.get(WRITER).map(|writer| writer.as_str().to_owned())))
    }

    /// Returns a message; none when it is gone.
    async fn message(&self, number: u64) -> Result<Option<StreamMessage>> {
        let stream = self.context.get_stream_no_info(&self.stream).await;
        let stream = stream.map_err(|error| self.fault("look at the log", &error))?;
        match stream.get_raw_message(number).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(self.fault("look at the log", &error)),
        }
    }

    /// Reads the log from a number on up to another, and hands each message over.
    pub(super) async fn read(
        &self,
        from: u64,
        to: u64,
        mut take: impl FnMut(Entry) -> Result<()> + Send,
    ) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| self.fault("read the log", error);
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(60),
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let stream = self.context.get_stream_no_info(&self.stream).await.map_err(|error| failed(&error))?;
        let consumer = stream.create_consumer(config).await.map_err(|error| failed(&error))?;
        let name = consumer.cached_info().name.clone();
        let log = self.subject("log.");
        // The end is the number asked for: how many messages the server counts as pending is not relied on.
        let (mut delivered, mut reached) = (0, 0);
        while reached < to {
            let batch = consumer.batch().max_messages(FETCH).expires(PATIENCE.min(self.timeout));
            let mut batch = batch.messages().await.map_err(|error| failed(&error))?;
            let before = delivered;
            while let Some(message) = batch.next().await {
                let message = message.map_err(|error| failed(&error))?;
                let info = message.info().map_err(|error| failed(&error))?;
                // What was on its way when the connection was lost counts as delivered and does not come again.
                delivered += 1;
                if info.consumer_sequence != delivered {
                    return Err(failed(&"some of it was lost on the way"));
                }
                reached = info.stream_sequence;
                let number = reached;
                if number > to {
                    break;
                }
                let subject = message.subject.strip_prefix(log.as_str()).unwrap_or_default().to_owned();
                take(Entry { subject, number, payload: message.message.payload })?;
                if number == to {
                    break;
                }
            }
            if delivered == before {
                // The end may have been removed, and nothing come behind it.
                if self.message(to).await?.is_some() {
                    return Err(failed(&"the server stopped sending"));
                }
                break;
            }
        }
        drop(stream.delete_consumer(&name).await);
        Ok(())
    }

    /// Frees what is kept under a subject.
    pub(super) async fn purge(&self, below: &str) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| self.fault("clean the log", error);
        let stream = self.context.get_stream_no_info(&self.stream).await.map_err(|error| failed(&error))?;
        stream.purge().filter(self.subject(below)).await.map(drop).map_err(|error| failed(&error))
    }

    /// Turns an error of the client into a fault.
    pub(super) fn fault(&self, step: &str, error: &dyn std::fmt::Display) -> Fault {
        let said = error.to_string();
        let late = said.contains("timed out");
        let kind = if late { FaultKind::Timeout } else { FaultKind::Unavailable };
        Fault::new(kind, Origin::Store, Retry::Later, format!("{step}: NATS at {}: {said}", self.address))
    }
}

fn refused(address: &str, error: &async_nats::ConnectError) -> Fault {
    use async_nats::ConnectErrorKind as Kind;
    match error.kind() {
        Kind::Authentication | Kind::AuthorizationViolation => {
            Fault::new(FaultKind::Denied, Origin::Store, Retry::Later, format!("NATS at {address} refuses: {error}"))
        }
        Kind::ServerParse => Fault::invalid(format!("engine address: {error}")),
        Kind::TimedOut | Kind::Io | Kind::Dns | Kind::Tls | Kind::MaxReconnects => {
            Fault::unavailable(Origin::Store, format!("NATS at {address} cannot be reached: {error}"))
        }
    }
}

/// Asks the account whether it has JetStream.
pub(super) async fn has_jetstream(context: &Context) -> Result<(), String> {
    // The types of the library ask for more than older servers tell.
    let told: serde_json::Value = context.request("INFO", &()).await.map_err(|error| error.to_string())?;
    match told.get("error").and_then(|error| error.get("description")) {
        None => Ok(()),
        Some(why) => Err(why.as_str().unwrap_or("it is not enabled").to_owned()),
    }
}

//! What somebody would write by hand on a server who needs no more than this one flow: durable publishes, and workers that
//! settle each event once with a ledger.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, consumer, stream};
use bytes::Bytes;
use futures::{StreamExt as _, future::try_join_all};
use tidegate_core::clock::Clock;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, Statement};

use crate::{
    engine::{Laps, Rate, WARM},
    spread::Spread,
};

/// A client on one of the servers.
pub(crate) enum Hand {
    Postgres(OnPostgres),
    Nats(OnNats),
}

impl Hand {
    /// Publishes single events, so many at a time, for a while.
    pub(crate) async fn publish(&self, size: usize, in_flight: usize, time: Duration) -> Result<Rate> {
        let (laps, body) = (Arc::new(Laps::default()), body(size));
        let mut tasks = JoinSet::new();
        for number in 0..in_flight {
            let (laps, body) = (laps.clone(), body.clone());
            match self {
                Self::Postgres(on) => {
                    let (client, insert) = on.client(number);
                    tasks.spawn(async move {
                        while !laps.is_over() {
                            client.execute(&insert, &[&&*body]).await?;
                            laps.add(1);
                        }
                        anyhow::Ok(())
                    });
                }
                Self::Nats(on) => {
                    let context = on.context.clone();
                    tasks.spawn(async move {
                        while !laps.is_over() {
                            context.publish("events", body.clone()).await?.await?;
                            laps.add(1);
                        }
                        anyhow::Ok(())
                    });
                }
            }
        }
        let (count, time) = laps.run(WARM, time, || ()).await;
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(Rate { count, time, spread: Spread::default() })
    }

    /// Takes and settles so many, with several workers side by side.
    pub(crate) async fn settle(&self, size: usize, workers: usize, batch: usize, count: u64) -> Result<Rate> {
        let settled = Arc::new(AtomicU64::new(0));
        match self {
            Self::Postgres(on) => on.fill(size, count).await?,
            Self::Nats(on) => on.fill(size, count).await?,
        }
        let watch = Clock::real().stopwatch();
        let mut tasks = JoinSet::new();
        for number in 0..workers {
            let settled = settled.clone();
            match self {
                Self::Postgres(on) => {
                    let client = on.client(number).0;
                    tasks.spawn(async move { work_on_postgres(&client, batch, count, &settled).await });
                }
                Self::Nats(on) => {
                    let context = on.context.clone();
                    tasks.spawn(async move { work_on_nats(&context, batch, count, &settled).await });
                }
            }
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        let (done, time) = (settled.load(Ordering::Relaxed), watch.elapsed());
        ensure!(done == count, "{done} of {count} were settled");
        Ok(Rate { count, time, spread: Spread::default() })
    }
}

fn body(size: usize) -> Bytes {
    let mut body = vec![0; size];
    fastrand::Rng::new().fill(&mut body);
    body.into()
}

/// A table of events, and a ledger beside it.
pub(crate) struct OnPostgres {
    clients: Vec<(Arc<Client>, Statement)>,
}

/// More connections than this make the server slower, and the rest goes through them in turn.
const CONNECTIONS_MAX: usize = 64;

impl OnPostgres {
    #[expect(clippy::disallowed_methods, reason = "the connection's task ends with its client")]
    pub(crate) async fn connect(url: &str, in_flight: usize) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..in_flight.clamp(1, CONNECTIONS_MAX) {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            if clients.is_empty() {
                client
                    .batch_execute(
                        "CREATE TABLE events (id bigserial PRIMARY KEY, body bytea NOT NULL);
                         CREATE TABLE ledger (event bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())",
                    )
                    .await?;
            }
            let insert = client.prepare("INSERT INTO events (body) VALUES ($1)").await?;
            clients.push((Arc::new(client), insert));
        }
        Ok(Self { clients })
    }

    fn client(&self, number: usize) -> (Arc<Client>, Statement) {
        self.clients[number % self.clients.len()].clone()
    }

    async fn fill(&self, size: usize, count: u64) -> Result<()> {
        let sql = "INSERT INTO events (body) SELECT $1 FROM generate_series(1, $2::bigint)";
        let (client, _) = self.client(0);
        client.execute(sql, &[&&*body(size), &i64::try_from(count)?]).await?;
        client.batch_execute("VACUUM ANALYZE events").await?;
        Ok(())
    }
}

async fn work_on_postgres(client: &Client, batch: usize, count: u64, settled: &AtomicU64) -> Result<()> {
    let take = format!("SELECT id, body FROM events ORDER BY id LIMIT {batch} FOR UPDATE SKIP LOCKED");
    let take = client.prepare(&take).await?;
    let note = client.prepare("INSERT INTO ledger (event) SELECT unnest($1::bigint[]) ON CONFLICT DO NOTHING").await?;
    let gone = client.prepare("DELETE FROM events WHERE id = ANY($1)").await?;
    while settled.load(Ordering::Relaxed) < count {
        client.batch_execute("BEGIN").await?;
        let rows = client.query(&take, &[]).await?;
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        // Sent together: nobody waits for the answer of one before the next is on its way.
        let those: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&ids];
        let (noted, deleted, ended) =
            tokio::join!(client.execute(&note, &those), client.execute(&gone, &those), client.batch_execute("COMMIT"));
        let (noted, deleted) = (noted?, deleted?);
        ended?;
        ensure!(noted == ids.len() as u64 && deleted == noted, "an event was taken twice");
        settled.fetch_add(noted, Ordering::Relaxed);
    }
    Ok(())
}

/// A stream of events with a consumer, and a stream that is the ledger.
pub(crate) struct OnNats {
    context: jetstream::Context,
}

impl OnNats {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let context = jetstream::new(async_nats::connect(url).await?);
        for name in ["events", "ledger"] {
            let config = stream::Config {
                name: name.to_owned(),
                subjects: vec![name.to_owned()],
                storage: stream::StorageType::File,
                ..stream::Config::default()
            };
            context.create_stream(config).await?;
        }
        let config = consumer::pull::Config {
            durable_name: Some("work".to_owned()),
            ack_policy: consumer::AckPolicy::Explicit,
            max_ack_pending: 10_000,
            ..consumer::pull::Config::default()
        };
        context.create_consumer_on_stream(config, "events").await?;
        Ok(Self { context })
    }

    async fn fill(&self, size: usize, count: u64) -> Result<()> {
        const AT_ONCE: u64 = 1000;
        let (body, mut left) = (body(size), count);
        while left > 0 {
            let some = left.min(AT_ONCE);
            let mut acks = Vec::new();
            for _ in 0..some {
                acks.push(self.context.publish("events", body.clone()).await?.into_future());
            }
            try_join_all(acks).await?;
            left -= some;
        }
        Ok(())
    }
}

async fn work_on_nats(context: &jetstream::Context, batch: usize, count: u64, settled: &AtomicU64) -> Result<()> {
    let stream = context.get_stream("events").await?;
    let consumer: consumer::PullConsumer =
        stream.get_consumer("work").await.map_err(|error| anyhow::anyhow!("find the consumer: {error}"))?;
    while settled.load(Ordering::Relaxed) < count {
        let asked = consumer.fetch().max_messages(batch).expires(Duration::from_millis(200));
        let mut came = asked.messages().await?;
        let mut messages = Vec::new();
        while let Some(message) = came.next().await {
            messages.push(message.map_err(|error| anyhow::anyhow!("read a message: {error}"))?);
        }
        if messages.is_empty() {
            continue;
        }
        let mut ledger = Vec::with_capacity(messages.len() * 8);
        for message in &messages {
            let info = message.info().map_err(|error| anyhow::anyhow!("read a message: {error}"))?;
            ledger.extend_from_slice(&info.stream_sequence.to_be_bytes());
        }
        context.publish("ledger", ledger.into()).await?.await?;
        let last = messages.pop().context("there is one")?;
        for message in &messages {
            message.ack().await.map_err(|error| anyhow::anyhow!("acknowledge: {error}"))?;
        }
        // The server has all of them when it answers to the last.
        last.double_ack().await.map_err(|error| anyhow::anyhow!("acknowledge: {error}"))?;
        settled.fetch_add(messages.len() as u64 + 1, Ordering::Relaxed);
    }
    Ok(())
}

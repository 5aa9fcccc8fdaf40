//! `tidegate-bench servers`: Tidegate over Redis, PostgreSQL and NATS, each against a client that is written by hand for
//! the same server and does the same durable work.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use tidegate_core::{clock::Clock, notice::Notices, store::Store};
use tidegate_store::{NatsSettings, Opening, PostgresSettings, RedisSettings, open_engine};
use tidegate_testkit::{NatsServer, PostgresServer};
use tokio::runtime::Runtime;

use crate::{
    Settings,
    board::Board,
    bodies::Bodies,
    engine::{self, BATCH, Fate},
    engine_runs::{PROBE, open, redis_rate, repeat},
    hand::{Hand, OnNats, OnPostgres},
    redis::{Form, Redis},
    stage::{group_name, group_spec, stream_name, stream_spec},
};

#[derive(Debug, Args)]
pub(crate) struct Servers {
    #[command(flatten)]
    settings: Settings,
    /// Servers to measure on.
    #[arg(long, value_enum, default_values = ["redis", "postgres", "nats"], value_delimiter = ',')]
    on: Vec<Kind>,
    /// Publishes under way at a time.
    #[arg(long, default_value = "64,1024", value_delimiter = ',')]
    in_flight: Vec<usize>,
    /// Workers side by side.
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// Deliveries per claim.
    #[arg(long, default_value_t = BATCH)]
    batch: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Redis,
    Postgres,
    Nats,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Postgres => "PostgreSQL",
            Self::Nats => "NATS",
        }
    }
}

/// A server that runs for one measurement; each begins empty.
enum Server {
    Redis(Redis),
    Postgres(PostgresServer),
    Nats(NatsServer),
}

impl Server {
    fn start(kind: Kind, settings: &Settings) -> Result<Self> {
        Ok(match kind {
            Kind::Redis => Self::Redis(Redis::start(&settings.dir)?),
            // A connection for each publish under way of the client by hand.
            Kind::Postgres => Self::Postgres(PostgresServer::start(&["max_connections=200", "fsync=on"])),
            Kind::Nats => Self::Nats(NatsServer::start()),
        })
    }

    fn url(&self) -> String {
        match self {
            Self::Redis(server) => server.url(),
            Self::Postgres(server) => server.url(),
            Self::Nats(server) => server.url(),
        }
    }

    async fn store(&self, data: &std::path::Path) -> Result<Arc<dyn Store>> {
        let opening = Opening {
            engine: self.url(),
            data: data.to_owned(),
            disk_reserve: 0,
            node: "bench".to_owned(),
            redis: RedisSettings::default(),
            postgres: PostgresSettings::default(),
            nats: NatsSettings::default(),
            clock: Clock::real(),
            notices: Notices::default(),
        };
        Ok(open_engine(opening).await?)
    }

    async fn hand(&self, in_flight: usize) -> Result<Option<Hand>> {
        Ok(match self {
            // It is driven by the peer that the other measurements use.
            Self::Redis(_) => None,
            Self::Postgres(server) => Some(Hand::Postgres(OnPostgres::connect(&server.url(), in_flight).await?)),
            Self::Nats(server) => Some(Hand::Nats(OnNats::connect(&server.url()).await?)),
        })
    }
}

fn publish_name(kind: Kind, in_flight: usize) -> String {
    format!("{}, publish, {in_flight} in flight", kind.name())
}

fn settle_name(kind: Kind) -> String {
    format!("{}, claim + settle + ledger", kind.name())
}

fn by_hand(name: &str) -> String {
    format!("{name}: by hand")
}

/// What may come twice and is not noticed.
fn plain(name: &str) -> String {
    format!("{name}: by hand, repeats not noticed")
}

impl Servers {
    pub(crate) fn run(&self) -> Result<()> {
        let settings = &self.settings;
        let mut board = open("servers", settings);
        let runtime = settings.runtime()?;
        board.note("Redis: appendfsync always; PostgreSQL: synchronous_commit on; NATS: its default, which answers before it syncs");
        board.note("by hand: a script of SET NX and XADD with the fields of an envelope, XREADGROUP, MGET of a ledger and MULTI; INSERT, and SKIP LOCKED with a ledger in one transaction; JetStream publish, and a pull consumer with a ledger in a stream");
        repeat(&mut board, settings, |board, _| {
            for &kind in &self.on {
                for &in_flight in &self.in_flight {
                    self.publish(&runtime, board, kind, in_flight)?;
                }
                self.settle(&runtime, board, kind)?;
            }
            Ok(())
        })?;
        for &kind in &self.on {
            for &in_flight in &self.in_flight {
                let name = publish_name(kind, in_flight);
                board.expect_ratio(&name, &name, &by_hand(&name), 0.7, Some(0.9));
            }
            let name = settle_name(kind);
            board.expect_ratio(&name, &name, &by_hand(&name), 0.7, Some(0.9));
        }
        board.print(PROBE);
        Ok(())
    }

    fn publish(&self, runtime: &Runtime, board: &mut Board, kind: Kind, in_flight: usize) -> Result<()> {
        let (settings, name) = (&self.settings, publish_name(kind, in_flight));
        let bodies = Bodies::new(settings.size);
        if kind == Kind::Redis {
            board.add(&plain(&name), "1/s", redis_rate(settings, Form::Plain, in_flight)?.0);
            board.add(&by_hand(&name), "1/s", redis_rate(settings, Form::Once, in_flight)?.0);
        }
        let server = Server::start(kind, settings)?;
        if let Some(hand) = runtime.block_on(server.hand(in_flight))? {
            let rate = runtime.block_on(hand.publish(settings.size, in_flight, settings.time()))?;
            board.add(&by_hand(&name), "1/s", rate.per_second());
        }
        drop(server);
        let (server, data) = (Server::start(kind, settings)?, tempfile::tempdir_in(&settings.dir)?);
        let rate = runtime.block_on(async {
            let store = server.store(data.path()).await?;
            store.declare_stream(&stream_spec("events")).await?;
            let streams = [stream_name("events")];
            let rate = engine::publish(&store, &streams, &bodies, in_flight, settings.time(), || ()).await?;
            store.close().await?;
            anyhow::Ok(rate)
        })?;
        board.add(&name, "1/s", rate.per_second());
        Ok(())
    }

    fn settle(&self, runtime: &Runtime, board: &mut Board, kind: Kind) -> Result<()> {
        let (settings, name) = (&self.settings, settle_name(kind));
        let count = settings.messages();
        if kind == Kind::Redis {
            for (form, name) in [(Form::Plain, plain(&name)), (Form::Once, by_hand(&name))] {
                let (redis, count) = (Redis::start(&settings.dir)?, count.min(300_000));
                let driven = redis.settle(form, settings.size, self.workers, self.batch, count)?;
                board.add(&name, "1/s", driven.per_second());
            }
        }
        let server = Server::start(kind, settings)?;
        if let Some(hand) = runtime.block_on(server.hand(self.workers))? {
            let rate = runtime.block_on(hand.settle(settings.size, self.workers, self.batch, count))?;
            board.add(&by_hand(&name), "1/s", rate.per_second());
        }
        drop(server);
        let (server, data) = (Server::start(kind, settings)?, tempfile::tempdir_in(&settings.dir)?);
        let rate = runtime.block_on(async {
            let store = server.store(data.path()).await?;
            store.declare_stream(&stream_spec("events")).await?;
            store.declare_group(&group_spec("work", "events")).await?;
            engine::fill(&store, &stream_name("events"), &Bodies::new(settings.size), count).await?;
            let groups = [group_name("work")];
            let rate = engine::settle(&store, &groups, self.workers, self.batch, count, Fate::Done).await?;
            store.close().await?;
            anyhow::Ok(rate)
        })?;
        board.add(&name, "1/s", rate.per_second());
        Ok(())
    }
}

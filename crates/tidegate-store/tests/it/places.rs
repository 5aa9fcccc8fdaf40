//! Places on which the engines are tested: a simulated disk, a real folder, memory, a Redis, PostgreSQL or NATS server.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use tidegate_core::{
    clock::{Clock, Timestamp},
    fault::Result,
    store::Store,
};
use tidegate_store::{
    disk::{Disk, MemoryDisk, RealDisk},
    embedded::{Embedded, EmbeddedOptions},
    nats::{NatsOptions, NatsStore},
    postgres::{PostgresOptions, PostgresStore},
    redis::{RedisOptions, RedisStore},
};
use tidegate_testkit::{NatsServer, PostgresServer, RedisServer, SimDisk, broker_suite::Subject};

/// Where simulated stores lie.
pub(crate) const DIR: &str = "/sim/data";

/// Every test starts at the same time.
pub(crate) fn clock() -> Clock {
    Clock::manual(Timestamp::from_millis(1_767_225_600_000))
}

/// Options of a stepped store. Each opening draws other random numbers, and the same in each run.
pub(crate) fn stepped(disk: &SimDisk, clock: &Clock) -> EmbeddedOptions {
    let options = EmbeddedOptions::new(DIR);
    let seed = Some(disk.calls().changes);
    EmbeddedOptions { disk: Arc::new(disk.clone()), clock: clock.clone(), threads: false, seed, ..options }
}

/// A stepped store on a disk that forgets what was not synced when the process is killed.
pub(crate) struct Simulated {
    disk: SimDisk,
    clock: Clock,
}

impl Simulated {
    pub(crate) fn new() -> Self {
        Self { disk: SimDisk::new(1), clock: clock() }
    }
}

#[async_trait]
impl Subject for Simulated {
    async fn open(&self) -> Result<Arc<dyn Store>> {
        Ok(Embedded::open(stepped(&self.disk, &self.clock))?)
    }

    fn kill(&self) {
        // More than a kill of the process: the machine goes, with the least that a disk has to keep.
        self.disk.crash(u64::from(self.disk.calls().writes as u32));
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

/// The store as users run it, with its threads, in a real folder.
pub(crate) struct Threaded {
    dir: tempfile::TempDir,
    clock: Clock,
}

impl Threaded {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a scratch folder"), clock: clock() }
    }
}

#[async_trait]
impl Subject for Threaded {
    async fn open(&self) -> Result<Arc<dyn Store>> {
        let options = EmbeddedOptions::new(self.dir.path());
        Ok(Embedded::open(EmbeddedOptions { disk: Arc::new(RealDisk), clock: self.clock.clone(), ..options })?)
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

/// The engine `memory`, kept over restarts by its disk.
pub(crate) struct InMemory {
    disk: MemoryDisk,
    clock: Clock,
}

impl InMemory {
    pub(crate) fn new() -> Self {
        Self { disk: MemoryDisk::default(), clock: clock() }
    }
}

#[async_trait]
impl Subject for InMemory {
    async fn open(&self) -> Result<Arc<dyn Store>> {
        let options = EmbeddedOptions::new(PathBuf::from("/memory"));
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        Ok(Embedded::open(EmbeddedOptions { disk, clock: self.clock.clone(), spares: 0, ..options })?)
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

/// A prefix of its own on a server that the cases of one test share.
pub(crate) struct OnRedis {
    server: Arc<RedisServer>,
    prefix: String,
    clock: Clock,
}

impl OnRedis {
    pub(crate) fn new(server: &Arc<RedisServer>) -> Self {
        Self { server: Arc::clone(server), prefix: format!("{:x}:", fastrand::u64(..)), clock: clock() }
    }
}

#[async_trait]
impl Subject for OnRedis {
    async fn open(&self) -> Result<Arc<dyn Store>> {
        let options = RedisOptions::new(self.server.socket_url());
        Ok(RedisStore::open(RedisOptions { prefix: self.prefix.clone(), clock: self.clock.clone(), ..options }).await?)
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

/// A schema of its own on a server that the cases of one test share.
pub(crate) struct OnPostgres {
    server: Arc<PostgresServer>,
    schema: String,
    clock: Clock,
}

impl OnPostgres {
    pub(crate) fn new(server: &Arc<PostgresServer>) -> Self {
        Self { server: Arc::clone(server), schema: format!("t{:x}", fastrand::u64(..)), clock: clock() }
    }
}

#[async_trait]
impl Subject for OnPostgres {
    async fn open(&self) -> Result<Arc<dyn Store>> {
        let options = PostgresOptions::new(self.server.url());
        Ok(PostgresStore::open(PostgresOptions { schema: self.schema.clone(), clock: self.clock.clone(), ..options })
            .await?)
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

/// A log of its own on a server that the cases of one test share.
pub(crate) struct OnNats {
    server: Arc<NatsServer>,
    dir: tempfile::TempDir,
    prefix: String,
    clock: Clock,
}

impl OnNats {
    pub(crate) fn new(server: &Arc<NatsServer>) -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        Self { server: Arc::clone(server), dir, prefix: format!("t{:x}", fastrand::u64(..)), clock: clock() }
    }
}

#[async_trait]
impl Subject for OnNats {
    async fn open(&self) -> Result<Arc<dyn Store>> {
        let options = NatsOptions::new(self.server.url(), self.dir.path());
        Ok(NatsStore::open(NatsOptions { prefix: self.prefix.clone(), clock: self.clock.clone(), ..options }).await?)
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

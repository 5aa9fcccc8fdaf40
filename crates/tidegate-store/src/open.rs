//! Chooses the engine that a configuration names, opens it, and looks whether it could be opened.

use std::{path::Path, sync::Arc, time::Duration};

use tidegate_core::{
    clock::Clock,
    config::Tls,
    fault::{Fault, Result},
    notice::Notices,
    store::Store,
};

use crate::{
    disk,
    embedded::{Embedded, EmbeddedOptions},
};

/// Names of the engines that [`open`] knows.
pub const ENGINES: [&str; 2] = ["embedded", "memory"];
/// How the address of a Redis server begins; the second word asks for TLS.
pub const REDIS: [&str; 2] = ["redis://", "rediss://"];

/// How the address of a PostgreSQL server begins; the second word is as good.
pub const POSTGRES: [&str; 2] = ["postgres://", "postgresql://"];

/// How the address of a NATS server begins; the second word asks for TLS.
pub const NATS: [&str; 2] = ["nats://", "tls://"];

/// What is said of an address of a NATS server when its engine is not there.
pub const NATS_LEFT_OUT: &str = "this program was built without the engine nats (feature \"nats\")";
/// What is said of an address of a Redis server when its engine is not there.
pub const LEFT_OUT: &str = "this program was built without the engine redis (feature \"redis\")";
/// What is said of an address of a PostgreSQL server when its engine is not there.
pub const POSTGRES_LEFT_OUT: &str = "this program was built without the engine postgres (feature \"postgres\")";

/// What decides which engine is opened, and how.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The engine: a name of [`ENGINES`], or an address.
    pub engine: String,
    /// Directory of the node's data.
    pub data: std::path::PathBuf,
    /// Bytes on its disk that the engine in the node keeps free.
    pub disk_reserve: u64,
    /// Name of the node.
    pub node: String,
    /// Settings of the engine on Redis.
    pub redis: RedisSettings,
    /// Settings of the engine on PostgreSQL.
    pub postgres: PostgresSettings,
    /// Settings of the engine on NATS.
    pub nats: NatsSettings,
    /// The clock.
    pub clock: Clock,
    /// Where to tell what happens.
    pub notices: Notices,
}

/// Settings of the engine on Redis beside the address.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// User to log in as; none = the default user.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Password>,
    /// Whom to trust over TLS.
    pub tls: Tls,
    /// Put before the names of all keys.
    pub prefix: String,
    /// Longest time that one answer may take.
    pub timeout: Duration,
    /// Time between two looks for events that other programs appended.
    pub poll: Duration,
    /// Time without a sign of life after which other nodes work off what a node holds.
    pub takeover: Duration,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            user: None,
            password: None,
            tls: Tls::default(),
            prefix: String::new(),
            timeout: Duration::from_secs(10),
            poll: Duration::from_millis(250),
            takeover: Duration::from_secs(10),
        }
    }
}

/// Settings of the engine on PostgreSQL beside the address.
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    /// Role to log in as; none = the one in the address.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Password>,
    /// Whom to trust over TLS.
    pub tls: Tls,
    /// Schema of tables and functions.
    pub schema: String,
    /// Longest time that one answer may take.
    pub timeout: Duration,
    /// Time between two looks for work that nobody rang for.
    pub poll: Duration,
    /// Time without a sign of life after which other nodes work off what a node holds.
    pub takeover: Duration,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        Self {
            user: None,
            password: None,
            tls: Tls::default(),
            schema: "tidegate".to_owned(),
            timeout: Duration::from_secs(10),
            poll: Duration::from_secs(1),
            takeover: Duration::from_secs(10),
        }
    }
}

/// Settings of the engine on NATS beside the address.
#[derive(Debug, Clone)]
pub struct NatsSettings {
    /// User to log in as; none = nobody, or a token.
    pub user: Option<String>,
    /// Password of the user; without a user, a token.
    pub password: Option<Password>,
    /// Whom to trust over TLS.
    pub tls: Tls,
    /// First words of all subjects.
    pub prefix: String,
    /// Servers that keep the log, when it is made.
    pub replicas: usize,
    /// Longest time that one answer may take.
    pub timeout: Duration,
    /// Time without a sign of life after which another node takes over.
    pub takeover: Duration,
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self {
            user: None,
            password: None,
            tls: Tls::default(),
            prefix: "tidegate".to_owned(),
            replicas: 1,
            timeout: Duration::from_secs(10),
            takeover: Duration::from_secs(10),
        }
    }
}

/// A password; never shown.
#[derive(Clone)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What a look at the server of an engine came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What it is, and what may be lost with it.
    pub found: String,
    /// What it must be.
    pub required: String,
    /// Whether it will do.
    pub ok: bool,
    /// What is better changed.
    pub warning: Option<String>,
}

/// Opens an engine inside of this process by its name.
pub fn open(engine: &str, data: &Path, clock: Clock, notices: Notices) -> Result<Arc<dyn Store>> {
    open_with(engine, EmbeddedOptions { clock, notices, ..EmbeddedOptions::new(data) })
}

fn open_with(engine: &str, options: EmbeddedOptions) -> Result<Arc<dyn Store>> {
    match engine {
        "embedded" => Ok(Embedded::open(options)?),
        "memory" => {
            let disk = Arc::new(disk::MemoryDisk::default());
            Ok(Embedded::open(EmbeddedOptions { disk, spares: 0, ..options })?)
        }
        other => Err(unknown(other)),
    }
}

fn unknown(engine: &str) -> Fault {
    let all = ENGINES.join(", ");
    let note = format!(
        "there is no engine {engine:?}; there are: {all}, redis://host:port/db, postgres://host:port/database, nats://host:port"
    );
    Fault::invalid(note)
}

/// Opens the engine that a configuration names.
pub async fn open_engine(opening: Opening) -> Result<Arc<dyn Store>> {
    if is_redis(&opening.engine) {
        return open_redis(opening).await;
    }
    if is_postgres(&opening.engine) {
        return open_postgres(opening).await;
    }
    if is_nats(&opening.engine) {
        return open_nats(opening).await;
    }
    let Opening { engine, data, disk_reserve, clock, notices, .. } = opening;
    open_with(&engine, EmbeddedOptions { clock, notices, disk_reserve, ..EmbeddedOptions::new(data) })
}

/// Tells whether an engine is the address of a Redis server.
fn is_redis(engine: &str) -> bool {
    REDIS.iter().any(|word| engine.starts_with(word))
}

/// Tells whether an engine is the address of a NATS server.
fn is_nats(engine: &str) -> bool {
    NATS.iter().any(|word| engine.starts_with(word))
}

/// Tells whether an engine is the address of a PostgreSQL server.
pub fn is_postgres(engine: &str) -> bool {
    POSTGRES.iter().any(|word| engine.starts_with(word))
}

/// Looks at the server of an engine without changing anything; none when the engine has no server.
pub async fn look(opening: &Opening) -> Option<Look> {
    if is_redis(&opening.engine) {
        Some(look_at_redis(opening).await)
    } else if is_postgres(&opening.engine) {
        Some(look_at_postgres(opening).await)
    } else if is_nats(&opening.engine) {
        Some(look_at_nats(opening).await)
    } else {
        None
    }
}

#[cfg(feature = "redis")]
fn redis_options(opening: &Opening) -> crate::redis::RedisOptions {
    let RedisSettings { user, password, tls, prefix, timeout, poll, takeover } = opening.redis.clone();
    crate::redis::RedisOptions {
        url: opening.engine.clone(),
        user,
        password: password.map(|password| password.0),
        tls,
        node: opening.node.clone(),
        prefix,
        timeout,
        poll,
        takeover,
        clock: opening.clock.clone(),
        notices: opening.notices.clone(),
    }
}

#[cfg(feature = "redis")]
async fn open_redis(opening: Opening) -> Result<Arc<dyn Store>> {
    Ok(crate::redis::RedisStore::open(redis_options(&opening)).await?)
}

#[cfg(feature = "redis")]
async fn look_at_redis(opening: &Opening) -> Look {
    crate::redis::look(&redis_options(opening)).await
}

#[cfg(not(feature = "redis"))]
async fn open_redis(_: Opening) -> Result<Arc<dyn Store>> {
    Err(Fault::invalid(LEFT_OUT))
}

#[cfg(not(feature = "redis"))]
async fn look_at_redis(_: &Opening) -> Look {
    Look { found: LEFT_OUT.to_owned(), required: "the engine redis".to_owned(), ok: false, warning: None }
}

#[cfg(feature = "postgres")]
fn postgres_options(opening: &Opening) -> crate::postgres::PostgresOptions {
    let PostgresSettings { user, password, tls, schema, timeout, poll, takeover } = opening.postgres.clone();
    crate::postgres::PostgresOptions {
        url: opening.engine.clone(),
        user,
        password: password.map(|password| password.0),
        tls,
        node: opening.node.clone(),
        schema,
        timeout,
        poll,
        takeover,
        clock: opening.clock.clone(),
        notices: opening.notices.clone(),
    }
}

#[cfg(feature = "postgres")]
async fn open_postgres(opening: Opening) -> Result<Arc<dyn Store>> {
    Ok(crate::postgres::PostgresStore::open(postgres_options(&opening)).await?)
}

#[cfg(feature = "postgres")]
async fn look_at_postgres(opening: &Opening) -> Look {
    crate::postgres::look(&postgres_options(opening)).await
}

#[cfg(not(feature = "postgres"))]
async fn open_postgres(_: Opening) -> Result<Arc<dyn Store>> {
    Err(Fault::invalid(POSTGRES_LEFT_OUT))
}

#[cfg(not(feature = "postgres"))]
async fn look_at_postgres(_: &Opening) -> Look {
    Look { found: POSTGRES_LEFT_OUT.to_owned(), required: "the engine postgres".to_owned(), ok: false, warning: None }
}

#[cfg(feature = "nats")]
fn nats_options(opening: &Opening) -> crate::nats::NatsOptions {
    let NatsSettings { user, password, tls, prefix, replicas, timeout, takeover } = opening.nats.clone();
    crate::nats::NatsOptions {
        url: opening.engine.clone(),
        user,
        password: password.map(|password| password.0),
        tls,
        node: opening.node.clone(),
        prefix,
        replicas,
        timeout,
        takeover,
        dir: opening.data.join("nats"),
        clock: opening.clock.clone(),
        notices: opening.notices.clone(),
    }
}

#[cfg(feature = "nats")]
async fn open_nats(opening: Opening) -> Result<Arc<dyn Store>> {
    Ok(crate::nats::NatsStore::open(nats_options(&opening)).await?)
}

#[cfg(feature = "nats")]
async fn look_at_nats(opening: &Opening) -> Look {
    crate::nats::look(&nats_options(opening)).await
}

#[cfg(not(feature = "nats"))]
async fn open_nats(_: Opening) -> Result<Arc<dyn Store>> {
    Err(Fault::invalid(NATS_LEFT_OUT))
}

#[cfg(not(feature = "nats"))]
async fn look_at_nats(_: &Opening) -> Look {
    Look { found: NATS_LEFT_OUT.to_owned(), required: "the engine nats".to_owned(), ok: false, warning: None }
}

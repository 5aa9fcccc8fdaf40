//! What stores the streams, and the settings of an engine with a server.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tidegate_core::{
    config::{Secret, Spot, Time, Tls},
    limits,
};
use tidegate_store::{NATS, NatsSettings, POSTGRES, Password, PostgresSettings, REDIS, RedisSettings};

/// What stores the streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Engine {
    /// The node's own journal in `node.data`.
    #[default]
    Embedded,
    /// Memory: everything is lost when the node stops. For tests.
    Memory,
    /// A Redis server, by its address.
    Redis(String),
    /// A PostgreSQL server, by its address.
    Postgres(String),
    /// A NATS server, by its address.
    Nats(String),
}

impl Engine {
    /// Words that it may be, or begin with.
    const WORDS: &[&str] =
        &["embedded", "memory", "redis://host:port/db", "postgres://host:port/database", "nats://host:port"];

    /// Returns the word used in the configuration.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Embedded => "embedded",
            Self::Memory => "memory",
            Self::Redis(address) | Self::Postgres(address) | Self::Nats(address) => address,
        }
    }

    /// Tells whether what is stored lies outside of the node.
    pub fn is_outside(&self) -> bool {
        matches!(self, Self::Redis(_) | Self::Postgres(_) | Self::Nats(_))
    }

    /// Tells whether settings for TLS count: the address asks for it, or is one where they ask for it themselves.
    fn may_use_tls(&self) -> bool {
        match self {
            Self::Embedded | Self::Memory => false,
            Self::Redis(address) => address.starts_with(REDIS[1]),
            Self::Postgres(address) => tidegate_tls::asks_for_tls(address).unwrap_or(true),
            Self::Nats(_) => true,
        }
    }

    pub(super) fn check(&self, here: &Spot<'_>) {
        let (address, section, variable) = match self {
            Self::Embedded | Self::Memory => return,
            Self::Redis(address) => {
                here.require(cfg!(feature = "redis"), || tidegate_store::LEFT_OUT.to_owned());
                (address, "redis", "REDIS_PASSWORD")
            }
            Self::Postgres(address) => {
                here.require(cfg!(feature = "postgres"), || tidegate_store::POSTGRES_LEFT_OUT.to_owned());
                if let Err(why) = tidegate_tls::asks_for_tls(address) {
                    here.error(why);
                }
                (address, "postgres", "PGPASSWORD")
            }
            Self::Nats(address) => {
                here.require(cfg!(feature = "nats"), || tidegate_store::NATS_LEFT_OUT.to_owned());
                (address, "nats", "NATS_PASSWORD")
            }
        };
        let plain = || {
            format!(
                "user and password do not stand in the address: give them as {section}.user and {section}.password, such as \
                 ${{env:{variable}}}"
            )
        };
        here.require(!address.contains('@') && !address.contains("password="), plain);
    }
}

/// Tells whether an address begins with one of these words and goes on.
fn names_host(address: &str, words: &[&str]) -> bool {
    words.iter().any(|word| address.strip_prefix(word).is_some_and(|rest| !rest.is_empty()))
}

impl Serialize for Engine {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Engine {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match text.as_str() {
            "embedded" => Ok(Self::Embedded),
            "memory" => Ok(Self::Memory),
            address if names_host(address, &REDIS) => Ok(Self::Redis(text)),
            address if names_host(address, &POSTGRES) => Ok(Self::Postgres(text)),
            address if names_host(address, &NATS) => Ok(Self::Nats(text)),
            word => Err(serde::de::Error::unknown_variant(word, Self::WORDS)),
        }
    }
}

impl JsonSchema for Engine {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Engine".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "title": "engine",
            "pattern": "^(embedded|memory|rediss?://.+|postgres(ql)?://.+|(nats|tls)://.+)$",
            "examples": ["embedded", "memory", "redis://127.0.0.1:6379/0", "postgres://127.0.0.1:5432/tidegate", "nats://127.0.0.1:4222"]
        })
    }
}

/// Settings of the engine on a Redis server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// User to log in as; absent = the server's default user.
    pub user: Option<String>,
    /// Password, as a reference such as `${env:REDIS_PASSWORD}`.
    pub password: Option<Secret>,
    /// Whom to trust over TLS, and how the node shows who it is. For an address that begins with `rediss://`.
    pub tls: Tls,
    /// Put before the names of all keys. Without it, a stream is the key of its name, which other programs on the same
    /// server may write and read; everything else lies under `tidegate:`.
    pub prefix: String,
    /// Longest time that one answer of the server may take.
    pub timeout: Time,
    /// Time between two looks for events that other programs have appended. What nodes append is known at once.
    pub poll: Time,
    /// Time without a sign of life after which a node counts as gone, and other nodes work off what it holds.
    pub takeover: Time,
}

/// Longest time for an answer: several calls in a row must end before health takes the store for stuck.
const TIMEOUT_MAX: Time = Time::from_secs(10);
/// Shortest time after which a node may count as gone: a busy machine is silent for a moment too.
const TAKEOVER_MIN: Time = Time::from_secs(2);

impl Default for RedisConfig {
    fn default() -> Self {
        let RedisSettings { prefix, timeout, poll, takeover, .. } = RedisSettings::default();
        let time = |time: std::time::Duration| Time::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Self {
            user: None,
            password: None,
            tls: Tls::default(),
            prefix,
            timeout: time(timeout),
            poll: time(poll),
            takeover: time(takeover),
        }
    }
}

impl RedisConfig {
    /// Tells whether nothing was set.
    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what the engine is asked for.
    pub fn settings(&self) -> RedisSettings {
        RedisSettings {
            user: self.user.clone(),
            password: self.password.as_ref().map(|secret| Password(secret.expose().to_owned())),
            tls: self.tls.clone(),
            prefix: self.prefix.clone(),
            timeout: self.timeout.get(),
            poll: self.poll.get(),
            takeover: self.takeover.get(),
        }
    }

    pub(super) fn check(&self, engine: &Engine, here: &Spot<'_>) {
        let is_redis = matches!(engine, Engine::Redis(_));
        here.require(is_redis || self.is_usual(), || "these settings are for engine: redis://host:port/db".to_owned());
        tidegate_tls::check(&self.tls, engine.may_use_tls(), "rediss://host:port/db", &here.at("tls"));
        check_times(self.timeout, self.takeover, here);
        check_poll(self.poll, here);
        let prefix = &self.prefix;
        let fits = prefix.len() <= limits::NAME_BYTES_MAX
            && prefix.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':'));
        here.at("prefix").require(fits, || {
            format!("may hold only letters, digits, '.', '_', '-' and ':', and at most {}", limits::NAME_BYTES_MAX)
        });
    }
}

/// Settings of the engine on a PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresConfig {
    /// Role to log in as; absent = the name of the system's user, as usual.
    pub user: Option<String>,
    /// Password, as a reference such as `${env:PGPASSWORD}`.
    pub password: Option<Secret>,
    /// Whom to trust over TLS, and how the node shows who it is. For an address with
    /// `?sslmode=verify-full`; without it the connection is a plain one.
    pub tls: Tls,
    /// Schema in which the tables and functions of the store lie. It is made when it is missing.
    pub schema: String,
    /// Longest time that one answer of the server may take.
    pub timeout: Time,
    /// Time between two looks for work that nobody rang for: what one node appends or gives back is told to the others at
    /// once, and a message may be lost.
    pub poll: Time,
    /// Time without a sign of life after which a node counts as gone, and other nodes work off what it holds.
    pub takeover: Time,
}

/// Longest name of a schema: the server cuts longer ones.
const SCHEMA_BYTES_MAX: usize = 48;

impl Default for PostgresConfig {
    fn default() -> Self {
        let PostgresSettings { schema, timeout, poll, takeover, .. } = PostgresSettings::default();
        let time = |time: std::time::Duration| Time::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Self {
            user: None,
            password: None,
            tls: Tls::default(),
            schema,
            timeout: time(timeout),
            poll: time(poll),
            takeover: time(takeover),
        }
    }
}

impl PostgresConfig {
    /// Tells whether nothing was set.
    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what the engine is asked for.
    pub fn settings(&self) -> PostgresSettings {
        PostgresSettings {
            user: self.user.clone(),
            password: self.password.as_ref().map(|secret| Password(secret.expose().to_owned())),
            tls: self.tls.clone(),
            schema: self.schema.clone(),
            timeout: self.timeout.get(),
            poll: self.poll.get(),
            takeover: self.takeover.get(),
        }
    }

    pub(super) fn check(&self, engine: &Engine, here: &Spot<'_>) {
        let is_postgres = matches!(engine, Engine::Postgres(_));
        let elsewhere = || "these settings are for engine: postgres://host:port/database".to_owned();
        here.require(is_postgres || self.is_usual(), elsewhere);
        tidegate_tls::check(
            &self.tls,
            engine.may_use_tls(),
            "postgres://host:port/database?sslmode=verify-full",
            &here.at("tls"),
        );
        check_times(self.timeout, self.takeover, here);
        check_poll(self.poll, here);
        let schema = &self.schema;
        let fits = schema.len() <= SCHEMA_BYTES_MAX
            && schema.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && !schema.starts_with("pg_")
            && schema.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        here.at("schema").require(fits, || {
            format!("may hold only small letters, digits and '_', begins with no digit and no pg_, and at most {SCHEMA_BYTES_MAX}")
        });
    }
}

/// Checks the times of an engine with a server.
fn check_times(timeout: Time, takeover: Time, here: &Spot<'_>) {
    here.at("timeout").require(!timeout.is_zero(), || "must be more than zero".to_owned());
    here.at("timeout").require(timeout <= TIMEOUT_MAX, || format!("must be at most {TIMEOUT_MAX}"));
    here.at("takeover").require(takeover >= TAKEOVER_MIN, || format!("must be at least {TAKEOVER_MIN}"));
}

fn check_poll(poll: Time, here: &Spot<'_>) {
    here.at("poll").require(!poll.is_zero(), || "must be more than zero".to_owned());
}

/// Settings of the engine on a NATS server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NatsConfig {
    /// User to log in as; absent = nobody, or by a token.
    pub user: Option<String>,
    /// Password, as a reference such as `${env:NATS_PASSWORD}`; without a user, a token.
    pub password: Option<Secret>,
    /// Whom to trust over TLS, and how the node shows who it is. An address that begins with
    /// `tls://`, or one of these keys, asks for TLS.
    pub tls: Tls,
    /// First word of all subjects, and in capitals the name of the JetStream stream. Nodes with the same one share a store.
    pub prefix: String,
    /// Servers that keep the log: 1, 3 or 5. Counts when the log is made.
    pub replicas: usize,
    /// Longest time that one answer of the server, or of the node that leads, may take.
    pub timeout: Time,
    /// Time without a sign of life after which a node counts as gone: what it holds is lent again, and when it led, another
    /// node leads.
    pub takeover: Time,
}

impl Default for NatsConfig {
    fn default() -> Self {
        let NatsSettings { prefix, replicas, timeout, takeover, .. } = NatsSettings::default();
        let time = |time: std::time::Duration| Time::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Self {
            user: None,
            password: None,
            tls: Tls::default(),
            prefix,
            replicas,
            timeout: time(timeout),
            takeover: time(takeover),
        }
    }
}

impl NatsConfig {
    /// Tells whether nothing was set.
    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what the engine is asked for.
    pub fn settings(&self) -> NatsSettings {
        NatsSettings {
            user: self.user.clone(),
            password: self.password.as_ref().map(|secret| Password(secret.expose().to_owned())),
            tls: self.tls.clone(),
            prefix: self.prefix.clone(),
            replicas: self.replicas,
            timeout: self.timeout.get(),
            takeover: self.takeover.get(),
        }
    }

    pub(super) fn check(&self, engine: &Engine, here: &Spot<'_>) {
        let is_nats = matches!(engine, Engine::Nats(_));
        here.require(is_nats || self.is_usual(), || "these settings are for engine: nats://host:port".to_owned());
        tidegate_tls::check(&self.tls, engine.may_use_tls(), "tls://host:port", &here.at("tls"));
        check_times(self.timeout, self.takeover, here);
        let prefix = &self.prefix;
        let fits = !prefix.is_empty()
            && prefix.len() <= limits::NAME_BYTES_MAX
            && prefix.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'));
        here.at("prefix").require(fits, || {
            format!("may hold only small letters, digits, '_' and '-', and at most {}", limits::NAME_BYTES_MAX)
        });
        here.at("replicas").require(matches!(self.replicas, 1 | 3 | 5), || "is 1, 3 or 5".to_owned());
    }
}

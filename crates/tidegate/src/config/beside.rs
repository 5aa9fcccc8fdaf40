//! Engines beside that of the node: what a `stream` sink or source passes events to, or takes them from.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::config::Spot;

use super::{Engine, NatsConfig, PostgresConfig, RedisConfig};

/// An engine beside that of the node. It is opened when a sink or a source first needs it; the node runs without it as well.
/// The node has a name of its own there, its own name and that of the engine with a dot between them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BesideConfig {
    /// What stores its streams: `embedded`, or the address of a server as in `engine`.
    pub engine: Engine,
    /// Directory of the data of an `embedded` one, which no other node may have open; relative to the directory in which the
    /// node is started. It must hold a store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Settings of an engine on a Redis server.
    #[serde(default, skip_serializing_if = "RedisConfig::is_usual")]
    pub redis: RedisConfig,
    /// Settings of an engine on a PostgreSQL server.
    #[serde(default, skip_serializing_if = "PostgresConfig::is_usual")]
    pub postgres: PostgresConfig,
    /// Settings of an engine on a NATS server.
    #[serde(default, skip_serializing_if = "NatsConfig::is_usual")]
    pub nats: NatsConfig,
}

impl BesideConfig {
    /// Checks it; `own` is the directory of the node's own data.
    pub(super) fn check(&self, own: &std::path::Path, here: &Spot<'_>) {
        self.engine.check(&here.at("engine"));
        self.redis.check(&self.engine, &here.at("redis"));
        self.postgres.check(&self.engine, &here.at("postgres"));
        self.nats.check(&self.engine, &here.at("nats"));
        here.at("engine").require(self.engine != Engine::Memory, || "memory is of no other node".to_owned());
        let is_embedded = self.engine == Engine::Embedded;
        match &self.data {
            None if is_embedded => here.error("data is needed: the directory of the other store"),
            Some(_) if !is_embedded => here.at("data").error("is for engine: embedded"),
            Some(data) if data == own => here.at("data").error("is where the node's own data lie"),
            Some(_) | None => {}
        }
    }
}

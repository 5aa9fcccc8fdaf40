//! The configuration of a node: its shape, its defaults and the relations between its parts.
//!
//! The doc comments of the fields are the reference; `docs/reference/configuration.md` is made from them.

mod access;
mod beside;
mod engine;
mod environment;
mod group;
mod schema;
mod stream;
mod target;
mod warnings;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tidegate_control::Profile;
use tidegate_core::{
    config::{self, Bytes, Check, Errors, Spot, Time},
    dedupe::DedupeKey,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    names::{EngineName, GroupName, ModuleName, StreamName, TargetName},
    result::results_stream,
};
use tidegate_modules::{
    SourceConfig, SourceSettings as _,
    source::http::{HttpConfig, HttpReply},
};

pub use self::{
    access::{ListenerConfig, Protocol, Role, TokenConfig, TokenHash},
    beside::BesideConfig,
    engine::{Engine, NatsConfig, PostgresConfig, RedisConfig},
    environment::SystemEnvironment,
    group::{GroupConfig, LedgerConfig, OnFailure, ResultsConfig, RetryConfig, Start},
    schema::{SchemaConfig, SchemaOn},
    stream::{DedupeConfig, Durability, OnFull, RetainConfig, StreamConfig},
    target::{BreakerConfig, RetryBudgetConfig, TargetConfig},
    warnings::WarningsConfig,
};

/// Version of the configuration language.
pub const VERSION: u32 = 1;

/// Configuration of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of the configuration language; always 1.
    pub version: u32,
    /// The node itself.
    #[serde(default)]
    pub node: NodeConfig,
    /// What stores the streams: `embedded`, the node's own journal in `node.data`; the address of a Redis or Valkey server
    /// from 6.2 on; that of a PostgreSQL server from 13 on; that of a NATS server with JetStream from 2.9 on; or `memory`, for
    /// tests: everything is lost when the node stops.
    #[serde(default)]
    pub engine: Engine,
    /// Settings of the engine on a Redis server.
    #[serde(default, skip_serializing_if = "RedisConfig::is_usual")]
    pub redis: RedisConfig,
    /// Settings of the engine on a PostgreSQL server.
    #[serde(default, skip_serializing_if = "PostgresConfig::is_usual")]
    pub postgres: PostgresConfig,
    /// Settings of the engine on a NATS server.
    #[serde(default, skip_serializing_if = "NatsConfig::is_usual")]
    pub nats: NatsConfig,
    /// Engines beside that of the node, by name, for sinks and sources of type `stream`: to pass events to another engine, or
    /// to take them from one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub engines: BTreeMap<EngineName, BesideConfig>,
    /// Where the API, health and metrics listen.
    #[serde(default = "ListenerConfig::usual")]
    pub listeners: Vec<ListenerConfig>,
    /// Who may use the API. Without any, everybody on this machine may, and nobody else can.
    #[serde(default)]
    pub tokens: Vec<TokenConfig>,
    /// Streams by name. The dead letters of a stream lie in a stream of its name with the ending `.dlq`, which comes with it.
    #[serde(default)]
    pub streams: BTreeMap<StreamName, StreamConfig>,
    /// Sources by name: where events come in, beside the API.
    #[serde(default)]
    pub sources: BTreeMap<ModuleName, SourceConfig>,
    /// Targets by name: outside destinations, each with the guard that stands before it.
    #[serde(default)]
    pub targets: BTreeMap<TargetName, TargetConfig>,
    /// Groups by name: who processes the events of a stream, and how.
    #[serde(default)]
    pub groups: BTreeMap<GroupName, GroupConfig>,
    /// When the node warns of itself.
    #[serde(default)]
    pub warnings: WarningsConfig,
    /// How the node stops.
    #[serde(default)]
    pub shutdown: ShutdownConfig,
}

/// The node itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Name of the node in logs, metrics and answers.
    pub name: String,
    /// Directory of its data; relative to the directory in which the node is started.
    pub data: PathBuf,
    /// What it is used for, such as `staging` or `production`.
    pub environment: String,
    /// Space on the disk of `data` that is kept for finishing what is there. With less free, publishes are refused (503
    /// with `Retry-After`, and the store counts as degraded) while handlers, settling and dead letters go on; when a
    /// quarter more than this is free, publishes are taken again. At least 16MiB.
    pub disk_reserve: Bytes,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: "tidegate".to_owned(),
            data: PathBuf::from("./data"),
            environment: "development".to_owned(),
            disk_reserve: Bytes::new(limits::DISK_RESERVE_BYTES as u64),
        }
    }
}

fn digest(mut value: serde_json::Value) -> String {
    value.sort_all_objects();
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How the node stops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    /// How long running handlers may take to finish before they are aborted.
    pub grace: Time,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { grace: Time::from_secs(25) }
    }
}

/// Least space that is kept: a checkpoint and some segments must find room in it.
const RESERVE_MIN: Bytes = Bytes::new(16 << 20);
/// Longest time for running handlers to finish.
const GRACE_MAX: Time = Time::from_secs(24 * 3600);

impl Config {
    /// Reads a configuration; `origin` is its name in errors, `environment` resolves its references.
    pub fn read(text: &str, origin: &str, environment: &dyn config::Environment) -> Result<Self, Errors> {
        config::load(text, origin, environment)
    }

    /// Reads a configuration file; references to files are relative to its directory.
    pub fn open(path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let kind =
                if error.kind() == std::io::ErrorKind::NotFound { FaultKind::Missing } else { FaultKind::Invalid };
            Fault::new(kind, Origin::Caller, Retry::Never, format!("cannot read {origin}: {error}")).because(error)
        })?;
        let directory = path.parent().unwrap_or(Path::new("."));
        Ok(Self::read(&text, &origin, &SystemEnvironment::new(directory))?)
    }

    /// Takes other addresses than those of the file; what else the listeners are stays in their order.
    pub fn listen_on(&mut self, addresses: &[SocketAddr]) -> Result<()> {
        let mut listeners = std::mem::take(&mut self.listeners).into_iter();
        let mut next = || listeners.next().unwrap_or_default();
        self.listeners = addresses.iter().map(|&bind| ListenerConfig { bind: Some(bind), ..next() }).collect();
        match self.listeners.iter().find(|listener| listener.is_open_to_others() && self.tokens.is_empty()) {
            Some(listener) => Err(Fault::invalid(listener.refusal())),
            None => Ok(()),
        }
    }

    /// Returns the fingerprint: what the configuration says, defaults included, and no secret.
    pub fn fingerprint(&self) -> String {
        digest(serde_json::to_value(self).unwrap_or_default())
    }

    /// Returns the fingerprint of what nodes that share an engine must have in common: streams, groups and targets.
    pub fn work(&self) -> String {
        digest(serde_json::json!({ "streams": self.streams, "groups": self.groups, "targets": self.targets }))
    }

    fn check_names(&self, here: &Spot<'_>) {
        for (key, text) in [("name", &self.node.name), ("environment", &self.node.environment)] {
            let fine = !text.is_empty() && text.len() <= limits::NAME_BYTES_MAX && !text.chars().any(char::is_control);
            here.at("node")
                .at(key)
                .require(fine, || format!("must be 1 to {} bytes without control characters", limits::NAME_BYTES_MAX));
        }
        let stream_names = || self.streams.keys().map(StreamName::as_str);
        let results = self.results();
        let (mut paths, mut stdin) = (HashMap::new(), None);
        for (name, source) in &self.sources {
            let here = here.at("sources").at(name.as_str());
            if !self.streams.contains_key(source.to()) {
                here.at("to").unknown("stream", source.to().as_str(), stream_names());
            }
            for (key, stream) in source.settings().more_streams() {
                let is_read = key == "from" && results.contains_key(stream);
                if !self.streams.contains_key(stream) && !is_read {
                    here.at(key).unknown("stream", stream.as_str(), stream_names());
                }
            }
            self.check_engine(source.settings().engine(), &here.at("engine"));
            if let SourceConfig::Stream(stream) = source
                && stream.engine().is_none()
                && self.groups.contains_key(forwarder(name).as_str())
            {
                here.error(format!("group {} has the name of the group behind this source", forwarder(name)));
            }
            if let SourceConfig::Stdin(_) = source
                && let Some(other) = stdin.replace(name)
            {
                here.at("type").error(format!("source {other} reads standard input already, and there is only one"));
            }
            if let SourceConfig::Http(http) = source
                && let Some(other) = paths.insert(http.path.as_str(), name)
            {
                here.at("path").error(format!("source {other} has the same path"));
            }
            if let SourceConfig::Http(http) = source
                && let Some(profile) = self.profiles().find(|profile| profile.paths().any(|path| path == http.path))
            {
                here.at("path").error(format!("profile {} has the same path", profile.name));
            }
            if let SourceConfig::Http(http) = source {
                self.check_reply(http, &here);
            }
            if let Some(target) = source.settings().target()
                && !self.targets.contains_key(target)
            {
                here.at("target").unknown("target", target.as_str(), self.targets.keys().map(TargetName::as_str));
            }
            self.check_dedupe(source, &here);
            source.check(&here);
        }
        self.check_groups(here);
    }

    /// Returns the profiles of all listeners.
    fn profiles(&self) -> impl Iterator<Item = &'static Profile> {
        self.listeners.iter().filter_map(|listener| Some(listener.mounted()?.profile))
    }

    /// Returns the group whose results are the answers of a source.
    pub(crate) fn replier(&self, http: &HttpConfig, reply: &HttpReply) -> Result<&GroupName, String> {
        let keeps = |group: &GroupConfig| group.from == http.to && group.results.is_some();
        let hint = "set results: { keep: 1h } on it";
        if let Some(wanted) = &reply.group {
            return match self.groups.get_key_value(wanted) {
                Some((name, group)) if keeps(group) => Ok(name),
                Some((_, group)) if group.from == http.to => Err(format!("group {wanted} keeps no results: {hint}")),
                Some((_, group)) => Err(format!("group {wanted} reads stream {}, not {}", group.from, http.to)),
                None => Err(format!("there is no group {wanted}")),
            };
        }
        let mut keepers = self.groups.iter().filter(|(_, group)| keeps(group)).map(|(name, _)| name);
        match (keepers.next(), keepers.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(format!("no group that reads stream {} keeps results: {hint}", http.to)),
            (Some(one), Some(two)) => {
                Err(format!("groups {one} and {two} both keep results: say which in reply.group"))
            }
        }
    }

    fn check_aliases(&self, here: &Spot<'_>) {
        let mut known = HashMap::new();
        for (name, stream) in &self.streams {
            for (index, alias) in stream.dead_letters.aliases.iter().enumerate() {
                let here = here.at(name.as_str()).at("dead_letters").at("aliases").at(index);
                let taken = self.streams.keys().find(|stream| *stream == alias || stream.dead_letters() == *alias);
                if let Some(other) = taken.or_else(|| known.insert(alias, name)) {
                    here.error(format!("{alias} means stream {other} already"));
                }
            }
        }
    }

    /// Returns the streams whose dead letters have another name as well, by that name.
    pub(crate) fn aliases(&self) -> BTreeMap<StreamName, StreamName> {
        let of = |(name, stream): (&StreamName, &StreamConfig)| {
            stream.dead_letters.aliases.iter().map(|alias| (alias.clone(), name.clone())).collect::<Vec<_>>()
        };
        self.streams.iter().flat_map(of).collect()
    }

    fn check_engine(&self, engine: Option<&EngineName>, here: &Spot<'_>) {
        if let Some(engine) = engine
            && !self.engines.contains_key(engine)
        {
            let known = self.engines.keys().map(EngineName::as_str).chain(["own"]);
            here.unknown("engine", engine.as_str(), known);
        }
    }

    /// Checks that the stream of a source knows what comes again.
    fn check_dedupe(&self, source: &SourceConfig, here: &Spot<'_>) {
        let Some((least, stream)) = source.settings().dedupe_min().zip(self.streams.get(source.to())) else { return };
        let to = source.to();
        let hint = format!("set dedupe: {{ window: 1d }} on stream {to}");
        match stream.dedupe.on() {
            None => here.at("to").error(format!("stream {to} knows no repeats: {hint}")),
            Some(dedupe) if dedupe.key != DedupeKey::IDENTITY => {
                here.at("to")
                    .error(format!("stream {to} must know repeats by source and id: leave out its dedupe.key"));
            }
            Some(dedupe) => here.at("to").require(dedupe.window >= least, || {
                format!("stream {to} knows repeats for {} and must for {least} at least: {hint}", dedupe.window)
            }),
        }
    }

    fn check_reply(&self, http: &HttpConfig, here: &Spot<'_>) {
        let Some(reply) = &http.reply else { return };
        let here = here.at("reply");
        let group = match self.replier(http, reply) {
            Ok(group) => group,
            Err(why) if reply.group.is_some() => return here.at("group").error(why),
            Err(why) => return here.error(why),
        };
        let Some(stream) = self.streams.get(&http.to) else { return };
        let keep = self.groups.get(group).and_then(|group| group.results.as_ref()).map(|results| results.keep);
        match stream.dedupe.on() {
            None => {
                here.error(format!("needs dedupe on stream {}: a repeated request would be processed again", http.to))
            }
            Some(dedupe) => here.require(keep.is_none_or(|keep| keep >= dedupe.window), || {
                let window = dedupe.window;
                format!(
                    "group {group} must keep results for {window} at least, as long as stream {} knows repeats",
                    http.to
                )
            }),
        }
    }

    /// Returns the streams in which groups keep their results, each with its group.
    fn results(&self) -> BTreeMap<StreamName, &GroupName> {
        let keeping = self.groups.iter().filter(|(_, group)| group.results.is_some());
        keeping.filter_map(|(name, _)| Some((results_stream(name).ok()?, name))).collect()
    }

    fn check_groups(&self, here: &Spot<'_>) {
        let results = self.results();
        let stream_names = || self.streams.keys().map(StreamName::as_str);
        for (stream, group) in &results {
            let is_free = !self.streams.contains_key(stream);
            let why = || format!("is where group {group} keeps its results, and comes with the group");
            here.at("streams").at(stream.as_str()).require(is_free, why);
        }
        let mut owners = HashMap::new();
        for (name, group) in &self.groups {
            let here = here.at("groups").at(name.as_str());
            if !self.streams.contains_key(&group.from) && !results.contains_key(&group.from) {
                let known = stream_names().chain(results.keys().map(StreamName::as_str));
                here.at("from").unknown("stream", group.from.as_str(), known);
            }
            let is_ring = results.get(&group.from).is_some_and(|of| *of == name);
            here.at("from").require(!is_ring, || "is where it keeps its results: they would go in a ring".to_owned());
            if group.results.is_some()
                && let Err(fault) = results_stream(name)
            {
                here.at("results").error(format!("the group's name is too long for a stream of results: {fault}"));
            }
            if let Some((key, owned)) = group.sink.owns()
                && let Some(other) = owners.insert(owned, name)
            {
                here.at("sink").at(key).error(format!("group {other} writes there too"));
            }
            self.check_engine(group.sink.settings().engine(), &here.at("sink").at("engine"));
            for (key, stream) in group.sink.streams() {
                here.at("sink").at(key).require(*stream != group.from, || {
                    "is the stream that is read: its events would go in a ring".to_owned()
                });
                if !self.streams.contains_key(stream) {
                    here.at("sink").at(key).unknown("stream", stream.as_str(), stream_names());
                }
            }
            let Some(target) = group.sink.target() else { continue };
            match self.targets.get(target) {
                Some(settings) => group.check_room(settings, target, &here.at("timeout")),
                None => {
                    here.at("sink").at("target").unknown(
                        "target",
                        target.as_str(),
                        self.targets.keys().map(TargetName::as_str),
                    );
                }
            }
        }
    }
}

impl Check for Config {
    fn check(&self, here: &Spot<'_>) {
        here.at("version").require(self.version == VERSION, || {
            format!("this program reads version {VERSION}, this document is of version {}", self.version)
        });
        access::check(&self.listeners, &self.tokens, &self.groups, here);
        self.check_names(here);
        for (name, stream) in &self.streams {
            stream.check(name, &here.at("streams").at(name.as_str()));
        }
        self.check_aliases(&here.at("streams"));
        for (name, target) in &self.targets {
            target.check(&here.at("targets").at(name.as_str()));
        }
        for (name, group) in &self.groups {
            group.check(&here.at("groups").at(name.as_str()));
        }
        self.warnings.check(&here.at("warnings"));
        let reserve = self.node.disk_reserve;
        here.at("node")
            .at("disk_reserve")
            .require(reserve >= RESERVE_MIN, || format!("{reserve} is less than {RESERVE_MIN}"));
        self.engine.check(&here.at("engine"));
        self.redis.check(&self.engine, &here.at("redis"));
        self.postgres.check(&self.engine, &here.at("postgres"));
        self.nats.check(&self.engine, &here.at("nats"));
        for (name, beside) in &self.engines {
            let here = here.at("engines").at(name.as_str());
            here.require(name.as_str() != "own", || "is what the node's own engine is called".to_owned());
            beside.check(&self.node.data, &here);
        }
        let grace = self.shutdown.grace;
        here.at("shutdown").at("grace").require(grace <= GRACE_MAX, || format!("{grace} is longer than {GRACE_MAX}"));
    }
}

/// Returns the name of the group that does the work of a `stream` source.
pub(crate) fn forwarder(source: &ModuleName) -> String {
    format!("source.{source}")
}

/// Returns the page `docs/reference/configuration.md`.
pub fn reference() -> String {
    config::settings_page("Configuration", &schemars::schema_for!(Config))
}

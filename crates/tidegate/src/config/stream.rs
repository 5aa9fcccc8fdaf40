//! Settings of a stream.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    config::{Bytes, Spot, Switch, Time},
    dedupe::DedupeKey,
    fault::Fault,
    names::StreamName,
    store,
};

use super::schema::SchemaConfig;

/// A stream: events in order, kept until every group has settled them and retention lets them go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// When a publish is answered: `sync` after a sync to disk (nothing is lost), `interval:1s` after handing it to the
    /// operating system, which syncs at least that often (a power loss may lose that much), `os` likewise without a
    /// promise (commonly 30 s).
    pub durability: Durability,
    /// How long settled events stay readable.
    pub retain: RetainConfig,
    /// Most unsettled events of the slowest group before publishes are refused.
    pub max_backlog: Switch<u64>,
    /// What happens to a publish when `max_backlog` is reached.
    pub on_full: OnFull,
    /// What the data of its events must fit. Absent = anything.
    pub schema: Option<SchemaConfig>,
    /// Window in which a repeated publish is answered with the first position. It outlives a restart.
    pub dedupe: Switch<DedupeConfig>,
    /// How long dead letters of this stream are kept.
    pub dead_letters: DeadLettersConfig,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Sync,
            retain: RetainConfig::default(),
            max_backlog: Switch::On(1_000_000),
            on_full: OnFull::Reject,
            schema: None,
            dedupe: Switch::default(),
            dead_letters: DeadLettersConfig::default(),
        }
    }
}

/// How long settled events stay readable: until the first bound is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetainConfig {
    /// Oldest age.
    pub age: Switch<Time>,
    /// Most events.
    pub count: Switch<u64>,
    /// Most bytes of events.
    pub bytes: Switch<Bytes>,
    /// Whether the bounds also remove events that a group has not settled. Each one is counted as dropped.
    pub drop_unsettled: bool,
}

impl Default for RetainConfig {
    fn default() -> Self {
        Self {
            age: Switch::On(Time::from_secs(7 * 86_400)),
            count: Switch::Off,
            bytes: Switch::Off,
            drop_unsettled: false,
        }
    }
}

/// Window in which a repeated publish is recognised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DedupeConfig {
    /// How far back in time.
    pub window: Time,
    /// How many events back at most.
    pub entries: u64,
    /// What makes two events the same: a CloudEvents attribute, a path such as `data.order_id`, or a list of them, such as
    /// `[data.sender, data.timestamp]`. Values are compared as they are written; an event that lacks one is compared by
    /// `source` and `id`, as all are when this is absent.
    pub key: DedupeKey,
}

impl Default for DedupeConfig {
    fn default() -> Self {
        Self { window: Time::from_secs(600), entries: 100_000, key: DedupeKey::IDENTITY }
    }
}

/// How long dead letters are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLettersConfig {
    /// Those that wait for somebody expire when they are older than this; `off`: they wait for ever.
    pub expire: Switch<Time>,
    /// Those that were reprocessed, resolved, discarded or that expired stay readable for this time.
    pub keep: Time,
    /// Other names by which people and scripts may ask for them, such as `identity.dlq`, beside the stream's own with the
    /// ending `.dlq`.
    pub aliases: Vec<StreamName>,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self { expire: Switch::Off, keep: Time::from_secs(7 * 86_400), aliases: Vec::new() }
    }
}

/// What happens to a publish when the backlog is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// It is refused with 429 and a `Retry-After` computed from the real drain rate.
    #[default]
    Reject,
    /// It waits for room, at most 30 s; then it is refused.
    Block,
    /// The oldest events that wait and that nobody works on are dropped to make room for it; each is counted as dropped.
    Shed,
}

impl OnFull {
    /// Returns what the publisher is told.
    pub fn policy(self) -> tidegate_engine::OnFull {
        match self {
            Self::Reject => tidegate_engine::OnFull::Reject,
            Self::Block => tidegate_engine::OnFull::Block,
            Self::Shed => tidegate_engine::OnFull::Shed,
        }
    }
}

/// When a publish is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Durability {
    /// After a sync to disk.
    Sync,
    /// After handing it to the operating system, synced at least this often.
    Interval(Time),
    /// After handing it to the operating system.
    Os,
}

impl FromStr for Durability {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        match (text, text.strip_prefix("interval:").map(str::parse)) {
            ("sync", _) => Ok(Self::Sync),
            ("os", _) => Ok(Self::Os),
            (_, Some(Ok(every))) => Ok(Self::Interval(every)),
            (_, Some(Err(fault))) => Err(fault),
            (_, None) => Err(Fault::invalid(format!("{text:?} is none of sync, os and interval:1s"))),
        }
    }
}

impl TryFrom<String> for Durability {
    type Error = Fault;
    fn try_from(text: String) -> Result<Self, Fault> {
        text.parse()
    }
}

impl From<Durability> for String {
    fn from(durability: Durability) -> Self {
        durability.to_string()
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sync => f.write_str("sync"),
            Self::Os => f.write_str("os"),
            Self::Interval(every) => write!(f, "interval:{every}"),
        }
    }
}

impl JsonSchema for Durability {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "durability".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "title": "durability",
            "pattern": "^(sync|os|interval:[0-9]+(ms|s|m|h|d))$",
            "examples": ["sync", "interval:1s", "os"]
        })
    }
}

/// Most events back that a dedupe window may look: each costs some 40 bytes of memory.
const DEDUPE_ENTRIES_MAX: u64 = 10_000_000;

impl StreamConfig {
    /// Returns what the engine is asked for.
    pub fn spec(&self, name: &StreamName) -> store::StreamSpec {
        store::StreamSpec {
            name: name.clone(),
            durability: match self.durability {
                Durability::Sync => store::Durability::Sync,
                Durability::Interval(every) => store::Durability::Interval(every.get()),
                Durability::Os => store::Durability::Os,
            },
            retain: store::Retain {
                age: self.retain.age.on().map(|age| age.get()),
                count: self.retain.count.on().copied(),
                bytes: self.retain.bytes.on().map(|bytes| bytes.get()),
                drop_unsettled: self.retain.drop_unsettled,
            },
            max_backlog: self.max_backlog.on().copied(),
            dedupe: self.dedupe.on().map(|dedupe| store::DedupeWindow {
                key: dedupe.key.clone(),
                window: dedupe.window.get(),
                entries: dedupe.entries,
            }),
            dead: store::DeadKeep {
                parked: self.dead_letters.expire.on().map(|expire| expire.get()),
                settled: self.dead_letters.keep.get(),
            },
        }
    }

    pub(super) fn check(&self, name: &StreamName, here: &Spot<'_>) {
        here.require(!name.is_dead_letters(), || {
            format!("the dead letters of stream {:?} come with it and have no settings", name.origin())
        });
        let positive = |here: Spot<'_>, fine: bool| here.require(fine, || "must be more than zero, or off".to_owned());
        if let Durability::Interval(every) = self.durability {
            here.at("durability").require(!every.is_zero(), || "the interval must be more than zero".to_owned());
        }
        let retain = here.at("retain");
        positive(retain.at("age"), self.retain.age.on().is_none_or(|age| !age.is_zero()));
        positive(retain.at("count"), self.retain.count.on().is_none_or(|count| *count > 0));
        positive(retain.at("bytes"), self.retain.bytes.on().is_none_or(|bytes| bytes.get() > 0));
        positive(here.at("max_backlog"), self.max_backlog.on().is_none_or(|backlog| *backlog > 0));
        let dead = here.at("dead_letters");
        positive(dead.at("expire"), self.dead_letters.expire.on().is_none_or(|expire| !expire.is_zero()));
        dead.at("keep").require(!self.dead_letters.keep.is_zero(), || "must be more than zero".to_owned());
        if let Some(schema) = &self.schema {
            schema.check(&here.at("schema"));
        }
        if let Some(dedupe) = self.dedupe.on() {
            let here = here.at("dedupe");
            here.at("window")
                .require(!dedupe.window.is_zero(), || "must be more than zero; dedupe: off ends it".to_owned());
            here.at("entries").require((1..=DEDUPE_ENTRIES_MAX).contains(&dedupe.entries), || {
                format!("must be 1 to {DEDUPE_ENTRIES_MAX}")
            });
        }
    }
}

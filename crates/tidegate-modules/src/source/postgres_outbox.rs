//! Source `postgres_outbox`: the rows of a transactional outbox in PostgreSQL, each committed row once, in order.
//!
//! The table is the truth: it is looked at on a period whatever is notified, and no place in it is remembered, so that a
//! row which is committed late is found like any other.

#[cfg(feature = "postgres")]
mod horizon;
#[cfg(feature = "postgres")]
mod relay;
#[cfg(feature = "postgres")]
mod row;
#[cfg(feature = "postgres")]
mod survey;
#[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "without the relay only its SQL is printed"))]
mod table;

#[cfg(feature = "postgres")]
use std::sync::Arc;
use std::{collections::BTreeMap, time::Duration};

#[cfg(feature = "postgres")]
use async_trait::async_trait;
#[cfg(feature = "postgres")]
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
#[cfg(feature = "postgres")]
use serde_json::{Value, json};
#[cfg(feature = "postgres")]
use tidegate_core::{
    clock::Timestamp,
    fault::Failure,
    guard::Guard,
    handler::Probe,
    service::Context,
    source::{Feed, Source},
};
use tidegate_core::{
    config::{Secret, Spot, Switch, Time, Tls},
    event::{CORE_NAMES, PARTITION_KEY},
    fault::{Fault, Result},
    limits,
    names::{StreamName, TargetName},
    order::OrderBy,
};

#[cfg(feature = "postgres")]
pub use self::survey::{FailedRow, Figures, Finding, Survey};
pub use self::table::Columns;
use self::table::Table;
#[cfg(feature = "postgres")]
use crate::postgres::{Calls, Database, Link, as_fault};
use crate::{
    registry::{ModuleKind, ModuleSpec, OpenSource, SourceParts, SourceSettings},
    sql::{NAME, TABLE, is_name, is_table},
};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "postgres_outbox",
    kind: ModuleKind::Source,
    summary: "brings the rows of a transactional outbox in PostgreSQL",
    schema: || schemars::schema_for!(OutboxConfig),
};

/// Tells whether an attribute comes from the payload and not from a column.
fn is_path(from: &str) -> bool {
    from.starts_with("data.")
}

/// Shortest time between two looks at the table.
const POLL_MIN: Time = Time::from_millis(10);
/// Longest time between two looks at the table.
const POLL_MAX: Time = Time::from_secs(3600);
/// Shortest dedupe window of its stream: the time that a node may stand still after a kill without a repeat.
const DEDUPE_MIN: Time = Time::from_secs(3600);

/// Brings each committed row of a transactional outbox as an event, once, and in the order of ids for each aggregate. A row
/// is marked after its event is durable; a kill in between publishes it again, and the stream knows it by its id. The
/// columns are those of `tidegate outbox ddl` unless `columns` says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutboxConfig {
    /// Address of the database: `postgres://user:password@host:port/database`, or the keys of libpq. With
    /// `sslmode=verify-full` (or `require`, which is the same here) the connection is over TLS and the server must prove its
    /// name; without it, it is a plain one.
    pub url: Secret,
    /// Whom to trust over TLS, and how the node shows who it is.
    #[serde(default)]
    pub tls: Tls,
    /// Target whose guard stands before the database; its `timeout` bounds every query.
    pub target: TargetName,
    /// Table, with its schema when it is not on the search path of the role.
    #[serde(default = "table")]
    pub table: String,
    /// Names of its columns.
    #[serde(default)]
    pub columns: Columns,
    /// Further attributes of the events, each with the column that holds it, such as `{ tenantid: tenant_id }`, or with a
    /// path in the payload, such as `{ tenantid: data.tenant_id }`.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// CloudEvents `source` of the events; default: `/` and the table. With the id it makes an event known: do not change it.
    #[serde(default)]
    pub source: Option<String>,
    /// Stream into which events go. It must know repeats, by source and id, for at least an hour: its `dedupe.window` is
    /// the longest time that a node may be down after it was killed before events can come twice.
    pub to: StreamName,
    /// Time between two looks at the table; notifications only make it sooner.
    #[serde(default = "poll")]
    pub poll: Time,
    /// Channel of `NOTIFY` that wakes the relay.
    #[serde(default = "notify")]
    pub notify: Switch<String>,
    /// Most rows that are taken at a time.
    #[serde(default = "batch")]
    pub batch: usize,
    /// When a row that is no event, or that the stream refuses, is tried again. It holds up its own aggregate until it is
    /// parked. A database that is away, a full stream and a store that is away spend no attempt.
    #[serde(default)]
    pub retry: OutboxRetry,
    /// Stream that keeps the rows that are parked, each with its place and the reason; without, only the row says so.
    #[serde(default)]
    pub rejects: Option<StreamName>,
}

/// When a failed row is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxRetry {
    /// Attempts before it is parked.
    pub attempts: u32,
    /// Wait after the first failure.
    pub first: Time,
    /// What each wait is multiplied by for the next one.
    pub factor: u32,
    /// Longest wait.
    pub max: Time,
}

impl Default for OutboxRetry {
    fn default() -> Self {
        Self { attempts: 5, first: Time::from_secs(60), factor: 2, max: Time::from_secs(3600) }
    }
}

impl OutboxRetry {
    /// Returns the wait after a failed attempt; none when it was the last.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "only the relay asks"))]
    fn after(&self, attempt: i32) -> Option<Duration> {
        let attempt = u32::try_from(attempt).unwrap_or(1).max(1);
        if attempt >= self.attempts {
            return None;
        }
        let times = self.factor.checked_pow(attempt - 1);
        let wait = times.and_then(|times| self.first.get().checked_mul(times));
        Some(wait.map_or(self.max.get(), |wait| wait.min(self.max.get())))
    }

    fn check(&self, here: &Spot<'_>) {
        let attempts = 1..=limits::ATTEMPTS_MAX;
        here.at("attempts")
            .require(attempts.contains(&self.attempts), || format!("must be 1 to {}", limits::ATTEMPTS_MAX));
        here.at("first").require(!self.first.is_zero(), || "must be more than zero".to_owned());
        here.at("factor").require((1..=10).contains(&self.factor), || "must be 1 to 10".to_owned());
        here.at("max").require(self.max >= self.first, || "must not be shorter than first".to_owned());
    }
}

fn table() -> String {
    "identity.outbox".to_owned()
}

fn poll() -> Time {
    Time::from_secs(5)
}

fn notify() -> Switch<String> {
    Switch::On("tidegate_outbox".to_owned())
}

fn batch() -> usize {
    500
}

impl OutboxConfig {
    /// Returns SQL that makes the table, or adds to one that is there what the relay needs. It may be run again.
    pub fn ddl(&self) -> String {
        Table::new(self).ddl()
    }

    /// Returns the CloudEvents `source` of the events.
    pub fn source_uri(&self) -> String {
        self.source.clone().unwrap_or_else(|| format!("/{}", self.table))
    }

    fn check_attributes(&self, here: &Spot<'_>) {
        for (name, column) in &self.attributes {
            let here = here.at(name.as_str());
            let fits = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            here.require(fits, || "the name of an attribute holds only lower-case letters and digits".to_owned());
            let is_free = !CORE_NAMES.contains(&name.as_str()) && name != "aggregatetype" && name != PARTITION_KEY;
            here.require(is_free, || "is an attribute that other columns give".to_owned());
            match is_path(column) {
                true => here.require(column.parse::<OrderBy>().is_ok(), || "is no path in the payload".to_owned()),
                false => here.require(is_name(column), || NAME.to_owned()),
            }
        }
        here.require(self.attributes.len() + 2 <= limits::EXTENSIONS_MAX, || {
            format!("are more than {}", limits::EXTENSIONS_MAX - 2)
        });
    }

    fn check_url(&self, here: &Spot<'_>) {
        #[cfg(feature = "postgres")]
        Database::check(&self.url, &self.tls, here);
        #[cfg(not(feature = "postgres"))]
        here.at("url").error(NOT_BUILT.to_owned());
    }
}

#[cfg(not(feature = "postgres"))]
const NOT_BUILT: &str = "this program is built without the feature postgres";

impl SourceSettings for OutboxConfig {
    fn to(&self) -> &StreamName {
        &self.to
    }

    fn more_streams(&self) -> Vec<(&'static str, &StreamName)> {
        self.rejects.iter().map(|stream| ("rejects", stream)).collect()
    }

    fn target(&self) -> Option<&TargetName> {
        Some(&self.target)
    }

    fn dedupe_min(&self) -> Option<Time> {
        Some(DEDUPE_MIN)
    }

    fn check(&self, here: &Spot<'_>) {
        self.check_url(here);
        here.at("table").require(is_table(&self.table), || TABLE.to_owned());
        self.columns.check(&here.at("columns"));
        self.check_attributes(&here.at("attributes"));
        let source = self.source_uri();
        here.at("source").require(!source.is_empty() && source.len() <= limits::ATTRIBUTE_BYTES_MAX, || {
            format!("must be 1 to {} bytes", limits::ATTRIBUTE_BYTES_MAX)
        });
        here.at("poll")
            .require((POLL_MIN..=POLL_MAX).contains(&self.poll), || format!("must be {POLL_MIN} to {POLL_MAX}"));
        here.at("notify").require(self.notify.on().is_none_or(|name| is_name(name)), || NAME.to_owned());
        here.at("batch").require((1..=limits::OUTBOX_BATCH_MAX).contains(&self.batch), || {
            format!("must be 1 to {}", limits::OUTBOX_BATCH_MAX)
        });
        self.retry.check(&here.at("retry"));
        here.at("rejects")
            .require(self.rejects.as_ref() != Some(&self.to), || "is the stream of the events".to_owned());
    }

    #[cfg(feature = "postgres")]
    fn open(&self, parts: SourceParts) -> Result<OpenSource> {
        Ok(OpenSource::Runs(Arc::new(PostgresOutbox::new(self.clone(), parts)?)))
    }

    #[cfg(not(feature = "postgres"))]
    fn open(&self, _: SourceParts) -> Result<OpenSource> {
        Err(Fault::invalid(NOT_BUILT))
    }
}

/// Looks at an outbox: whether its table fits, what waits in it and what failed.
#[cfg(feature = "postgres")]
pub async fn survey(config: &OutboxConfig, parts: SourceParts) -> Result<Survey> {
    let outbox = PostgresOutbox::new(config.clone(), parts)?;
    let mut link = outbox.opened().await?;
    survey::survey(&mut link, config).await.map_err(|failure| as_fault(&failure, &config.target))
}

/// An outbox that is read.
#[cfg(feature = "postgres")]
#[derive(Debug)]
pub(super) struct PostgresOutbox {
    config: OutboxConfig,
    database: Database,
    guard: Arc<Guard>,
    shown: Mutex<Shown>,
}

/// Where it stands.
#[cfg(feature = "postgres")]
#[derive(Debug, Default)]
struct Shown {
    state: String,
    figures: Option<Figures>,
    counted_at: Option<Timestamp>,
    /// Longest wait of the rows that were published last.
    lag_seconds: Option<f64>,
    published: u64,
    waits_for: usize,
}

#[cfg(feature = "postgres")]
impl PostgresOutbox {
    pub(super) fn new(config: OutboxConfig, parts: SourceParts) -> Result<Self> {
        let database = Database::new(&config.url, &config.tls, "tidegate outbox")?;
        let guard = parts.guard.ok_or_else(|| Fault::bug("postgres_outbox was opened without a guard"))?;
        let shown = Shown { state: "not started".to_owned(), ..Shown::default() };
        Ok(Self { config, database, guard, shown: Mutex::new(shown) })
    }

    async fn link(&self) -> Result<Link, Failure> {
        Link::open(&self.database, Calls::Guarded(self.guard.clone())).await
    }

    async fn opened(&self) -> Result<Link> {
        self.link().await.map_err(|failure| as_fault(&failure, &self.config.target))
    }

    fn show(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shown.lock());
    }
}

#[cfg(feature = "postgres")]
#[async_trait]
impl Probe for PostgresOutbox {
    async fn probe(&self, _: &Context) -> Result<()> {
        let mut link = self.opened().await?;
        let findings = survey::findings(&mut link, &self.config).await;
        let findings = findings.map_err(|failure| as_fault(&failure, &self.config.target))?;
        match findings.into_iter().find(|finding| finding.level == "error") {
            Some(wrong) => Err(Fault::invalid(format!("{}: {}", wrong.what, wrong.mend))),
            None => Ok(()),
        }
    }
}

#[cfg(feature = "postgres")]
#[async_trait]
impl Source for PostgresOutbox {
    async fn run(&self, feed: &Feed) -> Result<()> {
        relay::run(self, feed).await
    }

    fn details(&self) -> Value {
        let shown = self.shown.lock();
        let figures = shown.figures.as_ref();
        json!({
            "state": shown.state,
            "outbox": {
                "table": self.config.table,
                "backlog": figures.map(|figures| figures.backlog),
                "backing_off": figures.map(|figures| figures.backing_off),
                "parked": figures.map(|figures| figures.parked),
                "oldest_age_seconds": figures.map(|figures| figures.oldest_age_seconds.unwrap_or(0.0)),
                "counted_at": shown.counted_at,
                "lag_seconds": shown.lag_seconds,
                "published": shown.published,
                "waits_for_transactions": shown.waits_for,
            },
        })
    }
}

#[cfg(test)]
#[cfg(feature = "postgres")]
mod tests;

//! Sink `postgres`: runs a statement for each event, in one transaction with an entry in a ledger that lies beside the
//! data: the effect and the knowledge of it are committed together, so that no crash in between repeats it.

mod ledger;
#[cfg(feature = "postgres")]
mod session;
#[cfg(test)]
#[cfg(feature = "postgres")]
mod tests;

use std::sync::Arc;

#[cfg(feature = "postgres")]
use async_trait::async_trait;
#[cfg(feature = "postgres")]
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
#[cfg(feature = "postgres")]
use tidegate_core::{
    clock::Clock,
    delivery::{Delivery, Outcome},
    fault::{Failure, FaultClass},
    guard::Guard,
    handler::{Handler, Probe},
    names::ModuleName,
    service::Context,
};
use tidegate_core::{
    config::{Secret, Spot, Switch, Time, Tls},
    fault::{Fault, Result},
    handler::Sink,
    names::TargetName,
};

pub use self::ledger::{Key, ddl};
#[cfg(feature = "postgres")]
use self::session::Session;
#[cfg(feature = "postgres")]
use crate::postgres::{Database, as_fault};
use crate::{
    registry::{ModuleKind, ModuleSpec, SinkParts, SinkSettings},
    sql::{TABLE, is_table},
};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "postgres",
    kind: ModuleKind::Sink,
    summary: "runs a statement in PostgreSQL, once for each event",
    schema: || schemars::schema_for!(PostgresSinkConfig),
};

/// Largest statement.
const STATEMENT_BYTES_MAX: usize = 64 * 1024;
/// Shortest time for which a ledger remembers.
const KEEP_MIN: Time = Time::from_secs(3600);

/// Runs a statement for each event. The effect and an entry in a ledger table are one transaction: an event whose entry is
/// there already is done without running the statement again. `tidegate ledger ddl` prints the SQL of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresSinkConfig {
    /// Address of the database: `postgres://user:password@host:port/database`, or the keys of libpq. With
    /// `sslmode=verify-full` (or `require`, which is the same here) the connection is over TLS and the server must prove its
    /// name; without it, it is a plain one.
    pub url: Secret,
    /// Whom to trust over TLS, and how the node shows who it is.
    #[serde(default)]
    pub tls: Tls,
    /// Target whose guard stands before the database; its `timeout` bounds the whole transaction.
    pub target: TargetName,
    /// One statement. `$1` is the event as `jsonb`, in the JSON format of CloudEvents: `$1->'data'->>'email'`,
    /// `$1->>'id'`. What it returns is not looked at.
    pub statement: String,
    /// Table of the ledger, with its schema when it is not on the search path of the role; `off` when the statement may
    /// run again after a crash.
    #[serde(default = "ledger")]
    pub ledger: Switch<String>,
    /// How long the ledger table remembers what this group has done. Longer than events can come again.
    #[serde(default = "keep")]
    pub keep: Time,
}

fn ledger() -> Switch<String> {
    Switch::On("event_ledger".to_owned())
}

fn keep() -> Time {
    Time::from_secs(30 * 86_400)
}

impl SinkSettings for PostgresSinkConfig {
    fn target(&self) -> Option<&TargetName> {
        Some(&self.target)
    }

    fn check(&self, here: &Spot<'_>) {
        #[cfg(feature = "postgres")]
        Database::check(&self.url, &self.tls, here);
        #[cfg(not(feature = "postgres"))]
        here.at("url").error(NOT_BUILT.to_owned());
        let statement = self.statement.trim();
        here.at("statement").require(!statement.is_empty() && statement.len() <= STATEMENT_BYTES_MAX, || {
            format!("must be 1 to {STATEMENT_BYTES_MAX} bytes")
        });
        if let Some(table) = self.ledger.on() {
            here.at("ledger").require(is_table(table), || TABLE.to_owned());
        }
        here.at("keep").require(self.keep >= KEEP_MIN, || format!("must be {KEEP_MIN} or more"));
    }

    #[cfg(feature = "postgres")]
    fn open(&self, parts: SinkParts) -> Result<Option<Arc<dyn Sink>>> {
        Ok(Some(Arc::new(PostgresSink::new(self, parts)?)))
    }

    #[cfg(not(feature = "postgres"))]
    fn open(&self, _: SinkParts) -> Result<Option<Arc<dyn Sink>>> {
        Err(Fault::invalid(NOT_BUILT))
    }
}

#[cfg(not(feature = "postgres"))]
const NOT_BUILT: &str = "this program is built without the feature postgres";

/// How the connections call themselves.
#[cfg(feature = "postgres")]
const PROGRAM: &str = "tidegate sink";

/// Runs statements.
#[cfg(feature = "postgres")]
#[derive(Debug)]
struct PostgresSink {
    group: ModuleName,
    config: PostgresSinkConfig,
    database: Database,
    guard: Arc<Guard>,
    clock: Clock,
    /// Connections that nobody uses just now; there are never more than deliveries are handled at a time.
    idle: Mutex<Vec<Session>>,
}

#[cfg(feature = "postgres")]
impl PostgresSink {
    fn new(config: &PostgresSinkConfig, parts: SinkParts) -> Result<Self> {
        let database = Database::new(&config.url, &config.tls, PROGRAM)?;
        let guard = parts.guard.ok_or_else(|| Fault::bug(format!("no guard for target {}", config.target)))?;
        Ok(Self {
            group: parts.name,
            config: config.clone(),
            database,
            guard,
            clock: parts.clock,
            idle: Mutex::default(),
        })
    }

    async fn session(&self) -> Result<Session, Failure> {
        let idle = self.idle.lock().pop();
        match idle {
            Some(session) => Ok(session),
            None => {
                let (group, timeout) = (self.group.as_str(), self.guard.policy().timeout);
                // Rare and large: it must not weigh on each delivery.
                Box::pin(Session::open(&self.database, &self.config, group, timeout, self.clock.clone())).await
            }
        }
    }

    /// Runs the statement for one event. A call that is cut short drops its connection, and the server ends what it held.
    async fn run(&self, delivery: &Delivery) -> Result<(), Failure> {
        let mut session = self.session().await?;
        let ran = session.run(&delivery.event).await;
        let is_usable = match &ran {
            Ok(()) => true,
            Err(failure) if matches!(failure.class, FaultClass::Invalid | FaultClass::Transient) => {
                session.roll_back().await.is_ok()
            }
            Err(_) => false,
        };
        if is_usable {
            self.idle.lock().push(session);
        }
        ran
    }
}

#[cfg(feature = "postgres")]
#[async_trait]
impl Handler for PostgresSink {
    async fn handle(&self, _: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for delivery in batch {
            // The states of a whole transaction are large; next to it, an allocation is nothing.
            let ran = self.guard.call(delivery.attempt > 1, Box::pin(self.run(delivery))).await;
            outcomes.push(ran.map_or_else(Outcome::Failed, |()| Outcome::DONE));
        }
        outcomes
    }

    fn guard(&self) -> Option<Arc<Guard>> {
        Some(self.guard.clone())
    }

    fn in_process(&self) -> bool {
        // What is done with the event is done in the database.
        false
    }
}

#[cfg(feature = "postgres")]
#[async_trait]
impl Probe for PostgresSink {
    async fn probe(&self, _: &Context) -> Result<()> {
        let opened = self.guard.call(false, self.session()).await;
        let session = opened.map_err(|failure| as_fault(&failure, &self.config.target))?;
        self.idle.lock().push(session);
        Ok(())
    }
}

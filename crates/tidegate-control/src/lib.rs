//! What an operator touches: the API over HTTP, health, metrics and actions of a node.

mod api;
mod auth;
mod awaited;
mod call;
mod explain;
mod follow;
mod health;
mod life;
mod logs;
mod metrics;
mod observe;
mod openapi;
mod problem;
mod profile;
mod resp;
mod result;
mod serve;
mod system;
mod upstream;
mod waiters;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use bytestring::ByteString;
use tidegate_core::{
    cloudevents::PlainDefaults,
    fault::Result,
    guard::Guard,
    names::{GroupName, ModuleName, StreamName},
    service::Context,
    store::Store,
};
use tidegate_engine::{Desk, Entrance, Groups, Modules, Peers, Publisher, Sides, Supervisor, TaskRunner};
use tidegate_rules::Schema;

pub use self::{
    auth::{Role, Token, Tokens},
    logs::{LogLevel, LogQuery, log_files, read_logs},
    metrics::{MetricKind, MetricSpec, Metrics},
    observe::WarnPolicy,
    openapi::openapi,
    profile::{FigureSpec, Mounted, PROFILES, Profile},
    resp::serve_redis,
    serve::{ServeLimits, serve},
    upstream::Upstream,
};
use crate::{
    api::{Api, Requests},
    follow::Followers,
    health::Health,
    observe::{Observed, Observer},
    profile::Memory,
    resp::Lent,
    upstream::{Prober, Upstreams},
    waiters::Waiters,
};

/// What the control plane is made of.
pub struct ControlParts {
    /// The engine.
    pub store: Arc<dyn Store>,
    /// The groups that run.
    pub groups: Groups,
    /// Those of them that handle a range once more.
    pub sides: Sides,
    /// Moves dead letters.
    pub desk: Desk,
    /// Takes events in.
    pub publisher: Publisher,
    /// The schemas of streams that have one.
    pub schemas: BTreeMap<StreamName, Schema>,
    /// Streams whose dead letters have another name as well, by that name.
    pub aliases: BTreeMap<StreamName, StreamName>,
    /// The guards of all targets.
    pub guards: Vec<Arc<Guard>>,
    /// All sources and sinks by name.
    pub modules: Modules,
    /// Paths of their own on which events come in.
    pub intakes: Vec<Intake>,
    /// Time, stop and notices of the node.
    pub cx: Context,
    /// Knows when each service last made progress.
    pub supervisor: Supervisor,
    /// What notices have counted since the start.
    pub metrics: Arc<Metrics>,
    /// Fingerprint of the configuration in force.
    pub config: ByteString,
    /// The other nodes on the engine.
    pub peers: Peers,
    /// Who may ask.
    pub tokens: Tokens,
    /// What is known of the node.
    pub node: NodeFacts,
    /// The data directory; none when there is none.
    pub data: Option<PathBuf>,
    /// When to warn.
    pub warnings: WarnPolicy,
    /// What the node needs outside, and can be asked whether it is there.
    pub upstreams: Vec<Upstream>,
}

impl fmt::Debug for ControlParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlParts").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What is known of a node.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// Name, from the configuration.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Environment, from the configuration.
    pub environment: Option<String>,
}

/// A path on which events come in besides the API's own, with what a plain body lacks.
#[derive(Debug, Clone)]
pub struct Intake {
    /// The source.
    pub name: ModuleName,
    /// Path, such as `/orders`.
    pub path: String,
    /// Where its events go.
    pub stream: StreamName,
    /// What a plain body does not say of itself.
    pub defaults: PlainDefaults,
    /// Says whether events may come in just now.
    pub entrance: Arc<Entrance>,
    /// Whether requests are answered with the result of their event; none = they are told that it is accepted.
    pub reply: Option<Reply>,
}

/// How requests are answered with results.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Longest wait; after it, where the result will be is the answer.
    pub wait: Duration,
    /// The group that answers; it keeps results.
    pub group: GroupName,
}

/// The control plane of a node.
#[derive(Clone)]
pub struct Control(Arc<Api>);

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control of {:?}", self.0.node.name)
    }
}

impl Control {
    /// Puts the parts together; refuses intakes whose paths are taken.
    pub fn new(parts: ControlParts) -> Result<Self> {
        api::check_intakes(&parts.intakes)?;
        let followers = Followers::listening(&parts.cx);
        let waiters = Waiters::listening(&parts.cx.notices);
        Ok(Self(Arc::new(Api {
            store: parts.store,
            groups: parts.groups,
            sides: parts.sides,
            publisher: parts.publisher,
            schemas: parts.schemas,
            aliases: parts.aliases,
            guards: parts.guards,
            modules: parts.modules,
            intakes: parts.intakes.into_iter().map(Arc::new).collect(),
            started_at: parts.cx.clock.now(),
            cx: parts.cx,
            supervisor: parts.supervisor,
            metrics: parts.metrics,
            config: parts.config,
            peers: parts.peers,
            tokens: parts.tokens,
            node: parts.node,
            data: parts.data,
            warnings: parts.warnings,
            health: Health::default(),
            observed: Observed::default(),
            upstreams: Upstreams::new(parts.upstreams),
            followers,
            waiters,
            desk: parts.desk,
            memory: Memory::default(),
            requests: Requests::default(),
            lent: Lent::default(),
        })))
    }

    /// Starts to look at the node: rates, figures by the hour, warnings, and what it needs outside.
    pub async fn watch(&self) -> Result<()> {
        self.0.observed.restore(&self.0).await?;
        // Kept by the supervisor.
        drop(TaskRunner::start(Arc::new(Observer(Arc::clone(&self.0))), &self.0.supervisor));
        if !self.0.upstreams.list().is_empty() {
            drop(TaskRunner::start(Arc::new(Prober(Arc::clone(&self.0))), &self.0.supervisor));
        }
        Ok(())
    }

    /// Looks once more and writes what was seen; before the store is closed.
    pub async fn keep(&self) -> Result<()> {
        self.0.observed.look(&self.0).await?;
        self.0.observed.keep(&self.0).await
    }

    /// Returns the routes of the API, and those of a profile; refuses a profile that has a path of a source.
    pub fn router(&self, profile: Option<Mounted>) -> Result<Router> {
        api::router(&self.0, profile)
    }
}

//! What an operator touches: the API over HTTP, health, metrics and actions of a node.

mod api;
mod auth;
mod call;
mod explain;
mod health;
mod life;
mod metrics;
mod openapi;
mod problem;
mod serve;

use std::{fmt, sync::Arc};

use axum::Router;
use bytestring::ByteString;
use tidegate_core::{
    cloudevents::PlainDefaults,
    fault::Result,
    guard::Guard,
    names::{ModuleName, StreamName},
    service::Context,
    store::Store,
};
use tidegate_engine::{Entrance, Groups, Modules, Publisher, Supervisor};

pub use self::{
    auth::{Role, Token, Tokens},
    metrics::{MetricKind, MetricSpec, Metrics},
    openapi::openapi,
    serve::{ServeLimits, serve},
};
use crate::{api::Api, health::Health};

/// What the control plane is made of.
pub struct ControlParts {
    /// The engine.
    pub store: Arc<dyn Store>,
    /// The groups that run.
    pub groups: Groups,
    /// Takes events in.
    pub publisher: Publisher,
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
    /// Who may ask.
    pub tokens: Tokens,
    /// What is known of the node.
    pub node: NodeFacts,
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
        let ControlParts {
            store,
            groups,
            publisher,
            guards,
            modules,
            intakes,
            cx,
            supervisor,
            metrics,
            config,
            tokens,
            node,
        } = parts;
        let health = Health::default();
        Ok(Self(Arc::new(Api {
            store,
            groups,
            publisher,
            guards,
            modules,
            intakes: intakes.into_iter().map(Arc::new).collect(),
            cx,
            supervisor,
            metrics,
            config,
            tokens,
            node,
            health,
            dead_work: tokio::sync::Mutex::new(()),
        })))
    }

    /// Returns the routes of the API.
    pub fn router(&self) -> Router {
        api::router(&self.0)
    }
}

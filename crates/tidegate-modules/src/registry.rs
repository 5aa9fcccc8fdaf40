//! The list of modules and their typed configurations. A new module is one file and one line in each list here.

use std::sync::Arc;

use schemars::Schema;
use tidegate_core::{
    clock::Clock,
    config::{Check, Spot},
    fault::Result,
    guard::Guard,
    handler::Sink,
    names::{StreamName, TargetName},
};

use crate::{
    http::HttpClient,
    sink::{pull, webhook},
    source::http,
};

/// Every module.
pub const ALL: &[ModuleSpec] = &[http::SPEC, pull::SPEC, webhook::SPEC];

/// What is known of a module without opening it.
#[derive(Debug, Clone, Copy)]
pub struct ModuleSpec {
    /// Value of `type` in the configuration.
    pub name: &'static str,
    /// Whether messages come in or go out through it.
    pub kind: ModuleKind,
    /// One line for lists.
    pub summary: &'static str,
    /// Schema of its configuration.
    pub schema: fn() -> Schema,
}

/// Direction of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// Messages come in.
    Source,
    /// Messages go out.
    Sink,
}

impl ModuleKind {
    /// Returns the word used in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Sink => "sink",
        }
    }
}

tidegate_core::config_by_type! {
    /// Configuration of a source; `type` says which.
    #[derive(Debug, Clone, PartialEq)]
    pub enum SourceConfig {
        /// Takes events on a path of the node's listeners.
        "http" => Http(http::HttpConfig),
    }
}

impl SourceConfig {
    /// Returns the stream into which events go.
    pub fn to(&self) -> &StreamName {
        match self {
            Self::Http(config) => &config.to,
        }
    }
}

impl Check for SourceConfig {
    fn check(&self, here: &Spot<'_>) {
        match self {
            Self::Http(config) => config.check(here),
        }
    }
}

tidegate_core::config_by_type! {
    /// Configuration of a sink; `type` says which.
    #[derive(Debug, Clone, PartialEq)]
    pub enum SinkConfig {
        /// Lends deliveries to workers over HTTP.
        "pull" => Pull(pull::PullConfig),
        /// Sends each event to a URL.
        "webhook" => Webhook(webhook::WebhookConfig),
    }
}

/// What a sink is opened with.
#[derive(Debug, Clone)]
pub struct SinkParts {
    /// Guard of the target that the sink names; none when it names none.
    pub guard: Option<Arc<Guard>>,
    /// Outbound HTTP.
    pub client: HttpClient,
    /// Time.
    pub clock: Clock,
}

impl SinkConfig {
    /// Returns the target that it calls.
    pub fn target(&self) -> Option<&TargetName> {
        match self {
            Self::Webhook(config) => Some(&config.target),
            Self::Pull(_) => None,
        }
    }

    /// Opens the sink; none when nothing of it runs in this process.
    pub fn open(&self, parts: SinkParts) -> Result<Option<Arc<dyn Sink>>> {
        match self {
            Self::Webhook(config) => Ok(Some(Arc::new(webhook::Webhook::open(config, parts)?))),
            Self::Pull(_) => Ok(None),
        }
    }
}

impl Check for SinkConfig {
    fn check(&self, here: &Spot<'_>) {
        match self {
            Self::Webhook(config) => config.check(here),
            Self::Pull(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::config::{NoReferences, load};

    use super::*;

    #[test]
    fn every_module_is_in_the_list() {
        let of = |kind| ALL.iter().filter(move |spec| spec.kind == kind).map(|spec| spec.name).collect::<Vec<_>>();
        assert_eq!(of(ModuleKind::Source), SourceConfig::TYPES);
        assert_eq!(of(ModuleKind::Sink), SinkConfig::TYPES);
        for spec in ALL {
            assert!(!spec.summary.is_empty(), "{}", spec.name);
            assert_eq!((spec.schema)().get("type").and_then(|kind| kind.as_str()), Some("object"), "{}", spec.name);
        }
    }

    #[test]
    fn the_type_chooses_the_module() {
        let sink: SinkConfig = load("{ type: pull }", "t.yaml", &NoReferences).unwrap();
        assert_eq!((sink.kind(), sink.target()), ("pull", None));
        let source: SourceConfig = load("{ type: http, path: /o, to: orders }", "t.yaml", &NoReferences).unwrap();
        assert_eq!((source.kind(), source.to().as_str()), ("http", "orders"));
        for bad in ["{ type: pull, url: x }", "{ type: carrier-pigeon }", "{ url: x }"] {
            assert!(load::<SinkConfig>(bad, "t.yaml", &NoReferences).is_err(), "{bad}");
        }
    }
}

//! The list of modules and their typed configurations. A new module is one file and one line in each list here.

use std::sync::Arc;

use schemars::Schema;
use tidegate_core::{
    clock::Clock,
    config::{Check, Spot, Time},
    fault::Result,
    guard::Guard,
    handler::Sink,
    names::{EngineName, ModuleName, StreamName, TargetName},
    source::Source,
    store::Beside,
};

use crate::{
    http::HttpClient,
    sink::{exec, file as file_sink, postgres as postgres_sink, pull, stdout, stream as stream_sink, webhook},
    source::{cron, file, http, postgres_outbox, redis_list, stdin, stream},
};

macro_rules! sources {
    ($($(#[$attribute:meta])* $kind:literal => $variant:ident($settings:ty)),+ $(,)?) => {
        tidegate_core::config_by_type! {
            /// Configuration of a source; `type` says which.
            #[derive(Debug, Clone, PartialEq)]
            pub enum SourceConfig { $($(#[$attribute])* $kind => $variant($settings)),+ }
        }

        impl SourceConfig {
            /// Returns the settings, whatever the type.
            pub fn settings(&self) -> &dyn SourceSettings {
                match self { $(Self::$variant(settings) => settings),+ }
            }

            /// Returns the stream into which events go.
            pub fn to(&self) -> &StreamName {
                self.settings().to()
            }
        }
    };
}

macro_rules! sinks {
    ($($(#[$attribute:meta])* $kind:literal => $variant:ident($settings:ty)),+ $(,)?) => {
        tidegate_core::config_by_type! {
            /// Configuration of a sink; `type` says which.
            #[derive(Debug, Clone, PartialEq)]
            pub enum SinkConfig { $($(#[$attribute])* $kind => $variant($settings)),+ }
        }

        impl SinkConfig {
            /// Returns the settings, whatever the type.
            pub fn settings(&self) -> &dyn SinkSettings {
                match self { $(Self::$variant(settings) => settings),+ }
            }
        }
    };
}

/// Every module.
pub const ALL: &[ModuleSpec] = &[
    cron::SPEC,
    file::SPEC,
    http::SPEC,
    postgres_outbox::SPEC,
    redis_list::SPEC,
    stdin::SPEC,
    stream::SPEC,
    exec::SPEC,
    file_sink::SPEC,
    postgres_sink::SPEC,
    pull::SPEC,
    stdout::SPEC,
    stream_sink::SPEC,
    webhook::SPEC,
];

sources! {
    /// Brings an event at each time that a schedule names.
    "cron" => Cron(cron::CronConfig),
    /// Brings the lines of a file.
    "file" => File(file::FileConfig),
    /// Takes events on a path of the node's listeners.
    "http" => Http(http::HttpConfig),
    /// Brings the rows of a transactional outbox in PostgreSQL.
    "postgres_outbox" => PostgresOutbox(postgres_outbox::OutboxConfig),
    /// Watches how long a list of another Redis is.
    "redis_list" => RedisList(redis_list::RedisListConfig),
    /// Brings the lines of standard input.
    "stdin" => Stdin(stdin::StdinConfig),
    /// Brings the events of another stream.
    "stream" => Stream(stream::StreamSourceConfig),
}

sinks! {
    /// Runs a program.
    "exec" => Exec(exec::ExecConfig),
    /// Writes lines into a file.
    "file" => File(file_sink::FileSinkConfig),
    /// Runs a statement in PostgreSQL, once for each event.
    "postgres" => Postgres(postgres_sink::PostgresSinkConfig),
    /// Lends deliveries to workers over HTTP.
    "pull" => Pull(pull::PullConfig),
    /// Writes lines to standard output.
    "stdout" => Stdout(stdout::StdoutConfig),
    /// Forwards events into another stream.
    "stream" => Stream(stream_sink::StreamSinkConfig),
    /// Sends each event to a URL.
    "webhook" => Webhook(webhook::WebhookConfig),
}

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

/// Settings of a source.
pub trait SourceSettings {
    /// Returns the stream into which events go.
    fn to(&self) -> &StreamName;

    /// Returns further streams into which it writes, each with its key in the settings.
    fn more_streams(&self) -> Vec<(&'static str, &StreamName)> {
        Vec::new()
    }

    /// Returns the target that it calls.
    fn target(&self) -> Option<&TargetName> {
        None
    }

    /// Returns the engine beside that of the node that it needs.
    fn engine(&self) -> Option<&EngineName> {
        None
    }

    /// Returns how long its stream must know repeats, by source and id, so that what it brings comes once.
    fn dedupe_min(&self) -> Option<Time> {
        None
    }

    /// Reports what is wrong within these settings.
    fn check(&self, here: &Spot<'_>);

    /// Opens the source; nothing is brought yet.
    fn open(&self, parts: SourceParts) -> Result<OpenSource>;
}

/// What a source is opened with.
#[derive(Debug, Clone)]
pub struct SourceParts {
    /// Its name in the configuration.
    pub name: ModuleName,
    /// Time.
    pub clock: Clock,
    /// Guard of the target that the source names; none when it names none.
    pub guard: Option<Arc<Guard>>,
    /// The engine that the source names; none when it names none.
    pub beside: Option<Arc<dyn Beside>>,
}

/// An opened source.
pub enum OpenSource {
    /// A path of the node's listeners, on which others take events in.
    Path(http::HttpConfig),
    /// Runs inside the node.
    Runs(Arc<dyn Source>),
    /// A group of its own on another stream does its work.
    Forwards {
        /// That stream.
        from: StreamName,
        /// What the group does.
        handler: Arc<dyn Sink>,
    },
}

impl std::fmt::Debug for OpenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Path(_) => "Path",
            Self::Runs(_) => "Runs",
            Self::Forwards { .. } => "Forwards",
        })
    }
}

impl Check for SourceConfig {
    fn check(&self, here: &Spot<'_>) {
        self.settings().check(here);
    }
}

/// Settings of a sink.
pub trait SinkSettings {
    /// Returns the target that it calls.
    fn target(&self) -> Option<&TargetName> {
        None
    }

    /// Returns the streams of the node into which it writes, each with its key in the settings.
    fn streams(&self) -> Vec<(&'static str, &StreamName)> {
        Vec::new()
    }

    /// Returns the engine beside that of the node that it needs.
    fn engine(&self) -> Option<&EngineName> {
        None
    }

    /// Returns what only one sink may have, with its key in the settings.
    fn owns(&self) -> Option<(&'static str, String)> {
        None
    }

    /// Refuses to start in a process in which it could not work.
    fn admit(&self) -> Result<()> {
        Ok(())
    }

    /// Reports what is wrong within these settings.
    fn check(&self, here: &Spot<'_>);

    /// Opens the sink; none when nothing of it runs in this process.
    fn open(&self, parts: SinkParts) -> Result<Option<Arc<dyn Sink>>>;
}

/// What a sink is opened with.
#[derive(Debug, Clone)]
pub struct SinkParts {
    /// Name of its group.
    pub name: ModuleName,
    /// Guard of the target that the sink names; none when it names none.
    pub guard: Option<Arc<Guard>>,
    /// The engine that the sink names; none when it names none.
    pub beside: Option<Arc<dyn Beside>>,
    /// Outbound HTTP.
    pub client: HttpClient,
    /// Time.
    pub clock: Clock,
    /// Whether the group keeps what the sink answers; if not, the sink need not collect it.
    pub answers: bool,
}

impl SinkConfig {
    /// Returns the target that it calls.
    pub fn target(&self) -> Option<&TargetName> {
        self.settings().target()
    }

    /// Returns what only one sink may have, with its key in the settings.
    pub fn owns(&self) -> Option<(&'static str, String)> {
        self.settings().owns()
    }

    /// Returns the streams into which it writes, each with its key in the settings.
    pub fn streams(&self) -> Vec<(&'static str, &StreamName)> {
        self.settings().streams()
    }

    /// Opens the sink; none when nothing of it runs in this process.
    pub fn open(&self, parts: SinkParts) -> Result<Option<Arc<dyn Sink>>> {
        self.settings().open(parts)
    }
}

impl Check for SinkConfig {
    fn check(&self, here: &Spot<'_>) {
        self.settings().check(here);
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

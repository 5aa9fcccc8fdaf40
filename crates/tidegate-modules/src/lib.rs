//! Sources and sinks: each module is one file with its configuration, its probe and its tests, plus one line in [`ALL`].
//!
//! **Invariant:** nothing here knows an engine or a group; a sink sees deliveries and a [guard](tidegate_core::guard).

mod http;
#[cfg(feature = "postgres")]
mod postgres;
mod registry;
pub mod sink;
pub mod source;
mod sql;
#[cfg(test)]
mod trial;

pub use http::HttpClient;
pub use registry::{
    ALL, ModuleKind, ModuleSpec, OpenSource, SinkConfig, SinkParts, SinkSettings, SourceConfig, SourceParts,
    SourceSettings,
};

//! The engines that store streams: the embedded journal, and the same engine in memory for tests.

pub mod disk;
pub mod embedded;

use std::{path::Path, sync::Arc};

use tidegate_core::{
    clock::Clock,
    fault::{Fault, Result},
    notice::Notices,
    store::Store,
};

use crate::embedded::Embedded;
pub use crate::embedded::{CheckReport, EmbeddedOptions, StoreDescription};

/// Names of the engines that [`open`] knows.
pub const ENGINES: [&str; 2] = ["embedded", "memory"];

/// Opens an engine by its name in the configuration.
pub fn open(engine: &str, data: &Path, clock: Clock, notices: Notices) -> Result<Arc<dyn Store>> {
    open_with(engine, EmbeddedOptions { clock, notices, ..EmbeddedOptions::new(data) })
}

/// Opens an engine by its name, with all that can be set.
pub fn open_with(engine: &str, options: EmbeddedOptions) -> Result<Arc<dyn Store>> {
    match engine {
        "embedded" => Ok(Embedded::open(options)?),
        "memory" => {
            let disk = Arc::new(disk::MemoryDisk::default());
            Ok(Embedded::open(EmbeddedOptions { disk, spares: 0, ..options })?)
        }
        other => Err(Fault::invalid(format!("there is no engine {other:?}; there are: {}", ENGINES.join(", ")))),
    }
}

/// Describes the store in a data directory that is not in use.
pub fn describe(data: &Path) -> Result<StoreDescription> {
    embedded::describe(&disk::RealDisk, data)
}

/// Returns the format of the store in a data directory, none when there is no store yet, and the newest format that
/// this program knows.
pub fn formats(data: &Path) -> (Option<u32>, u32) {
    embedded::formats(&disk::RealDisk, data)
}

/// Reads every byte of the store in a data directory that is not in use.
pub fn check(data: &Path) -> Result<CheckReport> {
    embedded::check(&disk::RealDisk, data)
}

//! The engines that store streams: the embedded journal, the same engine in memory for tests, and those on Redis,
//! PostgreSQL and NATS.

pub mod disk;
pub mod embedded;
#[cfg(feature = "nats")]
pub mod nats;
mod open;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod served;

use std::path::Path;

use tidegate_core::fault::Result;

pub use crate::{
    embedded::{CheckReport, StoreDescription},
    open::{
        ENGINES, LEFT_OUT, Look, NATS, NATS_LEFT_OUT, NatsSettings, Opening, POSTGRES, POSTGRES_LEFT_OUT, Password,
        PostgresSettings, REDIS, RedisSettings, is_postgres, look, open, open_engine,
    },
};

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

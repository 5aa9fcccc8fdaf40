//! For tests only: a disk that fails, the suite that says what the seam to an engine means, and simulated runs.
//!
//! Nothing of the product depends on this crate.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

pub mod authority;
pub mod broker_suite;
pub mod hooked;
pub mod nats_server;
pub mod postgres_server;
pub mod redis_server;
pub mod scenario;
pub mod seeds;
mod server_process;
pub mod sim_disk;

pub use self::{
    authority::{Authority, Papers},
    hooked::{Hooked, Hooks, Verb},
    nats_server::NatsServer,
    postgres_server::PostgresServer,
    redis_server::RedisServer,
    sim_disk::SimDisk,
};

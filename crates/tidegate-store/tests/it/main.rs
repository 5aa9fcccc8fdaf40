//! The engines against the suite, on bad disks, and through simulated lives.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod alike;
mod conformance;
mod damage;
mod nats;
mod nodes;
mod places;
mod postgres;
mod redis;
mod simulation;
mod threads;
mod tls;
mod trouble;
mod wire;

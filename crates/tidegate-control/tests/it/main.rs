//! The control plane through a real listener.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod ailing;
mod auth;
mod blocked;
mod client;
mod dlq;
mod events;
mod groups;
mod health;
mod listener;
mod look;
mod node;
mod profile;
mod publish;
mod pull;
mod results;
mod rubbish;
mod streams;

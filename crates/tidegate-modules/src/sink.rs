//! Modules through which messages go out.

pub mod pull;
pub mod webhook;

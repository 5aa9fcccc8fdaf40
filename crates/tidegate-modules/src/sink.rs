//! Modules through which messages go out.

pub mod exec;
pub mod file;
pub mod postgres;
pub mod pull;
pub mod stdout;
pub mod stream;
pub mod webhook;

//! Modules through which messages come in.

pub mod http;

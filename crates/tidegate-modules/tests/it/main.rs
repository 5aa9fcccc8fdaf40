//! Behaviour of the modules against servers on the loopback.

#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

mod receiver;
mod webhook;

//! The program from outside: real processes, real sockets, real files.

#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

mod beside;
mod check;
mod cli;
mod deliver;
mod dlq;
mod engine;
mod full;
mod generated;
mod guide;
mod modules;
mod node;
mod nodes;
mod outbox;
mod receiver;
mod replay;
mod reply;
mod resp;
mod rules;
mod see;
mod stop;
mod tls;
mod wire;

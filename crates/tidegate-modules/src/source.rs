//! Modules through which messages come in.

pub mod cron;
pub mod file;
pub mod http;
pub mod lines;
pub mod postgres_outbox;
pub mod redis_list;
pub mod stdin;
pub mod stream;

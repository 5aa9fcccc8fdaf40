//! Placeholder.

#[allow(dead_code, unused_imports, reason = "wired later")]
mod config;

fn main() {}

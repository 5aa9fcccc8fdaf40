//! The composition root and the command line of a node.
//!
//! **Invariant:** [`wire`] alone names concrete types of several crates; everything else goes through their seams.

pub mod cli;
mod client;
pub mod config;
pub mod exit;
mod log;
pub mod pages;
mod preflight;
mod ui;
mod wire;

//! Words and laws of Tidegate. Opens no socket and no file, and reads no clock but through [`clock::Clock`].

pub mod after;
pub mod clock;
pub mod cloudevents;
pub mod config;
pub mod decide;
pub mod dedupe;
pub mod delivery;
pub mod envelope;
pub mod event;
pub mod fault;
pub mod guard;
pub mod handler;
pub mod limits;
pub mod names;
pub mod notice;
pub mod order;
pub mod priority;
pub mod result;
pub mod seek;
pub mod service;
mod signature;
pub mod source;
pub mod store;
pub mod whereabouts;

pub use self::signature::signature;

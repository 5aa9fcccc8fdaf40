//! The engines against the suite, on bad disks, and through simulated lives.

mod conformance;
mod places;
mod simulation;

//! The engines that store streams.

pub mod disk;

//! For tests only: a disk that fails, the suite that says what the seam to an engine means, and simulated runs.
//!
//! Nothing of the product depends on this crate.

pub mod sim_disk;

pub use self::sim_disk::SimDisk;

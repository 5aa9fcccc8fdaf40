//! Simulated lives of the embedded engine; see `tidegate_testkit::scenario`.
//!
//! `TIDEGATE_SEEDS` says how many seeds are run, `TIDEGATE_SEED` replays one.

use std::sync::Arc;

use tidegate_core::{clock::Clock, fault::Result, store::Store};
use tidegate_store::embedded::{Embedded, EmbeddedOptions};
use tidegate_testkit::{
    SimDisk,
    scenario::{self, Survived},
    seeds,
};

use crate::places::stepped;

/// Small segments, so that a short life has many of them.
const SEGMENT: u64 = 64 * 1024;

fn open(disk: &SimDisk, clock: &Clock) -> Result<Arc<dyn Store>> {
    let options = EmbeddedOptions { segment_bytes: (SEGMENT, 4 * SEGMENT), spares: 1, ..stepped(disk, clock) };
    Ok(Embedded::open(options)?)
}

#[test]
fn every_life_keeps_every_promise() {
    let mut all = Survived::default();
    let seeds = seeds::wanted(300);
    let count = seeds.clone().count() as u64;
    for seed in seeds {
        match scenario::run(seed, &open) {
            Ok(survived) => all.add(survived),
            Err(broken) => panic!("a promise was broken; TIDEGATE_SEED={seed} replays it\n{broken}"),
        }
    }
    println!("{count} lives: {all:?}");
    if count >= 100 {
        assert!(all.operations > count * 50, "the lives were too short: {all:?}");
        assert!(all.failures > count / 20, "the disk did not fail often enough: {all:?}");
        assert!(all.reported > 0 && all.harmless > 0, "flipped bits did too little: {all:?}");
    }
}

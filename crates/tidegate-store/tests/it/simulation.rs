//! Simulated lives of the embedded engine; see `tidegate_testkit::scenario`.
//!
//! `TIDEGATE_SEEDS` says how many seeds are run, `TIDEGATE_SEEDS_FROM` where they start, `TIDEGATE_SEED` replays one.

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
/// Lives in one run of the tests.
const USUAL: u64 = 240;
/// As many parts as there are tests below, so that they run side by side.
const PARTS: u64 = 6;

/// Seeds that once found something: they run each time.
const FOUND: [u64; 6] = [76, 150, 825, 4990, 700_825, 701_366];

fn open(disk: &SimDisk, clock: &Clock) -> Result<Arc<dyn Store>> {
    let options = EmbeddedOptions { segment_bytes: (SEGMENT, 4 * SEGMENT), spares: 1, ..stepped(disk, clock) };
    Ok(Embedded::open(options)?)
}

#[expect(clippy::print_stdout, reason = "what was simulated is worth seeing with --no-capture")]
fn live(part: u64) {
    let (mut all, mut broken) = (Survived::default(), Vec::new());
    let seeds = seeds::part(part, PARTS, USUAL);
    let count = seeds.clone().count() as u64;
    for seed in seeds {
        match scenario::run(seed, &open) {
            Ok(survived) => all.add(survived),
            Err(what) => broken.push(format!("TIDEGATE_SEED={seed} replays it\n{what}")),
        }
        if broken.len() >= 5 {
            break;
        }
    }
    println!("{count} lives: {all:?}");
    assert!(broken.is_empty(), "promises were broken\n{}", broken.join("\n\n"));
    if count >= USUAL / PARTS {
        assert!(all.operations > count * 50, "the lives were too short: {all:?}");
        assert!(all.failures > 0, "the disk never failed: {all:?}");
        assert!(all.reported > 0, "no flipped bit was noticed: {all:?}");
    }
}

#[test]
fn lives_that_once_ended_badly() {
    for seed in FOUND {
        if let Err(what) = scenario::run(seed, &open) {
            panic!("TIDEGATE_SEED={seed} replays it\n{what}");
        }
    }
}

#[test]
fn lives_of_part_0() {
    live(0);
}

#[test]
fn lives_of_part_1() {
    live(1);
}

#[test]
fn lives_of_part_2() {
    live(2);
}

#[test]
fn lives_of_part_3() {
    live(3);
}

#[test]
fn lives_of_part_4() {
    live(4);
}

#[test]
fn lives_of_part_5() {
    live(5);
}

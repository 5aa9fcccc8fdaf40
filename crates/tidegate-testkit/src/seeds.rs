//! Which seeds a simulation runs: the door to the environment for tests.

use std::ops::Range;

/// Reads a number from the environment.
#[expect(clippy::disallowed_methods, reason = "tests have no configuration file; this is their door")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Returns the seeds that one of several tests runs.
///
/// `TIDEGATE_SEED` names a single one, which the first part runs. Otherwise there are `usual` of them, or as many as
/// `TIDEGATE_SEEDS` says, from `TIDEGATE_SEEDS_FROM` on.
pub fn part(part: u64, parts: u64, usual: u64) -> Range<u64> {
    if let Some(seed) = number("TIDEGATE_SEED") {
        return seed..seed + u64::from(part == 0);
    }
    let from = number("TIDEGATE_SEEDS_FROM").unwrap_or(0);
    let count = number("TIDEGATE_SEEDS").unwrap_or(usual);
    from + count * part / parts..from + count * (part + 1) / parts
}

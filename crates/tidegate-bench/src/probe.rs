//! The disk probe: how often 4 KiB can be appended to pre-zeroed space and synced, one after the other.

use std::{io, os::unix::fs::FileExt as _, path::Path, time::Duration};

use tidegate_core::clock::Clock;

const BLOCK: usize = 4096;
const FILE_BYTES: usize = 32 << 20;

/// Returns appends with `fdatasync` per second in a directory.
pub(crate) fn probe(dir: &Path, time: Duration) -> io::Result<f64> {
    // Without a name: it goes with the process, and two measurements side by side do not meet in it.
    let file = tempfile::tempfile_in(dir)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at as u64)?;
    }
    file.sync_all()?;
    let mut block = vec![0; BLOCK];
    fastrand::Rng::new().fill(&mut block);
    let watch = Clock::real().stopwatch();
    let mut count = 0_u64;
    while watch.elapsed() < time {
        file.write_all_at(&block, (count * BLOCK as u64) % FILE_BYTES as u64)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count as f64 / watch.elapsed().as_secs_f64())
}

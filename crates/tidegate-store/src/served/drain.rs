//! How fast a group settles, measured by the upkeep.

use tidegate_core::clock::Timestamp;

/// How fast a group settles.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Drain {
    settled: u64,
    at: Option<Timestamp>,
    pub(crate) per_second: f64,
}

impl Drain {
    /// Takes in how much is settled at a time.
    pub(crate) fn sample(&mut self, settled: u64, now: Timestamp) {
        if let Some(at) = self.at {
            let seconds = now.since(at).as_secs_f64();
            if seconds < 0.5 {
                return;
            }
            let rate = settled.saturating_sub(self.settled) as f64 / seconds;
            self.per_second = 0.7 * self.per_second + 0.3 * rate;
        }
        (self.settled, self.at) = (settled, Some(now));
    }
}

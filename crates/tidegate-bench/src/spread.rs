//! A spread of times: counts in buckets that grow by an eighth, so that a percentile is right within some percent.

use std::time::Duration;

const PER_DOUBLING: u32 = 8;
const BUCKETS: usize = 40 * PER_DOUBLING as usize;

/// Times of something that was done many times.
#[derive(Debug, Clone)]
pub(crate) struct Spread {
    counts: Vec<u64>,
    total: u64,
    most: Duration,
}

impl Default for Spread {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, most: Duration::ZERO }
    }
}

impl Spread {
    pub(crate) fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let doubling = nanos.ilog2();
        let part = if doubling < 3 { 0 } else { (nanos >> (doubling - 3)) & 7 };
        let bucket = (doubling * PER_DOUBLING) as usize + usize::try_from(part).unwrap_or_default();
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.total += 1;
        self.most = self.most.max(time);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.most = self.most.max(other.most);
    }

    pub(crate) fn most(&self) -> Duration {
        self.most
    }

    /// Returns the time that a share of all did not exceed.
    pub(crate) fn share(&self, share: f64) -> Duration {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                let doubling = bucket as u32 / PER_DOUBLING;
                let part = u64::from(bucket as u32 % PER_DOUBLING) + 1;
                let nanos = (1_u64 << doubling) + ((1_u64 << doubling) * part) / u64::from(PER_DOUBLING);
                return Duration::from_nanos(nanos).min(self.most);
            }
        }
        self.most
    }
}

/// Returns milliseconds with their fraction.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_right_within_an_eighth() {
        let mut spread = Spread::default();
        (1..=10_000).for_each(|micros| spread.add(Duration::from_micros(micros)));
        for (share, micros) in [(0.5, 5_000.0), (0.99, 9_900.0), (0.001, 10.0)] {
            let found = spread.share(share).as_secs_f64() * 1e6;
            assert!((found / micros - 1.0).abs() < 0.13, "{share}: {found}");
        }
        let mut twice = spread.clone();
        twice.merge(&spread);
        assert_eq!((twice.total, twice.most()), (20_000, Duration::from_millis(10)));
    }
}

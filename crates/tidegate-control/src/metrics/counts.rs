//! What a histogram has counted, and what can be told from that.

use serde::{Deserialize, Serialize};

/// What a histogram has counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Upper bound in seconds, and how many were counted up to it and above the one before.
    pub(crate) buckets: Vec<(f64, u64)>,
    /// How many were above every bound.
    pub(crate) above: u64,
    /// Sum of all, in seconds.
    pub(crate) sum: f64,
}

impl Counts {
    pub(crate) fn total(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum::<u64>() + self.above
    }

    /// Returns what was counted after an earlier look at the same histogram.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |index: usize| earlier.buckets.get(index).map_or(0, |(_, count)| *count);
        let buckets = self.buckets.iter().enumerate();
        Self {
            buckets: buckets.map(|(index, (bound, count))| (*bound, count.saturating_sub(before(index)))).collect(),
            above: self.above.saturating_sub(earlier.above),
            sum: (self.sum - earlier.sum).max(0.0),
        }
    }

    /// Adds what another histogram of the same bounds has counted.
    pub(crate) fn add(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.buckets = other.buckets.iter().map(|(bound, _)| (*bound, 0)).collect();
        }
        for ((_, count), (_, more)) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more;
        }
        self.above += other.above;
        self.sum += other.sum;
    }

    /// Estimates the value below which a share of all lies, in seconds; within a bucket all are taken to be spread
    /// evenly. None when nothing was counted; the highest bound for what lies above it.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let wanted = share * total as f64;
        let (mut below, mut lower) = (0_u64, 0.0);
        for (bound, count) in &self.buckets {
            if *count > 0 && (below + count) as f64 >= wanted {
                return Some(lower + (bound - lower) * ((wanted - below as f64) / *count as f64).clamp(0.0, 1.0));
            }
            below += count;
            lower = *bound;
        }
        Some(lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(buckets: &[(f64, u64)], above: u64) -> Counts {
        Counts { buckets: buckets.to_vec(), above, sum: 1.0 }
    }

    #[test]
    fn shares_lie_within_their_bucket() {
        let check = |counts: &Counts, share: f64, expect: Option<f64>| assert_eq!(counts.quantile(share), expect);
        check(&Counts::default(), 0.5, None);
        let even = counts(&[(1.0, 50), (2.0, 50)], 0);
        check(&even, 0.5, Some(1.0));
        check(&even, 0.25, Some(0.5));
        check(&even, 0.75, Some(1.5));
        check(&counts(&[(1.0, 1), (2.0, 0)], 9), 0.95, Some(2.0));
        check(&counts(&[(1.0, 0), (2.0, 4)], 0), 1.0, Some(2.0));
    }

    #[test]
    fn differences_and_sums() {
        let early = counts(&[(1.0, 1), (2.0, 2)], 3);
        let late = counts(&[(1.0, 4), (2.0, 2)], 5);
        assert_eq!(late.since(&early), Counts { buckets: vec![(1.0, 3), (2.0, 0)], above: 2, sum: 0.0 });
        assert_eq!(late.since(&Counts::default()).total(), late.total());
        let mut sum = Counts::default();
        sum.add(&early);
        sum.add(&late);
        assert_eq!((sum.total(), sum.above), (17, 8));
    }
}

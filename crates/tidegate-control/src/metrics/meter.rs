//! Counters and histograms that are counted on the path of a message: atomics only, found under one shared lock.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tidegate_core::limits;

use super::counts::Counts;

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of all histograms of durations, in nanoseconds: from what an idle node takes to an hour.
const BOUNDS: [u64; 20] = {
    const US: u64 = 1_000;
    const MS: u64 = 1_000 * US;
    const S: u64 = 1_000 * MS;
    [
        100 * US,
        250 * US,
        500 * US,
        MS,
        2_500 * US,
        5 * MS,
        10 * MS,
        25 * MS,
        50 * MS,
        100 * MS,
        250 * MS,
        500 * MS,
        S,
        2_500 * MS,
        5 * S,
        10 * S,
        30 * S,
        60 * S,
        300 * S,
        3_600 * S,
    ]
};

/// Durations in buckets.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// One per bound, then all above.
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDS.len());
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        let seconds = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64();
        let mut counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets = BOUNDS.iter().map(|bound| seconds(*bound)).zip(counts.by_ref()).collect();
        Counts { buckets, above: counts.next().unwrap_or(0), sum: seconds(self.nanos.load(Ordering::Relaxed)) }
    }
}

/// The slowest of many, found with one comparison for all the others.
#[derive(Debug)]
pub(super) struct Slowest<T> {
    /// What the next one must take at least.
    least: AtomicU64,
    kept: Mutex<Vec<(Duration, T)>>,
}

impl<T> Default for Slowest<T> {
    fn default() -> Self {
        Self { least: AtomicU64::new(0), kept: Mutex::default() }
    }
}

impl<T> Slowest<T> {
    pub(super) fn observe(&self, time: Duration, what: impl FnOnce() -> T) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if nanos < self.least.load(Ordering::Relaxed) {
            return;
        }
        let mut kept = self.kept.lock();
        let at = kept.partition_point(|(other, _)| *other >= time);
        kept.insert(at, (time, what()));
        kept.truncate(limits::SLOWEST_MAX);
        if let (true, Some((least, _))) = (kept.len() == limits::SLOWEST_MAX, kept.last()) {
            let least = u64::try_from(least.as_nanos()).unwrap_or(u64::MAX);
            self.least.store(least.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Takes what was kept, the slowest first, and begins anew.
    pub(super) fn take(&self) -> Vec<(Duration, T)> {
        let mut kept = self.kept.lock();
        self.least.store(0, Ordering::Relaxed);
        std::mem::take(&mut kept)
    }
}

/// Meters by name. A name that was met once is found without writing.
#[derive(Debug)]
pub(super) struct Table<K, V>(RwLock<HashMap<K, V>>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Hash + Eq + Clone, V: Default> Table<K, V> {
    /// Uses the meters of a name; makes them when it is new.
    pub(super) fn with(&self, key: &K, meter: impl FnOnce(&V)) {
        let known = self.0.read();
        if let Some(meters) = known.get(key) {
            return meter(meters);
        }
        drop(known);
        meter(self.0.write().entry(key.clone()).or_default());
    }

    /// Forgets the meters of names for which this is not true.
    pub(super) fn retain(&self, keep: impl Fn(&K) -> bool) {
        self.0.write().retain(|key, _| keep(key));
    }

    /// Uses all meters, in the order of their names.
    pub(super) fn each(&self, mut meter: impl FnMut(&K, &V))
    where
        K: Ord,
    {
        let known = self.0.read();
        let mut sorted: Vec<_> = known.iter().collect();
        sorted.sort_unstable_by_key(|(key, _)| *key);
        for (key, meters) in sorted {
            meter(key, meters);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow() {
        assert!(BOUNDS.is_sorted_by(|left, right| left < right));
    }

    #[test]
    fn durations_fall_into_the_first_bucket_that_holds_them() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 250, 7_200_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let counts = histogram.counts();
        assert_eq!(counts.buckets[..3], [(0.0001, 2), (0.00025, 2), (0.0005, 0)]);
        assert_eq!(counts.above, 1);
        assert!((counts.sum - 7_200.000_451).abs() < 1e-6);
    }

    #[test]
    fn the_slowest_are_kept_in_order() {
        let slowest = Slowest::default();
        for millis in [0, 5, 1, 9, 3, 7, 2, 8] {
            slowest.observe(Duration::from_millis(millis), || millis);
        }
        let kept: Vec<u64> = slowest.take().into_iter().map(|(_, millis)| millis).collect();
        assert_eq!(kept, [9, 8, 7, 5, 3]);
        assert!(slowest.take().is_empty());
    }

    #[test]
    fn a_table_makes_meters_once() {
        let table = Table::<String, Counter>::default();
        for _ in 0..3 {
            table.with(&"b".to_owned(), |counter| counter.add(1));
        }
        table.with(&"a".to_owned(), |counter| counter.add(7));
        let mut seen = Vec::new();
        table.each(|key, counter| seen.push((key.clone(), counter.get())));
        assert_eq!(seen, [("a".to_owned(), 7), ("b".to_owned(), 3)]);
    }
}

//! Counters of the engine: where the time of the commit path goes.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use tidegate_core::store::SYNC_BOUNDS;

/// Counters, all relaxed: they are read together only by people.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_counts: [AtomicU64; SYNC_BOUNDS.len() + 1],
    pub(crate) sync_nanos: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) encode_nanos: AtomicU64,
    pub(crate) write_nanos: AtomicU64,
    pub(crate) apply_nanos: AtomicU64,
    pub(crate) rolls: AtomicU64,
    pub(crate) rolls_without_spare: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) moved: AtomicU64,
    pub(crate) progress_at: AtomicI64,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Stats {
    pub(crate) fn synced(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let slot = SYNC_BOUNDS.partition_point(|bound| *bound < seconds);
        self.sync_counts[slot].fetch_add(1, Ordering::Relaxed);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_nanos.fetch_add(nanos(took), Ordering::Relaxed);
    }

    pub(crate) fn add(counter: &AtomicU64, time: Duration) {
        counter.fetch_add(nanos(time), Ordering::Relaxed);
    }

    pub(crate) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            ("frames", read(&self.frames)),
            ("records", read(&self.records)),
            ("written_bytes", read(&self.bytes)),
            ("encode_nanoseconds", read(&self.encode_nanos)),
            ("write_nanoseconds", read(&self.write_nanos)),
            ("sync_nanoseconds", read(&self.sync_nanos)),
            ("apply_nanoseconds", read(&self.apply_nanos)),
            ("segments_started", read(&self.rolls)),
            ("segments_started_without_spare", read(&self.rolls_without_spare)),
            ("checkpoints", read(&self.checkpoints)),
            ("events_moved", read(&self.moved)),
        ]
    }
}

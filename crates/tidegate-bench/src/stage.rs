//! An embedded store in a scratch directory, and what its counters say of the time in between.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tidegate_core::{
    clock::Clock,
    names::{GroupName, StreamName},
    notice::Notices,
    store::{GroupSpec, Store, StreamSpec},
};

use crate::{board::Board, ui::short};

pub(crate) fn stream_name(name: &str) -> StreamName {
    StreamName::new(name).expect("the names of measurements are fine")
}

pub(crate) fn group_name(name: &str) -> GroupName {
    GroupName::new(name).expect("the names of measurements are fine")
}

/// Returns a stream as the configuration would make it, without a bound on its backlog.
pub(crate) fn stream_spec(name: &str) -> StreamSpec {
    StreamSpec { max_backlog: None, ..StreamSpec::new(stream_name(name)) }
}

/// Returns a group with a ledger, without order.
pub(crate) fn group_spec(name: &str, stream: &str) -> GroupSpec {
    GroupSpec { mark_claims: false, ..GroupSpec::new(group_name(name), stream_name(stream)) }
}

/// A store that goes with its directory.
pub(crate) struct Stage {
    pub(crate) store: Arc<dyn Store>,
    _dir: TempDir,
}

impl Stage {
    pub(crate) fn open(parent: &Path) -> Result<Self> {
        let dir =
            tempfile::Builder::new().prefix("tidegate-bench-").tempdir_in(parent).context("make a scratch folder")?;
        let store = tidegate_store::open("embedded", dir.path(), Clock::real(), Notices::default())?;
        Ok(Self { store, _dir: dir })
    }

    /// Returns the counters as they stand.
    pub(crate) fn counters(&self) -> Counters {
        Counters::of(&*self.store)
    }
}

/// Counters of the commit path at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    counts: Vec<(&'static str, u64)>,
    syncs: u64,
}

impl Counters {
    pub(crate) fn of(store: &dyn Store) -> Self {
        let status = store.status();
        Self { counts: status.counters, syncs: status.syncs }
    }

    fn since(&self, before: &Self, name: &str) -> f64 {
        let find =
            |counters: &Self| counters.counts.iter().find(|(other, _)| *other == name).map_or(0, |(_, count)| *count);
        find(self).saturating_sub(find(before)) as f64
    }

    /// Says where the time of the committer went since an earlier moment.
    pub(crate) fn explain(&self, before: &Self, time: Duration, board: &mut Board, work: &str) {
        let records = self.since(before, "records").max(1.0);
        let frames = self.since(before, "frames").max(1.0);
        let share = |name| 100.0 * self.since(before, name) / 1e9 / time.as_secs_f64();
        board.note(format!(
            "{work}: {} records per frame, {} syncs; committer {:.0} % encode, {:.0} % write, {:.0} % sync, {:.0} % apply of the time; \
             per record {:.2} µs encode, {:.2} µs write, {:.2} µs apply, {:.0} bytes; {:.0} segments, {:.0} without a spare",
            short(records / frames),
            short(self.syncs.saturating_sub(before.syncs) as f64),
            share("encode_nanoseconds"),
            share("write_nanoseconds"),
            share("sync_nanoseconds"),
            share("apply_nanoseconds"),
            self.since(before, "encode_nanoseconds") / 1e3 / records,
            self.since(before, "write_nanoseconds") / 1e3 / records,
            self.since(before, "apply_nanoseconds") / 1e3 / records,
            self.since(before, "written_bytes") / records,
            self.since(before, "segments_started"),
            self.since(before, "segments_started_without_spare"),
        ));
    }
}

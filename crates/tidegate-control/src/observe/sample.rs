//! One look at the node, and what two looks say together.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_core::{
    clock::Timestamp,
    fault::Result,
    names::{GroupName, TargetName},
    store::{GroupStatus, StreamStatus},
};

use crate::{
    api::Api,
    metrics::{counts::Counts, process::ProcessFacts},
    system::{self, DiskFacts},
};

/// What was counted of a group by one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    /// From accept, or from when it was due, to the start of the handler.
    pub(crate) latency: Counts,
    /// Time that handlers took.
    pub(crate) duration: Counts,
    /// Attempts that ended well.
    pub(crate) done: u64,
}

/// One look at the node.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) at: Timestamp,
    pub(crate) groups: BTreeMap<GroupName, GroupStatus>,
    /// Those of them that are side groups.
    pub(crate) sides: BTreeSet<GroupName>,
    pub(crate) streams: Vec<StreamStatus>,
    pub(crate) counted: BTreeMap<GroupName, Counted>,
    /// Waits before calls.
    pub(crate) waits: BTreeMap<TargetName, Counts>,
    pub(crate) process: ProcessFacts,
    pub(crate) disk: Option<DiskFacts>,
    /// Most memory that the process may use.
    pub(crate) memory_max: Option<u64>,
}

impl Sample {
    pub(crate) async fn take(api: &Api) -> Result<Self> {
        let groups = api.store.groups().await?;
        let (counted, waits) = api.metrics.counted();
        Ok(Self {
            at: api.cx.clock.now(),
            groups: groups.into_iter().map(|group| (group.name.clone(), group)).collect(),
            sides: api.sides.list().into_keys().collect(),
            streams: api.store.streams().await?,
            counted,
            waits,
            process: ProcessFacts::read(),
            disk: api.data.as_deref().and_then(DiskFacts::read),
            memory_max: system::memory_max(),
        })
    }

    /// What was counted of a group since an earlier look.
    pub(crate) fn counted_since(&self, earlier: Option<&Self>, group: &GroupName) -> Counted {
        let Some(now) = self.counted.get(group) else { return Counted::default() };
        let Some(before) = earlier.and_then(|earlier| earlier.counted.get(group)) else { return now.clone() };
        Counted {
            latency: now.latency.since(&before.latency),
            duration: now.duration.since(&before.duration),
            done: now.done.saturating_sub(before.done),
        }
    }

    /// Waits before calls to a target since an earlier look.
    pub(crate) fn waits_since(&self, earlier: Option<&Self>, target: &TargetName) -> Counts {
        let Some(now) = self.waits.get(target) else { return Counts::default() };
        earlier.and_then(|earlier| earlier.waits.get(target)).map_or_else(|| now.clone(), |before| now.since(before))
    }

    /// Events of a group accepted and settled for good per second since an earlier look.
    pub(crate) fn rates_since(&self, earlier: Option<&Self>, group: &GroupName) -> (f64, f64) {
        let Some((earlier, now)) = earlier.zip(self.groups.get(group)) else { return (0.0, 0.0) };
        let Some(before) = earlier.groups.get(group) else { return (0.0, 0.0) };
        let seconds = self.at.since(earlier.at).as_secs_f64();
        if seconds <= 0.0 {
            return (0.0, 0.0);
        }
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        (rate(now.accepted, before.accepted), rate(settled(now), settled(before)))
    }

    /// Seconds until a group has nothing left to do at the rates since an earlier look; none when it does not shrink.
    pub(crate) fn seconds_to_drain(&self, earlier: Option<&Self>, group: &GroupName) -> Option<f64> {
        let now = self.groups.get(group)?;
        let open = now.waiting + now.in_flight;
        if open == 0 {
            return Some(0.0);
        }
        let (came, went) = self.rates_since(earlier, group);
        let shrinks = went - came;
        (shrinks > 0.0).then(|| open as f64 / shrinks)
    }
}

/// Events of a group that are settled, however.
fn settled(status: &GroupStatus) -> u64 {
    status.done + status.dead + status.expired + status.dropped
}

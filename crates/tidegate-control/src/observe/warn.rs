//! What deserves a warning: queues that are late or long, memory, disk, and every change of health.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tidegate_core::{clock::Timestamp, notice::Notice};

use super::sample::Sample;
use crate::health::{Component, State};

/// When to warn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarnPolicy {
    /// Age of the oldest event that may run, or the time that most events waited, from which a queue counts as late.
    pub queue_latency: Duration,
    /// Events that wait from which a queue counts as long.
    pub queue_depth: u64,
    /// Time between two warnings about the same thing.
    pub again: Duration,
    /// Memory of the process from which to warn; none = 85 % of what it may use.
    pub memory: Option<u64>,
    /// Share of the disk of the data directory in use from which to warn, in percent.
    pub disk_percent: u8,
}

impl Default for WarnPolicy {
    fn default() -> Self {
        Self {
            queue_latency: Duration::from_secs(20),
            queue_depth: 10_000,
            again: Duration::from_secs(60),
            memory: None,
            disk_percent: 85,
        }
    }
}

/// Share of the memory that the process may use from which to warn, in percent.
const MEMORY_PERCENT: u64 = 85;

/// Remembers what was told.
#[derive(Debug, Default)]
pub(crate) struct Warner {
    told_at: BTreeMap<String, Timestamp>,
    health: BTreeMap<String, State>,
}

impl Warner {
    /// Returns what is to be told now.
    pub(crate) fn look(
        &mut self,
        policy: &WarnPolicy,
        now: &Sample,
        before: Option<&Sample>,
        health: &[Component],
    ) -> Vec<Notice> {
        let mut told = Vec::new();
        self.queues(policy, now, before, &mut told);
        self.memory(policy, now, &mut told);
        self.disk(policy, now, &mut told);
        told.extend(self.look_at_health(health));
        told
    }

    /// Returns what is to be told of health alone: all there is while the store does not answer.
    pub(crate) fn look_at_health(&mut self, health: &[Component]) -> Vec<Notice> {
        let (mut met, mut told) = (BTreeSet::new(), Vec::new());
        self.transitions(health, &mut met, &mut told);
        self.health.retain(|component, _| met.contains(component));
        told
    }

    /// Tells whether it is time to warn about something that is wrong, again.
    fn is_due(&mut self, what: String, wrong: bool, at: Timestamp, again: Duration) -> bool {
        if !wrong {
            self.told_at.remove(&what);
            return false;
        }
        let due = self.told_at.get(&what).is_none_or(|told| at.since(*told) >= again);
        if due {
            self.told_at.insert(what, at);
        }
        due
    }

    fn queues(&mut self, policy: &WarnPolicy, now: &Sample, before: Option<&Sample>, told: &mut Vec<Notice>) {
        // What is handled once more is old by intent.
        for (name, status) in now.groups.iter().filter(|(name, _)| !now.sides.contains(*name)) {
            let waited = now.counted_since(before, name).latency.quantile(0.95).unwrap_or(0.0);
            let latency = Duration::from_secs_f64(waited).max(status.oldest_waiting.unwrap_or_default());
            // What waits for other events is no queue: no worker could take it.
            let depth = status.waiting - status.blocked;
            let wrong = latency >= policy.queue_latency || depth >= policy.queue_depth;
            if self.is_due(format!("queue/{name}"), wrong, now.at, policy.again) {
                let (group, queue) = (name.clone(), status.stream.clone());
                told.push(Notice::QueueLate { group, queue, latency, depth });
            }
        }
    }

    fn memory(&mut self, policy: &WarnPolicy, now: &Sample, told: &mut Vec<Notice>) {
        let threshold = policy.memory.or_else(|| Some(now.memory_max? / 100 * MEMORY_PERCENT));
        let Some((resident, threshold)) = now.process.resident_bytes.zip(threshold) else { return };
        if self.is_due("memory".to_owned(), resident >= threshold, now.at, policy.again) {
            told.push(Notice::MemoryHigh { resident, threshold });
        }
    }

    fn disk(&mut self, policy: &WarnPolicy, now: &Sample, told: &mut Vec<Notice>) {
        let Some(disk) = &now.disk else { return };
        let percent = disk.used_percent();
        if self.is_due("disk".to_owned(), percent >= f64::from(policy.disk_percent), now.at, policy.again) {
            told.push(Notice::DiskFilling { percent: percent as u64, free: disk.free_bytes });
        }
    }

    fn transitions(&mut self, health: &[Component], met: &mut BTreeSet<String>, told: &mut Vec<Notice>) {
        for component in health {
            self.transitions(component.parts(), met, told);
            let name = component.name().to_owned();
            let state = component.state();
            met.insert(name.clone());
            // What is met for the first time was well before.
            let before = self.health.insert(name.clone(), state).unwrap_or(State::Healthy);
            if before != state {
                let cause = component.cause().unwrap_or_default().to_owned();
                told.push(Notice::HealthChanged { component: name, from: before.as_str(), to: state.as_str(), cause });
            }
        }
    }
}

#[cfg(test)]
mod tests;

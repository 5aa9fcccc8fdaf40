//! When the node warns of itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_control::WarnPolicy;
use tidegate_core::config::{Bytes, Spot, Time};

/// When the node warns of itself: lines in the log and notices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WarningsConfig {
    /// Age of the oldest event of a group that may run, or the time that 19 of 20 waited, from which the group counts as
    /// late. The line has the key `queue_latency`.
    pub queue_latency: Time,
    /// Events of a group that wait from which it counts as late too.
    pub queue_depth: u64,
    /// Time between two warnings about the same thing.
    pub again: Time,
    /// Memory of the process from which to warn; absent = 85 % of what the process may use.
    pub memory: Option<Bytes>,
    /// Used share of the disk of the data directory from which to warn, in percent.
    pub disk_percent: u8,
}

impl Default for WarningsConfig {
    fn default() -> Self {
        let policy = WarnPolicy::default();
        Self {
            queue_latency: Time::from_secs(policy.queue_latency.as_secs()),
            queue_depth: policy.queue_depth,
            again: Time::from_secs(policy.again.as_secs()),
            memory: None,
            disk_percent: policy.disk_percent,
        }
    }
}

impl WarningsConfig {
    /// Returns when to warn.
    pub fn policy(&self) -> WarnPolicy {
        WarnPolicy {
            queue_latency: self.queue_latency.get(),
            queue_depth: self.queue_depth,
            again: self.again.get(),
            memory: self.memory.map(Bytes::get),
            disk_percent: self.disk_percent,
        }
    }

    pub(super) fn check(&self, here: &Spot<'_>) {
        let more = || "must be more than zero".to_owned();
        here.at("queue_latency").require(!self.queue_latency.is_zero(), more);
        here.at("queue_depth").require(self.queue_depth > 0, more);
        here.at("again").require(!self.again.is_zero(), more);
        here.at("memory").require(self.memory.is_none_or(|memory| memory.get() > 0), more);
        here.at("disk_percent").require((1..=100).contains(&self.disk_percent), || "must be 1 to 100".to_owned());
    }
}

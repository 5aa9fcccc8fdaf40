//! Tells early when a stream fills up, and when retention waits for a group.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidegate_core::{
    fault::Result,
    names::StreamName,
    notice::Notice,
    service::Context,
    store::{Store, StreamStatus},
};

use crate::task::Task;

/// Parts of `max_backlog`, in percent, at which somebody is told.
pub const WATERMARKS: [u64; 3] = [75, 80, 90];
/// By so many percent a backlog has to fall below a mark before that mark can be told again.
const SLACK: u64 = 5;

/// What was told of a stream.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    mark: Option<u64>,
    overdue: bool,
}

/// Watches the backlogs of all streams.
pub struct Watermarks {
    store: Arc<dyn Store>,
    every: Duration,
    told: Mutex<BTreeMap<StreamName, Told>>,
}

impl fmt::Debug for Watermarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watermarks").finish_non_exhaustive()
    }
}

impl Watermarks {
    /// Makes the task.
    pub fn new(store: Arc<dyn Store>, every: Duration) -> Arc<Self> {
        Arc::new(Self { store, every, told: Mutex::default() })
    }
}

/// Returns how full the backlog of a stream is, in percent; none without a bound.
pub fn backlog_percent(stream: &StreamStatus) -> Option<u64> {
    stream.max_backlog.map(|most| stream.backlog.saturating_mul(100) / most.max(1))
}

/// Returns the highest mark that is reached; a mark that was told holds until the backlog is clearly below it.
fn mark(percent: u64, told: Option<u64>) -> Option<u64> {
    let reached = |mark: &u64| percent >= *mark || told >= Some(*mark) && percent + SLACK > *mark;
    WATERMARKS.into_iter().filter(reached).max()
}

#[async_trait]
impl Task for Watermarks {
    fn name(&self) -> String {
        "watermarks".to_owned()
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn activate(&self, cx: &Context) -> Result<()> {
        for stream in self.store.streams().await? {
            let before = self.told.lock().get(&stream.name).copied().unwrap_or_default();
            let now = Told {
                mark: backlog_percent(&stream).and_then(|percent| mark(percent, before.mark)),
                overdue: stream.overdue > 0,
            };
            let (name, backlog, most) = (stream.name.clone(), stream.backlog, stream.max_backlog.unwrap_or(0));
            match (before.mark, now.mark) {
                (before, Some(mark)) if before < Some(mark) => {
                    let group = stream.slowest.clone();
                    cx.notices.emit(&Notice::BacklogHigh { stream: name, group, percent: mark, backlog, most });
                }
                (Some(_), None) => cx.notices.emit(&Notice::BacklogEased { stream: name, backlog, most }),
                (_, _) => {}
            }
            if now.overdue && !before.overdue {
                let (events, group) = (stream.overdue, stream.slowest.clone());
                let stream = stream.name.clone();
                cx.notices.emit(&Notice::RetentionHeld { stream, group, events });
            }
            self.told.lock().insert(stream.name, now);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_told_going_up_and_hold_a_while_going_down() {
        let check = |percent, told, expect| assert_eq!(mark(percent, told), expect, "{percent} % after {told:?}");
        check(74, None, None);
        check(75, None, Some(75));
        check(85, Some(75), Some(80));
        check(100, None, Some(90));
        check(86, Some(90), Some(90));
        check(85, Some(90), Some(80));
        check(71, Some(75), Some(75));
        check(70, Some(75), None);
    }
}

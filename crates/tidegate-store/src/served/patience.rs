//! Waiting for work: until a bell rings, until something is due, and never longer than a poll, because a message may be lost.

use std::{pin::Pin, time::Duration};

use tidegate_core::{
    clock::{Clock, Timestamp},
    fault::Result,
};
use tokio::sync::futures::Notified;

/// What a look for work found.
pub(crate) enum Work {
    /// There is some.
    Now,
    /// None before one of these times.
    At([Option<Timestamp>; 2]),
}

/// Rests after a look; false when there may be work, or it is `until`. The bell must have been listened to before the look,
/// so that no ring is missed in between.
pub(crate) async fn rest(
    clock: &Clock,
    bell: Pin<&mut Notified<'_>>,
    poll: Duration,
    until: Timestamp,
    found: Result<Work>,
) -> bool {
    let now = clock.now();
    let wake_at = match found {
        Ok(Work::Now) => return false,
        Ok(Work::At(times)) => times.into_iter().flatten().chain([until]).min().unwrap_or(until),
        // The claim that follows meets the same fault and says so; here it must only not spin.
        Err(_) => until,
    };
    if wake_at <= now {
        return false;
    }
    tokio::select! {
        () = bell => false,
        () = clock.sleep(poll.min(wake_at.since(now))) => clock.now() < until,
    }
}

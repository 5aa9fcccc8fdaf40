//! One clock for all processes of a run: the monotonic clock of the machine.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Returns the nanoseconds since the machine started; the same in all processes.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// Returns the instant that is so much later.
pub(crate) fn after(time: Duration) -> u64 {
    now().saturating_add(nanos(time))
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Waits until an instant, in a thread of our own.
pub(crate) fn wait_until(at: u64) {
    while let Some(left) = at.checked_sub(now()).filter(|left| *left > 0) {
        std::thread::park_timeout(Duration::from_nanos(left));
    }
}

/// The step of loops that poll.
pub(crate) fn pause(time: Duration) {
    wait_until(after(time));
}

//! Requests that wait for the result of an event.
//!
//! They are woken by notices that name their event, and look again now and then: a hint may be missed, and with an engine
//! that several nodes share another node may have done the work.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;
use parking_lot::RwLock;
use tidegate_core::{
    clock::Timestamp,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    names::GroupName,
    notice::{Listener, Notice, Notices},
    service::StopPhase,
};
use tokio::sync::Notify;

use crate::{
    api::Api,
    result::{Found, Look},
};

/// Longest time without a look.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The same while other nodes may do the work too.
const LOOK_EVERY_SHARED: Duration = Duration::from_millis(500);
/// The same while the node stops: what is not finished then is told by no notice.
const LOOK_EVERY_DRAINING: Duration = Duration::from_millis(100);

/// When one that found no place may come again.
const AGAIN: Duration = Duration::from_secs(1);

/// All who wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    count: AtomicUsize,
    /// By the id of their event.
    all: RwLock<HashMap<ByteString, Vec<Arc<Waiter>>>>,
}

#[derive(Debug)]
struct Waiter {
    group: GroupName,
    woken: Notify,
}

impl Waiters {
    pub(crate) fn listening(notices: &Notices) -> Arc<Self> {
        let waiters = Arc::new(Self::default());
        notices.listen(Arc::<Self>::clone(&waiters));
        waiters
    }

    /// Returns how many wait.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Gives a place to one more; refuses when there are too many.
    pub(crate) fn seat(self: &Arc<Self>) -> Result<Seat> {
        let seat = Seat { waiters: Arc::clone(self), taken: None };
        if self.count.fetch_add(1, Ordering::Relaxed) >= limits::WAITERS_MAX {
            let note = format!("{} requests wait for results already, the most that may", limits::WAITERS_MAX);
            return Err(Fault::new(FaultKind::Unavailable, Origin::Tidegate, Retry::After(AGAIN), note));
        }
        Ok(seat)
    }

    fn wake(&self, group: &GroupName, event: &ByteString) {
        if let Some(waiters) = self.all.read().get(event) {
            waiters.iter().filter(|waiter| waiter.group == *group).for_each(|waiter| waiter.woken.notify_one());
        }
    }

    /// Wakes all of a group: something ended that has no name.
    fn wake_all(&self, group: Option<&GroupName>) {
        for waiter in self.all.read().values().flatten() {
            if group.is_none_or(|group| waiter.group == *group) {
                waiter.woken.notify_one();
            }
        }
    }
}

impl Listener for Waiters {
    #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else happens brings no event to its end")]
    fn notice(&self, notice: &Notice) {
        // This is the path of a message: while nobody waits it costs one load.
        if self.count() == 0 {
            return;
        }
        match notice {
            Notice::ResultKept { group, event, .. } | Notice::DeadLettered { group, event, .. } => {
                self.wake(group, event)
            }
            Notice::Settled { group, outcome: "skipped", .. } => self.wake_all(Some(group)),
            Notice::Claimed { group, duplicates, expired, .. } if duplicates + expired > 0 => {
                self.wake_all(Some(group))
            }
            Notice::Shed { .. } => self.wake_all(None),
            _ => {}
        }
    }
}

/// A place among those who wait; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    waiters: Arc<Waiters>,
    taken: Option<(ByteString, Arc<Waiter>)>,
}

impl Seat {
    /// Says what is waited for.
    fn take(&mut self, found: &Found) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter { group: found.keeper.group.clone(), woken: Notify::new() });
        self.leave();
        self.waiters.all.write().entry(found.id.clone()).or_default().push(Arc::clone(&waiter));
        self.taken = Some((found.id.clone(), Arc::clone(&waiter)));
        waiter
    }

    fn leave(&mut self) {
        let Some((event, waiter)) = self.taken.take() else { return };
        let mut all = self.waiters.all.write();
        if let Some(waiters) = all.get_mut(&event) {
            waiters.retain(|other| !Arc::ptr_eq(other, &waiter));
            if waiters.is_empty() {
                all.remove(&event);
            }
        }
    }

    /// Waits for the result until a time; returns the last look.
    pub(crate) async fn wait(&mut self, api: &Api, found: &mut Found, until: Timestamp) -> Result<Look> {
        let waiter = self.take(found);
        let every = if api.store.promises().shared { LOOK_EVERY_SHARED } else { LOOK_EVERY };
        loop {
            let phase = api.cx.stop.phase();
            let look = found.look(api).await?;
            let Look::Open { state, .. } = &look else { return Ok(look) };
            // While the node stops, only what is being worked on still comes to an end.
            let is_in_vain = match phase {
                StopPhase::Running => false,
                StopPhase::Draining => *state != "in_flight",
                StopPhase::Aborted => true,
            };
            let now = api.cx.clock.now();
            if now >= until || is_in_vain {
                return Ok(look);
            }
            let every = if phase == StopPhase::Running { every } else { LOOK_EVERY_DRAINING };
            tokio::select! {
                () = waiter.woken.notified() => {}
                () = api.cx.clock.sleep_until(until.min(now.plus(every))) => {}
                () = api.cx.stop.draining(), if phase == StopPhase::Running => {}
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
        self.waiters.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::names::StreamName;
    use tidegate_engine::Keeper;

    use super::*;

    fn found(group: &str, id: &str) -> Found {
        let stream = |name: &str| StreamName::new(name).unwrap();
        let (group, keep) = (GroupName::new(group).unwrap(), Duration::from_secs(1));
        let keeper = Keeper { group, stream: stream("s"), results: stream("r"), keep };
        Found { keeper, id: id.to_owned().into(), source: None, position: None }
    }

    #[test]
    fn there_are_so_many_places() {
        let waiters = Arc::new(Waiters::default());
        let mut seats: Vec<Seat> = (0..limits::WAITERS_MAX).map(|_| waiters.seat().unwrap()).collect();
        let fault = waiters.seat().unwrap_err();
        assert_eq!((fault.kind, fault.retry), (FaultKind::Unavailable, Retry::After(AGAIN)));
        seats.pop();
        assert_eq!(waiters.count(), limits::WAITERS_MAX - 1);
        seats.push(waiters.seat().unwrap());
        drop(seats);
        assert_eq!(waiters.count(), 0);
    }

    #[tokio::test]
    async fn notices_wake_those_whom_they_name() {
        let notices = Notices::default();
        let waiters = Waiters::listening(&notices);
        let wakes = |notice: &Notice| {
            let asks = [found("g", "a"), found("g", "b"), found("h", "a")];
            let mut seats: Vec<Seat> = asks.iter().map(|_| waiters.seat().unwrap()).collect();
            let places: Vec<_> = seats.iter_mut().zip(&asks).map(|(seat, ask)| seat.take(ask)).collect();
            notices.emit(notice);
            let woken = |place: &Arc<Waiter>| futures::FutureExt::now_or_never(place.woken.notified()).is_some();
            places.iter().map(woken).collect::<Vec<bool>>()
        };
        let (group, event) = (GroupName::new("g").unwrap(), ByteString::from_static("a"));
        let position = tidegate_core::delivery::Position::START;
        let kept = Notice::ResultKept { group: group.clone(), event, position };
        assert_eq!(wakes(&kept), [true, false, false]);
        let expired = Notice::Claimed { group: group.clone(), count: 0, duplicates: 0, expired: 1 };
        assert_eq!(wakes(&expired), [true, true, false]);
        let skipped = Notice::Settled { group: group.clone(), outcome: "skipped", count: 1 };
        assert_eq!(wakes(&skipped), [true, true, false]);
        assert_eq!(wakes(&Notice::Settled { group, outcome: "done", count: 1 }), [false; 3]);
        assert_eq!(wakes(&Notice::Shed { stream: StreamName::new("s").unwrap(), count: 1 }), [true; 3]);
        assert!(waiters.all.read().is_empty(), "nobody is remembered who has gone");
    }
}

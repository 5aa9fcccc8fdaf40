//! Bounds how many calls to a target run at a time; the bound can be changed while calls run.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Places for calls. Waiters are served in the order in which they came.
#[derive(Debug)]
pub(super) struct Bulkhead {
    places: Semaphore,
    size: Mutex<Size>,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Size {
    limit: usize,
    /// Places that were taken away while calls held them; each is swallowed when its call ends.
    debt: usize,
}

/// A place held by one call; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Bulkhead);

/// Counts of a bulkhead.
pub(super) struct Occupancy {
    pub(super) limit: usize,
    pub(super) in_use: usize,
    pub(super) waiting: usize,
}

impl Bulkhead {
    pub(super) fn new(limit: usize) -> Self {
        let limit = clamp(limit);
        Self { places: Semaphore::new(limit), size: Mutex::new(Size { limit, debt: 0 }), waiting: AtomicUsize::new(0) }
    }

    /// Takes a place that is free.
    pub(super) fn try_enter(&self) -> Option<Place<'_>> {
        self.places.try_acquire().ok()?.forget();
        Some(Place(self))
    }

    /// Waits for a place.
    pub(super) async fn enter(&self) -> Place<'_> {
        let _waiting = Waiting::new(&self.waiting);
        let permit = self.places.acquire().await.expect("the semaphore is never closed");
        permit.forget();
        Place(self)
    }

    /// Changes the number of places; calls that hold one too many keep it until they end.
    pub(super) fn resize(&self, limit: usize) {
        let limit = clamp(limit);
        let mut size = self.size.lock();
        if limit >= size.limit {
            let grown = limit - size.limit;
            let paid = grown.min(size.debt);
            size.debt -= paid;
            self.places.add_permits(grown - paid);
        } else {
            let shrunk = size.limit - limit;
            size.debt += shrunk - self.places.forget_permits(shrunk);
        }
        size.limit = limit;
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        let size = self.size.lock();
        Occupancy {
            limit: size.limit,
            in_use: (size.limit + size.debt).saturating_sub(self.places.available_permits()),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}

/// A target that may not be called at all is tripped, not limited to nothing.
fn clamp(limit: usize) -> usize {
    limit.clamp(1, Semaphore::MAX_PERMITS)
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut size = self.0.size.lock();
        if size.debt > 0 {
            size.debt -= 1;
        } else {
            self.0.places.add_permits(1);
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells what a future gives without waiting.
    async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
        tokio::select! { biased; out = future => Some(out), () = std::future::ready(()) => None }
    }

    #[tokio::test]
    async fn shrinking_waits_for_running_calls_and_growing_pays_the_debt_first() {
        let bulkhead = Bulkhead::new(3);
        let first = bulkhead.enter().await;
        let second = bulkhead.enter().await;
        let third = bulkhead.enter().await;
        bulkhead.resize(1);
        assert_eq!((bulkhead.occupancy().limit, bulkhead.occupancy().in_use), (1, 3));
        drop(first);
        assert!(poll_once(bulkhead.enter()).await.is_none(), "two still run, one is allowed");
        bulkhead.resize(2);
        assert!(poll_once(bulkhead.enter()).await.is_none(), "two run, two are allowed");
        drop(second);
        let fourth = poll_once(bulkhead.enter()).await.expect("one runs, two are allowed");
        assert_eq!(bulkhead.occupancy().in_use, 2);
        drop((third, fourth));
        assert_eq!((bulkhead.occupancy().in_use, bulkhead.occupancy().waiting), (0, 0));
    }
}

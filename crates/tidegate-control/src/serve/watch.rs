//! Time limits of the connections of one listener, without a timer and without reading a clock per request.
//!
//! Each connection has a [`Stint`]: what it is doing, and the tick at which it has done so for too long. One sweep
//! per tick looks at all stints and wakes the connections that are over; those see it themselves and end what is due.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::ServeLimits;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing, or writing an answer.
    Idle = 0,
    /// Reading the head of a request.
    Head = 1,
    /// Working on a request.
    Busy = 2,
    /// Writing an answer that goes on; each piece that the client takes starts its time anew.
    Stream = 3,
}

/// What all connections of a listener share.
#[derive(Debug)]
pub(super) struct Watch {
    tick_length: Duration,
    ticks: [u64; 3],
    now: AtomicU64,
    draining: AtomicBool,
    stints: Mutex<Vec<Weak<Stint>>>,
}

/// What one connection is doing, and until when it may.
#[derive(Debug)]
pub(super) struct Stint {
    watch: Arc<Watch>,
    phase: AtomicU8,
    over_at: AtomicU64,
    pub(super) waker: AtomicWaker,
}

impl Watch {
    pub(super) fn new(limits: &ServeLimits) -> Self {
        let shortest = limits.head.min(limits.request).min(limits.idle);
        let tick_length = (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let ticks = |time: Duration| {
            // One more, because the tick that is running has begun some time ago.
            u64::try_from(time.as_millis().div_ceil(tick_length.as_millis())).unwrap_or(u64::MAX / 2) + 1
        };
        Self {
            tick_length,
            ticks: [ticks(limits.idle), ticks(limits.head), ticks(limits.request)],
            now: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            stints: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn tick_length(&self) -> Duration {
        self.tick_length
    }

    /// Moves the time on and wakes the connections that are over.
    pub(super) fn tick(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.sweep(|stint| stint.over_at.load(Ordering::Relaxed) <= now);
    }

    /// Tells every connection to end after the request that it works on.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.sweep(|_| true);
    }

    fn sweep(&self, wake: impl Fn(&Stint) -> bool) {
        self.stints.lock().retain(|stint| {
            let Some(stint) = stint.upgrade() else { return false };
            if wake(&stint) {
                stint.waker.wake();
            }
            true
        });
    }
}

impl Stint {
    /// A new connection: the head of its first request is due.
    pub(super) fn new(watch: Arc<Watch>) -> Arc<Self> {
        let stint = Arc::new(Self {
            phase: AtomicU8::new(Phase::Idle as u8),
            over_at: AtomicU64::new(u64::MAX),
            waker: AtomicWaker::new(),
            watch,
        });
        stint.enter(Phase::Head);
        stint.watch.stints.lock().push(Arc::downgrade(&stint));
        stint
    }

    /// Starts a phase and its time.
    pub(super) fn enter(&self, phase: Phase) {
        let allowed = match phase {
            Phase::Idle | Phase::Stream => self.watch.ticks[0],
            Phase::Head => self.watch.ticks[1],
            Phase::Busy => self.watch.ticks[2],
        };
        self.over_at.store(self.watch.now.load(Ordering::Relaxed) + allowed, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    /// Tells whether the phase has lasted too long.
    pub(super) fn is_over(&self) -> bool {
        self.over_at.load(Ordering::Relaxed) <= self.watch.now.load(Ordering::Relaxed)
    }

    /// Tells whether the listener drains.
    pub(super) fn is_draining(&self) -> bool {
        self.watch.draining.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Arc<Watch> {
        let limits = ServeLimits {
            connections: 1,
            head: Duration::from_millis(400),
            request: Duration::from_millis(800),
            idle: Duration::from_millis(1600),
        };
        Arc::new(Watch::new(&limits))
    }

    #[test]
    fn phases_last_at_least_their_time_and_little_more() {
        for (phase, ticks) in [(Phase::Head, 4), (Phase::Busy, 8), (Phase::Idle, 16)] {
            let watch = watch();
            let stint = Stint::new(Arc::clone(&watch));
            watch.tick();
            stint.enter(phase);
            for tick in 0..ticks {
                watch.tick();
                assert!(!stint.is_over(), "{phase:?} was over after {tick} ticks");
            }
            watch.tick();
            assert!(stint.is_over(), "{phase:?} was never over");
        }
    }

    #[test]
    fn ended_connections_are_forgotten() {
        let watch = watch();
        let (kept, gone) = (Stint::new(Arc::clone(&watch)), Stint::new(Arc::clone(&watch)));
        drop(gone);
        watch.tick();
        assert_eq!(watch.stints.lock().len(), 1);
        drop(kept);
    }
}

//! Anything that runs until it is told to stop, and the two phases of stopping.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{clock::Clock, fault::Result, notice::Notices};

/// How far stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopPhase {
    /// Not at all.
    Running,
    /// Take no new work, finish what is held.
    Draining,
    /// Drop it now; leases run out and the work comes back.
    Aborted,
}

/// The listening end of a stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop {
    own: watch::Receiver<StopPhase>,
    /// What it is a part of.
    whole: Option<Arc<Self>>,
}

/// The end that stops.
#[derive(Debug)]
pub struct Stopper(watch::Sender<StopPhase>);

/// Makes both ends.
pub fn stop() -> (Stopper, Stop) {
    let (send, own) = watch::channel(StopPhase::Running);
    (Stopper(send), Stop { own, whole: None })
}

impl Stopper {
    /// Starts draining; does nothing when it is aborted already.
    pub fn drain(&self) {
        self.0.send_modify(|phase| *phase = (*phase).max(StopPhase::Draining));
    }

    /// Aborts.
    pub fn abort(&self) {
        self.0.send_modify(|phase| *phase = StopPhase::Aborted);
    }
}

impl Stop {
    /// Makes a stop for a part: it comes with this one, or before.
    pub fn part(&self) -> (Stopper, Self) {
        let (stopper, part) = stop();
        (stopper, Self { whole: Some(Arc::new(self.clone())), ..part })
    }

    /// Returns how far it has come.
    pub fn phase(&self) -> StopPhase {
        let own = *self.own.borrow();
        self.whole.as_ref().map_or(own, |whole| own.max(whole.phase()))
    }

    /// Waits until new work is no longer wanted.
    pub async fn draining(&self) {
        self.reached(StopPhase::Draining).await;
    }

    /// Waits until held work is no longer wanted either.
    pub async fn aborted(&self) {
        self.reached(StopPhase::Aborted).await;
    }

    async fn reached(&self, phase: StopPhase) {
        let mut own = self.own.clone();
        // A dropped stopper means that nobody can stop gently any more: that is an abort.
        let own = async { drop(own.wait_for(|now| *now >= phase).await) };
        match &self.whole {
            None => own.await,
            Some(whole) => tokio::select! {
                () = own => {}
                () = Box::pin(whole.reached(phase)) => {}
            },
        }
    }
}

/// What every service is given.
#[derive(Debug, Clone)]
pub struct Context {
    /// Time.
    pub clock: Clock,
    /// When to stop.
    pub stop: Stop,
    /// Where to tell what happens.
    pub notices: Notices,
}

/// Anything that runs until it is told to stop. An error means that it crashed: it is started again after a wait.
#[async_trait]
pub trait Service: Send + Sync {
    /// Name for logs and health.
    fn name(&self) -> String;

    /// Runs until `cx.stop` drains and the held work is finished, or it aborts.
    async fn run(&self, cx: Context) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_has_two_phases_and_never_goes_back() {
        let (stopper, stop) = stop();
        assert_eq!(stop.phase(), StopPhase::Running);
        stopper.drain();
        stop.draining().await;
        assert_eq!(stop.phase(), StopPhase::Draining);
        stopper.abort();
        stop.aborted().await;
        stopper.drain();
        assert_eq!(stop.phase(), StopPhase::Aborted);
    }

    #[tokio::test]
    async fn a_part_stops_with_the_whole_or_before() {
        let (whole, stop) = stop();
        let (first, early) = stop.part();
        let (_second, late) = stop.part();
        first.drain();
        early.draining().await;
        assert_eq!((stop.phase(), late.phase()), (StopPhase::Running, StopPhase::Running));
        whole.abort();
        for part in [early, late] {
            part.aborted().await;
            assert_eq!(part.phase(), StopPhase::Aborted);
        }
    }

    #[tokio::test]
    async fn a_lost_stopper_is_an_abort() {
        let (stopper, stop) = stop();
        drop(stopper);
        stop.aborted().await;
    }
}

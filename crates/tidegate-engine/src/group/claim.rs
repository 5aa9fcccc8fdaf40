//! The claim loop: asks the store for as many deliveries as there are free workers, while nothing forbids it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidegate_core::{
    clock::Timestamp,
    decide::{Tally, triage},
    delivery::{Delivery, Settled},
    fault::Result,
    guard::Gate,
    limits,
    notice::Notice,
    service::{Context, Service, StopPhase},
    store::Claimed,
};

use super::{Group, settle::Verdict};
use crate::supervisor::Pulse;

/// Longest time without a look, whatever the hints say: hints are hints.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The same for an engine that cannot wake us.
const LOOK_EVERY_UNWOKEN: Duration = Duration::from_millis(100);
/// Longest time between two signs of life; the longest wait of the supervisor after a crash included.
pub(super) const PULSE_EVERY: Duration = Duration::from_secs(60);

/// Claims for the workers of a group.
pub(super) struct Claimer {
    pub(super) group: Arc<Group>,
    pub(super) pulse: Pulse,
}

/// What the group may do now.
enum Room {
    /// Claim for so many batches.
    Batches(usize),
    /// Claim a single delivery, to see whether the target is back.
    Probe,
    /// Claim nothing before this time, unless something changes.
    Wait(Timestamp),
    /// Claim nothing any more.
    Stop,
}

#[async_trait]
impl Service for Claimer {
    fn name(&self) -> String {
        format!("group/{}/claim", self.group.name)
    }

    async fn run(&self, _cx: Context) -> Result<()> {
        let mut desired = self.group.desired.subscribe();
        let mut gate = self.group.guard.as_ref().map(|guard| guard.changes());
        let mut idle = Idle::default();
        loop {
            self.pulse.beat();
            // What changes from here on is seen by the waits below.
            desired.mark_unchanged();
            if let Some(gate) = &mut gate {
                gate.mark_unchanged();
            }
            match self.group.room() {
                Room::Stop => break,
                Room::Batches(free) => self.claim(free, free.saturating_mul(self.group.batch_max), &mut idle).await?,
                Room::Probe => self.claim(1, 1, &mut idle).await?,
                Room::Wait(until) => {
                    let gate_changed = async {
                        match &mut gate {
                            Some(gate) => drop(gate.changed().await),
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = self.group.freed.notified() => {}
                        _ = desired.changed() => {}
                        () = gate_changed => {}
                        () = self.group.cx.stop.draining() => {}
                        () = self.group.cx.clock.sleep_until(until) => {}
                    }
                }
            }
        }
        self.group.ready.close();
        Ok(())
    }
}

impl Group {
    /// Says what the group may do now.
    fn room(&self) -> Room {
        let now = self.cx.clock.now();
        let later = now.plus(LOOK_EVERY);
        if self.cx.stop.phase() != StopPhase::Running {
            return Room::Stop;
        }
        let (workers, paced) = {
            let desired = self.desired.borrow();
            if desired.holds_back() {
                return Room::Wait(later);
            }
            (desired.workers, desired.pace.as_ref().map(|pace| self.pacer.room(pace.rate, now)))
        };
        let busy = self.busy();
        let gate = self.gate();
        match gate {
            Gate::Disabled => return Room::Wait(later),
            Gate::ClosedUntil(until) => return Room::Wait(until.min(later)),
            // What was on its way when the gate closed ends first: only then is the next one surely the probe.
            Gate::Probe if busy > 0 => return Room::Wait(later),
            Gate::Probe => return Room::Probe,
            Gate::Open => {}
        }
        let unsettled_max = (2 * workers.saturating_mul(self.batch_max)).max(UNSETTLED_MIN);
        match workers.saturating_sub(busy) {
            0 => Room::Wait(later),
            // The store is behind: more effects without a settlement would only be more that is repeated after a crash.
            _ if self.settles.pending() >= unsettled_max => Room::Wait(later),
            free => match paced {
                None => Room::Batches(free),
                Some((0, at)) => Room::Wait(at.min(later)),
                // One at a time: a batch may hold more than the pace allows.
                Some(_) => Room::Probe,
            },
        }
    }
}

/// Settlements that may always be on their way, however few the workers.
const UNSETTLED_MIN: usize = 64;

/// Waiting for work. A hint may be wrong: when the store says at once and again and again that there is work and there
/// is none, the next look comes later, so that a wrong hint costs little and a right one no time.
#[derive(Debug, Default)]
pub(super) struct Idle {
    in_vain: u32,
}

/// A wait that is shorter was none.
const WAITED: Duration = Duration::from_millis(1);
/// Looks in vain, each right after the other, before the next is put off.
const IN_VAIN_FREE: u32 = 3;
/// Longest time by which a look is put off; the first is a millisecond, and each further one doubles it.
const PUT_OFF_MAX: Duration = Duration::from_millis(100);

impl Idle {
    pub(super) fn found(&mut self) {
        self.in_vain = 0;
    }

    /// Waits until there may be work, at the latest at `until`.
    pub(super) async fn wait(&mut self, group: &Group, until: Timestamp) {
        if let Some(doublings) = self.in_vain.checked_sub(IN_VAIN_FREE) {
            let pause = WAITED.saturating_mul(2_u32.saturating_pow(doublings)).min(PUT_OFF_MAX);
            group.cx.clock.sleep(pause).await;
        }
        let watch = group.cx.clock.stopwatch();
        group.store.wait(&group.name, until).await;
        self.in_vain = if watch.elapsed() < WAITED { self.in_vain.saturating_add(1) } else { 0 };
    }
}

impl Claimer {
    /// Claims once; waits for work when there is none.
    async fn claim(&self, batches: usize, max: usize, idle: &mut Idle) -> Result<()> {
        let group = &*self.group;
        let claiming = group.flight.claiming();
        // The stop is looked at after the claim is counted: a stop that counts nothing held can trust that.
        if group.cx.stop.phase() != StopPhase::Running {
            return Ok(());
        }
        let now = group.cx.clock.now();
        let mut claimed = group.store.claim(&group.ask(max.min(limits::CLAIM_MAX))).await?;
        group.tell_claimed(&claimed);
        let newest = claimed.deliveries.last().map(|delivery| delivery.position);
        group.paced(claimed.deliveries.len(), newest, newest.is_none() && claimed.next_due.is_none()).await?;
        if !claimed.deliveries.is_empty() {
            let lease_until = now.plus(group.policy.lease);
            let deliveries = std::mem::take(&mut claimed.deliveries);
            idle.found();
            self.dispatch(deliveries, batches, lease_until);
            return Ok(());
        }
        drop(claiming);
        group.note_due(claimed.next_due);
        let every = if group.wakes { LOOK_EVERY } else { LOOK_EVERY_UNWOKEN };
        let look = group.cx.clock.now().plus(every);
        let until = claimed.next_due.map_or(look, |due| due.min(look));
        tokio::select! {
            () = idle.wait(group, until) => {}
            () = group.cx.stop.draining() => {}
        }
        Ok(())
    }

    /// Hands deliveries to the workers in batches.
    fn dispatch(&self, deliveries: Vec<Delivery>, batches: usize, lease_until: Timestamp) {
        let group = &*self.group;
        let now = group.cx.clock.now();
        if deliveries.iter().all(|delivery| delivery.crashes == 0 && delivery.attempt == 1) {
            return self.hand_out(deliveries, batches, lease_until);
        }
        let mut sound = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let tally = Tally { attempt: delivery.attempt, crashes: delivery.crashes };
            if let Some(settlement) = triage(tally, &group.policy.retry, &group.config) {
                let settled = Settled { token: delivery.lease.token, settlement, attempt: None };
                let batch = group.flight.hold(vec![delivery], now, lease_until);
                group.settles.push(Verdict { batch, settled: vec![settled] });
            } else if delivery.crashes > 0 {
                // What broke a handler before is tried alone, so that the next crash can be its own only.
                group.seat(group.flight.hold(vec![delivery], now, lease_until));
            } else {
                sound.push(delivery);
            }
        }
        self.hand_out(sound, batches, lease_until);
    }

    fn hand_out(&self, deliveries: Vec<Delivery>, batches: usize, lease_until: Timestamp) {
        let group = &*self.group;
        let now = group.cx.clock.now();
        debug_assert!(deliveries.len() <= batches.saturating_mul(group.batch_max), "never more than there is room for");
        let mut deliveries = deliveries.into_iter();
        while let count @ 1.. = group.first_batch(deliveries.as_slice()) {
            let batch = deliveries.by_ref().take(count).collect();
            group.seat(group.flight.hold(batch, now, lease_until));
        }
    }
}

impl Group {
    /// Says how many from the front are one batch: as many as the handler takes at a time, of those that are given the
    /// same time.
    fn first_batch(&self, deliveries: &[Delivery]) -> usize {
        let most = self.batch_max.min(deliveries.len());
        let within = |delivery: &Delivery| self.policy.bound(&delivery.event);
        match most {
            0 | 1 => most,
            _ => deliveries
                .iter()
                .take(most)
                .take_while(|one| Some(within(one)) == deliveries.first().map(within))
                .count(),
        }
    }

    pub(super) fn tell_claimed(&self, claimed: &Claimed) {
        let count = claimed.deliveries.len() as u64;
        let (duplicates, expired) = (u64::from(claimed.duplicates), u64::from(claimed.expired));
        if count + duplicates + expired > 0 {
            self.cx.notices.emit(&Notice::Claimed { group: self.name.clone(), count, duplicates, expired });
        }
        self.tell_lost(u64::from(claimed.leases_lost));
    }

    pub(super) fn tell_lost(&self, count: u64) {
        if count > 0 {
            self.cx.notices.emit(&Notice::LeaseLost { group: self.name.clone(), count });
        }
    }
}

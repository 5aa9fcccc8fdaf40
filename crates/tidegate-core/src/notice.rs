//! Everything worth knowing, as one closed enum. Logs, metrics, alerts, audit and tests all listen to the same notices.

use std::{fmt, sync::Arc, time::Duration};

use bytestring::ByteString;
use parking_lot::RwLock;
use serde_json::Value;

use crate::{
    clock::Timestamp,
    config::Time,
    delivery::Position,
    fault::FaultClass,
    names::{GroupName, ModuleName, StreamName, TargetName},
};

macro_rules! notices {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal { $($(#[$field_doc:meta])* $field:ident: $ty:ty),* $(,)? })+) => {
        /// Something worth knowing.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Notice {
            $($(#[doc = $doc])+ #[allow(missing_docs, reason = "the fields are named by the words of the glossary")] $name { $($(#[$field_doc])* $field: $ty),* },)+
        }

        impl Notice {
            /// Returns the stable name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name { .. } => $word,)+ }
            }

            /// Returns its fields by name, for JSON.
            pub fn fields(&self) -> Vec<(&'static str, Value)> {
                match self { $(Self::$name { $($field),* } => vec![$((stringify!($field), $field.told())),*],)+ }
            }

            /// Names, meanings and fields of all notices, for the generated page.
            pub const ALL: &'static [(&'static str, &'static str, &'static [&'static str])] = &[
                $(($word, concat!($($doc, " "),+), &[$(stringify!($field)),*]),)+
            ];
        }
    };
}

notices! {
    /// A listener is open.
    ListenerBound = "listener.bound" { address: String }
    /// The node takes work.
    NodeReady = "node.ready" { took: Duration }
    /// The node takes no new work and finishes what it holds.
    NodeDraining = "node.draining" { grace: Duration }
    /// The node has stopped; `clean` when nothing had to be aborted.
    NodeStopped = "node.stopped" { clean: bool, still_running: u64 }
    /// A part of the node ended in error and is started again after a wait.
    ServiceRestarted = "service.restarted" { service: String, fault: String, after: Duration }
    /// Events were accepted by a stream.
    Accepted = "message.accepted" { stream: StreamName, count: u64, duplicates: u64 }
    /// A publish was refused.
    Refused = "message.refused" { stream: StreamName, reason: String }
    /// The oldest events of a full stream made room for new ones; each is counted as dropped.
    Shed = "message.shed" { stream: StreamName, count: u64 }
    /// The backlog of a stream has reached a part of what it may hold.
    BacklogHigh = "stream.backlog_high" { stream: StreamName, group: Option<GroupName>, percent: u64, backlog: u64, most: u64 }
    /// The backlog of a stream has fallen again.
    BacklogEased = "stream.backlog_eased" { stream: StreamName, backlog: u64, most: u64 }
    /// Events stay beyond the bounds of retention, because a group has not looked at them.
    RetentionHeld = "stream.retention_held" { stream: StreamName, group: Option<GroupName>, events: u64 }
    /// No events are taken from sources that can refuse.
    IntakePaused = "intake.paused" { by: String, reason: String, until: Option<Timestamp> }
    /// Events are taken again.
    IntakeResumed = "intake.resumed" { by: String }
    /// A group was removed; it no longer holds back retention.
    GroupRemoved = "group.removed" { group: GroupName, by: String, reason: String }
    /// Deliveries were lent; duplicates and expired ones were settled on the way.
    Claimed = "group.claimed" { group: GroupName, count: u64, duplicates: u64, expired: u64 }
    /// A handler started on a delivery.
    AttemptStarted = "attempt.started" { group: GroupName, event: ByteString, position: Position, attempt: u32, waited: Duration }
    /// A handler ended well.
    AttemptDone = "attempt.done" { group: GroupName, event: ByteString, position: Position, attempt: u32, took: Duration }
    /// A handler ended badly.
    AttemptFailed = "attempt.failed" { group: GroupName, event: ByteString, position: Position, attempt: u32, took: Duration, class: FaultClass, message: String, retry_at: Option<Timestamp> }
    /// A handler was interrupted; the attempt is not spent.
    AttemptInterrupted = "attempt.interrupted" { group: GroupName, event: ByteString, position: Position, attempt: u32 }
    /// Deliveries were settled and it is durable.
    Settled = "group.settled" { group: GroupName, outcome: &'static str, count: u64 }
    /// A delivery was done and its result is kept.
    ResultKept = "result.kept" { group: GroupName, event: ByteString, position: Position }
    /// A lease ran out or a settle came too late; the delivery is or was lent again.
    LeaseLost = "lease.lost" { group: GroupName, count: u64 }
    /// A delivery was buried in the dead letters.
    DeadLettered = "dlq.message_parked" { stream: StreamName, group: GroupName, event: ByteString, class: FaultClass, message: String, attempts: u32 }
    /// A delivery that waited for other events was let go, or buried, by hand.
    Unblocked = "group.unblocked" { group: GroupName, event: ByteString, position: Position, rejected: bool, by: String, reason: String }
    /// Dead letters changed their state by an operator's action.
    DeadMoved = "dlq.moved" { stream: StreamName, action: &'static str, count: u64, by: String, reason: String }
    /// What became of dead letters that somebody asked to reprocess.
    DeadReprocessed = "dlq.reprocessed" { stream: StreamName, result: &'static str, count: u64 }
    /// A job on dead letters goes on at this node; the one that drove it is gone.
    DeskJobTakenOver = "dlq.job_taken_over" { job: String, stream: StreamName, from: String }
    /// A job on dead letters ended.
    DeskJobEnded = "dlq.job_ended" { job: String, stream: StreamName, state: &'static str, moved: u64, failed: u64, why: String }
    /// A group was paused.
    GroupPaused = "group.paused" { group: GroupName, by: String, reason: String, until: Option<Timestamp> }
    /// A group was resumed.
    GroupResumed = "group.resumed" { group: GroupName, by: String }
    /// The number of workers of a group changed.
    GroupScaled = "group.scaled" { group: GroupName, workers: u64, by: String }
    /// A group was moved to another place in its stream.
    GroupSought = "group.sought" { group: GroupName, from: Position, to: Position, by: String, reason: String }
    /// A side group was started: it handles a range of its stream once more.
    ReplayStarted = "group.replay_started" { group: GroupName, of: GroupName, with: GroupName, from: Position, before: Position, by: String, reason: String }
    /// A side group has handled all of its range.
    ReplayEnded = "group.replay_ended" { group: GroupName, of: GroupName, done: u64, duplicates: u64, skipped: u64, dead: u64, expired: u64, dropped: u64 }
    /// A group finishes what is there and pauses then.
    GroupDraining = "group.draining" { group: GroupName, by: String, reason: String, until: Timestamp }
    /// A group finished what was there, or its time for that is over, and is paused.
    GroupDrained = "group.drained" { group: GroupName, left: u64, by: String }
    /// A target's breaker opened: groups stop claiming for it.
    BreakerOpened = "breaker.opened" { target: TargetName, class: FaultClass, message: String, until: Timestamp }
    /// A target's breaker lets one call through to see.
    BreakerProbing = "breaker.probing" { target: TargetName }
    /// A target's breaker closed.
    BreakerClosed = "breaker.closed" { target: TargetName, open_for: Duration }
    /// A target said that it wants nothing any more; it stays disabled until somebody resets it.
    TargetDisabled = "target.disabled" { target: TargetName, message: String }
    /// The limits of a target changed by hand; the rate is that of all nodes together.
    TargetLimited = "target.limited" { target: TargetName, concurrency: u64, rate: String }
    /// A call to a target ended.
    TargetCalled = "target.called" { target: TargetName, result: &'static str, waited: Duration, took: Duration }
    /// The store opened.
    StoreOpened = "store.opened" { took: Duration, replayed: u64 }
    /// The store found damage and isolated it.
    StoreDamaged = "store.damaged" { place: String, what: String }
    /// The store refuses publishes for now.
    StoreRefusing = "store.refusing" { reason: String }
    /// The store takes publishes again.
    StoreRecovered = "store.recovered" {}
    /// The store cannot write any more until the node is started again.
    StoreFailed = "store.failed" { reason: String }
    /// A piece of input of a source is no event; `place` says where it stands.
    InputRejected = "source.rejected" { module: ModuleName, place: String, why: String }
    /// A source was paused or disabled by hand.
    SourceHalted = "source.halted" { module: ModuleName, disabled: bool, by: String, reason: String, until: Option<Timestamp> }
    /// A source runs again.
    SourceResumed = "source.resumed" { module: ModuleName, by: String }
    /// The events of a group wait long, or many of them wait.
    QueueLate = "queue.late" { group: GroupName, queue: StreamName, latency: Duration, depth: u64 }
    /// The process uses nearly all the memory that it may use.
    MemoryHigh = "memory.high" { resident: u64, threshold: u64 }
    /// The disk of the data directory is nearly full.
    DiskFilling = "disk.filling" { percent: u64, free: u64 }
    /// A part of the node changed its state of health.
    HealthChanged = "health.changed" { component: String, from: &'static str, to: &'static str, cause: String }
    /// Something of a module happened that its own documents explain.
    ModuleReported = "module.reported" { module: ModuleName, what: String }
}

/// A field of a notice as JSON.
trait Told {
    fn told(&self) -> Value;
}

macro_rules! told {
    ($($ty:ty: |$value:ident| $as:expr;)+) => {
        $(impl Told for $ty {
            fn told(&self) -> Value {
                let $value = self;
                $as.into()
            }
        })+
    };
}

told! {
    String: |text| text.as_str();
    &'static str: |text| *text;
    ByteString: |text| &**text;
    u64: |number| *number;
    u32: |number| *number;
    bool: |yes| *yes;
    Duration: |time| Time::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).to_string();
    Timestamp: |at| at.to_string();
    Option<Timestamp>: |at| at.map(|at| at.to_string());
    Position: |position| position.to_string();
    FaultClass: |class| class.as_str();
    GroupName: |name| name.as_str();
    Option<GroupName>: |name| name.as_ref().map(ToString::to_string);
    StreamName: |name| name.as_str();
    TargetName: |name| name.as_str();
    ModuleName: |name| name.as_str();
}

/// Listens to notices. Called on the path of a message: it must be quick and must not block.
pub trait Listener: Send + Sync {
    /// Takes one notice.
    fn notice(&self, notice: &Notice);
}

impl<F: Fn(&Notice) + Send + Sync> Listener for F {
    fn notice(&self, notice: &Notice) {
        self(notice);
    }
}

/// Hands notices to all listeners. Cheap to clone.
#[derive(Clone, Default)]
pub struct Notices(Arc<RwLock<Vec<Arc<dyn Listener>>>>);

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notices({} listeners)", self.0.read().len())
    }
}

impl Notices {
    /// Adds a listener for good.
    pub fn listen(&self, listener: Arc<dyn Listener>) {
        self.0.write().push(listener);
    }

    /// Hands a notice to every listener.
    pub fn emit(&self, notice: &Notice) {
        for listener in self.0.read().iter() {
            listener.notice(notice);
        }
    }

    /// Returns a stream of every notice from now on, for tests: waiting on it replaces sleeping.
    pub fn tap(&self) -> Tap {
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        self.listen(Arc::new(move |notice: &Notice| {
            // A tap that was dropped listens no more; the notice is for the others.
            drop(send.send(notice.clone()));
        }));
        Tap(receive)
    }
}

/// Every notice from the moment it was made.
#[derive(Debug)]
pub struct Tap(tokio::sync::mpsc::UnboundedReceiver<Notice>);

impl Tap {
    /// Waits for the first notice for which `wanted` is true, dropping those before.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&Notice) -> bool) -> Option<Notice> {
        loop {
            let notice = self.0.recv().await?;
            if wanted(&notice) {
                return Some(notice);
            }
        }
    }

    /// Takes all notices that are there now.
    pub fn drain(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn taps_see_what_is_emitted() {
        let notices = Notices::default();
        let mut tap = notices.tap();
        notices.emit(&Notice::StoreRecovered {});
        notices.emit(&Notice::StoreRefusing { reason: "full".into() });
        let seen = tap.wait_for(|notice| notice.name() == "store.refusing").await;
        assert_eq!(seen, Some(Notice::StoreRefusing { reason: "full".into() }));
        assert!(tap.drain().is_empty());
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Notice::ALL.iter().map(|(name, ..)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Notice::ALL.len());
    }
}

//! The seam to an engine: what stores streams, lends deliveries and remembers what is done.
//!
//! **Invariant:** no type of an engine leaks through here, and callers branch on [`Promises`], never on a name.
//! What each call means is decided by the conformance suite in `tidegate-testkit`, which every engine passes whole.

mod beside;
mod dead;

use std::{ops::Range, time::Duration};

use async_trait::async_trait;
use bytestring::ByteString;

use crate::{
    after::EventName,
    clock::Timestamp,
    dedupe::DedupeKey,
    delivery::{Delivery, LeaseToken, Position, SettleStatus, Settled},
    event::Event,
    fault::{Failure, Result},
    names::{GroupName, StreamName},
    order::OrderBy,
    seek::{Rehearsal, SeekTo, Sought},
    whereabouts::{Find, Finding, Standing, Steps},
};

pub use self::beside::Beside;
pub use self::dead::{
    DeadAction, DeadChange, DeadEntry, DeadImport, DeadKeep, DeadLetter, DeadLetters, DeadProgress, DeadQuery,
    DeadReport, DeadState, DeadStep, DeadStepStatus,
};

/// When the engine answers that an event is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Durability {
    /// After a sync to disk. Loss window: none.
    Sync,
    /// After handing it to the operating system; synced at least once per interval. Loss window on power loss: the interval.
    Interval(Duration),
    /// After handing it to the operating system. Loss window on power loss: what the system had not written, commonly 30 s.
    Os,
}

/// How long settled events stay readable. A bound that is absent does not bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Retain {
    /// Oldest age.
    pub age: Option<Duration>,
    /// Most events.
    pub count: Option<u64>,
    /// Most bytes of events.
    pub bytes: Option<u64>,
    /// Whether the bounds also remove events that a group has not settled; each is counted as dropped.
    pub drop_unsettled: bool,
}

/// Window in which a repeated publish is answered with the first position.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DedupeWindow {
    /// What makes two publishes the same.
    pub key: DedupeKey,
    /// How far back in time.
    pub window: Duration,
    /// How many events back at most.
    pub entries: u64,
}

/// A stream as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StreamSpec {
    /// Name.
    pub name: StreamName,
    /// When an append is answered.
    pub durability: Durability,
    /// What is kept after it is settled.
    pub retain: Retain,
    /// Most unsettled events of the slowest group before appends are refused.
    pub max_backlog: Option<u64>,
    /// Dedupe of publishes; none = off.
    pub dedupe: Option<DedupeWindow>,
    /// How long its dead letters are kept.
    pub dead: DeadKeep,
}

impl StreamSpec {
    /// A stream with the settings that a configuration without any would give it: `durability: sync`, settled events
    /// kept for seven days, a backlog of at most a million, repeats recognised for ten minutes.
    pub fn new(name: StreamName) -> Self {
        Self {
            name,
            durability: Durability::Sync,
            retain: Retain { age: Some(Duration::from_secs(7 * 86_400)), ..Retain::default() },
            max_backlog: Some(1_000_000),
            dedupe: Some(DedupeWindow { key: DedupeKey::IDENTITY, window: Duration::from_secs(600), entries: 100_000 }),
            dead: DeadKeep::default(),
        }
    }
}

/// Where a new group starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Start {
    /// At the oldest kept event.
    #[default]
    Earliest,
    /// After the newest event.
    Latest,
    /// At this position, which must be kept.
    At(Position),
}

/// What a failed head of an order key does to those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum OnFailure {
    /// The next of the key may run while the failed one waits for its retry.
    #[default]
    Skip,
    /// The key waits until the failed one is done or dead.
    Block,
}

/// A group as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GroupSpec {
    /// Name, unique in the node.
    pub name: GroupName,
    /// Stream it reads.
    pub stream: StreamName,
    /// Where it starts when it is new.
    pub start: Start,
    /// Events from this position on are not its business, but for those that are sent back for it from the dead letters.
    /// At most behind the newest event when it is new, and never changed; none = every event that comes.
    pub end: Option<Position>,
    /// Order key; none = no order.
    pub order_by: Option<OrderBy>,
    /// What a failed head does to its key.
    pub on_failure: OnFailure,
    /// How long the ledger remembers what is done; none = no ledger.
    pub ledger: Option<Duration>,
    /// Whether an event waits until those that its attribute [`AFTER`](crate::after::AFTER) names are done in this group.
    /// The ledger says what is done: without one, nobody waits.
    pub after: bool,
    /// Whether what may run is taken in the order of [`priority::rank`](crate::priority::rank), and how much time of waiting
    /// one step is worth; none = in the order of the stream. Within an order key the order of the stream stands.
    pub priority_step: Option<Duration>,
    /// Whether each claim is made durable before it is handed out, so that a handler that kills the process is counted.
    pub mark_claims: bool,
}

impl GroupSpec {
    /// A group from the oldest event on, without order, that remembers for seven days what it has done, and in which events
    /// wait for those that they name. `mark_claims` is on, as a handler in this process needs it.
    pub fn new(name: GroupName, stream: StreamName) -> Self {
        Self {
            name,
            stream,
            start: Start::Earliest,
            end: None,
            order_by: None,
            on_failure: OnFailure::Skip,
            ledger: Some(Duration::from_secs(7 * 86_400)),
            after: true,
            priority_step: None,
            mark_claims: true,
        }
    }
}

/// What an engine promises. Callers branch on this, never on the engine's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promises {
    /// Order per key is kept.
    pub ordered_by_key: bool,
    /// Settlement, ledger entry, dead letter and outputs are one transaction.
    pub atomic_settle: bool,
    /// Several processes may share a group.
    pub shared: bool,
    /// `wait` returns as soon as there is work.
    pub wakes: bool,
    /// State survives the end of the process.
    pub durable: bool,
    /// Events wait for others where their group says so ([`GroupSpec::after`]); otherwise `after` holds nobody back.
    pub dependencies: bool,
    /// Groups take what is more urgent first where they say so ([`GroupSpec::priority_step`]); otherwise the order of the
    /// stream stands.
    pub priorities: bool,
    /// The loss window in words, for the operator.
    pub loss_window: String,
    /// The window in which an effect may be repeated, in words.
    pub duplicate_window: String,
}

/// Answer to one appended event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Appended {
    /// Its position; of the first one when it is a duplicate.
    pub position: Position,
    /// Whether it was already accepted inside the dedupe window.
    pub duplicate: bool,
}

/// An event as it is stored.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Stored {
    /// Place in the stream.
    pub position: Position,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The event.
    pub event: Event,
}

/// A page of a longer answer.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Where the next page starts; none at the end.
    pub next: Option<Position>,
}

/// What a group asks for.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// The group.
    pub group: GroupName,
    /// Most deliveries; never more than there are free workers.
    pub max: usize,
    /// How long the lease lasts.
    pub lease: Duration,
    /// Only events before this position; none = all.
    pub before: Option<Position>,
}

/// What a group is lent, and what was settled on the way without being lent.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Claimed {
    /// The deliveries.
    pub deliveries: Vec<Delivery>,
    /// Events found in the ledger: settled as duplicates.
    pub duplicates: u32,
    /// Events past their `expirytime`: settled as expired.
    pub expired: u32,
    /// Leases that had run out; their deliveries are back in the group with one more crash.
    pub leases_lost: u32,
    /// When the next waiting delivery becomes due, when nothing is due now.
    pub next_due: Option<Timestamp>,
}

/// Counts of one stream.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StreamStatus {
    /// Name.
    pub name: StreamName,
    /// Oldest kept position; none when empty.
    pub first: Option<Position>,
    /// Newest position; none when empty.
    pub last: Option<Position>,
    /// Kept events.
    pub count: u64,
    /// Bytes of kept events.
    pub bytes: u64,
    /// Events ever accepted.
    pub accepted: u64,
    /// Publishes answered as duplicates since the start of the process.
    pub duplicates: u64,
    /// Positions lost to corruption of the store.
    pub quarantined: u64,
    /// Unsettled events of the slowest group that publishers wait for.
    pub backlog: u64,
    /// Most of them before publishes are refused.
    pub max_backlog: Option<u64>,
    /// Events beyond the bounds of retention that stay because a group has not looked at them.
    pub overdue: u64,
    /// The group that has come least far.
    pub slowest: Option<GroupName>,
    /// Groups that read it.
    pub groups: Vec<GroupName>,
}

/// Counts of one group. `accepted = done + waiting + scheduled + in_flight + dead + expired + dropped`, always.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GroupStatus {
    /// Name.
    pub name: GroupName,
    /// Stream it reads.
    pub stream: StreamName,
    /// First event that it has not looked at.
    pub next: Position,
    /// Events accepted since its start, or since the place that it was moved to.
    pub accepted: u64,
    /// Settled as done; duplicates included.
    pub done: u64,
    /// Of those, settled without an attempt because the ledger knew them or they were meant for another group.
    pub duplicates: u64,
    /// Of those done, settled without an attempt because the group's stages did not let them through.
    pub skipped: u64,
    /// May run now, or waits behind its order key or for other events to be done. One whose lease ran out is among them.
    pub waiting: u64,
    /// Of those, what waits for other events to be done.
    pub blocked: u64,
    /// Of those, not looked at yet: from `next` on.
    pub unseen: u64,
    /// Waits for a time.
    pub scheduled: u64,
    /// Lent to a worker.
    pub in_flight: u64,
    /// Buried in the dead letters, whatever became of them there.
    pub dead: u64,
    /// Dead letters that wait for somebody; imported ones included.
    pub parked: u64,
    /// Settled as expired.
    pub expired: u64,
    /// Removed by policy or lost to corruption before it was settled.
    pub dropped: u64,
    /// Age of the oldest event that may run now.
    pub oldest_waiting: Option<Duration>,
    /// Age of the oldest event that waits for others to be done.
    pub oldest_blocked: Option<Duration>,
    /// Order keys whose next delivery waits behind a busy or failed one.
    pub blocked_keys: u64,
    /// Leases lost since the start of the process: settles that came too late and leases that ran out.
    pub leases_lost: u64,
}

impl GroupStatus {
    /// Returns what is missing in the accounting; anything but zero is a fault of Tidegate.
    pub fn difference(&self) -> i64 {
        let counted =
            self.done + self.waiting + self.scheduled + self.in_flight + self.dead + self.expired + self.dropped;
        i64::try_from(self.accepted).unwrap_or(i64::MAX) - i64::try_from(counted).unwrap_or(i64::MAX)
    }
}

/// Size and cost of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct LedgerStatus {
    /// Entries remembered.
    pub entries: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
}

/// What a ledger remembers of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LedgerEntry {
    /// Position of the delivery that was done.
    pub position: Position,
    /// When it was done; of several times the last one.
    pub at: Timestamp,
}

/// A delivery that waits for other events to be done.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Blocked {
    /// The event.
    pub stored: Stored,
    /// Those of the events that it names that are not done.
    pub waits_for: Vec<EventName>,
}

/// What somebody wants of deliveries that wait for other events.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Unblock {
    /// The group.
    pub group: GroupName,
    /// Where they stand; at most [`DEAD_STEP_MAX`](crate::limits::DEAD_STEP_MAX).
    pub positions: Vec<Position>,
    /// What becomes of them.
    pub how: UnblockHow,
    /// Who wants it.
    pub by: ByteString,
    /// Why.
    pub reason: ByteString,
}

/// What becomes of deliveries that wait for other events.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum UnblockHow {
    /// They wait no longer.
    Run,
    /// Into the dead letters.
    Bury {
        /// What the dead letter says.
        failure: Failure,
        /// Fingerprint of the configuration in force.
        config: ByteString,
    },
}

/// A node that shares an engine with others.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// What it works on: a fingerprint of the parts of its configuration that nodes with one engine must have in common.
    pub work: String,
}

/// Returns the key of a piece of control state that is this node's own, and not that of all on its engine.
pub fn own_key(store: &dyn Store, key: &str) -> String {
    store.node().map_or_else(|| key.to_owned(), |node| format!("own/{node}/{key}"))
}

/// State of the engine, for health and metrics.
#[derive(Debug, Clone, Default)]
pub struct StoreStatus {
    /// Engine's name.
    pub engine: &'static str,
    /// Why nothing can be written, for good, until a restart; none when well.
    pub failed: Option<String>,
    /// Why publishes are refused for now; none when well.
    pub refusing: Option<String>,
    /// Damage found: corrupt records, cut tails; each with place and consequence.
    pub damage: Vec<String>,
    /// Bytes by what they are for.
    pub bytes: Vec<(&'static str, u64)>,
    /// Syncs done.
    pub syncs: u64,
    /// Counts of syncs up to each bound of [`SYNC_BOUNDS`] in seconds, then all above; and their total time.
    pub sync_counts: Vec<u64>,
    /// Sum of the time of all syncs.
    pub sync_time: Duration,
    /// Counters of the commit path, by name.
    pub counters: Vec<(&'static str, u64)>,
    /// When the engine last made progress or found nothing to do.
    pub progress_at: Option<Timestamp>,
}

/// Upper bounds in seconds of the histogram of sync times.
pub const SYNC_BOUNDS: [f64; 12] =
    [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];

/// Streams, groups and their deliveries.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Says what this engine promises.
    fn promises(&self) -> Promises;

    /// Creates a stream or changes its settings. Its dead-letter stream comes with it.
    async fn declare_stream(&self, spec: &StreamSpec) -> Result<()>;

    /// Creates a group or changes its settings; its stream must exist, and neither the stream nor the end can change.
    /// A group that has an end fills no backlog, and holds nothing back once it has looked at all before its end.
    async fn declare_group(&self, spec: &GroupSpec) -> Result<()>;

    /// Forgets a group, so that it no longer holds back retention.
    async fn remove_group(&self, group: &GroupName) -> Result<()>;

    /// Finds where a place lies for a group: the first kept event at or after it, or the one that comes next.
    /// [`SeekTo::Event`] is not for an engine to find.
    async fn locate(&self, group: &GroupName, place: &SeekTo) -> Result<Position>;

    /// Moves a group to a position that is kept, or behind the newest one, in one commit. Its accounting starts anew
    /// there; retries of before are forgotten. The ledger stays, but with `again` it does not hold back events that are
    /// in the stream now for what was done before now. A conflict while any delivery is in flight.
    async fn seek(&self, group: &GroupName, to: Position, again: bool) -> Result<Sought>;

    /// Counts what would become of at most `max` events of a range if the group looked at them now.
    async fn rehearse(&self, group: &GroupName, range: Range<Position>, max: usize) -> Result<Rehearsal>;

    /// Appends events, all or none; returns when they are durable as their stream promises, in input order.
    async fn append(&self, stream: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>>;

    /// Drops the oldest unsettled events that nobody works on, so that so many more fit the backlog of the stream; each
    /// is counted as dropped. Returns how many.
    async fn shed(&self, stream: &StreamName, room: u64) -> Result<u64>;

    /// Reads events from a position on.
    async fn read(&self, stream: &StreamName, from: Position, max: usize) -> Result<Page<Stored>>;

    /// Lends deliveries.
    async fn claim(&self, ask: &Claim) -> Result<Claimed>;

    /// Extends leases; false where the lease was lost.
    async fn extend(&self, tokens: &[LeaseToken], until: Timestamp) -> Result<Vec<bool>>;

    /// Tells for each position how many attempts its delivery has spent, while it is not settled; none when it is.
    async fn unsettled(&self, group: &GroupName, positions: &[Position]) -> Result<Vec<Option<u32>>>;

    /// Settles deliveries in one commit; returns when it is durable, in input order.
    async fn settle(&self, settled: Vec<Settled>) -> Result<Vec<SettleStatus>>;

    /// Lists deliveries that wait for other events, oldest first, from a position on. Those that the group has not looked
    /// at since the store was opened are not among them.
    async fn blocked(&self, group: &GroupName, from: Position, max: usize) -> Result<Page<Blocked>> {
        let _ = (group, from, max);
        Ok(Page { items: Vec::new(), next: None })
    }

    /// Lets deliveries go, or buries them, that wait for other events, in one commit; false for each that does not wait
    /// for any. Who was let go does not wait again, whatever becomes of it.
    async fn unblock(&self, ask: &Unblock) -> Result<Vec<bool>> {
        Ok(vec![false; ask.positions.len()])
    }

    /// Returns when the group may have work, at the latest at `until`. A hint: polling is the truth.
    async fn wait(&self, group: &GroupName, until: Timestamp);

    /// Returns all streams, dead-letter streams included.
    async fn streams(&self) -> Result<Vec<StreamStatus>>;

    /// Returns all groups.
    async fn groups(&self) -> Result<Vec<GroupStatus>>;

    /// Returns one group.
    async fn group(&self, group: &GroupName) -> Result<GroupStatus>;

    /// Finds an event by its id: where an index knows it, and else among the kept events, newest first.
    async fn find(&self, ask: &Find) -> Result<Finding>;

    /// Says where the event at a position stands in a group.
    async fn standing(&self, group: &GroupName, position: Position) -> Result<Standing>;

    /// Returns what was written of the event at a position, by all groups, as far as it is kept.
    async fn steps(&self, stream: &StreamName, position: Position) -> Result<Steps>;

    /// Its name among the nodes that share the engine; none where there can be only one.
    fn node(&self) -> Option<&str> {
        None
    }

    /// Keeps a small piece of control state, such as "this group is paused", durably, for all nodes of the engine.
    async fn put_state(&self, key: &str, value: Option<&[u8]>) -> Result<()>;

    /// The same in one step, if it is what it is thought to be: `was`, or nothing. False, and nothing is changed, when not.
    async fn swap_state(&self, key: &str, was: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool>;

    /// Returns the control state whose keys start with `prefix`.
    async fn states(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>>;

    /// Says what this node works on, and returns what all nodes said that share the engine and are there, this one
    /// included; nothing where there can be only one.
    async fn meet(&self, work: &str) -> Result<Vec<Peer>> {
        let _ = work;
        Ok(Vec::new())
    }

    /// Does due upkeep: retention, cleaning, checkpoints, sealing of the ledger. Idempotent.
    async fn upkeep(&self) -> Result<()>;

    /// Returns health and counters.
    fn status(&self) -> StoreStatus;

    /// Finishes what is queued, writes a checkpoint and closes. Later calls fail.
    async fn close(&self) -> Result<()>;
}

/// What a group remembers of what is done. Makes a redelivered or repeated event a no-op.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Tells for each `(source, id)` whether the group has done it.
    async fn done(&self, group: &GroupName, events: &[(ByteString, ByteString)]) -> Result<Vec<bool>>;

    /// Forgets one entry, so that the event may run again; false when there was none.
    async fn forget(&self, group: &GroupName, source: &str, id: &str) -> Result<bool>;

    /// Returns what is remembered of one event.
    async fn ledger_entry(&self, group: &GroupName, source: &str, id: &str) -> Result<Option<LedgerEntry>>;

    /// Forgets everything that was done before a time; returns how many entries that freed at once. What lies on disk
    /// beside newer entries counts no more and is freed with them.
    async fn clean_ledger(&self, group: &GroupName, before: Timestamp) -> Result<u64>;

    /// Returns size and cost.
    async fn ledger_status(&self, group: &GroupName) -> Result<LedgerStatus>;
}

/// An engine.
pub trait Store: Broker + Ledger + DeadLetters {}
impl<T: Broker + Ledger + DeadLetters> Store for T {}

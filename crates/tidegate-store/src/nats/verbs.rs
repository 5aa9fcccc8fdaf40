//! The verbs of the seam as values, for the way from a node to the one that leads, and what each means there.

use std::{future::Future, ops::Range};

use bytestring::ByteString;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tidegate_core::{
    clock::Timestamp,
    delivery::{LeaseToken, Position, SettleStatus, Settled},
    event::Event,
    fault::{Fault, FaultKind, Origin, Result, Retry, Violation},
    names::{GroupName, StreamName},
    seek::{Rehearsal, SeekTo, Sought},
    store::{
        Appended, Blocked, Broker as _, Claim, Claimed, DeadEntry, DeadImport, DeadLetter, DeadLetters as _, DeadQuery,
        DeadReport, DeadStep, DeadStepStatus, GroupSpec, GroupStatus, Ledger as _, LedgerEntry, LedgerStatus, Page,
        Stored, StreamSpec, StreamStatus, Unblock,
    },
    whereabouts::{Find, Finding, Standing, Steps},
};

use crate::embedded::Embedded;

/// A verb that the node that leads carries out.
pub(super) trait Verb: Send + Sized {
    /// What it is answered with.
    type Answer: Serialize + DeserializeOwned + Send;

    /// The verb as one of all.
    fn call(self) -> Call;

    /// Carries it out.
    fn run(self, store: &Embedded) -> impl Future<Output = Result<Self::Answer>> + Send;
}

/// Writes an answer down.
pub(super) fn written(answer: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_stdvec(answer).map_err(|error| Fault::bug(format!("a value for another node: {error}")))
}

/// Reads what another node has written.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).map_err(|error| Fault::bug(format!("a value from another node: {error}")))
}

macro_rules! verbs {
    ($store:ident: $($verb:ident { $($field:ident: $type:ty),* $(,)? } -> $answer:ty = $run:expr;)+) => {
        $(
            #[derive(Debug, Serialize, Deserialize)]
            pub(super) struct $verb { $(pub(super) $field: $type),* }

            impl Verb for $verb {
                type Answer = $answer;

                fn call(self) -> Call {
                    Call::$verb(self)
                }

                async fn run(self, $store: &Embedded) -> Result<$answer> {
                    let Self { $($field),* } = self;
                    $run.await
                }
            }
        )+

        /// Any of the verbs.
        #[derive(Debug, Serialize, Deserialize)]
        pub(super) enum Call {
            $($verb($verb)),+
        }

        impl Call {
            /// Carries it out and writes the answer down.
            pub(super) async fn run(self, store: &Embedded) -> Result<Vec<u8>> {
                match self {
                    $(Self::$verb(verb) => written(&Box::pin(verb.run(store)).await?)),+
                }
            }
        }
    };
}

verbs! { store:
    DeclareStream { spec: StreamSpec } -> () = store.declare_stream(&spec);
    DeclareGroup { spec: GroupSpec } -> () = store.declare_group(&spec);
    RemoveGroup { group: GroupName } -> () = store.remove_group(&group);
    Locate { group: GroupName, place: SeekTo } -> Position = store.locate(&group, &place);
    Seek { group: GroupName, to: Position, again: bool } -> Sought = store.seek(&group, to, again);
    Rehearse { group: GroupName, range: Range<Position>, max: usize } -> Rehearsal = store.rehearse(&group, range, max);
    Append { stream: StreamName, events: Vec<Event> } -> Vec<Appended> = store.append(&stream, events);
    Shed { stream: StreamName, room: u64 } -> u64 = store.shed(&stream, room);
    Read { stream: StreamName, from: Position, max: usize } -> Page<Stored> = store.read(&stream, from, max);
    Lend { ask: Claim } -> Claimed = store.claim(&ask);
    Extend { tokens: Vec<LeaseToken>, until: Timestamp } -> Vec<bool> = store.extend(&tokens, until);
    Unsettled { group: GroupName, positions: Vec<Position> } -> Vec<Option<u32>> = store.unsettled(&group, &positions);
    Settle { settled: Vec<Settled> } -> Vec<SettleStatus> = store.settle(settled);
    ListBlocked { group: GroupName, from: Position, max: usize } -> Page<Blocked> = store.blocked(&group, from, max);
    LetGo { ask: Unblock } -> Vec<bool> = store.unblock(&ask);
    Wait { group: GroupName, until: Timestamp } -> () = async { store.wait(&group, until).await; Ok(()) };
    Streams {} -> Vec<StreamStatus> = store.streams();
    Groups {} -> Vec<GroupStatus> = store.groups();
    Group { group: GroupName } -> GroupStatus = store.group(&group);
    Search { ask: Find } -> Finding = store.find(&ask);
    Stand { group: GroupName, position: Position } -> Standing = store.standing(&group, position);
    Trail { stream: StreamName, position: Position } -> Steps = store.steps(&stream, position);
    PutState { key: String, value: Option<Vec<u8>> } -> () = store.put_state(&key, value.as_deref());
    SwapState { key: String, was: Option<Vec<u8>>, value: Option<Vec<u8>> } -> bool =
        store.swap_state(&key, was.as_deref(), value.as_deref());
    States { prefix: String } -> Vec<(String, Vec<u8>)> = store.states(&prefix);
    Upkeep {} -> () = store.upkeep();
    Done { group: GroupName, events: Vec<(ByteString, ByteString)> } -> Vec<bool> = store.done(&group, &events);
    Forget { group: GroupName, source: String, id: String } -> bool = store.forget(&group, &source, &id);
    Entry { group: GroupName, source: String, id: String } -> Option<LedgerEntry> =
        store.ledger_entry(&group, &source, &id);
    Clean { group: GroupName, before: Timestamp } -> u64 = store.clean_ledger(&group, before);
    LedgerSize { group: GroupName } -> LedgerStatus = store.ledger_status(&group);
    Letters { stream: StreamName, query: DeadQuery } -> Page<DeadLetter> = store.dead_letters(&stream, &query);
    Entries { stream: StreamName, query: DeadQuery } -> Page<DeadEntry> = store.dead_entries(&stream, &query);
    Letter { stream: StreamName, id: Position } -> DeadLetter = store.dead_letter(&stream, id);
    Move { step: DeadStep } -> Vec<DeadStepStatus> = store.move_dead(&step);
    Report { stream: StreamName, since: Timestamp, until: Timestamp } -> DeadReport =
        store.dead_report(&stream, since, until);
    Import { stream: StreamName, letters: Vec<DeadImport> } -> Vec<Appended> = store.import_dead(&stream, letters);
}

/// A fault on its way to another node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ToldFault {
    kind: FaultKind,
    origin: Origin,
    retry: Retry,
    note: String,
    violation: Option<Violation>,
}

impl From<&Fault> for ToldFault {
    fn from(fault: &Fault) -> Self {
        Self {
            kind: fault.kind,
            origin: fault.origin.clone(),
            retry: fault.retry,
            note: fault.note().to_owned(),
            violation: fault.violation().cloned(),
        }
    }
}

impl From<ToldFault> for Fault {
    fn from(told: ToldFault) -> Self {
        let fault = Self::new(told.kind, told.origin, told.retry, told.note);
        match told.violation {
            Some(violation) => fault.violates(violation),
            None => fault,
        }
    }
}

/// What the node that leads answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// It was carried out; the answer, written down.
    Done(Vec<u8>),
    /// It was not.
    Fault(ToldFault),
    /// It was not: this node leads no longer.
    NotLeading,
}

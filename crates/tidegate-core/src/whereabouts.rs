//! Where an event is: found by its id, where it stands in a group, and what became of it step by step.
//!
//! For people who ask why; nothing on the path of a message uses this.

use bytestring::ByteString;

use crate::{
    after::EventName,
    clock::Timestamp,
    delivery::{Attempt, Position},
    fault::FaultClass,
    names::{GroupName, StreamName},
    store::{DeadState, Stored},
};

/// Which event is looked for.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Find {
    /// Its id.
    pub id: ByteString,
    /// Its source; none = any.
    pub source: Option<ByteString>,
    /// Only in this stream or its dead letters.
    pub stream: Option<StreamName>,
    /// Most kept events that are looked at; what an index knows costs nothing.
    pub look_max: u64,
}

/// A place at which an event was found.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Sighting {
    /// The stream; a dead-letter stream when only the letter is left.
    pub stream: StreamName,
    /// Its position there.
    pub position: Position,
    /// The event; none when it is no longer kept and an index still remembers it.
    pub stored: Option<Stored>,
}

/// What a search came to.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// Where the event is, newest first within each stream.
    pub sightings: Vec<Sighting>,
    /// Kept events that were looked at.
    pub looked: u64,
    /// Whether there can be no further place: false when the search ended at its bound.
    pub whole: bool,
}

/// Where an event stands in a group.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Standing {
    /// Where.
    pub place: Place,
    /// Attempts spent so far.
    pub attempts: u32,
    /// How often a handler crashed on it.
    pub crashes: u32,
    /// Past attempts, oldest first, while it is not settled.
    pub history: Vec<Attempt>,
}

impl From<Place> for Standing {
    fn from(place: Place) -> Self {
        Self { place, attempts: 0, crashes: 0, history: Vec::new() }
    }
}

/// Where an event stands in a group.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Place {
    /// The stream has no such position yet.
    Absent,
    /// It is not the group's business: it lies before its start, or is meant for another group.
    Foreign,
    /// It may run now.
    Waiting {
        /// Events of the group that stand before it.
        ahead: u64,
        /// The group looks no further until some order key gets free: too many wait behind theirs.
        held_up: bool,
    },
    /// It waits for its order key.
    Blocked {
        /// The event that has the key, or is next to get it.
        by: Option<Position>,
    },
    /// It waits until other events are done.
    After {
        /// Those that are not.
        waits_for: Vec<EventName>,
    },
    /// It waits for a time.
    Scheduled {
        /// When it is due.
        until: Timestamp,
        /// For what.
        wait: Wait,
    },
    /// It is lent.
    Lent {
        /// When the lease ends unless it is extended.
        until: Timestamp,
    },
    /// What becomes of it is being written.
    Settling,
    /// It is done.
    Done {
        /// When; none when the ledger does not say.
        at: Option<Timestamp>,
    },
    /// It was settled without an attempt, because the group's stages did not let it through.
    Skipped,
    /// It was settled without an attempt, because the ledger knew it.
    Duplicate {
        /// The event that was done.
        of: Position,
        /// When that was.
        at: Timestamp,
    },
    /// It was past its `expirytime`.
    Expired,
    /// It was removed before it was settled, by the stream's policy or by damage.
    Dropped,
    /// It is in the dead letters.
    Dead {
        /// The letter.
        id: Position,
        /// What became of it there.
        state: DeadState,
        /// When it was buried.
        at: Timestamp,
    },
    /// It is settled, and nothing that is kept says how.
    Settled,
}

/// What an event waits for that waits for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Wait {
    /// The next attempt after one that failed or was put off.
    Retry,
    /// Its `deliverat`.
    DeliverAt,
    /// The end of the same event's attempt at another position.
    Twin(Position),
}

/// What was written of an event, as far as it is kept.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Steps {
    /// The steps, oldest first.
    pub items: Vec<Step>,
    /// Whether nothing is missing: false when the search ended at its bound or older records are gone.
    pub whole: bool,
}

/// One thing that was written of an event.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// When it was written.
    pub at: Timestamp,
    /// The group.
    pub group: GroupName,
    /// What.
    pub what: StepKind,
}

/// What was written of an event.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum StepKind {
    /// It was lent to a handler of which every claim is on record.
    Lent,
    /// It is done.
    Done,
    /// The ledger knew it.
    Duplicate,
    /// It was past its `expirytime`.
    Expired,
    /// It was meant for another group.
    Foreign,
    /// The group's stages did not let it through.
    Skipped,
    /// It was removed before it was settled.
    Dropped,
    /// Somebody let it go, so that it waits for no other event.
    Unblocked {
        /// Who.
        by: ByteString,
        /// Why.
        reason: ByteString,
    },
    /// It waits for a time.
    PutOff {
        /// When it is due.
        until: Timestamp,
        /// Attempts spent so far.
        attempts: u32,
        /// The attempt that had ended; none when it was scheduled or put off.
        attempt: Option<Attempt>,
    },
    /// It went into the dead letters.
    Dead {
        /// The letter.
        id: Position,
        /// Class of the last fault.
        class: FaultClass,
        /// Message of the last fault.
        message: ByteString,
        /// Attempts that were made.
        attempts: u32,
    },
}

impl StepKind {
    /// Tells whether nothing follows it for that group.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Done
            | Self::Duplicate
            | Self::Expired
            | Self::Foreign
            | Self::Skipped
            | Self::Dropped
            | Self::Dead { .. } => true,
            Self::Lent | Self::Unblocked { .. } | Self::PutOff { .. } => false,
        }
    }
}

//! An event lent to one group, and what became of it.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    event::Event,
    fault::{Failure, Fault, FaultClass, Result},
    names::{GroupName, StreamName},
    result::Answer,
};

/// Place of an event in its stream. Positions of one stream grow; nothing else may be read from them.
///
/// Engines with plain numbers use only `low`; engines with `<ms>-<seq>` use both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position {
    /// Most significant part.
    pub high: u64,
    /// Least significant part.
    pub low: u64,
}

impl Position {
    /// Before every event.
    pub const START: Self = Self { high: 0, low: 0 };

    /// Makes a position of an engine that numbers its events.
    pub const fn number(low: u64) -> Self {
        Self { high: 0, low }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.high == 0 { write!(f, "{}", self.low) } else { write!(f, "{}-{}", self.high, self.low) }
    }
}

impl FromStr for Position {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.split_once('-') {
            None => text.parse().ok().map(Self::number),
            Some((high, low)) => high.parse().ok().zip(low.parse().ok()).map(|(high, low)| Self { high, low }),
        };
        parsed.ok_or_else(|| Fault::invalid(format!("{text:?} is not a position")))
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Proof of a lease: who holds which delivery since which claim. Every settle shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaseToken {
    /// Boot-unique number of the store session that lent it; a restart makes a new one.
    pub owner: u64,
    /// Number of the group in its engine.
    pub group: u32,
    /// Position of the delivery.
    pub position: Position,
    /// Number of this loan; a later loan of the same delivery has a higher one.
    pub epoch: u64,
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}.{}.{:x}", self.owner, self.group, self.position, self.epoch)
    }
}

impl FromStr for LeaseToken {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('.');
        let mut parse = || {
            let token = Self {
                owner: u64::from_str_radix(parts.next()?, 16).ok()?,
                group: parts.next()?.parse().ok()?,
                position: parts.next()?.parse().ok()?,
                epoch: u64::from_str_radix(parts.next()?, 16).ok()?,
            };
            parts.next().is_none().then_some(token)
        };
        parse().ok_or_else(|| Fault::invalid(format!("{text:?} is not a lease token")))
    }
}

/// A lease on one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Shown at every settle and extend.
    pub token: LeaseToken,
    /// When the delivery goes back to the group unless it is extended or settled.
    pub expires_at: Timestamp,
}

/// One past attempt, kept with the delivery and with the dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it started.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// How it was judged.
    pub class: FaultClass,
    /// What the handler said.
    pub message: String,
}

/// An event lent to one group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// Its stream.
    pub stream: StreamName,
    /// Its place in the stream.
    pub position: Position,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Number of this attempt, from 1. An interrupted attempt is not counted.
    pub attempt: u32,
    /// How often a handler crashed on it.
    pub crashes: u32,
    /// Past attempts, oldest first, at most [`crate::limits::HISTORY_MAX`].
    pub history: Vec<Attempt>,
    /// The lease.
    pub lease: Lease,
}

/// What a handler says of one delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is done; publish these events in the same commit.
    Done(Vec<(StreamName, Event)>),
    /// It is done, and this is the answer; publish these events in the same commit. The answer is kept when the group
    /// keeps results.
    Answered {
        /// What is given back.
        answer: Answer,
        /// What is published.
        outputs: Vec<(StreamName, Event)>,
    },
    /// Not now; try again after this time. Spends nothing.
    Snooze(Duration),
    /// It can never be processed; dead letter.
    Reject(Failure),
    /// The attempt failed.
    Failed(Failure),
    /// The attempt did not happen or was interrupted. Spends nothing; back to the group at once.
    Interrupted,
}

impl Outcome {
    /// It is done and publishes nothing.
    pub const DONE: Self = Self::Done(Vec::new());

    /// It is done and this is the answer.
    pub fn answered(answer: Answer) -> Self {
        Self::Answered { answer, outputs: Vec::new() }
    }
}

/// What is done with a delivery: decided by [`crate::decide::decide`], carried out by the store in one commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Settlement {
    /// Done: acknowledge, write the ledger, publish the outputs.
    Done(Vec<(StreamName, Event)>),
    /// Done without an attempt, because the group's stages do not let it through. The ledger does not remember it, so
    /// that it runs when the group reads it again under other stages.
    Skip,
    /// Back to the group at once, as it was lent.
    Release,
    /// Back to the group at a time.
    RetryAt {
        /// When it is due.
        at: Timestamp,
        /// Attempts spent so far.
        attempts: u32,
        /// Crashes so far.
        crashes: u32,
    },
    /// Into the dead letters.
    Bury {
        /// The last fault.
        failure: Failure,
        /// Fingerprint of the configuration in force.
        config: bytestring::ByteString,
    },
}

/// A settlement on its way to the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settled {
    /// The lease under which it was processed.
    pub token: LeaseToken,
    /// What is done.
    pub settlement: Settlement,
    /// The attempt that just ended, when it is to be remembered; none for a success or a release.
    pub attempt: Option<Attempt>,
}

/// What the store says of one settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettleStatus {
    /// It is durable.
    Settled,
    /// The lease was lost before; nothing was done.
    LeaseLost,
}

/// Group and stream that a delivery belongs to; used in notices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryName {
    /// The group.
    pub group: GroupName,
    /// The event's id.
    pub event: bytestring::ByteString,
    /// Place in the stream.
    pub position: Position,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_positions_read_back() {
        for position in [Position::START, Position::number(42), Position { high: 1_700_000_000_000, low: 7 }] {
            assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
            let token = LeaseToken { owner: u64::MAX, group: 3, position, epoch: 9 };
            assert_eq!(token.to_string().parse::<LeaseToken>().unwrap(), token);
        }
        for bad in ["", "1", "x.1.1.1", "1.1.1", "1.1.1.1.1", "1.-1.1.1"] {
            assert!(bad.parse::<LeaseToken>().is_err(), "{bad:?}");
        }
        assert!("1-".parse::<Position>().is_err());
    }
}

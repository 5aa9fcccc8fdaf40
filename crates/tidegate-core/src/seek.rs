//! Moving a group to another place in its stream: where to, and what would become of the events from there on.

use std::{fmt, str::FromStr};

use bytestring::ByteString;

use crate::{
    clock::Timestamp,
    delivery::Position,
    fault::{Fault, Result},
};

/// A place in a stream, as people name it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SeekTo {
    /// The oldest kept event.
    Earliest,
    /// Behind the newest event.
    Latest,
    /// An event, or the first one after it that is kept.
    At(Position),
    /// So many events before the first one that the group has not looked at.
    Back(u64),
    /// The first event that was accepted at this time or later.
    Since(Timestamp),
    /// The oldest kept event with this id.
    Event(ByteString),
}

impl FromStr for SeekTo {
    type Err = Fault;

    /// Reads `earliest`, `latest`, a position, `-100` for so many events back, an instant, or the id of an event;
    /// `id:` before an id tells one that looks like something else.
    fn from_str(text: &str) -> Result<Self> {
        if let Some(id) = text.strip_prefix("id:") {
            return Ok(Self::Event(id.into()));
        }
        if let Some(back) = text.strip_prefix('-').and_then(|back| back.parse().ok()) {
            return Ok(Self::Back(back));
        }
        Ok(match text {
            "" => return Err(Fault::invalid("a place in a stream is missing")),
            "earliest" => Self::Earliest,
            "latest" => Self::Latest,
            _ => match (text.parse(), Timestamp::parse(text)) {
                (Ok(position), _) => Self::At(position),
                (Err(_), Ok(at)) => Self::Since(at),
                (Err(_), Err(_)) => Self::Event(text.into()),
            },
        })
    }
}

impl fmt::Display for SeekTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::At(position) => write!(f, "{position}"),
            Self::Back(count) => write!(f, "-{count}"),
            Self::Since(at) => write!(f, "{at}"),
            Self::Event(id) => write!(f, "id:{id}"),
        }
    }
}

/// A group that was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sought {
    /// First event that it had not looked at before.
    pub from: Position,
    /// First event that it looks at now; its accounting starts there.
    pub to: Position,
}

/// What would become of events if their group looked at them now, without a handler for any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Rehearsal {
    /// A handler would run.
    pub run: u64,
    /// The ledger would settle them as done.
    pub skipped: u64,
    /// They are past their `expirytime`.
    pub expired: u64,
    /// They are meant for another group.
    pub others: u64,
    /// Of those that would run or be skipped, so many are meant for this group alone.
    pub own: u64,
    /// First event that was not counted; none at the end of the stream.
    pub next: Option<Position>,
}

impl Rehearsal {
    /// Returns how many events were counted.
    pub fn total(&self) -> u64 {
        self.run + self.skipped + self.expired + self.others
    }

    /// Counts one event. `is_own` tells of one that is meant for a single group whether that is this one.
    pub fn count(&mut self, is_own: Option<bool>, is_known: bool, is_expired: bool) {
        let own = u64::from(is_own.is_some());
        match (is_own, is_known, is_expired) {
            (Some(false), ..) => self.others += 1,
            (_, true, _) => (self.skipped, self.own) = (self.skipped + 1, self.own + own),
            (_, false, true) => self.expired += 1,
            (_, false, false) => (self.run, self.own) = (self.run + 1, self.own + own),
        }
    }

    /// Takes in what comes after.
    pub fn add(&mut self, more: &Self) {
        self.run += more.run;
        self.skipped += more.skipped;
        self.expired += more.expired;
        self.others += more.others;
        self.own += more.own;
        self.next = more.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        let check = |text: &str, place: SeekTo| assert_eq!(text.parse::<SeekTo>().unwrap(), place, "{text:?}");
        check("earliest", SeekTo::Earliest);
        check("latest", SeekTo::Latest);
        check("17", SeekTo::At(Position::number(17)));
        check("1700000000000-3", SeekTo::At(Position { high: 1_700_000_000_000, low: 3 }));
        check("-100", SeekTo::Back(100));
        check("2026-01-31T08:00:00Z", SeekTo::Since(Timestamp::parse("2026-01-31T08:00:00Z").unwrap()));
        check("order-4711", SeekTo::Event("order-4711".into()));
        check("id:17", SeekTo::Event("17".into()));
        check("-x", SeekTo::Event("-x".into()));
        assert!("".parse::<SeekTo>().is_err());
        for text in ["earliest", "latest", "17", "-100", "2026-01-31T08:00:00.000Z", "id:a"] {
            assert_eq!(text.parse::<SeekTo>().unwrap().to_string(), text);
        }
    }
}

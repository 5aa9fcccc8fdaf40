//! What an event waits for: where each of those events stands in the group.

use tidegate_core::{
    after::EventName,
    clock::Timestamp,
    delivery::Position,
    fault::Result,
    names::{GroupName, StreamName},
    store::DeadState,
    whereabouts::{Find, Place},
};

use crate::{
    api::Api,
    explain::word,
    life::{Life, stand_in},
};

/// Kept events that the search for one of them looks at, and those that all of one answer look at together.
const LOOK_MAX: u64 = 20_000;
const LOOK_ALL_MAX: u64 = 100_000;
/// Events that are looked at to find out whether an event waits for itself.
const CIRCLE_MAX: usize = 16;

/// An event that another one waits for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Awaited {
    pub(crate) name: EventName,
    pub(crate) state: AwaitedState,
}

/// Where an event stands that another one waits for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AwaitedState {
    /// Found nowhere; whether everything that is kept was looked at.
    Unknown { whole: bool },
    /// It comes: `waiting`, `blocked`, `scheduled` or `in_flight`.
    Open { position: Position, word: &'static str },
    /// It waits for the one that waits for it, by way of these.
    Circle { by: Vec<EventName> },
    /// It is in the dead letters.
    Dead { letter: Position, state: DeadState, at: Timestamp },
    /// It is over without having been done: `expired`, `dropped`, `foreign` or `settled`.
    Ended { word: &'static str },
    /// It was done meanwhile.
    Done,
    /// The answer looked for enough others already.
    NotSought,
}

impl AwaitedState {
    /// Returns the word used in JSON.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown",
            Self::Open { word, .. } | Self::Ended { word } => word,
            Self::Circle { .. } => "circle",
            Self::Dead { .. } => "dead",
            Self::Done => "done",
            Self::NotSought => "not_sought",
        }
    }
}

/// Looks for events that others wait for, within a bound.
pub(crate) struct Seeker<'a> {
    api: &'a Api,
    group: &'a GroupName,
    stream: &'a StreamName,
    left: u64,
}

impl<'a> Seeker<'a> {
    pub(crate) fn new(api: &'a Api, group: &'a GroupName, stream: &'a StreamName) -> Self {
        Self { api, group, stream, left: LOOK_ALL_MAX }
    }

    /// Says where an event stands, and what it waits for in its turn.
    async fn look(&mut self, name: &EventName) -> Result<(AwaitedState, Vec<EventName>)> {
        if self.left == 0 {
            return Ok((AwaitedState::NotSought, Vec::new()));
        }
        let (id, source, stream) = (name.id.clone(), Some(name.source.clone()), Some(self.stream.clone()));
        let life = Life::find(self.api, &Find { id, source, stream, look_max: LOOK_MAX.min(self.left) }).await?;
        self.left = self.left.saturating_sub(life.looked);
        let Some((spot, standing)) = stand_in(self.api, &life, self.group, self.stream).await? else {
            return Ok((AwaitedState::Unknown { whole: life.whole }, Vec::new()));
        };
        let word = word(&standing.place);
        let open = AwaitedState::Open { position: spot.position, word };
        let state = match standing.place {
            Place::After { waits_for } => return Ok((open, waits_for)),
            Place::Blocked { .. } | Place::Waiting { .. } | Place::Scheduled { .. } => open,
            Place::Lent { .. } | Place::Settling => open,
            Place::Dead { id, state, at } => AwaitedState::Dead { letter: id, state, at },
            Place::Expired | Place::Dropped | Place::Foreign | Place::Settled => AwaitedState::Ended { word },
            // What was done so long ago that the ledger forgot it is as good as never done.
            Place::Done { at: None } => AwaitedState::Ended { word: "settled" },
            Place::Done { .. } | Place::Duplicate { .. } | Place::Skipped => AwaitedState::Done,
            Place::Absent => AwaitedState::Unknown { whole: true },
        };
        Ok((state, Vec::new()))
    }

    /// Says where an event stands that others wait for.
    pub(crate) async fn seek(&mut self, name: &EventName) -> Result<AwaitedState> {
        self.look(name).await.map(|(state, _)| state)
    }

    /// The same for all that one event waits for, and whether it waits for itself by way of them.
    pub(crate) async fn seek_all(&mut self, of: &EventName, names: &[EventName]) -> Result<Vec<Awaited>> {
        let mut all = Vec::with_capacity(names.len());
        let mut looked = 0;
        for name in names {
            let (mut state, next) = self.look(name).await?;
            let mut ways: Vec<Vec<EventName>> = next.into_iter().map(|next| vec![next]).collect();
            while let Some(way) = ways.pop() {
                let Some(last) = way.last() else { continue };
                if last == of {
                    let by = way.into_iter().filter(|name| name != of).collect();
                    state = AwaitedState::Circle { by };
                    break;
                }
                looked += 1;
                if looked > CIRCLE_MAX {
                    break;
                }
                let (_, next) = self.look(last).await?;
                let further = next.into_iter().filter(|next| !way.contains(next));
                ways.extend(further.map(|next| [way.as_slice(), &[next]].concat()).collect::<Vec<_>>());
            }
            all.push(Awaited { name: name.clone(), state });
        }
        Ok(all)
    }
}

//! A search for an event by its id: first where indexes know it, then among the kept events, newest first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use bytestring::ByteString;
use tidegate_core::{
    delivery::Position,
    fault::Result,
    limits,
    store::Stored,
    whereabouts::{Find, Finding, Sighting},
};

use super::declared::StreamHead;

/// Events that are read in one step of a search.
const SLICE: u64 = 256;
/// Newest events of each stream that are looked at before the indexes are asked for the sources that they show.
const GLANCE: u64 = 1024;
/// Most sources for which the indexes are asked.
const SOURCES_MAX: usize = 64;

/// A part of a stream, read downwards.
pub(crate) struct Below {
    /// Newest first.
    pub(crate) found: Vec<Stored>,
    /// Oldest kept position; none when none is kept.
    pub(crate) first: Option<Position>,
}

/// Where a search looks.
#[async_trait]
pub(crate) trait Searched: Sync {
    /// Reads events of a stream that are older than one, newest first.
    async fn below(&self, stream: &StreamHead, from: Option<Position>, max: usize) -> Result<Below>;
    /// Asks dedupe windows, ledgers and what is lent.
    async fn places(&self, stream: &StreamHead, source: &ByteString, id: &ByteString) -> Result<Vec<Position>>;
    /// Reads the event at a position; none when it is not kept.
    async fn event_at(&self, stream: &StreamHead, position: Position) -> Result<Option<Stored>>;
}

/// A search on its way.
struct Hunt<'a> {
    ask: &'a Find,
    streams: Vec<Arc<StreamHead>>,
    /// The oldest event of each stream that was looked at, and whether there is none before it.
    down_to: BTreeMap<u32, (Option<Position>, bool)>,
    sources: BTreeSet<ByteString>,
    asked: BTreeSet<ByteString>,
    places: BTreeMap<(u32, Position), Sighting>,
    looked: u64,
}

impl Hunt<'_> {
    fn see(&mut self, stream: &StreamHead, stored: Stored) {
        let event = &stored.event;
        let fits = self.ask.source.as_ref().is_none_or(|source| *source == event.source);
        if event.id == self.ask.id && fits && self.places.len() < limits::FIND_PLACES_MAX {
            self.found(stream, stored.position, Some(stored));
        } else if self.ask.source.is_none() && self.sources.len() < SOURCES_MAX {
            self.sources.insert(event.source.clone());
        }
    }

    fn found(&mut self, stream: &StreamHead, position: Position, stored: Option<Stored>) {
        let sighting = Sighting { stream: stream.spec.name.clone(), position, stored };
        self.places.insert((stream.id, position), sighting);
    }

    fn finish(mut self) -> Finding {
        let whole = self.streams.iter().all(|stream| self.down_to.get(&stream.id).is_some_and(|(_, end)| *end));
        let mut sightings = Vec::with_capacity(self.places.len());
        for stream in &self.streams {
            let last = Position { high: u64::MAX, low: u64::MAX };
            let of_stream = self.places.extract_if((stream.id, Position::START)..=(stream.id, last), |_, _| true);
            let mut of_stream: Vec<_> = of_stream.map(|(_, sighting)| sighting).collect();
            of_stream.reverse();
            sightings.append(&mut of_stream);
        }
        Finding { sightings, looked: self.looked, whole }
    }

    /// Looks at events of a stream, newest first, at most so many and as many as the search may still look at.
    async fn look_down(&mut self, place: &impl Searched, stream: &StreamHead, most: u64) -> Result<()> {
        let mut left = most.min(self.ask.look_max.saturating_sub(self.looked));
        loop {
            let (from, end) = self.down_to.get(&stream.id).copied().unwrap_or_default();
            if end {
                return Ok(());
            }
            // One more tells whether there are none, even when none may be looked at.
            let step = usize::try_from(SLICE.min(left)).unwrap_or(usize::MAX);
            let below = place.below(stream, from, step.max(1)).await?;
            let none_left = below.found.is_empty();
            let seen: Vec<Stored> = below.found.into_iter().take(step).collect();
            let last = seen.last().map(|stored| stored.position).or(from);
            let end = none_left || last.zip(below.first).is_some_and(|(last, first)| last <= first);
            self.down_to.insert(stream.id, (last, end));
            self.looked += seen.len() as u64;
            left -= seen.len() as u64;
            let none = seen.is_empty();
            for stored in seen {
                self.see(stream, stored);
            }
            if left == 0 || none {
                return Ok(());
            }
        }
    }

    /// Asks the indexes for every source that they were not asked for yet.
    async fn ask_indexes(&mut self, place: &impl Searched) -> Result<()> {
        let fresh: Vec<ByteString> = self.sources.difference(&self.asked).cloned().collect();
        for source in fresh {
            for stream in self.streams.clone() {
                for position in place.places(&stream, &source, &self.ask.id).await? {
                    let kept = place.event_at(&stream, position).await?;
                    self.found(&stream, position, kept.filter(|stored| stored.event.id == self.ask.id));
                }
            }
            self.asked.insert(source);
        }
        Ok(())
    }
}

/// Searches these streams.
pub(crate) async fn hunt(place: &impl Searched, ask: &Find, all: Vec<Arc<StreamHead>>) -> Result<Finding> {
    let wanted = ask.stream.as_ref().map(tidegate_core::names::StreamName::origin);
    let of_interest = all.into_iter().filter(|one| wanted.as_ref().is_none_or(|name| one.spec.name.origin() == *name));
    let (letters, streams): (Vec<_>, Vec<_>) = of_interest.partition(|stream| stream.spec.name.is_dead_letters());
    let mut hunt = Hunt {
        ask,
        streams,
        down_to: BTreeMap::new(),
        sources: ask.source.iter().cloned().collect(),
        asked: BTreeSet::new(),
        places: BTreeMap::new(),
        looked: 0,
    };
    hunt.ask_indexes(place).await?;
    for most in [GLANCE, u64::MAX] {
        for stream in hunt.streams.clone() {
            if hunt.places.is_empty() {
                hunt.look_down(place, &stream, most).await?;
            }
        }
        hunt.ask_indexes(place).await?;
    }
    hunt.streams.extend(letters.iter().map(Arc::clone));
    for stream in letters {
        if hunt.places.is_empty() {
            hunt.look_down(place, &stream, u64::MAX).await?;
        }
    }
    Ok(hunt.finish())
}

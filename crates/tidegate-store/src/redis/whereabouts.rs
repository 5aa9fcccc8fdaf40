//! Answers for people who ask where an event is and why it does not run. Reads only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::DELIVER_AT,
    fault::Result,
    limits,
    names::StreamName,
    store::Stored,
    whereabouts::{Find, Finding, Place, Sighting, Standing, Step, StepKind, Steps, Wait},
};

use super::{
    RedisStore,
    claim::{instant, key_text},
    dead::state_of,
    entry::{Parsed, attempts},
    registry::{GroupHead, StreamHead},
    reply::{Reply, odd},
    script::SCRIPTS,
};

/// Events that are read in one step of a search.
const SLICE: u64 = 256;
/// Newest events of each stream that are looked at before the indexes are asked for the sources that they show.
const GLANCE: u64 = 1024;
/// Most sources for which the indexes are asked.
const SOURCES_MAX: usize = 64;

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
    fn see(&mut self, stream: &StreamHead, parsed: Parsed) {
        let event = &parsed.event;
        let fits = self.ask.source.as_ref().is_none_or(|source| *source == event.source);
        if event.id == self.ask.id && fits && self.places.len() < limits::FIND_PLACES_MAX {
            self.found(stream, parsed.position, Some(parsed));
        } else if self.ask.source.is_none() && self.sources.len() < SOURCES_MAX {
            self.sources.insert(event.source.clone());
        }
    }

    fn found(&mut self, stream: &StreamHead, position: Position, parsed: Option<Parsed>) {
        let stored = parsed.map(|parsed| Stored { position, accepted_at: parsed.accepted_at(), event: parsed.event });
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
}

impl RedisStore {
    pub(crate) async fn find_event(&self, ask: &Find) -> Result<Finding> {
        let wanted = ask.stream.as_ref().map(StreamName::origin);
        if let Some(name) = &wanted {
            self.stream_head(name).await?;
        }
        let all: Vec<_> = self.registry.read().streams.values().map(Arc::clone).collect();
        let of_interest =
            all.into_iter().filter(|one| wanted.as_ref().is_none_or(|name| one.spec.name.origin() == *name));
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
        self.ask_indexes(&mut hunt).await?;
        for most in [GLANCE, u64::MAX] {
            for stream in hunt.streams.clone() {
                if hunt.places.is_empty() {
                    self.look_down(&mut hunt, &stream, most).await?;
                }
            }
            self.ask_indexes(&mut hunt).await?;
        }
        hunt.streams.extend(letters.iter().map(Arc::clone));
        for stream in letters {
            if hunt.places.is_empty() {
                self.look_down(&mut hunt, &stream, u64::MAX).await?;
            }
        }
        Ok(hunt.finish())
    }

    /// Looks at events of a stream, newest first, at most so many and as many as the search may still look at.
    async fn look_down(&self, hunt: &mut Hunt<'_>, stream: &StreamHead, most: u64) -> Result<()> {
        let mut left = most.min(hunt.ask.look_max.saturating_sub(hunt.looked));
        loop {
            let (from, end) = hunt.down_to.get(&stream.id).copied().unwrap_or_default();
            if end {
                return Ok(());
            }
            // The first one that is read may be the last of before.
            let step = usize::try_from(SLICE.min(left)).unwrap_or(usize::MAX) + 1;
            let slice = self.slice(stream, from, true, step, limits::CLAIM_BYTES_MAX).await?;
            let read = slice.found.len();
            let fresh = slice.found.into_iter().filter(|parsed| from.is_none_or(|from| parsed.position < from));
            let fresh: Vec<Parsed> = fresh.take(usize::try_from(left).unwrap_or(usize::MAX)).collect();
            let last = fresh.last().map(|parsed| parsed.position).or(from);
            let end = !slice.is_kept || last.is_some_and(|last| last <= slice.first) || read == 0;
            hunt.down_to.insert(stream.id, (last, end));
            hunt.looked += fresh.len() as u64;
            left -= fresh.len() as u64;
            let none = fresh.is_empty();
            for parsed in fresh {
                hunt.see(stream, parsed);
            }
            if left == 0 || none {
                return Ok(());
            }
        }
    }

    /// Asks dedupe windows, ledgers and what is lent for every source that was not asked for yet.
    async fn ask_indexes(&self, hunt: &mut Hunt<'_>) -> Result<()> {
        let now = self.options.clock.now().as_millis();
        let fresh: Vec<ByteString> = hunt.sources.difference(&hunt.asked).cloned().collect();
        for source in fresh {
            for stream in hunt.streams.clone() {
                let mut ask = self.ask(&SCRIPTS.marks);
                ask.number(stream.id).number(now).bytes(&self.mark(&source, &hunt.ask.id));
                let places = self.run(ask, "ask the indexes").await?.each(Reply::position)?;
                for position in places {
                    let kept = self.event_at(&stream, position).await?;
                    hunt.found(&stream, position, kept.filter(|parsed| parsed.event.id == hunt.ask.id));
                }
            }
            hunt.asked.insert(source);
        }
        Ok(())
    }

    /// Reads the event at a position; none when it is not kept.
    async fn event_at(&self, stream: &StreamHead, position: Position) -> Result<Option<Parsed>> {
        let slice = self.slice(stream, Some(position), false, 1, 1).await?;
        Ok(slice.found.into_iter().next().filter(|parsed| parsed.position == position))
    }

    pub(crate) async fn standing_of(&self, head: &GroupHead, position: Position) -> Result<Standing> {
        let stream = self.stream_head(&head.spec.stream).await?;
        let parsed = self.event_at(&stream, position).await?;
        if parsed.as_ref().is_some_and(|parsed| parsed.head.group > 0 && parsed.head.group != head.id) {
            return Ok(Place::Foreign.into());
        }
        let event = parsed.as_ref().map(|parsed| &parsed.event);
        let mut ask = self.ask(&SCRIPTS.standing);
        let own = parsed.as_ref().is_some_and(|parsed| parsed.head.group == head.id);
        ask.number(head.id).number(self.options.clock.now().as_millis()).position(position).number(u8::from(own));
        match event {
            Some(event) => ask.bytes(&self.mark(&event.source, &event.id)).text(&key_text(head, event)),
            None => ask.text("").text(""),
        };
        ask.maybe(event.and_then(|event| instant(event, DELIVER_AT)).map(Timestamp::as_millis))
            .number(limits::ORDER_LOOKAHEAD_MAX);
        let mut answer = self.run(ask, "ask where an event stands").await?;
        let (spent, crashes, history) = (answer.number()?, answer.number()?, answer.text()?);
        let place = place(&mut answer, position)?;
        Ok(Standing { place, attempts: spent, crashes, history: attempts(&history) })
    }

    /// Tells what is still known of an event: how it was settled, and what it waits for.
    pub(crate) async fn steps_of(&self, stream: &StreamHead, position: Position) -> Result<Steps> {
        let heads: Vec<_> = {
            let registry = self.registry.read();
            let readers = registry.groups.values().filter(|group| group.spec.stream == stream.spec.name);
            readers.map(Arc::clone).collect()
        };
        let mut items = Vec::new();
        for head in heads {
            let standing = self.standing_of(&head, position).await?;
            let step = |at, what| Step { at, group: head.spec.name.clone(), what };
            items.extend(match standing.place {
                Place::Done { at: Some(at) } => Some(step(at, StepKind::Done)),
                Place::Duplicate { at, .. } => Some(step(at, StepKind::Duplicate)),
                Place::Dead { id, at, .. } => {
                    let letter = self.dead_letter_of(stream, id).await?;
                    letter.map(|letter| {
                        let attempts = u32::try_from(letter.attempts.len()).unwrap_or(u32::MAX);
                        step(at, StepKind::Dead { id, class: letter.class, message: letter.message, attempts })
                    })
                }
                Place::Scheduled { until, wait: Wait::Retry } => standing.history.last().map(|last| {
                    let attempt = Some(last.clone());
                    step(last.at, StepKind::PutOff { until, attempts: standing.attempts, attempt })
                }),
                Place::Absent
                | Place::Foreign
                | Place::Waiting { .. }
                | Place::Blocked { .. }
                | Place::After { .. }
                | Place::Scheduled { .. }
                | Place::Lent { .. }
                | Place::Settling
                | Place::Done { at: None }
                | Place::Skipped
                | Place::Expired
                | Place::Dropped
                | Place::Settled => None,
            });
        }
        items.sort_by_key(|step| step.at);
        // Redis keeps what is true now, not how it came about.
        Ok(Steps { items, whole: false })
    }
}

fn place(answer: &mut Reply, position: Position) -> Result<Place> {
    Ok(match answer.text()?.as_str() {
        "lent" => Place::Lent { until: answer.time()? },
        "blocked" => Place::Blocked { by: answer.maybe_position()? },
        "twin" => {
            let until = answer.time()?;
            Place::Scheduled { until, wait: Wait::Twin(answer.position()?) }
        }
        "deliver" => Place::Scheduled { until: answer.time()?, wait: Wait::DeliverAt },
        "retry" => Place::Scheduled { until: answer.time()?, wait: Wait::Retry },
        "waiting" => Place::Waiting { ahead: answer.number()?, held_up: answer.flag()? },
        "absent" => Place::Absent,
        "foreign" => Place::Foreign,
        "dead" => {
            let (id, state) = (answer.position()?, state_of(answer.number()?)?);
            Place::Dead { id, state, at: answer.time()? }
        }
        "done" => {
            let (at, of) = (answer.time()?, answer.position()?);
            match of.cmp(&position) {
                std::cmp::Ordering::Less => Place::Duplicate { of, at },
                std::cmp::Ordering::Equal => Place::Done { at: Some(at) },
                // It was done once more later, by force.
                std::cmp::Ordering::Greater => Place::Done { at: None },
            }
        }
        "expired" => Place::Expired,
        "skipped" => Place::Skipped,
        "dropped" => Place::Dropped,
        "settled" => Place::Settled,
        _ => return Err(odd()),
    })
}

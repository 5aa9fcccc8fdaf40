//! Answers for people who ask where an event is and why it does not run. Reads only.

use std::sync::Arc;

use async_trait::async_trait;
use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::{DELIVER_AT, Event},
    fault::Result,
    limits,
    names::StreamName,
    store::Stored,
    whereabouts::{Find, Finding, Place, Standing, Steps, Wait},
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
use crate::served::{
    hunt::{Below, Searched, hunt},
    steps::{done_place, step_of},
};

impl RedisStore {
    pub(crate) async fn find_event(&self, ask: &Find) -> Result<Finding> {
        let wanted = ask.stream.as_ref().map(StreamName::origin);
        if let Some(name) = &wanted {
            self.stream_head(name).await?;
        }
        let all: Vec<_> = self.registry.read().streams.values().map(Arc::clone).collect();
        hunt(self, ask, all).await
    }

    /// Reads the event at a position; none when it is not kept.
    async fn parsed_at(&self, stream: &StreamHead, position: Position) -> Result<Option<Parsed>> {
        let slice = self.slice(stream, Some(position), false, 1, 1).await?;
        Ok(slice.found.into_iter().next().filter(|parsed| parsed.position == position))
    }

    pub(crate) async fn standing_of(&self, head: &GroupHead, position: Position) -> Result<Standing> {
        let stream = self.stream_head(&head.spec.stream).await?;
        let parsed = self.kept_at(&stream, position).await?;
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
        let untried = parsed.as_ref().filter(|parsed| parsed.head.past.is_empty());
        ask.maybe(event.and_then(|event| instant(event, DELIVER_AT)).map(Timestamp::as_millis))
            .number(limits::ORDER_LOOKAHEAD_MAX)
            .bytes(&untried.map_or_else(Vec::new, |parsed| self.named(&parsed.event)));
        let mut answer = self.run(ask, "ask where an event stands").await?;
        let (spent, crashes, history) = (answer.number()?, answer.number()?, answer.text()?);
        let place = self.place(&mut answer, position, event)?;
        Ok(Standing { place, attempts: spent, crashes, history: attempts(&history) })
    }

    fn place(&self, answer: &mut Reply, position: Position, event: Option<&Event>) -> Result<Place> {
        Ok(match answer.text()?.as_str() {
            "lent" => Place::Lent { until: answer.time()? },
            "blocked" => Place::Blocked { by: answer.maybe_position()? },
            "after" => Place::After { waits_for: self.names_of(&answer.bytes()?, event) },
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
                done_place(position, of, at)
            }
            "expired" => Place::Expired,
            "skipped" => Place::Skipped,
            "dropped" => Place::Dropped,
            "settled" => Place::Settled,
            _ => return Err(odd()),
        })
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
            let mut letter = None;
            if let Place::Dead { id, .. } = standing.place {
                letter = self.dead_letter_of(stream, id).await?;
            }
            items.extend(step_of(&head.spec.name, &standing, letter));
        }
        items.sort_by_key(|step| step.at);
        // Redis keeps what is true now, not how it came about.
        Ok(Steps { items, whole: false })
    }
}

pub(crate) fn stored(parsed: Parsed) -> Stored {
    Stored { position: parsed.position, accepted_at: parsed.accepted_at(), event: parsed.event }
}

#[async_trait]
impl Searched for RedisStore {
    async fn below(&self, stream: &StreamHead, from: Option<Position>, max: usize) -> Result<Below> {
        // The first one that is read may be the one from which it goes down.
        let slice = self.slice(stream, from, true, max + 1, limits::CLAIM_BYTES_MAX).await?;
        let first = slice.is_kept.then_some(slice.first);
        let older = slice.found.into_iter().filter(|parsed| from.is_none_or(|from| parsed.position < from));
        Ok(Below { found: older.take(max).map(stored).collect(), first })
    }

    async fn places(&self, stream: &StreamHead, source: &ByteString, id: &ByteString) -> Result<Vec<Position>> {
        let mut ask = self.ask(&SCRIPTS.marks);
        ask.number(stream.id).number(self.options.clock.now().as_millis()).bytes(&self.mark(source, id));
        self.run(ask, "ask the indexes").await?.each(Reply::position)
    }

    async fn event_at(&self, stream: &StreamHead, position: Position) -> Result<Option<Stored>> {
        Ok(self.parsed_at(stream, position).await?.map(stored))
    }
}

//! Appending and reading events.

use tidegate_core::{
    delivery::Position,
    event::Event,
    fault::{Fault, Result},
    limits,
    names::{GroupName, StreamName},
    store::{self, Page, Stored},
};

use super::{
    RedisStore,
    batch::{Append, Appended},
    entry::{self, Parsed, parse},
    registry::StreamHead,
    reply::{Reply, behind},
    script::SCRIPTS,
};
use crate::served::facts::{check_append, full};

/// A part of a stream that was read.
pub(crate) struct Slice {
    /// Newest position; [`Position::START`] when there never was one.
    pub(crate) last: Position,
    /// Oldest kept position; behind the newest when none is kept.
    pub(crate) first: Position,
    /// Whether any is kept.
    pub(crate) is_kept: bool,
    pub(crate) found: Vec<Parsed>,
}

impl RedisStore {
    pub(crate) async fn append_all(&self, name: &StreamName, events: Vec<Event>) -> Result<Vec<store::Appended>> {
        let head = self.stream_head(name).await?;
        check_append(name, &events)?;
        if events.is_empty() {
            return Ok(Vec::new());
        }
        events.iter().try_for_each(Event::check)?;
        let what = format!("append to stream {:?}", name.as_str());
        let mut answer = loop {
            self.open_still()?;
            let now = self.options.clock.now();
            let one = |event| (self.window_mark(&head, event), entry::fields(event, name, now, None));
            let ask = Append {
                stream: head.id,
                most: head.spec.max_backlog,
                now: now.as_millis(),
                events: events.iter().map(one).collect(),
            };
            match self.appends.append(ask).await {
                Ok(Appended::Done(answer)) => break answer,
                Ok(Appended::Full(mut answer)) => return Err(self.full(&head, events.len(), &mut answer)?),
                Err(trouble) if trouble.is_again() => {}
                Err(trouble) => return Err(self.heard(trouble, &what).await?),
            }
        };
        let appended = answer.each(|one| Ok(store::Appended { position: one.position()?, duplicate: one.flag()? }))?;
        let repeats = appended.iter().filter(|one| one.duplicate).count() as u64;
        if repeats > 0 {
            *self.told.lock().duplicates.entry(head.id).or_default() += repeats;
        }
        let readers = self.registry.read().readers(head.id);
        self.wake.ring(&readers);
        Ok(appended)
    }

    /// By what the dedupe window of a stream recognises an event; empty without a window.
    pub(crate) fn window_mark(&self, head: &StreamHead, event: &Event) -> Vec<u8> {
        let window = head.spec.dedupe.as_ref();
        window.map_or_else(Vec::new, |window| window.key.fingerprint(&self.key, event).to_le_bytes().to_vec())
    }

    fn full(&self, head: &StreamHead, count: usize, answer: &mut Reply) -> Result<Fault> {
        let (name, backlog): (GroupName, u64) = (GroupName::new(&answer.text()?)?, answer.number()?);
        let id = self.registry.read().groups.get(&name).map(|group| group.id);
        let rate = id.and_then(|id| self.told.lock().drain.get(&id).map(|drain| drain.per_second)).unwrap_or(0.0);
        Ok(full(&head.spec, &name, backlog, count, rate))
    }

    /// Reads a part of a stream upwards, or downwards and newest first.
    pub(crate) async fn slice(
        &self,
        head: &StreamHead,
        from: Option<Position>,
        down: bool,
        max: usize,
        bytes: usize,
    ) -> Result<Slice> {
        let mut ask = self.ask(&SCRIPTS.read);
        ask.number(head.id).maybe_position(from).text(if down { "-" } else { "+" }).number(max).number(bytes);
        let mut answer = self.run(ask, &format!("read stream {:?}", head.spec.name.as_str())).await?;
        let (first, last, is_kept) = (answer.position()?, answer.position()?, answer.flag()?);
        let found = answer.list()?.each(|entry| parse(&entry.entry()?, &head.spec.name))?;
        Ok(Slice { last, first, is_kept, found })
    }

    /// Reads the event at a position, also one that is only kept for a group; none when there is none.
    pub(crate) async fn kept_at(&self, head: &StreamHead, position: Position) -> Result<Option<Parsed>> {
        let mut ask = self.ask(&SCRIPTS.kept);
        ask.number(head.id).position(position);
        let mut entries = self.run(ask, "read an event").await?;
        if entries.is_empty() { Ok(None) } else { parse(&entries.entry()?, &head.spec.name).map(Some) }
    }

    pub(crate) async fn read_page(&self, name: &StreamName, from: Position, max: usize) -> Result<Page<Stored>> {
        let head = self.stream_head(name).await?;
        let max = max.min(limits::PAGE_MAX);
        let slice = self.slice(&head, Some(from), false, max, limits::CLAIM_BYTES_MAX).await?;
        let next = slice.found.last().filter(|last| last.position < slice.last).map(|last| behind(last.position));
        let items = slice.found.into_iter().map(|parsed| Stored {
            position: parsed.position,
            accepted_at: parsed.accepted_at(),
            event: parsed.event,
        });
        Ok(Page { items: items.collect(), next })
    }
}

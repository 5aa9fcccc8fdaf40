//! Appending and reading events.

use std::time::Duration;

use tidegate_core::{
    delivery::Position,
    event::Event,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    names::{GroupName, StreamName},
    store::{Appended, Page, Stored},
};

use super::{
    RedisStore,
    entry::{self, Parsed, parse},
    registry::StreamHead,
    reply::{Reply, behind},
    script::SCRIPTS,
};

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
    pub(crate) async fn append_all(&self, name: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        let head = self.stream_head(name).await?;
        if name.is_dead_letters() {
            return Err(Fault::invalid(format!("stream {:?} takes only dead letters", name.as_str())));
        }
        if events.is_empty() {
            return Ok(Vec::new());
        }
        if events.len() > limits::BATCH_EVENTS_MAX {
            let note =
                format!("{} events at once are more than the limit of {}", events.len(), limits::BATCH_EVENTS_MAX);
            return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
        }
        let now = self.options.clock.now();
        let mut ask = self.ask(&SCRIPTS.append);
        ask.number(head.id).number(now.as_millis()).maybe(head.spec.max_backlog).number(events.len());
        let mut bytes = 0;
        for event in &events {
            entry::check(event)?;
            let fields = entry::fields(event, name, now, None);
            bytes += event.size() + 48;
            ask.bytes(&self.window_mark(&head, event));
            fields.pass(&mut ask);
        }
        if bytes > limits::STEP_BYTES_MAX {
            let note = format!("the batch takes {bytes} bytes, more than the limit of {}", limits::STEP_BYTES_MAX);
            return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
        }
        let mut answer = self.run(ask, &format!("append to stream {:?}", name.as_str())).await?;
        if !answer.flag()? {
            return Err(self.full(&head, events.len(), &mut answer)?);
        }
        let appended = answer.each(|one| Ok(Appended { position: one.position()?, duplicate: one.flag()? }))?;
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
        let most = head.spec.max_backlog.unwrap_or(u64::MAX);
        let id = self.registry.read().groups.get(&name).map(|group| group.id);
        let rate = id.and_then(|id| self.told.lock().drain.get(&id).map(|drain| drain.per_second)).unwrap_or(0.0);
        let seconds = (((backlog + count as u64).saturating_sub(most)) as f64 / rate.max(0.1)).clamp(1.0, 60.0);
        let note = format!(
            "stream {:?} holds {backlog} events that group {:?} has not settled; its max_backlog is {most}",
            head.spec.name.as_str(),
            name.as_str()
        );
        Ok(Fault::limited(note, Duration::from_secs_f64(seconds.ceil())))
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

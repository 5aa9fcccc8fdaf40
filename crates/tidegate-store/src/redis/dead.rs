//! Dead letters: read, moved in one commit with what the move brings about, counted, and taken in from elsewhere.

mod report;

use async_trait::async_trait;
use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::Event,
    fault::{Fault, FaultClass, FaultKind, Origin, Result, Retry},
    limits,
    names::{GroupName, StreamName},
    store::{
        Appended, DeadAction, DeadChange, DeadEntry, DeadImport, DeadLetter, DeadLetters, DeadQuery, DeadReport,
        DeadState, DeadStep, DeadStepStatus, Page,
    },
};

use super::{
    RedisStore,
    entry::{self, Head, parse},
    registry::StreamHead,
    reply::{RawEntry, Reply, odd},
    script::{Ask, SCRIPTS},
    settle::{Change, Letter, letter_json},
};
use crate::served::steps::{STEP_EVENTS, action_word, brought, check_step, past_of};

/// Most letters that one step looks at.
const LOOK_MAX: usize = 2_000;
/// Letters that are read in one step: each may be as large as an event.
const LOAD: usize = 16;
/// Reads the number of a state.
pub(crate) fn state_of(number: usize) -> Result<DeadState> {
    crate::served::steps::state_of(number).ok_or_else(odd)
}

/// What is known of a letter without its event.
struct Meta {
    entry: DeadEntry,
    message: ByteString,
    signature: ByteString,
    config: ByteString,
    changed: Option<DeadChange>,
}

impl RedisStore {
    fn meta(&self, one: &mut Reply) -> Result<Meta> {
        let id = one.position()?;
        let group = self.group_name(one.number()?).map_or_else(|| GroupName::new("removed"), Ok)?;
        let (position, state) = (one.position()?, state_of(one.number()?)?);
        let class = FaultClass::from_code(one.number()?).ok_or_else(odd)?;
        let entry = DeadEntry { id, group, position, state, class, failed_at: one.time()? };
        let (message, signature, config) = (one.text()?.into(), one.text()?.into(), one.text()?.into());
        let at = one.maybe_time()?;
        let (by, note, job) = (one.text()?.into(), one.text()?.into(), one.text()?.into());
        let position = one.maybe_position()?;
        let changed = at.map(|at| DeadChange { at, by, note, job, position });
        Ok(Meta { entry, message, signature, config, changed })
    }

    /// Chooses letters, and says where the next page goes on.
    async fn select(&self, head: &StreamHead, query: &DeadQuery) -> Result<(Vec<Meta>, Option<Position>)> {
        let limit = query.limit.clamp(1, limits::PAGE_MAX);
        let group = match &query.group {
            None => None,
            Some(name) => Some(self.group_head(name).await?.id),
        };
        let (mut before, mut after) = (query.before, query.after);
        let mut found = Vec::new();
        loop {
            let mut ask = self.ask(&SCRIPTS.dead_select);
            ask.number(head.id)
                .maybe(query.state.map(|state| state as usize))
                .maybe(group)
                .maybe_position(before)
                .maybe_position(after)
                .maybe(query.since.map(Timestamp::as_millis))
                .maybe(query.until.map(Timestamp::as_millis))
                // One more tells whether there is another page.
                .number(limit + 1 - found.len())
                .number(LOOK_MAX);
            let mut answer = self.run(ask, "list dead letters").await?;
            found.extend(answer.list()?.each(|one| self.meta(&mut one.list()?))?);
            let resume = answer.maybe_position()?;
            match resume {
                Some(last) if after.is_some() => after = Some(last),
                Some(last) => before = Some(last),
                None => break,
            }
        }
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|last| last.entry.id);
        Ok((found, next))
    }

    /// Reads letters whole; none where there is none.
    async fn load(&self, head: &StreamHead, ids: &[Position]) -> Result<Vec<Option<DeadLetter>>> {
        let mut letters = Vec::with_capacity(ids.len());
        for part in ids.chunks(LOAD) {
            let mut ask = self.ask(&SCRIPTS.dead_load);
            ask.number(head.id).number(part.len());
            for id in part {
                ask.position(*id);
            }
            let mut answer = self.run(ask, "read dead letters").await?;
            letters.extend(answer.each(|one| {
                let mut one = one.list()?;
                if one.is_empty() {
                    return Ok(None);
                }
                let meta = self.meta(&mut one.list()?)?;
                let history = one.text()?;
                self.letter(head, meta, &history, &one.entry()?).map(Some)
            })?);
        }
        Ok(letters)
    }

    fn letter(&self, head: &StreamHead, meta: Meta, history: &str, stored: &RawEntry) -> Result<DeadLetter> {
        let origin = head.spec.name.origin();
        let DeadEntry { id, group, position, state, class, failed_at } = meta.entry;
        Ok(DeadLetter {
            id,
            group,
            position,
            state,
            event: parse(stored, &origin)?.event,
            stream: origin,
            class,
            message: meta.message,
            signature: meta.signature,
            attempts: entry::attempts(history),
            failed_at,
            config: meta.config,
            changed: meta.changed,
        })
    }

    /// Reads a letter of a stream; none when there is none.
    pub(crate) async fn dead_letter_of(&self, stream: &StreamHead, id: Position) -> Result<Option<DeadLetter>> {
        let head = self.dead_head(&stream.spec.name).await?;
        Ok(self.load(&head, &[id]).await?.into_iter().flatten().next())
    }

    async fn move_letters(&self, step: &DeadStep) -> Result<Vec<DeadStepStatus>> {
        check_step(step)?;
        let head = self.dead_head(&step.stream).await?;
        let now = self.options.clock.now();
        let (action, forced) = action_word(&step.action);
        let mut ask = self.ask(&SCRIPTS.dead_move);
        let progress = step.progress.as_ref();
        let was = progress.and_then(|progress| progress.was.as_deref());
        ask.number(head.id)
            .number(now.as_millis())
            .text(&now.to_string())
            .text(action)
            .number(u8::from(forced))
            .text(&step.by)
            .text(&step.note)
            .text(&step.job)
            .text(progress.map_or("", |progress| &progress.key))
            .number(u8::from(was.is_some()))
            .bytes(was.unwrap_or_default())
            .bytes(progress.map_or(&[], |progress| &progress.value))
            .number(step.ids.len());
        match &step.action {
            DeadAction::Reprocess { force, edited } => {
                self.pass_events(&mut ask, &head, step, *force, edited, now).await?;
            }
            DeadAction::Recall | DeadAction::Resolve | DeadAction::Discard | DeadAction::Purge => {
                for id in &step.ids {
                    ask.position(*id);
                }
            }
        }
        let mut answer = self.run(ask, "move dead letters").await?;
        let statuses = answer.each(|one| {
            let mut one = one.list()?;
            Ok(match one.text()?.as_str() {
                "moved" => DeadStepStatus::Moved(one.maybe_position()?),
                "refused" => DeadStepStatus::Refused(state_of(one.number()?)?),
                _ => DeadStepStatus::Missing,
            })
        })?;
        let groups: Vec<u32> = self.registry.read().groups.values().map(|group| group.id).collect();
        self.wake.ring(&groups);
        Ok(statuses)
    }

    /// Passes the events that a reprocess brings back; those that will be refused bring none.
    async fn pass_events(
        &self,
        ask: &mut Ask,
        head: &StreamHead,
        step: &DeadStep,
        force: bool,
        edited: &[Event],
        now: Timestamp,
    ) -> Result<()> {
        let letters = self.load(head, &step.ids).await?;
        let (mut bytes, mut count) = (0, 0);
        for (index, (id, letter)) in step.ids.iter().zip(letters).enumerate() {
            ask.position(*id);
            let Some(letter) = letter.filter(|letter| force || letter.state == DeadState::Parked) else {
                ask.text("").number(0);
                continue;
            };
            let event = brought(&letter, edited.get(index))?;
            let (origin, group) = (self.stream_head(&letter.stream).await?, self.group_head(&letter.group).await?);
            let past = Head { group: group.id, forced: force, past: entry::lines(&letter.attempts) };
            let fields = entry::fields(event, &letter.stream, now, Some(&past));
            (bytes, count) = (bytes + fields.bytes(), count + 1);
            if count > 1 && bytes > STEP_EVENTS {
                let note = format!("{} dead letters are too large for one step", step.ids.len());
                return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
            }
            ask.number(origin.id);
            fields.pass(ask);
        }
        Ok(())
    }

    async fn take_in(&self, name: &StreamName, letters: &[DeadImport]) -> Result<Vec<Appended>> {
        let head = self.dead_head(name).await?;
        let origin = head.spec.name.origin();
        let mut ask = self.ask(&SCRIPTS.dead_import);
        ask.number(head.id).number(self.options.clock.now().as_millis()).number(letters.len());
        let mut bytes = 0;
        for letter in letters {
            letter.event.check()?;
            let group = self.group_head(&letter.group).await?;
            if group.spec.stream != origin {
                let (group, stream) = (letter.group.as_str(), origin.as_str());
                return Err(Fault::invalid(format!("group {group:?} does not read stream {stream:?}")));
            }
            bytes += pass_import(&mut ask, letter, group.id)?;
            if bytes > limits::STEP_BYTES_MAX {
                let note = "the dead letters are too large together; bring fewer at a time";
                return Err(Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note));
            }
        }
        if letters.is_empty() {
            return Ok(Vec::new());
        }
        let mut answer = self.run(ask, "take in dead letters").await?;
        answer.each(|one| Ok(Appended { position: one.position()?, duplicate: one.flag()? }))
    }
}

/// Passes an imported letter; returns its size.
fn pass_import(ask: &mut Ask, letter: &DeadImport, group: u32) -> Result<usize> {
    let event = &letter.event;
    let past = past_of(letter);
    let change = letter.changed.as_ref().filter(|_| letter.state != DeadState::Parked);
    let known = Letter {
        c: letter.class.code(),
        msg: &letter.message,
        sig: &tidegate_core::signature(&letter.message),
        kind: &event.kind,
        cfg: &letter.config,
        eid: &event.id,
        src: &event.source,
        st: Some(letter.state as u8),
        g: Some(group.to_string()),
        p: Some("0-0"),
        at: Some(letter.failed_at.as_millis()),
        ch: change.map(|ch| Change { at: ch.at.as_millis(), by: &ch.by, note: &ch.note, job: &ch.job }),
    };
    ask.text(&event.source).text(&entry::lines(past)).text(&letter_json(&known)?);
    let times = (letter.failed_at, letter.failed_at);
    let fields = entry::letter_fields(event, &letter.message, past.len(), times);
    fields.pass(ask);
    Ok(fields.bytes())
}

#[async_trait]
impl DeadLetters for RedisStore {
    async fn dead_letters(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadLetter>> {
        let head = self.dead_head(stream).await?;
        let (found, next) = self.select(&head, query).await?;
        let ids: Vec<Position> = found.iter().map(|meta| meta.entry.id).collect();
        let items = self.load(&head, &ids).await?.into_iter().flatten().collect();
        Ok(Page { items, next })
    }

    async fn dead_entries(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadEntry>> {
        let head = self.dead_head(stream).await?;
        let (found, next) = self.select(&head, query).await?;
        Ok(Page { items: found.into_iter().map(|meta| meta.entry).collect(), next })
    }

    async fn dead_letter(&self, stream: &StreamName, id: Position) -> Result<DeadLetter> {
        let head = self.dead_head(stream).await?;
        let missing = || Fault::missing(format!("there is no dead letter {id} in {:?}", head.spec.name.as_str()));
        self.load(&head, &[id]).await?.into_iter().flatten().next().ok_or_else(missing)
    }

    async fn move_dead(&self, step: &DeadStep) -> Result<Vec<DeadStepStatus>> {
        self.move_letters(step).await
    }

    async fn dead_report(&self, stream: &StreamName, since: Timestamp, until: Timestamp) -> Result<DeadReport> {
        let head = self.dead_head(stream).await?;
        self.report(&head, since, until).await
    }

    async fn import_dead(&self, stream: &StreamName, letters: Vec<DeadImport>) -> Result<Vec<Appended>> {
        self.take_in(stream, &letters).await
    }
}

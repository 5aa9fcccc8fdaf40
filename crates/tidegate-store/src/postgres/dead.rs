//! Dead letters: read, moved in one commit with what the move brings about, counted, and taken in from elsewhere.

mod report;

use async_trait::async_trait;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    event::Event,
    fault::{Fault, FaultClass, Result},
    limits,
    names::{GroupName, StreamName},
    signature,
    store::{
        Appended, DeadAction, DeadChange, DeadEntry, DeadImport, DeadLetter, DeadLetters, DeadQuery, DeadReport,
        DeadState, DeadStep, DeadStepStatus, Page,
    },
};
use tokio_postgres::Row;

use super::{
    PostgresStore,
    link::Lane,
    row::{Columns, EventRow, event, get, number, odd, position, text, time},
};
use crate::served::{
    declared::StreamHead,
    facts::too_much,
    lines::{attempts, lines},
    steps::{STEP_EVENTS, action_word, brought, check_step, past_of, state_of},
};

fn state(row: &Row) -> Result<DeadState> {
    usize::try_from(get::<i16>(row, "st")?).ok().and_then(state_of).ok_or_else(odd)
}

fn class(number: i16) -> Result<FaultClass> {
    u8::try_from(number).ok().and_then(FaultClass::from_code).ok_or_else(odd)
}

impl PostgresStore {
    fn group_of(&self, id: i32) -> Result<GroupName> {
        let name = self.registry.read().group_name(id.cast_unsigned());
        name.map_or_else(|| GroupName::new("removed"), Ok)
    }

    fn entry(&self, row: &Row) -> Result<DeadEntry> {
        Ok(DeadEntry {
            id: position(get(row, "id")?),
            group: self.group_of(get(row, "gid")?)?,
            position: position(get(row, "n")?),
            state: state(row)?,
            class: class(get(row, "class")?)?,
            failed_at: time(row, "at")?.ok_or_else(odd)?,
        })
    }

    fn letter(&self, head: &StreamHead, row: &Row) -> Result<DeadLetter> {
        let DeadEntry { id, group, position: origin, state, class, failed_at } = self.entry(row)?;
        let word = |name| Ok::<_, Fault>(get::<Option<&str>>(row, name)?.unwrap_or_default().into());
        let (by, note, job) = (word("ch_by")?, word("ch_note")?, word("ch_job")?);
        let went = get::<Option<i64>>(row, "ch_went")?.map(position);
        Ok(DeadLetter {
            id,
            stream: head.spec.name.origin(),
            group,
            position: origin,
            state,
            event: event(get(row, "body")?)?,
            class,
            message: word("message")?,
            signature: word("signature")?,
            attempts: attempts(get(row, "hist")?),
            failed_at,
            config: word("config")?,
            changed: time(row, "ch_at")?.map(|at| DeadChange { at, by, note, job, position: went }),
        })
    }

    /// Chooses letters, and says whether there are more.
    async fn select(&self, head: &StreamHead, query: &DeadQuery, whole: bool) -> Result<(Vec<Row>, bool)> {
        let limit = query.limit.clamp(1, limits::PAGE_MAX);
        let group = match &query.group {
            None => None,
            Some(name) => Some(self.group_head(name).await?.id.cast_signed()),
        };
        let id = head.id.cast_signed();
        let state = query.state.map(|state| state as i16);
        let (before, after) = (query.before.map(number), query.after.map(number));
        let (since, until) = (query.since.map(Timestamp::as_millis), query.until.map(Timestamp::as_millis));
        // One more tells whether there is another page.
        let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let statement = match (query.after.is_some(), whole) {
            (true, true) => {
                "SELECT * FROM letters WHERE sid = $1 AND ($2::smallint IS NULL OR st = $2) AND ($3::int IS NULL OR gid = $3) \
                 AND ($4::bigint IS NULL OR id < $4) AND id > $5 AND ($6::bigint IS NULL OR at >= $6) AND ($7::bigint IS NULL \
                 OR at < $7) ORDER BY id LIMIT $8"
            }
            (false, true) => {
                "SELECT * FROM letters WHERE sid = $1 AND ($2::smallint IS NULL OR st = $2) AND ($3::int IS NULL OR gid = $3) \
                 AND ($4::bigint IS NULL OR id < $4) AND ($5::bigint IS NULL OR id > $5) AND ($6::bigint IS NULL OR at >= $6) \
                 AND ($7::bigint IS NULL OR at < $7) ORDER BY id DESC LIMIT $8"
            }
            (true, false) => {
                "SELECT id, gid, n, st, class, at FROM letters WHERE sid = $1 AND ($2::smallint IS NULL OR st = $2) AND ($3::int \
                 IS NULL OR gid = $3) AND ($4::bigint IS NULL OR id < $4) AND id > $5 AND ($6::bigint IS NULL OR at >= $6) AND \
                 ($7::bigint IS NULL OR at < $7) ORDER BY id LIMIT $8"
            }
            (false, false) => {
                "SELECT id, gid, n, st, class, at FROM letters WHERE sid = $1 AND ($2::smallint IS NULL OR st = $2) AND ($3::int \
                 IS NULL OR gid = $3) AND ($4::bigint IS NULL OR id < $4) AND ($5::bigint IS NULL OR id > $5) AND ($6::bigint IS \
                 NULL OR at >= $6) AND ($7::bigint IS NULL OR at < $7) ORDER BY id DESC LIMIT $8"
            }
        };
        let values: super::Values<'_> = &[&id, &state, &group, &before, &after, &since, &until, &most];
        let mut rows = self.ask(Lane::Look, "list dead letters", statement, values).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok((rows, more))
    }

    /// Reads letters whole, in the order of their ids; what is not there is left out.
    async fn load(&self, head: &StreamHead, ids: &[Position]) -> Result<Vec<DeadLetter>> {
        let (id, ids): (i32, Vec<i64>) = (head.id.cast_signed(), ids.iter().map(|id| number(*id)).collect());
        let statement = "SELECT * FROM letters WHERE sid = $1 AND id = ANY($2)";
        let rows = self.ask(Lane::Look, "read dead letters", statement, &[&id, &ids]).await?;
        rows.iter().map(|row| self.letter(head, row)).collect()
    }

    /// Reads a letter of a stream; none when there is none.
    pub(crate) async fn dead_letter_of(&self, stream: &StreamHead, id: Position) -> Result<Option<DeadLetter>> {
        let head = self.dead_head(&stream.spec.name).await?;
        Ok(self.load(&head, &[id]).await?.into_iter().next())
    }

    async fn move_letters(&self, step: &DeadStep) -> Result<Vec<DeadStepStatus>> {
        check_step(step)?;
        let head = self.dead_head(&step.stream).await?;
        if step.ids.is_empty() && step.progress.is_none() {
            return Ok(Vec::new());
        }
        let (action, forced) = action_word(&step.action);
        let events = match &step.action {
            DeadAction::Reprocess { force, edited } => self.brought_back(&head, step, *force, edited).await?,
            DeadAction::Recall | DeadAction::Resolve | DeadAction::Discard | DeadAction::Purge => {
                step.ids.iter().map(|_| None).collect()
            }
        };
        let mut columns = Columns::default();
        for event in &events {
            match event {
                Some(event) => columns.push(event),
                None => columns.push_none(),
            }
        }
        let origin = self.stream_head(&head.spec.name.origin()).await?.id.cast_signed();
        let to: Vec<i32> = step.ids.iter().map(|_| origin).collect();
        let (id, now) = (head.id.cast_signed(), self.now());
        let ids: Vec<i64> = step.ids.iter().map(|id| number(*id)).collect();
        let (by, note, job) = (text(&step.by), text(&step.note), text(&step.job));
        let key = step.progress.as_ref().map(|progress| text(&progress.key));
        let was = step.progress.as_ref().and_then(|progress| progress.was.as_ref());
        let value = step.progress.as_ref().map(|progress| &progress.value);
        let Columns { kind, body, due, expires, urgency, waits, .. } = &columns;
        let statement = "SELECT o_word, o_number FROM tg_move($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, \
                         $16, $17, $18)";
        let values: super::Values<'_> = &[
            &id, &now, &action, &forced, &by, &note, &job, &key, &was, &value, &ids, &to, kind, body, due, expires,
            urgency, waits,
        ];
        let row = self.ask_one(Lane::Settle, "move dead letters", statement, values).await?;
        let words: Vec<&str> = get::<Option<_>>(&row, "o_word")?.unwrap_or_default();
        let numbers: Vec<Option<i64>> = get::<Option<_>>(&row, "o_number")?.unwrap_or_default();
        let status = |(word, number): (&str, Option<i64>)| match word {
            "M" => Ok(DeadStepStatus::Moved(number.map(position))),
            "R" => {
                let state = number.and_then(|number| usize::try_from(number).ok()).and_then(state_of);
                Ok(DeadStepStatus::Refused(state.ok_or_else(odd)?))
            }
            _ => Ok(DeadStepStatus::Missing),
        };
        let statuses = words.into_iter().zip(numbers).map(status).collect::<Result<Vec<_>>>()?;
        let groups: Vec<u32> = self.registry.read().groups.values().map(|group| group.id).collect();
        self.wake.ring(&groups);
        Ok(statuses)
    }

    /// The events that a reprocess brings back; those that will be refused bring none.
    async fn brought_back(
        &self,
        head: &StreamHead,
        step: &DeadStep,
        force: bool,
        edited: &[Event],
    ) -> Result<Vec<Option<EventRow>>> {
        let letters = self.load(head, &step.ids).await?;
        let (mut bytes, mut rows) = (0, Vec::with_capacity(step.ids.len()));
        for (index, id) in step.ids.iter().enumerate() {
            let letter = letters.iter().find(|letter| letter.id == *id);
            let Some(letter) = letter.filter(|letter| force || letter.state == DeadState::Parked) else {
                rows.push(None);
                continue;
            };
            self.group_head(&letter.group).await?;
            let row = EventRow::new(&self.key, brought(letter, edited.get(index))?, None);
            bytes += row.size();
            if rows.iter().any(Option::is_some) && bytes > STEP_EVENTS {
                return Err(too_much(format!("{} dead letters are too large for one step", step.ids.len())));
            }
            rows.push(Some(row));
        }
        Ok(rows)
    }

    async fn take_in(&self, name: &StreamName, letters: &[DeadImport]) -> Result<Vec<Appended>> {
        let head = self.dead_head(name).await?;
        let origin = head.spec.name.origin();
        let (mut groups, mut rows) = (Vec::new(), Vec::new());
        for letter in letters {
            letter.event.check()?;
            let group = self.group_head(&letter.group).await?;
            if group.spec.stream != origin {
                let (group, stream) = (letter.group.as_str(), origin.as_str());
                return Err(Fault::invalid(format!("group {group:?} does not read stream {stream:?}")));
            }
            groups.push(group.id.cast_signed());
            rows.push(EventRow::new(&self.key, &letter.event, None));
        }
        if rows.iter().map(EventRow::size).sum::<usize>() > limits::STEP_BYTES_MAX {
            return Err(too_much("the dead letters are too large together; bring fewer at a time"));
        }
        if letters.is_empty() {
            return Ok(Vec::new());
        }
        let mut columns = Columns::default();
        rows.iter().for_each(|row| columns.push(row));
        fn all<'l, T>(letters: &'l [DeadImport], take: impl Fn(&'l DeadImport) -> T) -> Vec<T> {
            letters.iter().map(take).collect()
        }
        let changed = |letter: &'_ DeadImport| letter.changed.clone().filter(|_| letter.state != DeadState::Parked);
        let (states, classes) = (all(letters, |one| one.state as i16), all(letters, |one| i16::from(one.class.code())));
        let messages = all(letters, |one| text(&one.message));
        let signatures = all(letters, |one| text(&signature(&one.message)));
        let (configs, times) = (all(letters, |one| text(&one.config)), all(letters, |one| one.failed_at.as_millis()));
        let histories = all(letters, |one| lines(past_of(one)));
        let ch_at = all(letters, |one| changed(one).map(|change| change.at.as_millis()));
        let ch_by = all(letters, |one| changed(one).map(|change| text(&change.by)));
        let ch_note = all(letters, |one| changed(one).map(|change| text(&change.note)));
        let ch_job = all(letters, |one| changed(one).map(|change| text(&change.job)));
        let id = head.id.cast_signed();
        let Columns { fingerprint, kind, body, .. } = &columns;
        let statement =
            "SELECT o_id, o_dup FROM tg_import($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";
        let values: super::Values<'_> = &[
            &id,
            &groups,
            &states,
            &classes,
            &messages,
            &signatures,
            kind,
            &configs,
            fingerprint,
            &times,
            &histories,
            body,
            &ch_at,
            &ch_by,
            &ch_note,
            &ch_job,
        ];
        let row = self.ask_one(Lane::Settle, "take in dead letters", statement, values).await?;
        let places = get::<Vec<i64>>(&row, "o_id")?.into_iter().zip(get::<Vec<bool>>(&row, "o_dup")?);
        Ok(places.map(|(id, duplicate)| Appended { position: position(id), duplicate }).collect())
    }
}

#[async_trait]
impl DeadLetters for PostgresStore {
    async fn dead_letters(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadLetter>> {
        let head = self.dead_head(stream).await?;
        let (rows, more) = self.select(&head, query, true).await?;
        let items = rows.iter().map(|row| self.letter(&head, row)).collect::<Result<Vec<_>>>()?;
        let next = items.last().filter(|_| more).map(|last| last.id);
        Ok(Page { items, next })
    }

    async fn dead_entries(&self, stream: &StreamName, query: &DeadQuery) -> Result<Page<DeadEntry>> {
        let head = self.dead_head(stream).await?;
        let (rows, more) = self.select(&head, query, false).await?;
        let items = rows.iter().map(|row| self.entry(row)).collect::<Result<Vec<_>>>()?;
        let next = items.last().filter(|_| more).map(|last| last.id);
        Ok(Page { items, next })
    }

    async fn dead_letter(&self, stream: &StreamName, id: Position) -> Result<DeadLetter> {
        let head = self.dead_head(stream).await?;
        let missing = || Fault::missing(format!("there is no dead letter {id} in {:?}", head.spec.name.as_str()));
        self.load(&head, &[id]).await?.into_iter().next().ok_or_else(missing)
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

//! Answers for people who ask where an event is and why it does not run. Reads, but for letting go what waits for others.

use std::sync::Arc;

use async_trait::async_trait;
use bytestring::ByteString;
use tidegate_core::{
    after::{self, EventName},
    delivery::Position,
    event::Event,
    fault::Result,
    limits, signature,
    store::{Blocked, Page, Stored, Unblock, UnblockHow},
    whereabouts::{Find, Finding, Place, Standing, Steps, Wait},
};
use tokio_postgres::Row;

use super::{
    PostgresStore,
    claim::key_of,
    link::Lane,
    row::{count, get, number, odd, position, stored, text, time},
};
use crate::served::{
    declared::{GroupHead, StreamHead},
    hunt::{Below, Searched, hunt},
    lines::attempts,
    steps::{done_place, state_of, step_of},
};

impl PostgresStore {
    pub(crate) async fn find_event(&self, ask: &Find) -> Result<Finding> {
        if let Some(name) = &ask.stream {
            self.stream_head(&name.origin()).await?;
        }
        self.check_open()?;
        let all: Vec<_> = self.registry.read().streams.values().map(Arc::clone).collect();
        hunt(self, ask, all).await
    }

    pub(crate) async fn standing_of(&self, head: &GroupHead, at: Position) -> Result<Standing> {
        let stream = self.stream_head(&head.spec.stream).await?;
        let kept = self.event_at(&stream, at).await?;
        let event = kept.as_ref().map(|stored| &stored.event);
        let key = event.and_then(|event| key_of(head, event));
        let (id, number, now) = (head.id.cast_signed(), number(at), self.now());
        let line = i64::try_from(limits::ORDER_LOOKAHEAD_MAX).unwrap_or(i64::MAX);
        let statement = "SELECT * FROM tg_standing($1, $2, $3, $4, $5)";
        let row = self
            .ask_one(Lane::Look, "ask where an event stands", statement, &[&id, &number, &now, &key, &line])
            .await?;
        let place = self.place(&row, at, event)?;
        if matches!(place, Place::Dead { .. }) {
            return Ok(place.into());
        }
        Ok(Standing {
            place,
            attempts: u32::try_from(get::<i32>(&row, "o_a")?).unwrap_or(0),
            crashes: u32::try_from(get::<i32>(&row, "o_c")?).unwrap_or(0),
            history: attempts(get(&row, "o_hist")?),
        })
    }

    fn place(&self, row: &Row, at: Position, event: Option<&Event>) -> Result<Place> {
        let until = || time(row, "o_at")?.ok_or_else(odd);
        let other =
            || Ok::<Option<Position>, tidegate_core::fault::Fault>(get::<Option<i64>>(row, "o_n")?.map(position));
        let scheduled = |wait| Ok::<Place, tidegate_core::fault::Fault>(Place::Scheduled { until: until()?, wait });
        Ok(match get::<&str>(row, "o_word")? {
            "lent" => Place::Lent { until: until()? },
            "blocked" => Place::Blocked { by: other()?.filter(|by| *by != at) },
            "after" => Place::After { waits_for: self.names_of(row, "o_unmet", event)? },
            "twin" => scheduled(Wait::Twin(other()?.ok_or_else(odd)?))?,
            "deliver" => scheduled(Wait::DeliverAt)?,
            "retry" => scheduled(Wait::Retry)?,
            "waiting" => {
                let ahead = get::<Option<i64>>(row, "o_n")?.unwrap_or(0);
                Place::Waiting { ahead: count(ahead), held_up: get(row, "o_held")? }
            }
            "absent" => Place::Absent,
            "foreign" => Place::Foreign,
            "dead" => {
                let state = usize::try_from(get::<i32>(row, "o_c")?).ok().and_then(state_of).ok_or_else(odd)?;
                Place::Dead { id: other()?.ok_or_else(odd)?, state, at: until()? }
            }
            "done" => done_place(at, other()?.ok_or_else(odd)?, until()?),
            "expired" => Place::Expired,
            "skipped" => Place::Skipped,
            "dropped" => Place::Dropped,
            "settled" => Place::Settled,
            _ => return Err(odd()),
        })
    }

    /// The events of those that an event names whose fingerprints stand in a column.
    fn names_of(&self, row: &Row, column: &str, event: Option<&Event>) -> Result<Vec<EventName>> {
        let unmet: Vec<Vec<u8>> = get::<Option<_>>(row, column)?.unwrap_or_default();
        let names = event.map(|event| after::names(event).unwrap_or_default()).unwrap_or_default();
        Ok(names.into_iter().filter(|name| unmet.contains(&self.mark(&name.source, &name.id))).collect())
    }

    /// Tells what is still known of an event: how it was settled, and what it waits for.
    pub(crate) async fn steps_of(&self, stream: &StreamHead, at: Position) -> Result<Steps> {
        let heads: Vec<_> = {
            let registry = self.registry.read();
            let readers = registry.groups.values().filter(|group| group.spec.stream == stream.spec.name);
            readers.map(Arc::clone).collect()
        };
        let mut items = Vec::new();
        for head in heads {
            let standing = self.standing_of(&head, at).await?;
            let mut letter = None;
            if let Place::Dead { id, .. } = standing.place {
                letter = self.dead_letter_of(stream, id).await?;
            }
            items.extend(step_of(&head.spec.name, &standing, letter));
        }
        items.sort_by_key(|step| step.at);
        // The tables keep what is true now, not how it came about.
        Ok(Steps { items, whole: false })
    }

    pub(crate) async fn list_blocked(&self, head: &GroupHead, from: Position, max: usize) -> Result<Page<Blocked>> {
        let max = max.clamp(1, limits::PAGE_MAX);
        let (id, from) = (head.id.cast_signed(), number(from));
        let most = i64::try_from(max + 1).unwrap_or(i64::MAX);
        let statement = "SELECT e.n, e.at, e.body, (SELECT array_agg(w.f) FROM waits w WHERE w.gid = d.gid AND w.n = d.n) AS unmet \
                         FROM deliveries d JOIN groups g ON g.id = d.gid CROSS JOIN LATERAL (SELECT x.n, x.at, x.body FROM events x \
                         WHERE x.sid = g.sid AND x.n = d.n OFFSET 0) e WHERE d.gid = $1 AND d.st = 'w' AND d.n >= $2 ORDER BY d.n LIMIT $3";
        let mut rows = self.ask(Lane::Look, "list what waits", statement, &[&id, &from, &most]).await?;
        let next =
            if rows.len() > max { rows.pop().map(|row| get(&row, "n")).transpose()?.map(position) } else { None };
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            let stored = stored(row)?;
            let waits_for = self.names_of(row, "unmet", Some(&stored.event))?;
            items.push(Blocked { stored, waits_for });
        }
        Ok(Page { items, next })
    }

    /// Lets deliveries go or buries them, those that wait.
    pub(crate) async fn unblock_some(&self, head: &GroupHead, ask: &Unblock) -> Result<Vec<bool>> {
        let status = self.group_status_of(head).await?;
        // Nobody has looked at it, and what lies before it has to be looked at too.
        let within = number(status.next) + i64::try_from(status.unseen).unwrap_or(i64::MAX);
        let unseen = ask.positions.iter().filter(|position| **position >= status.next && number(**position) < within);
        if let Some(last) = unseen.max() {
            self.look_up_to(head, *last).await?;
        }
        let numbers: Vec<i64> = ask.positions.iter().map(|position| number(*position)).collect();
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let (id, now) = (head.id.cast_signed(), self.now());
        let (mut dead, mut class, mut words) = (None, 0_i16, [String::new(), String::new(), String::new()]);
        if let UnblockHow::Bury { failure, config } = &ask.how {
            dead = Some(self.dead_head(&head.spec.stream).await?.id.cast_signed());
            class = i16::from(failure.class.code());
            words = [text(&failure.message), text(&signature(&failure.message)), text(config)];
        }
        let [message, signature, config] = &words;
        let statement = "SELECT tg_unblock($1, $2, $3, $4, $5, $6, $7, $8) AS found";
        let values: super::Values<'_> = &[&id, &now, &numbers, &dead, &class, message, signature, config];
        let row = self.ask_one(Lane::Settle, "let go what waits", statement, values).await?;
        self.wake.ring(&[head.id]);
        get(&row, "found")
    }
}

#[async_trait]
impl Searched for PostgresStore {
    async fn below(&self, stream: &StreamHead, from: Option<Position>, max: usize) -> Result<Below> {
        let slice = self.slice(stream, from, true, max, limits::CLAIM_BYTES_MAX).await?;
        let first = (slice.first <= slice.last).then(|| position(slice.first));
        Ok(Below { found: slice.found, first })
    }

    async fn places(&self, stream: &StreamHead, source: &ByteString, id: &ByteString) -> Result<Vec<Position>> {
        let (number, now, mark) = (stream.id.cast_signed(), self.now(), self.mark(source, id));
        let statement = "SELECT tg_places($1, $2, $3) AS n";
        let rows = self.ask(Lane::Look, "ask the indexes", statement, &[&number, &now, &mark]).await?;
        rows.iter().map(|row| get(row, "n").map(position)).collect()
    }

    async fn event_at(&self, stream: &StreamHead, at: Position) -> Result<Option<Stored>> {
        let (id, number) = (stream.id.cast_signed(), number(at));
        let statement = "SELECT n, at, body FROM events WHERE sid = $1 AND n = $2";
        let rows = self.ask(Lane::Look, "read an event", statement, &[&id, &number]).await?;
        rows.first().map(stored).transpose()
    }
}

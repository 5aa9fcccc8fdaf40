//! Appending and reading events.

use tidegate_core::{
    delivery::Position,
    event::Event,
    fault::Result,
    limits,
    names::{GroupName, StreamName},
    store::{Appended, Page, Stored},
};

use super::{
    PostgresStore,
    batch::{self, Append},
    link::Lane,
    row::{EventRow, get, number, position, stored},
};
use crate::served::{
    declared::StreamHead,
    facts::{check_append, full},
};

/// A part of a stream that was read.
pub(crate) struct Slice {
    /// Newest position; 0 when there never was one.
    pub(crate) last: i64,
    /// Oldest kept position; behind the newest when none is kept.
    pub(crate) first: i64,
    pub(crate) found: Vec<Stored>,
}

impl PostgresStore {
    pub(crate) async fn append_all(&self, name: &StreamName, events: Vec<Event>) -> Result<Vec<Appended>> {
        let head = self.stream_head(name).await?;
        check_append(name, &events)?;
        if events.is_empty() {
            return Ok(Vec::new());
        }
        events.iter().try_for_each(Event::check)?;
        let rows: Vec<EventRow> =
            events.iter().map(|event| EventRow::new(&self.key, event, self.window_mark(&head, event))).collect();
        let count = rows.len();
        let answer = match self.batches.append(Append { stream: head.id, now: self.now(), rows }).await {
            Ok(answer) => answer,
            Err(trouble) => return Err(self.heard(trouble, &format!("append to stream {:?}", name.as_str())).await),
        };
        let appended: Vec<Appended> = match answer {
            batch::Appended::Full { group, backlog } => {
                let group = GroupName::new(&group)?;
                let id = self.registry.read().groups.get(&group).map(|group| group.id);
                let rate =
                    id.and_then(|id| self.told.lock().drain.get(&id).map(|drain| drain.per_second)).unwrap_or(0.0);
                return Err(full(&head.spec, &group, super::row::count(backlog), count, rate));
            }
            batch::Appended::Done(places) => {
                let answer = |(number, duplicate)| Appended { position: position(number), duplicate };
                places.into_iter().map(answer).collect()
            }
        };
        let repeats = appended.iter().filter(|one| one.duplicate).count() as u64;
        if repeats > 0 {
            *self.told.lock().duplicates.entry(head.id).or_default() += repeats;
        }
        self.wake.ring_streams(&self.registry, &[head.id]);
        Ok(appended)
    }

    /// By what the dedupe window of a stream recognises an event; none without a window.
    pub(crate) fn window_mark(&self, head: &StreamHead, event: &Event) -> Option<Vec<u8>> {
        let window = head.spec.dedupe.as_ref();
        window.map(|window| window.key.fingerprint(&self.key, event).to_le_bytes().to_vec())
    }

    /// Reads a part of a stream upwards from a position on, or downwards from before one, newest first.
    pub(crate) async fn slice(
        &self,
        head: &StreamHead,
        from: Option<Position>,
        down: bool,
        max: usize,
        bytes: usize,
    ) -> Result<Slice> {
        let statement = match (head.spec.name.is_dead_letters(), down) {
            (false, false) => {
                "SELECT s.acc, s.first_n, x.* FROM streams s LEFT JOIN LATERAL (SELECT y.n, y.at, y.body FROM (SELECT e.n, e.at, \
                 e.body, sum(e.size) OVER (ORDER BY e.n) - e.size AS before FROM (SELECT * FROM events WHERE sid = s.id AND \
                 n >= greatest($2, s.first_n) ORDER BY n LIMIT $3) e) y WHERE y.before < $4 ORDER BY y.n) x ON true \
                 WHERE s.id = $1"
            }
            (false, true) => {
                "SELECT s.acc, s.first_n, x.* FROM streams s LEFT JOIN LATERAL (SELECT y.n, y.at, y.body FROM (SELECT e.n, e.at, \
                 e.body, sum(e.size) OVER (ORDER BY e.n DESC) - e.size AS before FROM (SELECT * FROM events WHERE sid = s.id \
                 AND n < $2 AND n >= s.first_n ORDER BY n DESC LIMIT $3) e) y WHERE y.before < $4 ORDER BY y.n DESC) x ON true \
                 WHERE s.id = $1"
            }
            (true, false) => {
                "SELECT s.acc, (SELECT coalesce(min(id), s.acc + 1) FROM letters WHERE sid = s.id) AS first_n, x.* FROM streams s \
                 LEFT JOIN LATERAL (SELECT y.n, y.at, y.body FROM (SELECT e.id AS n, e.at, e.body, sum(e.size) OVER (ORDER BY \
                 e.id) - e.size AS before FROM (SELECT * FROM letters WHERE sid = s.id AND id >= $2 ORDER BY id LIMIT $3) e) y \
                 WHERE y.before < $4 ORDER BY y.n) x ON true WHERE s.id = $1"
            }
            (true, true) => {
                "SELECT s.acc, (SELECT coalesce(min(id), s.acc + 1) FROM letters WHERE sid = s.id) AS first_n, x.* FROM streams s \
                 LEFT JOIN LATERAL (SELECT y.n, y.at, y.body FROM (SELECT e.id AS n, e.at, e.body, sum(e.size) OVER (ORDER BY \
                 e.id DESC) - e.size AS before FROM (SELECT * FROM letters WHERE sid = s.id AND id < $2 ORDER BY id DESC LIMIT \
                 $3) e) y WHERE y.before < $4 ORDER BY y.n DESC) x ON true WHERE s.id = $1"
            }
        };
        let edge = if down { i64::MAX } else { 0 };
        let (id, from) = (head.id.cast_signed(), from.map_or(edge, number));
        let (max, bytes) = (i64::try_from(max).unwrap_or(i64::MAX), i64::try_from(bytes).unwrap_or(i64::MAX));
        let what = format!("read stream {:?}", head.spec.name.as_str());
        let rows = self.ask(Lane::Look, &what, statement, &[&id, &from, &max, &bytes]).await?;
        let mut slice = Slice { last: 0, first: 1, found: Vec::with_capacity(rows.len()) };
        for row in &rows {
            (slice.last, slice.first) = (get(row, "acc")?, get(row, "first_n")?);
            if get::<Option<i64>>(row, "n")?.is_some() {
                slice.found.push(stored(row)?);
            }
        }
        Ok(slice)
    }

    pub(crate) async fn read_page(&self, name: &StreamName, from: Position, max: usize) -> Result<Page<Stored>> {
        let head = self.stream_head(name).await?;
        let slice = self.slice(&head, Some(from), false, max.min(limits::PAGE_MAX), limits::CLAIM_BYTES_MAX).await?;
        let last = slice.found.last().map(|last| number(last.position));
        let next = last.filter(|last| *last < slice.last).map(|last| position(last + 1));
        Ok(Page { items: slice.found, next })
    }
}

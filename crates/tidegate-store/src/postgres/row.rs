//! Events on their way into a table, as columns of arrays; and out of it.

use tidegate_core::{
    after,
    clock::Timestamp,
    delivery::Position,
    event::{DELIVER_AT, EXPIRY_TIME, Event, FingerprintKey},
    fault::{Fault, Result},
    priority,
    store::Stored,
};
use tokio_postgres::{Row, types::FromSql};

use crate::served::facts::instant;

/// An event with what the functions decide by.
#[derive(Debug, Clone)]
pub(crate) struct EventRow {
    /// By what the dedupe window of its stream recognises it; none without a window.
    pub(crate) mark: Option<Vec<u8>>,
    fingerprint: Vec<u8>,
    kind: String,
    body: Vec<u8>,
    due: Option<i64>,
    expires: Option<i64>,
    urgency: i16,
    waits: Option<Vec<u8>>,
}

impl EventRow {
    pub(crate) fn new(key: &FingerprintKey, event: &Event, mark: Option<Vec<u8>>) -> Self {
        let mut body = Vec::with_capacity(event.size() + 16);
        event.encode(&mut body);
        let time = |name| instant(event, name).map(Timestamp::as_millis);
        // What was accepted before an attribute had its meaning may be anything: then it means nothing.
        let names = after::names(event).unwrap_or_default();
        let waits: Vec<u8> = names.iter().flat_map(|name| key.of(&name.source, &name.id).to_le_bytes()).collect();
        Self {
            mark,
            fingerprint: key.of(&event.source, &event.id).to_le_bytes().to_vec(),
            kind: text(&event.kind),
            body,
            due: time(DELIVER_AT),
            expires: time(EXPIRY_TIME),
            urgency: i16::from(priority::of(event).unwrap_or(priority::PRIORITY_USUAL)),
            waits: (!waits.is_empty()).then_some(waits),
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.body.len() + self.kind.len() + 64
    }
}

/// Events as columns, in the order in which the functions take them.
#[derive(Debug, Default)]
pub(crate) struct Columns<'r> {
    pub(crate) mark: Vec<Option<&'r [u8]>>,
    pub(crate) fingerprint: Vec<&'r [u8]>,
    pub(crate) kind: Vec<Option<&'r str>>,
    pub(crate) body: Vec<Option<&'r [u8]>>,
    pub(crate) due: Vec<Option<i64>>,
    pub(crate) expires: Vec<Option<i64>>,
    pub(crate) urgency: Vec<i16>,
    pub(crate) waits: Vec<Option<&'r [u8]>>,
}

impl<'r> Columns<'r> {
    pub(crate) fn push(&mut self, row: &'r EventRow) {
        self.mark.push(row.mark.as_deref());
        self.fingerprint.push(&row.fingerprint);
        self.kind.push(Some(&row.kind));
        self.body.push(Some(&row.body));
        self.due.push(row.due);
        self.expires.push(row.expires);
        self.urgency.push(row.urgency);
        self.waits.push(row.waits.as_deref());
    }

    /// A place without an event.
    pub(crate) fn push_none(&mut self) {
        self.mark.push(None);
        self.fingerprint.push(&[]);
        self.kind.push(None);
        self.body.push(None);
        self.due.push(None);
        self.expires.push(None);
        self.urgency.push(0);
        self.waits.push(None);
    }
}

/// A text as the server takes it: it knows no zero byte.
pub(crate) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A position as a number of the server.
pub(crate) fn number(position: Position) -> i64 {
    // One with a high part is one of another engine, and not here.
    if position.high > 0 { i64::MAX - 1 } else { i64::try_from(position.low).unwrap_or(i64::MAX - 1).min(i64::MAX - 1) }
}

/// A number of the server as a position.
pub(crate) fn position(number: i64) -> Position {
    Position::number(number.max(0).unsigned_abs())
}

/// A count of the server.
pub(crate) fn count(number: i64) -> u64 {
    number.max(0).unsigned_abs()
}

/// An answer of a form that no function gives.
pub(crate) fn odd() -> Fault {
    Fault::corrupt("PostgreSQL answered in a form that was not asked for")
}

/// Reads a column.
pub(crate) fn get<'r, T: FromSql<'r>>(row: &'r Row, name: &str) -> Result<T> {
    row.try_get(name).map_err(|_| odd())
}

/// Reads a time.
pub(crate) fn time(row: &Row, name: &str) -> Result<Option<Timestamp>> {
    Ok(get::<Option<i64>>(row, name)?.map(Timestamp::from_millis))
}

/// Reads an event.
pub(crate) fn event(body: Vec<u8>) -> Result<Event> {
    Event::decode(body.into())
}

/// Reads an event of a stream from the columns `n`, `at` and `body`.
pub(crate) fn stored(row: &Row) -> Result<Stored> {
    Ok(Stored {
        position: position(get(row, "n")?),
        accepted_at: Timestamp::from_millis(get(row, "at")?),
        event: event(get(row, "body")?)?,
    })
}

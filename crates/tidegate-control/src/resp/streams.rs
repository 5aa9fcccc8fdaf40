//! Commands on streams: adding, reading, and what there is.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    envelope,
    event::{Data, Event},
    fault::{Fault, FaultKind},
    limits,
    names::StreamName,
    store::{DeadLetter, DeadQuery, DeadState, StreamStatus},
};
use tidegate_engine::{JobAsk, JobVerb};

use super::{
    args::{Args, Refusal, Result, id, id_text},
    talk::Talk,
    wire::Reply,
};
use crate::api::Api;

/// Type of the data of an event that was added with fields of its own: they are the members of a JSON object.
const FIELDS_TYPE: &str = "application/vnd.tidegate.fields+json";
/// Longest wait for dead letters to be moved.
const MOVE_WAIT: Duration = Duration::from_secs(30);

/// What a key is.
pub(super) enum Key {
    Stream(StreamName),
    /// The dead letters of a stream.
    Dead(StreamName),
}

impl Key {
    /// Dead letters may have a name of their own.
    pub(super) fn new(api: &Api, name: StreamName) -> Self {
        match api.aliases.get(&name) {
            Some(stream) => Self::Dead(stream.origin()),
            None if name.is_dead_letters() => Self::Dead(name.origin()),
            None => Self::Stream(name),
        }
    }
}

pub(super) async fn status(api: &Api, name: &StreamName) -> Result<Option<StreamStatus>> {
    Ok(api.store.streams().await?.into_iter().find(|stream| stream.name == *name))
}

/// What is not there is empty.
fn or_empty<T>(found: Result<T, Fault>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(fault) if fault.kind == FaultKind::Missing => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

/// An event that is to be added.
pub(super) struct Addition {
    pub(super) stream: StreamName,
    pub(super) event: Event,
}

/// Reads what XADD is to add. How much of a stream is kept is a matter of its settings: bounds given here change nothing.
pub(super) fn addition(talk: &Talk, mut args: Args) -> Result<Addition> {
    let stream = args.stream()?;
    if let Key::Dead(_) = Key::new(&talk.api, stream.clone()) {
        return Err(args.wrong("adds no dead letters: those come from groups"));
    }
    args.takes("NOMKSTREAM");
    if args.takes("MAXLEN") || args.takes("MINID") {
        let _ = args.takes("=") || args.takes("~");
        args.word()?;
        if args.takes("LIMIT") {
            args.number::<u64>()?;
        }
    }
    if !args.takes("*") {
        return Err(args.wrong("takes * as the id: the node gives positions"));
    }
    let mut fields = Vec::with_capacity(args.left() / 2);
    while args.left() > 0 {
        fields.push((args.word()?, args.word()?));
    }
    if fields.is_empty() {
        return Err(args.missing());
    }
    let mut event = envelope::read(&fields, &stream, uuid::Uuid::new_v4().to_string());
    let is_envelope = |name: &Bytes| envelope::FIELDS.iter().any(|known| name == known);
    if !fields.iter().any(|(name, _)| name == "payload") || !fields.iter().all(|(name, _)| is_envelope(name)) {
        let is_text = |bytes: &Bytes| std::str::from_utf8(bytes).is_ok();
        if let Some((name, _)) = fields.iter().find(|(name, value)| !is_text(name) || !is_text(value)) {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(args.wrong(&format!("takes fields of an envelope, or text: {name:?} is not UTF-8")));
        }
        event.data = Data::Json(envelope::as_json(&fields));
        event.content_type = Some(FIELDS_TYPE.into());
    }
    Ok(Addition { stream, event })
}

/// Adds events to one stream; those that came together become durable together.
pub(super) async fn add(talk: &Talk, stream: &StreamName, events: Vec<Event>) -> Vec<Reply> {
    let one = |appended: tidegate_core::store::Appended| Reply::text(id_text(appended.position));
    let publisher = &talk.api.publisher;
    if events.len() > 1
        && let Ok(all) = publisher.publish(stream, events.clone()).await
    {
        return all.into_iter().map(one).collect();
    }
    // Alone, so that one that is refused takes no other with it.
    let mut replies = Vec::with_capacity(events.len());
    for event in events {
        replies.push(match publisher.publish(stream, vec![event]).await {
            Ok(all) => all.into_iter().map(one).next().unwrap_or(Reply::Nothing),
            Err(fault) => Reply::Refused(Refusal::from(fault).0),
        });
    }
    replies
}

/// The fields of an event as a program reads them.
fn shown(event: &Event, stream: &StreamName, accepted_at: Timestamp) -> Reply {
    let pair = |name: Bytes, value: Bytes| [Reply::Bytes(name), Reply::Bytes(value)];
    if event.content_type.as_deref() == Some(FIELDS_TYPE)
        && let Ok(Pairs(pairs)) = serde_json::from_slice(&event.data.bytes())
    {
        return Reply::List(pairs.into_iter().flat_map(|(name, value)| pair(name.into(), value.into())).collect());
    }
    let payload = if event.data == Data::None { Bytes::from_static(b"{}") } else { event.data.bytes() };
    let fields = envelope::write(event, stream, accepted_at, payload);
    Reply::List(fields.into_iter().flat_map(|(name, value)| pair(Bytes::from_static(name.as_bytes()), value)).collect())
}

/// The members of an object in their order.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut all = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    all.push(pair);
                }
                Ok(Pairs(all))
            }
        }
        from.deserialize_map(Members)
    }
}

pub(super) fn entry(position: Position, event: &Event, stream: &StreamName, accepted_at: Timestamp) -> Reply {
    Reply::List(vec![Reply::text(id_text(position)), shown(event, stream, accepted_at)])
}

fn letter_entry(letter: &DeadLetter) -> Reply {
    let payload = letter.event.data.bytes();
    let fields = envelope::write_letter(
        &letter.event,
        &letter.message,
        letter.attempts.len(),
        (letter.failed_at, letter.failed_at),
        payload,
    );
    let fields = fields
        .into_iter()
        .flat_map(|(name, value)| [Reply::Bytes(Bytes::from_static(name.as_bytes())), Reply::Bytes(value)]);
    Reply::List(vec![Reply::text(id_text(letter.id)), Reply::List(fields.collect())])
}

pub(super) async fn xlen(talk: &Talk, mut args: Args) -> Result<Reply> {
    let name = args.stream()?;
    args.end()?;
    Ok(Reply::count(match Key::new(&talk.api, name) {
        Key::Stream(name) => status(&talk.api, &name).await?.map_or(0, |status| status.count),
        Key::Dead(stream) => {
            let groups = talk.api.store.groups().await?;
            groups.iter().filter(|group| group.stream == stream).map(|group| group.parked).sum()
        }
    }))
}

/// A part of a stream, both ends included.
struct Span {
    first: Position,
    last: Position,
    count: usize,
}

const LAST: Position = Position { high: u64::MAX, low: u64::MAX };

fn next(position: Position) -> Position {
    match position.low.checked_add(1) {
        Some(low) => Position { low, ..position },
        None => Position { high: position.high.saturating_add(1), low: 0 },
    }
}

fn before(position: Position) -> Position {
    match position.low.checked_sub(1) {
        Some(low) => Position { low, ..position },
        None => Position { high: position.high.saturating_sub(1), low: u64::MAX },
    }
}

/// Reads one end of a span.
fn bound(args: &mut Args, is_first: bool) -> Result<Position> {
    let text = args.text()?;
    let (exclusive, text) = text.strip_prefix('(').map_or((false, text.as_str()), |text| (true, text));
    let position = match text {
        "-" => Some(Position::START),
        "+" => Some(LAST),
        text => id(text, if is_first { 0 } else { u64::MAX }),
    };
    let position = position.ok_or_else(|| args.wrong(&format!("takes ids, - and +, and {text:?} is none of them")))?;
    Ok(match (exclusive, is_first) {
        (false, _) => position,
        (true, true) => next(position),
        (true, false) => before(position),
    })
}

fn span(args: &mut Args, reverse: bool) -> Result<Span> {
    let (one, other) = (bound(args, !reverse)?, bound(args, reverse)?);
    let (first, last) = if reverse { (other, one) } else { (one, other) };
    let count = if args.takes("COUNT") { args.number()? } else { usize::MAX };
    args.end()?;
    Ok(Span { first, last, count })
}

/// Entries on their way into an answer.
#[derive(Default)]
struct Collected {
    entries: Vec<Reply>,
    bytes: usize,
}

impl Collected {
    fn add(&mut self, entry: Reply, bytes: usize) -> Result<()> {
        self.bytes += bytes;
        if self.entries.len() >= limits::BATCH_EVENTS_MAX || self.bytes > limits::CLAIM_BYTES_MAX {
            let (count, bytes) = (limits::BATCH_EVENTS_MAX, limits::CLAIM_BYTES_MAX);
            let note = format!(
                "more than {count} entries or {bytes} bytes in one answer: give COUNT, and go on behind its last"
            );
            return Err(Refusal::new(note));
        }
        self.entries.push(entry);
        Ok(())
    }
}

pub(super) async fn xrange(talk: &Talk, mut args: Args) -> Result<Reply> {
    let name = args.stream()?;
    let span = span(&mut args, false)?;
    let mut all = Collected::default();
    match Key::new(&talk.api, name) {
        Key::Stream(name) => upwards(&talk.api, &name, &span, &mut all).await?,
        Key::Dead(stream) => {
            let after = Some(before(span.first)).filter(|_| span.first > Position::START);
            letters(&talk.api, &stream, &span, (after.or(Some(Position::START)), None), &mut all).await?;
        }
    }
    Ok(Reply::List(all.entries))
}

pub(super) async fn xrevrange(talk: &Talk, mut args: Args) -> Result<Reply> {
    let name = args.stream()?;
    let span = span(&mut args, true)?;
    let mut all = Collected::default();
    match Key::new(&talk.api, name) {
        Key::Stream(name) => downwards(&talk.api, &name, span, &mut all).await?,
        Key::Dead(stream) => {
            let until = Some(next(span.last)).filter(|_| span.last < LAST);
            letters(&talk.api, &stream, &span, (None, until), &mut all).await?;
        }
    }
    Ok(Reply::List(all.entries))
}

async fn upwards(api: &Api, name: &StreamName, span: &Span, all: &mut Collected) -> Result<()> {
    let mut from = span.first;
    loop {
        let step = span.count.saturating_sub(all.entries.len()).min(limits::PAGE_MAX);
        if step == 0 || from > span.last {
            return Ok(());
        }
        let Some(page) = or_empty(api.store.read(name, from, step).await)? else { return Ok(()) };
        for stored in page.items {
            if stored.position > span.last || all.entries.len() >= span.count {
                return Ok(());
            }
            let entry = entry(stored.position, &stored.event, name, stored.accepted_at);
            all.add(entry, stored.event.size())?;
        }
        match page.next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

/// Engines read upwards: parts are read from the end on, each turned around.
async fn downwards(api: &Api, name: &StreamName, span: Span, all: &mut Collected) -> Result<()> {
    let Some((first, last)) = status(api, name).await?.and_then(|status| status.first.zip(status.last)) else {
        return Ok(());
    };
    let (first, mut last) = (first.max(span.first), last.min(span.last));
    while first <= last && all.entries.len() < span.count {
        // Where positions are not numbers, nobody knows how many lie in between.
        let step = span.count.saturating_sub(all.entries.len()).min(limits::PAGE_MAX) as u64;
        let from = if last.high == 0 { first.max(Position::number(last.low.saturating_sub(step - 1))) } else { first };
        let mut part = Collected::default();
        upwards(api, name, &Span { first: from, last, count: usize::MAX }, &mut part).await?;
        part.entries.reverse();
        part.entries.truncate(span.count - all.entries.len());
        all.bytes += part.bytes;
        all.entries.append(&mut part.entries);
        if from <= first {
            break;
        }
        last = before(from);
    }
    Ok(())
}

/// Collects parked letters, oldest first behind one, or newest first before one.
async fn letters(
    api: &Api,
    stream: &StreamName,
    span: &Span,
    (mut after, mut until): (Option<Position>, Option<Position>),
    all: &mut Collected,
) -> Result<()> {
    loop {
        let limit = span.count.saturating_sub(all.entries.len()).min(limits::PAGE_MAX);
        if limit == 0 {
            return Ok(());
        }
        let query = DeadQuery { state: Some(DeadState::Parked), before: until, after, limit, ..DeadQuery::default() };
        let Some(page) = or_empty(api.store.dead_letters(stream, &query).await)? else { return Ok(()) };
        let last = page.items.last().map(|letter| letter.id);
        for letter in page.items {
            if letter.id < span.first || letter.id > span.last {
                return Ok(());
            }
            all.add(letter_entry(&letter), letter.event.size())?;
        }
        match (page.next.and(last), after) {
            (None, _) => return Ok(()),
            (last, Some(_)) => after = last,
            (last, None) => until = last,
        }
    }
}

/// Takes dead letters as taken care of. Events of other streams are kept until retention removes them, and none is removed.
pub(super) async fn xdel(talk: &Talk, mut args: Args) -> Result<Reply> {
    let name = args.stream()?;
    let ids = args.ids()?;
    let Key::Dead(stream) = Key::new(&talk.api, name) else { return Ok(Reply::Number(0)) };
    let (job, reason) = (uuid::Uuid::new_v4().to_string(), "XDEL over the Redis protocol".to_owned());
    tracing::info!(action = %job, what = "resolve", on = %stream, by = %talk.actor()?, reason, "done by hand");
    let ask = JobAsk {
        stream,
        verb: JobVerb::Resolve,
        ids: Some(ids),
        state: None,
        group: None,
        filter: None,
        until: None,
        dry_run: false,
        force: false,
        rate: None,
        canary: 0,
        stop_on_fail_rate: None,
        patch: None,
        reason,
        by: talk.actor()?.to_string(),
    };
    let desk = talk.api.desk.clone();
    desk.begin(job.clone(), ask).await?;
    Ok(Reply::count(desk.wait(&job, MOVE_WAIT).await?.progress.moved))
}

/// What is kept is a matter of the stream's settings.
pub(super) fn xtrim(_: &mut Talk, mut args: Args) -> Result<Reply> {
    args.stream()?;
    Ok(Reply::Number(0))
}

pub(super) async fn kind(talk: &Talk, mut args: Args) -> Result<Reply> {
    let name = args.stream()?;
    args.end()?;
    Ok(Reply::Word(if is_there(&talk.api, name).await? { "stream" } else { "none" }))
}

pub(super) async fn exists(talk: &Talk, mut args: Args) -> Result<Reply> {
    let mut count = 0_u64;
    while args.left() > 0 {
        count += u64::from(is_there(&talk.api, args.stream()?).await?);
    }
    Ok(Reply::count(count))
}

async fn is_there(api: &Arc<Api>, name: StreamName) -> Result<bool> {
    let name = match Key::new(api, name) {
        Key::Stream(name) | Key::Dead(name) => name,
    };
    Ok(status(api, &name).await?.is_some())
}

/// Lists all streams at once, whatever the cursor.
pub(super) async fn scan(talk: &Talk, mut args: Args) -> Result<Reply> {
    args.number::<u64>()?;
    let (mut pattern, mut kind) = (None, None);
    while args.left() > 0 {
        if args.takes("MATCH") {
            pattern = Some(args.text()?);
        } else if args.takes("TYPE") {
            kind = Some(args.text()?);
        } else if args.takes("COUNT") {
            args.number::<u64>()?;
        } else {
            args.end()?;
        }
    }
    let mut names: Vec<String> = talk.api.store.streams().await?.into_iter().map(|stream| stream.name.into()).collect();
    names.extend(talk.api.aliases.keys().map(ToString::to_string));
    names.retain(|name| pattern.as_ref().is_none_or(|pattern| matches(pattern.as_bytes(), name.as_bytes())));
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("stream")) {
        names.clear();
    }
    Ok(Reply::List(vec![Reply::text("0"), Reply::List(names.into_iter().map(Reply::text).collect())]))
}

/// Tells whether a name fits a pattern of `*` and `?`. Walks back to the last `*` only, so that no pattern takes long.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(expected) if *expected == b'?' || *expected == name[seen] => (at, seen) = (at + 1, seen + 1),
            Some(_) | None => match star {
                Some((place, from)) => {
                    (at, seen) = (place + 1, from + 1);
                    star = Some((place, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_names() {
        let check = |pattern: &str, name: &str, fits| {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}")
        };
        for pattern in ["*", "identity.*", "*.v1", "i*y.*.v?", "identity.user.v1", "**"] {
            check(pattern, "identity.user.v1", true);
        }
        for pattern in ["", "identity", "*.v2", "?", "identity.user.v1?", "*x*"] {
            check(pattern, "identity.user.v1", false);
        }
    }

    #[test]
    fn neighbours_of_an_id_are_what_lies_right_beside_it() {
        for position in [Position::number(7), Position { high: 3, low: 0 }, Position { high: 3, low: u64::MAX }] {
            assert_eq!(before(next(position)), position);
        }
        assert_eq!(next(before(Position { high: 3, low: 0 })), Position { high: 3, low: 0 });
    }
}

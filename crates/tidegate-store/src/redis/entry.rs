//! An event as an entry of a Redis stream: the fields of envelope v1, which other programs read, and beside it what these
//! cannot hold.

use bytes::Bytes;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    envelope,
    event::{Data, Event, Reader, put_bytes, put_number},
    fault::{Fault, Result},
    names::StreamName,
};

use super::{
    packed::Packed,
    reply::{RawEntry, id_text, odd},
    script::Ask,
};
pub(crate) use crate::served::lines::{attempts, line, lines};

const DATA_IN_PAYLOAD: u8 = 1;
const HAS_HEAD: u8 = 2;

/// What goes with an event that was reprocessed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The only group that it is for; 0 = for all.
    pub(crate) group: u32,
    /// It runs even if the ledger knows it.
    pub(crate) forced: bool,
    /// Its attempts so far, one line each.
    pub(crate) past: String,
}

/// An event that was read.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    pub(crate) position: Position,
    /// Its number in its stream; none when it was not counted.
    pub(crate) number: Option<u64>,
    pub(crate) event: Event,
    pub(crate) head: Head,
}

impl Parsed {
    /// When it was accepted: the time in its position.
    pub(crate) fn accepted_at(&self) -> Timestamp {
        accepted_at(self.position)
    }
}

/// The time in a position.
pub(crate) fn accepted_at(position: Position) -> Timestamp {
    Timestamp::from_millis(i64::try_from(position.high).unwrap_or(i64::MAX))
}

/// Fields of an entry on their way to a script.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    shown: Vec<(&'static str, Bytes)>,
    /// What lies beside the entry.
    own: Bytes,
}

impl Fields {
    pub(crate) fn bytes(&self) -> usize {
        self.shown.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + self.own.len()
    }

    /// Passes what lies beside the entry, and then names and values.
    pub(crate) fn pass(&self, ask: &mut Ask) {
        ask.number(1 + self.shown.len() * 2).bytes(&self.own);
        for (name, value) in &self.shown {
            ask.text(name).bytes(value);
        }
    }

    /// The same, as one list.
    pub(crate) fn pack(&self, packed: &mut Packed) {
        packed.list(1 + self.shown.len() * 2).bytes(&self.own);
        for (name, value) in &self.shown {
            packed.text(name).bytes(value);
        }
    }
}

/// Writes an event for a stream.
pub(crate) fn fields(event: &Event, stream: &StreamName, now: Timestamp, head: Option<&Head>) -> Fields {
    let own = own(event, head, matches!(event.data, Data::Json(_)));
    Fields { shown: envelope::write(event, stream, now, payload(event)), own }
}

/// Writes a dead letter for the stream of such; `created` is when its event was accepted.
pub(crate) fn letter_fields(
    event: &Event,
    message: &str,
    attempts: usize,
    (failed_at, created): (Timestamp, Timestamp),
) -> Fields {
    let shown = envelope::write_letter(event, message, attempts, (failed_at, created), payload(event));
    Fields { shown, own: own(event, None, false) }
}

/// The data for programs that expect JSON.
fn payload(event: &Event) -> Bytes {
    match &event.data {
        Data::Json(json) => json.clone(),
        Data::None | Data::Text(_) | Data::Binary(_) => Bytes::from_static(b"{}"),
    }
}

/// Everything of an event, or all of it that the payload does not hold.
fn own(event: &Event, head: Option<&Head>, data_in_payload: bool) -> Bytes {
    let mut out = vec![u8::from(data_in_payload) * DATA_IN_PAYLOAD + u8::from(head.is_some()) * HAS_HEAD];
    if let Some(head) = head {
        put_number(&mut out, u64::from(head.group));
        out.push(u8::from(head.forced));
        put_bytes(&mut out, head.past.as_bytes());
    }
    match data_in_payload {
        true => Event { data: Data::None, ..event.clone() }.encode(&mut out),
        false => event.encode(&mut out),
    }
    out.into()
}

/// Reads an entry: one of ours as it was, and one of another program as well as it fits.
pub(crate) fn parse(entry: &RawEntry, stream: &StreamName) -> Result<Parsed> {
    let position = entry.position;
    let (number, blob) = split_own(&entry.own)?;
    let Some(blob) = blob else {
        let event = envelope::read(&entry.fields, stream, id_text(entry.position));
        return Ok(Parsed { position, number, event, head: Head::default() });
    };
    let payload = entry.fields.iter().find(|(field, _)| field == "payload").map(|(_, value)| value);
    let (event, head) = read_own(blob, payload)?;
    Ok(Parsed { position, number, event, head })
}

/// The number of an event, and what is known of it when it is one of ours.
fn split_own(own: &Bytes) -> Result<(Option<u64>, Option<Bytes>)> {
    if own.is_empty() {
        return Ok((None, None));
    }
    let bar = own.iter().position(|byte| *byte == b'|');
    let number = own.get(..bar.unwrap_or(own.len())).and_then(|digits| std::str::from_utf8(digits).ok());
    let number = number.and_then(|digits| digits.parse().ok()).ok_or_else(odd)?;
    Ok((Some(number), bar.map(|bar| own.slice(bar + 1..))))
}

fn read_own(blob: Bytes, payload: Option<&Bytes>) -> Result<(Event, Head)> {
    let mut read = Reader { bytes: blob };
    let [flags] = read.array::<1>()?;
    let mut head = Head::default();
    if flags & HAS_HEAD != 0 {
        head.group = u32::try_from(read.number()?).map_err(|_| Fault::corrupt("a group has an impossible number"))?;
        head.forced = read.array::<1>()? != [0];
        head.past = read.text()?.to_string();
    }
    let mut event = Event::decode(read.bytes)?;
    if flags & DATA_IN_PAYLOAD != 0 {
        let payload = payload.ok_or_else(|| Fault::corrupt("an entry has lost its payload"))?;
        event.data = Data::Json(payload.clone());
    }
    Ok((event, head))
}

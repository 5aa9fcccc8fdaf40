//! Bodies of the journal's records: how settlements, dead letters and the rest are written down.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tidegate_core::{
    clock::Timestamp,
    delivery::Attempt,
    event::{Fingerprint, Reader, put_bytes, put_number},
    fault::{Fault, FaultClass, Result},
    store::DeadState,
};

use super::dead::Change;

fn unreadable() -> Fault {
    Fault::corrupt("record of the journal is not readable")
}

fn put_time(out: &mut Vec<u8>, at: Timestamp) {
    put_number(out, at.as_millis().max(0).unsigned_abs());
}

fn time(read: &mut Reader) -> Result<Timestamp> {
    Ok(Timestamp::from_millis(i64::try_from(read.number()?).map_err(|_| unreadable())?))
}

fn small(read: &mut Reader) -> Result<u32> {
    u32::try_from(read.number()?).map_err(|_| unreadable())
}

fn fingerprint(read: &mut Reader) -> Result<Fingerprint> {
    Ok(Fingerprint::from_le_bytes(read.array()?))
}

/// Appends attempts behind their number.
pub(crate) fn put_attempts(out: &mut Vec<u8>, attempts: &[Attempt]) {
    put_number(out, attempts.len() as u64);
    for attempt in attempts {
        put_time(out, attempt.at);
        put_number(out, u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX));
        out.push(attempt.class.code());
        put_bytes(out, attempt.message.as_bytes());
    }
}

pub(crate) fn read_attempts(read: &mut Reader) -> Result<Vec<Attempt>> {
    let count = read.number()?;
    (0..count)
        .map(|_| {
            Ok(Attempt {
                at: time(read)?,
                took: Duration::from_millis(read.number()?),
                class: FaultClass::from_code(read.array::<1>()?[0]).ok_or_else(unreadable)?,
                message: read.text()?.to_string(),
            })
        })
        .collect()
}

const FOR_GROUP: u8 = 1;
const HAS_PAST: u8 = 2;
const FORCED: u8 = 4;

/// What stands before the event in an `Append` record.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct AppendHead {
    pub(crate) stream: u32,
    pub(crate) seq: u64,
    pub(crate) accepted_at: Timestamp,
    /// The only group that it is meant for.
    pub(crate) for_group: Option<u32>,
    /// Attempts of an earlier life.
    pub(crate) past: Vec<Attempt>,
    /// To be processed even if the ledger knows it.
    pub(crate) forced: bool,
}

impl AppendHead {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, u64::from(self.stream));
        put_number(out, self.seq);
        put_time(out, self.accepted_at);
        let mut flags = if self.forced { FORCED } else { 0 };
        if self.for_group.is_some() {
            flags |= FOR_GROUP;
        }
        if !self.past.is_empty() {
            flags |= HAS_PAST;
        }
        out.push(flags);
        if let Some(group) = self.for_group {
            put_number(out, u64::from(group));
        }
        if !self.past.is_empty() {
            put_attempts(out, &self.past);
        }
    }

    /// Reads the head; what is left in `read` is the event.
    pub(crate) fn read(read: &mut Reader) -> Result<Self> {
        let (stream, seq, accepted_at) = (small(read)?, read.number()?, time(read)?);
        let [flags] = read.array()?;
        let for_group = if flags & FOR_GROUP == 0 { None } else { Some(small(read)?) };
        let past = if flags & HAS_PAST == 0 { Vec::new() } else { read_attempts(read)? };
        Ok(Self { stream, seq, accepted_at, for_group, past, forced: flags & FORCED != 0 })
    }
}

/// Reads stream and sequence number of an `Append` or `Dead` body without reading the rest.
pub(crate) fn peek_seq(body: &[u8]) -> Option<(u32, u64)> {
    let mut at = 0;
    let mut number = || {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *body.get(at)?;
            at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    };
    Some((u32::try_from(number()?).ok()?, number()?))
}

/// A settlement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settle {
    pub(crate) group: u32,
    pub(crate) seq: u64,
    pub(crate) how: How,
}

/// How a delivery was settled. The numbers in `encode` are part of the format.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum How {
    Done {
        at: Timestamp,
        ledger: Option<Fingerprint>,
    },
    Duplicate,
    Expired,
    /// It was meant for another group.
    NotMine,
    /// The group's stages did not let it through; when, and its fingerprint, where others may wait for it.
    Skipped {
        told: Option<(Timestamp, Fingerprint)>,
    },
    Retry {
        at: Timestamp,
        attempts: u32,
        crashes: u32,
        key: Option<u64>,
        attempt: Option<Attempt>,
    },
}

impl Settle {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, u64::from(self.group));
        put_number(out, self.seq);
        match &self.how {
            How::Done { at, ledger: None } => {
                out.push(0);
                put_time(out, *at);
            }
            How::Done { at, ledger: Some(fingerprint) } => {
                out.push(1);
                put_time(out, *at);
                out.extend_from_slice(&fingerprint.to_le_bytes());
            }
            How::Duplicate => out.push(2),
            How::Expired => out.push(3),
            How::NotMine => out.push(4),
            How::Skipped { told: None } => out.push(6),
            How::Skipped { told: Some((at, fingerprint)) } => {
                out.push(7);
                put_time(out, *at);
                out.extend_from_slice(&fingerprint.to_le_bytes());
            }
            How::Retry { at, attempts, crashes, key, attempt } => {
                out.push(5);
                put_time(out, *at);
                put_number(out, u64::from(*attempts));
                put_number(out, u64::from(*crashes));
                out.push(u8::from(key.is_some()));
                if let Some(key) = key {
                    out.extend_from_slice(&key.to_le_bytes());
                }
                put_attempts(out, attempt.as_slice());
            }
        }
    }

    pub(crate) fn read(body: &Bytes) -> Result<Self> {
        let mut read = Reader { bytes: body.clone() };
        let (group, seq) = (small(&mut read)?, read.number()?);
        let how = match read.array::<1>()?[0] {
            0 => How::Done { at: time(&mut read)?, ledger: None },
            1 => How::Done { at: time(&mut read)?, ledger: Some(fingerprint(&mut read)?) },
            2 => How::Duplicate,
            3 => How::Expired,
            4 => How::NotMine,
            6 => How::Skipped { told: None },
            7 => How::Skipped { told: Some((time(&mut read)?, fingerprint(&mut read)?)) },
            5 => {
                let (at, attempts, crashes) = (time(&mut read)?, small(&mut read)?, small(&mut read)?);
                let key = if read.array::<1>()? == [0] { None } else { Some(u64::from_le_bytes(read.array()?)) };
                How::Retry { at, attempts, crashes, key, attempt: read_attempts(&mut read)?.pop() }
            }
            _ => return Err(unreadable()),
        };
        Ok(Self { group, seq, how })
    }
}

/// A dead letter; the event stands behind it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeadHead {
    /// The dead-letter stream and the place in it.
    pub(crate) stream: u32,
    pub(crate) seq: u64,
    pub(crate) failed_at: Timestamp,
    pub(crate) group: u32,
    pub(crate) origin: u32,
    pub(crate) origin_seq: u64,
    pub(crate) class: FaultClass,
    pub(crate) message: ByteString,
    pub(crate) config: ByteString,
    pub(crate) attempts: Vec<Attempt>,
    /// What was known of one that came from elsewhere. Such a one has no origin: its `origin_seq` is 0.
    pub(crate) imported: Option<Box<Imported>>,
}

/// What an imported dead letter brings of its earlier life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Imported {
    pub(crate) state: DeadState,
    pub(crate) change: Option<Change>,
}

fn put_change(out: &mut Vec<u8>, change: &Change) {
    put_time(out, change.at);
    put_bytes(out, change.by.as_bytes());
    put_bytes(out, change.note.as_bytes());
    put_bytes(out, change.job.as_bytes());
}

fn read_change(read: &mut Reader) -> Result<Change> {
    Ok(Change { at: time(read)?, by: read.text()?, note: read.text()?, job: read.text()? })
}

fn dead_state(read: &mut Reader) -> Result<DeadState> {
    let [state] = read.array()?;
    DeadState::ALL.get(usize::from(state)).copied().ok_or_else(unreadable)
}

impl DeadHead {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, u64::from(self.stream));
        put_number(out, self.seq);
        put_time(out, self.failed_at);
        put_number(out, u64::from(self.group));
        put_number(out, u64::from(self.origin));
        put_number(out, self.origin_seq);
        out.push(self.class.code());
        put_bytes(out, self.message.as_bytes());
        put_bytes(out, self.config.as_bytes());
        put_attempts(out, &self.attempts);
        if let Some(imported) = &self.imported {
            out.push(imported.state as u8);
            out.push(u8::from(imported.change.is_some()));
            imported.change.iter().for_each(|change| put_change(out, change));
        }
    }

    /// Reads the head; what is left in `read` is the event.
    pub(crate) fn read(read: &mut Reader) -> Result<Self> {
        let mut head = Self {
            stream: small(read)?,
            seq: read.number()?,
            failed_at: time(read)?,
            group: small(read)?,
            origin: small(read)?,
            origin_seq: read.number()?,
            class: FaultClass::from_code(read.array::<1>()?[0]).ok_or_else(unreadable)?,
            message: read.text()?,
            config: read.text()?,
            attempts: read_attempts(read)?,
            imported: None,
        };
        if head.origin_seq == 0 {
            let state = dead_state(read)?;
            let change = if read.array::<1>()? == [0] { None } else { Some(read_change(read)?) };
            head.imported = Some(Box::new(Imported { state, change }));
        }
        Ok(head)
    }
}

/// The number in place of a state for what is forgotten.
const FORGOTTEN: u8 = 255;

/// A change of state of dead letters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeadMove {
    pub(crate) stream: u32,
    /// None: the entries are forgotten for good.
    pub(crate) state: Option<DeadState>,
    pub(crate) at: Timestamp,
    pub(crate) by: ByteString,
    pub(crate) note: ByteString,
    pub(crate) job: ByteString,
    /// Entries, and where each went; zero when nowhere.
    pub(crate) entries: Vec<(u64, u64)>,
}

impl DeadMove {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, u64::from(self.stream));
        out.push(self.state.map_or(FORGOTTEN, |state| state as u8));
        put_time(out, self.at);
        put_bytes(out, self.by.as_bytes());
        put_bytes(out, self.note.as_bytes());
        put_bytes(out, self.job.as_bytes());
        put_number(out, self.entries.len() as u64);
        for (seq, went) in &self.entries {
            put_number(out, *seq);
            put_number(out, *went);
        }
    }

    pub(crate) fn read(body: &Bytes) -> Result<Self> {
        let mut read = Reader { bytes: body.clone() };
        let stream = small(&mut read)?;
        let state = if read.bytes.first() == Some(&FORGOTTEN) {
            read.array::<1>()?;
            None
        } else {
            Some(dead_state(&mut read)?)
        };
        let Change { at, by, note, job } = read_change(&mut read)?;
        let count = read.number()?;
        let entries = (0..count).map(|_| Ok((read.number()?, read.number()?))).collect::<Result<_>>()?;
        Ok(Self { stream, state, at, by, note, job, entries })
    }
}

/// Numbers of a group behind its own: the bodies of `Mark` (sequence numbers) and `Drop` (from, to).
pub(crate) fn put_numbers(out: &mut Vec<u8>, group: u32, numbers: &[u64]) {
    put_number(out, u64::from(group));
    put_number(out, numbers.len() as u64);
    for number in numbers {
        put_number(out, *number);
    }
}

pub(crate) fn read_numbers(body: &Bytes) -> Result<(u32, Vec<u64>)> {
    let mut read = Reader { bytes: body.clone() };
    let group = small(&mut read)?;
    let count = read.number()?;
    Ok((group, (0..count).map(|_| read.number()).collect::<Result<_>>()?))
}

/// Deliveries that were let go: sequence numbers of a group, who did it and why.
pub(crate) fn put_let_go(out: &mut Vec<u8>, group: u32, seqs: &[u64], by: &str, reason: &str) {
    put_numbers(out, group, seqs);
    put_bytes(out, by.as_bytes());
    put_bytes(out, reason.as_bytes());
}

/// Reads group, sequence numbers, who and why.
pub(crate) fn read_let_go(body: &Bytes) -> Result<(u32, Vec<u64>, ByteString, ByteString)> {
    let mut read = Reader { bytes: body.clone() };
    let group = small(&mut read)?;
    let count = read.number()?;
    let seqs = (0..count).map(|_| read.number()).collect::<Result<_>>()?;
    Ok((group, seqs, read.text()?, read.text()?))
}

/// A forgotten ledger entry.
pub(crate) fn put_forget(out: &mut Vec<u8>, group: u32, fingerprint: Fingerprint, at: Timestamp) {
    put_number(out, u64::from(group));
    out.extend_from_slice(&fingerprint.to_le_bytes());
    put_time(out, at);
}

pub(crate) fn read_forget(body: &Bytes) -> Result<(u32, Fingerprint, Timestamp)> {
    let mut read = Reader { bytes: body.clone() };
    Ok((small(&mut read)?, fingerprint(&mut read)?, time(&mut read)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt() -> Attempt {
        Attempt {
            at: Timestamp::from_millis(5),
            took: Duration::from_millis(7),
            class: FaultClass::Timeout,
            message: "slow".to_owned(),
        }
    }

    #[test]
    fn settlements_read_back() {
        let at = Timestamp::from_millis(1_700_000_000_000);
        let all = [
            How::Done { at, ledger: None },
            How::Done { at, ledger: Some(u128::MAX - 1) },
            How::Duplicate,
            How::Expired,
            How::NotMine,
            How::Skipped { told: None },
            How::Skipped { told: Some((at, 7)) },
            How::Retry { at, attempts: 3, crashes: 1, key: Some(9), attempt: Some(attempt()) },
            How::Retry { at, attempts: 0, crashes: 0, key: None, attempt: None },
        ];
        for how in all {
            let settle = Settle { group: 300, seq: 1 << 40, how };
            let mut out = Vec::new();
            settle.encode(&mut out);
            assert_eq!(Settle::read(&out.into()).unwrap(), settle);
        }
    }

    #[test]
    fn heads_read_back_and_leave_the_event() {
        let append = AppendHead {
            stream: 2,
            seq: 77,
            accepted_at: Timestamp::from_millis(9),
            for_group: Some(4),
            past: vec![attempt()],
            forced: true,
        };
        let mut out = Vec::new();
        append.encode(&mut out);
        assert_eq!(peek_seq(&out), Some((2, 77)));
        out.extend_from_slice(b"event");
        let mut read = Reader { bytes: out.into() };
        assert_eq!(AppendHead::read(&mut read).unwrap(), append);
        assert_eq!(&read.bytes[..], b"event");

        let dead = DeadHead {
            stream: 3,
            seq: 1,
            failed_at: Timestamp::from_millis(8),
            group: 1,
            origin: 2,
            origin_seq: 77,
            class: FaultClass::Invalid,
            message: "no".into(),
            config: "c".into(),
            attempts: vec![attempt(), attempt()],
            imported: None,
        };
        let change = Change { at: Timestamp::from_millis(9), by: "me".into(), note: "by phone".into(), job: "".into() };
        let imported = Imported { state: DeadState::Resolved, change: Some(change) };
        let parked = Imported { state: DeadState::Parked, change: None };
        let all = [None, Some(imported), Some(parked)].map(|imported| DeadHead {
            origin_seq: if imported.is_some() { 0 } else { 77 },
            imported: imported.map(Box::new),
            ..dead.clone()
        });
        for dead in all {
            let mut out = Vec::new();
            dead.encode(&mut out);
            let mut read = Reader { bytes: out.into() };
            assert_eq!(DeadHead::read(&mut read).unwrap(), dead);
            assert!(read.bytes.is_empty());
        }
    }

    #[test]
    fn moves_and_lists_read_back_and_cut_ones_are_refused() {
        let moved = DeadMove {
            stream: 3,
            state: Some(DeadState::Reprocessed),
            at: Timestamp::from_millis(8),
            by: "me".into(),
            note: "repaired".into(),
            job: "j1".into(),
            entries: vec![(1, 9), (2, 0)],
        };
        for moved in [DeadMove { state: None, ..moved.clone() }, moved] {
            let mut out = Vec::new();
            moved.encode(&mut out);
            for cut in 0..out.len() {
                assert!(DeadMove::read(&Bytes::copy_from_slice(&out[..cut])).is_err());
            }
            assert_eq!(DeadMove::read(&out.into()).unwrap(), moved);
        }
        let mut out = Vec::new();
        put_numbers(&mut out, 5, &[1, 1 << 50]);
        assert_eq!(read_numbers(&out.into()).unwrap(), (5, vec![1, 1 << 50]));
    }
}

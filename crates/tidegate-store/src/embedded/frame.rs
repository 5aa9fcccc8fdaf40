//! Records and frames: the bytes of the journal.
//!
//! A **record** is `length u32 | checksum u32 | kind u8 | body`, little endian; length counts kind and body, the
//! checksum (CRC32C) covers them and starts from the segment's salt, so that what an earlier use of the same disk
//! blocks left behind never passes. A **frame** is one group commit: a start record, the data records, an end
//! record, written in one go. The start says the frame's number, its whole length and the chain value of the frame
//! before; the end repeats the number and carries the chain value over all checksums of the frame.
//!
//! From these, a torn tail and damage inside can be told apart; see `scan.rs`.

use bytes::Bytes;

/// Bytes before the body of a record: length, checksum, kind.
pub(crate) const RECORD_HEAD: usize = 9;
/// Bytes of the start record.
pub(crate) const START_LEN: usize = RECORD_HEAD + 40;
/// Bytes of the end record.
pub(crate) const END_LEN: usize = RECORD_HEAD + 16;

const START_MAGIC: u32 = 0x5346_4754;
const END_MAGIC: u32 = 0x4546_4754;

/// What a record is. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Start of a frame.
    Start = 1,
    /// End of a frame.
    End = 2,
    /// An event of a stream.
    Append = 3,
    /// A settlement without an event in it.
    Settle = 4,
    /// A settlement into the dead letters: also an entry of the dead-letter stream.
    Dead = 5,
    /// A change of state of dead letters.
    DeadMove = 6,
    /// A stream was declared.
    Stream = 7,
    /// A group was declared.
    Group = 8,
    /// A group was removed.
    Ungroup = 9,
    /// Control state.
    State = 10,
    /// Claims were handed out to handlers that may kill the process.
    Mark = 11,
    /// A ledger entry was forgotten.
    Forget = 12,
    /// Unsettled events of a group were dropped.
    Drop = 13,
    /// A copy of an `Append` or `Dead` record out of a segment that is cleaned.
    Moved = 14,
    /// Ledger entries from before a time were forgotten.
    Clean = 15,
    /// A group was moved to another place in its stream.
    Seek = 16,
    /// Deliveries that wait for other events were let go.
    LetGo = 17,
    /// The footer of a sealed segment.
    Footer = 20,
}

impl Kind {
    pub(crate) fn read(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Start,
            2 => Self::End,
            3 => Self::Append,
            4 => Self::Settle,
            5 => Self::Dead,
            6 => Self::DeadMove,
            7 => Self::Stream,
            8 => Self::Group,
            9 => Self::Ungroup,
            10 => Self::State,
            11 => Self::Mark,
            12 => Self::Forget,
            13 => Self::Drop,
            14 => Self::Moved,
            15 => Self::Clean,
            16 => Self::Seek,
            17 => Self::LetGo,
            20 => Self::Footer,
            _ => return None,
        })
    }
}

fn checksum(salt: u32, kind_and_body: &[u8]) -> u32 {
    crc32c::crc32c_append(salt, kind_and_body)
}

/// Builds records; the caller writes the body in between.
pub(crate) fn put_record(out: &mut Vec<u8>, salt: u32, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) -> u32 {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.push(kind as u8);
    body(out);
    let len = u32::try_from(out.len() - start - 8).expect("a record is bounded by the largest event");
    let crc = checksum(salt, &out[start + 8..]);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// A record that was read and whose checksum is right.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) body: Bytes,
    /// Bytes of the whole record.
    pub(crate) len: usize,
    pub(crate) crc: u32,
}

/// Why no record could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// There is nothing: zeros or the end of the bytes.
    Empty,
    /// More bytes are needed than there are: at least so many from the start of the record.
    Short(usize),
    /// Length, kind or checksum is wrong.
    Damaged,
}

fn head(bytes: &[u8]) -> Result<(usize, u32), Unreadable> {
    let Some((head, _)) = bytes.split_first_chunk::<8>() else {
        return Err(if bytes.iter().all(|byte| *byte == 0) { Unreadable::Empty } else { Unreadable::Short(8) });
    };
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if len == 0 {
        return Err(if crc == 0 { Unreadable::Empty } else { Unreadable::Damaged });
    }
    if len > super::journal::FRAME_BYTES_MAX {
        return Err(Unreadable::Damaged);
    }
    if bytes.len() < 8 + len {
        return Err(Unreadable::Short(8 + len));
    }
    Ok((len, crc))
}

/// Reads the record at the start of `bytes` and checks it.
pub(crate) fn read_record(bytes: &Bytes, at: usize, salt: u32) -> Result<Record, Unreadable> {
    let rest = bytes.get(at..).unwrap_or_default();
    let (len, crc) = head(rest)?;
    if checksum(salt, &rest[8..8 + len]) != crc {
        return Err(Unreadable::Damaged);
    }
    let kind = Kind::read(rest[8]).ok_or(Unreadable::Damaged)?;
    Ok(Record { kind, body: bytes.slice(at + RECORD_HEAD..at + 8 + len), len: 8 + len, crc })
}

/// What a start record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    /// Number of the frame; grows by one in the whole journal.
    pub(crate) number: u64,
    /// Bytes of the whole frame.
    pub(crate) len: u32,
    /// Data records in it.
    pub(crate) records: u32,
    /// Chain value of the frame before.
    pub(crate) chain: u32,
    /// The newest frame that was known to be synced when this one was written.
    pub(crate) synced: u64,
    /// When it was written, in milliseconds since 1970.
    pub(crate) at: i64,
}

impl Start {
    fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&START_MAGIC.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.chain.to_le_bytes());
        out.extend_from_slice(&self.synced.to_le_bytes());
        out.extend_from_slice(&self.at.to_le_bytes());
    }

    /// Reads the body of a start record.
    pub(crate) fn read(record: &Record) -> Option<Self> {
        let body = &record.body;
        if record.kind != Kind::Start || body.len() != START_LEN - RECORD_HEAD || u32_at(body, 0)? != START_MAGIC {
            return None;
        }
        Some(Self {
            number: u64_at(body, 4)?,
            len: u32_at(body, 12)?,
            records: u32_at(body, 16)?,
            chain: u32_at(body, 20)?,
            synced: u64_at(body, 24)?,
            at: i64::from_le_bytes(body.get(32..40)?.try_into().ok()?),
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads number and chain value of an end record.
pub(crate) fn read_end(record: &Record) -> Option<(u64, u32)> {
    let body = &record.body;
    if record.kind != Kind::End || body.len() != END_LEN - RECORD_HEAD || u32_at(body, 0)? != END_MAGIC {
        return None;
    }
    Some((u64_at(body, 4)?, u32_at(body, 12)?))
}

/// Goes on with the chain: the value over one more checksum.
pub(crate) fn link(chain: u32, crc: u32) -> u32 {
    crc32c::crc32c_append(chain, &crc.to_le_bytes())
}

/// A frame being built.
#[derive(Debug)]
pub(crate) struct FrameBuilder {
    pub(crate) bytes: Vec<u8>,
    salt: u32,
    chain_before: u32,
    chain: u32,
    records: u32,
}

impl FrameBuilder {
    pub(crate) fn new(mut bytes: Vec<u8>, salt: u32, chain: u32) -> Self {
        bytes.clear();
        bytes.resize(START_LEN, 0);
        Self { bytes, salt, chain_before: chain, chain, records: 0 }
    }

    /// Adds a record; returns its offset in the frame.
    pub(crate) fn push(&mut self, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) -> usize {
        let at = self.bytes.len();
        let crc = put_record(&mut self.bytes, self.salt, kind, body);
        self.chain = link(self.chain, crc);
        self.records += 1;
        at
    }

    pub(crate) fn records(&self) -> u32 {
        self.records
    }

    /// Returns the length that the frame will have.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + END_LEN
    }

    /// Closes the frame; returns its bytes and the chain value.
    pub(crate) fn finish(mut self, number: u64, synced: u64, at: i64) -> (Vec<u8>, u32) {
        let len = u32::try_from(self.len()).expect("a frame is bounded by the segment");
        let chain = self.chain;
        put_record(&mut self.bytes, self.salt, Kind::End, |out| {
            out.extend_from_slice(&END_MAGIC.to_le_bytes());
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&chain.to_le_bytes());
        });
        let start = Start { number, len, records: self.records, chain: self.chain_before, synced, at };
        let mut head = Vec::with_capacity(START_LEN);
        put_record(&mut head, self.salt, Kind::Start, |out| start.encode(out));
        self.bytes[..START_LEN].copy_from_slice(&head);
        (self.bytes, chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Bytes {
        let mut build = FrameBuilder::new(Vec::new(), 7, 99);
        build.push(Kind::Append, |out| out.extend_from_slice(b"one"));
        build.push(Kind::Settle, |out| out.extend_from_slice(b"two"));
        build.finish(5, 4, 1234).0.into()
    }

    #[test]
    fn frames_read_back() {
        let bytes = frame();
        let start_record = read_record(&bytes, 0, 7).unwrap();
        let start = Start::read(&start_record).unwrap();
        assert_eq!(start, Start { number: 5, len: bytes.len() as u32, records: 2, chain: 99, synced: 4, at: 1234 });
        let one = read_record(&bytes, START_LEN, 7).unwrap();
        assert_eq!((one.kind, &one.body[..]), (Kind::Append, &b"one"[..]));
        let two = read_record(&bytes, START_LEN + one.len, 7).unwrap();
        let end = read_record(&bytes, START_LEN + one.len + two.len, 7).unwrap();
        assert_eq!(read_end(&end), Some((5, link(link(99, one.crc), two.crc))));
        assert_eq!(START_LEN + one.len + two.len + end.len, bytes.len());
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let good = frame();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let bytes = Bytes::from(bytes);
            let mut at = 0;
            let mut seen = false;
            while at < bytes.len() {
                match read_record(&bytes, at, 7) {
                    Ok(record) => at += record.len,
                    Err(_) => {
                        seen = true;
                        break;
                    }
                }
            }
            assert!(seen, "bit {bit}");
        }
    }

    #[test]
    fn another_salt_never_passes() {
        let bytes = frame();
        assert_eq!(read_record(&bytes, 0, 8).unwrap_err(), Unreadable::Damaged);
        assert_eq!(read_record(&Bytes::from_static(&[0; 64]), 0, 8).unwrap_err(), Unreadable::Empty);
        assert_eq!(read_record(&bytes.slice(..10), 0, 7).unwrap_err(), Unreadable::Short(START_LEN));
    }
}

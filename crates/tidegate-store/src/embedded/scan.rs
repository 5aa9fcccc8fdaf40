//! Reads a segment from its start and tells a torn tail from damage inside.
//!
//! Frames are written one after the other and each is synced before the next is written, so only the very last
//! frame can be torn, and a torn frame was never acknowledged: it is cut. Everything else that does not read back is
//! damage: it is reported, the good records around it are kept, and the scan goes on. The last frame is damage rather
//! than torn when nothing of it is missing: its end record is there and no disk sector inside it is still zero.
//! Whatever the verdict, it is reported: there is no silent gap.

use bytes::Bytes;
use tidegate_core::fault::Result;

use super::{
    frame::{self, Kind, Record, Start, Unreadable},
    journal::{Tip, io_fault},
    segment::{DATA_START, Lsn, Segment},
};

/// Something in the journal that does not read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) at: Lsn,
    pub(crate) len: u64,
    pub(crate) what: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "segment {:016x} offset {} length {}: {}", self.at.segment(), self.at.offset(), self.len, self.what)
    }
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    /// Where frames end and new ones may be written.
    pub(crate) end: u64,
    /// Behind `end`, up to here, lies what a torn frame left.
    pub(crate) dirty_end: u64,
    pub(crate) tip: Tip,
    pub(crate) damage: Vec<Damage>,
    /// A tail that was cut.
    pub(crate) cut: Option<Damage>,
    /// From here on nothing is known to be synced: it may stand in the page cache only.
    pub(crate) doubtful: u64,
}

struct Scanner<'a> {
    segment: &'a Segment,
    bytes: Bytes,
    /// Whether this is the newest segment, whose last frame may be torn.
    newest: bool,
    until: u64,
    at: usize,
    /// Numbers and places of the frames since the newest that is known to be synced.
    recent: Vec<(u64, usize)>,
    out: Scanned,
}

/// One frame as far as it can be read.
struct Walk {
    records: Vec<(usize, Record)>,
    /// Ranges that do not read back.
    bad: Vec<(usize, usize)>,
    whole: bool,
    ended: bool,
    chain: u32,
}

/// Scans a segment; `visit` gets every good data record in order.
///
/// `until` is the number of the frame with which the next segment starts; none for the newest segment.
pub(crate) fn scan(
    segment: &Segment,
    first: Tip,
    until: Option<u64>,
    visit: &mut dyn FnMut(Lsn, &Record),
) -> Result<Scanned> {
    let bytes =
        crate::disk::read_all(&*segment.file).map_err(|error| io_fault("read segment", &segment.path, error))?;
    let out = Scanned { tip: first, ..Scanned::default() };
    let mut scanner = Scanner {
        segment,
        bytes: bytes.into(),
        newest: until.is_none(),
        until: until.unwrap_or(u64::MAX),
        at: DATA_START as usize,
        recent: Vec::new(),
        out,
    };
    while scanner.step(visit) {}
    scanner.out.end = scanner.at as u64;
    scanner.out.doubtful = scanner.recent.first().map_or(scanner.at, |(_, at)| *at) as u64;
    scanner.out.dirty_end = scanner.out.dirty_end.max(scanner.out.end);
    scanner.out.tip.synced_frame = scanner.out.tip.next_frame.saturating_sub(1);
    Ok(scanner.out)
}

impl Scanner<'_> {
    /// Takes one frame; false at the end.
    fn step(&mut self, visit: &mut dyn FnMut(Lsn, &Record)) -> bool {
        if self.out.tip.next_frame >= self.until {
            return false;
        }
        let salt = self.segment.salt;
        match frame::read_record(&self.bytes, self.at, salt) {
            Ok(record) if record.kind == Kind::Footer => false,
            Ok(record) => match Start::read(&record) {
                Some(start) if start.number >= self.out.tip.next_frame => self.frame(&record, start, visit),
                Some(_) | None => self.lost_start(visit),
            },
            Err(Unreadable::Empty | Unreadable::Short(_) | Unreadable::Damaged) => self.lost_start(visit),
        }
    }

    /// Takes a frame whose start record is good.
    fn frame(&mut self, start_record: &Record, start: Start, visit: &mut dyn FnMut(Lsn, &Record)) -> bool {
        if start.number > self.out.tip.next_frame {
            let (from, to) = (self.out.tip.next_frame, start.number);
            self.damage(self.at, 0, format!("frames {from} to {} are missing before it", to - 1));
        }
        let end = self.at + start.len as usize;
        let walk = self.walk(self.at + start_record.len, end, start.number, start.chain);
        self.recent.retain(|(number, _)| *number > start.synced);
        self.recent.push((start.number, self.at));
        if walk.whole {
            return self.take(&walk, start.number + 1, end, visit);
        }
        let last = self.newest && self.find_start(end.min(self.bytes.len()), start.number).is_none();
        // With every record there, at most the end record is missing: nothing is lost by keeping the frame.
        let complete = walk.records.len() == start.records as usize;
        let torn = !complete && (!walk.ended || self.zero_sector(self.at, end));
        if last && torn {
            return self.cut(format!("frame {} was not written whole and never acknowledged", start.number));
        }
        for (from, to) in &walk.bad {
            self.damage(*from, to - from, format!("a record of frame {} does not read back", start.number));
        }
        if walk.bad.is_empty() {
            self.damage(self.at, start.len as usize, format!("frame {} does not match its chain", start.number));
        }
        self.take(&walk, start.number + 1, end.min(self.bytes.len()), visit)
    }

    /// Goes on where a frame should start and no good start record stands.
    fn lost_start(&mut self, visit: &mut dyn FnMut(Lsn, &Record)) -> bool {
        let from = self.at;
        let expected = self.out.tip.next_frame;
        if let Some((next, number)) = self.find_start(from, expected.saturating_sub(1)) {
            let walk = self.walk(from, next, expected, 0);
            self.damage(from, next - from, format!("the start of frame {expected} does not read back"));
            return self.take(&walk, number, next, visit);
        }
        let rest = self.bytes.get(from..).unwrap_or_default();
        let Some(last) = rest.iter().rposition(|byte| *byte != 0) else { return false };
        let dirty = from + last + 1;
        let walk = self.walk(from, dirty, expected, 0);
        if !self.newest || (walk.ended && !self.zero_sector(from, dirty)) {
            let end = walk.records.last().map_or(dirty, |(at, record)| at + record.len).max(from + 1);
            let end = if walk.ended { end + frame::END_LEN } else { end.max(dirty) };
            self.damage(from, end - from, format!("the start of frame {expected} does not read back"));
            return self.take(&walk, expected + 1, end, visit) && end < self.bytes.len();
        }
        self.cut(format!("frame {expected} was not written whole and never acknowledged"))
    }

    /// Reads the records between two places, skipping what does not read back.
    fn walk(&self, from: usize, to: usize, number: u64, chain: u32) -> Walk {
        let salt = self.segment.salt;
        let to = to.min(self.bytes.len());
        let mut walk = Walk { records: Vec::new(), bad: Vec::new(), whole: false, ended: false, chain };
        let mut at = from;
        while at < to {
            match frame::read_record(&self.bytes, at, salt) {
                Ok(record) => {
                    let len = record.len;
                    if let Some((end_number, end_chain)) = frame::read_end(&record) {
                        walk.ended = end_number == number;
                        walk.whole = walk.ended && walk.bad.is_empty() && end_chain == walk.chain && at + len == to;
                        walk.chain = end_chain;
                        return walk;
                    }
                    walk.chain = frame::link(walk.chain, record.crc);
                    if !matches!(record.kind, Kind::Start | Kind::Footer | Kind::End) {
                        walk.records.push((at, record));
                    }
                    at += len;
                }
                Err(_) => {
                    let bad = at;
                    at += 1;
                    while at < to && frame::read_record(&self.bytes, at, salt).is_err() {
                        at += 1;
                    }
                    walk.bad.push((bad, at));
                }
            }
        }
        walk
    }

    fn take(&mut self, walk: &Walk, next: u64, end: usize, visit: &mut dyn FnMut(Lsn, &Record)) -> bool {
        for (at, record) in &walk.records {
            visit(Lsn::new(self.segment.number, *at as u64), record);
        }
        self.out.tip.next_frame = next;
        self.out.tip.chain = walk.chain;
        self.at = end;
        true
    }

    fn cut(&mut self, what: String) -> bool {
        let last = self.bytes.get(self.at..).unwrap_or_default().iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let len = last as u64 + 1;
        self.out.dirty_end = self.at as u64 + len;
        self.out.cut = Some(Damage { at: Lsn::new(self.segment.number, self.at as u64), len, what });
        false
    }

    fn damage(&mut self, at: usize, len: usize, what: String) {
        self.out.damage.push(Damage { at: Lsn::new(self.segment.number, at as u64), len: len as u64, what });
    }

    /// Finds the next good start record with a number above `above`.
    fn find_start(&self, from: usize, above: u64) -> Option<(usize, u64)> {
        let mark = [0x54, 0x47, 0x46, 0x53];
        let mut at = from;
        while let Some(found) = self.bytes.get(at..)?.windows(4).position(|window| window == mark) {
            let magic = at + found;
            if let Some(start_at) = magic.checked_sub(frame::RECORD_HEAD)
                && start_at >= from
                && let Ok(record) = frame::read_record(&self.bytes, start_at, self.segment.salt)
                && let Some(start) = Start::read(&record)
                && start.number > above
            {
                return Some((start_at, start.number));
            }
            at = magic + 1;
        }
        None
    }

    /// Tells whether a whole disk sector between two places is still zero: it was never written.
    fn zero_sector(&self, from: usize, to: usize) -> bool {
        if to > self.bytes.len() {
            return true;
        }
        let first = from.next_multiple_of(512);
        (first..to).step_by(512).any(|at| {
            let sector = &self.bytes[at..(at + 512).min(self.bytes.len())];
            at + 512 <= to && sector.iter().all(|byte| *byte == 0)
        }) || self.bytes[from..first.min(to)].iter().all(|byte| *byte == 0)
    }
}

#[cfg(test)]
mod tests;

//! Segments: the files of the journal, their headers and footers.

use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_core::fault::{Fault, FaultKind, Result};

use super::{
    frame::{self, Kind},
    journal::io_fault,
};
use crate::disk::DiskFile;

/// Version of the whole on-disk format.
pub(crate) const FORMAT: u32 = 5;
/// Where the first frame of a segment stands.
pub(crate) const DATA_START: u64 = 4096;
/// Bytes between two index entries of one stream, about.
pub(crate) const INDEX_EVERY: u64 = 16 * 1024;

/// Where the copy of the header stands.
const COPY_AT: usize = 2048;
const MAGIC: &[u8; 8] = b"TGSEGMNT";
const TRAILER_MAGIC: &[u8; 8] = b"TGFOOTER";
const TRAILER_LEN: u64 = 16;

/// Place in the journal: segment number, then offset. Grows with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    pub(crate) fn new(segment: u64, offset: u64) -> Self {
        Self(segment << 32 | offset)
    }
    pub(crate) fn segment(self) -> u64 {
        self.0 >> 32
    }
    pub(crate) fn offset(self) -> u64 {
        self.0 & 0xffff_ffff
    }
}

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) salt: u32,
    /// Number of the first frame.
    pub(crate) first_frame: u64,
    /// Chain value before the first frame.
    pub(crate) chain: u32,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first_frame.to_le_bytes());
        out.extend_from_slice(&self.chain.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Writes the header and its copy: without one of them nothing of the segment can be read.
    pub(crate) fn write(&self, file: &dyn DiskFile) -> std::io::Result<()> {
        let mut bytes = self.encode();
        bytes.resize(COPY_AT, 0);
        bytes.extend(self.encode());
        file.write_at(&bytes, 0)
    }

    /// Reads a header, from its copy when it is damaged; the flag says so. None when the file was never a segment: nothing
    /// stands in it, or a part of a header that could not be finished.
    pub(crate) fn read(file: &dyn DiskFile, path: &Path) -> Result<Option<(Self, bool)>> {
        match Self::read_one(file, path, 0) {
            Ok(Some(header)) => Ok(Some((header, false))),
            Ok(None) if matches!(Self::read_one(file, path, COPY_AT as u64), Ok(None)) => Ok(None),
            first @ (Ok(None) | Err(_)) => match Self::read_one(file, path, COPY_AT as u64) {
                Ok(Some(header)) => Ok(Some((header, true))),
                second if is_torn(&first) && is_torn(&second) && has_no_frames(file, path)? => Ok(None),
                Ok(None) | Err(_) => first.map(|_| None),
            },
        }
    }

    fn read_one(file: &dyn DiskFile, path: &Path, at: u64) -> Result<Option<Self>> {
        let mut bytes = [0; 40];
        let count = file.read_at(&mut bytes, at).map_err(|error| io_fault("read segment header", path, error))?;
        if bytes[..count].iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if count < 40 || bytes[..8] != *MAGIC || crc32c::crc32c(&bytes[..36]) != u32_at(36) {
            return Err(Fault::corrupt(format!("segment {}: header is damaged", path.display())));
        }
        let format = u32_at(8);
        check_format(format, path)?;
        Ok(Some(Self { salt: u32_at(12), number: u64_at(16), first_frame: u64_at(24), chain: u32_at(32) }))
    }
}

/// Tells whether a header cannot be read, and not because another program wrote it.
fn is_torn(read: &Result<Option<Header>>) -> bool {
    match read {
        Ok(header) => header.is_none(),
        Err(fault) => fault.kind == FaultKind::Corrupt,
    }
}

/// Tells whether nothing stands behind the header. A frame is written only after its segment's header is synced, so such a
/// file holds nothing that was ever promised.
fn has_no_frames(file: &dyn DiskFile, path: &Path) -> Result<bool> {
    let mut bytes = vec![0; 64 << 10];
    let mut at = DATA_START;
    loop {
        let count = file.read_at(&mut bytes, at).map_err(|error| io_fault("read segment", path, error))?;
        if count == 0 {
            return Ok(true);
        }
        if bytes[..count].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += count as u64;
    }
}

/// Refuses a store of a format that this program does not know.
pub(crate) fn check_format(format: u32, path: &Path) -> Result<()> {
    let advice = match format.cmp(&FORMAT) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Greater => "use a newer tidegate",
        std::cmp::Ordering::Less => "it was written before the first release and cannot be taken over",
    };
    Err(Fault::conflict(format!(
        "store {} has format {format}, this program knows format {FORMAT}: {advice}",
        path.display()
    )))
}

/// Returns the format that a segment says it has, whether it can be read or not; none when it was never one.
pub(crate) fn peek_format(file: &dyn DiskFile) -> Option<u32> {
    let mut bytes = [0; 12];
    let count = file.read_at(&mut bytes, 0).ok()?;
    (count == 12 && bytes[..8] == *MAGIC).then(|| u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]))
}

/// Events of one stream in one segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) stream: u32,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// When the newest was accepted.
    pub(crate) newest: i64,
    /// Every now and then: sequence number and offset of its record.
    pub(crate) index: Vec<(u64, u32)>,
}

impl Span {
    /// Takes in one more record.
    pub(crate) fn add(&mut self, seq: u64, offset: u64, bytes: u64, at: i64) {
        if self.count == 0 {
            self.first = seq;
        }
        self.last = seq;
        self.count += 1;
        self.bytes += bytes;
        self.newest = self.newest.max(at);
        let far = self.index.last().is_none_or(|(_, last)| offset - u64::from(*last) >= INDEX_EVERY);
        if far {
            self.index.push((seq, offset as u32));
        }
    }

    /// Returns where to start looking for `seq`.
    pub(crate) fn seek(&self, seq: u64) -> Option<u64> {
        let at = self.index.partition_point(|(first, _)| *first <= seq);
        self.index.get(at.checked_sub(1)?).map(|(_, offset)| u64::from(*offset))
    }
}

/// What a segment holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footer {
    /// Where the frames end.
    pub(crate) end: u64,
    /// Number of the frame after the last.
    pub(crate) next_frame: u64,
    /// Chain value after the last frame.
    pub(crate) chain: u32,
    pub(crate) spans: Vec<Span>,
    /// Copies out of cleaned segments: stream, sequence number, offset.
    pub(crate) moved: Vec<(u32, u64, u32)>,
    /// Bytes of records that are damaged.
    pub(crate) damaged: u64,
}

impl Footer {
    pub(crate) fn span(&mut self, stream: u32) -> &mut Span {
        let at = match self.spans.binary_search_by_key(&stream, |span| span.stream) {
            Ok(at) => at,
            Err(at) => {
                self.spans.insert(at, Span { stream, ..Span::default() });
                at
            }
        };
        &mut self.spans[at]
    }

    pub(crate) fn find(&self, stream: u32) -> Option<&Span> {
        self.spans.binary_search_by_key(&stream, |span| span.stream).ok().map(|at| &self.spans[at])
    }
}

/// One file of the journal.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) salt: u32,
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn DiskFile>,
    /// Where readable frames end.
    pub(crate) end: AtomicU64,
    pub(crate) capacity: u64,
    /// Set once it is sealed.
    pub(crate) footer: OnceLock<Footer>,
}

impl Segment {
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Reads bytes of frames; short at their end.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let len = len.min(usize::try_from(self.end().saturating_sub(offset)).unwrap_or(usize::MAX));
        let mut buffer = vec![0; len];
        let count =
            self.file.read_at(&mut buffer, offset).map_err(|error| io_fault("read segment", &self.path, error))?;
        buffer.truncate(count);
        Ok(buffer.into())
    }

    /// Writes the footer behind the frames and cuts the file there. Not synced: a missing footer is made again.
    pub(crate) fn seal(&self, footer: Footer) -> std::io::Result<()> {
        let body = postcard::to_stdvec(&footer).map_err(std::io::Error::other)?;
        let mut out = Vec::with_capacity(body.len() + 64);
        frame::put_record(&mut out, self.salt, Kind::Footer, |out| out.extend_from_slice(&body));
        out.extend_from_slice(TRAILER_MAGIC);
        out.extend_from_slice(&footer.end.to_le_bytes());
        self.file.write_at(&out, footer.end)?;
        self.file.set_len(footer.end + out.len() as u64)?;
        self.footer.get_or_init(|| footer);
        Ok(())
    }

    /// Reads the footer of a sealed segment; none when there is no good one.
    pub(crate) fn load_footer(&self) -> Option<Footer> {
        let len = self.file.len().ok()?;
        let mut trailer = [0; TRAILER_LEN as usize];
        let at = len.checked_sub(TRAILER_LEN)?;
        self.file.read_at(&mut trailer, at).ok()?;
        if trailer[..8] != *TRAILER_MAGIC {
            return None;
        }
        let end = u64::from_le_bytes(trailer[8..].try_into().ok()?);
        let size = usize::try_from(at.checked_sub(end)?).ok()?;
        let mut bytes = vec![0; size];
        self.file.read_at(&mut bytes, end).ok()?;
        let record = frame::read_record(&Bytes::from(bytes), 0, self.salt).ok()?;
        if record.kind != Kind::Footer {
            return None;
        }
        let footer: Footer = postcard::from_bytes(&record.body).ok()?;
        (footer.end == end).then_some(footer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, MemoryDisk};

    #[test]
    fn headers_read_back_and_newer_formats_are_refused_by_name() {
        let disk = MemoryDisk::default();
        let path = Path::new("/s/1");
        let file = disk.open(path, true).unwrap();
        assert_eq!(Header::read(&*file, path).unwrap(), None);
        let header = Header { number: 7, salt: 3, first_frame: 9, chain: 1 };
        header.write(&*file).unwrap();
        assert_eq!(Header::read(&*file, path).unwrap(), Some((header, false)));
        file.write_at(&[9], 3).unwrap();
        assert_eq!(Header::read(&*file, path).unwrap(), Some((header, true)));
        header.write(&*file).unwrap();
        file.write_at(&[1], 2048).unwrap();
        let mut newer = header.encode();
        newer[8] = 99;
        let crc = crc32c::crc32c(&newer[..36]);
        newer[36..40].copy_from_slice(&crc.to_le_bytes());
        file.write_at(&newer, 0).unwrap();
        file.write_at(&newer, 2048).unwrap();
        assert!(Header::read(&*file, path).unwrap_err().note().contains("format 99"));
        file.write_at(&[1], 20).unwrap();
        file.write_at(&[1], 2068).unwrap();
        assert_eq!(
            Header::read(&*file, path).unwrap(),
            None,
            "no frame can be in a file whose header was never finished"
        );
        file.write_at(&[1], DATA_START + 100_000).unwrap();
        assert!(Header::read(&*file, path).unwrap_err().note().contains("damaged"));
    }

    #[test]
    fn footers_read_back_and_damage_in_them_is_seen() {
        let disk = MemoryDisk::default();
        let path = PathBuf::from("/s/1");
        let open = || Segment {
            number: 1,
            salt: 5,
            path: path.clone(),
            file: disk.open(&path, true).unwrap(),
            end: AtomicU64::new(DATA_START),
            capacity: 1 << 20,
            footer: OnceLock::new(),
        };
        let mut footer = Footer { end: DATA_START + 500, next_frame: 3, ..Footer::default() };
        for seq in 1..=10 {
            footer.span(4).add(seq, DATA_START + seq * 10_000, 300, 77);
        }
        footer.span(2).add(1, DATA_START, 100, 5);
        assert_eq!(footer.find(4).unwrap().seek(5), Some(DATA_START + 50_000));
        assert_eq!(footer.find(4).unwrap().seek(6), Some(DATA_START + 50_000));
        open().seal(footer.clone()).unwrap();
        assert_eq!(open().load_footer(), Some(footer.clone()));
        let file = disk.open(&path, false).unwrap();
        let len = file.len().unwrap();
        for at in footer.end..len {
            let mut byte = [0];
            file.read_at(&mut byte, at).unwrap();
            file.write_at(&[byte[0] ^ 4], at).unwrap();
            assert_eq!(open().load_footer(), None, "byte {at}");
            file.write_at(&byte, at).unwrap();
        }
    }
}

//! `store info` and `store check`: what lies in a data directory that no process uses.

use std::path::Path;

use serde::Serialize;
use tidegate_core::fault::{Fault, FaultKind, Result};

use super::{
    checkpoint::{self, Image},
    journal::{Tip, io_fault},
    open::{CHECKPOINTS, JOURNAL, LEDGER, segment_file},
    scan,
    seen::{check_run, run_path},
    segment::{FORMAT, Header, Segment, peek_format},
};
use crate::disk::Disk;

/// What a store is made of.
#[derive(Debug, Clone, Serialize)]
pub struct StoreDescription {
    /// Version of the on-disk format.
    pub format: u32,
    /// Segments of the journal.
    pub segments: u64,
    /// Their bytes.
    pub journal_bytes: u64,
    /// Streams: name, oldest kept position, newest position.
    pub streams: Vec<StreamFacts>,
    /// Groups: name, stream, counts as of the last checkpoint.
    pub groups: Vec<GroupFacts>,
}

/// One stream of a store.
#[derive(Debug, Clone, Serialize)]
pub struct StreamFacts {
    /// Name.
    pub name: String,
    /// Oldest kept position.
    pub first: u64,
    /// Newest position.
    pub last: u64,
}

/// One group of a store.
#[derive(Debug, Clone, Serialize)]
pub struct GroupFacts {
    /// Name.
    pub name: String,
    /// Its stream.
    pub stream: String,
    /// Settled as done.
    pub done: u64,
    /// Buried.
    pub dead: u64,
    /// Everything else that is accepted.
    pub open: u64,
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckReport {
    /// Whether nothing is damaged.
    pub ok: bool,
    /// Frames that were read.
    pub frames: u64,
    /// Records that were read.
    pub records: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Damage, each with its place.
    pub damage: Vec<String>,
    /// Tails of the journal that were never acknowledged and will be cut at the next start.
    pub torn: Vec<String>,
}

/// Returns the newest format of a segment in a data directory, and the newest that this program knows; it may be in
/// use. None when there is no store yet.
pub fn formats(disk: &dyn Disk, dir: &Path) -> (Option<u32>, u32) {
    let folder = dir.join(JOURNAL);
    let names = disk.list(&folder).unwrap_or_default();
    let open = |name: &String| disk.open(&folder.join(name), false).ok();
    let segments = names.iter().filter(|name| name.ends_with(".seg")).filter_map(open);
    (segments.filter_map(|file| peek_format(&*file)).max(), FORMAT)
}

/// Describes a store as of its last checkpoint; the data directory must not be in use. Changes nothing.
pub fn describe(disk: &dyn Disk, dir: &Path) -> Result<StoreDescription> {
    exists(disk, dir)?;
    let _lock = super::lock(disk, dir)?;
    let image = check_checkpoints(disk, dir, &mut CheckReport::default())?;
    let folder = dir.join(JOURNAL);
    let names = disk.list(&folder).map_err(|error| io_fault("list", &folder, error))?;
    let (mut segments, mut journal_bytes) = (0, 0);
    for name in names.iter().filter(|name| name.ends_with(".seg")) {
        let path = folder.join(name);
        let file = disk.open(&path, false).map_err(|error| io_fault("open", &path, error))?;
        segments += 1;
        journal_bytes += file.len().map_err(|error| io_fault("open", &path, error))?;
    }
    let streams = image.streams.iter().map(|stream| StreamFacts {
        name: stream.decl.name.to_string(),
        first: stream.first,
        last: stream.last,
    });
    let groups = image.groups.iter().map(|group| {
        let stream = image.streams.iter().find(|stream| stream.decl.id == group.decl.stream);
        let last = stream.map_or(0, |stream| stream.last);
        GroupFacts {
            name: group.decl.name.to_string(),
            stream: stream.map_or_else(String::new, |stream| stream.decl.name.to_string()),
            done: group.counts.done,
            dead: group.counts.dead,
            open: (last + 1).saturating_sub(group.cursor) + group.open_entries(),
        }
    });
    Ok(StoreDescription {
        format: FORMAT,
        segments,
        journal_bytes,
        streams: streams.collect(),
        groups: groups.collect(),
    })
}

fn exists(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let found = disk.list(&dir.join(CHECKPOINTS)).is_ok_and(|names| !checkpoint::list(&names).is_empty());
    if found { Ok(()) } else { Err(Fault::missing(format!("there is no store in {}", dir.display()))) }
}

/// Reads every byte of a store; the data directory must not be in use. Changes nothing.
pub fn check(disk: &dyn Disk, dir: &Path) -> Result<CheckReport> {
    exists(disk, dir)?;
    let _lock = super::lock(disk, dir)?;
    let mut report = CheckReport::default();
    let image = check_checkpoints(disk, dir, &mut report)?;
    check_journal(disk, dir, &image, &mut report)?;
    let streams = image.streams.iter().filter_map(|stream| stream.dedupe.as_ref());
    for run in streams.chain(image.groups.iter().filter_map(|group| group.ledger.as_ref())).flat_map(|seen| seen.runs())
    {
        let path = run_path(&dir.join(LEDGER), run.file);
        let opened = disk.open(&path, false).map_err(|error| io_fault("open", &path, error));
        if let Err(fault) = opened.and_then(|file| check_run(file, &path, run)) {
            report.damage.push(fault.note().to_owned());
        }
    }
    report.ok = report.damage.is_empty();
    Ok(report)
}

fn check_checkpoints(disk: &dyn Disk, dir: &Path, report: &mut CheckReport) -> Result<Image> {
    let folder = dir.join(CHECKPOINTS);
    let names = disk.list(&folder).map_err(|error| io_fault("list", &folder, error))?;
    let mut newest = None;
    for number in checkpoint::list(&names) {
        match checkpoint::read(disk, &folder, number) {
            Ok(image) => newest = Some(image),
            Err(fault) if fault.kind == FaultKind::Corrupt => report.damage.push(fault.note().to_owned()),
            Err(fault) => return Err(fault),
        }
    }
    newest.ok_or_else(|| Fault::corrupt(format!("no checkpoint in {} reads back", folder.display())))
}

fn check_journal(disk: &dyn Disk, dir: &Path, image: &Image, report: &mut CheckReport) -> Result<()> {
    let folder = dir.join(JOURNAL);
    let names = disk.list(&folder).map_err(|error| io_fault("list", &folder, error))?;
    let mut numbers: Vec<u64> =
        names.iter().filter_map(|name| u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok()).collect();
    numbers.sort_unstable();
    for missing in image.segments.iter().filter(|number| **number >= image.from.segment() && !numbers.contains(number))
    {
        report.damage.push(format!("segment {missing:016x} is not there"));
    }
    let mut headers = Vec::new();
    for number in numbers {
        let path = segment_file(dir, number);
        let file = disk.open(&path, false).map_err(|error| io_fault("open", &path, error))?;
        match Header::read(&*file, &path) {
            Ok(Some((header, from_copy))) => {
                if from_copy {
                    report.damage.push(format!("segment {number:016x}: its header is damaged, its copy is good"));
                }
                headers.push((header, file, path));
            }
            Ok(None) => {}
            Err(fault) if fault.kind == FaultKind::Corrupt => report.damage.push(fault.note().to_owned()),
            Err(fault) => return Err(fault),
        }
    }
    let firsts: Vec<(u64, u64)> = headers.iter().map(|(header, ..)| (header.number, header.first_frame)).collect();
    for (header, file, path) in headers {
        let segment = Segment {
            number: header.number,
            salt: header.salt,
            path,
            file,
            end: 0.into(),
            capacity: 0,
            footer: std::sync::OnceLock::new(),
        };
        let first = Tip { next_frame: header.first_frame, chain: header.chain, synced_frame: 0 };
        let until = firsts.iter().find(|(number, _)| *number > header.number).map(|(_, frame)| *frame);
        let scanned = scan::scan(&segment, first, until, &mut |_, _| report.records += 1)?;
        report.frames += scanned.tip.next_frame - header.first_frame;
        report.bytes += scanned.end;
        report.damage.extend(scanned.damage.iter().map(ToString::to_string));
        report.torn.extend(scanned.cut.iter().map(ToString::to_string));
        if until.is_some_and(|frame| scanned.tip.next_frame < frame) {
            report.damage.push(format!("segment {:016x}: frames are missing at its end", header.number));
        }
    }
    Ok(())
}

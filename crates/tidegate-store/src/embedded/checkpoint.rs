//! Checkpoints: the state in memory, written down so that only the tail of the journal is replayed.
//!
//! A checkpoint is fuzzy: each stream and each group is taken under its own lock and remembers the place in the
//! journal up to which it is applied; replay starts at the oldest such place and everybody skips what they know.
//! The two newest checkpoints are kept, and so is the journal that the older one needs: one damaged file costs nothing.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use tidegate_core::fault::{Fault, FaultKind, Result};

use super::{
    group::{Group, GroupImage},
    journal::io_fault,
    segment::{FORMAT, Lsn, check_format},
    state::State,
    stream::{Stream, StreamImage},
};
use crate::disk::{Disk, read_all};

const MAGIC: &[u8; 8] = b"TGCHECKP";

/// Everything a checkpoint holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) key: [u8; 16],
    /// Replay starts here.
    pub(crate) from: Lsn,
    pub(crate) registry_applied: Lsn,
    pub(crate) next_id: u32,
    pub(crate) next_run: u64,
    pub(crate) states: Vec<(String, Vec<u8>)>,
    pub(crate) streams: Vec<StreamImage>,
    pub(crate) groups: Vec<GroupImage>,
    /// Segments that were there.
    pub(crate) segments: Vec<u64>,
}

fn path(dir: &std::path::Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.checkpoint"))
}

/// Takes the image of the state as it is; `closing` when no work is lent any more by intent.
pub(crate) fn take(state: &State, closing: bool) -> Image {
    let from = Lsn(state.applied.load(std::sync::atomic::Ordering::Acquire));
    let (registry_applied, next_id, states, streams, groups) = {
        let registry = state.registry.read();
        let streams: Vec<Arc<Stream>> = registry.streams.values().map(Arc::clone).collect();
        let groups: Vec<Arc<Group>> = registry.groups.values().map(Arc::clone).collect();
        let states = registry.states.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        (registry.applied, registry.next_id, states, streams, groups)
    };
    let mut image = Image { key: state.key.0, from, registry_applied, next_id, states, ..Image::default() };
    for stream in streams {
        image.streams.push(stream.image());
    }
    for group in groups {
        let inner = group.inner.lock();
        image.groups.push(inner.image(group.decl(inner.start), closing));
    }
    image.segments = state.reader.segments.read().keys().copied().collect();
    image.next_run = state.next_run.load(std::sync::atomic::Ordering::Acquire);
    image
}

impl Image {
    /// Returns the newest place that it takes for applied.
    pub(crate) fn applied(&self) -> Lsn {
        let streams = self.streams.iter().map(|stream| stream.applied);
        let groups = self.groups.iter().map(|group| group.applied);
        streams.chain(groups).chain([self.from, self.registry_applied]).max().unwrap_or_default()
    }

    /// Returns the run files that it names.
    pub(crate) fn runs(&self) -> impl Iterator<Item = u64> + '_ {
        let dedupe = self.streams.iter().filter_map(|stream| stream.dedupe.as_ref());
        let ledgers = self.groups.iter().filter_map(|group| group.ledger.as_ref());
        dedupe.chain(ledgers).flat_map(super::seen::SeenImage::files)
    }
}

/// Writes a checkpoint durably; returns its size.
pub(crate) fn write(disk: &dyn Disk, dir: &std::path::Path, number: u64, image: &Image) -> Result<u64> {
    let path = path(dir, number);
    let failed = |error| io_fault("write checkpoint", &path, error);
    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    let bytes = postcard::to_extend(image, bytes)
        .map_err(|error| Fault::bug(format!("checkpoint cannot be written: {error}")))?;
    let crc = crc32c::crc32c(&bytes);
    let draft = path.with_extension("draft");
    let file = disk.open(&draft, true).map_err(failed)?;
    file.set_len(0).map_err(failed)?;
    file.write_at(&bytes, 0).map_err(failed)?;
    file.write_at(&crc.to_le_bytes(), bytes.len() as u64).map_err(failed)?;
    file.sync().map_err(failed)?;
    disk.rename(&draft, &path).map_err(failed)?;
    disk.sync_dir(dir).map_err(failed)?;
    Ok(bytes.len() as u64)
}

/// Reads one checkpoint.
pub(crate) fn read(disk: &dyn Disk, dir: &std::path::Path, number: u64) -> Result<Image> {
    let path = path(dir, number);
    let file = disk.open(&path, false).map_err(|error| io_fault("read checkpoint", &path, error))?;
    let bytes = read_all(&*file).map_err(|error| io_fault("read checkpoint", &path, error))?;
    let damaged = || Fault::corrupt(format!("checkpoint {} is damaged", path.display()));
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) || body.len() < 12 || body[..8] != *MAGIC {
        return Err(damaged());
    }
    let format = u32::from_le_bytes([body[8], body[9], body[10], body[11]]);
    check_format(format, &path)?;
    postcard::from_bytes(&body[12..]).map_err(|_| damaged())
}

/// Returns the numbers of the checkpoints that lie there, oldest first.
pub(crate) fn list(names: &[String]) -> Vec<u64> {
    let number = |name: &String| u64::from_str_radix(name.strip_suffix(".checkpoint")?, 16).ok();
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Removes all but the two newest.
pub(crate) fn prune(disk: &dyn Disk, dir: &std::path::Path, numbers: &[u64]) -> Result<()> {
    for number in numbers.iter().rev().skip(2) {
        let path = path(dir, *number);
        disk.remove(&path).map_err(|error| io_fault("remove checkpoint", &path, error))?;
    }
    Ok(())
}

/// What was found at opening: the newest good checkpoint, and what is wrong with newer ones.
pub(crate) type Newest = (Option<(u64, Image)>, Vec<Fault>);

/// Reads the newest good checkpoint.
pub(crate) fn newest(disk: &dyn Disk, dir: &std::path::Path, numbers: &[u64]) -> Result<Newest> {
    let mut damaged = Vec::new();
    for number in numbers.iter().rev() {
        match read(disk, dir, *number) {
            Ok(image) => return Ok((Some((*number, image)), damaged)),
            Err(fault) if fault.kind == FaultKind::Corrupt => damaged.push(fault),
            Err(fault) => return Err(fault),
        }
    }
    Ok((None, damaged))
}

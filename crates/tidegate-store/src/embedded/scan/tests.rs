//! Every way in which the bytes of a segment can be wrong, and the verdict on it.

use std::sync::{OnceLock, atomic::AtomicU64};

use super::*;
use crate::{
    disk::{Disk, MemoryDisk},
    embedded::{frame::FrameBuilder, segment::Header},
};

const SALT: u32 = 77;

/// A segment of frames with two records each; returns it with the places where frames start and end.
fn segment(frames: usize) -> (Segment, Vec<(usize, usize)>) {
    let disk = MemoryDisk::default();
    let file = disk.open(std::path::Path::new("/s"), true).unwrap();
    Header { number: 1, salt: SALT, first_frame: 10, chain: 5 }.write(&*file).unwrap();
    let (mut at, mut chain, mut places) = (DATA_START, 5, Vec::new());
    for number in 0..frames {
        let mut frame = FrameBuilder::new(Vec::new(), SALT, chain);
        for part in 0..2 {
            frame.push(Kind::Append, |out| out.extend(std::iter::repeat_n((number * 2 + part) as u8 + 1, 400)));
        }
        let (bytes, next) = frame.finish(10 + number as u64, 9 + number as u64, 1);
        file.write_at(&bytes, at).unwrap();
        places.push((at as usize, at as usize + bytes.len()));
        at += bytes.len() as u64;
        chain = next;
    }
    file.set_len(at + 8192).unwrap();
    let segment = Segment {
        number: 1,
        salt: SALT,
        path: "/s".into(),
        file,
        end: AtomicU64::new(0),
        capacity: at + 8192,
        footer: OnceLock::new(),
    };
    (segment, places)
}

/// Scans; returns what was found and the first byte of each good record.
fn run(segment: &Segment, until: Option<u64>) -> (Scanned, Vec<u8>) {
    let mut seen = Vec::new();
    let first = Tip { next_frame: 10, chain: 5, synced_frame: 0 };
    let scanned = scan(segment, first, until, &mut |_, record| seen.push(record.body[0])).unwrap();
    (scanned, seen)
}

fn flip(segment: &Segment, at: usize) {
    let mut byte = [0];
    segment.file.read_at(&mut byte, at as u64).unwrap();
    segment.file.write_at(&[byte[0] ^ 0x10], at as u64).unwrap();
}

#[test]
fn good_frames_are_taken_whole() {
    let (segment, places) = segment(3);
    for until in [None, Some(13)] {
        let (scanned, seen) = run(&segment, until);
        assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
        assert_eq!((scanned.end, scanned.tip.next_frame), (places[2].1 as u64, 13));
        assert!(scanned.damage.is_empty() && scanned.cut.is_none());
    }
}

/// Whatever single byte is flipped, it is reported, and at most the record that holds it is lost.
#[test]
fn any_flipped_byte_is_reported_and_costs_one_record_at_most() {
    for sealed in [None, Some(13)] {
        let (_, places) = segment(3);
        for at in places[0].0..places[2].1 {
            let (segment, _) = segment(3);
            flip(&segment, at);
            let (scanned, seen) = run(&segment, sealed);
            assert!(!scanned.damage.is_empty(), "byte {at} is not noticed (sealed {sealed:?})");
            assert!(scanned.cut.is_none(), "byte {at} is taken for a torn write (sealed {sealed:?})");
            assert!(seen.len() >= 5, "byte {at} cost {seen:?} (sealed {sealed:?})");
            assert_eq!(scanned.tip.next_frame, 13, "byte {at} (sealed {sealed:?})");
            assert_eq!(scanned.end, places[2].1 as u64, "byte {at} (sealed {sealed:?})");
        }
    }
}

#[test]
fn a_last_frame_that_was_not_written_whole_is_cut_and_reported() {
    let (_, places) = segment(3);
    let (start, end) = places[2];
    // A prefix was written.
    for cut in (start + 1..end - crate::embedded::frame::END_LEN).step_by(37) {
        let (segment, _) = segment(3);
        segment.file.write_at(&vec![0; end - cut], cut as u64).unwrap();
        let (scanned, seen) = run(&segment, None);
        assert_eq!(seen, [1, 2, 3, 4], "cut at {cut}");
        assert_eq!((scanned.end, scanned.tip.next_frame), (start as u64, 12), "cut at {cut}");
        assert!(scanned.cut.is_some(), "cut at {cut}");
        assert!(scanned.dirty_end > scanned.end);
    }
    // Any one sector is missing.
    for sector in (start.next_multiple_of(512)..end - 512).step_by(512) {
        let (segment, _) = segment(3);
        segment.file.write_at(&[0; 512], sector as u64).unwrap();
        let (scanned, seen) = run(&segment, None);
        assert_eq!(seen, [1, 2, 3, 4], "sector {sector}");
        assert!(scanned.cut.is_some() && scanned.damage.is_empty(), "sector {sector}");
    }
}

#[test]
fn a_hole_before_a_good_frame_is_damage() {
    let (segment, places) = segment(3);
    let (start, end) = places[1];
    segment.file.write_at(&vec![0; end - start], start as u64).unwrap();
    let (scanned, seen) = run(&segment, None);
    assert_eq!(seen, [1, 2, 5, 6]);
    assert!(!scanned.damage.is_empty());
    assert_eq!((scanned.end, scanned.tip.next_frame), (places[2].1 as u64, 13));
}

#[test]
fn noise_never_panics() {
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..300 {
        let (segment, places) = segment(3);
        for _ in 0..rng.usize(1..20) {
            let at = rng.usize(places[0].0..places[2].1);
            let mut noise = vec![0; rng.usize(1..300)];
            rng.fill(&mut noise);
            segment.file.write_at(&noise, at as u64).unwrap();
        }
        let (scanned, _) = run(&segment, if rng.bool() { None } else { Some(13) });
        assert!(scanned.cut.is_some() || !scanned.damage.is_empty());
    }
}

//! What the simulated disk itself promises to the tests that stand on it.

use super::*;

const DIR: &str = "/sim/data";

fn disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("/sim")).unwrap();
    disk
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// A durable file.
fn file(disk: &SimDisk, name: &str) -> Box<dyn DiskFile> {
    let file = disk.open(&path(name), true).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file
}

fn content(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(&path(name), false).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    Some(bytes)
}

/// What the file may hold after a crash, over many seeds.
fn after_crashes(disk: &SimDisk, name: &str) -> Vec<Option<Vec<u8>>> {
    let mut seen = Vec::new();
    for seed in 0..400 {
        let fork = disk.fork();
        fork.crash(seed);
        let left = content(&fork, name);
        if !seen.contains(&left) {
            seen.push(left);
        }
    }
    seen.sort();
    seen
}

#[test]
fn what_was_synced_survives_every_crash() {
    let disk = disk();
    let file = file(&disk, "a");
    file.write_at(&[7; 3000], 0).unwrap();
    file.sync().unwrap();
    assert_eq!(after_crashes(&disk, "a"), [Some(vec![7; 3000])]);
}

#[test]
fn unsynced_sectors_are_lost_kept_and_reordered_each_by_itself() {
    let disk = disk();
    let file = file(&disk, "a");
    file.write_at(&[1; 3 * SECTOR], 0).unwrap();
    file.sync().unwrap();
    file.write_at(&[2; 3 * SECTOR], 0).unwrap();
    let seen = after_crashes(&disk, "a");
    let sector = |left: &Option<Vec<u8>>, index: usize| left.as_ref().unwrap()[index * SECTOR];
    let kinds: Vec<[u8; 3]> = seen.iter().map(|left| [0, 1, 2].map(|index| sector(left, index))).collect();
    for wanted in [[1, 1, 1], [2, 2, 2], [1, 2, 1], [2, 1, 2]] {
        assert!(kinds.contains(&wanted), "{wanted:?} never happened: {kinds:?}");
    }
    for left in &seen {
        for sector in left.as_ref().unwrap().chunks(SECTOR) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector was torn");
        }
    }
}

#[test]
fn an_overwritten_sector_may_keep_any_of_its_contents() {
    let disk = disk();
    let file = file(&disk, "a");
    for byte in 1..=3 {
        file.write_at(&[byte; SECTOR], 0).unwrap();
    }
    let firsts: Vec<Option<u8>> =
        after_crashes(&disk, "a").into_iter().map(|left| left.unwrap().first().copied()).collect();
    assert!([Some(1), Some(2), Some(3), None].iter().all(|wanted| firsts.contains(wanted)), "{firsts:?}");
}

#[test]
fn names_survive_only_when_their_folder_was_synced() {
    let disk = disk();
    let new = disk.open(&path("new"), true).unwrap();
    new.write_at(b"x", 0).unwrap();
    new.sync().unwrap();
    assert_eq!(after_crashes(&disk, "new"), [None, Some(b"x".to_vec())]);
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(after_crashes(&disk, "new"), [Some(b"x".to_vec())]);

    disk.rename(&path("new"), &path("renamed")).unwrap();
    for seed in 0..50 {
        let fork = disk.fork();
        fork.crash(seed);
        assert_ne!(content(&fork, "new").is_some(), content(&fork, "renamed").is_some(), "seed {seed}");
    }
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(after_crashes(&disk, "renamed"), [Some(b"x".to_vec())]);

    disk.remove(&path("renamed")).unwrap();
    assert_eq!(after_crashes(&disk, "renamed"), [None, Some(b"x".to_vec())]);
}

#[test]
fn a_folder_that_was_not_synced_takes_its_files_with_it() {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new(DIR)).unwrap();
    let file = file(&disk, "a");
    file.sync().unwrap();
    assert!(after_crashes(&disk, "a").contains(&None));
}

#[test]
fn lengths_are_cut_and_grow_with_zeros() {
    let disk = disk();
    let file = file(&disk, "a");
    file.write_at(&[9; 700], 0).unwrap();
    file.set_len(100).unwrap();
    file.set_len(700).unwrap();
    let mut wanted = vec![9; 100];
    wanted.resize(700, 0);
    assert_eq!(content(&disk, "a"), Some(wanted));
    file.sync().unwrap();
    file.set_len(0).unwrap();
    assert_eq!(after_crashes(&disk, "a").len(), 2);
}

#[test]
fn a_failed_sync_loses_pages_and_the_next_sync_does_not_bring_them_back() {
    for dropped in [false, true] {
        let disk = disk();
        let file = file(&disk, "a");
        file.write_at(&[1; 40 * SECTOR], 0).unwrap();
        file.sync().unwrap();
        file.write_at(&[2; 40 * SECTOR], 0).unwrap();
        disk.arm(DiskFault::SyncError { dropped }, 0);
        assert!(file.sync().is_err());
        assert_eq!(disk.struck(), [DiskFault::SyncError { dropped }]);
        let hidden = content(&disk, "a").unwrap().iter().all(|byte| *byte == 2);
        assert_eq!(hidden, !dropped, "the page cache shows or hides the loss");
        file.sync().unwrap();
        for left in after_crashes(&disk, "a") {
            let left = left.unwrap();
            assert!(left.contains(&1) && left.contains(&2), "some pages were lost, some not");
        }
        file.write_at(&[3; 40 * SECTOR], 0).unwrap();
        file.sync().unwrap();
        assert_eq!(after_crashes(&disk, "a"), [Some(vec![3; 40 * SECTOR])]);
    }
}

#[test]
fn writes_fail_whole_or_in_part_when_told() {
    let disk = disk();
    let file = file(&disk, "a");
    disk.arm(DiskFault::WriteError, 1);
    file.write_at(b"first", 0).unwrap();
    assert!(file.write_at(b"other", 0).is_err());
    assert_eq!(content(&disk, "a"), Some(b"first".to_vec()));
    disk.arm(DiskFault::ShortWrite, 0);
    assert!(file.write_at(&[1; 5000], 5).is_err());
    assert!(file.len().unwrap() < 5005);
    disk.arm(DiskFault::ReadError, 0);
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(file.read_at(&mut [0], 0).is_ok());
}

#[test]
fn a_full_disk_refuses_growth_and_allows_overwriting() {
    let disk = disk();
    let file = file(&disk, "a");
    file.write_at(&[1; 1000], 0).unwrap();
    disk.fill(100, Some(2));
    assert_eq!(disk.free_bytes(Path::new(DIR)).unwrap(), 100);
    file.write_at(&[2; 1000], 0).unwrap();
    let full = |answer: io::Result<()>| answer.unwrap_err().kind() == io::ErrorKind::StorageFull;
    assert!(full(file.write_at(&[3; 200], 1000)));
    assert_eq!(file.len().unwrap(), 1100, "what fits is written");
    assert!(full(file.write_at(&[3; 200], 1100)));
    file.write_at(&[3; 200], 1100).unwrap();
}

#[test]
fn power_goes_off_at_the_chosen_change_and_old_handles_stay_dead() {
    let disk = disk();
    let file = file(&disk, "a");
    file.write_at(b"a", 0).unwrap();
    disk.arm(DiskFault::PowerOff, 1);
    file.write_at(b"b", 1).unwrap();
    assert!(file.sync().is_err());
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(disk.list(Path::new(DIR)).is_err());
    disk.crash(3);
    assert!(file.write_at(b"c", 2).is_err(), "a handle of the crashed machine");
    assert!(disk.open(&path("a"), false).unwrap().write_at(b"c", 2).is_ok());
}

#[test]
fn bits_flip_where_told_and_only_in_synced_sectors() {
    let disk = disk();
    let file = file(&disk, "a");
    file.write_at(&[0xff; 100], 0).unwrap();
    let mut rng = fastrand::Rng::with_seed(5);
    assert_eq!(disk.flip_random(&mut rng, |_| true), None);
    file.sync().unwrap();
    assert_eq!(disk.flip_random(&mut rng, |path| path.ends_with("b")), None);
    let flip = disk.flip_random(&mut rng, |_| true).unwrap();
    let bytes = content(&disk, "a").unwrap();
    assert_eq!(bytes[flip.offset as usize], 0xff ^ (1 << flip.bit));
    assert_eq!(bytes.iter().filter(|byte| **byte != 0xff).count(), 1);
    assert_eq!(after_crashes(&disk, "a"), [Some(bytes)]);
}

#[test]
fn one_seed_gives_one_run() {
    let run = || {
        let disk = disk();
        let file = file(&disk, "a");
        disk.arm(DiskFault::ShortWrite, 3);
        for index in 0..8_u8 {
            let answer = file.write_at(&[index; 777], u64::from(index) * 500);
            assert_eq!(answer.is_err(), index == 3);
        }
        disk.crash(77);
        content(&disk, "a")
    };
    assert_eq!(run(), run());
}

#[test]
fn locks_are_held_until_dropped_or_crashed() {
    let disk = disk();
    let held = disk.lock(&path("lock"), "me").unwrap().ok();
    assert_eq!(disk.lock(&path("lock"), "you").unwrap().err().as_deref(), Some("me"));
    drop(held);
    let held = disk.lock(&path("lock"), "you").unwrap().ok();
    disk.crash(1);
    let again = disk.lock(&path("lock"), "they").unwrap();
    drop(held);
    assert!(again.is_ok());
    assert_eq!(disk.lock(&path("lock"), "x").unwrap().err().as_deref(), Some("they"));
}

#[test]
fn a_slow_disk_moves_the_clock() {
    let disk = disk();
    let clock = Clock::manual(tidegate_core::clock::Timestamp::ZERO);
    disk.slow_down(clock.clone(), Duration::from_millis(40));
    file(&disk, "a").sync().unwrap();
    assert_eq!(clock.now().as_millis(), 40);
}

#[test]
fn removed_files_live_as_long_as_they_are_open() {
    let disk = disk();
    let file = file(&disk, "a");
    file.write_at(b"x", 0).unwrap();
    disk.remove(&path("a")).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(file.read_at(&mut [0], 0).unwrap(), 1);
    assert_eq!(disk.calls().writes, 1);
    assert!(disk.list(Path::new(DIR)).unwrap().is_empty());
}

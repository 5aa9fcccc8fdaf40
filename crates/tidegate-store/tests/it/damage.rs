//! Flipped bits in a store at rest: whatever is missing afterwards was named, by `check` and by opening.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use tidegate_core::{
    clock::Clock,
    delivery::{Position, Settled, Settlement},
    event::{Data, Event},
    fault::{FaultKind, Result},
    names::{GroupName, StreamName},
    store::{
        Broker as _, Claim, DeadLetters, Durability, GroupSpec, GroupStatus, Ledger as _, OnFailure, Retain, Start,
        StreamSpec,
    },
};
use tidegate_store::{
    disk::Disk as _,
    embedded::{self, Embedded, EmbeddedOptions},
};
use tidegate_testkit::SimDisk;

use crate::places::{DIR, clock, stepped};

const EVENTS: usize = 120;
const FLIPS: u64 = 250;

fn names() -> (StreamName, GroupName) {
    (StreamName::new("s").unwrap(), GroupName::new("g").unwrap())
}

fn open(disk: &SimDisk, clock: &Clock) -> Result<Arc<Embedded>> {
    Embedded::open(EmbeddedOptions { segment_bytes: (64 << 10, 64 << 10), spares: 0, ..stepped(disk, clock) })
}

/// A closed store of several segments with work done, dead and left.
async fn furnished(clock: &Clock) -> SimDisk {
    let disk = SimDisk::new(3);
    let store = open(&disk, clock).unwrap();
    let (stream, group) = names();
    let spec = StreamSpec {
        name: stream.clone(),
        durability: Durability::Sync,
        retain: Retain::default(),
        max_backlog: None,
        dedupe: None,
        dead: tidegate_core::store::DeadKeep::default(),
    };
    store.declare_stream(&spec).await.unwrap();
    let spec = GroupSpec {
        name: group.clone(),
        stream: stream.clone(),
        start: Start::Earliest,
        end: None,
        order_by: None,
        on_failure: OnFailure::Skip,
        ledger: Some(std::time::Duration::from_secs(3600)),
        after: false,
        priority_step: None,
        mark_claims: false,
    };
    store.declare_group(&spec).await.unwrap();
    for index in 0..EVENTS {
        let body = Data::Text(format!("{index} ").repeat(500).into());
        store.append(&stream, vec![Event::new(index.to_string(), "/s", "t").with_data(body)]).await.unwrap();
    }
    let ask = Claim { group, max: EVENTS / 2, lease: std::time::Duration::from_secs(30), before: None };
    let lent = store.claim(&ask).await.unwrap().deliveries;
    for (index, delivery) in lent.iter().enumerate() {
        let failure = tidegate_core::fault::Failure::new(tidegate_core::fault::FaultClass::Invalid, "bad");
        let settlement = match index % 5 {
            0 => Settlement::Bury { failure, config: "c".into() },
            _ => Settlement::Done(Vec::new()),
        };
        let settled = Settled { token: delivery.lease.token, settlement, attempt: None };
        store.settle(vec![settled]).await.unwrap();
    }
    store.close().await.unwrap();
    disk
}

/// Everything that was acknowledged, as the store shows it.
#[derive(Debug, PartialEq)]
struct Shown {
    events: BTreeMap<Position, Event>,
    group: GroupStatus,
    dead: Vec<Position>,
    known: usize,
}

async fn shown(store: &Embedded) -> Result<Shown> {
    let (stream, group) = names();
    let (mut events, mut from) = (BTreeMap::new(), Position::START);
    loop {
        let page = store.read(&stream, from, 1000).await?;
        events.extend(page.items.into_iter().map(|stored| (stored.position, stored.event)));
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    let query = tidegate_core::store::DeadQuery { limit: 1000, ..Default::default() };
    let dead = store.dead_letters(&stream, &query).await?.items.into_iter().map(|letter| letter.id).collect();
    let asked: Vec<_> = (0..EVENTS).map(|index| ("/s".into(), index.to_string().into())).collect();
    let known = store.done(&group, &asked).await?.into_iter().filter(|known| *known).count();
    Ok(Shown { events, group: store.group(&group).await?, dead, known })
}

#[tokio::test]
async fn no_flipped_bit_makes_a_silent_gap() {
    let clock = clock();
    let disk = furnished(&clock).await;
    let good = shown(&open(&disk.fork(), &clock).unwrap()).await.unwrap();
    assert_eq!((good.events.len(), good.dead.len(), good.known), (EVENTS, 12, 48));
    let (mut named, mut harmless) = (0, 0);
    for seed in 0..FLIPS {
        let damaged = disk.fork();
        let mut rng = fastrand::Rng::with_seed(seed);
        let flip = damaged.flip_random(&mut rng, |path| !path.ends_with("lock")).expect("there is something to flip");
        let report = embedded::check(&damaged, Path::new(DIR));
        let noticed = report.as_ref().map_or(true, |report| !report.ok || !report.torn.is_empty());
        let (opened, damage) = match open(&damaged, &clock) {
            Err(fault) => {
                assert_eq!(fault.kind, FaultKind::Corrupt, "{flip:?}: {fault:?}");
                (None, vec![fault.note().to_owned()])
            }
            Ok(store) => {
                let shown = shown(&store).await.ok();
                let damage = store.status().damage;
                let balance = store.group(&names().1).await.unwrap();
                assert_eq!(balance.difference(), 0, "{flip:?}: {balance:?}");
                (shown, damage)
            }
        };
        if opened.as_ref() == Some(&good) {
            harmless += 1;
            continue;
        }
        assert!(!damage.is_empty(), "{flip:?}: opening said nothing and shows {opened:?}");
        assert!(noticed, "{flip:?}: `check` said nothing, opening said {damage:?}");
        named += 1;
    }
    assert!(named > FLIPS / 2, "{named} flips did harm, {harmless} did not: the test hits nothing");
}

#[tokio::test]
async fn a_healthy_store_is_called_healthy() {
    let clock = clock();
    let disk = furnished(&clock).await;
    let report = embedded::check(&disk, Path::new(DIR)).unwrap();
    assert!(report.ok && report.damage.is_empty() && report.torn.is_empty(), "{report:?}");
    assert!(report.records >= EVENTS as u64 && report.bytes > 0);
    let store = open(&disk, &clock).unwrap();
    assert!(store.status().damage.is_empty());
    assert_eq!(embedded::check(&disk, Path::new(DIR)).unwrap_err().kind, FaultKind::Conflict, "it is in use");
}

/// Returns where the bytes that are not zero end in each file of the journal.
fn written(disk: &SimDisk) -> Vec<(String, usize)> {
    let folder = Path::new(DIR).join("journal");
    let mut names = disk.list(&folder).unwrap();
    names.sort();
    let end = |name: &String| {
        let file = disk.open(&folder.join(name), false).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(&mut bytes, 0).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    };
    names.into_iter().map(|name| (name.clone(), end(&name))).collect()
}

/// What of a refused write reached the disk could be read later as part of another frame that is torn.
#[tokio::test]
async fn of_a_refused_write_nothing_is_left() {
    let clock = clock();
    let disk = furnished(&clock).await;
    let store = open(&disk, &clock).unwrap();
    let stream = names().0;
    let large = |id: String| Event::new(id, "/s", "t").with_data(Data::Text("x".repeat(3000).into()));
    // In a segment that was just begun the next event finds room, so that the disk refuses it and not the journal.
    let segments = written(&disk).len();
    let mut fillers = 0;
    while written(&disk).len() == segments {
        fillers += 1;
        store.append(&stream, vec![large(format!("filler {fillers}"))]).await.unwrap();
    }
    let (good, before, bytes) = (shown(&store).await.unwrap(), written(&disk), disk.calls().bytes);
    disk.fill(600, None);
    store.append(&stream, vec![large("refused".to_owned())]).await.unwrap_err();
    assert!(disk.calls().bytes > bytes + 3000, "it was tried");
    assert_eq!(written(&disk), before);
    disk.make_room();
    drop(store);
    disk.crash(1);
    let store = open(&disk, &clock).unwrap();
    assert_eq!((shown(&store).await.unwrap(), store.status().damage), (good, Vec::new()));
}

/// A segment that cannot be made on a full disk may leave its file behind. What is small goes on behind its start in the
/// segment before, and is acknowledged: it must be there afterwards, however little room there was.
#[tokio::test]
async fn a_segment_that_could_not_be_made_hides_nothing() {
    let clock = clock();
    let open = |disk: &SimDisk| {
        Embedded::open(EmbeddedOptions { segment_bytes: (64 << 10, 64 << 10), spares: 1, ..stepped(disk, &clock) })
    };
    let (mut hidden, mut acknowledged) = (Vec::new(), 0);
    for free in (0..4096).step_by(64) {
        let disk = SimDisk::new(9);
        let store = open(&disk).unwrap();
        // The second segment is made of a spare, so that what fits it needs no more of the disk.
        for number in 1..=2 {
            store.upkeep().await.unwrap();
            store.put_state(&format!("large/{number}"), Some(&[1; 40_000])).await.unwrap();
        }
        disk.fill(free, None);
        let refused = store.put_state("large/3", Some(&[2; 40_000])).await.is_err();
        let kept = store.put_state("small", Some(b"kept")).await.is_ok();
        acknowledged += u32::from(refused && kept);
        drop(store);
        disk.make_room();
        disk.crash(9);
        for _ in 0..2 {
            let store = open(&disk).unwrap();
            if store.states("small").await.unwrap().is_empty() == kept {
                hidden.push(free);
            }
            store.put_state("more", Some(&[3; 50_000])).await.unwrap();
            assert_eq!(store.status().damage, [] as [&str; 0], "with {free} bytes free");
            drop(store);
        }
    }
    assert!(acknowledged > 0, "nothing was acknowledged behind a segment that could not be made");
    assert!(hidden.is_empty(), "with so many bytes free what was acknowledged is gone: {hidden:?}");
}

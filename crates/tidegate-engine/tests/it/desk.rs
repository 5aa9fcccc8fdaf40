//! Jobs on dead letters: exact over crashes, careful with canaries, ended and undone by hand.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use tidegate_core::{
    clock::{Clock, Timestamp},
    delivery::{Attempt, Delivery, Position, Settled, Settlement},
    event::{Data, Event},
    fault::{Failure, FaultClass, FaultKind},
    notice::Notices,
    service::{Context, Stopper, stop},
    store::{Claim, DeadAction, DeadQuery, DeadState, DeadStep, GroupSpec, Store, StreamSpec},
};
use tidegate_engine::{Desk, JobAsk, JobState, JobVerb, JobView, Patch, Supervisor};
use tidegate_store::embedded::{Embedded, EmbeddedOptions};
use tidegate_testkit::sim_disk::{DiskFault, SimDisk};

use crate::scene::{MINUTE, SECOND, event, group, stream};

/// A disk that outlives what runs on it.
struct Place {
    disk: SimDisk,
    clock: Clock,
}

/// A store with a desk, until the power goes.
struct Life {
    store: Arc<dyn Store>,
    desk: Desk,
    stopper: Stopper,
    supervisor: Supervisor,
}

impl Place {
    fn new(seed: u64) -> Self {
        let clock = Clock::following_tokio(Timestamp::from_millis(1_767_225_600_000));
        Self { disk: SimDisk::new(seed), clock }
    }

    async fn open(&self) -> Life {
        let options = EmbeddedOptions {
            disk: Arc::new(self.disk.clone()),
            clock: self.clock.clone(),
            threads: false,
            seed: Some(self.disk.calls().changes),
            spares: 0,
            ..EmbeddedOptions::new("/sim/data")
        };
        let store: Arc<dyn Store> = Embedded::open(options).unwrap();
        let (stopper, stop) = stop();
        let cx = Context { clock: self.clock.clone(), stop, notices: Notices::default() };
        let supervisor = Supervisor::new(cx.clone());
        let desk = Desk::start(store.clone(), cx, &supervisor).await.unwrap();
        Life { store, desk, stopper, supervisor }
    }

    /// A life with parked dead letters of events `0`, `1` and so on.
    async fn with_dead(&self, count: usize) -> Life {
        let life = self.open().await;
        life.store.declare_stream(&StreamSpec::new(stream("s"))).await.unwrap();
        life.store.declare_group(&GroupSpec::new(group("g"), stream("s"))).await.unwrap();
        let data = |index: usize| Data::Json(json!({ "n": index }).to_string().into());
        let events: Vec<Event> = (0..count).map(|index| event(index).with_data(data(index))).collect();
        life.store.append(&stream("s"), events).await.unwrap();
        for delivery in life.claim_all().await {
            life.bury(&delivery).await;
        }
        life
    }
}

impl Life {
    async fn claim_all(&self) -> Vec<Delivery> {
        let mut all = Vec::new();
        loop {
            let ask = Claim { group: group("g"), max: 1000, lease: MINUTE * 60, before: None };
            let more = self.store.claim(&ask).await.unwrap().deliveries;
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    async fn settle(&self, delivery: &Delivery, settlement: Settlement, message: &str) {
        let attempt =
            Attempt { at: Timestamp::ZERO, took: SECOND, class: FaultClass::Transient, message: message.to_owned() };
        let settled = Settled { token: delivery.lease.token, settlement, attempt: Some(attempt) };
        self.store.settle(vec![settled]).await.unwrap();
    }

    async fn bury(&self, delivery: &Delivery) {
        let failure = Failure::new(FaultClass::Invalid, format!("order {} is bad", delivery.event.id));
        self.settle(delivery, Settlement::Bury { failure, config: "c".into() }, "bad").await;
    }

    async fn done(&self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            self.settle(delivery, Settlement::Done(Vec::new()), "").await;
        }
    }

    async fn parked(&self) -> u64 {
        self.store.group(&group("g")).await.unwrap().parked
    }

    async fn ended(&self) -> JobView {
        let job = self.desk.wait("job", MINUTE * 10).await.unwrap();
        assert!(job.progress.state.is_final(), "{job:?}");
        job
    }

    /// Waits until the job has moved so many.
    async fn moved(&self, clock: &Clock, count: u64) {
        for _ in 0..1000 {
            if self.desk.job("job").unwrap().progress.moved == count {
                return;
            }
            clock.sleep(Duration::from_millis(10)).await;
        }
        panic!("never moved {count}: {:?}", self.desk.job("job"));
    }

    /// Ends everything that runs, as the end of the process does.
    async fn die(self) {
        self.stopper.abort();
        drop(self.supervisor.join(SECOND).await);
    }
}

fn all() -> JobAsk {
    JobAsk {
        stream: stream("s"),
        verb: JobVerb::Reprocess,
        ids: None,
        state: Some(DeadState::Parked),
        group: None,
        filter: None,
        until: None,
        dry_run: false,
        force: false,
        rate: None,
        canary: 0,
        stop_on_fail_rate: None,
        patch: None,
        reason: "mended".to_owned(),
        by: "me".to_owned(),
    }
}

fn times(deliveries: &[Delivery]) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for delivery in deliveries {
        *times.entry(delivery.event.id.to_string()).or_default() += 1;
    }
    times
}

/// Cuts the power in the middle of a job, up to twice, and counts what is there afterwards.
async fn cut_off(seed: u64) {
    const COUNT: usize = 12;
    let mut rng = fastrand::Rng::with_seed(seed);
    let forced = seed % 2 == 1;
    let place = Place::new(seed);
    let mut life = place.with_dead(COUNT).await;
    let mut ask = JobAsk { rate: Some("100/s".parse().unwrap()), ..all() };
    if forced {
        // Done before: only what the job itself remembers keeps it from moving an entry twice.
        let ids =
            life.store.dead_entries(&stream("s"), &DeadQuery { limit: 100, ..DeadQuery::default() }).await.unwrap();
        let step = DeadStep {
            stream: stream("s"),
            ids: ids.items.iter().map(|entry| entry.id).collect(),
            action: DeadAction::Reprocess { force: false, edited: Vec::new() },
            by: "me".into(),
            note: "".into(),
            job: "".into(),
            progress: None,
        };
        life.store.move_dead(&step).await.unwrap();
        life.done(&life.claim_all().await).await;
        (ask.force, ask.state) = (true, None);
    }
    if seed.is_multiple_of(3) {
        ask.rate = Some("20/s".parse().unwrap());
    }
    let mut is_asked = false;
    for round in 0..1 + seed % 2 {
        place.disk.arm(DiskFault::PowerOff, rng.u64(0..30));
        if !is_asked {
            // Whether it was answered or not, what the disk kept says whether there is a job.
            drop(life.desk.begin("job".to_owned(), ask.clone()).await);
        }
        for _ in 0..rng.u32(1..200) {
            place.clock.sleep(Duration::from_millis(5)).await;
            if place.disk.is_off() {
                break;
            }
        }
        life.die().await;
        place.disk.crash(seed * 7 + round);
        life = place.open().await;
        is_asked = life.desk.job("job").is_ok();
    }
    if !is_asked {
        life.desk.begin("job".to_owned(), ask).await.unwrap();
    }
    let job = life.ended().await.progress;
    assert_eq!((job.state, job.moved, job.failed()), (JobState::Done, COUNT as u64, 0), "seed {seed}: {job:?}");
    assert_eq!((job.looked, job.matched, job.total), (12, 12, 12), "seed {seed}");
    assert_eq!(life.parked().await, 0, "seed {seed}");
    let back = times(&life.claim_all().await);
    assert_eq!(back.len(), COUNT, "seed {seed}: none is lost: {back:?}");
    assert!(back.values().all(|times| *times == 1), "seed {seed}: none came twice: {back:?}");
    life.die().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_cut_off_anywhere_moves_each_entry_once() {
    for seed in 0..100 {
        cut_off(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_failing_canary_stops_the_job() {
    let place = Place::new(1);
    let life = place.with_dead(30).await;
    life.desk.begin("job".to_owned(), JobAsk { canary: 3, ..all() }).await.unwrap();
    life.moved(&place.clock, 3).await;
    let canaries = life.claim_all().await;
    assert_eq!(times(&canaries).len(), 3, "the oldest ones go first, and no more");
    life.done(&canaries[..1]).await;
    let at = place.clock.now().plus(MINUTE * 60);
    life.settle(&canaries[1], Settlement::RetryAt { at, attempts: 1, crashes: 0 }, "partner says no").await;
    let job = life.ended().await.progress;
    assert_eq!((job.state, job.moved, job.settled, job.failed_again), (JobState::Stopped, 3, 1, 1));
    let why = job.why.unwrap();
    assert!(why.starts_with("canary") && why.ends_with("failed again: partner says no"), "{why}");
    assert_eq!(life.parked().await, 27, "the others wait");
    life.die().await;
}

#[tokio::test(start_paused = true)]
async fn good_canaries_let_the_others_go_over_a_restart_too() {
    let place = Place::new(2);
    let life = place.with_dead(30).await;
    life.desk.begin("job".to_owned(), JobAsk { canary: 3, ..all() }).await.unwrap();
    life.moved(&place.clock, 3).await;
    life.die().await;
    place.disk.crash(5);
    let life = place.open().await;
    place.clock.sleep(MINUTE).await;
    assert_eq!(life.parked().await, 27, "the canaries are still out");
    let canaries = life.claim_all().await;
    assert_eq!(canaries.len(), 3);
    life.done(&canaries).await;
    let job = life.ended().await.progress;
    assert_eq!((job.state, job.moved, job.settled), (JobState::Done, 30, 3));
    assert_eq!((life.parked().await, life.claim_all().await.len()), (0, 27));
    life.die().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_canary_is_a_failing_one() {
    let place = Place::new(3);
    let life = place.with_dead(5).await;
    life.desk.begin("job".to_owned(), JobAsk { canary: 1, ..all() }).await.unwrap();
    life.moved(&place.clock, 1).await;
    life.bury(&life.claim_all().await[0]).await;
    let job = life.ended().await.progress;
    assert_eq!((job.state, job.moved), (JobState::Stopped, 1));
    assert!(job.why.unwrap().contains("order 0 is bad"));
    assert_eq!(life.parked().await, 5, "it died again and is parked again");
    life.die().await;
}

#[tokio::test(start_paused = true)]
async fn too_many_failures_stop_the_job() {
    let place = Place::new(4);
    let life = place.with_dead(300).await;
    life.desk.begin("job".to_owned(), JobAsk { stop_on_fail_rate: Some(0.2), ..all() }).await.unwrap();
    life.moved(&place.clock, 100).await;
    let first = life.claim_all().await;
    assert_eq!(first.len(), 100, "no more are on their way at a time");
    life.bury(&first[0]).await;
    life.done(&first[1..]).await;
    life.moved(&place.clock, 200).await;
    for delivery in life.claim_all().await.iter().take(40) {
        life.bury(delivery).await;
    }
    let job = life.ended().await.progress;
    assert_eq!((job.state, job.settled), (JobState::Stopped, 99), "{job:?}");
    assert!(job.moved <= 240 && job.failed_again > 20, "{job:?}");
    life.die().await;
}

#[tokio::test(start_paused = true)]
async fn expressions_choose_and_patches_change() {
    let place = Place::new(5);
    let life = place.with_dead(20).await;
    let filter = r#"data.n >= 15 && fault.message.contains("bad") && group == "g" && attempts == 1"#;
    let patch = Patch::try_from(json!({ "data": { "mended": true } })).unwrap();
    let ask = JobAsk { filter: Some(filter.parse().unwrap()), patch: Some(patch), ..all() };
    life.desk.begin("dry".to_owned(), JobAsk { dry_run: true, ..ask.clone() }).await.unwrap();
    let dry = life.desk.wait("dry", MINUTE).await.unwrap().progress;
    assert_eq!((dry.state, dry.looked, dry.matched, dry.moved), (JobState::DryRun, 20, 5, 0));
    assert_eq!(life.parked().await, 20);
    life.desk.begin("job".to_owned(), ask.clone()).await.unwrap();
    assert_eq!(life.ended().await.progress.moved, 5);
    let back = life.claim_all().await;
    assert_eq!(times(&back).into_keys().collect::<Vec<_>>(), ["15", "16", "17", "18", "19"]);
    assert_eq!(back[0].event.data, Data::Json(r#"{"mended":true,"n":15}"#.into()));
    let wrong = JobAsk { filter: Some("colour == 1".parse().unwrap()), ..all() };
    assert_eq!(life.desk.begin("x".to_owned(), wrong).await.unwrap_err().kind, FaultKind::Invalid);
    let unfit = Patch::try_from(json!([{ "op": "remove", "path": "/data/no" }])).unwrap();
    life.desk.begin("unfit".to_owned(), JobAsk { patch: Some(unfit), ..all() }).await.unwrap();
    let job = life.desk.wait("unfit", MINUTE).await.unwrap().progress;
    assert_eq!((job.state, job.matched, job.moved, job.unfit), (JobState::Done, 15, 0, 15));
    life.die().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_keeps_its_pace_and_is_undone() {
    let place = Place::new(6);
    let life = place.with_dead(100).await;
    let started = place.clock.now();
    life.desk.begin("job".to_owned(), JobAsk { rate: Some("10/s".parse().unwrap()), ..all() }).await.unwrap();
    let second = life.desk.begin("two".to_owned(), all()).await.unwrap_err();
    assert_eq!(second.kind, FaultKind::Conflict, "one at a time walks through a stream");
    life.moved(&place.clock, 30).await;
    let took = place.clock.now().since(started);
    assert!(took >= Duration::from_millis(2900) && took < SECOND * 4, "{took:?}");
    let seen =
        life.store.claim(&Claim { group: group("g"), max: 2, lease: MINUTE, before: None }).await.unwrap().deliveries;
    let job = life.desk.cancel("job", true, MINUTE).await.unwrap().progress;
    assert_eq!((job.state, job.recalled), (JobState::Cancelled, job.moved - 2), "{job:?}");
    assert_eq!(life.parked().await, 98, "two were with a handler already");
    life.done(&seen).await;
    assert!(life.claim_all().await.is_empty());
    assert_eq!(life.desk.cancel("job", false, MINUTE).await.unwrap_err().kind, FaultKind::Conflict);
    life.desk.begin("two".to_owned(), all()).await.unwrap();
    assert_eq!(life.desk.wait("two", MINUTE).await.unwrap().progress.moved, 98);
    assert_eq!(life.desk.jobs().iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["two", "job"]);
    life.die().await;
}

#[tokio::test(start_paused = true)]
async fn named_entries_are_told_one_by_one() {
    let place = Place::new(7);
    let life = place.with_dead(4).await;
    let ids: Vec<Position> = [3, 99, 1].into_iter().map(Position::number).collect();
    let ask = JobAsk { ids: Some(ids), state: None, ..all() };
    life.desk.begin("job".to_owned(), ask.clone()).await.unwrap();
    let job = life.ended().await;
    let words: Vec<&str> = job.became.iter().map(|one| one.status).collect();
    assert_eq!(words, ["moved", "missing", "moved"]);
    life.desk.begin("again".to_owned(), ask).await.unwrap();
    let again = life.desk.wait("again", MINUTE).await.unwrap();
    assert_eq!((again.progress.moved, again.progress.refused, again.progress.missing), (0, 2, 1));
    let resolve = JobAsk { verb: JobVerb::Resolve, ..all() };
    life.desk.begin("resolve".to_owned(), resolve).await.unwrap();
    assert_eq!(life.desk.wait("resolve", MINUTE).await.unwrap().progress.moved, 2);
    let purge = JobAsk { verb: JobVerb::Purge, state: None, ..all() };
    life.desk.begin("purge".to_owned(), purge).await.unwrap();
    assert_eq!(life.desk.wait("purge", MINUTE).await.unwrap().progress.moved, 4);
    let wrong = JobAsk { verb: JobVerb::Discard, canary: 1, ..all() };
    assert_eq!(life.desk.begin("x".to_owned(), wrong).await.unwrap_err().kind, FaultKind::Invalid);
    life.die().await;
}

//! Random lives of a group on Redis, compared step by step with the same life in memory: what is lent in which order, what
//! waits for what, and every count must be the same.
//!
//! `TIDEGATE_SEEDS` says how many lives are lived, `TIDEGATE_SEEDS_FROM` where they start, `TIDEGATE_SEED` replays one.

use std::{fmt, sync::Arc, time::Duration};

use fastrand::Rng;
use tidegate_core::{
    after::AFTER,
    clock::Timestamp,
    delivery::{Delivery, Position, SettleStatus, Settled, Settlement},
    event::{DELIVER_AT, EXPIRY_TIME, Event, PARTITION_KEY},
    fault::{Failure, FaultClass},
    order::OrderBy,
    priority::PRIORITY,
    store::{
        Blocked, Claim, DeadAction, DeadQuery, DeadStep, GroupSpec, OnFailure, Store, StreamSpec, Unblock, UnblockHow,
    },
};
use tidegate_testkit::{RedisServer, broker_suite::Subject, seeds};

use crate::{
    places::{InMemory, OnRedis},
    trouble::{TOPIC, group, ids, settled, stream},
};

/// Longer than a life: who has the key of a lost lease engines tell differently.
const LEASE: Duration = Duration::from_secs(36_000);
/// Steps of one life.
const STEPS: u32 = 150;
/// Most that are not settled: never so many.
const BACKLOG_MAX: u64 = 10_000;
/// More than there are.
const ALL: usize = 1000;
/// Lives in one run of the tests.
const USUAL: u64 = 12;

/// One of the two.
struct Side {
    subject: Box<dyn Subject>,
    store: Arc<dyn Store>,
    held: Vec<Delivery>,
}

/// What is done to both.
struct Life {
    sides: [Side; 2],
    rng: Rng,
    spec: GroupSpec,
    published: u32,
    /// Whether the group was moved, or lost what it had not seen: what fills the backlog then engines tell differently.
    is_odd: bool,
    /// What was done so far.
    log: Vec<String>,
}

fn seconds(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_secs(rng.u64(0..=most))
}

impl Life {
    async fn begin(seed: u64, subjects: [Box<dyn Subject>; 2]) -> Self {
        let mut rng = Rng::with_seed(seed);
        let spec = GroupSpec {
            after: rng.u8(0..4) > 0,
            priority_step: rng.bool().then_some(Duration::from_secs(60)),
            order_by: rng.bool().then(|| OrderBy::Attribute(PARTITION_KEY.into())),
            on_failure: if rng.bool() { OnFailure::Skip } else { OnFailure::Block },
            ledger: (rng.u8(0..8) > 0).then_some(Duration::from_secs(600)),
            mark_claims: false,
            ..GroupSpec::new(group(), stream(TOPIC))
        };
        let mut sides = Vec::new();
        for subject in subjects {
            let store = subject.open().await.unwrap();
            let topic = StreamSpec { dedupe: None, max_backlog: Some(BACKLOG_MAX), ..StreamSpec::new(stream(TOPIC)) };
            store.declare_stream(&topic).await.unwrap();
            store.declare_group(&spec).await.unwrap();
            sides.push(Side { subject, store, held: Vec::new() });
        }
        let sides = sides.try_into().map_err(|_| ()).expect("two");
        Self { sides, rng, spec, published: 0, is_odd: false, log: Vec::new() }
    }

    /// Both must have told the same.
    fn same<T: PartialEq + fmt::Debug>(&self, what: &str, told: &[T]) {
        let differs = told.windows(2).any(|pair| pair[0] != pair[1]);
        assert!(!differs, "{what} in memory and on the server: {told:#?}\nin this life:\n{}", self.log.join("\n"));
    }

    fn now(&self) -> Timestamp {
        self.sides[0].subject.clock().now()
    }

    fn event(&mut self) -> Event {
        // Either it has a twin or it waits: servers do not look anew at one that waits when its twin is done.
        let twin = self.rng.u32(0..self.published.max(1) * 8);
        // Nor do engines agree on who gets the key of one that waits for its twin.
        let again = twin < self.published && !twin.is_multiple_of(4) && self.spec.order_by.is_none();
        let number = if again { twin } else { self.published };
        self.published += u32::from(!again);
        let mut event = Event::new(format!("e{number}"), "/test", "test.made");
        if self.rng.u8(0..3) > 0 {
            event = event.with_extension(PARTITION_KEY, format!("k{}", self.rng.u8(0..3)));
        }
        if number.is_multiple_of(4) {
            let other = |rng: &mut Rng| format!("e{}", (number + rng.u32(1..4)).saturating_sub(rng.u32(0..9)));
            let names: Vec<String> = (0..self.rng.u8(1..4)).map(|_| other(&mut self.rng)).collect();
            let names: Vec<String> = names.into_iter().filter(|name| *name != format!("e{number}")).collect();
            if !names.is_empty() {
                event = event.with_extension(AFTER, names.join(","));
            }
        }
        if self.rng.bool() {
            event = event.with_extension(PRIORITY, self.rng.u8(0..10).to_string());
        }
        if self.rng.u8(0..6) == 0 {
            event = event.with_extension(EXPIRY_TIME, self.now().plus(seconds(&mut self.rng, 200)).to_string());
        }
        if self.rng.u8(0..8) == 0 && self.spec.order_by.is_none() {
            event = event.with_extension(DELIVER_AT, self.now().plus(seconds(&mut self.rng, 90)).to_string());
        }
        event
    }

    async fn publish(&mut self) -> String {
        let events: Vec<Event> = (0..self.rng.u8(1..6)).map(|_| self.event()).collect();
        for side in &self.sides {
            side.store.append(&stream(TOPIC), events.clone()).await.unwrap();
        }
        format!("publish {events:?}")
    }

    /// Claims as many, or all that there is; both must be lent the same.
    async fn claim(&mut self, max: Option<usize>) -> String {
        let mut lent = [Vec::new(), Vec::new()];
        for (side, lent) in self.sides.iter_mut().zip(&mut lent) {
            // What leaves on the way may let others go, which are looked at with the next claim.
            let (mut in_vain, most) = (0, max.unwrap_or(ALL));
            while in_vain < 2 && lent.len() < most {
                let ask = Claim { group: group(), max: most - lent.len(), lease: LEASE, before: None };
                let claimed = side.store.claim(&ask).await.unwrap();
                // What was noticed on the way is settled when this is answered.
                side.store.put_state("alike/barrier", None).await.unwrap();
                in_vain = if claimed.deliveries.is_empty() { in_vain + 1 } else { 0 };
                lent.extend(claimed.deliveries);
            }
            // When all that may be lent is, it makes no difference which was found first.
            if max.is_none() {
                lent.sort_by_key(|one| one.position);
            }
            side.held.extend(lent.iter().cloned());
            side.held.sort_by_key(|one| one.position);
        }
        let told = lent.each_ref().map(|lent| {
            let one = |one: &Delivery| format!("{} {} {}", one.event.id, one.attempt, one.crashes);
            lent.iter().map(one).collect::<Vec<_>>()
        });
        self.same("what is lent", &told);
        format!("claim {max:?}: {:?}", ids(&lent[0]))
    }

    async fn settle(&mut self) -> String {
        if self.sides[0].held.is_empty() {
            return String::new();
        }
        let index = self.rng.usize(0..self.sides[0].held.len());
        let (kind, at) = (self.rng.u8(0..9), self.now().plus(seconds(&mut self.rng, 60)));
        let mut told = Vec::new();
        for side in &mut self.sides {
            let delivery = side.held.remove(index);
            let settlement = match kind {
                0 => Settlement::Skip,
                1 => Settlement::Release,
                2 => Settlement::RetryAt { at, attempts: delivery.attempt, crashes: delivery.crashes },
                3 => Settlement::RetryAt { at, attempts: delivery.attempt - 1, crashes: delivery.crashes },
                4 => Settlement::Bury { failure: Failure::new(FaultClass::Invalid, "broken"), config: "c".into() },
                5.. => Settlement::Done(Vec::new()),
            };
            let id = delivery.event.id.clone();
            let status = side.store.settle(vec![settled(&delivery, settlement)]).await.unwrap()[0];
            told.push((id, status == SettleStatus::Settled));
        }
        self.same("settle", &told);
        format!("settle {kind}: {:?}", told[0])
    }

    async fn release_all(&mut self) {
        for side in &mut self.sides {
            let all: Vec<Settled> = side.held.drain(..).map(|one| settled(&one, Settlement::Release)).collect();
            side.store.settle(all).await.unwrap();
        }
    }

    /// Moves the group to the same event of either stream.
    async fn seek(&mut self) -> String {
        self.release_all().await;
        self.is_odd = true;
        let (place, again) = (self.rng.f64(), self.rng.bool());
        let mut told = Vec::new();
        for side in &self.sides {
            let page = side.store.read(&stream(TOPIC), Position::START, 1000).await.unwrap().items;
            if page.is_empty() {
                return String::new();
            }
            let index = (place * page.len() as f64) as usize;
            side.store.seek(&group(), page[index].position, again).await.unwrap();
            told.push(index);
        }
        self.same("what is kept", &told);
        format!("seek to {} {again}", told[0])
    }

    async fn reprocess(&mut self) -> String {
        let (place, action) = (self.rng.f64(), self.rng.u8(0..3));
        self.is_odd |= action == 0;
        let mut told = Vec::new();
        for side in &self.sides {
            let query = DeadQuery { limit: 100, ..DeadQuery::default() };
            let letters = side.store.dead_letters(&stream(TOPIC), &query).await.unwrap().items;
            let Some(letter) = letters.get((place * letters.len() as f64) as usize) else { return String::new() };
            // One that is sent back is a twin as well.
            if letter.event.extension(AFTER).is_some() {
                return String::new();
            }
            let action = match action {
                0 => DeadAction::Recall,
                force => DeadAction::Reprocess { force: force == 1, edited: Vec::new() },
            };
            let step = DeadStep {
                stream: stream(TOPIC),
                ids: vec![letter.id],
                action,
                by: "me".into(),
                note: "why".into(),
                job: "".into(),
                progress: None,
            };
            let moved = format!("{:?}", side.store.move_dead(&step).await.unwrap());
            told.push((letter.event.id.to_string(), moved.split('(').next().unwrap_or_default().to_owned()));
        }
        self.same("reprocess", &told);
        format!("reprocess {action} {:?}", told[0])
    }

    async fn unblock(&mut self) -> String {
        // What was let go on the way is looked at with the next claim: in memory more is than need be.
        self.claim(None).await;
        let (place, bury) = (self.rng.f64(), self.rng.bool());
        let mut told = Vec::new();
        for side in &self.sides {
            let all = side.store.blocked(&group(), Position::START, 100).await.unwrap().items;
            let Some(one) = all.get((place * all.len() as f64) as usize) else { return String::new() };
            let how = match bury {
                true => UnblockHow::Bury { failure: Failure::new(FaultClass::Invalid, "no"), config: "c".into() },
                false => UnblockHow::Run,
            };
            let positions = vec![one.stored.position];
            let ask = Unblock { group: group(), positions, how, by: "me".into(), reason: "why".into() };
            told.push((one.stored.event.id.to_string(), side.store.unblock(&ask).await.unwrap()[0]));
        }
        self.same("unblock", &told);
        format!("unblock {bury} {:?}", told[0])
    }

    async fn shed(&mut self) -> String {
        let status = self.sides[0].store.group(&group()).await.unwrap();
        let open = status.waiting + status.scheduled + status.in_flight;
        let room = BACKLOG_MAX - open + self.rng.u64(1..4);
        let mut told = Vec::new();
        for side in &self.sides {
            told.push(side.store.shed(&stream(TOPIC), room).await.unwrap());
        }
        self.same("shed", &told);
        format!("shed {room}: {}", told[0])
    }

    /// Changes what the group wants of waits and ranks.
    async fn declare(&mut self) -> String {
        match self.rng.u8(0..2) {
            0 => self.spec.after = !self.spec.after,
            _ if self.spec.priority_step.is_some() => self.spec.priority_step = None,
            _ => self.spec.priority_step = Some(Duration::from_secs(self.rng.u64(10..90))),
        }
        for side in &self.sides {
            side.store.declare_group(&self.spec).await.unwrap();
        }
        format!("declare {:?}", self.spec)
    }

    /// Opens both anew, as after the death of the process: what was held is lent again.
    async fn kill(&mut self) -> String {
        let nobody = InMemory::new();
        for side in &mut self.sides {
            side.held.clear();
            side.store = nobody.open().await.unwrap();
            side.subject.kill();
            side.store = side.subject.open().await.unwrap();
            // A server still knows who waited a moment for its twin.
            side.subject.clock().advance(Duration::from_secs(1));
        }
        "kill".to_owned()
    }

    async fn forget(&mut self) -> String {
        // Servers do not ask the ledger anew for those that wait.
        if self.sides[1].store.group(&group()).await.unwrap().blocked > 0 {
            return String::new();
        }
        let id = format!("e{}", self.rng.u32(0..=self.published));
        let mut told = Vec::new();
        for side in &self.sides {
            told.push(side.store.forget(&group(), "/test", &id).await.unwrap());
        }
        self.same("forget", &told);
        format!("forget {id} {}", told[0])
    }

    fn advance(&mut self) -> String {
        let by = Duration::from_millis(self.rng.u64(0..25_000));
        for side in &self.sides {
            side.subject.clock().advance(by);
        }
        format!("advance {by:?}")
    }

    async fn step(&mut self) -> String {
        match self.rng.u8(0..40) {
            0..9 => self.publish().await,
            9..15 => {
                let max = self.rng.usize(1..5);
                // Without ranks engines differ in when they look at what was let go on the way.
                self.claim(self.spec.priority_step.map(|_| max)).await
            }
            15..27 => self.settle().await,
            27..31 => self.advance(),
            31 => self.seek().await,
            32..34 => self.reprocess().await,
            34..36 => self.unblock().await,
            36 if !self.is_odd => self.shed().await,
            37 => self.declare().await,
            38 if self.spec.order_by.is_none() => self.kill().await,
            _ => self.forget().await,
        }
    }

    /// Lends all that may be lent; then everything must be the same.
    async fn compare(&mut self) -> String {
        let said = self.claim(None).await;
        let mut told = Vec::new();
        for side in &self.sides {
            let status = side.store.group(&group()).await.unwrap();
            assert_eq!(status.difference(), 0, "{status:?}");
            let page = side.store.blocked(&group(), Position::START, 1000).await.unwrap();
            assert_eq!(status.blocked, page.items.len() as u64);
            let waits = |one: &Blocked| {
                let names: Vec<&str> = one.waits_for.iter().map(|name| &*name.id).collect();
                // In memory what was met is asked anew, of which a group that went back may think otherwise.
                let names = if self.is_odd { String::new() } else { names.join(" ") };
                format!("{}: {names}", one.stored.event.id)
            };
            let blocked: Vec<String> = page.items.iter().map(waits).collect();
            let counts =
                [status.waiting, status.blocked, status.unseen, status.scheduled, status.in_flight, status.done];
            let ends = [status.duplicates, status.skipped, status.dead, status.parked, status.expired, status.dropped];
            let ages = (status.oldest_waiting, status.oldest_blocked, status.blocked_keys);
            told.push(format!("{counts:?} {ends:?} {ages:?} {blocked:?}"));
        }
        self.same("counts", &told);
        said
    }
}

async fn live(seed: u64, subjects: [Box<dyn Subject>; 2]) {
    let mut life = Life::begin(seed, subjects).await;
    let spec = format!("TIDEGATE_SEED={seed} replays it: {:?}", life.spec);
    life.log.push(spec);
    for number in 0..STEPS {
        let said = life.step().await;
        life.log.push(format!("{number}: {said}"));
        // Engines differ in whether one that comes back takes the key of one that is only next: nobody is next for long.
        if number % 5 == 4 || life.spec.order_by.is_some() {
            let said = life.compare().await;
            life.log.push(format!("{number}: {said}"));
        }
    }
}

#[tokio::test]
async fn lives_on_a_redis_server_are_those_in_memory() {
    let server = Arc::new(RedisServer::start(&[]));
    for seed in seeds::part(0, 1, USUAL) {
        live(seed, [Box::new(InMemory::new()), Box::new(OnRedis::new(&server))]).await;
    }
}

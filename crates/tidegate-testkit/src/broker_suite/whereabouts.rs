//! Where an event is: found by its id, where it stands in its groups, and what was written of it.

use std::time::Duration;

use tidegate_core::{
    dedupe::DedupeKey,
    delivery::{Attempt, Position, Settlement},
    event::{DELIVER_AT, Data, EXPIRY_TIME, Event, PARTITION_KEY},
    fault::FaultClass,
    order::OrderBy,
    store::{Broker as _, DeadState, DedupeWindow, GroupSpec, OnFailure, Retain, StreamSpec},
    whereabouts::{Find, Finding, Place, Standing, StepKind, Steps, Wait},
};

use super::case::{
    Case, DONE, GROUP, LEASE, REPROCESS, SOURCE, STREAM, bury, event, group_name, group_spec, keyed, stream_name,
    stream_spec,
};

const MINUTE: Duration = Duration::from_secs(60);

fn find(id: &str) -> Find {
    Find { id: id.into(), source: None, stream: None, look_max: 10_000 }
}

async fn found(case: &Case, ask: Find) -> Finding {
    case.store.find(&ask).await.expect("the search is answered")
}

/// Streams and positions at which a search finds its event.
async fn places(case: &Case, ask: Find) -> Vec<(String, Position)> {
    let finding = found(case, ask).await;
    let places = finding.sightings.into_iter();
    places.map(|sighting| (sighting.stream.to_string(), sighting.position)).collect()
}

async fn stands(case: &Case, position: Position) -> Standing {
    case.store.standing(&group_name(GROUP), position).await.expect("the group says where it stands")
}

async fn place(case: &Case, position: Position) -> Place {
    stands(case, position).await.place
}

async fn steps(case: &Case, position: Position) -> Steps {
    case.store.steps(&stream_name(STREAM), position).await.expect("the life is told")
}

fn attempt(case: &Case, message: &str) -> Attempt {
    let took = Duration::from_millis(7);
    Attempt { at: case.now(), took, class: FaultClass::Transient, message: message.to_owned() }
}

pub(super) async fn an_event_is_found_by_its_id(case: Case) {
    case.pair().await;
    case.stream("other").await;
    let positions = case.publish_ids(&["a", "b", "c"]).await;
    let elsewhere = case.publish_to("other", vec![Event::new("b", "/elsewhere", "suite.tested")]).await;
    let both = [(STREAM.to_owned(), positions[1]), ("other".to_owned(), elsewhere[0])];
    let mut all = places(&case, find("b")).await;
    all.sort();
    // One of them is enough for an answer, and both are one.
    assert!(!all.is_empty() && all.iter().all(|place| both.contains(place)), "{all:?}");
    for (source, expect) in [(SOURCE, &both[0]), ("/elsewhere", &both[1])] {
        assert_eq!(
            places(&case, Find { source: Some(source.into()), ..find("b") }).await,
            std::slice::from_ref(expect)
        );
    }
    for (stream, expect) in [(STREAM, &both[0]), ("other", &both[1])] {
        assert_eq!(
            places(&case, Find { stream: Some(stream_name(stream)), ..find("b") }).await,
            std::slice::from_ref(expect)
        );
    }
    let sighting = found(&case, find("a")).await.sightings.remove(0);
    let stored = sighting.stored.expect("it is kept");
    assert_eq!((&*stored.event.id, stored.position, stored.accepted_at), ("a", positions[0], case.now()));
    assert!(case.store.find(&Find { stream: Some(stream_name("nowhere")), ..find("a") }).await.is_err());
}

pub(super) async fn a_search_in_vain_says_how_far_it_looked(case: Case) {
    case.pair().await;
    let ids: Vec<String> = (0..500).map(|number| format!("e{number}")).collect();
    case.publish(ids.iter().map(|id| event(id)).collect()).await;
    let nothing = found(&case, find("x")).await;
    assert_eq!((nothing.sightings.len(), nothing.looked, nothing.whole), (0, 500, true));
    let bounded = found(&case, Find { look_max: 100, ..find("x") }).await;
    assert_eq!((bounded.sightings.len(), bounded.whole), (0, false));
    assert!(bounded.looked <= 100, "{} were looked at", bounded.looked);
    assert_eq!(places(&case, find("e499")).await.len(), 1);
    // The newest come first.
    assert_eq!(places(&case, Find { look_max: 100, ..find("e450") }).await.len(), 1);
}

pub(super) async fn what_an_index_knows_is_found_beyond_the_bound(case: Case) {
    let dedupe = Some(DedupeWindow { key: DedupeKey::IDENTITY, window: MINUTE * 60, entries: 100_000 });
    case.declare_stream(&StreamSpec { dedupe, ..stream_spec(STREAM) }).await;
    case.group(GROUP, STREAM).await;
    let ids: Vec<String> = (0..3000).map(|number| format!("e{number}")).collect();
    let positions = case.publish(ids.iter().map(|id| event(id)).collect()).await;
    for ask in [find("e3"), Find { source: Some(SOURCE.into()), ..find("e3") }] {
        let finding = found(&case, Find { look_max: 50, ..ask }).await;
        assert_eq!(finding.sightings.first().map(|sighting| sighting.position), Some(positions[3]));
        assert!(finding.looked <= 50);
    }
}

/// Kept results stand on this: published with a settlement, found by `source` and `id` without looking at any event, and
/// of two with one name the first stays.
pub(super) async fn an_index_alone_finds_an_output(mut case: Case) {
    case.pair().await;
    let dedupe = Some(DedupeWindow { key: DedupeKey::IDENTITY, window: MINUTE, entries: 100_000 });
    case.declare_stream(&StreamSpec { dedupe, ..stream_spec("out") }).await;
    let ids: Vec<String> = (0..50).map(|number| format!("e{number}")).collect();
    case.publish(ids.iter().map(|id| event(id)).collect()).await;
    for (delivery, text) in case.claim(50).await.iter().zip(0..) {
        let made = |text: String| event(&delivery.event.id).with_data(Data::Text(text.into()));
        let outputs = [made(text.to_string()), made("second".to_owned())];
        case.settle(delivery, Settlement::Done(outputs.map(|event| (stream_name("out"), event)).into())).await;
    }
    for _ in 0..2 {
        for (id, text) in ids.iter().zip(0..) {
            let ask = Find { source: Some(SOURCE.into()), stream: Some(stream_name("out")), look_max: 0, ..find(id) };
            let finding = found(&case, ask).await;
            assert_eq!((finding.looked, finding.sightings.len()), (0, 1), "{id}");
            let stored = finding.sightings.into_iter().find_map(|sighting| sighting.stored).expect("it is kept");
            assert_eq!(stored.event.data, Data::Text(text.to_string().into()));
        }
        if !case.store.promises().durable {
            break;
        }
        case.restart().await;
    }
    case.advance(MINUTE * 2);
    let late = Find { source: Some(SOURCE.into()), stream: Some(stream_name("out")), look_max: 0, ..find("e7") };
    assert!(found(&case, late).await.sightings.is_empty(), "the window has ended");
}

pub(super) async fn a_waiting_event_knows_its_place(case: Case) {
    case.pair().await;
    let positions = case.publish_ids(&["a", "b", "c"]).await;
    assert_eq!(place(&case, positions[2]).await, Place::Waiting { ahead: 2, held_up: false });
    assert_eq!(place(&case, Position { low: positions[2].low + 1, ..positions[2] }).await, Place::Absent);
    assert_eq!(place(&case, Position::START).await, Place::Absent);
    let lent = case.claim_one("a").await;
    assert_eq!(place(&case, positions[0]).await, Place::Lent { until: lent.lease.expires_at });
    assert_eq!(place(&case, positions[1]).await, Place::Waiting { ahead: 0, held_up: false });
    case.settle(&lent, Settlement::Release).await;
    assert_eq!(place(&case, positions[0]).await, Place::Waiting { ahead: 0, held_up: false });
    assert_eq!(place(&case, positions[1]).await, Place::Waiting { ahead: 1, held_up: false });
    let nobody = case.store.standing(&group_name("nobody"), positions[0]).await;
    assert!(nobody.is_err(), "there is no such group");
}

pub(super) async fn what_waits_for_a_time_says_for_which(case: Case) {
    case.pair().await;
    let later = case.now().plus(MINUTE * 10);
    let positions = case.publish(vec![event("a"), event("later").with_extension(DELIVER_AT, later.to_string())]).await;
    let lent = case.claim(10).await;
    assert_eq!(lent.len(), 1);
    assert_eq!(place(&case, positions[1]).await, Place::Scheduled { until: later, wait: Wait::DeliverAt });
    let failed = attempt(&case, "no luck");
    case.settle_attempt(&lent[0], case.retry(&lent[0], MINUTE), failed.clone()).await;
    let until = case.now().plus(MINUTE);
    let place = Place::Scheduled { until, wait: Wait::Retry };
    assert_eq!(stands(&case, positions[0]).await, Standing { place, attempts: 1, crashes: 0, history: vec![failed] });
    case.advance(MINUTE);
    assert_eq!(stands(&case, positions[0]).await.place, Place::Waiting { ahead: 0, held_up: false });
}

pub(super) async fn a_twin_waits_for_its_twin(case: Case) {
    case.pair().await;
    let positions = case.publish(vec![event("a"), event("a")]).await;
    let first = case.claim(10).await;
    assert_eq!(first.len(), 1);
    let waits = place(&case, positions[1]).await;
    assert!(
        matches!(waits, Place::Scheduled { wait: Wait::Twin(twin), .. } if twin == positions[0]),
        "{waits:?} should wait for its twin"
    );
    case.settle(&first[0], DONE).await;
    let at = case.now();
    case.advance(Duration::from_secs(1));
    case.claim_nothing().await;
    assert_eq!(place(&case, positions[0]).await, Place::Done { at: Some(at) });
    assert_eq!(place(&case, positions[1]).await, Place::Duplicate { of: positions[0], at });
}

pub(super) async fn a_blocked_event_names_who_has_its_key(case: Case) {
    case.stream(STREAM).await;
    let order_by = Some(OrderBy::Attribute(PARTITION_KEY.into()));
    let spec = GroupSpec { order_by, on_failure: OnFailure::Block, ..group_spec(GROUP, STREAM) };
    case.declare_group(&spec).await;
    let positions = case.publish(vec![keyed("a1", "a"), keyed("a2", "a")]).await;
    let lent = case.claim(10).await;
    assert_eq!(place(&case, positions[1]).await, Place::Blocked { by: Some(positions[0]) });
    let newer = case.publish(vec![keyed("a3", "a")]).await;
    assert_eq!(place(&case, newer[0]).await, Place::Blocked { by: Some(positions[0]) }, "nobody has looked at it yet");
    case.settle(&lent[0], case.retry(&lent[0], MINUTE)).await;
    assert_eq!(place(&case, positions[1]).await, Place::Blocked { by: Some(positions[0]) });
    case.advance(MINUTE);
    let again = case.claim_one("a1").await;
    case.settle(&again, DONE).await;
    assert_eq!(place(&case, positions[1]).await, Place::Waiting { ahead: 0, held_up: false });
}

pub(super) async fn what_is_settled_says_how(mut case: Case) {
    case.pair().await;
    let soon = case.now().plus(MINUTE);
    let expiring = event("expired").with_extension(EXPIRY_TIME, soon.to_string());
    let positions = case.publish(vec![event("done"), event("dead"), expiring]).await;
    let at = case.now();
    let lent = case.claim(2).await;
    case.settle(&lent[0], DONE).await;
    case.settle(&lent[1], bury("bad")).await;
    case.advance(MINUTE);
    case.claim_nothing().await;
    let letter = case.dead(&tidegate_core::store::DeadQuery { limit: 1, ..Default::default() }).await.remove(0);
    for _ in 0..2 {
        assert_eq!(place(&case, positions[0]).await, Place::Done { at: Some(at) });
        let dead = |state| Place::Dead { id: letter.id, state, at };
        assert_eq!(place(&case, positions[1]).await, dead(DeadState::Parked));
        assert_eq!(place(&case, positions[2]).await, Place::Expired);
        if case.store.promises().durable {
            case.kill().await;
        }
    }
    case.move_dead(&[letter.id], REPROCESS).await;
    let state = DeadState::Reprocessed;
    assert_eq!(place(&case, positions[1]).await, Place::Dead { id: letter.id, state, at });
}

pub(super) async fn without_a_ledger_the_end_is_known_as_well(case: Case) {
    case.stream(STREAM).await;
    case.declare_group(&GroupSpec { ledger: None, ..group_spec(GROUP, STREAM) }).await;
    let positions = case.publish_ids(&["a"]).await;
    let lent = case.claim(1).await;
    case.done(&lent).await;
    let known = place(&case, positions[0]).await;
    assert!(matches!(known, Place::Done { .. } | Place::Settled), "{known:?}");
}

pub(super) async fn what_belongs_to_another_group_is_foreign(case: Case) {
    case.pair().await;
    case.group("other", STREAM).await;
    let letter = case.bury_new("a", "bad").await;
    let other = case.claim_all_of("other", 1).await.deliveries;
    case.done(&other).await;
    let moved = case.move_dead(&[letter.id], REPROCESS).await;
    let [tidegate_core::store::DeadStepStatus::Moved(Some(again))] = moved[..] else { panic!("{moved:?}") };
    let standing = case.store.standing(&group_name("other"), again).await.unwrap();
    assert_eq!(standing.place, Place::Foreign);
    assert_eq!(place(&case, again).await, Place::Waiting { ahead: 0, held_up: false });
    case.declare_group(&GroupSpec { start: tidegate_core::store::Start::Latest, ..group_spec("late", STREAM) }).await;
    let standing = case.store.standing(&group_name("late"), letter.position).await.unwrap();
    assert_eq!(standing.place, Place::Foreign);
}

pub(super) async fn what_the_policy_removed_is_dropped(case: Case) {
    let retain = Retain { count: Some(2), drop_unsettled: true, ..Retain::default() };
    case.declare_stream(&StreamSpec { retain, ..stream_spec(STREAM) }).await;
    case.group(GROUP, STREAM).await;
    let positions = case.publish_ids(&["a", "b", "c", "d"]).await;
    case.upkeep_until("the oldest are dropped", async || case.status().await.dropped > 0).await;
    let gone = place(&case, positions[0]).await;
    assert!(matches!(gone, Place::Dropped | Place::Settled), "{gone:?}");
    assert!(matches!(place(&case, positions[3]).await, Place::Waiting { .. }));
}

pub(super) async fn a_life_is_told_in_its_steps(mut case: Case) {
    case.pair().await;
    case.group("other", STREAM).await;
    let positions = case.publish_ids(&["a", "b"]).await;
    let lent = case.claim_one("a").await;
    let failed = attempt(&case, "no luck");
    case.settle_attempt(&lent, case.retry(&lent, MINUTE), failed.clone()).await;
    let until = case.now().plus(MINUTE);
    case.advance(MINUTE);
    let lent = case.claim(2).await;
    let of_a = lent.iter().position(|delivery| delivery.event.id == "a").expect("a is due");
    case.settle(&lent[of_a], DONE).await;
    case.settle(&lent[1 - of_a], bury("bad")).await;
    for _ in 0..2 {
        let told = steps(&case, positions[0]).await;
        assert!(told.items.iter().all(|step| step.group == group_name(GROUP)), "{told:?}");
        let kinds: Vec<StepKind> = told.items.iter().map(|step| step.what.clone()).collect();
        let put_off = StepKind::PutOff { until, attempts: 1, attempt: Some(failed.clone()) };
        assert!(!told.whole || kinds == [put_off, StepKind::Done], "{kinds:?}");
        let told = steps(&case, positions[1]).await;
        let dead = |kind: &StepKind| matches!(kind, StepKind::Dead { message, .. } if message == "bad");
        assert!(!told.whole || told.items.iter().any(|step| dead(&step.what)), "{told:?}");
        if case.store.promises().durable {
            case.kill().await;
        }
    }
    case.advance(LEASE);
    assert!(case.store.steps(&stream_name("nowhere"), positions[0]).await.is_err());
}

//! Dead letters: everything known of a death is kept, and what somebody does about it happens once.

use std::time::Duration;

use tidegate_core::{
    dedupe::DedupeKey,
    delivery::{Attempt, Position, Settlement},
    event::{Data, PARTITION_KEY},
    fault::{Failure, FaultClass, FaultKind},
    limits,
    order::OrderBy,
    store::{
        Broker as _, DeadAction, DeadLetter, DeadLetters as _, DeadQuery, DeadState, DeadStep, DeadStepStatus,
        GroupSpec, OnFailure,
    },
};

use super::case::{
    Case, DONE, GROUP, REPROCESS, STREAM, bury, event, group_name, group_spec, ids, keyed, step, stream_name,
};

const MINUTE: Duration = Duration::from_secs(60);
const ALL: DeadQuery =
    DeadQuery { state: None, group: None, before: None, since: None, after: None, until: None, limit: 100 };

fn names(letters: &[DeadLetter]) -> Vec<&str> {
    letters.iter().map(|letter| &*letter.event.id).collect()
}

async fn states(case: &Case) -> Vec<(String, DeadState)> {
    case.dead(&ALL).await.into_iter().map(|letter| (letter.event.id.to_string(), letter.state)).collect()
}

pub(super) async fn everything_of_a_death_is_kept(mut case: Case) {
    case.pair().await;
    let event = event("1").with_subject("x").with_data(Data::Json("{\"a\":1}".into()));
    let position = case.publish(vec![event.clone()]).await[0];
    let first = case.claim_one("1").await;
    let attempt = |at, message: &str| Attempt {
        at,
        took: Duration::from_millis(5),
        class: FaultClass::Transient,
        message: message.into(),
    };
    let attempts = [attempt(case.now(), "one"), attempt(case.now().plus(MINUTE), "two")];
    case.settle_attempt(&first, case.retry(&first, MINUTE), attempts[0].clone()).await;
    case.advance(MINUTE);
    let second = case.claim_one("1").await;
    let failure = Failure::new(FaultClass::Poison, "order 17 broke \"it\"");
    let settlement = Settlement::Bury { failure, config: "abc".into() };
    case.settle_attempt(&second, settlement, attempts[1].clone()).await;
    let failed_at = case.now();
    for _ in 0..2 {
        let letters = case.dead(&ALL).await;
        assert_eq!(letters.len(), 1);
        let letter = &letters[0];
        assert_eq!((letter.event.clone(), letter.position), (event.clone(), position));
        assert_eq!((letter.stream.as_str(), letter.group.as_str()), (STREAM, GROUP));
        assert_eq!((letter.state, letter.class), (DeadState::Parked, FaultClass::Poison));
        assert_eq!((&*letter.message, &*letter.signature), ("order 17 broke \"it\"", "order <n> broke <text>"));
        assert_eq!((letter.failed_at, &*letter.config), (failed_at, "abc"));
        assert_eq!(letter.attempts, attempts);
        assert!(letter.changed.is_none());
        let one = case.store.dead_letter(&stream_name(STREAM), letter.id).await.unwrap();
        assert_eq!((one.id, one.event, one.attempts), (letter.id, event.clone(), attempts.to_vec()));
        assert_eq!(case.stream_status("s.dlq").await.accepted, 1);
        if !case.store.promises().durable {
            break;
        }
        case.restart().await;
    }
    assert_eq!(case.counts().await, [0, 0, 0, 0, 1]);
}

pub(super) async fn newest_come_first_in_pages(case: Case) {
    case.pair().await;
    for index in 0..7 {
        case.bury_new(&index.to_string(), "bad").await;
    }
    assert_eq!(names(&case.dead(&ALL).await), ["6", "5", "4", "3", "2", "1", "0"]);
    let (mut before, mut seen) = (None, Vec::new());
    loop {
        let query = DeadQuery { before, limit: 3, ..ALL };
        let page = case.store.dead_letters(&stream_name(STREAM), &query).await.unwrap();
        assert!(page.items.len() <= 3);
        seen.extend(page.items.iter().map(|letter| letter.event.id.to_string()));
        assert!(seen.len() <= 7, "the pages do not end");
        match page.next {
            Some(next) => before = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, ["6", "5", "4", "3", "2", "1", "0"]);
}

pub(super) async fn filters_choose(case: Case) {
    case.pair().await;
    case.group("h", STREAM).await;
    let early = case.bury_new("early", "bad").await;
    case.advance(MINUTE);
    let noon = case.now();
    case.bury_new("late", "bad").await;
    let other = case.claim_all_of("h", 1).await.deliveries;
    case.settle(&other[0], bury("worse")).await;
    case.move_dead(&[early.id], DeadAction::Resolve).await;
    let check = async |query: DeadQuery, expect: &[&str]| {
        assert_eq!(names(&case.dead(&query).await), expect, "{query:?}");
    };
    check(DeadQuery { state: Some(DeadState::Parked), ..ALL }, &["early", "late"]).await;
    check(DeadQuery { state: Some(DeadState::Resolved), ..ALL }, &["early"]).await;
    check(DeadQuery { state: Some(DeadState::Discarded), ..ALL }, &[]).await;
    check(DeadQuery { group: Some(group_name(GROUP)), ..ALL }, &["late", "early"]).await;
    check(DeadQuery { group: Some(group_name("h")), ..ALL }, &["early"]).await;
    check(DeadQuery { since: Some(noon), ..ALL }, &["early", "late"]).await;
    check(DeadQuery { since: Some(noon.plus(MINUTE)), ..ALL }, &[]).await;
    check(DeadQuery { limit: 1, ..ALL }, &["early"]).await;
    check(DeadQuery { limit: 1, state: Some(DeadState::Resolved), ..ALL }, &["early"]).await;
}

pub(super) async fn both_names_lead_to_the_letters(case: Case) {
    case.pair().await;
    let letter = case.bury_new("1", "bad").await;
    let dlq = stream_name("s.dlq");
    assert_eq!(case.store.dead_letters(&dlq, &ALL).await.unwrap().items.len(), 1);
    assert_eq!(case.store.dead_letter(&dlq, letter.id).await.unwrap().event.id, "1");
    let step = DeadStep { stream: dlq, ..step(&[letter.id], DeadAction::Discard) };
    assert_eq!(case.store.move_dead(&step).await.unwrap(), [DeadStepStatus::Moved(None)]);
    let nowhere = stream_name("nowhere");
    assert_eq!(case.store.dead_letters(&nowhere, &ALL).await.unwrap_err().kind, FaultKind::Missing);
    let missing = Position { low: letter.id.low + 99, ..letter.id };
    let fault = case.store.dead_letter(&stream_name(STREAM), missing).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing);
}

pub(super) async fn resolved_and_discarded_say_who_and_why(mut case: Case) {
    case.pair().await;
    let resolved = case.bury_new("resolved", "bad").await.id;
    let discarded = case.bury_new("discarded", "bad").await.id;
    case.bury_new("parked", "bad").await;
    case.advance(MINUTE);
    let at = case.now();
    assert_eq!(case.move_dead(&[resolved], DeadAction::Resolve).await, [DeadStepStatus::Moved(None)]);
    assert_eq!(case.move_dead(&[discarded], DeadAction::Discard).await, [DeadStepStatus::Moved(None)]);
    for _ in 0..2 {
        let states = states(&case).await;
        let expect = [DeadState::Parked, DeadState::Discarded, DeadState::Resolved];
        assert_eq!(states.iter().map(|(_, state)| *state).collect::<Vec<_>>(), expect);
        let letter = case.store.dead_letter(&stream_name(STREAM), resolved).await.unwrap();
        let changed = letter.changed.expect("somebody changed it");
        assert_eq!((changed.at, &*changed.by, &*changed.note), (at, "somebody", "because"));
        assert_eq!(changed.position, None);
        assert_eq!(case.counts().await, [0, 0, 0, 0, 3], "they stay buried, whatever became of them");
        if !case.store.promises().durable {
            break;
        }
        case.kill().await;
    }
    case.claim_nothing().await;
}

pub(super) async fn states_forbid_a_second_move(case: Case) {
    case.pair().await;
    let resolved = case.bury_new("resolved", "bad").await.id;
    let discarded = case.bury_new("discarded", "bad").await.id;
    case.move_dead(&[resolved], DeadAction::Resolve).await;
    case.move_dead(&[discarded], DeadAction::Discard).await;
    for (id, state) in [(resolved, DeadState::Resolved), (discarded, DeadState::Discarded)] {
        assert_eq!(case.move_dead(&[id], REPROCESS).await, [DeadStepStatus::Refused(state)]);
    }
    case.claim_nothing().await;
}

pub(super) async fn reprocessed_runs_once_for_its_group(mut case: Case) {
    case.pair().await;
    case.group("h", STREAM).await;
    let other = case.publish_ids(&["1"]).await[0];
    case.done(&case.claim_all_of("h", 10).await.deliveries).await;
    let delivery = case.claim_one("1").await;
    let attempt = Attempt { at: case.now(), took: Duration::ZERO, class: FaultClass::Invalid, message: "bad".into() };
    case.settle_attempt(&delivery, bury("bad"), attempt.clone()).await;
    let id = case.dead(&ALL).await[0].id;
    let answer = case.move_dead(&[id], REPROCESS).await;
    let [DeadStepStatus::Moved(Some(position))] = answer[..] else { panic!("{answer:?}") };
    assert!(position > other);
    assert_eq!(case.move_dead(&[id], REPROCESS).await, [DeadStepStatus::Refused(DeadState::Reprocessed)]);
    if case.store.promises().durable {
        case.restart().await;
        assert_eq!(case.move_dead(&[id], REPROCESS).await, [DeadStepStatus::Refused(DeadState::Reprocessed)]);
    }
    assert_eq!(states(&case).await, [("1".to_owned(), DeadState::Reprocessed)]);
    let changed = case.dead(&ALL).await[0].changed.clone().expect("somebody changed it");
    assert_eq!(changed.position, Some(position));
    let others = case.claim_all_of("h", 10).await;
    assert_eq!(others.deliveries.len(), 0, "only the group that buried it sees it");
    let status = case.status_of("h").await;
    assert_eq!((status.accepted, status.done, status.duplicates), (2, 2, 1));
    let again = case.claim_one("1").await;
    assert_eq!((again.position, again.attempt), (position, 1));
    assert_eq!(again.history.last(), Some(&attempt), "its history goes with it");
    case.settle(&again, DONE).await;
    let status = case.status().await;
    assert_eq!((status.accepted, status.done, status.dead), (2, 1, 1));
    case.claim_nothing().await;
}

pub(super) async fn forced_runs_again_even_when_done(case: Case) {
    case.pair().await;
    let id = case.bury_new("1", "bad").await.id;
    case.move_dead(&[id], REPROCESS).await;
    let first = case.claim_one("1").await;
    case.settle(&first, DONE).await;
    let force = DeadAction::Reprocess { force: true, edited: Vec::new() };
    let answer = case.move_dead(&[id], force).await;
    assert!(matches!(answer[..], [DeadStepStatus::Moved(Some(_))]), "{answer:?}");
    let second = case.claim_one("1").await;
    case.settle(&second, DONE).await;
    case.claim_nothing().await;
    assert_eq!(case.counts().await, [0, 0, 0, 2, 1]);
}

pub(super) async fn an_edited_event_runs_and_the_original_stays(case: Case) {
    case.pair().await;
    let letter = case.bury_new("1", "bad").await;
    let mut edited = letter.event.clone();
    edited.data = Data::Json("{\"mended\":true}".into());
    let action =
        |event: &tidegate_core::event::Event| DeadAction::Reprocess { force: false, edited: vec![event.clone()] };
    for (name, value) in [("id", "2"), ("source", "/elsewhere")] {
        let mut foreign = edited.clone();
        if name == "id" {
            foreign.id = value.into()
        } else {
            foreign.source = value.into()
        }
        let fault = case.store.move_dead(&step(&[letter.id], action(&foreign))).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid, "another {name}");
    }
    assert_eq!(states(&case).await, [("1".to_owned(), DeadState::Parked)]);
    case.move_dead(&[letter.id], action(&edited)).await;
    assert_eq!(case.claim_one("1").await.event, edited);
    let kept = case.store.dead_letter(&stream_name(STREAM), letter.id).await.unwrap();
    assert_eq!(kept.event, letter.event, "the original is untouched");
}

pub(super) async fn a_step_answers_for_each(case: Case) {
    case.pair().await;
    let a = case.bury_new("a", "bad").await.id;
    let b = case.bury_new("b", "bad").await.id;
    let c = case.bury_new("c", "bad").await.id;
    case.move_dead(&[b], DeadAction::Resolve).await;
    let missing = Position { low: c.low + 50, ..c };
    let answer = case.move_dead(&[c, missing, b, a], REPROCESS).await;
    assert!(matches!(answer[0], DeadStepStatus::Moved(Some(_))));
    assert_eq!(answer[1], DeadStepStatus::Missing);
    assert_eq!(answer[2], DeadStepStatus::Refused(DeadState::Resolved));
    assert!(matches!(answer[3], DeadStepStatus::Moved(Some(_))));
    let mut lent = ids(&case.claim(10).await);
    lent.sort();
    assert_eq!(lent, ["a", "c"]);
    let twice = case.bury_new("d", "bad").await.id;
    let answer = case.move_dead(&[twice, twice], REPROCESS).await;
    assert!(matches!(answer[0], DeadStepStatus::Moved(Some(_))));
    assert_eq!(answer[1], DeadStepStatus::Refused(DeadState::Reprocessed), "one entry named twice moves once");
}

pub(super) async fn a_step_has_a_limit(case: Case) {
    case.pair().await;
    let id = case.bury_new("1", "bad").await.id;
    let many = vec![id; limits::DEAD_STEP_MAX + 1];
    let fault = case.store.move_dead(&step(&many, DeadAction::Resolve)).await.unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Invalid | FaultKind::Limited), "{fault:?}");
    assert_eq!(states(&case).await, [("1".to_owned(), DeadState::Parked)]);
    assert_eq!(case.move_dead(&[], REPROCESS).await, []);
}

/// What is redriven may die again, and is then a dead letter of its own.
pub(super) async fn a_second_death_is_a_second_letter(case: Case) {
    case.pair().await;
    let first = case.bury_new("1", "bad").await.id;
    case.move_dead(&[first], REPROCESS).await;
    let again = case.claim_one("1").await;
    case.settle(&again, bury("still bad")).await;
    let letters = case.dead(&ALL).await;
    assert_eq!(
        letters.iter().map(|letter| letter.state).collect::<Vec<_>>(),
        [DeadState::Parked, DeadState::Reprocessed]
    );
    assert!(letters[0].id > first);
    assert_eq!(case.counts().await, [0, 0, 0, 0, 2]);
}

pub(super) async fn a_redriven_event_keeps_its_order_key(case: Case) {
    case.stream(STREAM).await;
    let order_by = Some(OrderBy::Attribute(PARTITION_KEY.into()));
    case.declare_group(&GroupSpec { order_by, on_failure: OnFailure::Block, ..group_spec(GROUP, STREAM) }).await;
    case.publish(vec![keyed("a1", "a"), keyed("a2", "a")]).await;
    let first = case.claim_one("a1").await;
    case.settle(&first, bury("bad")).await;
    let second = case.claim_one("a2").await;
    let id = case.dead(&ALL).await[0].id;
    case.move_dead(&[id], REPROCESS).await;
    case.claim_nothing().await;
    case.settle(&second, DONE).await;
    case.claim_one("a1").await;
}

pub(super) async fn the_dedupe_window_lets_a_redrive_through(case: Case) {
    let mut spec = super::case::stream_spec(STREAM);
    spec.dedupe = Some(tidegate_core::store::DedupeWindow { key: DedupeKey::IDENTITY, window: MINUTE, entries: 100 });
    case.declare_stream(&spec).await;
    case.group(GROUP, STREAM).await;
    let id = case.bury_new("1", "bad").await.id;
    let answer = case.move_dead(&[id], REPROCESS).await;
    assert!(matches!(answer[..], [DeadStepStatus::Moved(Some(_))]), "{answer:?}");
    case.claim_one("1").await;
}

pub(super) async fn the_report_counts(case: Case) {
    case.pair().await;
    case.group("h", STREAM).await;
    let started = case.now();
    let oldest = case.bury_new("old", "order 1 broke").await;
    case.advance(MINUTE);
    let since = case.now();
    let two = case.bury_new("2", "order 2 broke").await;
    let three = case.bury_new("3", "order 3 broke").await;
    let other = case.claim_all_of("h", 1).await.deliveries;
    let failure = Failure::new(FaultClass::Poison, "crashed");
    case.settle(&other[0], Settlement::Bury { failure, config: "c".into() }).await;
    case.move_dead(&[two.id], DeadAction::Resolve).await;
    let report = case.store.dead_report(&stream_name(STREAM), since, case.now().plus(MINUTE)).await.unwrap();
    assert_eq!(report.total, 3);
    let mut states = report.states.clone();
    states.retain(|(_, count)| *count > 0);
    states.sort();
    assert_eq!(states, [(DeadState::Parked, 2), (DeadState::Resolved, 1)]);
    let signatures: Vec<(&str, u64)> =
        report.signatures.iter().map(|(signature, count, _)| (&**signature, *count)).collect();
    assert_eq!(signatures, [("order <n> broke", 2), ("crashed", 1)]);
    assert_eq!(report.signatures[0].2, three.id, "the newest example");
    assert_eq!(report.kinds.iter().map(|(kind, count)| (&**kind, *count)).collect::<Vec<_>>(), [("suite.tested", 3)]);
    let sorted = |mut groups: Vec<(tidegate_core::names::GroupName, u64)>| {
        groups.retain(|(_, count)| *count > 0);
        groups.sort();
        groups
    };
    assert_eq!(sorted(report.groups), [(group_name(GROUP), 2), (group_name("h"), 1)]);
    let mut classes = report.classes.clone();
    classes.retain(|(_, count)| *count > 0);
    classes.sort();
    assert_eq!(classes, [(FaultClass::Invalid, 2), (FaultClass::Poison, 1)]);
    assert_eq!(report.oldest, Some(oldest.failed_at));
    assert_eq!(sorted(report.parked), [(group_name(GROUP), 2), (group_name("h"), 1)]);
    let whole = case.store.dead_report(&stream_name(STREAM), started, case.now().plus(MINUTE)).await.unwrap();
    assert_eq!(whole.total, 4);
    let none = case
        .store
        .dead_report(&stream_name(STREAM), case.now().plus(MINUTE), case.now().plus(MINUTE * 2))
        .await
        .unwrap();
    assert_eq!(none.total, 0);
}

/// An event whose retention ran out can still be redriven: the dead letter holds the whole event.
pub(super) async fn a_letter_outlives_its_event(mut case: Case) {
    let mut spec = super::case::stream_spec(STREAM);
    spec.retain.count = Some(1);
    case.declare_stream(&spec).await;
    case.group(GROUP, STREAM).await;
    let id = case.bury_new("1", "bad").await.id;
    for index in 0..20 {
        case.publish(vec![event(&format!("x{index}"))]).await;
        case.done(&case.claim(1).await).await;
    }
    case.store.upkeep().await.unwrap();
    if case.store.promises().durable {
        case.restart().await;
    }
    assert_eq!(case.store.dead_letter(&stream_name(STREAM), id).await.unwrap().event, event("1"));
    case.move_dead(&[id], REPROCESS).await;
    case.claim_one("1").await;
}

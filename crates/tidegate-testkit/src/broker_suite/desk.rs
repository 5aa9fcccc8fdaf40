//! What a desk for dead letters stands on: the index without the events, progress in the commit of a step, taking
//! back, forgetting, import, expiry, and how a reprocessed event stands.

use std::time::Duration;

use tidegate_core::{
    delivery::{Attempt, Position},
    event::{Data, PARTITION_KEY},
    fault::{FaultClass, FaultKind},
    order::OrderBy,
    store::{
        Broker as _, DeadAction, DeadChange, DeadEntry, DeadImport, DeadKeep, DeadLetter, DeadLetters as _,
        DeadProgress, DeadQuery, DeadReport, DeadState, DeadStep, DeadStepStatus, GroupSpec, Ledger as _, OnFailure,
        StreamSpec,
    },
};

use super::case::{
    Case, DONE, GROUP, REPROCESS, SOURCE, STREAM, bury, event, group_name, group_spec, keyed, step, stream_name,
    stream_spec,
};

const MINUTE: Duration = Duration::from_secs(60);

fn all() -> DeadQuery {
    DeadQuery { limit: 100, ..DeadQuery::default() }
}

async fn entries(case: &Case, query: &DeadQuery) -> Vec<DeadEntry> {
    case.store.dead_entries(&stream_name(STREAM), query).await.expect("entries are listed").items
}

async fn some(case: &Case, count: usize) -> Vec<DeadLetter> {
    let mut letters = Vec::new();
    for index in 0..count {
        letters.push(case.bury_new(&index.to_string(), "bad").await);
    }
    letters
}

fn moved_to(status: DeadStepStatus) -> Position {
    let DeadStepStatus::Moved(Some(position)) = status else { panic!("{status:?}") };
    position
}

pub(super) async fn entries_agree_with_letters(case: Case) {
    case.pair().await;
    let letters = some(&case, 3).await;
    case.move_dead(&[letters[1].id], DeadAction::Resolve).await;
    let expect: Vec<DeadEntry> = case
        .dead(&all())
        .await
        .into_iter()
        .map(|letter| DeadEntry {
            id: letter.id,
            group: letter.group,
            position: letter.position,
            state: letter.state,
            class: letter.class,
            failed_at: letter.failed_at,
        })
        .collect();
    assert_eq!(entries(&case, &all()).await, expect);
    let parked = DeadQuery { state: Some(DeadState::Parked), ..all() };
    assert_eq!(entries(&case, &parked).await.len(), 2);
    let page = case.store.dead_entries(&stream_name(STREAM), &DeadQuery { limit: 2, ..all() }).await.unwrap();
    assert_eq!((page.items.len(), page.next), (2, Some(letters[1].id)));
}

pub(super) async fn after_means_oldest_first(case: Case) {
    case.pair().await;
    let letters = some(&case, 5).await;
    let listed = async |query: DeadQuery| -> Vec<Position> {
        let ids: Vec<Position> = entries(&case, &query).await.into_iter().map(|entry| entry.id).collect();
        assert_eq!(case.dead(&query).await.iter().map(|letter| letter.id).collect::<Vec<_>>(), ids);
        ids
    };
    let ids: Vec<Position> = letters.iter().map(|letter| letter.id).collect();
    let from_start = DeadQuery { after: Some(Position::START), ..all() };
    assert_eq!(listed(from_start.clone()).await, ids);
    assert_eq!(listed(DeadQuery { after: Some(ids[1]), before: Some(ids[4]), ..all() }).await, ids[2..4]);
    assert_eq!(listed(DeadQuery { after: Some(ids[4]), ..all() }).await, []);
    assert_eq!(listed(DeadQuery { after: Some(ids[3]), before: Some(ids[1]), ..all() }).await, []);
    let page = case.store.dead_entries(&stream_name(STREAM), &DeadQuery { limit: 2, ..from_start }).await.unwrap();
    assert_eq!(page.next, Some(ids[1]), "the next page starts after it");
}

pub(super) async fn until_ends_the_time(case: Case) {
    case.pair().await;
    let early = case.bury_new("early", "bad").await;
    case.advance(MINUTE);
    let noon = case.now();
    case.bury_new("late", "bad").await;
    let query = DeadQuery { until: Some(noon), ..all() };
    assert_eq!(entries(&case, &query).await.iter().map(|entry| entry.id).collect::<Vec<_>>(), [early.id]);
    let report = case.store.dead_report(&stream_name(STREAM), early.failed_at, noon).await.unwrap();
    assert_eq!(report.total, 1);
    let end = early.failed_at.plus(MINUTE * DeadReport::PARTS as u32);
    let report = case.store.dead_report(&stream_name(STREAM), early.failed_at, end).await.unwrap();
    assert_eq!((report.trend.len(), report.trend[0], report.trend[1]), (DeadReport::PARTS, 1, 1));
    assert_eq!(report.trend.iter().sum::<u64>(), report.total);
}

pub(super) async fn what_is_parked_is_counted_by_group(mut case: Case) {
    case.pair().await;
    let letters = some(&case, 3).await;
    assert_eq!(case.status().await.parked, 3);
    case.move_dead(&[letters[0].id], REPROCESS).await;
    case.move_dead(&[letters[1].id], DeadAction::Resolve).await;
    if case.store.promises().durable {
        case.kill().await;
        assert_eq!(case.status().await.parked, 1);
        case.restart().await;
    }
    let status = case.status().await;
    assert_eq!((status.parked, status.dead), (1, 3), "the dead are counted whatever became of them");
}

pub(super) async fn progress_is_kept_with_the_step(mut case: Case) {
    case.pair().await;
    let letters = some(&case, 2).await;
    let with = |ids: &[Position], value: &str| DeadStep {
        progress: Some(DeadProgress { key: "suite/job".into(), was: None, value: value.as_bytes().to_vec() }),
        ..step(ids, REPROCESS)
    };
    moved_to(case.store.move_dead(&with(&[letters[0].id], "one")).await.unwrap()[0]);
    let kept = async |case: &Case| case.store.states("suite/job").await.unwrap();
    for _ in 0..2 {
        assert_eq!(kept(&case).await, [("suite/job".to_owned(), b"one".to_vec())]);
        let letter = case.store.dead_letter(&stream_name(STREAM), letters[0].id).await.unwrap();
        let changed = letter.changed.expect("it was moved");
        assert_eq!((letter.state, &*changed.job), (DeadState::Reprocessed, "job"));
        if !case.store.promises().durable {
            break;
        }
        case.kill().await;
    }
    // A step in which nothing can be moved is a step all the same.
    let refused = case.store.move_dead(&with(&[letters[0].id], "two")).await.unwrap();
    assert_eq!(refused, [DeadStepStatus::Refused(DeadState::Reprocessed)]);
    assert_eq!(kept(&case).await[0].1, b"two");
    assert_eq!(case.store.move_dead(&with(&[], "three")).await.unwrap(), []);
    assert_eq!(kept(&case).await[0].1, b"three");
    // Whoever is mistaken about how far a job came moves nothing.
    let knowing = |was: &str, value: &str| {
        let progress = DeadProgress { key: "suite/job".into(), was: Some(was.into()), value: value.into() };
        DeadStep { progress: Some(progress), ..step(&[letters[1].id], REPROCESS) }
    };
    assert_eq!(case.store.move_dead(&knowing("two", "four")).await.unwrap_err().kind, FaultKind::Conflict);
    let letter = case.store.dead_letter(&stream_name(STREAM), letters[1].id).await.unwrap();
    assert_eq!((kept(&case).await[0].1.as_slice(), letter.state), (b"three".as_slice(), DeadState::Parked));
    let right = DeadStep { ids: Vec::new(), ..knowing("three", "four") };
    assert_eq!(case.store.move_dead(&right).await.unwrap(), []);
    assert_eq!(case.store.move_dead(&DeadStep { ids: Vec::new(), ..knowing("four", "three") }).await.unwrap(), []);
    // A step that is refused as a whole keeps nothing.
    let mut foreign = letters[1].event.clone();
    foreign.id = "other".into();
    let action = DeadAction::Reprocess { force: false, edited: vec![foreign] };
    let wrong = DeadStep { action, ..with(&[letters[1].id], "four") };
    assert_eq!(case.store.move_dead(&wrong).await.unwrap_err().kind, FaultKind::Invalid);
    assert_eq!(kept(&case).await[0].1, b"three");
    case.move_dead(&[letters[1].id], REPROCESS).await;
}

pub(super) async fn each_has_its_own_edit(case: Case) {
    case.pair().await;
    let letters = some(&case, 3).await;
    let edit = |letter: &DeadLetter| letter.event.clone().with_data(Data::Text(format!("m{}", letter.event.id).into()));
    let ids: Vec<Position> = letters.iter().map(|letter| letter.id).collect();
    case.move_dead(&ids[..1], DeadAction::Resolve).await;
    let edited: Vec<_> = letters.iter().map(edit).collect();
    let short = DeadAction::Reprocess { force: false, edited: edited[..2].to_vec() };
    assert_eq!(case.store.move_dead(&step(&ids, short)).await.unwrap_err().kind, FaultKind::Invalid);
    let answer = case.move_dead(&ids, DeadAction::Reprocess { force: false, edited: edited.clone() }).await;
    assert_eq!(answer[0], DeadStepStatus::Refused(DeadState::Resolved));
    let lent: Vec<_> = case.claim(10).await.into_iter().map(|delivery| delivery.event).collect();
    assert_eq!(lent, edited[1..]);
}

pub(super) async fn a_step_is_one_commit_or_refused(case: Case) {
    case.pair().await;
    let mut ids = Vec::new();
    for index in 0..8 {
        let large = event(&index.to_string()).with_data(Data::Text("x".repeat(900 * 1024).into()));
        case.publish(vec![large]).await;
        let delivery = case.claim_one(&index.to_string()).await;
        case.settle(&delivery, bury("large")).await;
        ids.push(entries(&case, &DeadQuery { limit: 1, ..all() }).await[0].id);
    }
    let fault = case.store.move_dead(&step(&ids, REPROCESS)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Limited);
    assert_eq!(case.status().await.parked, 8, "nothing was moved");
    for half in ids.chunks(2) {
        let answer = case.move_dead(half, REPROCESS).await;
        assert!(answer.iter().all(|status| matches!(status, DeadStepStatus::Moved(Some(_)))), "{answer:?}");
    }
    assert_eq!(case.status().await.parked, 0);
}

pub(super) async fn it_is_known_what_is_not_settled(mut case: Case) {
    case.pair().await;
    let positions = case.publish_ids(&["done", "failing", "dead", "lent", "new"]).await;
    let unsettled = async |case: &Case| case.store.unsettled(&group_name(GROUP), &positions).await.unwrap();
    let fresh = Some(0);
    assert_eq!(unsettled(&case).await, [fresh; 5]);
    let lent = case.claim(4).await;
    case.settle(&lent[0], DONE).await;
    case.settle(&lent[1], case.retry(&lent[1], MINUTE)).await;
    case.settle(&lent[2], bury("bad")).await;
    let expect = [None, Some(1), None, fresh, fresh];
    assert_eq!(unsettled(&case).await, expect);
    if case.store.promises().durable {
        case.restart().await;
        assert_eq!(unsettled(&case).await, expect);
    }
    let nowhere = Position { low: positions[4].low + 100, ..positions[4] };
    assert_eq!(case.store.unsettled(&group_name(GROUP), &[nowhere]).await.unwrap(), [None]);
    let missing = case.store.unsettled(&group_name("nobody"), &[]).await.unwrap_err();
    assert_eq!(missing.kind, FaultKind::Missing);
}

pub(super) async fn what_nobody_has_seen_is_taken_back(mut case: Case) {
    case.pair().await;
    let letters = some(&case, 4).await;
    let ids: Vec<Position> = letters.iter().map(|letter| letter.id).collect();
    case.move_dead(&ids[..3], REPROCESS).await;
    let lent = case.claim_one("0").await;
    let refused = DeadStepStatus::Refused;
    let answer = case.move_dead(&ids, DeadAction::Recall).await;
    assert_eq!(answer[0], refused(DeadState::Reprocessed), "a handler has it");
    assert_eq!(answer[1..3], [DeadStepStatus::Moved(None); 2]);
    assert_eq!(answer[3], refused(DeadState::Parked));
    for _ in 0..2 {
        let states: Vec<DeadState> = entries(&case, &all()).await.iter().rev().map(|entry| entry.state).collect();
        let parked = DeadState::Parked;
        assert_eq!(states, [DeadState::Reprocessed, parked, parked, parked]);
        assert_eq!(case.status().await.parked, 3);
        if !case.store.promises().durable {
            case.settle(&lent, DONE).await;
            case.claim_nothing().await;
            break;
        }
        case.kill().await;
    }
    let again = case.move_dead(&ids[1..2], REPROCESS).await;
    moved_to(again[0]);
    assert!(case.claim(10).await.iter().any(|delivery| delivery.event.id == "1"));
}

pub(super) async fn what_waits_for_a_retry_is_not_taken_back(case: Case) {
    case.pair().await;
    let id = some(&case, 1).await[0].id;
    case.move_dead(&[id], REPROCESS).await;
    let lent = case.claim_one("0").await;
    case.settle(&lent, case.retry(&lent, MINUTE)).await;
    let answer = case.move_dead(&[id], DeadAction::Recall).await;
    assert_eq!(answer, [DeadStepStatus::Refused(DeadState::Reprocessed)]);
}

pub(super) async fn taking_back_lets_the_key_go(case: Case) {
    case.stream(STREAM).await;
    let order_by = Some(OrderBy::Attribute(PARTITION_KEY.into()));
    case.declare_group(&GroupSpec { order_by, on_failure: OnFailure::Block, ..group_spec(GROUP, STREAM) }).await;
    case.publish(vec![keyed("a1", "a"), keyed("a2", "a")]).await;
    let first = case.claim_one("a1").await;
    case.settle(&first, bury("bad")).await;
    let id = case.dead(&all()).await[0].id;
    let second = case.claim_one("a2").await;
    case.move_dead(&[id], REPROCESS).await;
    case.claim_nothing().await;
    case.publish(vec![keyed("a3", "a")]).await;
    case.claim_nothing().await;
    assert_eq!(case.move_dead(&[id], DeadAction::Recall).await, [DeadStepStatus::Moved(None)]);
    case.settle(&second, DONE).await;
    case.claim_one("a3").await;
}

pub(super) async fn what_is_purged_is_gone(mut case: Case) {
    case.pair().await;
    let letters = some(&case, 2).await;
    let ids: Vec<Position> = letters.iter().map(|letter| letter.id).collect();
    case.move_dead(&ids[..1], DeadAction::Discard).await;
    let answer = case.move_dead(&ids, DeadAction::Purge).await;
    assert_eq!(answer, [DeadStepStatus::Moved(None), DeadStepStatus::Refused(DeadState::Parked)]);
    for _ in 0..2 {
        let fault = case.store.dead_letter(&stream_name(STREAM), ids[0]).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Missing);
        assert_eq!(entries(&case, &all()).await.len(), 1);
        assert_eq!(case.move_dead(&ids[..1], DeadAction::Purge).await, [DeadStepStatus::Missing]);
        assert_eq!(case.counts().await, [0, 0, 0, 0, 2], "they stay counted as dead");
        if !case.store.promises().durable {
            break;
        }
        case.kill().await;
    }
}

fn import(letter: &DeadLetter) -> DeadImport {
    DeadImport {
        group: letter.group.clone(),
        state: letter.state,
        event: letter.event.clone(),
        class: letter.class,
        message: letter.message.clone(),
        attempts: letter.attempts.clone(),
        failed_at: letter.failed_at,
        config: letter.config.clone(),
        changed: letter.changed.clone(),
    }
}

pub(super) async fn imported_letters_are_as_they_were(mut case: Case) {
    case.pair().await;
    case.publish_ids(&["1"]).await;
    let delivery = case.claim_one("1").await;
    let attempt = Attempt { at: case.now(), took: MINUTE, class: FaultClass::Timeout, message: "slow 5".into() };
    case.settle_attempt(&delivery, bury("too slow 5"), attempt).await;
    let letter = case.dead(&all()).await.remove(0);
    case.advance(MINUTE);
    case.stream("t").await;
    case.group("other", "t").await;
    let change = DeadChange {
        at: letter.failed_at.plus(Duration::from_secs(1)),
        by: "me".into(),
        note: "by phone".into(),
        job: "j".into(),
        position: None,
    };
    let mut parked = import(&letter);
    parked.group = group_name("other");
    let mut resolved = parked.clone();
    resolved.event = event("2");
    (resolved.state, resolved.changed) = (DeadState::Resolved, Some(change.clone()));
    let both = vec![parked.clone(), resolved.clone()];
    let first = case.store.import_dead(&stream_name("t"), both.clone()).await.unwrap();
    assert!(first.iter().all(|answer| !answer.duplicate), "{first:?}");
    for _ in 0..2 {
        let again = case.store.import_dead(&stream_name("t.dlq"), both.clone()).await.unwrap();
        let expect: Vec<_> = first.iter().map(|answer| (answer.position, true)).collect();
        assert_eq!(again.iter().map(|answer| (answer.position, answer.duplicate)).collect::<Vec<_>>(), expect);
        let came = case.store.dead_letter(&stream_name("t"), first[0].position).await.unwrap();
        assert_eq!((&came.event, &came.message, &came.signature), (&letter.event, &letter.message, &letter.signature));
        assert_eq!((came.failed_at, came.class, &came.attempts), (letter.failed_at, letter.class, &letter.attempts));
        assert_eq!((came.position, came.state, came.stream.as_str()), (Position::START, DeadState::Parked, "t"));
        let other = case.store.dead_letter(&stream_name("t"), first[1].position).await.unwrap();
        assert_eq!((other.state, other.changed.as_ref()), (DeadState::Resolved, Some(&change)));
        let status = case.status_of("other").await;
        assert_eq!((status.parked, status.dead, status.accepted), (1, 0, 0), "nothing died here");
        if !case.store.promises().durable {
            break;
        }
        case.kill().await;
    }
    let back = DeadStep { stream: stream_name("t"), ..step(&[first[0].position], REPROCESS) };
    moved_to(case.store.move_dead(&back).await.unwrap()[0]);
    let lent = case.claim_all_of("other", 1).await.deliveries;
    assert_eq!((lent[0].event.id.as_ref(), lent[0].history.len()), ("1", 1));
}

pub(super) async fn an_import_is_idempotent_where_it_came_from(case: Case) {
    case.pair().await;
    let letters = some(&case, 3).await;
    case.move_dead(&[letters[2].id], REPROCESS).await;
    let asked: Vec<DeadImport> = letters.iter().map(import).collect();
    let answers = case.store.import_dead(&stream_name(STREAM), asked.clone()).await.unwrap();
    for (answer, letter) in answers.iter().zip(&letters) {
        assert_eq!((answer.position, answer.duplicate), (letter.id, true));
    }
    let mut twice = asked[0].clone();
    twice.event.id = "new".into();
    let answers = case.store.import_dead(&stream_name(STREAM), vec![twice.clone(), twice]).await.unwrap();
    assert_eq!((answers[0].duplicate, answers[1].duplicate), (false, true), "twice in one import is once");
    assert_eq!(answers[0].position, answers[1].position);
    assert_eq!(entries(&case, &all()).await.len(), 4);
    assert!(case.store.import_dead(&stream_name(STREAM), Vec::new()).await.unwrap().is_empty());
}

pub(super) async fn an_import_must_fit(case: Case) {
    case.pair().await;
    case.stream("t").await;
    let letter = some(&case, 1).await.remove(0);
    let kind = async |stream: &str, group: &str| {
        let asked = DeadImport { group: group_name(group), ..import(&letter) };
        case.store.import_dead(&stream_name(stream), vec![asked]).await.unwrap_err().kind
    };
    assert_eq!(kind("nowhere", GROUP).await, FaultKind::Missing);
    assert_eq!(kind(STREAM, "nobody").await, FaultKind::Missing);
    assert_eq!(kind("t", GROUP).await, FaultKind::Invalid, "the group reads another stream");
}

pub(super) async fn what_nobody_wants_expires_and_is_forgotten(mut case: Case) {
    let keep = DeadKeep { parked: Some(MINUTE * 10), settled: MINUTE * 5 };
    case.declare_stream(&StreamSpec { dead: keep, ..stream_spec(STREAM) }).await;
    case.group(GROUP, STREAM).await;
    let early = case.bury_new("early", "bad").await.id;
    case.advance(MINUTE * 8);
    let late = case.bury_new("late", "bad").await.id;
    case.advance(MINUTE * 3);
    let state_of = async |case: &Case, id: Position| {
        entries(case, &all()).await.iter().find(|entry| entry.id == id).map(|entry| entry.state)
    };
    case.upkeep_until("the early one expires", async || state_of(&case, early).await == Some(DeadState::Expired)).await;
    assert_eq!(state_of(&case, late).await, Some(DeadState::Parked));
    let changed = case.store.dead_letter(&stream_name(STREAM), early).await.unwrap().changed.expect("it expired");
    assert_eq!(&*changed.by, "retention");
    if case.store.promises().durable {
        case.kill().await;
        assert_eq!(state_of(&case, early).await, Some(DeadState::Expired));
    }
    case.advance(MINUTE * 6);
    case.upkeep_until("the early one is forgotten", async || state_of(&case, early).await.is_none()).await;
    assert_eq!(case.counts().await[4], 2);
}

pub(super) async fn parked_letters_wait_for_ever_unless_told(case: Case) {
    case.pair().await;
    case.bury_new("1", "bad").await;
    case.advance(MINUTE * 60 * 24 * 365);
    for _ in 0..3 {
        case.store.upkeep().await.unwrap();
        case.barrier().await;
    }
    assert_eq!(case.status().await.parked, 1);
}

pub(super) async fn the_ledger_keeps_one_row(mut case: Case) {
    case.pair().await;
    let id = case.bury_new("1", "bad").await.id;
    let row = async |case: &Case| case.store.ledger_entry(&group_name(GROUP), SOURCE, "1").await.unwrap();
    assert_eq!(row(&case).await, None);
    case.move_dead(&[id], REPROCESS).await;
    case.done(&[case.claim_one("1").await]).await;
    let first = row(&case).await.expect("it is done");
    assert_eq!(first.at, case.now());
    case.advance(MINUTE);
    case.publish_ids(&["1"]).await;
    case.claim_nothing().await;
    assert_eq!(row(&case).await, Some(first), "a skipped repeat changes nothing");
    case.move_dead(&[id], DeadAction::Reprocess { force: true, edited: Vec::new() }).await;
    let again = case.claim_one("1").await;
    case.done(std::slice::from_ref(&again)).await;
    for _ in 0..2 {
        let second = row(&case).await.expect("it is done");
        assert_eq!((second.position, second.at), (again.position, case.now()));
        assert_eq!(case.store.ledger_status(&group_name(GROUP)).await.unwrap().entries, 1);
        if !case.store.promises().durable {
            break;
        }
        case.kill().await;
    }
}

pub(super) async fn a_ledger_is_cleaned_by_age(mut case: Case) {
    case.pair().await;
    case.publish_ids(&["old"]).await;
    case.done(&case.claim(1).await).await;
    case.advance(MINUTE);
    let noon = case.now();
    case.publish_ids(&["new"]).await;
    case.done(&case.claim(1).await).await;
    assert_eq!(case.store.clean_ledger(&group_name(GROUP), noon).await.unwrap(), 1);
    for _ in 0..2 {
        assert_eq!((case.known("old").await, case.known("new").await), (false, true));
        assert_eq!(case.store.ledger_status(&group_name(GROUP)).await.unwrap().entries, 1);
        if !case.store.promises().durable {
            break;
        }
        case.kill().await;
    }
    assert_eq!(case.store.clean_ledger(&group_name(GROUP), noon).await.unwrap(), 0);
    case.publish_ids(&["old"]).await;
    case.claim_one("old").await;
}

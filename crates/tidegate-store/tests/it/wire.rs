//! What other programs see of streams in Redis, and what becomes of what they write, read, acknowledge and trim there.

use std::time::Duration;

use tidegate_core::{
    clock::Timestamp,
    delivery::Settlement,
    event::{ENVELOPE_FAULT, Event},
    fault::{Failure, FaultClass},
    names::GroupName,
    store::{Broker as _, DeadAction, DeadLetters as _, DeadQuery, DeadStep, GroupSpec, Retain, Start, StreamSpec},
};
use tidegate_store::redis::RedisStore;
use tidegate_testkit::RedisServer;

use crate::{
    redis::{open, opened, raw, words},
    trouble::{TOPIC, claim_some, counts, event, group, ids, kept, settled, stream},
};

const GROUP: &str = "linting_group";
const ENVELOPE: [&str; 10] = [
    "event_id",
    "event_type",
    "topic",
    "schema_version",
    "occurred_at",
    "tenant_id",
    "aggregate_id",
    "aggregate_type",
    "correlation_id",
    "payload",
];

/// Names and values of an entry, as any program reads it.
async fn fields(server: &RedisServer, key: &str, at: usize) -> Vec<(String, String)> {
    let client = ::redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = ::redis::cmd("XRANGE");
    command.arg(key).arg("-").arg("+");
    // A value that is no text would fail here, as it does in programs that read texts.
    let entries: Vec<(String, Vec<(String, String)>)> = command.query_async(&mut connection).await.unwrap();
    entries[at].1.clone()
}

async fn send(server: &RedisServer, id: &str) {
    let all = ["XADD", TOPIC, "*", "event_id", id, "event_type", "UserCreated", "topic", TOPIC, "schema_version", "1"];
    let more = ["occurred_at", "2026-01-31T08:00:00Z", "tenant_id", "t-1", "aggregate_id", "u-1", "payload", "{}"];
    raw(server, &[&all[..], &more[..]].concat()).await;
}

async fn bury(store: &RedisStore, count: usize) {
    let lent = claim_some(store, count).await;
    assert_eq!(lent.len(), count);
    let bury = || Settlement::Bury { failure: Failure::new(FaultClass::Invalid, "no such user"), config: "c".into() };
    store.settle(lent.iter().map(|one| settled(one, bury())).collect()).await.unwrap();
}

async fn letters(store: &RedisStore) -> Vec<Event> {
    let query = DeadQuery { limit: 100, ..DeadQuery::default() };
    let page = store.dead_letters(&stream(TOPIC), &query).await.unwrap();
    page.items.into_iter().map(|letter| letter.event).collect()
}

async fn move_oldest(store: &RedisStore, action: DeadAction) {
    let query = DeadQuery { limit: 100, state: Some(tidegate_core::store::DeadState::Parked), ..DeadQuery::default() };
    let parked = store.dead_entries(&stream(TOPIC), &query).await.unwrap().items;
    let step = DeadStep {
        stream: stream(TOPIC),
        ids: vec![parked.last().unwrap().id],
        action,
        by: "me".into(),
        note: "seen".into(),
        job: "".into(),
        progress: None,
    };
    store.move_dead(&step).await.unwrap();
}

#[tokio::test]
async fn entries_are_envelopes_and_nothing_else() {
    let server = RedisServer::start(&[]);
    let store = opened(&server, "a").await;
    let long = "long ".repeat(100);
    let mut own = event("e-1").with_subject("u-1").with_extension("tenantid", "t-1").with_extension("note", long);
    own = own.with_extension("correlationid", "c-1").with_extension("aggregatetype", "user");
    own.time = Some("2026-01-31T08:00:00Z".into());
    store.append(&stream(TOPIC), vec![own.clone(), event("e-2"), event("e-3")]).await.unwrap();
    let told = fields(&server, TOPIC, 0).await;
    let values =
        ["e-1", "test.made", TOPIC, "1", "2026-01-31T08:00:00Z", "t-1", "u-1", "user", "c-1", r#"{"n":"e-1"}"#];
    assert_eq!(
        told,
        ENVELOPE.into_iter().zip(values).map(|(name, value)| (name.into(), value.into())).collect::<Vec<_>>()
    );
    let required: Vec<_> = fields(&server, TOPIC, 1).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(required, ENVELOPE.into_iter().filter(|name| *name != "correlation_id").collect::<Vec<_>>());
    let id = &words(&server, &["XRANGE", TOPIC, "-", "+"]).await[0];
    let (ms, seq) = id.split_once('-').unwrap();
    assert!(ms.parse::<u64>().is_ok() && seq.parse::<u64>().is_ok(), "{id}");
    let lent = claim_some(&*store, 1).await;
    assert_eq!(lent[0].event, own, "nothing of an event is lost by that");
    store.settle(vec![settled(&lent[0], Settlement::Release)]).await.unwrap();

    bury(&store, 3).await;
    let dlq = format!("{TOPIC}.dlq");
    let (names, values): (Vec<_>, Vec<_>) = fields(&server, &dlq, 0).await.into_iter().unzip();
    let all = "original_event_id event_type aggregate_id payload error_message attempts failed_at created_at";
    assert_eq!(names.join(" "), all);
    assert_eq!(values[..5], ["e-1", "test.made", "u-1", r#"{"n":"e-1"}"#, "no such user"]);
    assert_eq!(values[7], "2026-01-31T08:00:00Z");
    assert!(Timestamp::parse(&values[6]).is_ok() && values[5].parse::<u32>().is_ok(), "{values:?}");
    for (number, (action, method)) in [
        (DeadAction::Resolve, "manual"),
        (DeadAction::Discard, "discarded"),
        (DeadAction::Reprocess { force: false, edited: Vec::new() }, "reprocessed"),
    ]
    .into_iter()
    .enumerate()
    {
        move_oldest(&store, action).await;
        let (names, values): (Vec<_>, Vec<_>) =
            fields(&server, &format!("{dlq}.resolved"), number).await.into_iter().unzip();
        assert_eq!(names.join(" "), "original_dlq_id original_event_id resolved_at resolution_method");
        assert_eq!((&*values[1], &*values[3]), (&*format!("e-{}", number + 1), method));
    }
    counts(&*store).await;
}

/// What others trim of the stream of dead letters is what they see, not what is known.
#[tokio::test]
async fn dead_letters_stay_whatever_others_trim() {
    let server = RedisServer::start(&[]);
    let store = opened(&server, "a").await;
    let all: Vec<Event> = (0..4).map(|number| event(&number.to_string()).with_extension("more", "kept")).collect();
    store.append(&stream(TOPIC), all.clone()).await.unwrap();
    bury(&store, 4).await;
    raw(&server, &["XADD", &format!("{TOPIC}.dlq"), "MAXLEN", "1", "*", "original_event_id", "theirs"]).await;
    let mut found = letters(&store).await;
    found.reverse();
    assert_eq!(found, all);
    assert_eq!(kept(&*store, &format!("{TOPIC}.dlq")).await.len(), 4, "the stream reads the same");
    move_oldest(&store, DeadAction::Reprocess { force: false, edited: Vec::new() }).await;
    let again = claim_some(&*store, 1).await;
    assert_eq!(again[0].event, all[0]);
    move_oldest(&store, DeadAction::Resolve).await;
    counts(&*store).await;
}

#[tokio::test]
async fn a_consumer_group_of_others_is_taken_over_where_it_stood() {
    let server = RedisServer::start(&[]);
    for number in 0..6 {
        send(&server, &number.to_string()).await;
    }
    raw(&server, &["XGROUP", "CREATE", TOPIC, GROUP, "0"]).await;
    let read = words(&server, &["XREADGROUP", "GROUP", GROUP, "c-123", "COUNT", "4", "STREAMS", TOPIC, ">"]).await;
    let is_id = |word: &str| {
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        word.split_once('-').is_some_and(|(time, count)| time.len() == 13 && is_number(time) && is_number(count))
    };
    // 0 and 2 are acknowledged, 1 and 3 are pending, 4 and 5 were never given to anybody; 3 is gone.
    let of: Vec<&str> = read.iter().map(String::as_str).filter(|word| is_id(word)).collect();
    assert_eq!(of.len(), 4, "{read:?}");
    raw(&server, &["XACK", TOPIC, GROUP, of[0], of[2]]).await;
    raw(&server, &["XDEL", TOPIC, of[3]]).await;
    let store = open(&server, "a", Duration::from_secs(10)).await;
    store.declare_stream(&StreamSpec::new(stream(TOPIC))).await.unwrap();
    // Where the group stood goes before what is asked for.
    let spec = GroupSpec { start: Start::Latest, mark_claims: false, ..GroupSpec::new(group(), stream(TOPIC)) };
    store.declare_group(&spec).await.unwrap();
    assert_eq!(counts(&*store).await.waiting, 3);
    let lent = claim_some(&*store, 10).await;
    assert_eq!(ids(&lent), ["1", "4", "5"]);
    assert!(lent.iter().all(|one| one.attempt == 1));
    store.settle(lent.iter().map(|one| settled(one, Settlement::Done(Vec::new()))).collect()).await.unwrap();
    let status = counts(&*store).await;
    assert_eq!((status.accepted, status.done, status.waiting), (3, 3, 0));
    assert_eq!(words(&server, &["XPENDING", TOPIC, GROUP]).await[0], "0", "tools see nothing pending any more");
    // From now on it is a group like any other, also for a node that declares it again.
    let other = opened(&server, "b").await;
    send(&server, "6").await;
    assert_eq!(ids(&claim_some(&*other, 10).await), ["6"]);
    counts(&*other).await;
}

#[tokio::test]
async fn a_group_that_was_moved_after_it_was_taken_over_counts_right() {
    let server = RedisServer::start(&[]);
    send(&server, "1").await;
    raw(&server, &["XGROUP", "CREATE", TOPIC, GROUP, "0"]).await;
    raw(&server, &["XREADGROUP", "GROUP", GROUP, "c", "STREAMS", TOPIC, ">"]).await;
    let store = opened(&server, "a").await;
    let start = store.locate(&group(), &tidegate_core::seek::SeekTo::Earliest).await.unwrap();
    store.seek(&group(), start, true).await.unwrap();
    let lent = claim_some(&*store, 10).await;
    assert_eq!(ids(&lent), ["1"]);
    assert_eq!(counts(&*store).await.accepted, 1);
}

#[tokio::test]
async fn retention_waits_for_consumer_groups_of_others() {
    let server = RedisServer::start(&[]);
    let store = opened(&server, "a").await;
    let retain = Retain { count: Some(1), ..Retain::default() };
    store.declare_stream(&StreamSpec { retain, ..StreamSpec::new(stream(TOPIC)) }).await.unwrap();
    raw(&server, &["XGROUP", "CREATE", TOPIC, "mm-backend", "$"]).await;
    store.append(&stream(TOPIC), (0..6).map(|number| event(&number.to_string())).collect()).await.unwrap();
    let lent = claim_some(&*store, 10).await;
    store.settle(lent.iter().map(|one| settled(one, Settlement::Done(Vec::new()))).collect()).await.unwrap();
    let left = async || {
        store.upkeep().await.unwrap();
        kept(&*store, TOPIC).await.into_keys().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(left().await, "0 1 2 3 4 5", "it has read none of them");
    let read = words(&server, &["XREADGROUP", "GROUP", "mm-backend", "c", "COUNT", "4", "STREAMS", TOPIC, ">"]).await;
    let at = |id: &str| {
        format!(
            "{}-{}",
            lent[id.parse::<usize>().unwrap()].position.high,
            lent[id.parse::<usize>().unwrap()].position.low
        )
    };
    assert!(read.contains(&at("3")), "{read:?}");
    assert_eq!(left().await, "0 1 2 3 4 5", "it has acknowledged none of them");
    raw(&server, &["XACK", TOPIC, "mm-backend", &at("0"), &at("1"), &at("3")]).await;
    assert_eq!(left().await, "2 3 4 5");
    raw(&server, &["XACK", TOPIC, "mm-backend", &at("2")]).await;
    assert_eq!(left().await, "4 5");
    // Who does not want to wait says so.
    let retain = Retain { drop_unsettled: true, ..retain };
    store.declare_stream(&StreamSpec { retain, ..StreamSpec::new(stream(TOPIC)) }).await.unwrap();
    assert_eq!(left().await, "5");
    counts(&*store).await;
}

/// What is kept beside an entry goes with it, whoever removes it.
#[tokio::test]
async fn nothing_is_left_of_what_others_trim() {
    let server = RedisServer::start(&[]);
    let store = opened(&server, "a").await;
    store.append(&stream(TOPIC), (0..50).map(|number| event(&number.to_string())).collect()).await.unwrap();
    send(&server, "theirs").await;
    assert_eq!(claim_some(&*store, 100).await.len(), 51);
    raw(&server, &["XTRIM", TOPIC, "MAXLEN", "=", "2"]).await;
    for _ in 0..3 {
        store.upkeep().await.unwrap();
    }
    let keys = words(&server, &["KEYS", "tidegate:s:*:own"]).await;
    let mut sizes = Vec::new();
    for key in &keys {
        sizes.extend(words(&server, &["HLEN", key]).await);
    }
    assert_eq!(sizes, ["2"], "{keys:?}");
}

#[tokio::test]
async fn what_is_no_envelope_says_why() {
    let server = RedisServer::start(&[]);
    let store = opened(&server, "a").await;
    send(&server, "good").await;
    raw(&server, &["XADD", TOPIC, "*", "event_id", "short", "payload", "{"]).await;
    raw(&server, &["XADD", TOPIC, "*", "colour", "red"]).await;
    let lent = claim_some(&*store, 10).await;
    let said: Vec<_> = lent.iter().map(|one| one.event.extension(ENVELOPE_FAULT).map(|text| &**text)).collect();
    assert_eq!(said[0], None);
    let missing = "event_type is missing, topic is missing, schema_version is missing, occurred_at is missing";
    assert_eq!(said[1], Some(missing));
    assert!(said[2].is_some_and(|text| text.ends_with("\"colour\" is no field of it")), "{said:?}");
    assert_eq!(lent[2].event.data.bytes(), r#"{"colour":"red"}"#, "nothing of it is lost");
    let name = GroupName::new(GROUP).unwrap();
    assert_eq!(store.group(&name).await.unwrap().in_flight, 3);
}

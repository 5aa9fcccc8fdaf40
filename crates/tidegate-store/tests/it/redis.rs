//! What only a server outside of the process can do to a store: die, stop, lose its data, be shared with other programs.

use std::{sync::Arc, time::Duration};

use ::redis::Value;
use tidegate_core::{
    after::{AFTER, EventName},
    clock::Clock,
    delivery::{Position, Settlement},
    event::{Data, Event},
    fault::{Failure, FaultClass, FaultKind},
    limits,
    names::GroupName,
    priority::PRIORITY,
    store::{
        Broker as _, Claim, DeadAction, DeadLetters as _, DeadQuery, DeadStep, GroupSpec, Retain, Start, StreamSpec,
        Unblock, UnblockHow,
    },
    whereabouts::Place,
};
use tidegate_store::redis::{RedisOptions, RedisStore};
use tidegate_testkit::RedisServer;

use crate::trouble::{GROUP, TOPIC, claim_some, counts, declare, event, group, ids, kept, settled, stream, under_load};

pub(crate) async fn open(server: &RedisServer, node: &str, timeout: Duration) -> Arc<RedisStore> {
    let options = RedisOptions { node: node.to_owned(), timeout, ..RedisOptions::new(server.url()) };
    RedisStore::open(options).await.unwrap()
}

/// A store with a stream and a group that reads it.
pub(crate) async fn opened(server: &RedisServer, node: &str) -> Arc<RedisStore> {
    let store = open(server, node, Duration::from_secs(10)).await;
    declare(&*store).await;
    store
}

/// Speaks to the server as another program does.
pub(crate) async fn raw(server: &RedisServer, words: &[&str]) -> Value {
    let client = ::redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = ::redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.unwrap()
}

/// All texts of an answer, one after the other.
#[expect(clippy::wildcard_enum_match_arm, reason = "what has no text is shown as it is")]
fn flat(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| flat(one, out)),
        Value::BulkString(bytes) => out.push(String::from_utf8_lossy(bytes).into_owned()),
        Value::Int(number) => out.push(number.to_string()),
        other => out.push(format!("{other:?}")),
    }
}

pub(crate) async fn words(server: &RedisServer, ask: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    flat(&raw(server, ask).await, &mut out);
    out
}

/// SAFETY-OF-DATA: the answer comes after the sync of the server, and a script is one step of its log.
#[tokio::test]
async fn a_server_that_is_killed_loses_nothing_that_was_acknowledged() {
    let mut server = RedisServer::start(&["--appendonly yes", "--appendfsync always"]);
    let store = opened(&server, "a").await;
    assert!(store.promises().loss_window.starts_with("none"), "{}", store.promises().loss_window);
    under_load(&mut server, &*store, async |server| {
        server.kill();
        server.run_again();
    })
    .await;
}

/// The usual settings keep everything when the server ends in order.
#[tokio::test]
async fn a_server_that_is_started_again_under_load_loses_nothing() {
    let mut server = RedisServer::start(&["--appendonly yes"]);
    let store = opened(&server, "a").await;
    under_load(&mut server, &*store, async |server| {
        server.stop();
        server.run_again();
    })
    .await;
}

/// Calls that were sent into a server that hung may be carried out when it goes on, with nobody there to hear of it.
#[tokio::test]
async fn a_server_that_hangs_under_load_does_nothing_twice() {
    let mut server = RedisServer::start(&[]);
    let store = open(&server, "a", Duration::from_millis(300)).await;
    declare(&*store).await;
    under_load(&mut server, &*store, async |server| {
        server.pause();
        while store.status().refusing.is_none() {
            tokio::task::yield_now().await;
        }
        server.resume();
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_is_a_fault_in_time_and_nobody_stays_deaf() {
    let server = RedisServer::start(&[]);
    let store = open(&server, "a", Duration::from_millis(300)).await;
    declare(&*store).await;
    store.append(&stream(TOPIC), vec![event("1")]).await.unwrap();
    server.pause();
    let watch = Clock::real().stopwatch();
    let ask = Claim { group: group(), max: 1, lease: Duration::from_secs(30), before: None };
    let faults = [
        store.claim(&ask).await.unwrap_err(),
        store.append(&stream(TOPIC), vec![event("2")]).await.unwrap_err(),
        store.groups().await.unwrap_err(),
    ];
    let kinds = [FaultKind::Timeout, FaultKind::Unavailable];
    assert!(faults.iter().all(|fault| kinds.contains(&fault.kind)), "{faults:?}");
    store.wait(&group(), Clock::real().now().plus(Duration::from_millis(200))).await;
    assert!(watch.elapsed() < Duration::from_secs(10), "{:?}", watch.elapsed());
    server.resume();
    store.append(&stream(TOPIC), vec![event("2"), event("3")]).await.unwrap();
    // What a claim without an answer may have taken comes back at once, and without a crash.
    let mut lent = Vec::new();
    while lent.len() < 3 {
        lent.extend(claim_some(&*store, 3).await);
    }
    assert!(lent.iter().all(|delivery| (delivery.attempt, delivery.crashes) == (1, 0)));
    assert_eq!(counts(&*store).await.accepted, 3, "what was sent twice is there once");
}

#[tokio::test]
async fn other_programs_publish_and_read_on_the_same_streams() {
    let server = RedisServer::start(&[]);
    let envelope = |id: &str| -> Vec<String> {
        let all = ["XADD", TOPIC, "*", "event_id", id, "event_type", "UserCreated", "topic", TOPIC];
        let more = ["schema_version", "1", "occurred_at", "2026-01-31T08:00:00Z", "tenant_id", "t-1"];
        let rest = ["aggregate_id", "u-1", "aggregate_type", "user", "payload", r#"{"email":"a@b"}"#];
        all.into_iter().chain(more).chain(rest).map(str::to_owned).collect()
    };
    let send = async |id: &str| {
        let command = envelope(id);
        raw(&server, &command.iter().map(String::as_str).collect::<Vec<_>>()).await;
    };
    send("before").await;
    let store = opened(&server, "a").await;
    send("e-1").await;
    let own = event("own").with_subject("u-2").with_extension("tenantid", "t-2");
    store.append(&stream(TOPIC), vec![own.clone()]).await.unwrap();
    send("e-2").await;
    let lent = claim_some(&*store, 10).await;
    assert_eq!(ids(&lent), ["before", "e-1", "own", "e-2"]);
    let theirs = &lent[1].event;
    assert_eq!((&*theirs.kind, theirs.subject.as_deref()), ("UserCreated", Some("u-1")));
    assert_eq!(theirs.data, Data::Json(r#"{"email":"a@b"}"#.into()));
    assert_eq!(theirs.time.as_deref(), Some("2026-01-31T08:00:00Z"));
    assert_eq!(lent[2].event, own);
    let id = format!("{}-{}", lent[2].position.high, lent[2].position.low);
    let fields = words(&server, &["XRANGE", TOPIC, &id, &id]).await;
    for (name, value) in
        [("event_id", "own"), ("event_type", "test.made"), ("aggregate_id", "u-2"), ("tenant_id", "t-2")]
    {
        assert!(fields.windows(2).any(|pair| pair == [name, value]), "{name} in {fields:?}");
    }
    assert!(fields.windows(2).any(|pair| pair == ["payload", r#"{"n":"own"}"#]));
    let pending = words(&server, &["XPENDING", TOPIC, GROUP]).await;
    assert_eq!(pending[0], "4", "tools see what is lent: {pending:?}");
    let bury = Settlement::Bury { failure: Failure::new(FaultClass::Invalid, "no such user"), config: "c".into() };
    store.settle(vec![settled(&lent[1], bury), settled(&lent[0], Settlement::Done(Vec::new()))]).await.unwrap();
    assert_eq!(words(&server, &["XPENDING", TOPIC, GROUP]).await[0], "2");
    let dead = words(&server, &["XRANGE", &format!("{TOPIC}.dlq"), "-", "+"]).await;
    for (name, value) in [("original_event_id", "e-1"), ("error_message", "no such user"), ("aggregate_id", "u-1")] {
        assert!(dead.windows(2).any(|pair| pair == [name, value]), "{name} in {dead:?}");
    }
    let letter = store.dead_letters(&stream(TOPIC), &DeadQuery { limit: 1, ..DeadQuery::default() }).await.unwrap();
    let step = DeadStep {
        stream: stream(TOPIC),
        ids: vec![letter.items[0].id],
        action: DeadAction::Resolve,
        by: "me".into(),
        note: "done by hand".into(),
        job: "".into(),
        progress: None,
    };
    store.move_dead(&step).await.unwrap();
    let resolved = words(&server, &["XRANGE", &format!("{TOPIC}.dlq.resolved"), "-", "+"]).await;
    assert!(resolved.windows(2).any(|pair| pair == ["original_event_id", "e-1"]), "{resolved:?}");
    counts(&*store).await;
}

#[tokio::test]
async fn what_others_trim_away_is_counted_as_dropped() {
    let server = RedisServer::start(&[]);
    let store = opened(&server, "a").await;
    store.append(&stream(TOPIC), (0..10).map(|number| event(&number.to_string())).collect()).await.unwrap();
    let lent = claim_some(&*store, 2).await;
    store.settle(vec![settled(&lent[0], Settlement::Release)]).await.unwrap();
    raw(&server, &["XTRIM", TOPIC, "MAXLEN", "=", "4"]).await;
    assert_eq!(ids(&claim_some(&*store, 10).await), ["6", "7", "8", "9"]);
    let status = counts(&*store).await;
    assert_eq!((status.accepted, status.dropped, status.in_flight), (10, 5, 5));
}

#[tokio::test]
async fn a_server_that_lost_its_scripts_or_its_data_is_served_again() {
    let server = RedisServer::start(&[]);
    let store = opened(&server, "a").await;
    raw(&server, &["SCRIPT", "FLUSH"]).await;
    store.append(&stream(TOPIC), vec![event("1")]).await.unwrap();
    raw(&server, &["FLUSHALL"]).await;
    store.upkeep().await.unwrap();
    store.append(&stream(TOPIC), vec![event("2")]).await.unwrap();
    assert_eq!(ids(&claim_some(&*store, 10).await), ["2"]);
    store.upkeep().await.unwrap();
    assert!(store.status().damage.iter().any(|what| what.contains("lost everything")), "{:?}", store.status().damage);
    counts(&*store).await;
}

#[tokio::test]
async fn a_clock_that_is_off_is_told() {
    let server = RedisServer::start(&[]);
    let clock = Clock::manual(Clock::real().now().plus(Duration::from_secs(5)));
    let store = RedisStore::open(RedisOptions { clock, ..RedisOptions::new(server.url()) }).await.unwrap();
    assert!(store.status().damage.iter().any(|what| what.contains("off that of the Redis server")));
}

#[tokio::test]
async fn a_server_without_memory_refuses_and_recovers() {
    let server = RedisServer::start(&["--maxmemory-policy noeviction"]);
    let store = opened(&server, "a").await;
    store.append(&stream(TOPIC), vec![event("1")]).await.unwrap();
    let lent = claim_some(&*store, 1).await;
    raw(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let fault = store.append(&stream(TOPIC), vec![event("2")]).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unavailable, "{fault:?}");
    assert!(fault.note().contains("memory"), "{fault:?}");
    // What is there is still worked off.
    store.settle(vec![settled(&lent[0], Settlement::Done(Vec::new()))]).await.unwrap();
    claim_some(&*store, 1).await;
    store.upkeep().await.unwrap();
    raw(&server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    store.append(&stream(TOPIC), vec![event("2")]).await.unwrap();
    let status = counts(&*store).await;
    assert_eq!((status.accepted, status.done, status.waiting), (2, 1, 1));
}

#[tokio::test]
async fn what_is_no_redis_server_is_refused() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let answer = async {
        loop {
            let (stranger, _) = listener.accept().await.unwrap();
            stranger.writable().await.unwrap();
            stranger.try_write(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            stranger.readable().await.unwrap();
        }
    };
    let fault = tokio::select! {
        opened = RedisStore::open(RedisOptions::new(url)) => opened.unwrap_err(),
        () = answer => unreachable!(),
    };
    assert!(fault.note().contains("does not speak as Redis"), "{fault:?}");
}

#[tokio::test]
async fn settings_that_lose_data_are_told() {
    let server = RedisServer::start(&["--maxmemory-policy allkeys-lru", "--appendonly yes", "--appendfsync everysec"]);
    let store = opened(&server, "a").await;
    let window = store.promises().loss_window;
    assert!(window.contains("two seconds") && window.contains("allkeys-lru"), "{window}");
    assert!(store.status().damage.iter().any(|what| what.contains("noeviction")));
}

#[tokio::test]
async fn a_key_that_is_no_stream_is_refused_by_name() {
    let server = RedisServer::start(&[]);
    let store = opened(&server, "a").await;
    raw(&server, &["SET", "taken", "1"]).await;
    let fault = store.declare_stream(&StreamSpec::new(stream("taken"))).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Conflict);
    assert!(fault.note().contains("string"), "{fault:?}");
}

/// Retention never goes before a group, and goes on when the group does, also over events of other programs.
#[tokio::test]
async fn retention_holds_for_events_of_others() {
    let server = RedisServer::start(&[]);
    let store = opened(&server, "a").await;
    let retain = Retain { count: Some(3), ..Retain::default() };
    store.declare_stream(&StreamSpec { retain, ..StreamSpec::new(stream(TOPIC)) }).await.unwrap();
    let latest = GroupSpec { start: Start::Latest, ..GroupSpec::new(GroupName::new("late").unwrap(), stream(TOPIC)) };
    for number in 0..10 {
        raw(&server, &["XADD", TOPIC, "*", "event_id", &number.to_string(), "payload", "{}"]).await;
    }
    store.declare_group(&latest).await.unwrap();
    store.upkeep().await.unwrap();
    assert_eq!(kept(&*store, TOPIC).await.len(), 10);
    let lent = claim_some(&*store, 10).await;
    store.settle(lent.iter().map(|one| settled(one, Settlement::Done(Vec::new()))).collect()).await.unwrap();
    store.upkeep().await.unwrap();
    assert_eq!(kept(&*store, TOPIC).await.into_keys().collect::<Vec<_>>(), ["7", "8", "9"]);
    assert_eq!(words(&server, &["XLEN", TOPIC]).await, ["3"]);
}

fn waits_for(id: &str, names: &str) -> Event {
    event(id).with_extension(AFTER, names.to_owned())
}

/// Each one that waits takes a place for each event that it waits for, and these are bounded.
#[tokio::test]
async fn what_waits_takes_bounded_memory() {
    let server = RedisServer::start(&[]);
    let store = opened(&server, "a").await;
    let most = limits::ORDER_LOOKAHEAD_MAX / limits::AFTER_MAX;
    let names: Vec<String> = (0..limits::AFTER_MAX).map(|number| format!("n{number}")).collect();
    let mut events: Vec<Event> = (0..most + 2).map(|number| waits_for(&number.to_string(), &names.join(","))).collect();
    events.push(event("x"));
    for part in events.chunks(100) {
        store.append(&stream(TOPIC), part.to_vec()).await.unwrap();
    }
    assert!(claim_some(&*store, 10).await.is_empty());
    let status = counts(&*store).await;
    assert_eq!((status.blocked, status.unseen), (most as u64, 3), "the rest is not looked at");
    let place = async |of: Position| store.standing(&group(), of).await.unwrap().place;
    let last = store.streams().await.unwrap().iter().find(|one| one.name == stream(TOPIC)).unwrap().last.unwrap();
    assert_eq!(place(last).await, Place::Waiting { ahead: 2, held_up: true });
    let waiting = store.blocked(&group(), Position::START, 3).await.unwrap();
    assert_eq!(waiting.items[0].waits_for.len(), limits::AFTER_MAX);
    let positions = waiting.items.iter().map(|one| one.stored.position).collect();
    let words = ("ann".into(), "by phone".into());
    let ask = Unblock { group: group(), positions, how: UnblockHow::Run, by: words.0, reason: words.1 };
    assert_eq!(store.unblock(&ask).await.unwrap(), [true; 3]);
    assert_eq!(ids(&claim_some(&*store, 10).await), ["0", "1", "2", "x"]);
    counts(&*store).await;
}

/// It is kept for the group alone, before the first that is kept for all; what was skipped is forgotten with the ledger.
#[tokio::test]
async fn what_is_kept_to_wait_is_known_and_what_is_not_needed_is_forgotten() {
    let server = RedisServer::start(&[]);
    let clock = Clock::manual(Clock::real().now());
    let options = RedisOptions { clock: clock.clone(), ..RedisOptions::new(server.url()) };
    let store = RedisStore::open(options).await.unwrap();
    let retain = Retain { count: Some(1), ..Retain::default() };
    store.declare_stream(&StreamSpec { retain, ..StreamSpec::new(stream(TOPIC)) }).await.unwrap();
    let ledger = Some(Duration::from_secs(60));
    store.declare_group(&GroupSpec { ledger, ..GroupSpec::new(group(), stream(TOPIC)) }).await.unwrap();
    let events = vec![waits_for("b", "a"), event("x"), event("y")];
    let appended = store.append(&stream(TOPIC), events).await.unwrap();
    let lent = claim_some(&*store, 10).await;
    let skips = || lent.iter().map(|one| settled(one, Settlement::Skip)).collect();
    store.settle(skips()).await.unwrap();
    store.upkeep().await.unwrap();
    assert_eq!(kept(&*store, TOPIC).await.into_keys().collect::<Vec<_>>(), ["y"]);
    let name = EventName { source: "/test".into(), id: "a".into() };
    let place = store.standing(&group(), appended[0].position).await.unwrap().place;
    assert_eq!(place, Place::After { waits_for: vec![name] });
    let skipped = async || words(&server, &["KEYS", "tidegate:g:*:sk"]).await.len();
    assert_eq!(skipped().await, 1);
    clock.advance(Duration::from_secs(61));
    store.upkeep().await.unwrap();
    assert_eq!(skipped().await, 0);
    counts(&*store).await;
}

/// Fields that an earlier build did not write mean that nobody waits and nothing has a rank.
#[tokio::test]
async fn a_group_of_an_earlier_build_is_used_as_it_is() {
    let server = RedisServer::start(&[]);
    let store = opened(&server, "a").await;
    store.append(&stream(TOPIC), vec![event("1"), event("2")]).await.unwrap();
    let lent = claim_some(&*store, 1).await;
    let number = words(&server, &["SMEMBERS", "tidegate:gids"]).await.remove(0);
    raw(&server, &["HDEL", &format!("tidegate:g:{number}"), "after", "step", "waits"]).await;
    store.append(&stream(TOPIC), vec![waits_for("3", "1")]).await.unwrap();
    assert_eq!(ids(&claim_some(&*store, 10).await), ["2", "3"]);
    store.settle(vec![settled(&lent[0], Settlement::Release)]).await.unwrap();
    // It says anew what it wants: what may run gets its rank.
    let step = Some(Duration::from_secs(60));
    store.declare_group(&GroupSpec { priority_step: step, ..GroupSpec::new(group(), stream(TOPIC)) }).await.unwrap();
    let urgent = event("5").with_extension(PRIORITY, "9");
    store.append(&stream(TOPIC), vec![waits_for("4", "1"), urgent]).await.unwrap();
    assert_eq!(ids(&claim_some(&*store, 10).await), ["5", "1"]);
    assert_eq!(counts(&*store).await.blocked, 1);
}

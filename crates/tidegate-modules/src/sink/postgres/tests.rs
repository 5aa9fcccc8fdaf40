//! Against a real server: each effect once, over repeats, failures, calls cut short and the death of the server.

use std::time::Duration;

use tidegate_core::{
    clock::Timestamp,
    config::{Errors, load},
    delivery::{Lease, LeaseToken, Position},
    event::{Data, Event},
    guard::{BreakerPolicy, GuardPolicy},
    notice::Notices,
    service,
};
use tidegate_testkit::PostgresServer;

use super::*;
use crate::{http::HttpClient, registry::SinkConfig, trial::Variable};

const TABLE: &str = "CREATE TABLE users (id text PRIMARY KEY, email text NOT NULL, times int NOT NULL DEFAULT 1);";
const STATEMENT: &str = "INSERT INTO users (id, email) SELECT $1->>'subject', $1->'data'->>'email' \
                         ON CONFLICT (id) DO UPDATE SET times = users.times + 1";

fn config(url: &str, more: &str) -> Result<SinkConfig, Errors> {
    let statement = STATEMENT.replace('\'', "''");
    let text = format!("{{ type: postgres, url: '${{env:DB}}', target: db, statement: '{statement}'{more} }}");
    load::<SinkConfig>(&text, "t.yaml", &Variable(url.to_owned()))
}

fn sink(url: &str, group: &str, more: &str) -> Arc<dyn Sink> {
    let breaker =
        BreakerPolicy { failures: 1000, cooldown: Duration::from_millis(50), cooldown_max: Duration::from_millis(100) };
    let policy = GuardPolicy { breaker, timeout: Duration::from_secs(10), ..GuardPolicy::default() };
    let clock = Clock::real();
    let guard = Guard::new(TargetName::new("db").unwrap(), policy, clock.clone(), Notices::default());
    let name = ModuleName::new(group).unwrap();
    let client = HttpClient::open().unwrap();
    config(url, more)
        .unwrap()
        .open(SinkParts { name, guard: Some(guard), beside: None, client, clock, answers: false })
        .unwrap()
        .unwrap()
}

fn delivery(id: &str, subject: &str, data: &'static str) -> Delivery {
    let mut event = Event::new(id, "/users", "UserUpdated").with_data(Data::Json(data.as_bytes().into()));
    event.subject = Some(subject.to_owned().into());
    let position = Position::number(1);
    Delivery {
        event,
        stream: "users".parse().unwrap(),
        position,
        accepted_at: Timestamp::from_millis(0),
        attempt: 1,
        crashes: 0,
        history: Vec::new(),
        lease: Lease {
            token: LeaseToken { owner: 1, group: 1, position, epoch: 1 },
            expires_at: Timestamp::from_millis(i64::MAX),
        },
    }
}

const GOOD: &str = "{\"email\":\"a@b.c\"}";

fn context() -> Context {
    Context { clock: Clock::real(), stop: service::stop().1, notices: Notices::default() }
}

async fn handle(sink: &Arc<dyn Sink>, delivery: &Delivery) -> Result<(), Failure> {
    let outcome = sink.handle(&context(), std::slice::from_ref(delivery)).await.remove(0);
    if let Outcome::Failed(failure) = outcome {
        return Err(failure);
    }
    assert_eq!(outcome, Outcome::DONE);
    Ok(())
}

fn server(key: Key) -> PostgresServer {
    let server = PostgresServer::start(&[]);
    let sql = ddl("event_ledger", key).unwrap();
    server.psql(&sql);
    server.psql(&sql);
    server.psql(TABLE);
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn each_effect_comes_once_for_each_group_and_source() {
    let server = server(Key::Event);
    let (one, other) = (sink(&server.url(), "one", ""), sink(&server.url(), "other", ""));
    let event = delivery("1", "ann", GOOD);
    for _ in 0..3 {
        handle(&one, &event).await.unwrap();
    }
    assert_eq!(server.psql("SELECT email || times FROM users"), "a@b.c1");
    // Two at once, as after a lease that was lost.
    let twin = delivery("2", "ann", GOOD);
    let (left, right) = tokio::join!(handle(&one, &twin), handle(&one, &twin));
    left.and(right).unwrap();
    assert_eq!(server.psql("SELECT times FROM users"), "2");
    handle(&other, &event).await.unwrap();
    let mut elsewhere = event.clone();
    elsewhere.event.source = "/elsewhere".into();
    handle(&one, &elsewhere).await.unwrap();
    assert_eq!(server.psql("SELECT times FROM users"), "4", "another group and another source are something else");
    let rows = "SELECT string_agg(consumer_group || event_id || processing_result, ' ' ORDER BY consumer_group, event_id, event_source) FROM event_ledger";
    assert_eq!(server.psql(rows), "one1success one1success one2success other1success");
    server.psql("UPDATE event_ledger SET processed_at = now() - interval '31 days' WHERE event_id = '2'");
    assert_eq!(server.psql("SELECT cleanup_event_ledger()"), "1");
    assert_eq!(server.psql("SELECT count(*) FROM event_ledger"), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_leaves_nothing_behind_and_may_run_again() {
    let server = server(Key::Event);
    let sink = sink(&server.url(), "one", "");
    let failure = handle(&sink, &delivery("1", "ann", "{}")).await.unwrap_err();
    assert_eq!(failure.class, FaultClass::Invalid, "a constraint says no: no attempt helps");
    assert!(failure.message.contains("run the statement") && failure.message.contains("email"), "{}", failure.message);
    assert_eq!(server.psql("SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM event_ledger)"), "0");
    handle(&sink, &delivery("1", "ann", GOOD)).await.unwrap();
    server.psql("INSERT INTO event_ledger (event_id, event_source, consumer_group, event_type, processing_result) VALUES ('2', '/users', 'one', 'x', 'failure')");
    handle(&sink, &delivery("2", "ann", GOOD)).await.unwrap();
    assert_eq!(server.psql("SELECT times FROM users"), "2", "a failure of before keeps nobody from it");
    assert_eq!(server.psql("SELECT processing_result FROM event_ledger WHERE event_id = '2'"), "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_cut_short_and_a_dead_server_repeat_nothing() {
    let mut server = server(Key::Event);
    let sink = sink(&server.url(), "one", "");
    handle(&sink, &delivery("0", "ann", GOOD)).await.unwrap();
    for number in 1..40_u64 {
        let event = delivery(&number.to_string(), "ann", GOOD);
        let cut = tokio::time::timeout(Duration::from_micros(number * 60), handle(&sink, &event)).await;
        drop(cut);
        handle(&sink, &event).await.unwrap();
    }
    assert_eq!(server.psql("SELECT times FROM users"), "40", "each once, wherever it was cut");
    server.kill();
    let failure = handle(&sink, &delivery("x", "ann", GOOD)).await.unwrap_err();
    assert_eq!(failure.class, FaultClass::DependencyDown, "{}", failure.message);
    server.run_again();
    handle(&sink, &delivery("x", "ann", GOOD)).await.unwrap();
    assert_eq!(server.psql("SELECT times FROM users"), "41");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_would_not_do_is_refused_before_anything_runs() {
    let server = server(Key::Event);
    server.psql(
        "CREATE TABLE bare (event_id uuid PRIMARY KEY, consumer_group text, event_type text, processed_at timestamptz, processing_result text);
         CREATE TABLE old (event_id uuid, consumer_group varchar(100), event_type varchar(100), processed_at timestamptz, processing_result text, PRIMARY KEY (event_id, consumer_group));",
    );
    for (more, expect) in [
        (", ledger: nowhere", "there is no table nowhere: run what `tidegate ledger ddl` prints"),
        (", ledger: users", "there is no column event_id"),
        (", ledger: bare", "has no unique key of event_id and consumer_group"),
    ] {
        let sink = sink(&server.url(), "one", more);
        let failure = handle(&sink, &delivery("1", "ann", GOOD)).await.unwrap_err();
        assert!(failure.message.contains(expect), "{}", failure.message);
        assert_eq!(failure.class, FaultClass::DependencyDown, "no event is to blame");
        let probed = sink.probe(&context()).await.unwrap_err();
        assert!(probed.note().contains(expect), "{probed}");
    }
    assert_eq!(server.psql("SELECT count(*) FROM users"), "0");
    // A table that other programs write too, with UUIDs.
    let shared = sink(&server.url(), "one", ", ledger: public.old");
    let id = "00000000-0000-4000-8000-000000000001";
    for _ in 0..2 {
        handle(&shared, &delivery(id, "ann", GOOD)).await.unwrap();
    }
    let failure = handle(&shared, &delivery("no-uuid", "ann", GOOD)).await.unwrap_err();
    assert!(failure.class == FaultClass::Invalid && failure.message.contains("uuid"), "{}", failure.message);
    assert_eq!(server.psql("SELECT times FROM users"), "1");
    let without = sink(&server.url(), "one", ", ledger: off");
    for _ in 0..2 {
        handle(&without, &delivery(id, "ann", GOOD)).await.unwrap();
    }
    assert_eq!(server.psql("SELECT times FROM users"), "3", "without a ledger it runs each time");
}

#[test]
fn settings_are_checked() {
    for (url, more, expect) in [
        ("nonsense", "", "url: is no address of a PostgreSQL database"),
        ("postgres://h/d?sslmode=verify-ca", "", "url: sslmode=verify-ca lets a server have any name"),
        ("postgres://h/d?sslmode=require", ", tls: { key: '${env:KEY}' }", "tls.key: needs its certificate"),
        ("postgres://h/d", ", ledger: a.b.c", "ledger: must be a table"),
        ("postgres://h/d", ", keep: 1s", "keep: must be 1h or more"),
    ] {
        let errors = config(url, more).unwrap_err().to_string();
        assert!(errors.contains(expect), "{errors}");
        assert!(!errors.contains("nonsense"), "the address may hold a password");
    }
}

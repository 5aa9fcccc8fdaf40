//! Rows over mapping, late commits, kills, restarts of the server and refusals; each comes once, in order.

use std::{collections::HashMap, sync::atomic::Ordering};

use tidegate_core::{
    clock::Clock,
    config::{Errors, load},
    event::Event,
    guard::{BreakerPolicy, GuardPolicy},
    names::ModuleName,
    notice::Notices,
};
use tidegate_testkit::PostgresServer;

use super::{row::Row, *};
use crate::{
    registry::SourceConfig,
    trial::{Pond, Run, Variable},
};

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(30);

fn config_at(url: &str, more: &str) -> Result<OutboxConfig, Errors> {
    let text = format!("{{ type: postgres_outbox, url: '${{env:DB}}', target: db, to: users{more} }}");
    match load::<SourceConfig>(&text, "t.yaml", &Variable(url.to_owned()))? {
        SourceConfig::PostgresOutbox(config) => Ok(config),
        SourceConfig::Cron(_)
        | SourceConfig::File(_)
        | SourceConfig::Http(_)
        | SourceConfig::RedisList(_)
        | SourceConfig::Stdin(_)
        | SourceConfig::Stream(_) => panic!("another source"),
    }
}

fn config(more: &str) -> OutboxConfig {
    config_at("postgres://u@127.0.0.1/d", more).unwrap()
}

fn parts() -> SourceParts {
    let breaker =
        BreakerPolicy { failures: 3, cooldown: Duration::from_millis(50), cooldown_max: Duration::from_millis(100) };
    let policy = GuardPolicy { breaker, timeout: Duration::from_secs(10), ..GuardPolicy::default() };
    let clock = Clock::real();
    let guard = Guard::new(TargetName::new("db").unwrap(), policy, clock.clone(), Notices::default());
    SourceParts { name: ModuleName::new("trial").unwrap(), clock, guard: Some(guard), beside: None }
}

/// A server with an outbox, and the stream that is fed from it.
struct Scene {
    server: PostgresServer,
    pond: Arc<Pond>,
    config: OutboxConfig,
}

impl Scene {
    fn new(more: &str) -> Self {
        let server = PostgresServer::start(&[]);
        let config = config_at(&server.url(), more).unwrap();
        server.psql(&config.ddl());
        Self { server, pond: Arc::default(), config }
    }

    fn source(&self) -> Arc<PostgresOutbox> {
        Arc::new(PostgresOutbox::new(self.config.clone(), parts()).unwrap())
    }

    fn run(&self) -> Run {
        Run::start(self.source(), &self.pond, &Clock::real())
    }

    /// Names of the events so far, in order: their `n`.
    fn seen(&self) -> Vec<i64> {
        self.pond.events("users").iter().map(number).collect()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let clock = Clock::real();
        let watch = clock.stopwatch();
        while !is_so(self) {
            assert!(watch.elapsed() < DEADLINE, "in vain: {what}; seen: {:?}", self.seen());
            clock.sleep(Duration::from_millis(2)).await;
        }
    }

    async fn until_seen(&self, expect: &[i64]) {
        self.until(&format!("{expect:?}"), |scene| scene.seen() == expect).await;
    }

    async fn until_says(&self, sql: &str, expect: &str) {
        self.until(&format!("{sql}: {expect}"), |scene| scene.server.psql(sql) == expect).await;
    }

    async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.server.url(), tokio_postgres::NoTls).await.unwrap();
        drive(connection);
        client
    }
}

#[expect(clippy::disallowed_methods, reason = "the test is its own supervisor")]
fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static) {
    drop(tokio::spawn(connection));
}

fn number(event: &Event) -> i64 {
    serde_json::from_slice::<Value>(&event.data.bytes()).unwrap()["n"].as_i64().unwrap()
}

/// Inserts rows `from..to`, each of an aggregate by its number.
fn insert(from: i64, to: i64, aggregates: i64) -> String {
    format!(
        "INSERT INTO identity.outbox (event_type, aggregate_id, payload) SELECT 'UserUpdated', \
         lpad((n % {aggregates})::text, 32, '0')::uuid, jsonb_build_object('n', n) FROM generate_series({from}, {}) n",
        to - 1
    )
}

/// Whether a relay holds the table.
const HELD: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted";
const UNPUBLISHED: &str = "SELECT count(*) FROM identity.outbox WHERE NOT published";

fn usual() -> Row {
    let text = |text: &str| Some(text.to_owned());
    Row {
        id: 7,
        event_id: text("0b6ed9ae-8b2c-4a4b-8c43-3b0a55a52a6a"),
        event_type: text("UserCreated"),
        aggregate_type: text("user"),
        aggregate_id: text("00000000-0000-0000-0000-000000000001"),
        payload: text(r#"{"email": "a@b"}"#),
        size: 16,
        created_at: text("2026-01-31T08:00:00.123456Z"),
        attempts: 0,
        attributes: vec![text("t-1"), None],
    }
}

#[test]
fn a_row_becomes_an_event() {
    let config = config(", attributes: { tenantid: tenant_id, traceparent: trace }");
    let event = usual().event(&config).unwrap();
    assert_eq!(
        (&*event.id, &*event.source, &*event.kind),
        ("0b6ed9ae-8b2c-4a4b-8c43-3b0a55a52a6a", "/identity.outbox", "UserCreated")
    );
    for (name, value) in [
        ("subject", "00000000-0000-0000-0000-000000000001"),
        ("partitionkey", "00000000-0000-0000-0000-000000000001"),
        ("aggregatetype", "user"),
        ("time", "2026-01-31T08:00:00.123456Z"),
        ("datacontenttype", "application/json"),
        ("tenantid", "t-1"),
    ] {
        assert_eq!(event.attribute(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(event.attribute("traceparent"), None);
    let config = super::tests::config(", attributes: { tenantid: data.email, more: data.none }");
    let event = Row { attributes: vec![None, None], ..usual() }.event(&config).unwrap();
    assert_eq!((event.attribute("tenantid").as_deref(), event.attribute("more")), (Some("a@b"), None));
    assert_eq!(event.data.bytes(), r#"{"email": "a@b"}"#);
}

#[test]
fn a_row_that_is_no_event_says_why() {
    let config = config(", attributes: { tenantid: tenant_id, deliverat: due }");
    let check = |change: fn(&mut Row), expect: &str| {
        let mut row = usual();
        change(&mut row);
        let why = row.event(&config).unwrap_err();
        assert!(why.contains(expect), "{why} does not say {expect}");
        // What is kept of it is an event, whatever it was.
        row.rejected(&config, &why, Clock::real().now()).check().unwrap();
    };
    check(|row| row.event_id = None, "column event_id is empty");
    check(|row| row.event_type = Some(String::new()), "column event_type is empty");
    check(|row| row.event_id = Some("a\nb".to_owned()), "control character");
    check(|row| row.aggregate_id = Some("x".repeat(5000)), "longer than 4096 bytes");
    check(|row| row.payload = Some("{".to_owned()), "column payload: not JSON");
    check(|row| (row.payload, row.size) = (None, 2 << 20), "2097152 bytes is larger");
    check(|row| row.payload = Some("[".repeat(70) + &"]".repeat(70)), "nested deeper");
    check(|row| row.attributes = vec![Some("soon".to_owned()), None], "deliverat");
    check(|row| row.created_at = Some("yesterday".to_owned()), "time");
}

#[test]
fn waits_double_and_end() {
    let seconds = |attempt| OutboxRetry::default().after(attempt).map(|wait| wait.as_secs());
    assert_eq!([1, 2, 3, 4, 5, 6].map(seconds), [Some(60), Some(120), Some(240), Some(480), None, None]);
    let retry = OutboxRetry { attempts: 100, ..OutboxRetry::default() };
    assert_eq!((retry.after(7), retry.after(99)), (Some(Duration::from_secs(3600)), Some(Duration::from_secs(3600))));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let check = |url: &str, more: &str, expect: &str| {
        let errors = config_at(url, more).unwrap_err().to_string();
        assert!(errors.contains(expect), "{errors} does not say {expect}");
        assert!(!errors.contains("hunter2"), "{errors}");
    };
    let fine = "postgres://u:hunter2@127.0.0.1/d";
    check("mysql://u:hunter2@h/d", "", "is no address of a PostgreSQL database");
    check("postgres://u:hunter2@h/d?sslmode=verify-ca", "", "use verify-full");
    check(fine, ", tls: { cert: x.pem }", "there are no files");
    check(fine, ", tls: { key: '${env:KEY}' }", "such as postgres://host:port/database?sslmode=verify-full");
    check(fine, ", table: a.b.c", "a schema, a dot and a table");
    check(fine, ", columns: { published: off, published_at: off }", "cannot both be off");
    check(fine, ", columns: { idd: x }", "idd");
    check(fine, ", attributes: { Tenant: t }", "lower-case");
    check(fine, ", attributes: { subject: t }", "other columns give");
    check(fine, ", batch: 0", "1 to 5000");
    check(fine, ", poll: 1ms", "10ms to");
    check(fine, ", retry: { first: 2m, max: 1m }", "shorter than first");
    check(fine, ", rejects: users", "stream of the events");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_sql_makes_what_is_verified() {
    let server = PostgresServer::start(&[]);
    let look = async |config: &OutboxConfig| {
        let survey = survey(config, parts()).await.unwrap();
        let said: Vec<_> = survey.findings.iter().map(|one| format!("{}: {}", one.level, one.what)).collect();
        (survey, said.join("\n"))
    };
    let config = config_at(&server.url(), ", attributes: { tenantid: tenant_id }").unwrap();
    assert_eq!(look(&config).await.1, "error: there is no table identity.outbox");
    // What S4 has: none of the indexes, and columns are missing.
    server.psql(
        "CREATE SCHEMA identity; CREATE TABLE identity.outbox (id bigserial PRIMARY KEY, event_id uuid, event_type text, \
         aggregate_type text, aggregate_id uuid, payload jsonb, created_at timestamptz, published bool, attempts int, \
         published_at timestamptz, error_message int)",
    );
    let (survey, said) = look(&config).await;
    for expect in [
        "error: table identity.outbox has no column next_attempt_at",
        "error: column error_message of table identity.outbox is of type integer",
        "error: table identity.outbox has no column tenant_id",
        "warning: column published of table identity.outbox may be NULL",
        "warning: column event_id of table identity.outbox is not unique",
        "warning: there is no index outbox_pending",
        "warning: there is no trigger outbox_notify",
    ] {
        assert!(said.contains(expect), "{said}\n\ndoes not say {expect}");
    }
    assert_eq!(survey.figures, None);
    server.psql("DROP TABLE identity.outbox");
    server.psql(&config.ddl());
    server.psql(&config.ddl());
    let (survey, said) = look(&config).await;
    assert_eq!((said.as_str(), survey.figures.unwrap().backlog, survey.relay), ("", 0, false));
    let plain =
        ", table: 'odd \"name', columns: { aggregate_type: off, published: off, created_at: off, id: nr }, notify: off";
    let odd = config_at(&server.url(), plain).unwrap();
    server.psql(&odd.ddl());
    assert_eq!(look(&odd).await.1, "");
    server.psql(
        "CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA identity TO reader; GRANT SELECT ON identity.outbox TO reader",
    );
    let reader = config_at(&server.url().replace("tester@", "reader@"), "").unwrap();
    assert_eq!(look(&reader).await.1, "error: role reader has no right to UPDATE table identity.outbox");
    let fault = PostgresOutbox::new(reader, parts()).unwrap();
    let (stopper, stop) = tidegate_core::service::stop();
    let cx = Context { clock: Clock::real(), stop, notices: Notices::default() };
    assert!(fault.probe(&cx).await.unwrap_err().note().contains("GRANT SELECT, UPDATE"));
    drop(stopper);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_commits_late_is_not_passed_over_and_what_rolls_back_never_comes() {
    // Nobody polls within the time of this test: whatever comes was notified, or waited for.
    let scene = Scene::new(", poll: 1h");
    let source = scene.source();
    let run = Run::start(source.clone(), &scene.pond, &Clock::real());
    let (mut one, mut two, three) = (scene.client().await, scene.client().await, scene.client().await);
    scene.until_says(HELD, "1").await;
    three.batch_execute(&insert(0, 1, 1)).await.unwrap();
    scene.until_seen(&[0]).await;
    let late = one.transaction().await.unwrap();
    late.batch_execute(&insert(1, 2, 1)).await.unwrap();
    let gone = two.transaction().await.unwrap();
    gone.batch_execute(&insert(2, 3, 1)).await.unwrap();
    three.batch_execute(&insert(3, 4, 1)).await.unwrap();
    // A transaction that writes elsewhere, and stays, holds up nothing.
    let mut four = scene.client().await;
    let elsewhere = four.transaction().await.unwrap();
    elsewhere.batch_execute("CREATE TABLE elsewhere (n int); INSERT INTO elsewhere VALUES (1)").await.unwrap();
    scene.until("it waits for two", |_| source.details()["outbox"]["waits_for_transactions"] == 2).await;
    assert_eq!(scene.seen(), [0], "the row behind two that are not over");
    gone.rollback().await.unwrap();
    late.commit().await.unwrap();
    scene.until_seen(&[0, 1, 3]).await;
    elsewhere.commit().await.unwrap();
    scene.until_says(UNPUBLISHED, "0").await;
    run.stop().await.unwrap();
    assert_eq!(
        scene.server.psql("SELECT count(*) FROM identity.outbox WHERE published_at IS NULL OR attempts > 0"),
        "0"
    );
}

/// Checks that all events of `0..count` came once, and those of each aggregate in order.
fn check_all(seen: &[i64], count: i64, aggregates: i64) {
    let mut sorted = seen.to_vec();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..count).collect::<Vec<_>>());
    let mut last = HashMap::new();
    for n in seen {
        let before = last.insert(n % aggregates, *n);
        assert!(before.is_none_or(|before| before < *n), "{n} came after {before:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_overlap_lose_nothing_and_keep_the_order() {
    let scene = Scene::new(", poll: 20ms, batch: 7");
    let run = scene.run();
    let write = async |writer: i64| {
        let mut client = scene.client().await;
        for step in 0..40 {
            let transaction = client.transaction().await.unwrap();
            // Each aggregate has one writer; every writer is over at another time than the others.
            let n = step * 8 + writer;
            transaction.batch_execute(&insert(n, n + 1, 8)).await.unwrap();
            if (writer + step) % 3 == 0 {
                transaction.batch_execute("SELECT pg_sleep(0.02)").await.unwrap();
            }
            transaction.commit().await.unwrap();
        }
    };
    futures::future::join_all((0..8).map(write)).await;
    scene.until("all of them", |scene| scene.seen().len() == 320).await;
    scene.until_says(UNPUBLISHED, "0").await;
    check_all(&scene.seen(), 320, 8);
    run.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_point_brings_each_event_once() {
    let scene = Scene::new(", poll: 10ms, batch: 3");
    scene.server.psql(&insert(0, 600, 7));
    let client = scene.client().await;
    let (mut written, mut kills) = (600, 0);
    // Each life is cut off wherever it is: while it connects, takes, publishes, or marks.
    while kills < 150 {
        let run = scene.run();
        Clock::real().sleep(Duration::from_micros(fastrand_like(kills) % 40_000)).await;
        run.kill().await;
        kills += 1;
        client.batch_execute(&insert(written, written + 2, 7)).await.unwrap();
        written += 2;
    }
    assert!(!scene.seen().is_empty(), "no life was long enough to bring anything");
    let run = scene.run();
    scene.until_says(UNPUBLISHED, "0").await;
    check_all(&scene.seen(), written, 7);
    assert_eq!(scene.server.psql("SELECT max(attempts) FROM identity.outbox"), "0");
    run.stop().await.unwrap();
}

/// Numbers that look random and are the same in each run.
fn fastrand_like(step: u64) -> u64 {
    (step + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_or_restarts_costs_nothing() {
    let mut scene = Scene::new(", poll: 10ms, batch: 5");
    scene.server.psql(&insert(0, 2000, 5));
    let source = scene.source();
    let run = Run::start(source.clone(), &scene.pond, &Clock::real());
    for turn in 0..4 {
        scene.until_says(HELD, "1").await;
        scene.until("some more", |scene| scene.seen().len() > 100 * turn).await;
        if turn % 2 == 0 {
            scene.server.kill();
        } else {
            scene.server.stop();
        }
        let state = || source.details()["state"].as_str().unwrap_or_default().to_owned();
        scene.until("the loss is seen", |_| state().starts_with("waiting for the database")).await;
        scene.server.run_again();
    }
    scene.until_says(UNPUBLISHED, "0").await;
    check_all(&scene.seen(), 2000, 5);
    assert_eq!(scene.server.psql("SELECT max(attempts) FROM identity.outbox"), "0");
    run.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_backs_off_and_is_parked_while_others_flow() {
    let mut scene = Scene::new(", poll: 10ms, rejects: odd, retry: { attempts: 3, first: 300ms, factor: 1 }");
    // The type of the first is longer than an attribute may be; 1 is of its aggregate, 2 and 3 are not.
    scene.server.psql(&format!("{}; {}", insert(0, 4, 2), "UPDATE identity.outbox SET event_type = repeat('x', 5000), aggregate_id = lpad('7', 32, '0')::uuid WHERE id = 1; UPDATE identity.outbox SET aggregate_id = lpad('7', 32, '0')::uuid WHERE id = 2"));
    let run = scene.run();
    scene.until_seen(&[2, 3]).await;
    scene
        .until_says(
            "SELECT attempts >= 1, published, error_message ~ 'longer than' FROM identity.outbox WHERE id = 1",
            "t|f|t",
        )
        .await;
    // Its aggregate goes on when it is parked, and not before.
    scene.until_seen(&[2, 3, 1]).await;
    let row = "SELECT attempts, published, published_at IS NULL, extract(year from next_attempt_at), error_message FROM identity.outbox WHERE id = 1";
    let told = scene.server.psql(row);
    assert!(told.starts_with("3|f|t|9999|parked after 3 attempts: attribute \"type\" is longer"), "{told}");
    let odd = scene.pond.events("odd");
    assert_eq!((odd.len(), &*odd[0].kind), (1, "tidegate.row.rejected"));
    assert_eq!(odd[0].extension("place").map(|place| &**place), Some("identity.outbox:1"));
    assert_eq!(run.brought.view().rejected, 1);
    let survey = survey(&scene.config, parts()).await.unwrap();
    let figures = survey.figures.unwrap();
    assert_eq!((figures.backlog, figures.parked, survey.relay, survey.failed[0].state), (0, 1, true, "parked"));
    // Mended and set free, it comes.
    scene.server.psql(
        "UPDATE identity.outbox SET event_type = 'UserCreated', attempts = 0, next_attempt_at = NULL WHERE id = 1",
    );
    scene.until_seen(&[2, 3, 1, 0]).await;
    run.stop().await.unwrap();
    scene.config.batch = 1;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_full_spends_no_attempt() {
    // Nobody notifies: the poll alone finds what comes.
    let scene = Scene::new(", poll: 10ms, notify: off");
    scene.pond.refuse.store(3, Ordering::SeqCst);
    scene.server.psql(&insert(0, 10, 3));
    let run = scene.run();
    scene.until("it is refused", |scene| scene.pond.refuse.load(Ordering::SeqCst) < 3).await;
    assert_eq!(scene.server.psql("SELECT count(*) FROM identity.outbox WHERE published OR attempts > 0"), "0");
    scene.until("all of them", |scene| scene.seen().len() == 10).await;
    scene.server.psql(&insert(10, 11, 3));
    scene.until("one more", |scene| scene.seen().len() == 11).await;
    scene.until_says(UNPUBLISHED, "0").await;
    assert_eq!(scene.server.psql("SELECT max(attempts) FROM identity.outbox"), "0");
    run.stop().await.unwrap();
}

/// One old transaction keeps the database from cleaning away what was published: a look must not walk over all of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_and_not_cleaned_away_is_not_read_again() {
    const OLD: u64 = 20_000;
    const COMMITS: u64 = 60;
    let scene = Scene::new(", poll: 50ms");
    let old = scene.client().await;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM identity.outbox").await.unwrap();
    scene.server.psql(&insert(0, OLD as i64, 100));
    let published =
        |count: u64| scene.server.psql("SELECT count(*) FROM identity.outbox WHERE published") == count.to_string();
    // What a session has read is told when it ends.
    let read = |scene: &Scene| -> u64 {
        let sql = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'outbox_pending'";
        scene.server.psql(sql).parse().unwrap()
    };
    let run = scene.run();
    scene.until("all are published", |_| published(OLD)).await;
    run.stop().await.unwrap();
    scene.until("what was read is told", |scene| read(scene) >= OLD).await;
    let before = read(&scene);
    let run = scene.run();
    for n in 0..COMMITS {
        let next = (OLD + n) as i64;
        scene.server.psql(&insert(next, next + 1, 100));
        scene.until("the next is published", |_| published(OLD + n + 1)).await;
    }
    run.stop().await.unwrap();
    scene.until("what was read is told", |scene| read(scene) > before).await;
    let more = read(&scene) - before;
    assert!(more < COMMITS * OLD, "{more} entries were read for {COMMITS} rows: as if each commit had looked at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_somebody_sends_again_are_found_beside_new_ones() {
    let scene = Scene::new(", poll: 50ms, batch: 20");
    scene.server.psql(&insert(0, 2000, 10));
    let run = scene.run();
    scene.until("all are published", |scene| scene.server.psql(UNPUBLISHED) == "0").await;
    scene.server.psql("UPDATE identity.outbox SET published = false WHERE id <= 1000");
    scene.server.psql(&insert(2000, 2020, 10));
    scene.until("all are published again", |scene| scene.server.psql(UNPUBLISHED) == "0").await;
    scene.until_seen(&(0..2020).collect::<Vec<_>>()).await;
    run.stop().await.unwrap();
}

/// What waited behind a row that failed comes after it and before what is newer, whatever was published meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_waited_behind_a_failed_row_keeps_its_place() {
    let scene = Scene::new(", poll: 50ms, batch: 5, retry: { attempts: 9, first: 1h, max: 1h }");
    let one = |n: i64, aggregate: &str, payload: &str| {
        format!(
            "INSERT INTO identity.outbox (event_type, aggregate_id, payload) VALUES \
             ('UserUpdated', lpad('{aggregate}', 32, '0')::uuid, {payload}) -- {n}"
        )
    };
    let good = |n: i64| format!("jsonb_build_object('n', {n})");
    let bad = "jsonb_build_object('n', repeat('x', 3000000))";
    scene.server.psql(&one(0, "a", bad));
    scene.server.psql(&one(1, "a", &good(1)));
    scene.server.psql(&insert(100, 120, 7));
    let run = scene.run();
    scene.until_seen(&(100..120).collect::<Vec<_>>()).await;
    scene.server.psql(&one(2, "a", &good(2)));
    scene.server.psql(&insert(120, 140, 7));
    scene.until_seen(&(100..140).collect::<Vec<_>>()).await;
    scene
        .server
        .psql(&format!("UPDATE identity.outbox SET payload = {}, next_attempt_at = now() WHERE id = 1", good(0)));
    scene.until("all are published", |scene| scene.server.psql(UNPUBLISHED) == "0").await;
    let seen = scene.seen();
    assert_eq!(seen[40..], [0, 1, 2], "in the order of the aggregate");
    run.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_relays_one_works_and_the_other_takes_over() {
    let scene = Scene::new(", poll: 10ms");
    let one = scene.run();
    scene.until_says(HELD, "1").await;
    let mut two = scene.run();
    two.tap.wait_for(|notice| notice.name() == "module.reported").await;
    assert_eq!(two.told(), Vec::<String>::new());
    scene.server.psql(&insert(0, 50, 3));
    scene.until_says(UNPUBLISHED, "0").await;
    assert_eq!((one.brought.view().accepted, two.brought.view().accepted), (50, 0));
    one.stop().await.unwrap();
    scene.server.psql(&insert(50, 60, 3));
    scene.until_says(UNPUBLISHED, "0").await;
    assert_eq!(two.brought.view().accepted, 10);
    check_all(&scene.seen(), 60, 3);
    two.stop().await.unwrap();
}

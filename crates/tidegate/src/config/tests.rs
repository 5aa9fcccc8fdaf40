//! Loads whole configurations: the sample, and everything that can be wrong with one.

use std::collections::BTreeSet;

use tidegate_core::{config::Environment, store};

use super::*;

/// The sample of the design and of the documents.
const SAMPLE: &str = r#"
version: 1
node: { name: harbour, data: ./data, environment: staging }
engine: embedded                      # redis://…  nats://…  postgres://…
listeners:
  - { bind: "127.0.0.1:7300" }        # API, metrics, health, dashboard
streams:
  orders: { retain: { age: 7d, count: 1000000 }, max_backlog: 500000, on_full: reject }
sources:
  intake: { type: http, path: /orders, to: orders }
targets:
  partner: { concurrency: 16, rate: 50/s, breaker: { failures: 5, cooldown: 30s } }
groups:
  deliver:
    from: orders
    workers: 8
    order_by: subject
    timeout: 30s
    retry: { attempts: 8, first: 1s, factor: 2, max: 5m }
    ledger: { keep: 30d }
    sink: { type: webhook, url: "https://partner.example/hook", target: partner, secret: "${env:PARTNER_SECRET}" }
"#;

const HASH: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const VALUE: &str = "whsec_dGlkZWdhdGU=";

struct Fixed;

impl Environment for Fixed {
    fn variable(&self, name: &str) -> Result<String, String> {
        match name {
            "PARTNER_SECRET" => Ok(VALUE.to_owned()),
            "WORKERS" => Ok("3".to_owned()),
            _ => Err(format!("environment variable {name} is not set")),
        }
    }

    fn file(&self, path: &str, _: bool) -> Result<String, String> {
        Err(format!("file {path}: does not exist"))
    }
}

fn read(text: &str) -> Result<Config, Errors> {
    Config::read(text, "t.yaml", &Fixed)
}

fn refused(text: &str) -> Vec<String> {
    read(text).unwrap_err().iter().map(ToString::to_string).collect()
}

/// Changes the sample in one place and expects one error: at the place of `at`, beginning with `start`, with `word` in it.
fn check(from: &str, to: &str, at: &str, start: &str, word: &str) {
    assert!(SAMPLE.contains(from), "the sample does not hold {from:?}");
    let text = SAMPLE.replacen(from, to, 1);
    let offset = text.find(at).unwrap_or_else(|| panic!("the changed sample does not hold {at:?}"));
    let line = text[..offset].matches('\n').count() + 1;
    let column = offset - text[..offset].rfind('\n').unwrap();
    let errors = refused(&text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let start = format!("t.yaml:{line}:{column}: {start}");
    assert!(errors[0].starts_with(&start) && errors[0].contains(word), "{} is not {start} … {word}", errors[0]);
}

#[test]
fn the_sample_loads_as_it_stands() {
    let config = read(SAMPLE).unwrap();
    assert_eq!((config.node.name.as_str(), config.node.environment.as_str()), ("harbour", "staging"));
    let orders = &config.streams["orders"];
    let spec = orders.spec(&StreamName::new("orders").unwrap());
    assert_eq!(spec.durability, store::Durability::Sync);
    assert_eq!((spec.retain.age.unwrap().as_secs(), spec.retain.count), (7 * 86_400, Some(1_000_000)));
    assert_eq!((spec.max_backlog, orders.on_full), (Some(500_000), OnFull::Reject));
    assert_eq!(spec.dedupe.unwrap().entries, DedupeConfig::default().entries);
    let policy = config.targets["partner"].policy();
    assert_eq!((policy.concurrency, policy.rate.unwrap().count, policy.breaker.failures), (16, 50, 5));
    let deliver = &config.groups["deliver"];
    assert_eq!((deliver.workers, deliver.retry_policy().attempts), (8, 8));
    let spec = deliver.spec(&GroupName::new("deliver").unwrap(), false);
    assert_eq!((spec.stream.as_str(), spec.ledger.unwrap().as_secs()), ("orders", 30 * 86_400));
    assert_eq!(spec.order_by.unwrap().to_string(), "subject");
    assert_eq!(deliver.sink.target().unwrap().as_str(), "partner");
    assert_eq!(config.sources["intake"].to().as_str(), "orders");
}

#[test]
fn defaults_make_a_node() {
    let config = read("version: 1").unwrap();
    assert_eq!(config.listeners, ListenerConfig::usual());
    assert_eq!(config.engine, Engine::Embedded);
    let redis = read("version: 1\nengine: redis://127.0.0.1:6379/0\nredis: { prefix: 'shop:' }").unwrap();
    assert_eq!((redis.engine.as_str(), &*redis.redis.prefix), ("redis://127.0.0.1:6379/0", "shop:"));
    assert_eq!(redis.redis.timeout.get().as_secs(), 10);
    let postgres = read("version: 1\nengine: postgres://127.0.0.1/shop\npostgres: { schema: queue }").unwrap();
    assert_eq!((postgres.engine.as_str(), &*postgres.postgres.schema), ("postgres://127.0.0.1/shop", "queue"));
    assert!(postgres.engine.is_outside());
    let config =
        read("version: 1\nstreams:\n  orders:\n  mail: { dedupe: off, max_backlog: off, retain: { age: off } }")
            .unwrap();
    let spec = |name: &str| config.streams[name].spec(&StreamName::new(name).unwrap());
    assert_eq!(spec("orders"), StreamConfig::default().spec(&StreamName::new("orders").unwrap()));
    assert_eq!((spec("mail").dedupe, spec("mail").max_backlog, spec("mail").retain.age), (None, None, None));
}

/// What programs that embed the engine get without settings is what a configuration gives.
#[test]
fn defaults_are_those_of_the_crates() {
    let text = "version: 1\nstreams: { s: {} }\ngroups: { g: { from: s, sink: { type: pull } } }";
    let config = read(text).unwrap();
    let (stream, name) = (StreamName::new("s").unwrap(), GroupName::new("g").unwrap());
    assert_eq!(config.streams["s"].spec(&stream), store::StreamSpec::new(stream.clone()));
    let group = &config.groups["g"];
    assert_eq!(group.spec(&name, true), store::GroupSpec::new(name.clone(), stream.clone()));
    assert_eq!(crate::wire::policy(&name, group, None), tidegate_engine::GroupPolicy::new(name, stream));
}

#[test]
fn unknown_keys_are_named_with_the_nearest_one() {
    let meant = |key: &str, near: &str| format!("{key}: unknown key; did you mean \"{near}\"?");
    let go = |from: &str, to: &str, key: &str, near: &str, known: &str| {
        let written = key.rsplit('.').next().unwrap();
        check(from, to, &format!("{written}:"), &meant(key, near), known);
    };
    go("workers: 8", "worker: 8", "groups.deliver.worker", "workers", "(known: from,");
    go("first: 1s", "frist: 1s", "groups.deliver.retry.frist", "first", "(known: attempts, first, factor, max)");
    go("version: 1", "version: 1\ngroup: {}", "group", "groups", "streams");
    go("url:", "uri:", "groups.deliver.sink.uri", "url", "secret");
    go("path:", "pth:", "sources.intake.pth", "path", "defaults");
    go("bind:", "bid:", "listeners[0].bid", "bind", "(known: bind, protocol, profile, group, log)");
    check(
        "count: 1000000",
        "letters: 1",
        "letters",
        "streams.orders.retain.letters: unknown key (known:",
        "drop_unsettled",
    );
    assert_eq!(refused(&SAMPLE.replacen("type: webhook", "type: pull", 1)).len(), 3);
}

#[test]
fn settings_of_a_postgres_server_are_checked() {
    check(
        "embedded",
        "postgres://me:secret@x/db",
        "postgres://me",
        "engine: user and password do not stand in",
        "postgres.password",
    );
    check(
        "engine: embedded",
        "postgres: { poll: 3s }\nengine: embedded",
        "postgres",
        "postgres: these settings are for",
        "postgres://",
    );
    for (key, words) in [("timeout: 1m", "at most 10s"), ("takeover: 1s", "at least 2s"), ("schema: 'a-b'", "letters")]
    {
        let to = format!("postgres: {{ {key} }}\nengine: postgres://x");
        let place = format!("postgres.{}: ", key.split_once(':').unwrap().0);
        check("engine: embedded", &to, key.split_once(": ").unwrap().1, &place, words);
    }
}

#[test]
fn every_engine_lets_events_wait_and_ranks_them() {
    let group = "{ from: orders, after: wait, priority_step: 5m, sink: { type: pull } }";
    for engine in ["embedded", "memory", "redis://x", "postgres://x", "nats://x"] {
        read(&format!("version: 1\nengine: {engine}\ngroups: {{ g: {group} }}\nstreams: {{ orders: {{}} }}")).unwrap();
    }
}

#[test]
fn settings_of_a_nats_server_are_checked() {
    let nats = read("version: 1\nengine: nats://127.0.0.1:4222\nnats: { prefix: shop, replicas: 3 }").unwrap();
    assert_eq!((nats.engine.as_str(), &*nats.nats.prefix), ("nats://127.0.0.1:4222", "shop"));
    assert!(nats.engine.is_outside());
    check("embedded", "nats://me:secret@x", "nats://me", "engine: user and password do not stand in", "nats.password");
    check(
        "engine: embedded",
        "nats: { prefix: shop }\nengine: embedded",
        "nats",
        "nats: these settings are for",
        "nats://",
    );
    for (key, words) in [
        ("timeout: 1m", "at most 10s"),
        ("takeover: 1s", "at least 2s"),
        ("prefix: 'a.b'", "letters"),
        ("replicas: 2", "1, 3 or 5"),
    ] {
        let to = format!("nats: {{ {key} }}\nengine: nats://x");
        let place = format!("nats.{}: ", key.split_once(':').unwrap().0);
        check("engine: embedded", &to, key.split_once(": ").unwrap().1, &place, words);
    }
}

#[test]
fn wrong_values_are_named_with_their_place() {
    check("workers: 8", "workers: many", "many", "groups.deliver.workers: expected a whole number", "\"many\"");
    check("workers: 8", "workers: -8", "-8", "groups.deliver.workers: expected a whole number", "\"-8\"");
    check("workers: 8", "workers: [8]", "workers: [8]", "groups.deliver.workers: expected a whole number", "a list");
    check("timeout: 30s", "timeout: 30\n", "30\n", "groups.deliver.timeout: \"30\" is not a duration", "\"30s\"");
    check("timeout: 30s", "timeout: 1h30m", "1h30m", "groups.deliver.timeout:", "not a duration");
    check("rate: 50/s", "rate: 50", "50,", "targets.partner.rate: \"50\" is not a rate", "10/m");
    check("factor: 2", "factor: two", "two", "groups.deliver.retry.factor: expected a number", "two");
    check("from: orders", "from: a b", "a b", "groups.deliver.from: stream name \"a b\"", "may hold only");
    check("order_by: subject", "order_by: Sub", "Sub", "groups.deliver.order_by: order_by \"Sub\"", "data.");
    check(
        "embedded",
        "mysql://x",
        "mysql://x",
        "engine: unknown word \"mysql://x\"",
        "(known: embedded, memory, redis://",
    );
    check(
        "embedded",
        "redis://me:secret@x",
        "redis://me",
        "engine: user and password do not stand in",
        "redis.password",
    );
    check(
        "engine: embedded",
        "redis: { poll: 1s }\nengine: embedded",
        "redis",
        "redis: these settings are for",
        "redis://",
    );
    for (key, words) in [("timeout: 1m", "at most 10s"), ("takeover: 1s", "at least 2s"), ("prefix: 'a b'", "letters")]
    {
        let to = format!("redis: {{ {key} }}\nengine: redis://x");
        let place = format!("redis.{}: ", key.split_once(':').unwrap().0);
        check("engine: embedded", &to, key.split_once(": ").unwrap().1, &place, words);
    }
    check("on_full: reject", "on_full: rejct", "rejct", "streams.orders.on_full: unknown word", "mean \"reject\"");
    check(
        "type: http",
        "type: htp",
        "htp",
        "sources.intake.type: unknown word \"htp\"; did you mean \"http\"?",
        "known",
    );
    check("type: http, ", "", "intake:", "sources.intake.type: this key is missing", "");
    check("500000", "on", "on, on_full", "streams.orders.max_backlog: ", "off");
    check(
        "age: 7d",
        "age: 7 days",
        "7 days",
        "streams.orders.retain.age: \"7 days\" is not a duration",
        "the word off",
    );
    check("    from: orders\n", "", "deliver:", "groups.deliver.from: this key is missing", "");
    check("\"127.0.0.1:7300\"", "localhost", "localhost", "listeners[0].bind: invalid socket address", "");
    check("  orders: {", "  or/ders: {", "or/ders", "streams.or/ders: stream name \"or/ders\"", "may hold only");
    check("version: 1", "version: 2", "2", "version: this program reads version 1", "2");
}

#[test]
fn expressions_are_read_with_the_configuration() {
    let go = |more: &str, at: &str, key: &str, start: &str, word: &str| {
        let to = format!("workers: 8\n    {more}");
        check("workers: 8", &to, at, &format!("groups.deliver.{key}: {start}"), word);
    };
    go("where: type ==", "type ==", "where", "expression: column 8", "");
    go("where: typ == 'a'", "typ == 'a'", "where", "expression: column 1: there is no \"typ\"", "known are id, source");
    go("where: data.x.lower()", "data.x.lower()", "where", "expression: column 8: there is no function x.lower()", "");
    go("map: [1]", "map: [1]", "map", "expected an expression, or a mapping", "a list");
    go("map: { id: data.x }", "id: data.x", "map.id", "unknown key", "known: data");
    go("map: { extensions: { Up: data.x } }", "Up:", "map.extensions.Up", "\"Up\" is no name", "");
    go("stages: [{ where: data.x, map: data.x }]", "{ where: data.x, map", "stages[0]", "a stage is either", "");
    go("where: data.x\n    stages: [{ map: data.y }]", "stages:", "stages", "stands in place of where and map", "");
    let errors = refused(&SAMPLE.replacen("workers: 8", "workers: 8\n    stages: [{ where: data. }]", 1));
    assert_eq!(errors.len(), 1, "that the stage says nothing then is no second mistake: {errors:?}");
    assert!(errors[0].contains("stages[0].where: expression: column 6"), "{errors:?}");
    let errors = refused(&SAMPLE.replacen("workers: 8", "workers: 8\n    stages: [{ were: data.x }]", 1));
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("stages[0].were: unknown key; did you mean \"where\"?"), "{errors:?}");
    let text = SAMPLE.replacen("workers: 8", "workers: 8\n    where: data.a > 1\n    map: { subject: data.b }", 1);
    let config = read(&text).unwrap();
    assert_eq!(config.groups["deliver"].stages().words(), ["where data.a > 1", "map subject: data.b"]);
    let again = serde_json::to_value(&config).unwrap();
    assert_eq!(again["groups"]["deliver"]["map"], serde_json::json!({ "subject": "data.b" }));
}

#[test]
fn relations_are_checked() {
    let deliver = "groups.deliver";
    let go = |from: &str, to: &str, at: &str, key: &str, word: &str| {
        check(from, to, at, &format!("{deliver}.{key}: "), word)
    };
    go("from: orders", "from: oders", "oders", "from", "there is no stream \"oders\"; did you mean \"orders\"? (known");
    go(
        "target: partner",
        "target: partnr",
        "partnr,",
        "sink.target",
        "there is no target \"partnr\"; did you mean \"partner\"?",
    );
    go(
        "timeout: 30s",
        "timeout: 15s",
        "15s",
        "timeout",
        "15s leaves no room for two times the timeout of target partner, 10s",
    );
    go("first: 1s", "first: 10m", "5m", "retry.max", "must not be shorter than the first wait of 10m");
    go("attempts: 8", "attempts: 0", "0, first", "retry.attempts", "must be 1 to 1000");
    go("factor: 2", "factor: .nan", ".nan", "retry.factor", "expected a number");
    go("factor: 2", "factor: 0.5", "0.5", "retry.factor", "must be 1 to 100");
    go("workers: 8", "workers: 5000", "5000\n", "workers", "must be 1 to 4096");
    go("order_by: subject", "on_failure: block", "block", "on_failure", "block needs order_by");
    go("timeout: 30s", "timeout: 30s\n    lease: 100ms", "100ms", "lease", "must be 1s to 12h");
    let most = "timeout: 30s\n    timeout_max: 29s";
    go("timeout: 30s", most, "29s", "timeout_max", "must not be shorter than timeout, 30s");
    let step = "timeout: 30s\n    priority_step: 31d";
    go("timeout: 30s", step, "31d", "priority_step", "must be more than zero and at most 30d");
    check(
        "ledger: { keep: 30d }",
        "ledger: off\n    after: wait",
        "wait",
        &format!("{deliver}.after: "),
        "needs the ledger",
    );
    go("keep: 30d", "keep: 0d", "0d", "ledger.keep", "must be more than zero; ledger: off ends it");
    go("https://", "ftp://", "\"ftp:", "sink.url", "");
    check("to: orders", "to: mail", "mail", "sources.intake.to: there is no stream \"mail\"", "(known: orders)");
    check("path: /orders", "path: orders", "orders, to", "sources.intake.path: ", "must start with");
    check("age: 7d", "age: 0s", "0s", "streams.orders.retain.age: must be more than zero", "");
    check("cooldown: 30s", "cooldown: 1h", "breaker", "targets.partner.breaker.cooldown_max: must not be", "1h");
    check(
        "  orders: {",
        "  orders.dlq: {}\n  orders: {",
        "orders.dlq",
        "streams.orders.dlq: the dead letters of",
        "orders",
    );
    check("staging", "''", "'' }", "node.environment: must be 1 to", "");
    let intake = "  intake: { type: http, path: /orders, to: orders }";
    let two = format!("{intake}\n  second: {{ type: http, path:   /orders, to: orders }}");
    check(intake, &two, "/orders, to: orders }\ntargets", "sources.second.path: source intake has the same path", "");
}

#[test]
fn results_are_kept_in_a_stream_that_comes_with_the_group() {
    let go = |more: &str, at: &str, start: &str, word: &str| {
        check("workers: 8", &format!("workers: 8\n    {more}"), at, &format!("groups.deliver.{start}"), word);
    };
    go("results: {}", "results:", "results.keep: this key is missing", "");
    go("results: { keep: 0s }", "0s }\n    order", "results.keep: must be more than zero", "");
    go("results: { keep: 1h, count: 0 }", "0 }\n    order", "results.count: must be 1 to 10000000", "");
    go("results: { keep: 1h, bytes: 0B }", "0B", "results.bytes: must be more than zero", "");
    let keeps = SAMPLE.replacen("workers: 8", "workers: 8\n    results: { keep: 1h }", 1);
    let errors = refused(&keeps.replacen("  orders: {", "  deliver.results: {}\n  orders: {", 1));
    assert!(errors[0].contains("streams.deliver.results: is where group deliver keeps its results"), "{errors:?}");
    let errors = refused(&keeps.replacen("from: orders", "from: deliver.results", 1));
    assert!(errors[0].contains("groups.deliver.from: is where it keeps its results"), "{errors:?}");
    let reader = "  tell: { from: deliver.results, sink: { type: pull } }\n";
    let config = read(&format!("{keeps}{reader}")).unwrap();
    let policy = config.groups["deliver"].results.as_ref().unwrap().policy();
    assert_eq!(policy, tidegate_core::result::ResultsPolicy::new(std::time::Duration::from_secs(3600)));
    let errors = refused(&format!("{SAMPLE}{reader}"));
    assert!(errors[0].contains("groups.tell.from: there is no stream"), "{errors:?}");
    let long = "g".repeat(limits::NAME_BYTES_MAX);
    let errors = refused(&keeps.replacen("  deliver:", &format!("  {long}:"), 1));
    assert!(errors[0].contains("the group's name is too long"), "{errors:?}");
}

#[test]
fn a_reply_needs_a_group_that_keeps_results() {
    let asks = |reply: &str| SAMPLE.replacen("path: /orders,", &format!("path: /orders, reply: {reply},"), 1);
    let keeps = |reply: &str, keep: &str| {
        asks(reply).replacen("workers: 8", &format!("workers: 8\n    results: {{ keep: {keep} }}"), 1)
    };
    let other = "  audit: { from: orders, results: { keep: 1h }, sink: { type: pull } }\n";
    let go = |text: String, key: &str, word: &str| {
        let errors = refused(&text);
        let start = format!("sources.intake.reply{key}: ");
        assert!(errors.len() == 1 && errors[0].contains(&start) && errors[0].contains(word), "{errors:#?}");
    };
    go(asks("{ wait: 30s }"), "", "no group that reads stream orders keeps results: set results");
    go(asks("{ wait: 30s, group: deliver }"), ".group", "group deliver keeps no results: set results");
    go(asks("{ wait: 30s, group: nobody }"), ".group", "there is no group nobody");
    go(keeps("{ wait: 31s }", "1h"), ".wait", "at most 30s");
    go(keeps("{ wait: 0s }", "1h"), ".wait", "more than zero");
    go(keeps("{ wait: 30s }", "5m"), "", "must keep results for 10m at least");
    go(keeps("{ wait: 30s }", "1h").replacen("max_backlog", "dedupe: off, max_backlog", 1), "", "needs dedupe");
    go(keeps("{ wait: 30s }", "1h") + other, "", "groups audit and deliver both keep results: say which");
    for reply in ["{ wait: 30s }", "{ wait: 1ms, group: deliver }"] {
        let config = read(&keeps(reply, "1h")).unwrap();
        let SourceConfig::Http(http) = &config.sources["intake"] else { panic!("{reply}") };
        assert_eq!(config.replier(http, http.reply.as_ref().unwrap()).unwrap().as_str(), "deliver");
    }
    let config = read(&(keeps("{ wait: 30s, group: audit }", "1h") + other)).unwrap();
    assert_eq!(config.groups.len(), 2);
}

#[test]
fn other_machines_need_a_token() {
    let open = SAMPLE.replacen("127.0.0.1:7300", "0.0.0.0:7300", 1);
    let errors = refused(&open);
    assert!(
        errors[0].starts_with("t.yaml:6:13: listeners[0].bind: refusing to bind 0.0.0.0:7300 without a token"),
        "{errors:?}"
    );
    let with = |tokens: &str| open.replacen("streams:", &format!("tokens:\n{tokens}\nstreams:"), 1);
    let config = read(&with(&format!("  - {{ name: ops, role: admin, hash: \"{HASH}\" }}"))).unwrap();
    assert_eq!((config.tokens[0].role, config.tokens[0].hash.to_string().as_str()), (Role::Admin, HASH));
    for local in ["127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert!(read(&SAMPLE.replacen("127.0.0.1:7300", local, 1)).is_ok(), "{local}");
    }
    let twice =
        format!("  - {{ name: a, role: viewer, hash: \"{HASH}\" }}\n  - {{ name: a, role: admin, hash: \"{HASH}\" }}");
    assert_eq!(refused(&with(&twice)).len(), 2);
    let literal = refused(&with("  - { name: a, role: viewer, hash: hunter2 }"));
    assert!(literal[0].contains("tokens[0].hash") && !literal[0].contains("hunter2"), "{literal:?}");
    let mut local = read(SAMPLE).unwrap();
    assert!(local.listen_on(&["192.0.2.1:80".parse().unwrap()]).is_err());
    assert!(local.listen_on(&["127.0.0.1:0".parse().unwrap()]).is_ok());
}

#[test]
fn secrets_come_by_reference_and_are_never_shown() {
    let go = |to: &str, word: &str| {
        check("${env:PARTNER_SECRET}", to, &format!("\"{to}\""), "groups.deliver.sink.secret: ", word);
    };
    go("hunter2", "expected a reference such as ${env:NAME} or ${file:PATH}; a secret never stands in the file itself");
    go("${env:NONE}", "NONE is not set");
    go("${file:none}", "does not exist");
    go("a${env:PARTNER_SECRET}", "expected a reference");
    let literal = refused(&SAMPLE.replacen("${env:PARTNER_SECRET}", "hunter2", 1));
    assert!(!literal[0].contains("hunter2"), "{literal:?}");
    let config = read(SAMPLE).unwrap();
    for shown in [format!("{config:?}"), serde_json::to_string(&config).unwrap()] {
        assert!(!shown.contains(VALUE), "{shown}");
    }
    let mistaken = SAMPLE.replacen("timeout: 30s", "timeout: \"${env:PARTNER_SECRET}\"", 1);
    let errors = refused(&mistaken);
    assert!(errors[0].contains("not a duration") && !errors[0].contains(VALUE), "{errors:?}");
    let numbers = SAMPLE.replacen("workers: 8", "workers: \"${env:WORKERS}\"", 1);
    assert_eq!(read(&numbers).unwrap().groups["deliver"].workers, 3);
}

#[test]
fn all_mistakes_are_shown_at_once() {
    let text = SAMPLE
        .replacen("workers: 8", "worker: 8", 1)
        .replacen("timeout: 30s", "timeout: soon", 1)
        .replacen("path: /orders, ", "", 1)
        .replacen("concurrency: 16", "concurrency: x", 1)
        .replacen("url:", "uri:", 1);
    let lines: Vec<usize> = read(&text).unwrap_err().iter().map(|error| error.place.line).collect();
    assert_eq!(lines, [10, 12, 16, 18, 21], "{:#?}", refused(&text));
    let text = SAMPLE.replacen("from: orders", "from: x", 1).replacen("to: orders", "to: y", 1);
    assert_eq!(refused(&text).len(), 2);
}

#[test]
fn the_fingerprint_is_of_what_is_meant() {
    let fingerprint = |text: &str| read(text).unwrap().fingerprint();
    let sample = fingerprint(SAMPLE);
    assert_eq!(sample.len(), 64);
    assert_eq!(sample, fingerprint(&SAMPLE.replacen("timeout: 30s", "timeout: 30000ms # same", 1)));
    assert_eq!(sample, fingerprint(&SAMPLE.replacen("    timeout: 30s\n", "", 1)));
    let changes = [("workers: 8", "workers: 9"), ("age: 7d", "age: 8d"), ("/hook", "/hooks"), ("harbour", "port")];
    let all: BTreeSet<String> = changes.iter().map(|(from, to)| fingerprint(&SAMPLE.replacen(from, to, 1))).collect();
    assert_eq!(all.len(), changes.len());
    assert!(!all.contains(&sample));
}

/// Every place of the sample with something else in it: an answer each time, and never the secret.
#[test]
fn no_single_change_is_without_an_answer() {
    let pieces = ["", "-", "{", "\n", "99999999999999999999", "\u{1F6A2}"];
    for at in (0..SAMPLE.len()).filter(|at| SAMPLE.is_char_boundary(*at) && SAMPLE.is_char_boundary(at + 1)) {
        let mut text = SAMPLE.to_owned();
        text.replace_range(at..at + 1, pieces[at % pieces.len()]);
        match read(&text) {
            Ok(config) => assert_eq!(config.fingerprint().len(), 64),
            Err(errors) => assert!(!errors.to_string().contains(VALUE), "{errors}"),
        }
    }
}

/// The example that is shipped, and the page that is made of the types.
#[test]
fn the_reference_names_every_key_of_the_sample() {
    let page = reference();
    for key in
        ["version", "max_backlog", "on_full", "order_by", "cooldown_max", "drop_unsettled", "grace", "secret", "hash"]
    {
        assert!(page.contains(&format!("| `{key}` |")), "{key}");
    }
    assert!(page.contains("## `groups.<name>.sink` with `type: webhook`"), "{page}");
}

#[test]
fn a_profile_is_one_of_those_that_there_are_and_shares_no_path() {
    let with = |profile: &str| SAMPLE.replacen("7300\"", &format!("7300\", profile: {profile}"), 1);
    assert_eq!(read(&with("signal-client")).unwrap().listeners[0].profile.as_deref(), Some("signal-client"));
    let errors = refused(&with("signal-cliant"));
    assert!(
        errors[0].contains("listeners[0].profile") && errors[0].contains("did you mean \"signal-client\"?"),
        "{errors:?}"
    );
    let listener = |text: &str| SAMPLE.replacen("bind: \"127.0.0.1:7300\"", text, 1);
    let consumer = read(&listener("profile: markdown-manager-consumer, group: deliver, log: c.log")).unwrap();
    assert_eq!(consumer.listeners[0].address().to_string(), "127.0.0.1:8081");
    for (text, expect) in [
        ("profile: signal-client", "listeners[0].bind: is missing"),
        ("profile: markdown-manager-relay, group: deliver", "listeners[0].group: only the profiles of a consumer"),
        ("profile: markdown-manager-consumer, group: delivver", "did you mean \"deliver\"?"),
        ("bind: \"127.0.0.1:1\", log: x.log", "listeners[0].log: needs a profile"),
    ] {
        let errors = refused(&listener(text));
        assert!(errors[0].contains(expect), "{errors:?}");
    }
    let errors = refused(&with("signal-client").replacen("path: /orders", "path: /ready", 1));
    assert!(errors[0].contains("sources.intake.path: profile signal-client has the same path"), "{errors:?}");
}

#[test]
fn a_source_that_repeats_needs_a_stream_that_knows_repeats() {
    let check = |dedupe: &str, expect: &str| {
        let text = format!(
            "version: 1\nstreams: {{ users: {{ {dedupe} }} }}\ntargets: {{ db: {{}} }}\nsources:\n  \
             box: {{ type: postgres_outbox, url: \"${{env:PARTNER_SECRET}}\", target: dbb, to: users }}\n"
        );
        let errors = read(&text).unwrap_err().to_string();
        assert!(errors.contains(expect), "{errors} does not say {expect}");
        assert!(errors.contains("did you mean \"db\"?"), "{errors}");
    };
    check("", "knows repeats for 10m and must for 1h at least");
    check("dedupe: off", "knows no repeats");
    check("dedupe: { window: 2h, key: subject }", "by source and id");
    check("dedupe: { window: 2h }", "is no address of a PostgreSQL database");
}

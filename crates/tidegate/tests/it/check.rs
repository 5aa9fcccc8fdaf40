//! `tidegate check` and refusals at the start: everything that is wrong is said at once, with its place.

use crate::node::{Berth, SAMPLE, tidegate, told};

fn check(berth: &Berth, more: &[&str]) -> (i32, String, String) {
    let config = berth.config();
    told(&tidegate(&[&["check", config.to_str().unwrap()], more].concat()))
}

#[test]
fn the_sample_is_good() {
    let berth = Berth::new(SAMPLE);
    let (exit, out, err) = check(&berth, &["--offline"]);
    assert_eq!(exit, 0, "{out}{err}");
    assert!(out.contains("good; 1 streams, 1 sources, 1 targets, 1 groups; fingerprint "), "{out}");
    let (exit, out, _) = check(&berth, &["--offline", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((exit, document["fingerprint"].as_str().map(str::len)), (0, Some(64)));
}

#[test]
fn mistakes_are_named_by_line_key_and_nearest_key() {
    let wrong = SAMPLE
        .replace("workers: 8", "worker: 8")
        .replace("to: orders", "to: order")
        .replace("rate: 50/s", "rate: 50 per second")
        .replace("${env:PARTNER_SECRET}", "hunter2");
    let berth = Berth::new(&wrong);
    let (exit, out, err) = check(&berth, &[]);
    assert_eq!((exit, out.as_str()), (78, ""), "{err}");
    let file = berth.config().display().to_string();
    let lines: Vec<&str> = err.lines().collect();
    let has = |parts: &[&str]| lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    for parts in [
        [&*format!("{file}:12:"), "targets.partner.rate", "50 per second"],
        [&*format!("{file}:16:"), "groups.deliver", "did you mean \"workers\"?"],
        [&*format!("{file}:21:"), "groups.deliver.sink.secret", "reference"],
    ] {
        assert!(has(&parts), "no line has {parts:?}:\n{err}");
    }
    assert!(!err.contains("hunter2"), "a secret is shown:\n{err}");
}

#[test]
fn names_that_lead_nowhere_are_found() {
    let berth = Berth::new(&SAMPLE.replace("to: orders", "to: order").replace("target: partner,", "target: partnr,"));
    let (exit, _, err) = check(&berth, &[]);
    assert_eq!(exit, 78);
    assert!(err.contains("tidegate.yaml:10:") && err.contains("did you mean \"orders\"?"), "{err}");
    assert!(err.contains("tidegate.yaml:21:") && err.contains("did you mean \"partner\"?"), "{err}");
}

#[test]
fn a_reference_that_cannot_be_resolved_is_an_error() {
    let berth = Berth::new(&SAMPLE.replace("PARTNER_SECRET", "NO_SUCH_SECRET"));
    let (exit, _, err) = check(&berth, &[]);
    assert_eq!(exit, 78);
    assert!(err.contains("NO_SUCH_SECRET is not set"), "{err}");
    let (exit, _, err) = told(&tidegate(&["check", "/no/such/file.yaml"]));
    assert_eq!(exit, 78);
    assert!(err.contains("/no/such/file.yaml"), "{err}");
}

#[test]
fn a_target_that_cannot_be_reached_is_said() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}/hook", listener.local_addr().unwrap());
    drop(listener);
    let berth = Berth::new(&SAMPLE.replace("https://partner.example/hook", &closed));
    let (exit, out, err) = check(&berth, &[]);
    assert_eq!(exit, 69, "{out}{err}");
    assert!(out.contains("deliver") && out.contains("cannot connect"), "{out}");
    assert!(err.contains("1 of 1 sources and sinks cannot be reached"), "{err}");
}

#[test]
fn other_machines_are_not_let_in_without_a_token() {
    let berth = Berth::new(&SAMPLE.replace("127.0.0.1:7300", "0.0.0.0:0"));
    let output = berth.command().output().unwrap();
    assert_eq!(told(&output).0, 78, "an open listener in the file is refused even when another is asked for");
    let berth = Berth::new(SAMPLE);
    let (exit, _, err) = told(&berth.command().args(["--listen", "0.0.0.0:0"]).output().unwrap());
    assert_eq!(exit, 78);
    assert!(err.contains("refusing to bind 0.0.0.0:0 without a token"), "{err}");
}

//! Schedules over stops, crashes and full streams, in virtual time.

use std::sync::atomic::Ordering;

use tidegate_core::config::{NoReferences, load};

use super::*;
use crate::{
    registry::SourceConfig,
    trial::{Pond, Run, clock},
};

const HOUR: Duration = Duration::from_secs(3600);

fn config(text: &str) -> CronConfig {
    let text = format!("{{ type: cron, to: jobs, {text} }}");
    let SourceConfig::Cron(config) = load(&text, "t.yaml", &NoReferences).unwrap() else { panic!("{text}") };
    config
}

fn open(text: &str, clock: &Clock) -> Arc<dyn Source> {
    let parts =
        SourceParts { name: ModuleName::new("trial").unwrap(), clock: clock.clone(), guard: None, beside: None };
    let OpenSource::Runs(source) = config(text).open(parts).unwrap() else { panic!("{text}") };
    source
}

/// Times of the events so far, as `DD HH:MM`.
fn fired(pond: &Pond) -> Vec<String> {
    let at = |event: &Event| event.time.as_ref().unwrap()[8..16].replace('T', " ");
    pond.events("jobs").iter().map(at).collect()
}

#[tokio::test(start_paused = true)]
async fn events_come_at_their_times_and_say_so() {
    let (pond, clock) = (Arc::new(Pond::default()), clock("2026-05-01T00:10:00Z"));
    let text = "schedule: '0 * * * *', event: { type: job.due, subject: nightly, data: { n: 1 } }";
    let source = open(text, &clock);
    let run = Run::start(source.clone(), &pond, &clock);
    clock.sleep(HOUR * 3).await;
    assert_eq!(fired(&pond), ["01 01:00", "01 02:00", "01 03:00"]);
    let details = source.details();
    assert_eq!(details["next"][0], "2026-05-01T04:00:00.000Z");
    assert_eq!(
        (details["next"].as_array().unwrap().len(), &details["last"]),
        (SHOWN, &"2026-05-01T03:00:00.000Z".into())
    );
    let event = pond.events("jobs").remove(0);
    assert_eq!((&*event.id, &*event.source), ("trial@2026-05-01T01:00:00.000Z", "/cron/trial"));
    assert_eq!((&*event.kind, event.subject.as_deref()), ("job.due", Some("nightly")));
    assert_eq!(event.data, Data::Json(Bytes::from_static(b"{\"n\":1}")));
    run.stop().await.unwrap();
}

/// Runs for two hours, stands still for five and a half, and runs on for an hour.
async fn over_a_stop(policy: &str, expect: &[&str], told: &str) {
    let (pond, clock) = (Arc::new(Pond::default()), clock("2026-05-01T00:10:00Z"));
    let text = format!("schedule: '0 * * * *', {policy}");
    let run = Run::start(open(&text, &clock), &pond, &clock);
    clock.sleep(HOUR * 2).await;
    run.stop().await.unwrap();
    clock.sleep(HOUR * 11 / 2).await;
    let mut run = Run::start(open(&text, &clock), &pond, &clock);
    clock.sleep(HOUR).await;
    let expect = [&["01 01:00", "01 02:00"], expect, &["01 08:00"]].concat();
    assert_eq!(fired(&pond), expect, "{policy}");
    let lines = run.told();
    assert!(lines.len() == 1 && lines[0].contains(told), "{lines:?}");
    run.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn fires_missed_over_a_stop_go_by_policy() {
    over_a_stop("missed: skip", &[], "5 fires were missed since 2026-05-01T02:").await;
    over_a_stop("missed: once", &["01 07:00"], "1 made up for").await;
    let all = ["01 03:00", "01 04:00", "01 05:00", "01 06:00", "01 07:00"];
    over_a_stop("missed: all", &all, "5 made up for").await;
    over_a_stop("missed: all, missed_max: 2", &all[3..], "2 or more fires were missed").await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_within_moments_of_a_fire_misses_nothing() {
    let (pond, clock) = (Arc::new(Pond::default()), clock("2026-05-01T00:59:50Z"));
    let text = "schedule: '0 * * * *', missed: skip";
    Run::start(open(text, &clock), &pond, &clock).stop().await.unwrap();
    clock.sleep(Duration::from_secs(20)).await;
    let run = Run::start(open(text, &clock), &pond, &clock);
    clock.sleep(Duration::from_secs(1)).await;
    assert_eq!(fired(&pond), ["01 01:00"]);
    run.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_fire_that_is_repeated_after_a_crash_is_the_same_event() {
    let (pond, clock) = (Arc::new(Pond::default()), clock("2026-05-01T00:10:00Z"));
    let text = "schedule: '0 * * * *'";
    let run = Run::start(open(text, &clock), &pond, &clock);
    clock.sleep(Duration::from_secs(60)).await;
    pond.forget.store(1, Ordering::SeqCst);
    assert!(run.end().await.is_err(), "the fire is durable, its memory is not");
    assert_eq!(fired(&pond), ["01 01:00"]);
    let run = Run::start(open(text, &clock), &pond, &clock);
    clock.sleep(HOUR + Duration::from_secs(1)).await;
    assert_eq!(fired(&pond), ["01 01:00", "01 02:00"]);
    assert_eq!(run.brought.view().duplicates, 1);
    run.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_stream_delays_a_fire_and_loses_none() {
    let (pond, clock) = (Arc::new(Pond::default()), clock("2026-05-01T00:59:00Z"));
    pond.refuse.store(20, Ordering::SeqCst);
    let run = Run::start(open("schedule: '0 * * * *', missed: skip", &clock), &pond, &clock);
    clock.sleep(Duration::from_secs(70)).await;
    assert!(run.brought.view().refused.unwrap().contains("full"));
    clock.sleep(HOUR).await;
    assert_eq!(fired(&pond), ["01 01:00", "01 02:00"]);
    run.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn another_schedule_misses_nothing_of_the_one_before() {
    let (pond, clock) = (Arc::new(Pond::default()), clock("2026-05-01T00:10:00Z"));
    let run = Run::start(open("schedule: '0 * * * *', missed: all", &clock), &pond, &clock);
    clock.sleep(HOUR).await;
    run.stop().await.unwrap();
    clock.sleep(HOUR * 4).await;
    let run = Run::start(open("schedule: '30 * * * *', missed: all", &clock), &pond, &clock);
    clock.sleep(HOUR).await;
    assert_eq!(fired(&pond), ["01 01:00", "01 05:30"]);
    run.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_night_of_a_change_fires_once() {
    // Clocks in Berlin go back on 25 October 2026 at 01:00Z, from 03:00 to 02:00.
    let (pond, clock) = (Arc::new(Pond::default()), clock("2026-10-24T12:00:00Z"));
    let text = "schedule: '30 2 * * *', zone: Europe/Berlin";
    let run = Run::start(open(text, &clock), &pond, &clock);
    clock.sleep(HOUR * 48).await;
    assert_eq!(fired(&pond), ["25 00:30", "26 01:30"]);
    run.stop().await.unwrap();
}

#[test]
fn settings_are_checked() {
    let refused = |text: &str| {
        let text = format!("{{ type: cron, to: jobs, {text} }}");
        load::<SourceConfig>(&text, "t.yaml", &NoReferences).unwrap_err().to_string()
    };
    assert!(refused("schedule: 'every day'").contains("schedule"));
    assert!(refused("schedule: '0 0 30 2 *'").contains("never fires"));
    let zone = refused("schedule: '@daily', zone: Europe/Berln");
    assert!(zone.contains("zone") && zone.contains("did you mean \"Europe/Berlin\""), "{zone}");
    assert!(refused("schedule: '@daily', missed_max: 0").contains("1 to 1000"));
    assert!(refused("schedule: '@daily', event: { type: '' }").contains("event.type"));
    assert!(refused("schedule: '@daily', missed: never").contains("missed"));
}

//! Lines over appends, rotation, cuts, stops and crashes; nothing is lost, nothing comes twice.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    sync::atomic::Ordering,
    time::Duration,
};

use tidegate_core::{
    clock::Clock,
    config::{NoReferences, load},
    event::Data,
    names::ModuleName,
};

use super::*;
use crate::{
    registry::SourceConfig,
    trial::{Pond, Run},
};

struct Scene {
    directory: tempfile::TempDir,
    pond: Arc<Pond>,
    more: String,
}

impl Scene {
    fn new(more: &str) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), pond: Arc::default(), more: more.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("in.jsonl")
    }

    fn config(&self) -> Result<SourceConfig, config::Errors> {
        let path = self.path();
        let text = format!("{{ type: file, path: '{}', to: orders, poll: 10ms{} }}", path.display(), self.more);
        load(&text, "t.yaml", &NoReferences)
    }

    fn run(&self) -> Run {
        let parts =
            SourceParts { name: ModuleName::new("trial").unwrap(), clock: Clock::real(), guard: None, beside: None };
        let OpenSource::Runs(source) = self.config().unwrap().settings().open(parts).unwrap() else { panic!() };
        Run::start(source, &self.pond, &Clock::real())
    }

    fn write(&self, text: &str) {
        append(&self.path(), text);
    }

    /// Data of the events so far.
    fn seen(&self) -> Vec<String> {
        let text = |event: tidegate_core::event::Event| String::from_utf8(event.data.bytes().to_vec()).unwrap();
        self.pond.events("orders").into_iter().map(text).collect()
    }

    async fn until(&self, expect: &[&str]) {
        let clock = Clock::real();
        let watch = clock.stopwatch();
        while self.seen() != expect {
            assert!(watch.elapsed() < Duration::from_secs(20), "{:?} is not {expect:?}", self.seen());
            clock.sleep(Duration::from_millis(2)).await;
        }
    }
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn lines_come_once_over_appends_stops_and_half_lines() {
    let scene = Scene::new("");
    let mut run = scene.run();
    run.tap.wait_for(|notice| notice.name() == "module.reported").await;
    scene.write("1\n\n2\r\n3");
    scene.until(&["1", "2"]).await;
    scene.write("4\n");
    scene.until(&["1", "2", "34"]).await;
    run.stop().await.unwrap();
    scene.write("5\n");
    let run = scene.run();
    scene.until(&["1", "2", "34", "5"]).await;
    let view = run.brought.view();
    assert_eq!((view.accepted, view.duplicates), (1, 0));
    run.stop().await.unwrap();
}

#[tokio::test]
async fn a_rotated_file_is_read_to_its_end_before_the_new_one() {
    let scene = Scene::new("");
    scene.write("1\n");
    let run = scene.run();
    scene.until(&["1"]).await;
    let aside = scene.directory.path().join("in.jsonl.1");
    let writer = OpenOptions::new().append(true).open(scene.path()).unwrap();
    fs::rename(scene.path(), &aside).unwrap();
    (&writer).write_all(b"2\n3").unwrap();
    scene.write("4\n");
    scene.until(&["1", "2", "3", "4"]).await;
    run.stop().await.unwrap();
    // And while nobody reads.
    scene.write("5\n");
    fs::rename(scene.path(), &aside).unwrap();
    scene.write("6\n");
    let run = scene.run();
    scene.until(&["1", "2", "3", "4", "5", "6"]).await;
    run.stop().await.unwrap();
}

#[tokio::test]
async fn a_file_that_was_cut_or_replaced_is_read_from_its_start_and_told() {
    let scene = Scene::new("");
    scene.write("1\n2\n");
    let run = scene.run();
    scene.until(&["1", "2"]).await;
    fs::write(scene.path(), "").unwrap();
    scene.write("1\n");
    scene.until(&["1", "2", "1"]).await;
    run.stop().await.unwrap();
    // Another file with the same first line, longer than what was read, and perhaps with the inode of the one before.
    fs::remove_file(scene.path()).unwrap();
    scene.write("9\n8\n7\n");
    let mut run = scene.run();
    scene.until(&["1", "2", "1", "9", "8", "7"]).await;
    let told = run.told();
    assert!(told.iter().any(|line| line.contains("reading from its start")), "{told:?}");
    run.stop().await.unwrap();
}

#[tokio::test]
async fn a_crash_between_publish_and_position_repeats_the_same_events() {
    let scene = Scene::new("");
    scene.write("1\n2\n");
    let run = scene.run();
    scene.until(&["1", "2"]).await;
    scene.pond.forget.store(1, Ordering::SeqCst);
    scene.write("3\n4\n");
    assert!(run.end().await.is_err());
    assert_eq!(scene.seen(), ["1", "2", "3", "4"]);
    scene.write("5\n");
    let run = scene.run();
    scene.until(&["1", "2", "3", "4", "5"]).await;
    assert_eq!(run.brought.view().duplicates, 2);
    run.stop().await.unwrap();
}

#[tokio::test]
async fn lines_that_are_no_events_are_counted_kept_and_hold_nothing_back() {
    let scene = Scene::new(", rejects: rejected, line_max: 64B");
    let long = "x".repeat(500);
    scene.write(&format!("1\nnonsense\n{{\"open\": \n{long}\n2\n"));
    let mut run = scene.run();
    scene.until(&["1", "2"]).await;
    run.tap.wait_for(|notice| matches!(notice, tidegate_core::notice::Notice::InputRejected { place, .. } if place.ends_with(":4"))).await;
    assert_eq!(run.brought.view().rejected, 3);
    let kept = scene.pond.events("rejected");
    let places: Vec<_> =
        kept.iter().map(|event| event.extension("place").unwrap().rsplit(':').next().unwrap().to_owned()).collect();
    assert_eq!(places, ["2", "3", "4"]);
    assert_eq!(kept[0].data, Data::Text("nonsense".into()));
    assert!(kept[2].extension("reason").unwrap().contains("line_max"));
    run.stop().await.unwrap();
}

#[tokio::test]
async fn events_keep_their_own_ids() {
    let scene = Scene::new(", format: cloudevents");
    let line = |id: &str| {
        format!("{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/s\",\"type\":\"t\",\"data\":{id}}}\n")
    };
    scene.write(&[line("7"), line("8"), line("7"), "{}\n".to_owned()].concat());
    let run = scene.run();
    scene.until(&["7", "8"]).await;
    run.stop().await.unwrap();
    let ids: Vec<_> = scene.pond.events("orders").iter().map(|event| event.id.to_string()).collect();
    assert_eq!(ids, ["7", "8"]);
}

#[tokio::test]
async fn a_file_that_is_not_followed_ends_with_its_last_line() {
    let scene = Scene::new(", follow: false");
    scene.write("1\n2");
    scene.run().end().await.unwrap();
    assert_eq!(scene.seen(), ["1", "2"]);
    scene.run().end().await.unwrap();
    assert_eq!(scene.seen(), ["1", "2"]);
}

#[tokio::test]
async fn a_full_stream_holds_the_reader_back_and_loses_nothing() {
    let scene = Scene::new("");
    scene.pond.refuse.store(2, Ordering::SeqCst);
    let lines: String = (0..5_000).map(|number| format!("{number}\n")).collect();
    scene.write(&lines);
    let run = scene.run();
    let expect: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
    scene.until(&expect.iter().map(String::as_str).collect::<Vec<_>>()).await;
    run.stop().await.unwrap();
}

#[test]
fn settings_are_checked() {
    let refused = |more: &str| Scene::new(more).config().unwrap_err().to_string();
    assert!(refused(", line_max: 2MiB").contains("line_max"));
    assert!(refused(", line_max: 0B").contains("1B to 1MiB"));
    assert!(refused(", format: xml").contains("format"));
    assert!(refused(", defaults: { type: '' }").contains("defaults.type"));
}

//! Programs that fork, flood, hang, die and answer wrongly.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use tidegate_core::{
    config::{NoReferences, load},
    delivery::{Lease, LeaseToken, Position},
    event::Event,
    names::StreamName,
    notice::Notices,
    service::stop,
};

use super::*;
use crate::{http::HttpClient, registry::SinkConfig};

/// A worker that does what the id of the event says.
const WORKER: &str = r#"
while read -r line; do
  token=$(printf '%s' "$line" | sed 's/.*"token":"\([^"]*\)".*/\1/')
  id=$(printf '%s' "$line" | sed 's/.*"id":"\([^"]*\)".*/\1/')
  answer() { printf '{"token":"%s","outcome":"%s"%s}\n' "$token" "$1" "$2"; }
  case $id in
    done*) answer done ;;
    retry) answer retry ',"after":"5s","reason":"not yet"' ;;
    reject) answer reject ',"reason":"bad"' ;;
    release) answer release ;;
    later) answer release ',"after":"7s"' ;;
    pid) answer reject ",\"reason\":\"$$\"" ;;
    result) answer done ',"result":{"n":1}' ;;
    text) answer done ',"result":"one\ntwo","content_type":"text/plain"' ;;
    untrue) answer retry ',"result":1' ;;
    large*) answer done ",\"result\":\"$(head -c ${id#large} /dev/zero | tr '\0' x)\"" ;;
    twice) answer done; answer reject ;;
    strange) printf '{"token":"1.1.1.1","outcome":"done"}\n'; answer done ;;
    garbage) echo 'hello, world' ;;
    word) answer perhaps ;;
    die) echo 'I cannot go on' >&2; kill -9 $$ ;;
    leave) exit 3 ;;
    hang) sleep 1000 & echo $! > child; wait ;;
    flood) yes | tr -d '\n' ;;
    shout) yes >&2 & sleep 0.2; kill $!; answer done ;;
  esac
done
"#;

struct Scene {
    directory: tempfile::TempDir,
    sink: Arc<dyn Sink>,
    cx: Context,
    _stopper: tidegate_core::service::Stopper,
}

impl Scene {
    fn new(script: &str, more: &str) -> Self {
        Self::open(script, more, false)
    }

    /// A sink whose group keeps what is answered.
    fn answering(script: &str, more: &str) -> Self {
        Self::open(script, more, true)
    }

    fn open(script: &str, more: &str, answers: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("run.sh"), script).unwrap();
        let at = directory.path().display();
        let text = format!("{{ type: exec, command: [sh, run.sh], directory: '{at}'{more} }}");
        let sink = open(&text, answers).unwrap();
        let (stopper, stop) = stop();
        let cx = Context { clock: Clock::real(), stop, notices: Notices::default() };
        Self { directory, sink, cx, _stopper: stopper }
    }

    fn worker(more: &str) -> Self {
        Self::new(WORKER, &format!(", mode: worker{more}"))
    }

    async fn handle(&self, ids: &[&str]) -> Vec<Outcome> {
        let batch: Vec<Delivery> = ids.iter().enumerate().map(|(index, id)| delivery(id, index as u64 + 1)).collect();
        self.sink.handle(&self.cx, &batch).await
    }

    async fn one(&self, id: &str) -> Outcome {
        self.handle(&[id]).await.remove(0)
    }

    /// Hands over an event and gives up on it after a moment.
    async fn give_up(&self, id: &str) {
        let path = self.directory.path().join("child");
        tokio::select! {
            outcome = self.one(id) => panic!("{outcome:?}"),
            () = until("the child is there", || pid(&path).is_some()) => {}
        }
    }

    async fn until_child_is_gone(&self) {
        let child = pid(&self.directory.path().join("child")).unwrap();
        until("the child is gone", || is_gone(child)).await;
    }
}

fn open(text: &str, answers: bool) -> Result<Arc<dyn Sink>> {
    let config: SinkConfig = load(text, "t.yaml", &NoReferences).unwrap();
    let name = ModuleName::new("run").unwrap();
    let parts = SinkParts {
        name,
        guard: None,
        beside: None,
        client: HttpClient::open().unwrap(),
        clock: Clock::real(),
        answers,
    };
    config.open(parts).map(Option::unwrap)
}

fn delivery(id: &str, position: u64) -> Delivery {
    // No two loans have one token: a late answer to one is nobody's answer to the next.
    static LOANS: AtomicU64 = AtomicU64::new(1);
    let (position, epoch) = (Position::number(position), LOANS.fetch_add(1, Ordering::Relaxed));
    Delivery {
        event: Event::new(id.to_owned(), "/test", "t"),
        stream: StreamName::new("orders").unwrap(),
        position,
        accepted_at: Timestamp::ZERO,
        attempt: 1,
        crashes: 0,
        history: Vec::new(),
        lease: Lease { token: LeaseToken { owner: 7, group: 1, position, epoch }, expires_at: Timestamp::ZERO },
    }
}

fn pid(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A process that nobody has buried yet is as gone as one that was.
fn is_gone(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']))
}

async fn until(what: &str, mut found: impl FnMut() -> bool) {
    let clock = Clock::real();
    let watch = clock.stopwatch();
    while !found() {
        assert!(watch.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}

fn class(outcome: &Outcome) -> Option<(FaultClass, &str)> {
    match outcome {
        Outcome::Failed(failure) => Some((failure.class, &failure.message)),
        Outcome::Done(_)
        | Outcome::Answered { .. }
        | Outcome::Snooze(_)
        | Outcome::Reject(_)
        | Outcome::Interrupted => None,
    }
}

#[track_caller]
fn failed(outcome: &Outcome, expect: FaultClass, word: &str) {
    let Some((class, message)) = class(outcome) else { panic!("{outcome:?} is no failure") };
    assert!(class == expect && message.contains(word), "{class}: {message}");
}

#[tokio::test]
async fn exit_codes_say_what_became_of_an_event() {
    let scene = Scene::new(
        "echo first >&2; echo \"because $(cat | sed 's/.*\"id\":\"\\([^\"]*\\)\".*/\\1/')\" >&2; exit $CODE",
        ", env: { CODE: '0' }",
    );
    assert_eq!(scene.one("a").await, Outcome::DONE);
    let code = |code: u32| async move {
        let scene = Scene::new("echo because >&2; exit $CODE", &format!(", env: {{ CODE: '{code}' }}"));
        scene.one("a").await
    };
    failed(&code(75).await, FaultClass::Transient, "to be tried again: because");
    failed(&code(1).await, FaultClass::Transient, "exit code 1");
    failed(&code(69).await, FaultClass::DependencyDown, "because");
    failed(&code(77).await, FaultClass::Auth, "denied");
    let Outcome::Reject(failure) = code(65).await else { panic!() };
    assert_eq!((failure.class, failure.message.as_str()), (FaultClass::Invalid, "exit code 65, rejected: because"));
}

#[tokio::test]
async fn a_program_sees_the_event_and_what_was_set_for_it_and_nothing_else() {
    let scene = Scene::new("cat > event; env | sort > env", ", env: { COLOUR: green }");
    assert_eq!(scene.one("17").await, Outcome::DONE);
    let read = |name: &str| std::fs::read_to_string(scene.directory.path().join(name)).unwrap();
    assert_eq!(read("event"), "{\"specversion\":\"1.0\",\"id\":\"17\",\"source\":\"/test\",\"type\":\"t\"}\n");
    let names: Vec<_> = read("env").lines().map(|line| line.split('=').next().unwrap().to_owned()).collect();
    let own = [
        "COLOUR",
        "PATH",
        "TIDEGATE_ATTEMPT",
        "TIDEGATE_GROUP",
        "TIDEGATE_POSITION",
        "TIDEGATE_STREAM",
        "TIDEGATE_TOKEN",
    ];
    // What the shell itself adds.
    let names: Vec<_> = names.iter().filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str())).collect();
    assert_eq!(names, own);
    assert!(read("env").contains("TIDEGATE_STREAM=orders\n"));
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_killed() {
    let scene = Scene::new("sleep 1000 & echo $! > child; exit 0", "");
    assert_eq!(scene.one("a").await, Outcome::DONE);
    scene.until_child_is_gone().await;
    let scene = Scene::new("sleep 1000 & echo $! > child; wait", "");
    scene.give_up("a").await;
    scene.until_child_is_gone().await;
}

#[tokio::test]
async fn a_program_that_floods_or_crashes_is_a_crash() {
    failed(&Scene::new("yes", ", output: 64KiB").one("a").await, FaultClass::Poison, "more than 65536 bytes");
    failed(&Scene::new("kill -SEGV $$", "").one("a").await, FaultClass::Poison, "signal 11");
    let scene = Scene::new("yes tick | head -n 100000 >&2; exit 75", "");
    failed(&scene.one("a").await, FaultClass::Transient, "tick");
}

#[tokio::test]
async fn memory_is_limited_from_the_first_moment() {
    let scene = Scene::new("test \"$(ulimit -v)\" = 65536", ", memory: 64MiB");
    assert_eq!(scene.one("a").await, Outcome::DONE);
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_a_missing_dependency() {
    let sink = open("{ type: exec, command: [surely-not-there] }", false).unwrap();
    let (_stopper, stop) = stop();
    let cx = Context { clock: Clock::real(), stop, notices: Notices::default() };
    let outcome = sink.handle(&cx, &[delivery("a", 1)]).await.remove(0);
    failed(&outcome, FaultClass::DependencyDown, "surely-not-there");
    assert!(sink.probe(&cx).await.unwrap_err().note().contains("surely-not-there"));
    assert!(open("{ type: exec, command: [sh] }", false).unwrap().probe(&cx).await.is_ok());
}

#[tokio::test]
async fn a_worker_answers_as_a_puller_settles_and_lives_on() {
    let scene = Scene::worker("");
    assert_eq!(scene.one("done").await, Outcome::DONE);
    let Outcome::Failed(failure) = scene.one("retry").await else { panic!() };
    assert_eq!((failure.class, failure.after), (FaultClass::Transient, Some(Duration::from_secs(5))));
    assert_eq!(failure.message, "not yet");
    assert!(matches!(scene.one("reject").await, Outcome::Reject(failure) if failure.message == "bad"));
    assert_eq!(scene.one("release").await, Outcome::Interrupted);
    assert_eq!(scene.one("later").await, Outcome::Snooze(Duration::from_secs(7)));
    let Outcome::Reject(first) = scene.one("pid").await else { panic!() };
    let Outcome::Reject(second) = scene.one("pid").await else { panic!() };
    assert_eq!(first.message, second.message, "one process for all");
}

#[tokio::test]
async fn answers_that_nobody_waits_for_are_ignored() {
    let scene = Scene::worker("");
    assert_eq!(scene.one("twice").await, Outcome::DONE);
    assert_eq!(scene.one("strange").await, Outcome::DONE);
    assert_eq!(scene.one("done").await, Outcome::DONE);
}

#[tokio::test]
async fn a_worker_that_dies_or_talks_nonsense_is_a_crash_and_another_takes_its_place() {
    let scene = Scene::worker(", output: 64KiB");
    failed(&scene.one("garbage").await, FaultClass::Poison, "hello, world");
    failed(&scene.one("word").await, FaultClass::Poison, "perhaps");
    failed(&scene.one("die").await, FaultClass::Poison, "I cannot go on");
    failed(&scene.one("leave").await, FaultClass::Poison, "exit status: 3");
    failed(&scene.one("flood").await, FaultClass::Poison, "65536 bytes");
    assert_eq!(scene.one("done").await, Outcome::DONE);
    assert_eq!(scene.one("shout").await, Outcome::DONE);
}

#[tokio::test]
async fn a_worker_that_hangs_is_killed_with_its_children() {
    let scene = Scene::worker("");
    assert_eq!(scene.one("done").await, Outcome::DONE);
    scene.give_up("hang").await;
    scene.until_child_is_gone().await;
    assert_eq!(scene.one("done").await, Outcome::DONE);
}

#[tokio::test]
async fn one_bad_event_of_a_batch_costs_the_others_nothing() {
    let scene = Scene::worker(", batch: 4");
    let outcomes = scene.handle(&["done1", "die", "done2", "reject"]).await;
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::DONE, &Outcome::DONE));
    failed(&outcomes[1], FaultClass::Poison, "worker ended");
    assert!(matches!(outcomes[3], Outcome::Reject(_)));
}

#[tokio::test]
async fn a_worker_ends_with_its_sink() {
    let scene = Scene::worker("");
    let Outcome::Reject(failure) = scene.one("pid").await else { panic!() };
    let worker: u32 = failure.message.parse().unwrap();
    assert!(!is_gone(worker));
    drop(scene);
    until("the worker is gone", || is_gone(worker)).await;
}

#[test]
fn settings_are_checked() {
    let refused = |text: &str| load::<SinkConfig>(text, "t.yaml", &NoReferences).unwrap_err().to_string();
    assert!(refused("{ type: exec, command: [] }").contains("must name a program"));
    assert!(refused("{ type: exec, command: [a], batch: 2 }").contains("mode: worker"));
    assert!(refused("{ type: exec, command: [a], memory: 1MiB }").contains("at least 16MiB"));
    assert!(refused("{ type: exec, command: [a], env: { 'A B': c } }").contains("not the name of a variable"));
    assert!(refused("{ type: exec, command: [a], env: { TIDEGATE_X: c } }").contains("set by the sink itself"));
    assert!(refused("{ type: exec, command: [a], output: 1GiB }").contains("output"));
}

fn text(kind: &str, body: &str) -> Outcome {
    Outcome::answered(Answer::new(Some(kind), body.to_owned().into()))
}

#[tokio::test]
async fn what_a_program_writes_is_its_answer() {
    let go = |script: &'static str, more: &'static str| async move { Scene::answering(script, more).one("a").await };
    assert_eq!(go("echo '{\"n\":1}'", "").await, text("application/json", "{\"n\":1}\n"));
    assert_eq!(go("echo no", "").await, text("text/plain; charset=utf-8", "no\n"));
    assert_eq!(go("printf '\\377'", "").await, {
        Outcome::answered(Answer::new(Some("application/octet-stream"), vec![0xff].into()))
    });
    assert_eq!(go("echo '<p>'", ", content_type: text/html").await, text("text/html", "<p>\n"));
    assert_eq!(go("cat > /dev/null", "").await, Outcome::answered(Answer::NOTHING));
    assert_eq!(go("head -c 300000 /dev/zero", "").await, Outcome::answered(Answer::too_large()));
    failed(&go("echo partly; exit 1", "").await, FaultClass::Transient, "exit code 1");
    assert_eq!(Scene::new("echo no", "").one("a").await, Outcome::DONE, "it is not wanted");
}

#[tokio::test]
async fn a_worker_answers_with_its_line() {
    let scene = Scene::answering(WORKER, ", mode: worker");
    assert_eq!(scene.one("result").await, text("application/json", "{\"n\":1}"));
    assert_eq!(scene.one("text").await, text("text/plain", "one\ntwo"));
    assert_eq!(scene.one("done").await, Outcome::DONE);
    failed(&scene.one("untrue").await, FaultClass::Poison, "only what is done has a result");
    let fits = (limits::RESULT_BYTES_MAX - 2).to_string();
    let Outcome::Answered { answer, .. } = scene.one(&format!("large{fits}")).await else { panic!() };
    assert_ne!(answer, Answer::too_large());
    assert_eq!(scene.one("large300000").await, Outcome::answered(Answer::too_large()));
    failed(&scene.one("large400000").await, FaultClass::Poison, "a line of more than 327680 bytes");
}

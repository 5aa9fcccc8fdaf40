//! Sources: supervised, halted and resumed by hand, and remembering where they were.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::Value;
use tidegate_core::{
    clock::{Clock, Timestamp},
    event::Event,
    fault::{FaultKind, Origin, Result, Retry},
    handler::Probe,
    names::{GroupName, ModuleName, StreamName},
    notice::{Notices, Tap},
    service::{Context, Stopper, stop},
    source::{Feed, Source},
    store::{Store, StreamSpec},
};
use tidegate_engine::{Groups, ModuleState, Modules, Publisher, Supervisor};

use crate::faulty;

/// Brings one event a second, numbered from where it stopped; crashes and goes on as it is told.
#[derive(Default)]
struct Ticker {
    waits: AtomicBool,
    crash: AtomicBool,
    ends_after: AtomicU64,
}

#[async_trait]
impl Probe for Ticker {
    async fn probe(&self, _: &Context) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Source for Ticker {
    async fn run(&self, feed: &Feed) -> Result<()> {
        let stream = StreamName::new("orders")?;
        loop {
            assert!(!self.crash.swap(false, Ordering::SeqCst), "told to crash");
            let number: u64 = feed.recall("number").await?.unwrap_or(0);
            if number == self.ends_after.load(Ordering::SeqCst) {
                return Ok(());
            }
            let event = Event::new(number.to_string(), "/ticker", "tick");
            if feed.deliver(&stream, vec![event]).await?.is_none() {
                return Ok(());
            }
            feed.keep("number", &(number + 1)).await?;
            if !feed.sleep(Duration::from_secs(1)).await {
                return Ok(());
            }
        }
    }

    fn can_wait(&self) -> bool {
        self.waits.load(Ordering::SeqCst)
    }

    fn details(&self) -> Value {
        serde_json::json!({ "what": "ticks" })
    }
}

struct Scene {
    store: Arc<dyn Store>,
    clock: Clock,
    stopper: Stopper,
    supervisor: Supervisor,
    modules: Modules,
    tap: Tap,
    ticker: Arc<Ticker>,
}

impl Scene {
    async fn open() -> Self {
        let clock = Clock::following_tokio(Timestamp::from_millis(1_000_000));
        let store = faulty::open(&faulty::Disk::default(), &clock, &Notices::default());
        let spec = StreamSpec { dedupe: None, ..StreamSpec::new(StreamName::new("orders").unwrap()) };
        store.declare_stream(&spec).await.unwrap();
        let ticker = Arc::new(Ticker::default());
        ticker.waits.store(true, Ordering::SeqCst);
        ticker.ends_after.store(u64::MAX, Ordering::SeqCst);
        Self::over(store, clock, ticker).await
    }

    /// A node over a store that was used before.
    async fn over(store: Arc<dyn Store>, clock: Clock, ticker: Arc<Ticker>) -> Self {
        let (stopper, stop) = stop();
        let notices = Notices::default();
        let tap = notices.tap();
        let cx = Context { clock: clock.clone(), stop, notices };
        let supervisor = Supervisor::new(cx.clone());
        let groups = Groups::new(store.clone(), cx.clone(), supervisor.clone(), "f".into());
        let publisher = Publisher::new(store.clone(), cx.clone());
        let modules = Modules::new(store.clone(), cx, supervisor.clone(), publisher, groups);
        let (name, stream) = (ModuleName::new("tick").unwrap(), StreamName::new("orders").unwrap());
        modules.add_source(&name, "ticker", &stream, ticker.clone()).await.unwrap();
        Self { store, clock, stopper, supervisor, modules, tap, ticker }
    }

    async fn pass(&self, seconds: u64) {
        self.clock.sleep(Duration::from_secs(seconds)).await;
    }

    async fn count(&self) -> u64 {
        self.store.streams().await.unwrap().iter().find(|one| one.name.as_str() == "orders").unwrap().count
    }

    fn state(&self) -> ModuleState {
        self.modules.view("tick").unwrap().state
    }

    /// Tells whether events come in within the next seconds.
    async fn flows(&self) -> bool {
        let before = self.count().await;
        self.pass(5).await;
        self.count().await > before
    }

    async fn restart(self) -> Self {
        self.stopper.drain();
        assert_eq!(self.supervisor.join(Duration::from_secs(5)).await, Vec::<String>::new());
        Self::over(self.store, self.clock, self.ticker).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_runs_until_the_node_drains_and_remembers_where_it_was() {
    let scene = Scene::open().await;
    assert!(scene.flows().await);
    let view = scene.modules.view("tick").unwrap();
    assert_eq!((view.state, view.details["what"].as_str()), (ModuleState::Running, Some("ticks")));
    let before = scene.count().await;
    let scene = scene.restart().await;
    assert!(scene.flows().await);
    let accepted = scene.modules.view("tick").unwrap().brought.accepted;
    assert_eq!(scene.count().await, before + accepted);
    let page = scene.store.read(&StreamName::new("orders").unwrap(), Default::default(), 1000).await.unwrap();
    let ids: Vec<String> = page.items.iter().map(|stored| stored.event.id.to_string()).collect();
    assert_eq!(ids, (0..ids.len()).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_wish_holds_over_a_restart() {
    let scene = Scene::open().await;
    scene.modules.pause("tick", "ops", "too loud", None).await.unwrap();
    scene.pass(1).await;
    assert!(!scene.flows().await);
    assert_eq!(scene.state(), ModuleState::Paused);
    let mut scene = scene.restart().await;
    assert!(!scene.flows().await);
    let halted = scene.modules.view("source.tick").unwrap().halted.unwrap();
    assert_eq!((halted.by.as_str(), halted.reason.as_str()), ("ops", "too loud"));
    scene.modules.resume("tick", "ops").await.unwrap();
    assert!(scene.flows().await);
    assert!(scene.tap.drain().iter().any(|notice| notice.name() == "source.resumed"));
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_by_itself_also_when_its_end_passes_while_the_node_is_down() {
    let scene = Scene::open().await;
    let until = scene.clock.now().plus(Duration::from_secs(60));
    scene.modules.pause("tick", "ops", "", Some(until)).await.unwrap();
    scene.pass(50).await;
    assert!(!scene.flows().await);
    scene.pass(10).await;
    assert!(scene.flows().await);
    let until = scene.clock.now().plus(Duration::from_secs(60));
    scene.modules.pause("tick", "ops", "", Some(until)).await.unwrap();
    let scene = scene.restart().await;
    scene.pass(61).await;
    assert!(scene.flows().await);
    assert_eq!(scene.state(), ModuleState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_disabled_source_is_not_resumed_but_enabled() {
    let scene = Scene::open().await;
    scene.modules.disable("tick", "ops", "broken").await.unwrap();
    scene.pass(1).await;
    assert_eq!((scene.state(), scene.flows().await), (ModuleState::Disabled, false));
    for refused in [scene.modules.resume("tick", "ops").await, scene.modules.pause("tick", "ops", "", None).await] {
        assert_eq!(refused.unwrap_err().kind, FaultKind::Conflict);
    }
    let scene = scene.restart().await;
    assert_eq!((scene.state(), scene.flows().await), (ModuleState::Disabled, false));
    scene.modules.enable("tick", "ops").await.unwrap();
    assert!(scene.flows().await);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_wait_is_read_while_it_is_paused() {
    let scene = Scene::open().await;
    scene.ticker.waits.store(false, Ordering::SeqCst);
    let until = scene.clock.now().plus(Duration::from_secs(30));
    scene.modules.pause("tick", "ops", "", Some(until)).await.unwrap();
    scene.pass(1).await;
    assert_eq!((scene.state(), scene.flows().await), (ModuleState::Paused, true));
    scene.pass(30).await;
    assert_eq!((scene.state(), scene.flows().await), (ModuleState::Running, true));
    scene.modules.disable("tick", "ops", "").await.unwrap();
    scene.pass(1).await;
    assert!(!scene.flows().await);
}

#[tokio::test(start_paused = true)]
async fn a_crashed_source_is_started_again_and_shows_it() {
    let mut scene = Scene::open().await;
    scene.ticker.crash.store(true, Ordering::SeqCst);
    let restarted = scene.tap.wait_for(|notice| notice.name() == "service.restarted").await;
    assert!(restarted.is_some());
    assert!(scene.flows().await);
    let view = scene.modules.view("tick").unwrap();
    assert_eq!((view.state, view.restarts), (ModuleState::Running, 1));
    assert!(view.fault.unwrap().1.contains("told to crash"));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_brought_everything_has_ended() {
    let scene = Scene::open().await;
    scene.ticker.ends_after.store(3, Ordering::SeqCst);
    scene.pass(10).await;
    assert_eq!((scene.state(), scene.count().await), (ModuleState::Ended, 3));
    assert_eq!(scene.supervisor.services().len(), 1, "it can be paused and resumed still");
}

#[tokio::test(start_paused = true)]
async fn an_entrance_refuses_and_says_when_to_come_again() {
    let scene = Scene::open().await;
    let (name, stream) = (ModuleName::new("intake").unwrap(), StreamName::new("orders").unwrap());
    let entrance = scene.modules.add_entrance(&name, "http", &stream).await.unwrap();
    assert!(entrance.check().is_ok());
    let until = scene.clock.now().plus(Duration::from_secs(90));
    scene.modules.pause("intake", "ops", "partner moves", Some(until)).await.unwrap();
    let refused = entrance.check().unwrap_err();
    assert_eq!((refused.kind, refused.retry), (FaultKind::Unavailable, Retry::After(Duration::from_secs(90))));
    assert_eq!(refused.origin, Origin::Tidegate);
    assert!(refused.note().contains("ops") && refused.note().contains("partner moves"), "{refused}");
    scene.pass(91).await;
    assert!(entrance.check().is_ok());
}

#[tokio::test(start_paused = true)]
async fn unknown_and_ambiguous_names_are_refused() {
    let scene = Scene::open().await;
    assert_eq!(scene.modules.view("tock").unwrap_err().kind, FaultKind::Missing);
    assert_eq!(scene.modules.view("sink.tick").unwrap_err().kind, FaultKind::Missing);
    let (group, stream) = (GroupName::new("tick").unwrap(), StreamName::new("orders").unwrap());
    // The group itself is of no matter here.
    scene.modules.add_sink(&group, "pull", &stream).await.unwrap();
    let note = scene.modules.view("tick").unwrap_err().note().to_owned();
    assert!(note.contains("source.tick") && note.contains("sink.tick"), "{note}");
    assert_eq!(scene.modules.view("source.tick").unwrap().kind, "ticker");
}

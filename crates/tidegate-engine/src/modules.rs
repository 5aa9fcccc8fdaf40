//! All sources and sinks of a node by name: what runs, what somebody paused or disabled, and what each knows of itself.
//!
//! A sink runs inside its group, so to pause it is to pause the group: there is no second mechanism.
//!
//! **Invariant:** a wish is durable before it is carried out, and it is carried out again after a restart.

mod entrance;
mod runner;

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tidegate_core::{
    clock::Timestamp,
    fault::{Fault, Result},
    names::{GroupName, ModuleName, StreamName},
    notice::Notice,
    service::Context,
    source::{Brought, BroughtView, Source},
    store::Store,
};
use tokio::sync::watch;

pub use self::entrance::Entrance;
use self::runner::Runner;
use crate::{
    group::Pause,
    groups::Groups,
    peers::{ELSEWHERE, Heed, Round},
    publisher::Publisher,
    supervisor::Supervisor,
};

/// All modules of a node. Cheap to clone.
#[derive(Clone)]
pub struct Modules(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    cx: Context,
    supervisor: Supervisor,
    publisher: Publisher,
    groups: Groups,
    /// By direction and name: a source and a sink may have one name.
    modules: RwLock<BTreeMap<(Direction, ModuleName), Arc<Module>>>,
}

impl fmt::Debug for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modules = self.0.modules.read();
        f.debug_tuple("Modules").field(&modules.keys().map(|(_, name)| name.clone()).collect::<Vec<_>>()).finish()
    }
}

/// Whether events come in or go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// In.
    Source,
    /// Out.
    Sink,
}

impl Direction {
    /// Returns the word used in answers, and before a name that is not unique.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Sink => "sink",
        }
    }
}

/// What a module does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleState {
    /// It works.
    Running,
    /// Somebody paused it.
    Paused,
    /// Somebody disabled it.
    Disabled,
    /// It brought all there was.
    Ended,
    /// It crashed and is started again after a wait.
    Failing,
}

impl ModuleState {
    /// Returns the word used in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Ended => "ended",
            Self::Failing => "failing",
        }
    }
}

/// Where a module stands.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleView {
    /// Its name; a sink has that of its group.
    pub name: ModuleName,
    /// In or out.
    pub direction: Direction,
    /// Its type in the configuration.
    pub kind: &'static str,
    /// The stream into which it brings, or whose events it takes.
    pub stream: StreamName,
    /// What it does now.
    pub state: ModuleState,
    /// Who halted it, why and until when.
    pub halted: Option<Pause>,
    /// The last crash: when, and what happened.
    pub fault: Option<(Timestamp, String)>,
    /// How often it was started again after a crash.
    pub restarts: u64,
    /// What it brought; zeros for what does not count here.
    pub brought: BroughtView,
    /// What it knows of itself.
    pub details: Value,
}

/// What stands behind a module's name.
enum Body {
    /// Somebody else takes its events in and asks the entrance.
    Entrance(Arc<Entrance>),
    Source(Arc<dyn Source>),
    Group(GroupName),
}

struct Module {
    direction: Direction,
    name: ModuleName,
    kind: &'static str,
    stream: StreamName,
    body: Body,
    halted: watch::Sender<Option<Pause>>,
    /// One change of what is wanted at a time: first the store, then here.
    changing: tokio::sync::Mutex<()>,
    brought: Arc<Brought>,
    run: Mutex<RunState>,
}

/// How the running of a source goes.
#[derive(Debug, Clone, Default)]
struct RunState {
    is_failing: bool,
    has_ended: bool,
    restarts: u64,
    fault: Option<(Timestamp, String)>,
}

impl Modules {
    /// Makes a node's modules, none yet.
    pub fn new(
        store: Arc<dyn Store>,
        cx: Context,
        supervisor: Supervisor,
        publisher: Publisher,
        groups: Groups,
    ) -> Self {
        Self(Arc::new(Inner { store, cx, supervisor, publisher, groups, modules: RwLock::default() }))
    }

    /// Adds a source whose events somebody else takes in, and restores what was wanted of it. Whoever takes events in
    /// asks the entrance first.
    pub async fn add_entrance(
        &self,
        name: &ModuleName,
        kind: &'static str,
        stream: &StreamName,
    ) -> Result<Arc<Entrance>> {
        let entrance = Arc::new(Entrance::new(name.clone(), self.0.cx.clock.clone()));
        self.add(name, kind, stream, Body::Entrance(entrance.clone())).await?;
        Ok(entrance)
    }

    /// Adds a source, restores what was wanted of it and runs it.
    pub async fn add_source(
        &self,
        name: &ModuleName,
        kind: &'static str,
        stream: &StreamName,
        source: Arc<dyn Source>,
    ) -> Result<()> {
        self.add(name, kind, stream, Body::Source(source)).await
    }

    /// Adds the sink of a group that is there already.
    pub async fn add_sink(&self, group: &GroupName, kind: &'static str, stream: &StreamName) -> Result<()> {
        let name = ModuleName::new(group.as_str())?;
        self.add(&name, kind, stream, Body::Group(group.clone())).await
    }

    /// Adds a source whose work a group does that is there already.
    pub async fn add_forwarder(
        &self,
        name: &ModuleName,
        kind: &'static str,
        stream: &StreamName,
        group: &GroupName,
    ) -> Result<()> {
        self.add_to(Direction::Source, name, kind, stream, Body::Group(group.clone())).await
    }

    async fn add(&self, name: &ModuleName, kind: &'static str, stream: &StreamName, body: Body) -> Result<()> {
        let direction = match body {
            Body::Entrance(_) | Body::Source(_) => Direction::Source,
            Body::Group(_) => Direction::Sink,
        };
        self.add_to(direction, name, kind, stream, body).await
    }

    async fn add_to(
        &self,
        direction: Direction,
        name: &ModuleName,
        kind: &'static str,
        stream: &StreamName,
        body: Body,
    ) -> Result<()> {
        let halted = match &body {
            Body::Entrance(_) | Body::Source(_) => runner::restore(&*self.0.store, name).await?,
            Body::Group(_) => None,
        };
        let module = Arc::new(Module {
            direction,
            name: name.clone(),
            kind,
            stream: stream.clone(),
            body,
            halted: watch::Sender::new(None),
            changing: tokio::sync::Mutex::new(()),
            brought: Arc::default(),
            run: Mutex::default(),
        });
        module.halt(halted);
        let before = self.0.modules.write().insert((direction, name.clone()), module.clone());
        if before.is_some() {
            return Err(Fault::conflict(format!("{} {name} exists", direction.as_str())));
        }
        if !matches!(module.body, Body::Group(_)) {
            self.0.supervisor.service(Arc::new(Runner { module, node: self.0.clone() }));
        }
        Ok(())
    }

    /// Returns where all modules stand: sources first, then sinks, each by name.
    pub fn list(&self) -> Result<Vec<ModuleView>> {
        let modules: Vec<_> = self.0.modules.read().values().cloned().collect();
        modules.iter().map(|module| self.look(module)).collect()
    }

    /// Returns where a module stands. `source.NAME` and `sink.NAME` tell apart those that share a name.
    pub fn view(&self, name: &str) -> Result<ModuleView> {
        self.look(&*self.find(name)?)
    }

    fn find(&self, name: &str) -> Result<Arc<Module>> {
        let modules = self.0.modules.read();
        let by_name =
            |of: &str| modules.values().filter(|module| module.name.as_str() == of).cloned().collect::<Vec<_>>();
        let mut found = by_name(name);
        if found.is_empty()
            && let Some((direction, rest)) = name.split_once('.')
        {
            found = by_name(rest).into_iter().filter(|module| module.direction.as_str() == direction).collect();
        }
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Fault::missing(format!("there is no module {name:?}"))),
            _ => {
                Err(Fault::conflict(format!("there is a source and a sink {name:?}: say source.{name} or sink.{name}")))
            }
        }
    }

    fn look(&self, module: &Module) -> Result<ModuleView> {
        let halted = self.halted(module)?;
        let run = module.run.lock().clone();
        let state = match &halted {
            Some(pause) if pause.disabled => ModuleState::Disabled,
            Some(_) => ModuleState::Paused,
            None if run.is_failing => ModuleState::Failing,
            None if run.has_ended => ModuleState::Ended,
            None => ModuleState::Running,
        };
        let details = match &module.body {
            Body::Source(source) => source.details(),
            Body::Entrance(_) | Body::Group(_) => Value::Null,
        };
        Ok(ModuleView {
            name: module.name.clone(),
            direction: module.direction,
            kind: module.kind,
            stream: module.stream.clone(),
            state,
            halted,
            fault: run.fault,
            restarts: run.restarts,
            brought: module.brought.view(),
            details,
        })
    }

    fn halted(&self, module: &Module) -> Result<Option<Pause>> {
        match &module.body {
            Body::Group(group) => self.0.groups.halted(group),
            Body::Entrance(_) | Body::Source(_) => Ok(module.halted.borrow().clone()),
        }
    }

    /// Pauses a module, durably. A source that can refuse refuses, one that can wait stops reading, a sink's group stops
    /// claiming.
    pub async fn pause(&self, name: &str, by: &str, reason: &str, until: Option<Timestamp>) -> Result<()> {
        let module = self.find(name)?;
        let at = self.0.cx.clock.now();
        if until.is_some_and(|until| until <= at) {
            return Err(Fault::invalid(format!("module {name} cannot be paused until a time that has passed")));
        }
        self.refuse_disabled(&module, "paused")?;
        self.halt(&module, Pause { by: by.to_owned(), reason: reason.to_owned(), at, until, disabled: false }).await
    }

    /// Lets a paused module go on; does nothing when it is not paused.
    pub async fn resume(&self, name: &str, by: &str) -> Result<()> {
        let module = self.find(name)?;
        self.refuse_disabled(&module, "resumed")?;
        self.go_on(&module, by).await
    }

    /// Turns a module off for good, durably.
    pub async fn disable(&self, name: &str, by: &str, reason: &str) -> Result<()> {
        let module = self.find(name)?;
        let at = self.0.cx.clock.now();
        self.halt(&module, Pause { by: by.to_owned(), reason: reason.to_owned(), at, until: None, disabled: true })
            .await
    }

    /// Turns a disabled module on again; does nothing when it is not disabled.
    pub async fn enable(&self, name: &str, by: &str) -> Result<()> {
        let module = self.find(name)?;
        if !self.halted(&module)?.is_some_and(|pause| pause.disabled) {
            return Ok(());
        }
        self.go_on(&module, by).await
    }

    fn refuse_disabled(&self, module: &Module, what: &str) -> Result<()> {
        match self.halted(module)?.filter(|pause| pause.disabled) {
            Some(_) => {
                let name = &module.name;
                Err(Fault::conflict(format!("module {name} is disabled and cannot be {what}; enable it first")))
            }
            None => Ok(()),
        }
    }

    async fn halt(&self, module: &Arc<Module>, pause: Pause) -> Result<()> {
        match &module.body {
            Body::Group(group) => self.0.groups.halt(group, pause).await,
            Body::Entrance(_) | Body::Source(_) => {
                let _changing = module.changing.lock().await;
                runner::keep(&*self.0.store, &module.name, Some(&pause)).await?;
                self.0.halted(module, pause);
                Ok(())
            }
        }
    }

    async fn go_on(&self, module: &Arc<Module>, by: &str) -> Result<()> {
        match &module.body {
            Body::Group(group) => self.0.groups.resume(group, by).await,
            Body::Entrance(_) | Body::Source(_) => self.0.go_on(module, by).await,
        }
    }
}

impl Inner {
    async fn go_on(&self, module: &Module, by: &str) -> Result<()> {
        let _changing = module.changing.lock().await;
        if module.halted.borrow().is_none() {
            return Ok(());
        }
        runner::keep(&*self.store, &module.name, None).await?;
        self.went_on(module, by);
        Ok(())
    }

    fn halted(&self, module: &Module, pause: Pause) {
        let Pause { by, reason, until, disabled, .. } = pause.clone();
        module.halt(Some(pause));
        let name = module.name.clone();
        self.cx.notices.emit(&Notice::SourceHalted { module: name, disabled, by, reason, until });
    }

    fn went_on(&self, module: &Module, by: &str) {
        module.halt(None);
        self.cx.notices.emit(&Notice::SourceResumed { module: module.name.clone(), by: by.to_owned() });
    }

    /// Takes over what the store has; called by whoever holds `changing`.
    async fn take_over(&self, module: &Module) -> Result<()> {
        let wanted = runner::restore(&*self.store, &module.name).await?;
        let known = module.halted.borrow().clone();
        match wanted {
            Some(pause) if known.as_ref() != Some(&pause) => self.halted(module, pause),
            None if known.is_some() => self.went_on(module, ELSEWHERE),
            Some(_) | None => {}
        }
        Ok(())
    }
}

#[async_trait]
impl Heed for Modules {
    fn prefix(&self) -> &'static str {
        "source/"
    }

    async fn heed(&self, round: &Round) -> Result<()> {
        let modules: Vec<_> = self.0.modules.read().values().cloned().collect();
        for module in modules.iter().filter(|module| !matches!(module.body, Body::Group(_))) {
            if runner::told(&round.told, &module.name)? != *module.halted.borrow() {
                let _changing = module.changing.lock().await;
                self.0.take_over(module).await?;
            }
        }
        Ok(())
    }
}

impl Module {
    fn halt(&self, pause: Option<Pause>) {
        if let Body::Entrance(entrance) = &self.body {
            entrance.halt(pause.as_ref());
        }
        self.halted.send_modify(|halted| *halted = pause);
    }
}

//! Engines beside that of the node: opened when somebody needs them, kept up while they are open, closed at the end.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use tidegate_core::{
    clock::{Clock, Stopwatch},
    fault::{Fault, Result},
    names::{EngineName, StreamName},
    notice::Notices,
    service::{Context, Service},
    store::{Beside, DedupeWindow, Store, StreamSpec},
};
use tidegate_engine::Supervisor;
use tidegate_store::Opening;
use tokio::sync::Mutex;

use crate::{
    config::{BesideConfig, Config, Engine},
    preflight::Checked,
};

/// Time after a failed try to open in which others are answered with its fault.
const REST: Duration = Duration::from_secs(1);
/// Period of the upkeep of what is open.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a stream that is made in another engine knows repeats: longer than what passes events on is down.
const WINDOW: Duration = Duration::from_secs(86_400);

/// All of them by name.
#[derive(Clone, Default)]
pub(crate) struct Engines(BTreeMap<EngineName, Arc<Opened>>);

/// One of them.
struct Opened {
    name: EngineName,
    opening: Opening,
    /// How the streams of the node are made.
    specs: BTreeMap<StreamName, StreamSpec>,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    live: Option<Arc<dyn Store>>,
    failed: Option<(Stopwatch, Fault)>,
    is_closed: bool,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Opened").field(&self.name).finish()
    }
}

impl Engines {
    /// Knows them, and keeps up those that are opened.
    pub(crate) fn start(config: &Config, cx: &Context, supervisor: &Supervisor) -> Self {
        let specs: BTreeMap<_, _> =
            config.streams.iter().map(|(name, stream)| (name.clone(), stream.spec(name))).collect();
        let open = |(name, beside): (&EngineName, &BesideConfig)| {
            let opening = opening(config, name, beside, &cx.clock, &cx.notices);
            let opened = Opened { name: name.clone(), opening, specs: specs.clone(), slot: Mutex::default() };
            (name.clone(), Arc::new(opened))
        };
        let engines = Self(config.engines.iter().map(open).collect());
        engines.0.values().for_each(|opened| supervisor.service(Arc::new(Keep(opened.clone()))));
        engines
    }

    /// Finds one by its name.
    pub(crate) fn find(&self, name: Option<&EngineName>) -> Option<Arc<dyn Beside>> {
        Some(self.0.get(name?)?.clone())
    }

    /// Closes those that are open.
    pub(crate) async fn close(&self) {
        for opened in self.0.values() {
            let mut slot = opened.slot.lock().await;
            slot.is_closed = true;
            if let Some(store) = slot.live.take()
                && let Err(fault) = store.close().await
            {
                tracing::error!("close engine {}: {fault}", opened.name);
            }
        }
    }
}

fn opening(config: &Config, name: &EngineName, beside: &BesideConfig, clock: &Clock, notices: &Notices) -> Opening {
    Opening {
        engine: beside.engine.as_str().to_owned(),
        // An engine on a server keeps copies of its own there.
        data: beside.data.clone().unwrap_or_else(|| config.node.data.join("engines").join(name.as_str())),
        disk_reserve: config.node.disk_reserve.get(),
        // It must not be taken for a node of that name that works there.
        node: format!("{}.{name}", config.node.name),
        redis: beside.redis.settings(),
        postgres: beside.postgres.settings(),
        nats: beside.nats.settings(),
        clock: clock.clone(),
        notices: notices.clone(),
    }
}

/// Looks at the servers of all, and at the stores of those that are embedded.
pub(crate) async fn look(config: &Config) -> Vec<Checked> {
    let mut all = Vec::new();
    for (name, beside) in &config.engines {
        let opening = opening(config, name, beside, &Clock::real(), &Notices::default());
        let within = |found: String| format!("{name}: {found}");
        all.push(match tidegate_store::look(&opening).await {
            Some(look) => Checked {
                name: "engines",
                found: within(look.found),
                required: look.required,
                ok: look.ok,
                warning: look.warning,
            },
            None => {
                let found = holds_store(&opening.data);
                let ok = found.is_ok();
                let found = found
                    .err()
                    .unwrap_or_else(|| format!("a store of the embedded engine in {}", opening.data.display()));
                Checked { name: "engines", found: within(found), required: "a store".to_owned(), ok, warning: None }
            }
        });
    }
    all
}

fn holds_store(data: &Path) -> Result<(), String> {
    let found = tidegate_store::formats(data).0;
    found.map(drop).ok_or_else(|| format!("there is no store in {}", data.display()))
}

#[async_trait]
impl Beside for Opened {
    fn name(&self) -> &EngineName {
        &self.name
    }

    async fn store(&self) -> Result<Arc<dyn Store>> {
        let mut slot = self.slot.lock().await;
        if let Some(live) = &slot.live {
            return Ok(live.clone());
        }
        if slot.is_closed {
            return Err(Fault::conflict("the node stops"));
        }
        if let Some((since, fault)) = &slot.failed
            && since.elapsed() < REST
        {
            return Err(fault.clone());
        }
        if self.opening.engine == Engine::Embedded.as_str() {
            // One that is not there would be made, and nobody wants it.
            holds_store(&self.opening.data).map_err(Fault::missing)?;
        }
        match tidegate_store::open_engine(self.opening.clone()).await {
            Ok(store) => {
                *slot = Slot { live: Some(store.clone()), ..Slot::default() };
                Ok(store)
            }
            Err(fault) => {
                slot.failed = Some((self.opening.clock.stopwatch(), fault.clone()));
                Err(fault)
            }
        }
    }

    fn spec(&self, stream: &StreamName) -> StreamSpec {
        self.specs.get(stream).cloned().unwrap_or_else(|| {
            let usual = StreamSpec::new(stream.clone());
            let dedupe = usual.dedupe.clone().map(|window| DedupeWindow { window: WINDOW, ..window });
            StreamSpec { dedupe, ..usual }
        })
    }
}

/// Keeps one up while it is open.
struct Keep(Arc<Opened>);

#[async_trait]
impl Service for Keep {
    fn name(&self) -> String {
        format!("engine/{}", self.0.name)
    }

    async fn run(&self, cx: Context) -> Result<()> {
        let mut told = false;
        loop {
            let live = self.0.slot.lock().await.live.clone();
            let kept = match live {
                Some(store) => store.upkeep().await,
                None => Ok(()),
            };
            if let Err(fault) = &kept
                && !told
            {
                tracing::warn!("upkeep of engine {}: {fault}", self.0.name);
            }
            told = kept.is_err();
            tokio::select! {
                () = cx.stop.draining() => return Ok(()),
                () = cx.clock.sleep(UPKEEP_EVERY) => {}
            }
        }
    }
}

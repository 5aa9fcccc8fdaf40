//! Looks at the node every few seconds: rates and delays of the last minute, figures by the hour, and what deserves a
//! warning. What is asked for in between is answered from here, so that asking costs the node nothing.

pub(crate) mod hours;
pub(crate) mod sample;
pub(crate) mod warn;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidegate_core::{
    clock::Timestamp,
    fault::Result,
    notice::Notice,
    service::{Context, StopPhase},
    store::own_key,
};
use tidegate_engine::Task;

pub use self::warn::WarnPolicy;
use self::{hours::Hours, sample::Sample, warn::Warner};
use crate::{
    api::Api,
    health::{self, Component},
};

/// Time between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Looks that are kept: rates and delays are those of about a minute.
const LOOKS: usize = 13;
/// Time between two writes of the figures of the hour.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// What was seen of the node.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    looks: Mutex<VecDeque<Arc<Sample>>>,
    hours: Mutex<Hours>,
    warner: Mutex<Warner>,
    kept_at: Mutex<Option<Timestamp>>,
}

impl Observed {
    /// Returns the oldest look that is kept: what rates are counted from.
    pub(crate) fn baseline(&self) -> Option<Arc<Sample>> {
        self.looks.lock().front().map(Arc::clone)
    }

    /// Returns the newest look.
    pub(crate) fn newest(&self) -> Option<Arc<Sample>> {
        self.looks.lock().back().map(Arc::clone)
    }

    /// Takes over the figures that were kept when the node stopped.
    pub(crate) async fn restore(&self, api: &Api) -> Result<()> {
        let own = own_key(&*api.store, hours::PREFIX);
        let mut states = api.store.states(&own).await?;
        for (key, _) in &mut states {
            key.replace_range(..own.len(), hours::PREFIX);
        }
        self.hours.lock().restore(&states);
        let first = Arc::new(Sample::take(api).await?);
        self.looks.lock().push_back(first);
        Ok(())
    }

    /// Looks once.
    pub(crate) async fn look(&self, api: &Api) -> Result<()> {
        let now = match Sample::take(api).await {
            Ok(now) => Arc::new(now),
            // That the store is away is a change of health itself, and must not wait until it is back.
            Err(fault) => {
                self.warn(api, |warner, health| warner.look_at_health(health));
                return Err(fault);
            }
        };
        let before = self.newest();
        {
            let mut hours = self.hours.lock();
            hours.add(&now, before.as_deref());
            hours.add_slowest(now.at, api.metrics.take_slowest());
        }
        let oldest = {
            let mut looks = self.looks.lock();
            // Looks in between, for somebody who asks, must not make the window shorter.
            let between = |looks: &VecDeque<Arc<Sample>>| {
                let newest = looks.iter().rev().nth(1).zip(looks.back());
                newest.is_some_and(|(one, two)| two.at.since(one.at) < LOOK_EVERY)
            };
            if between(&looks) {
                looks.pop_back();
            }
            looks.push_back(Arc::clone(&now));
            while looks.len() > LOOKS {
                looks.pop_front();
            }
            looks.front().map(Arc::clone)
        };
        self.warn(api, |warner, health| warner.look(&api.warnings, &now, oldest.as_deref(), health));
        let due = self.kept_at.lock().is_none_or(|at| now.at.since(at) >= KEEP_EVERY);
        if due { self.keep(api).await } else { Ok(()) }
    }

    fn warn(&self, api: &Api, look: impl FnOnce(&mut Warner, &[Component]) -> Vec<Notice>) {
        // That a node is on its way down is told once, as what it is, and not as an illness of each of its parts.
        if api.cx.stop.phase() == StopPhase::Running {
            let health = health::components(api);
            let told = look(&mut self.warner.lock(), &health);
            for notice in &told {
                api.cx.notices.emit(notice);
            }
        }
    }

    /// Writes the figures of the hour that changed.
    pub(crate) async fn keep(&self, api: &Api) -> Result<()> {
        *self.kept_at.lock() = Some(api.cx.clock.now());
        let changed = self.hours.lock().changed(api.cx.clock.now());
        for (key, value) in changed {
            api.store.put_state(&own_key(&*api.store, &key), value.as_deref()).await?;
        }
        Ok(())
    }

    /// Returns the figures of the last hours, the running one included.
    pub(crate) fn report(&self, now: Timestamp, hours: u32) -> hours::Report {
        self.hours.lock().report(now, hours)
    }
}

/// Looks at the node on a period.
pub(crate) struct Observer(pub(crate) Arc<Api>);

#[async_trait]
impl Task for Observer {
    fn name(&self) -> String {
        "observe".to_owned()
    }

    fn every(&self) -> Duration {
        LOOK_EVERY
    }

    async fn activate(&self, _cx: &Context) -> Result<()> {
        self.0.observed.look(&self.0).await
    }
}

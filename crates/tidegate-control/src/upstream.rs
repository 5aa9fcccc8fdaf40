//! What the node needs outside: asked now and then whether it is there, so that health answers at once.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Serialize;
use tidegate_core::{
    clock::Timestamp,
    fault::{Fault, Origin, Result},
    handler::Probe,
    names::TargetName,
    service::Context,
};
use tidegate_engine::Task;
use utoipa::ToSchema;

use crate::api::Api;

/// Time between two rounds.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// Longest probe.
const PROBE_MAX: Duration = Duration::from_secs(10);

/// Something outside that the node needs.
#[derive(Clone)]
pub struct Upstream {
    /// Its name: that of the group whose sink needs it.
    pub name: String,
    /// The target behind it.
    pub target: Option<TargetName>,
    /// Tries to reach it.
    pub probe: Arc<dyn Probe>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What the last probe came to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Probed {
    /// Its name: that of the group whose sink needs it.
    pub(crate) name: String,
    pub(crate) target: Option<String>,
    /// Whether it was reached; null when it was not tried yet.
    pub(crate) reachable: Option<bool>,
    /// Why it was not reached.
    pub(crate) fault: Option<String>,
    /// When it was tried last.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) at: Option<Timestamp>,
    pub(crate) took_ms: Option<u64>,
}

/// Everything outside that the node needs.
#[derive(Debug)]
pub(crate) struct Upstreams {
    all: Vec<Upstream>,
    probed: Mutex<Vec<Probed>>,
}

impl Upstreams {
    pub(crate) fn new(all: Vec<Upstream>) -> Self {
        let unknown = |upstream: &Upstream| Probed {
            name: upstream.name.clone(),
            target: upstream.target.as_ref().map(ToString::to_string),
            reachable: None,
            fault: None,
            at: None,
            took_ms: None,
        };
        Self { probed: Mutex::new(all.iter().map(unknown).collect()), all }
    }

    /// Returns what the last probes came to.
    pub(crate) fn list(&self) -> Vec<Probed> {
        self.probed.lock().clone()
    }

    /// Tries those of this name, or behind a target of this name, now.
    pub(crate) async fn probe(&self, name: &str, cx: &Context) -> Result<Vec<Probed>> {
        let of_name = |upstream: &&Upstream| {
            upstream.name == name || upstream.target.as_ref().is_some_and(|target| target.as_str() == name)
        };
        let wanted: Vec<&Upstream> = self.all.iter().filter(of_name).collect();
        if wanted.is_empty() {
            let known: Vec<&str> = self.all.iter().map(|upstream| upstream.name.as_str()).collect();
            return Err(Fault::missing(format!("there is no upstream {name:?}; there are: {}", known.join(", "))));
        }
        futures::future::try_join_all(wanted.into_iter().map(|upstream| self.probe_one(upstream, cx))).await
    }

    async fn probe_one(&self, upstream: &Upstream, cx: &Context) -> Result<Probed> {
        let watch = cx.clock.stopwatch();
        let result = tokio::select! {
            result = upstream.probe.probe(cx) => result,
            () = cx.clock.sleep(PROBE_MAX) => {
                Err(Fault::unavailable(Origin::Tidegate, format!("no answer within {PROBE_MAX:?}")))
            }
        };
        let probed = Probed {
            name: upstream.name.clone(),
            target: upstream.target.as_ref().map(ToString::to_string),
            reachable: Some(result.is_ok()),
            fault: result.err().map(|fault| fault.note().to_owned()),
            at: Some(cx.clock.now()),
            took_ms: u64::try_from(watch.elapsed().as_millis()).ok(),
        };
        if let Some(known) = self.probed.lock().iter_mut().find(|known| known.name == upstream.name) {
            *known = probed.clone();
        }
        Ok(probed)
    }
}

/// Tries everything that the node needs outside, on a period.
pub(crate) struct Prober(pub(crate) Arc<Api>);

#[async_trait]
impl Task for Prober {
    fn name(&self) -> String {
        "probe".to_owned()
    }

    fn every(&self) -> Duration {
        PROBE_EVERY
    }

    async fn activate(&self, cx: &Context) -> Result<()> {
        let upstreams = &self.0.upstreams;
        drop(futures::future::try_join_all(upstreams.all.iter().map(|one| upstreams.probe_one(one, cx))).await?);
        Ok(())
    }
}

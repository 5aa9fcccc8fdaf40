//! Sink `stdout`: events as lines of JSON on standard output, where nothing else of a running node is written.

use std::{
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    clock::Clock,
    cloudevents,
    config::Spot,
    delivery::{Delivery, Outcome},
    fault::{Failure, Fault, FaultClass, Origin, Result},
    handler::{Handler, Probe, Sink},
    service::Context,
};
use tokio::sync::Mutex;

use crate::registry::{ModuleKind, ModuleSpec, SinkParts, SinkSettings};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "stdout",
    kind: ModuleKind::Sink,
    summary: "writes events as lines of JSON to standard output",
    schema: || schemars::schema_for!(StdoutConfig),
};

/// Events that are written together.
const BATCH: usize = 64;
/// Longest wait for somebody who does not read; nothing of a message is spent on it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes each event as a line in the JSON format of CloudEvents. An event counts as done when the operating system has
/// taken its line; after a crash a line may be there twice. A node whose standard output is closed or the null device
/// does not start with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {}

impl SinkSettings for StdoutConfig {
    fn check(&self, _: &Spot<'_>) {}

    fn admit(&self) -> Result<()> {
        usable().map_err(|why| {
            let note =
                format!("standard output cannot be used: {why}; to drop events, use the sink `exec` with `true`");
            Fault::unavailable(Origin::Tidegate, note)
        })
    }

    fn open(&self, parts: SinkParts) -> Result<Option<Arc<dyn Sink>>> {
        Ok(Some(Arc::new(Stdout { clock: parts.clock })))
    }
}

/// Says why standard output cannot be used, when it cannot. A closed one was replaced by the null device at the start of
/// the process: what is written there is gone.
fn usable() -> Result<(), String> {
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let found = std::fs::File::from(output).metadata().map_err(|error| error.to_string())?;
    let null = std::fs::metadata("/dev/null").map_err(|error| error.to_string())?;
    let is_null = found.rdev() == null.rdev() && found.rdev() != 0;
    if is_null { Err("it is closed or the null device".to_owned()) } else { Ok(()) }
}

/// One writer at a time, over all groups: lines do not mix.
fn turn() -> &'static Arc<Mutex<()>> {
    static TURN: OnceLock<Arc<Mutex<()>>> = OnceLock::new();
    TURN.get_or_init(Arc::default)
}

/// Writes to standard output.
#[derive(Debug)]
struct Stdout {
    clock: Clock,
}

#[async_trait]
impl Handler for Stdout {
    async fn handle(&self, _: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        let outcome = self.write(batch).await.map_or_else(Outcome::Failed, |()| Outcome::DONE);
        vec![outcome; batch.len()]
    }

    fn batch_max(&self) -> usize {
        BATCH
    }

    fn in_process(&self) -> bool {
        // It writes bytes and can break on none.
        false
    }
}

impl Stdout {
    async fn write(&self, batch: &[Delivery]) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for delivery in batch {
            cloudevents::write_json(&delivery.event, &mut lines);
            lines.push(b'\n');
        }
        let write = async {
            // The turn goes with the work: who is called off does not let the next one in between.
            let turn = turn().clone().lock_owned().await;
            let write = move || {
                let _turn = turn;
                let mut out = io::stdout().lock();
                out.write_all(&lines).and_then(|()| out.flush())
            };
            tokio::task::spawn_blocking(write).await.map_err(io::Error::other).flatten()
        };
        let failed = |what: String| Failure::new(FaultClass::DependencyDown, what);
        tokio::select! {
            written = write => written.map_err(|error| failed(format!("write to standard output: {error}"))),
            () = self.clock.sleep(PATIENCE) => Err(failed("nobody reads standard output".to_owned())),
        }
    }
}

#[async_trait]
impl Probe for Stdout {
    async fn probe(&self, _: &Context) -> Result<()> {
        // Standard output of the process that asks is not that of the node.
        Ok(())
    }
}

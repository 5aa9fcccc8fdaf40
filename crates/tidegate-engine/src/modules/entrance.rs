//! Where events of a source are taken in by somebody else, such as a listener: asks whether they may come in just now.

use std::time::Duration;

use parking_lot::RwLock;
use tidegate_core::{
    clock::Clock,
    fault::{Fault, FaultKind, Origin, Result, Retry},
    limits,
    names::ModuleName,
};

use crate::group::Pause;

/// Wait that is asked for while nobody knows when the source goes on.
const LATER: Duration = Duration::from_secs(30);

/// The entrance of a source that can refuse.
#[derive(Debug)]
pub struct Entrance {
    name: ModuleName,
    clock: Clock,
    halted: RwLock<Option<Pause>>,
}

impl Entrance {
    pub(super) fn new(name: ModuleName, clock: Clock) -> Self {
        Self { name, clock, halted: RwLock::default() }
    }

    pub(super) fn halt(&self, pause: Option<&Pause>) {
        *self.halted.write() = pause.cloned();
    }

    /// Refuses while the source is paused or disabled, and says when to come again.
    pub fn check(&self) -> Result<()> {
        let halted = self.halted.read();
        let Some(pause) = halted.as_ref() else { return Ok(()) };
        let most = Duration::from_secs(limits::RETRY_AFTER_SECONDS_MAX);
        let left = pause.until.map(|until| until.since(self.clock.now()));
        let after = left.unwrap_or(LATER).clamp(Duration::from_secs(1), most);
        let state = if pause.disabled { "disabled" } else { "paused" };
        let why = if pause.reason.is_empty() { String::new() } else { format!(": {}", pause.reason) };
        let note = format!("source {} is {state} by {}{why}", self.name, pause.by);
        Err(Fault::new(FaultKind::Unavailable, Origin::Tidegate, Retry::After(after), note))
    }
}

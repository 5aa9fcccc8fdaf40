//! User code, and every sink: takes deliveries, says what became of each.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    delivery::{Delivery, Outcome},
    fault::Result,
    guard::Guard,
    service::Context,
};

/// Processes deliveries. One outcome per delivery, in order; a wrong number is a fault of the handler.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Processes a batch of at most [`Handler::batch_max`] deliveries.
    async fn handle(&self, cx: &Context, batch: &[Delivery]) -> Vec<Outcome>;

    /// Most deliveries in one call.
    fn batch_max(&self) -> usize {
        1
    }

    /// The guard of the target that it calls. While the guard is closed, the group stops claiming.
    fn guard(&self) -> Option<Arc<Guard>> {
        None
    }

    /// Whether it runs inside this process, so that a crash of it can be a crash of the node.
    fn in_process(&self) -> bool {
        true
    }
}

/// Answers "can I reach what I need?".
#[async_trait]
pub trait Probe: Send + Sync {
    /// Tries to reach what the module needs, without any effect there.
    async fn probe(&self, cx: &Context) -> Result<()>;
}

/// A handler that is a module.
pub trait Sink: Handler + Probe {}
impl<T: Handler + Probe> Sink for T {}

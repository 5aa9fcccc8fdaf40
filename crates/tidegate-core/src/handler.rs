//! User code, and every sink: takes deliveries, says what became of each.

use std::{fmt, sync::Arc};

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

/// A handler made of a function that takes one delivery.
pub struct FromFn<F>(F);

/// Makes a handler out of a function that takes one delivery and says what became of it.
///
/// ```
/// use tidegate_core::{delivery::{Delivery, Outcome}, fault::{Failure, FaultClass}, handler};
///
/// let handler = handler::from_fn(|delivery: Delivery| async move {
///     match delivery.event.subject {
///         Some(_) => Outcome::DONE,
///         None => Outcome::Reject(Failure::new(FaultClass::Invalid, "an order names its customer")),
///     }
/// });
/// # drop(handler);
/// ```
pub fn from_fn<F, R>(work: F) -> Arc<FromFn<F>>
where
    F: Fn(Delivery) -> R + Send + Sync,
    R: Future<Output = Outcome> + Send,
{
    Arc::new(FromFn(work))
}

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FromFn")
    }
}

#[async_trait]
impl<F, R> Handler for FromFn<F>
where
    F: Fn(Delivery) -> R + Send + Sync,
    R: Future<Output = Outcome> + Send,
{
    async fn handle(&self, _cx: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for delivery in batch {
            outcomes.push((self.0)(delivery.clone()).await);
        }
        outcomes
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

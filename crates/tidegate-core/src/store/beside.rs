//! Engines beside that of the node, for what passes events from one to another.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{Store, StreamSpec};
use crate::{
    fault::Result,
    names::{EngineName, StreamName},
};

/// An engine beside that of the node. It is opened when somebody first needs it, and again after a failure: the node itself
/// does not depend on it.
#[async_trait]
pub trait Beside: fmt::Debug + Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &EngineName;

    /// Returns its store.
    async fn store(&self) -> Result<Arc<dyn Store>>;

    /// How a stream is made there that is missing.
    fn spec(&self, stream: &StreamName) -> StreamSpec;
}

//! A listener as a service: after a crash it binds its address again.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use axum::Router;
use tidegate_control::{ServeLimits, serve};
use tidegate_core::{
    fault::{Fault, Origin, Result},
    service::{Context, Service, Stop},
};
use tokio::net::TcpListener;

pub(super) struct Door {
    address: SocketAddr,
    /// The listener that was bound before anything else started; taken by the first run.
    first: Mutex<Option<TcpListener>>,
    router: Router,
    /// Stops later than everything else in the node.
    stop: Stop,
}

impl Door {
    pub(super) fn new(listener: TcpListener, address: SocketAddr, router: Router, stop: Stop) -> Arc<Self> {
        Arc::new(Self { address, first: Mutex::new(Some(listener)), router, stop })
    }
}

#[async_trait]
impl Service for Door {
    fn name(&self) -> String {
        format!("listener {}", self.address)
    }

    async fn run(&self, cx: Context) -> Result<()> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = match first {
            Some(listener) => listener,
            None => TcpListener::bind(self.address).await.map_err(|error| {
                Fault::unavailable(Origin::Tidegate, format!("listen on {} again: {error}", self.address))
            })?,
        };
        serve(listener, self.router.clone(), ServeLimits::default(), self.stop.clone(), cx.clock).await
    }
}

//! A listener as a service: after a crash it binds its address again.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use axum::Router;
use tidegate_control::{Control, ServeLimits, serve, serve_redis};
use tidegate_core::{
    fault::{Fault, Origin, Result},
    service::{Context, Service, Stop},
};
use tokio::net::TcpListener;

/// What stands behind a listener.
pub(super) enum Room {
    Http(Router),
    Redis(Control),
}

pub(super) struct Door {
    address: SocketAddr,
    /// The listener that was bound before anything else started; taken by the first run.
    first: Mutex<Option<TcpListener>>,
    room: Room,
    /// Stops later than everything else in the node.
    stop: Stop,
}

impl Door {
    pub(super) fn new(listener: TcpListener, address: SocketAddr, room: Room, stop: Stop) -> Arc<Self> {
        Arc::new(Self { address, first: Mutex::new(Some(listener)), room, stop })
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
        let stop = self.stop.clone();
        match &self.room {
            Room::Http(router) => serve(listener, router.clone(), ServeLimits::default(), stop, cx.clock).await,
            Room::Redis(control) => serve_redis(listener, control, stop, cx.clock).await,
        }
    }
}

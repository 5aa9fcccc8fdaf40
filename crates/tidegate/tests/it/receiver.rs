//! A receiver of webhooks in this process, whose answers the test chooses.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use tidegate_core::clock::{Clock, Stopwatch};
use tokio::sync::Semaphore;

/// What came in with one request.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// How long after the start of the receiver.
    pub(crate) after: Duration,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    watch: Stopwatch,
    received: Mutex<Vec<Received>>,
    status: AtomicU16,
    /// A request is answered when it gets a permit; plenty unless the test holds them back.
    answers: Semaphore,
}

impl Receiver {
    /// Starts a receiver that answers 200, and `answer to ID`.
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            watch: Clock::real().stopwatch(),
            received: Mutex::default(),
            status: AtomicU16::new(200),
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
        });
        let router = Router::new().route("/hook", post(receive)).with_state(shared.clone());
        spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared }
    }

    /// Chooses the status of the answers from now on.
    pub(crate) fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    /// Answers nothing until [`Receiver::release`].
    pub(crate) async fn hold(&self) {
        self.shared.answers.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Answers `count` requests that are held or come.
    pub(crate) fn release(&self, count: usize) {
        self.shared.answers.add_permits(count);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// When requests came, in order.
    pub(crate) fn times(&self) -> Vec<Duration> {
        self.received().iter().map(|request| request.after).collect()
    }

    /// Ids of the events that came, in order.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.received().iter().filter_map(|request| request.header("ce-id").map(str::to_owned)).collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "the test's own door: the receiver is no part of the product")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}

async fn receive(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let id = headers.get("ce-id").map_or("nobody", |id| id.to_str().unwrap()).to_owned();
    shared.received.lock().unwrap().push(Received { headers, body, after: shared.watch.elapsed() });
    shared.answers.acquire().await.unwrap().forget();
    (StatusCode::from_u16(shared.status.load(Ordering::SeqCst)).unwrap(), format!("answer to {id}"))
}

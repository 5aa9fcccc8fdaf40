//! Limits of a listener, and its two ways to stop.

use std::{future::pending, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Bytes,
    routing::{get, post},
};
use http::Method;
use tidegate_control::{ServeLimits, serve};
use tidegate_core::{
    clock::Clock,
    fault::Result,
    limits,
    service::{Stopper, stop},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use crate::client::{raw, request, rest, send};

struct Listener {
    address: SocketAddr,
    stopper: Stopper,
    serving: JoinHandle<Result<()>>,
}

const PATIENT: ServeLimits = ServeLimits {
    connections: 4,
    head: Duration::from_secs(60),
    request: Duration::from_secs(60),
    idle: Duration::from_secs(60),
};

#[expect(clippy::disallowed_methods, reason = "the test plays the supervisor")]
async fn listener(limits: ServeLimits, router: Router) -> Listener {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stopper, stop) = stop();
    let serving = tokio::spawn(serve(listener, router, limits, stop, Clock::real()));
    Listener { address, stopper, serving }
}

fn router() -> Router {
    Router::new()
        .route("/", get(async || "well"))
        .route("/never", get(async || pending::<String>().await))
        .route("/length", post(async |body: Bytes| body.len().to_string()))
}

/// A connection on which one request was answered already.
async fn used(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask(&mut stream).await;
    stream
}

async fn ask(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"well") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_connection_takes_many_requests() {
    let listener = listener(PATIENT, router()).await;
    let mut stream = used(listener.address).await;
    for _ in 0..3 {
        ask(&mut stream).await;
    }
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(rest(stream).await.matches("well").count(), 2, "pipelined requests are answered too");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_closed() {
    let listener = listener(ServeLimits { connections: 2, ..PATIENT }, router()).await;
    let first = used(listener.address).await;
    let second = used(listener.address).await;
    let refused = raw(listener.address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("retry-after: 1\r\n") && refused.contains("application/problem+json"), "{refused}");
    let body: serde_json::Value = serde_json::from_str(refused.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["status"], 503);
    drop(first);
    // The place is free as soon as the node has seen the end of the first connection.
    loop {
        let answer = raw(listener.address, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        if answer.starts_with("HTTP/1.1 200 ") {
            break;
        }
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    drop(second);
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let limits = ServeLimits { head: Duration::from_millis(80), ..PATIENT };
    let listener = listener(limits, router()).await;
    let mut used = used(listener.address).await;
    for start in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nhost: a\r\n"] {
        assert_eq!(raw(listener.address, start).await, "", "{}", String::from_utf8_lossy(start));
    }
    // Once a connection was used, waiting for its next request is no slowness; a head that has begun is.
    ask(&mut used).await;
    used.write_all(b"GET").await.unwrap();
    assert_eq!(rest(used).await, "");
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let listener = listener(ServeLimits { idle: Duration::from_millis(80), ..PATIENT }, router()).await;
    assert_eq!(rest(used(listener.address).await).await, "");
}

#[tokio::test]
async fn a_request_that_is_never_done_is_answered() {
    let listener = listener(ServeLimits { request: Duration::from_millis(80), ..PATIENT }, router()).await;
    let answer = send(listener.address, request(Method::GET, "/never", &[], "")).await;
    answer.problem(504, "timeout");
    let stalled = b"POST /length HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345";
    let answer = raw(listener.address, stalled).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}

#[tokio::test]
async fn heads_are_limited() {
    let listener = listener(PATIENT, router()).await;
    let head = |count: usize, length: usize| {
        let headers: String = (0..count).map(|index| format!("x-{index}: {}\r\n", "y".repeat(length))).collect();
        format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n")
    };
    let status = |answer: String| answer.split(' ').nth(1).map(str::to_owned);
    let ask = async |count, length| status(raw(listener.address, head(count, length).as_bytes()).await);
    assert_eq!(ask(limits::HEADERS_MAX - 2, 10).await.as_deref(), Some("200"));
    assert_eq!(ask(limits::HEADERS_MAX, 10).await.as_deref(), Some("431"));
    assert_eq!(ask(1, limits::HEADER_BYTES_MAX / 2).await.as_deref(), Some("200"));
    assert_eq!(ask(1, limits::HEADER_BYTES_MAX * 2).await.as_deref(), Some("431"));
}

#[tokio::test]
async fn rubbish_is_refused() {
    let listener = listener(PATIENT, router()).await;
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let answer = raw(listener.address, bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
}

#[tokio::test]
async fn a_drain_finishes_what_is_held() {
    let (go, gone) = oneshot::channel::<()>();
    let (reached, reach) = oneshot::channel::<()>();
    let gate = std::sync::Arc::new(tokio::sync::Mutex::new(Some((reached, gone))));
    let slow = get(async move || {
        let (reached, gone) = gate.lock().await.take().unwrap();
        reached.send(()).unwrap();
        gone.await.unwrap();
        "done"
    });
    let Listener { address, stopper, serving } = listener(PATIENT, router().route("/slow", slow)).await;
    let idle = used(address).await;
    let asked = request(Method::GET, "/slow", &[], "");
    let (answer, ()) = tokio::join!(send(address, asked), async {
        reach.await.unwrap();
        stopper.drain();
        assert_eq!(rest(idle).await, "", "an idle connection ends at once");
        assert!(TcpStream::connect(address).await.is_err(), "nobody new is let in");
        go.send(()).unwrap();
    });
    assert_eq!(answer.text(), "done");
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_abort_does_not_wait() {
    let Listener { address, stopper, serving } = listener(PATIENT, router()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    drop(used(address).await);
    stopper.abort();
    serving.await.unwrap().unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
}

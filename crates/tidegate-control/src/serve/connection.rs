//! One connection: HTTP/1.1 with its head, request and idle time watched, ended gently on a drain.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
    routing::future::RouteFuture,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tidegate_core::{
    fault::{Fault, FaultKind, Origin, Retry},
    limits,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower::Service;

use super::watch::{Phase, Stint, Watch};
use crate::{follow::GoesOn, problem::Problem};

// The HTTP library holds heads with up to this many headers on the stack; another number would cost an allocation
// for every request.
const _: () = assert!(limits::HEADERS_MAX == 100, "set max_headers of the HTTP library");

/// Serves a connection to its end.
pub(super) async fn hold(stream: TcpStream, router: Router, watch: Arc<Watch>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client left at once");
        return;
    }
    let stint = Stint::new(watch);
    let service = service_fn(|request: http::Request<Incoming>| {
        stint.enter(Phase::Busy);
        let mut router = router.clone();
        Watched { stint: &stint, work: Some(router.call(request.map(Body::new))) }
    });
    let io = TokioIo::new(Heard { stream, stint: Arc::clone(&stint) });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(limits::HEADER_BYTES_MAX)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut draining = false;
    std::future::poll_fn(|cx| {
        stint.waker.register(cx.waker());
        if !draining && stint.is_draining() {
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
        if stint.is_over() && !stint.is(Phase::Busy) {
            return Poll::Ready(());
        }
        connection.as_mut().poll(cx).map(|end| {
            if let Err(error) = end {
                tracing::debug!(%error, "a connection ended early");
            }
        })
    })
    .await;
}

/// A request that is worked on; answered with a timeout when it takes too long.
struct Watched<'a> {
    stint: &'a Stint,
    work: Option<RouteFuture<Infallible>>,
}

impl Future for Watched<'_> {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut self.work {
            Some(work) => Pin::new(work).poll(cx),
            None => return Poll::Pending,
        };
        if let Poll::Ready(Ok(response)) = &answer {
            let goes_on = response.extensions().get::<GoesOn>().is_some();
            self.stint.enter(if goes_on { Phase::Stream } else { Phase::Idle });
            return answer;
        }
        if self.stint.is_over() {
            self.work = None;
            self.stint.enter(Phase::Idle);
            let note = "the request was not done in the time that a request may take";
            let fault = Fault::new(FaultKind::Timeout, Origin::Tidegate, Retry::Later, note);
            return Poll::Ready(Ok(Problem::from(fault).into_response()));
        }
        Poll::Pending
    }
}

/// A stream that notes when the first bytes of a request arrive.
struct Heard {
    stream: TcpStream,
    stint: Arc<Stint>,
}

impl Heard {
    fn note_written(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) && self.stint.is(Phase::Stream) {
            self.stint.enter(Phase::Stream);
        }
    }
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before && self.stint.is(Phase::Idle) {
            self.stint.enter(Phase::Head);
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

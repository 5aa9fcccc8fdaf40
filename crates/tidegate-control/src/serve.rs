//! One listener: takes connections up to a cap, holds each to its time limits, and ends in two phases.
//!
//! The time limits of all connections are watched by one ticking sweep instead of a timer per request: a connection
//! notes in two atomics what it is doing and until which tick it may, see [`watch`].

mod connection;
mod watch;

use std::{sync::Arc, time::Duration};

use axum::Router;
use tidegate_core::{
    clock::Clock,
    fault::{Fault, Origin, Result},
    limits,
    service::Stop,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use self::watch::Watch;

/// Connections that are told "too many" at one time; more than these are closed without a word.
const REFUSALS_MAX: usize = 64;

/// Wait after the system refused to hand over a connection, commonly because there are no more files to be had.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Limits of one listener.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Most connections at a time; one more is answered 503 and closed.
    pub connections: usize,
    /// Time in which the head of a request must arrive.
    pub head: Duration,
    /// Time in which a request must be done, its body read included.
    pub request: Duration,
    /// Time that a connection may be kept open without a request, and in which a client must take an answer.
    pub idle: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections: limits::CONNECTIONS_MAX,
            head: limits::HEADER_READ,
            request: Duration::from_secs(limits::REQUEST_SECONDS_MAX),
            // Longer than what common proxies and client pools keep, so that they and not the node end an idle
            // connection: an end from this side can cross a request that is on its way.
            idle: Duration::from_secs(90),
        }
    }
}

/// Serves until `stop` drains and the requests that are held are answered, or it aborts.
///
/// Pull workers settle over these connections: give it a `stop` that drains only after the groups have.
pub async fn serve(listener: TcpListener, router: Router, limits: ServeLimits, stop: Stop, clock: Clock) -> Result<()> {
    let address = listener
        .local_addr()
        .map_err(|err| Fault::unavailable(Origin::Tidegate, "listener has no address").because(err))?;
    let watch = Arc::new(Watch::new(&limits));
    let mut held = JoinSet::new();
    let mut refused = JoinSet::new();
    let mut tick = std::pin::pin!(clock.sleep(watch.tick_length()));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if held.len() < limits.connections => {
                    held.spawn(connection::hold(stream, router.clone(), Arc::clone(&watch)));
                }
                Ok((stream, _)) if refused.len() < REFUSALS_MAX => {
                    refused.spawn(refuse(stream, limits.connections, clock.clone()));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%address, %error, "could not accept a connection");
                    clock.sleep(ACCEPT_RETRY).await;
                }
            },
            () = &mut tick => {
                watch.tick();
                tick.set(clock.sleep(watch.tick_length()));
            }
            Some(_) = held.join_next(), if !held.is_empty() => {}
            Some(_) = refused.join_next(), if !refused.is_empty() => {}
            () = stop.draining() => break,
        }
    }
    drop(listener);
    watch.drain();
    loop {
        tokio::select! {
            ended = held.join_next() => if ended.is_none() { break },
            () = &mut tick => {
                watch.tick();
                tick.set(clock.sleep(watch.tick_length()));
            }
            // Dropping the set ends the connections.
            () = stop.aborted() => break,
        }
    }
    Ok(())
}

/// Says that there are too many connections, and takes what the client has sent already: closing over unread bytes
/// would reset the connection, and the client would not see the answer.
async fn refuse(mut stream: TcpStream, cap: usize, clock: Clock) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let detail = format!("the listener holds its most connections, {cap}");
    let body = format!(
        "{{\"type\":\"urn:tidegate:problem:unavailable\",\"title\":\"Something that is needed is not there\",\
         \"status\":503,\"detail\":\"{detail}\",\"origin\":\"tidegate\",\"retry_after_seconds\":1}}"
    );
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {}\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{body}",
        crate::problem::PROBLEM_JSON,
        body.len()
    );
    let tell = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut scrap = [0; 4096];
        let mut left = limits::HEADER_BYTES_MAX;
        while left > 0 {
            match stream.read(&mut scrap).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        std::io::Result::Ok(())
    };
    tokio::select! {
        told = tell => if let Err(error) = told {
            tracing::debug!(%error, "a client did not wait to be refused");
        },
        () = clock.sleep(Duration::from_secs(1)) => {}
    }
}

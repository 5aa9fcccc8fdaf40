//! Outbound HTTP: the only door to the client library. Follows no redirect and reads no proxy from the environment.

use std::{error::Error as _, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tidegate_core::{
    clock::Clock,
    config::Tls,
    fault::{Failure, Fault, FaultClass, Result},
    limits, result,
};

/// How long the body of an answer may take once its head is there; the head has decided already.
const BODY_PATIENCE: Duration = Duration::from_secs(1);
/// How long a connection may lie idle. Shorter than what common servers allow, so that they seldom close it under a request.
const IDLE: Duration = Duration::from_secs(20);
/// Characters of a body that are shown in a fault.
const EXCERPT_CHARS: usize = 256;

/// Sends requests. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient(reqwest::Client);

/// A checked absolute URL with scheme `http` or `https`.
#[derive(Clone)]
pub(crate) struct Destination(reqwest::Url);

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The query may hold a token.
        write!(f, "{}", self.0.origin().ascii_serialization())
    }
}

impl Destination {
    /// Reads a URL; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let url = reqwest::Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("scheme {:?} is neither \"http\" nor \"https\"", url.scheme()));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("it names no host".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it holds a user or a password; use secret_headers, which are never printed".to_owned());
        }
        if url.fragment().is_some() {
            return Err("it holds a fragment, which is never sent".to_owned());
        }
        Ok(Self(url))
    }

    /// Tells whether requests go there over TLS.
    pub(crate) fn is_safe(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl HttpClient {
    /// Opens a client with its own pool of connections.
    ///
    /// A machine without certificates of authorities can still call `http` URLs; calls to `https` URLs then fail.
    pub fn open() -> Result<Self> {
        tidegate_tls::install();
        let client = builder().build().or_else(|error| {
            tracing::warn!(
                "no https target can be verified; is the package ca-certificates installed? {}",
                causes(&error)
            );
            builder().tls_certs_only([]).build()
        });
        client.map(Self).map_err(|error| Fault::bug("open the outbound http client").because(error))
    }

    /// Opens a client that trusts whom it is told to, and shows who it is.
    pub(crate) fn trusting(tls: &Tls) -> Result<Self> {
        let client = builder().tls_backend_preconfigured(tidegate_tls::client(tls)?).build();
        client.map(Self).map_err(|error| Fault::bug("open an outbound http client of its own").because(error))
    }

    /// Sends one request and waits for the head of the answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        to: &Destination,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let request = self.0.request(method, to.0.clone()).headers(headers).body(body);
        request.send().await.map(Answer).map_err(failure)
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(Duration::from_secs(limits::CONNECT_SECONDS_MAX))
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
}

/// Judges a request that got no answer.
fn failure(error: reqwest::Error) -> Failure {
    // A connect that times out is a connect that failed: nothing was sent.
    let class = if error.is_connect() {
        FaultClass::DependencyDown
    } else if error.is_timeout() {
        FaultClass::Timeout
    } else if error.is_builder() {
        FaultClass::Invalid
    } else {
        FaultClass::Ambiguous
    };
    let what = match class {
        FaultClass::DependencyDown => "cannot connect",
        FaultClass::Timeout => "sent, but no answer in time",
        FaultClass::Invalid => "the request cannot be written",
        FaultClass::Transient
        | FaultClass::Throttled
        | FaultClass::Auth
        | FaultClass::Poison
        | FaultClass::Ambiguous => "sent, but the connection broke before the answer",
    };
    Failure::new(class, format!("{what}: {}", causes(&error)))
}

/// Returns the innermost causes; the outer ones repeat the URL, which may hold a token.
fn causes(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        cause = inner.source();
    }
    if parts.is_empty() { "no cause is known".to_owned() } else { parts.join(": ") }
}

/// Judges an answer that was good and of which a part is missing: it is asked for again, with the same key.
fn broken_off(status: StatusCode, error: &reqwest::Error) -> Failure {
    let class = if error.is_timeout() { FaultClass::Timeout } else { FaultClass::Transient };
    Failure::new(class, format!("answered {status}, but the body broke off: {}", causes(error)))
}

/// The head of an answer, with its body still to be read.
#[derive(Debug)]
pub(crate) struct Answer(reqwest::Response);

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// Returns a header that is text.
    pub(crate) fn header(&self, name: http::HeaderName) -> Option<&str> {
        self.0.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// Reads the body up to its limits and returns its beginning in one line. What cannot be read is left out.
    pub(crate) async fn excerpt(mut self, clock: &Clock) -> String {
        let mut start = Vec::new();
        let mut total = 0;
        let read = async {
            while let Ok(Some(chunk)) = self.0.chunk().await {
                let room = (4 * EXCERPT_CHARS).saturating_sub(start.len());
                start.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
                total += chunk.len();
                if total > limits::ANSWER_BYTES_MAX {
                    break;
                }
            }
        };
        tokio::select! {
            () = read => {}
            () = clock.sleep(BODY_PATIENCE) => {}
        }
        let text = String::from_utf8_lossy(&start);
        let line = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
        line.collect::<Vec<_>>().join(" ").chars().take(EXCERPT_CHARS).collect()
    }

    /// Reads the body as what a group keeps; one that is longer than that is left unread. The deadline is the caller's.
    pub(crate) async fn kept(mut self) -> Result<result::Answer, Failure> {
        let (status, kind) = (self.status(), self.header(http::header::CONTENT_TYPE).map(str::to_owned));
        let mut body = Vec::new();
        while let Some(chunk) = self.0.chunk().await.map_err(|error| broken_off(status, &error))? {
            body.extend_from_slice(&chunk);
            if body.len() > limits::RESULT_BYTES_MAX {
                return Ok(result::Answer::too_large());
            }
        }
        Ok(result::Answer::new(kind.as_deref(), body.into()))
    }

    /// Reads the body to its end, so that the connection can be used again; gives up where it is too long or too slow.
    pub(crate) async fn finish(self, clock: &Clock) {
        drop(self.excerpt(clock).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_checked() {
        for good in ["http://127.0.0.1:8080/", "https://partner.example/hook?tenant=7", "http://[::1]/x"] {
            assert!(Destination::parse(good).is_ok(), "{good}");
        }
        let bad = [
            ("", "not a URL"),
            ("/hook", "not a URL"),
            ("ftp://a/b", "scheme"),
            ("https://me:pass@a/b", "password"),
            ("https://me@a/b", "user"),
            ("https://a/b#c", "fragment"),
        ];
        for (url, word) in bad {
            let message = Destination::parse(url).expect_err(url);
            assert!(message.contains(word), "{url}: {message}");
        }
    }

    #[test]
    fn debug_shows_no_path_and_no_query() {
        let shown = format!("{:?}", Destination::parse("https://a.example/hook?token=s3cret").unwrap());
        assert_eq!(shown, "https://a.example");
    }
}

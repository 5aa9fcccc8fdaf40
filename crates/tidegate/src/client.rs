//! Client of a node's HTTP API, for the commands.

use std::time::Duration;

use reqwest::{Method, StatusCode, Url, header};
use serde_json::Value;
use tidegate_core::limits;

use crate::exit::{Exit, Failed};

/// Longest time that lines are followed: for good.
const LINES_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Longest wait for an answer: somewhat more than what the node allows itself.
const ANSWER_MAX: Duration = Duration::from_secs(limits::REQUEST_SECONDS_MAX + 5);

/// A node, seen from outside.
#[derive(Debug)]
pub(crate) struct Node {
    url: Url,
    token: Option<String>,
    client: reqwest::Client,
}

/// An answer of any status.
#[derive(Debug)]
pub(crate) struct Reply {
    status: StatusCode,
    body: bytes::Bytes,
}

impl Reply {
    /// Returns the body as JSON; null when it is something else.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// Returns the reply when it is a success, else the failure that it describes.
    pub(crate) fn ok(self) -> Result<Self, Failed> {
        if self.status.is_success() {
            return Ok(self);
        }
        let problem = self.value();
        let text = |name: &str| problem.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let message = match text("detail").or_else(|| text("title")) {
            Some(detail) => detail.to_owned(),
            None => format!("the node answered {}", self.status),
        };
        let exit = match self.status.as_u16() {
            401 | 403 => Exit::Denied,
            400 | 415 => Exit::Usage,
            429 | 503 | 504 => Exit::Unavailable,
            500..=599 => Exit::Internal,
            _ => Exit::No,
        };
        Err(Failed::new(exit, message))
    }
}

impl Node {
    /// Makes a client; connects at the first request.
    pub(crate) fn new(url: &str, token: Option<String>) -> Result<Self, Failed> {
        let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(url) = parsed else {
            return Err(Failed::usage(format!("--url {url:?} is not a URL such as http://127.0.0.1:7300")));
        };
        tidegate_tls::install();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(limits::CONNECT_SECONDS_MAX))
            .timeout(ANSWER_MAX);
        if url.scheme() == "http" {
            // Saves reading the machine's certificates, and works where there are none.
            builder = builder.tls_certs_only([]);
        }
        let client = builder
            .build()
            .map_err(|error| Failed::new(Exit::Internal, format!("cannot open the http client: {error}")))?;
        Ok(Self { url, token, client })
    }

    /// Returns scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Returns the URL of a path made of unescaped parts.
    fn place(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failed {
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let why = cause.to_string();
        Failed::new(Exit::Unavailable, format!("no answer from {}: {why}", self.origin()))
    }

    async fn begin(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failed> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.map_err(|error| self.unreachable(&error))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Reply, Failed> {
        let response = self.begin(request).await?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Ok(Reply { status, body })
    }

    /// Asks for a path and takes whatever comes.
    pub(crate) async fn look(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Reply, Failed> {
        self.send(self.client.request(Method::GET, self.place(path, query))).await
    }

    /// Asks for a path in a form and takes whatever comes.
    pub(crate) async fn look_as(&self, path: &[&str], query: &[(&str, &str)], form: &str) -> Result<Reply, Failed> {
        self.send(self.client.request(Method::GET, self.place(path, query)).header(header::ACCEPT, form)).await
    }

    /// Asks for lines that come as they happen, and hands each that is not empty to `line`, until that wants no more or
    /// the node ends the answer.
    pub(crate) async fn lines(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        mut line: impl FnMut(&str) -> bool,
    ) -> Result<(), Failed> {
        let request = self.client.request(Method::GET, self.place(path, query)).timeout(LINES_MAX);
        let mut response = self.begin(request).await?;
        let status = response.status();
        if !status.is_success() {
            let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
            return Reply { status, body }.ok().map(drop);
        }
        let mut rest = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let whole: Vec<u8> = rest.drain(..=end).collect();
                let text = String::from_utf8_lossy(&whole);
                let text = text.trim_end();
                if !text.is_empty() && !line(text) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Asks for a JSON document.
    pub(crate) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Failed> {
        self.look(path, query).await?.ok().map(|reply| reply.value())
    }

    /// Sends a JSON document.
    pub(crate) async fn post(&self, path: &[&str], document: &Value) -> Result<Value, Failed> {
        let request = self.client.request(Method::POST, self.place(path, &[]));
        let request = request.header(header::CONTENT_TYPE, "application/json").body(document.to_string());
        self.send(request).await?.ok().map(|reply| reply.value())
    }

    /// Sends a body with headers.
    pub(crate) async fn publish(
        &self,
        path: &[&str],
        headers: impl IntoIterator<Item = (String, String)>,
        body: bytes::Bytes,
    ) -> Result<Value, Failed> {
        let mut request = self.client.request(Method::POST, self.place(path, &[])).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.send(request).await?.ok().map(|reply| reply.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_paths_are_escaped() {
        let node = Node::new("http://127.0.0.1:7300", None).unwrap();
        let url = node.place(&["v1", "streams", "a/b?c"], &[("from", "1&2")]);
        assert_eq!(url.as_str(), "http://127.0.0.1:7300/v1/streams/a%2Fb%3Fc?from=1%262");
        let below = Node::new("http://proxy.example/tide/", None).unwrap();
        assert_eq!(below.place(&["health"], &[]).as_str(), "http://proxy.example/tide/health");
        for bad in ["", "127.0.0.1:7300", "ftp://a", "http://"] {
            assert_eq!(Node::new(bad, None).unwrap_err().exit, Exit::Usage, "{bad:?}");
        }
    }

    #[test]
    fn answers_become_exit_codes() {
        let exit = |status: u16, body: &'static str| {
            let reply = Reply {
                status: StatusCode::from_u16(status).unwrap(),
                body: bytes::Bytes::from_static(body.as_bytes()),
            };
            reply.ok().map(drop).map_err(|failed| (failed.exit, failed.message))
        };
        assert_eq!(exit(200, "{}"), Ok(()));
        let told = r#"{"title":"Not Found","detail":"there is no stream \"x\""}"#;
        assert_eq!(exit(404, told), Err((Exit::No, "there is no stream \"x\"".to_owned())));
        assert_eq!(exit(403, "").unwrap_err().0, Exit::Denied);
        assert_eq!(exit(401, "").unwrap_err().0, Exit::Denied);
        assert_eq!(exit(400, "").unwrap_err().0, Exit::Usage);
        assert_eq!(exit(409, "").unwrap_err().0, Exit::No);
        assert_eq!(exit(503, "").unwrap_err().0, Exit::Unavailable);
        assert_eq!(
            exit(500, "<html>"),
            Err((Exit::Internal, "the node answered 500 Internal Server Error".to_owned()))
        );
    }
}

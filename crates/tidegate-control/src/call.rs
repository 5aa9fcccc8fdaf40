//! One request on its way to its handler: who asks, for what, with which body; and the answers in JSON.

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::Body,
    extract::{Query, Request},
    response::Response,
};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, header, request::Parts};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tidegate_core::{
    fault::{Fault, Result},
    limits,
    names::{GroupName, StreamName, TargetName},
};

use crate::{
    api::{Api, Place},
    auth::Actor,
    problem::Problem,
    profile::Mounted,
};

/// A request whose sender is known and may ask for it.
pub(crate) struct Call {
    pub(crate) api: Arc<Api>,
    pub(crate) actor: Actor,
    /// The profile of the listener.
    pub(crate) profile: Option<Arc<Mounted>>,
    /// The path of the route, with its parameters in braces.
    template: &'static str,
    head: Parts,
    /// Never locked: the lock only makes the call shareable between threads, which a body alone is not.
    body: Mutex<Body>,
}

impl Call {
    pub(crate) fn new(place: Place, actor: Actor, request: Request) -> Self {
        let Place { api, profile, template } = place;
        let (head, body) = request.into_parts();
        Self { api, actor, profile, template, head, body: Mutex::new(body) }
    }

    /// Returns a parameter of the path: the segment that stands where the template has the name in braces.
    fn param(&self, name: &str) -> Result<Cow<'_, str>> {
        let braced = |part: &str| part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) == Some(name);
        let place = self.template.split('/').position(braced);
        let value = place.and_then(|place| self.head.uri.path().split('/').nth(place));
        let value = value.ok_or_else(|| Fault::bug(format!("route {:?} has no parameter {name:?}", self.template)))?;
        unescape(value)
    }

    pub(crate) fn stream(&self) -> Result<StreamName> {
        StreamName::new(&self.param("stream")?)
    }

    /// Returns the stream whose dead letters are meant: by its own name, that of its dead letters, or another name of them.
    pub(crate) fn dead_of(&self) -> Result<StreamName> {
        let named = self.stream()?;
        Ok(self.api.aliases.get(&named).cloned().unwrap_or(named))
    }

    pub(crate) fn group(&self) -> Result<GroupName> {
        GroupName::new(&self.param("group")?)
    }

    pub(crate) fn target(&self) -> Result<TargetName> {
        TargetName::new(&self.param("target")?)
    }

    /// Returns the name of a module, which may begin with its direction.
    pub(crate) fn module(&self) -> Result<Cow<'_, str>> {
        self.param("module")
    }

    pub(crate) fn upstream(&self) -> Result<Cow<'_, str>> {
        self.param("upstream")
    }

    pub(crate) fn job(&self) -> Result<Cow<'_, str>> {
        self.param("job")
    }

    pub(crate) fn id(&self) -> Result<Cow<'_, str>> {
        self.param("id")
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Notes that something was done by hand, and returns the id of that.
    pub(crate) fn action(&self, what: &'static str, on: &str, reason: &str) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        tracing::info!(action = %id, what, on, by = %self.actor.name, reason, "done by hand");
        id
    }

    /// Reads the query.
    pub(crate) fn query<T: DeserializeOwned>(&self) -> Result<T> {
        let query = Query::try_from_uri(&self.head.uri);
        query.map(|Query(query)| query).map_err(|wrong| Fault::invalid(wrong.body_text()))
    }

    /// Reads the body, at most [`limits::BODY_BYTES_MAX`] of it.
    pub(crate) async fn body(&mut self) -> Result<Bytes, Problem> {
        let body = std::mem::take(self.body.get_mut());
        read_body(&self.head.headers, body).await
    }

    /// Reads a body of JSON; the caller parses it, so that the result may borrow from it.
    pub(crate) async fn json_body(&mut self) -> Result<Bytes, Problem> {
        let kind = self.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("?").to_owned());
        if let Some(kind) = kind.filter(|kind| !is_json(kind)) {
            return Err(Problem::unsupported(format!("body of type {kind:?}; this takes application/json")));
        }
        self.body().await
    }
}

/// Reads JSON; says where it is wrong. Nothing at all stands for an empty object.
pub(crate) fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T> {
    let body = if body.is_empty() { b"{}" } else { body };
    // Derived readers take a list for an object too, member by member in the order of the source.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Fault::invalid("body: expected a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| {
        // Only who is wrong pays for knowing where.
        let mut reader = serde_json::Deserializer::from_slice(body);
        let path = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
            Err(wrong) if wrong.path().iter().next().is_some() => format!("{}: ", wrong.path()),
            Ok(_) | Err(_) => String::new(),
        };
        Fault::invalid(format!("body: {path}{error}"))
    })
}

fn is_json(kind: &str) -> bool {
    let essence = kind.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Takes out percent escapes. Names hold none, but a client may escape what needs no escape.
fn unescape(text: &str) -> Result<Cow<'_, str>> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let wrong = || Fault::invalid(format!("path segment {text:?} is not percent-encoded UTF-8"));
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (digits, tail) = rest.split_at_checked(2).ok_or_else(wrong)?;
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            let value = digits.iter().map(digit).try_fold(0, |value, digit| Some(value * 16 + digit?));
            out.push(value.and_then(|value| u8::try_from(value).ok()).ok_or_else(wrong)?);
            rest = tail;
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).map(Cow::Owned).map_err(|_| wrong())
}

/// Puts percent escapes in, so that the text stands for itself in a path and in a query.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Reads a whole body; a body that comes in one piece is not copied.
async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let mut body = body.into_data_stream();
    if declared.is_some_and(|length| length > limits::BODY_BYTES_MAX) {
        linger(headers, declared.unwrap_or(usize::MAX), body).await;
        return Err(Problem::too_large(limits::BODY_BYTES_MAX));
    }
    let broken = |_| Problem::from(Fault::invalid("the body broke off before its end"));
    let Some(first) = body.next().await else { return Ok(Bytes::new()) };
    let first = first.map_err(broken)?;
    if declared == Some(first.len()) {
        return Ok(first);
    }
    let mut whole = Vec::with_capacity(declared.unwrap_or(first.len() * 2));
    whole.extend_from_slice(&first);
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(broken)?;
        if whole.len() + piece.len() > limits::BODY_BYTES_MAX {
            linger(headers, limits::BODY_BYTES_MAX, body).await;
            return Err(Problem::too_large(limits::BODY_BYTES_MAX));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

/// Reads on and drops what it reads, within bounds: a client that is still sending when the connection ends under it
/// sees a broken connection instead of the answer.
async fn linger(headers: &HeaderMap, length: usize, mut body: axum::body::BodyDataStream) {
    // A client that asks first has sent nothing yet, and never will.
    let asks_first = headers.contains_key(header::EXPECT);
    if asks_first || length > 2 * limits::BODY_BYTES_MAX {
        return;
    }
    let mut left = 2 * limits::BODY_BYTES_MAX;
    while let Some(Ok(piece)) = body.next().await {
        left = left.saturating_sub(piece.len());
        if left == 0 {
            return;
        }
    }
}

/// Answers 200 with JSON.
pub(crate) fn json(document: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(document).map_err(|err| Fault::bug("write an answer as JSON").because(err))?;
    Ok(json_bytes(body))
}

/// Answers 200 with JSON that is written already.
pub(crate) fn json_bytes(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Appends a JSON string.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    if text.as_bytes().iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        let written = serde_json::to_writer(out, text);
        debug_assert!(written.is_ok(), "a vector takes every byte");
    }
}

/// Appends anything that shows itself, such as a position or an instant, as a JSON string without escapes.
pub(crate) fn write_shown(shown: impl std::fmt::Display, out: &mut Vec<u8>) {
    use std::io::Write;
    out.push(b'"');
    let written = write!(out, "{shown}");
    debug_assert!(written.is_ok(), "a vector takes every byte");
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_taken_out() {
        assert_eq!(unescape("a.b").unwrap(), "a.b");
        assert_eq!(unescape("a%2Eb%c3%a4").unwrap(), "a.bä");
        for text in ["", "plain-1.a_b~c", "a/b?c&d=e f%", "ä\u{1}"] {
            assert_eq!(unescape(&escape(text)).unwrap(), text);
        }
        assert_eq!(escape("a/b c"), "a%2Fb%20c");
        for bad in ["%", "%2", "%zz", "%ff", "%+1"] {
            assert!(unescape(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn strings_are_escaped_as_json() {
        for text in ["", "plain", "a\"b", "\\", "\"", "\"\"", "new\nline", "ä\u{1}"] {
            let mut out = Vec::new();
            write_string(text, &mut out);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn wrong_json_is_told_by_place() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Ask {
            #[expect(dead_code, reason = "read by the test's parser only")]
            tokens: Vec<u32>,
        }
        let note = |text: &str| parse::<Ask>(text.as_bytes()).unwrap_err().note().to_owned();
        let wrong = note("{\"tokens\":[1,\"x\"]}");
        assert!(wrong.contains("tokens[1]") && wrong.contains("column"), "{wrong}");
        assert!(note("{\"tokens\":[],\"more\":1}").contains("more"));
        assert!(note("").contains("tokens"));
        assert!(note("{").contains("EOF"));
        assert!(note("[[1]]").contains("object"));
    }
}

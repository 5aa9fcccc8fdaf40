//! Errors as the outside sees them: problem documents of RFC 9457 that say whose fault it is and when to try again.

use std::time::Duration;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tidegate_core::fault::{Fault, FaultClass, FaultKind, Origin, Retry};

use crate::result::Ended;

/// Media type of problem documents.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// A fault with the status that it is answered with.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    fault: Fault,
    ended: Option<Box<Ended>>,
}

/// The document that a client reads.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument<'a> {
    /// Name of the kind of problem; stable.
    #[serde(rename = "type")]
    #[schema(example = "urn:tidegate:problem:missing")]
    kind: String,
    /// The kind of problem in words; the same for every problem of a kind.
    title: &'static str,
    /// HTTP status.
    status: u16,
    /// What was attempted on what, and what is wrong with it.
    detail: &'a str,
    /// Whose fault it is: `caller`, `handler`, `store`, `target` or `tidegate`.
    origin: &'static str,
    /// The target, when it is the fault of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    /// Seconds after which trying again makes sense; absent when it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
    /// JSON pointer of the value that does not fit the schema of the stream; empty for the whole of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<&'a str>,
    /// Place in the batch of the event with that value.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// How an event ended that has no answer: `dead`, `expired`, `dropped`, `skipped`, or `done` when the answer was too
    /// large to be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// The group that gives no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    /// Stream of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    /// Class of the fault of a dead event.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    /// Its dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter: Option<String>,
    /// Mark under which the node's log has the details, when they are not for the outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}

impl Problem {
    /// An event ended without an answer.
    pub(crate) fn unanswered(ended: Ended) -> Self {
        let status = match (ended.state, ended.class) {
            // It lies in the event itself.
            ("skipped", _) | ("dead", Some(FaultClass::Invalid)) => StatusCode::UNPROCESSABLE_ENTITY,
            ("expired", _) => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        };
        let origin = if ended.state == "skipped" { Origin::Caller } else { Origin::Handler };
        let fault = Fault::new(FaultKind::Conflict, origin, Retry::Never, ended.detail.clone());
        Self { status, fault, ended: Some(Box::new(ended)) }
    }

    pub(crate) fn is_unanswered(&self) -> bool {
        self.ended.is_some()
    }

    /// Nobody known asks.
    pub(crate) fn unauthenticated() -> Self {
        let note = "this needs a bearer token that the node knows: Authorization: Bearer <token>";
        Self { status: StatusCode::UNAUTHORIZED, fault: Fault::denied(note), ended: None }
    }

    /// The body has a form that is not understood here.
    pub(crate) fn unsupported(note: String) -> Self {
        Self { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, fault: Fault::invalid(note), ended: None }
    }

    /// The path is known, the method is not.
    pub(crate) fn wrong_method(note: String) -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, fault: Fault::invalid(note), ended: None }
    }

    /// The body is larger than what is taken.
    pub(crate) fn too_large(limit: usize) -> Self {
        let note = format!("the body is larger than the limit of {limit} bytes");
        Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, note).into()
    }

    fn is_private(&self) -> bool {
        matches!(self.fault.kind, FaultKind::Corrupt | FaultKind::Bug)
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        let worth_it = matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        );
        match self.fault.retry {
            Retry::Never => None,
            Retry::Later => worth_it.then_some(1),
            // Rounded up: a client that comes back too early is refused again.
            Retry::After(wait) => Some((wait + Duration::from_millis(999)).as_secs().max(1)),
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let status = match fault.kind {
            FaultKind::Invalid if fault.violation().is_some() => StatusCode::UNPROCESSABLE_ENTITY,
            FaultKind::Invalid => StatusCode::BAD_REQUEST,
            FaultKind::Missing => StatusCode::NOT_FOUND,
            FaultKind::Conflict => StatusCode::CONFLICT,
            FaultKind::Denied => StatusCode::FORBIDDEN,
            FaultKind::Limited if fault.retry == Retry::Never => StatusCode::PAYLOAD_TOO_LARGE,
            FaultKind::Limited => StatusCode::TOO_MANY_REQUESTS,
            FaultKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            FaultKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            FaultKind::Corrupt | FaultKind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, fault, ended: None }
    }
}

/// Stable name and title of a kind of problem.
fn naming(status: StatusCode, kind: FaultKind) -> (&'static str, &'static str) {
    match (status, kind) {
        (StatusCode::UNAUTHORIZED, _) => ("unauthenticated", "Nobody known asks"),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, _) => ("unsupported", "The form of the body is not understood"),
        (StatusCode::METHOD_NOT_ALLOWED, _) => ("method", "The path does not take this method"),
        (StatusCode::PAYLOAD_TOO_LARGE, _) => ("too_large", "It is larger than what is taken"),
        (StatusCode::UNPROCESSABLE_ENTITY, _) => ("schema", "The data does not fit the schema of the stream"),
        (_, FaultKind::Invalid) => ("invalid", "The request is wrong"),
        (_, FaultKind::Missing) => ("missing", "There is no such thing"),
        (_, FaultKind::Conflict) => ("conflict", "The state of the thing forbids it"),
        (_, FaultKind::Denied) => ("denied", "The caller may not do this"),
        (_, FaultKind::Limited) => ("limited", "A limit is reached"),
        (_, FaultKind::Unavailable) => ("unavailable", "Something that is needed is not there"),
        (_, FaultKind::Timeout) => ("timeout", "It took too long"),
        (_, FaultKind::Corrupt) => ("corrupt", "Stored bytes are damaged"),
        (_, FaultKind::Bug) => ("bug", "The node is wrong"),
    }
}

fn origin(fault: &Fault) -> (&'static str, Option<&str>) {
    match &fault.origin {
        Origin::Caller => ("caller", None),
        Origin::Handler => ("handler", None),
        Origin::Store => ("store", None),
        Origin::Target(name) => ("target", Some(name.as_str())),
        Origin::Tidegate => ("tidegate", None),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (name, title) = match &self.ended {
            Some(_) => ("unanswered", "The event ended without an answer"),
            None => naming(self.status, self.fault.kind),
        };
        let ended = self.ended.as_deref();
        let (origin, target) = origin(&self.fault);
        let instance = self.is_private().then(|| format!("urn:uuid:{}", uuid::Uuid::new_v4()));
        if let Some(instance) = &instance {
            tracing::error!(%instance, fault = ?self.fault, "a request failed");
        }
        let private = "the details are in the log of the node, under the instance named here";
        let document = ProblemDocument {
            kind: format!("urn:tidegate:problem:{name}"),
            title,
            status: self.status.as_u16(),
            detail: if instance.is_some() { private } else { self.fault.note() },
            origin,
            target,
            retry_after_seconds: self.retry_after_seconds(),
            pointer: self.fault.violation().map(|violation| violation.pointer.as_str()),
            index: self.fault.violation().and_then(|violation| violation.index),
            state: ended.map(|ended| ended.state),
            group: ended.map(|ended| ended.group.as_str()),
            stream: ended.map(|ended| ended.stream.as_str()),
            class: ended.and_then(|ended| ended.class).map(FaultClass::as_str),
            dead_letter: ended.and_then(|ended| ended.dead_letter).map(|id| id.to_string()),
            instance,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::names::TargetName;

    use super::*;

    async fn shown(problem: Problem) -> (u16, Option<String>, serde_json::Value) {
        let response = problem.into_response();
        let status = response.status().as_u16();
        let wait = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, wait, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn kinds_pick_status_and_wait() {
        let target = Origin::Target(TargetName::new("partner").unwrap());
        let table = [
            (Fault::invalid("x"), 400, "invalid", "caller", None),
            (Fault::missing("x"), 404, "missing", "caller", None),
            (Fault::conflict("x"), 409, "conflict", "caller", None),
            (Fault::denied("x"), 403, "denied", "caller", None),
            (Fault::limited("x", Duration::from_millis(1200)), 429, "limited", "tidegate", Some("2")),
            (Fault::new(FaultKind::Limited, Origin::Caller, Retry::Never, "x"), 413, "too_large", "caller", None),
            (Fault::unavailable(Origin::Store, "x"), 503, "unavailable", "store", Some("1")),
            (Fault::new(FaultKind::Unavailable, target, Retry::Never, "x"), 503, "unavailable", "target", None),
            (
                Fault::new(FaultKind::Timeout, Origin::Tidegate, Retry::Later, "x"),
                504,
                "timeout",
                "tidegate",
                Some("1"),
            ),
        ];
        for (fault, status, name, origin, wait) in table {
            let (got, retry, document) = shown(fault.into()).await;
            assert_eq!((got, retry.as_deref()), (status, wait), "{document}");
            assert_eq!(document["type"], format!("urn:tidegate:problem:{name}"));
            assert_eq!(document["origin"], origin);
            assert_eq!(document["status"], status);
            assert_eq!(document["detail"], "x");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_inside_stays_inside() {
        for fault in [Fault::bug("secret"), Fault::corrupt("secret")] {
            let (status, _, document) = shown(fault.into()).await;
            assert_eq!(status, 500);
            assert!(!document.to_string().contains("secret"), "{document}");
            assert!(document["instance"].as_str().unwrap().starts_with("urn:uuid:"));
        }
    }
}

//! Sink `webhook`: sends each event to a URL, signed after Standard Webhooks, and judges the answer.
//!
//! **Invariant:** every attempt on one event carries the same `Idempotency-Key`, whatever happened before.

mod answer;
mod signature;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tidegate_core::{
    clock::Clock,
    cloudevents,
    config::{Secret, Spot, Tls},
    delivery::{Delivery, Outcome},
    event::{self, Event},
    fault::{Failure, Fault, FaultClass, Origin, Result},
    guard::Guard,
    handler::{Handler, Probe, Sink},
    names::TargetName,
    service::Context,
};

use self::{
    answer::{Verdict, judge},
    signature::Signer,
};
use crate::{
    http::{Answer, Destination, HttpClient},
    registry::{ModuleKind, ModuleSpec, SinkParts, SinkSettings},
};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "webhook",
    kind: ModuleKind::Sink,
    summary: "sends each event to a URL, signed after Standard Webhooks",
    schema: || schemars::schema_for!(WebhookConfig),
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const TRACE_PARENT: HeaderName = HeaderName::from_static(event::TRACE_PARENT);
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// Headers that the sink or the connection sets and the configuration may not.
const RESERVED: [&str; 11] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "idempotency-key",
    "traceparent",
    "tracestate",
];
const RESERVED_STARTS: [&str; 3] = ["ce-", "webhook-", "proxy-"];

/// Keys of the configuration.
const HEADERS: &str = "headers";
const SECRET_HEADERS: &str = "secret_headers";

/// Letters of an event's id that are kept in its key; the rest is in the digest.
const KEY_ID_CHARS: usize = 64;
/// Bytes of the digest in a key.
const KEY_DIGEST_BYTES: usize = 12;

/// Sends each event to a URL with `POST`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where to: `http` or `https`, without user, password and fragment. Redirects are never followed.
    pub url: String,
    /// Whom to trust over TLS, and how the node shows who it is.
    #[serde(default, skip_serializing_if = "Tls::is_unset")]
    pub tls: Tls,
    /// Target whose guard stands before the URL.
    pub target: TargetName,
    /// Secret of the Standard Webhooks signature: `whsec_` and base64, or any text. Without it nothing is signed.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// Form of the events.
    #[serde(default)]
    pub mode: Mode,
    /// Headers that are sent with every event.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Headers whose values are secret, such as `authorization`.
    #[serde(default)]
    pub secret_headers: BTreeMap<String, Secret>,
}

/// Form in which an event is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// CloudEvents binary mode: attributes in `ce-` headers, the data as the body.
    #[default]
    Binary,
    /// CloudEvents structured mode: the whole event as one JSON document.
    Structured,
}

impl SinkSettings for WebhookConfig {
    fn target(&self) -> Option<&TargetName> {
        Some(&self.target)
    }

    fn open(&self, parts: SinkParts) -> Result<Option<Arc<dyn Sink>>> {
        Ok(Some(Arc::new(Webhook::open(self, parts)?)))
    }

    fn check(&self, here: &Spot<'_>) {
        let asks = match Destination::parse(&self.url) {
            Ok(to) => to.is_safe(),
            Err(why) => {
                here.at("url").error(why);
                true
            }
        };
        tidegate_tls::check(&self.tls, asks, "https://host/path", &here.at("tls"));
        if let Some(Err(why)) = self.secret.as_ref().map(|secret| Signer::new(secret.expose())) {
            here.at("secret").error(why);
        }
        for (key, name, value) in self.all_headers() {
            if let Err(why) = header_of(name, value, key == SECRET_HEADERS) {
                here.at(key).at(name).error(why);
            }
            let is_single = key == HEADERS || !self.headers.keys().any(|other| other.eq_ignore_ascii_case(name));
            here.at(key).at(name).require(is_single, || format!("header {name:?} stands under headers too"));
        }
    }
}

impl WebhookConfig {
    fn all_headers(&self) -> impl Iterator<Item = (&'static str, &str, &str)> {
        let open = self.headers.iter().map(|(name, value)| (HEADERS, name.as_str(), value.as_str()));
        let secret = self.secret_headers.iter().map(|(name, value)| (SECRET_HEADERS, name.as_str(), value.expose()));
        open.chain(secret)
    }
}

/// Checks a header of the configuration.
fn header_of(name: &str, value: &str, is_secret: bool) -> Result<(HeaderName, HeaderValue), String> {
    let checked = HeaderName::try_from(name).map_err(|_| format!("{name:?} is not the name of a header"))?;
    let lower = checked.as_str();
    if RESERVED.contains(&lower) || RESERVED_STARTS.iter().any(|start| lower.starts_with(start)) {
        return Err(format!("header {name:?} is set by the sink itself"));
    }
    let mut value = ascii(value).ok_or_else(|| format!("the value of header {name:?} may hold only visible ASCII"))?;
    value.set_sensitive(is_secret);
    Ok((checked, value))
}

/// Makes a header's value of visible ASCII; what lies beyond is read differently by every receiver.
fn ascii(text: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(text).ok().filter(|_| text.is_ascii())
}

/// Sends deliveries to one URL.
#[derive(Debug)]
pub struct Webhook {
    to: Destination,
    mode: Mode,
    headers: HeaderMap,
    signer: Option<Signer>,
    guard: Arc<Guard>,
    client: HttpClient,
    clock: Clock,
    /// Whether the body of a good answer is wanted.
    answers: bool,
}

impl Webhook {
    /// Opens the sink; nothing is sent yet.
    pub fn open(config: &WebhookConfig, parts: SinkParts) -> Result<Self> {
        let guard = parts.guard.ok_or_else(|| Fault::bug(format!("no guard for target {}", config.target)))?;
        let to = Destination::parse(&config.url).map_err(|why| Fault::invalid(format!("url: {why}")))?;
        let mut headers = HeaderMap::new();
        for (key, name, value) in config.all_headers() {
            let (name, value) = header_of(name, value, key == SECRET_HEADERS).map_err(Fault::invalid)?;
            headers.insert(name, value);
        }
        let secret = config.secret.as_ref().map(|secret| Signer::new(secret.expose()));
        let signer = secret.transpose().map_err(Fault::invalid)?;
        let SinkParts { client, clock, answers, .. } = parts;
        let client = if config.tls.is_unset() { client } else { HttpClient::trusting(&config.tls)? };
        Ok(Self { to, mode: config.mode, headers, signer, guard, client, clock, answers })
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Outcome, Failure> {
        let is_retry = delivery.attempt > 1;
        if self.answers {
            let answered = async { self.exchange(&delivery.event).await?.kept().await };
            return self.guard.call(is_retry, answered).await.map(Outcome::answered);
        }
        let answer = self.guard.call(is_retry, self.exchange(&delivery.event)).await?;
        // The status has decided. The rest is read only to keep the connection, and after the guard has let go.
        answer.finish(&self.clock).await;
        Ok(Outcome::DONE)
    }

    /// Sends once and judges. The request is written here, after the guard's waits, so that its timestamp is fresh.
    async fn exchange(&self, event: &Event) -> Result<Answer, Failure> {
        let (headers, body) = self.request(event)?;
        let answer = self.client.send(Method::POST, &self.to, headers, body).await?;
        match judge(answer.status().as_u16(), answer.header(header::RETRY_AFTER), self.clock.now()) {
            None => Ok(answer),
            Some(verdict) => Err(self.refused(answer, verdict).await),
        }
    }

    async fn refused(&self, answer: Answer, verdict: Verdict) -> Failure {
        let status = answer.status();
        let mut message = format!("answered {status}");
        if status.is_redirection() {
            let place = answer.header(header::LOCATION).unwrap_or("an unnamed place").to_owned();
            message.push_str(&format!(", a redirect to {place}; redirects are never followed"));
        }
        let body = answer.excerpt(&self.clock).await;
        if !body.is_empty() {
            message.push_str(": ");
            message.push_str(&body);
        }
        if verdict.is_gone {
            self.guard.disable(&message);
        }
        let failure = Failure::new(verdict.class, message);
        match verdict.after {
            Some(after) => failure.after(after),
            None => failure,
        }
    }

    fn request(&self, event: &Event) -> Result<(HeaderMap, Bytes), Failure> {
        let mut headers = self.headers.clone();
        let body = match self.mode {
            Mode::Binary => {
                for (name, value) in cloudevents::to_http_headers(event) {
                    headers.insert(own_name(&name)?, own_value(&value)?);
                }
                event.data.bytes()
            }
            Mode::Structured => {
                let mut out = Vec::with_capacity(event.size() + 256);
                cloudevents::write_json(event, &mut out);
                let kind = HeaderValue::from_static("application/cloudevents+json; charset=utf-8");
                headers.insert(header::CONTENT_TYPE, kind);
                out.into()
            }
        };
        for (name, attribute) in [(TRACE_PARENT, event::TRACE_PARENT), (TRACE_STATE, "tracestate")] {
            // Trace context is a courtesy: one that does not fit a header is left out.
            if let Some(value) = event.extension(attribute).and_then(|text| ascii(text)) {
                headers.insert(name, value);
            }
        }
        let key = key_of(event);
        let sent_at = self.clock.now().as_millis().div_euclid(1000);
        if let Some(signer) = &self.signer {
            headers.insert(WEBHOOK_SIGNATURE, own_value(&signer.sign(&key, sent_at, &body))?);
        }
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(sent_at));
        let key = own_value(&key)?;
        headers.insert(WEBHOOK_ID, key.clone());
        headers.insert(IDEMPOTENCY_KEY, key);
        Ok((headers, body))
    }
}

fn own_name(name: &str) -> Result<HeaderName, Failure> {
    HeaderName::try_from(name)
        .map_err(|_| Failure::new(FaultClass::Invalid, format!("attribute {name:?} is not the name of a header")))
}

fn own_value(value: &str) -> Result<HeaderValue, Failure> {
    ascii(value).ok_or_else(|| Failure::new(FaultClass::Invalid, "an attribute of the event does not fit a header"))
}

/// Returns the key under which a receiver knows an event again: readable by its id, and one for each `source` and `id`.
///
/// An id alone is not enough: two sources may both send an event `1`. It holds no full stop, which would make the
/// signed text ambiguous.
fn key_of(event: &Event) -> String {
    let mut digest = Sha256::new();
    digest.update((event.source.len() as u64).to_le_bytes());
    digest.update(event.source.as_bytes());
    digest.update(event.id.as_bytes());
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let mut key: String = event.id.chars().take(KEY_ID_CHARS).map(plain).collect();
    key.push('-');
    for byte in digest.finalize().iter().take(KEY_DIGEST_BYTES) {
        key.push_str(&format!("{byte:02x}"));
    }
    key
}

#[async_trait]
impl Handler for Webhook {
    async fn handle(&self, _: &Context, batch: &[Delivery]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for delivery in batch {
            outcomes.push(self.deliver(delivery).await.unwrap_or_else(Outcome::Failed));
        }
        outcomes
    }

    fn guard(&self) -> Option<Arc<Guard>> {
        Some(self.guard.clone())
    }

    fn in_process(&self) -> bool {
        // What is done with the event is done elsewhere, so an event cannot take the node down with it.
        false
    }
}

#[async_trait]
impl Probe for Webhook {
    async fn probe(&self, _: &Context) -> Result<()> {
        // OPTIONS has no effect by definition, and any answer at all means that somebody is there.
        let ask = self.client.send(Method::OPTIONS, &self.to, HeaderMap::new(), Bytes::new());
        match self.guard.call(false, ask).await {
            Ok(answer) => {
                answer.finish(&self.clock).await;
                Ok(())
            }
            Err(failure) => {
                let origin = Origin::Target(self.guard.target().clone());
                Err(Fault::unavailable(origin, format!("probe {:?}: {}", self.to, failure.message)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::config::{NoReferences, load};

    use super::*;
    use crate::registry::SinkConfig;

    #[test]
    fn configurations_are_checked() {
        let check = |more: &str| {
            let text = format!("{{ type: webhook, url: 'https://partner.example/hook', target: partner{more} }}");
            load::<SinkConfig>(&text, "t.yaml", &NoReferences).map(drop).map_err(|errors| errors.to_string())
        };
        assert_eq!(check(""), Ok(()));
        assert_eq!(check(", mode: structured, headers: { X-Tenant: seven }"), Ok(()));
        for (name, value) in
            [("Host", "a"), ("ce-id", "b"), ("Webhook-Id", "c"), ("a b", "d"), ("x", "ä"), ("Idempotency-Key", "e")]
        {
            let told = check(&format!(", headers: {{ {name}: {value} }}")).expect_err(name);
            assert!(told.contains("headers"), "{told}");
        }
        assert!(check(", secret: literal").is_err(), "a secret comes by reference");
        let wrong = "{ type: webhook, url: partner, target: partner }";
        assert!(load::<SinkConfig>(wrong, "t.yaml", &NoReferences).unwrap_err().to_string().contains("url"));
    }

    #[test]
    fn keys_are_stable_and_tell_sources_apart() {
        let key = |source: &str, id: &str| key_of(&Event::new(id.to_owned(), source.to_owned(), "t"));
        assert_eq!(key("/shop", "order.17"), key("/shop", "order.17"));
        assert!(key("/shop", "order.17").starts_with("order-17-"));
        assert_ne!(key("/shop", "1"), key("/depot", "1"));
        assert_ne!(key("/shop", "a.b"), key("/shop", "a-b"));
        assert_ne!(key("/a", "b1"), key("/ab", "1"));
        let long = key("/shop", &"ä".repeat(4000));
        assert!(long.len() < 128 && long.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
    }
}

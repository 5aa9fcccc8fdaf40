//! The sink `webhook`: what it sends, and how it judges every kind of answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_core::{
    clock::{Clock, Timestamp},
    config::{Environment, load},
    delivery::{Delivery, Lease, LeaseToken, Outcome, Position},
    event::{Data, Event},
    fault::{Failure, FaultClass},
    guard::{Gate, Guard, GuardPolicy},
    handler::Sink,
    limits,
    names::{StreamName, TargetName},
    notice::Notices,
    result,
    service::{self, Context, Stopper},
};
use tidegate_modules::{HttpClient, SinkConfig, SinkParts};

use crate::receiver::{Answer, Receiver, slammed_door};

/// Long enough for a loaded machine to answer, short enough to wait for when nobody answers.
const TIMEOUT: Duration = Duration::from_secs(2);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

struct Rig {
    sink: Arc<dyn Sink>,
    guard: Arc<Guard>,
    cx: Context,
    _stopper: Stopper,
}

fn policy(timeout: Duration) -> GuardPolicy {
    GuardPolicy { timeout, ..GuardPolicy::default() }
}

/// Knows one secret.
struct Secrets;

impl Environment for Secrets {
    fn variable(&self, name: &str) -> Result<String, String> {
        if name == "PARTNER_SECRET" { Ok(SECRET.to_owned()) } else { Err("there is no such variable".to_owned()) }
    }

    fn file(&self, _: &str, _: bool) -> Result<String, String> {
        Err("there are no files".to_owned())
    }
}

impl Rig {
    fn new(url: &str, more: &str) -> Self {
        Self::with_timeout(url, more, TIMEOUT)
    }

    /// A rig whose group keeps what is answered.
    fn answering(url: &str) -> Self {
        Self::open(url, "", TIMEOUT, true)
    }

    fn with_timeout(url: &str, more: &str, timeout: Duration) -> Self {
        Self::open(url, more, timeout, false)
    }

    fn open(url: &str, more: &str, timeout: Duration, answers: bool) -> Self {
        let text = format!("{{ type: webhook, url: '{url}', target: partner{more} }}");
        let config: SinkConfig = load(&text, "test.yaml", &Secrets).unwrap();
        let (clock, notices) = (Clock::real(), Notices::default());
        let guard = Guard::new(TargetName::new("partner").unwrap(), policy(timeout), clock.clone(), notices.clone());
        let client = HttpClient::open().unwrap();
        let (name, guarded) = ("deliver".parse().unwrap(), Some(guard.clone()));
        let parts = SinkParts { name, guard: guarded, beside: None, client, clock: clock.clone(), answers };
        let sink = config.open(parts).unwrap().unwrap();
        let (stopper, stop) = service::stop();
        Self { sink, guard, cx: Context { clock, stop, notices }, _stopper: stopper }
    }

    async fn send(&self, event: Event) -> Outcome {
        let mut outcomes = self.sink.handle(&self.cx, &[delivery(event)]).await;
        assert_eq!(outcomes.len(), 1);
        outcomes.remove(0)
    }

    async fn fail(&self, event: Event) -> Failure {
        let outcome = self.send(event).await;
        let Outcome::Failed(failure) = outcome else { panic!("expected a failure and got {outcome:?}") };
        failure
    }
}

fn delivery(event: Event) -> Delivery {
    let token = LeaseToken { owner: 1, group: 1, position: Position::number(1), epoch: 1 };
    Delivery {
        event,
        stream: StreamName::new("orders").unwrap(),
        position: Position::number(1),
        accepted_at: Timestamp::ZERO,
        attempt: 1,
        crashes: 0,
        history: Vec::new(),
        lease: Lease { token, expires_at: Timestamp::ZERO },
    }
}

fn order() -> Event {
    let mut event = Event::new("order.17", "/shop", "order.placed")
        .with_subject("customer ä")
        .with_extension("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .with_data(Data::Json(Bytes::from_static(br#"{"n":1}"#)));
    event.content_type = Some("application/json".into());
    event
}

fn ok() -> Answer {
    Answer::status(200, "", "")
}

#[tokio::test]
async fn binary_mode_carries_attributes_in_headers_and_the_data_as_body() {
    let mut receiver = Receiver::start([ok()]).await;
    let rig = Rig::new(&receiver.url, ", headers: { X-Tenant: seven }");
    assert_eq!(rig.send(order()).await, Outcome::DONE);
    let request = receiver.next().await;
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/hook?tenant=7"));
    let expect = [
        ("ce-id", "order.17"),
        ("ce-source", "/shop"),
        ("ce-type", "order.placed"),
        ("ce-specversion", "1.0"),
        ("ce-subject", "customer%20%C3%A4"),
        ("content-type", "application/json"),
        ("content-length", "7"),
        ("x-tenant", "seven"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    for (name, value) in expect {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    assert_eq!(request.body, br#"{"n":1}"#);
    assert!(request.header("user-agent").unwrap().starts_with("tidegate/"));
    assert_eq!(request.header("webhook-signature"), None, "nothing is signed without a secret");
}

#[tokio::test]
async fn secret_headers_are_sent_and_never_shown() {
    let mut receiver = Receiver::start([Answer::status(401, "", "who?")]).await;
    let rig = Rig::new(&receiver.url, ", secret_headers: { Authorization: '${env:PARTNER_SECRET}' }");
    let failure = rig.fail(order()).await;
    assert_eq!(receiver.next().await.header("authorization"), Some(SECRET));
    assert!(!failure.message.contains(SECRET) && !format!("{:?}", rig.guard.view()).contains(SECRET));
}

#[tokio::test]
async fn structured_mode_carries_the_whole_event_as_body() {
    let mut receiver = Receiver::start([ok()]).await;
    let rig = Rig::new(&receiver.url, ", mode: structured");
    assert_eq!(rig.send(order()).await, Outcome::DONE);
    let request = receiver.next().await;
    assert_eq!(request.header("content-type"), Some("application/cloudevents+json; charset=utf-8"));
    assert_eq!(request.header("ce-id"), None);
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(
        (&body["id"], &body["type"], &body["data"]["n"]),
        (&"order.17".into(), &"order.placed".into(), &1.into())
    );
}

#[tokio::test]
async fn requests_are_signed_over_id_time_and_body() {
    use base64::Engine as _;
    use hmac::{KeyInit as _, Mac as _};
    let mut receiver = Receiver::start([ok()]).await;
    let rig = Rig::new(&receiver.url, ", secret: '${env:PARTNER_SECRET}'");
    assert_eq!(rig.send(order()).await, Outcome::DONE);
    let request = receiver.next().await;
    let (id, at) = (request.header("webhook-id").unwrap(), request.header("webhook-timestamp").unwrap());
    let base64 = base64::engine::general_purpose::STANDARD;
    let key = base64.decode(SECRET.trim_start_matches("whsec_")).unwrap();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(&request.body);
    let expect = format!("v1,{}", base64.encode(mac.finalize().into_bytes()));
    assert_eq!(request.header("webhook-signature"), Some(expect.as_str()));
    let age = Clock::real().now().as_millis() / 1000 - at.parse::<i64>().unwrap();
    assert!((0..60).contains(&age), "the timestamp is {age} s old");
}

#[tokio::test]
async fn every_attempt_on_an_event_carries_one_key() {
    let mut receiver = Receiver::start([Answer::status(500, "", ""), ok(), ok()]).await;
    let rig = Rig::new(&receiver.url, "");
    assert_eq!(rig.fail(order()).await.class, FaultClass::Transient);
    assert_eq!(rig.send(order()).await, Outcome::DONE);
    let mut other = order();
    other.source = "/depot".into();
    assert_eq!(rig.send(other).await, Outcome::DONE);
    let mut keys = Vec::new();
    for _ in 0..3 {
        let request = receiver.next().await;
        assert_eq!(request.header("idempotency-key"), request.header("webhook-id"));
        keys.push(request.header("idempotency-key").unwrap().to_owned());
    }
    assert!(keys[0].starts_with("order-17-"), "{}", keys[0]);
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2], "another source may use the same id");
}

#[tokio::test]
async fn every_status_has_its_class() {
    use FaultClass::{Auth, DependencyDown, Invalid, Throttled, Timeout, Transient};
    for status in [200, 201, 202, 204] {
        let receiver = Receiver::start([Answer::status(status, "", "")]).await;
        assert_eq!(Rig::new(&receiver.url, "").send(order()).await, Outcome::DONE, "{status}");
    }
    let table = [
        (Invalid, &[400, 402, 409, 413, 415, 422, 451][..]),
        (Auth, &[301, 302, 304, 307, 308, 401, 403, 404, 405, 407]),
        (Timeout, &[408]),
        (Throttled, &[429]),
        (Transient, &[425, 500, 501, 505]),
        (DependencyDown, &[502, 503, 504]),
    ];
    for (class, statuses) in table {
        for &status in statuses {
            let receiver =
                Receiver::start([Answer::status(status, "", if status == 304 { "" } else { "why not" })]).await;
            let failure = Rig::new(&receiver.url, "").fail(order()).await;
            assert_eq!(failure.class, class, "{status}");
            assert!(failure.message.contains(&status.to_string()), "{}", failure.message);
            assert!(status == 304 || failure.message.ends_with("why not"), "{}", failure.message);
        }
    }
}

#[tokio::test]
async fn a_wait_is_kept_in_seconds_and_as_a_date() {
    let date = jiff::Timestamp::from_second(Clock::real().now().as_millis() / 1000 + 90).unwrap();
    let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT");
    for (status, wait, about) in [(429, "7".to_owned(), 7), (503, "7".to_owned(), 7), (429, date.to_string(), 90)] {
        let receiver = Receiver::start([Answer::status(status, &format!("retry-after: {wait}\r\n"), "")]).await;
        let rig = Rig::new(&receiver.url, "");
        let failure = rig.fail(order()).await;
        assert_eq!(failure.class, FaultClass::Throttled);
        let after = failure.after.unwrap().as_secs();
        assert!((about - 5..=about).contains(&after), "{status} with {wait:?} waits {after} s");
        assert!(matches!(rig.guard.gate(), Gate::ClosedUntil(_)), "the group waits too");
    }
}

#[tokio::test]
async fn redirects_are_refused_and_never_followed() {
    let mut elsewhere = Receiver::start([ok()]).await;
    let answer = Answer::status(307, &format!("location: {}\r\n", elsewhere.url), "");
    let receiver = Receiver::start([answer]).await;
    let failure = Rig::new(&receiver.url, "").fail(order()).await;
    assert_eq!(failure.class, FaultClass::Auth);
    assert!(failure.message.contains("redirect to http://127.0.0.1"), "{}", failure.message);
    assert!(elsewhere.is_quiet());
}

#[tokio::test]
async fn gone_disables_the_target() {
    let mut receiver = Receiver::start([Answer::status(410, "", "moved out")]).await;
    let rig = Rig::new(&receiver.url, "");
    assert_eq!(rig.fail(order()).await.class, FaultClass::Auth);
    assert_eq!(rig.guard.gate(), Gate::Disabled);
    receiver.next().await;
    rig.fail(order()).await;
    assert!(receiver.is_quiet(), "a disabled target is not called");
}

#[tokio::test]
async fn the_body_of_an_answer_is_read_up_to_a_limit() {
    let long = "no ".repeat(limits::ANSWER_BYTES_MAX);
    let receiver = Receiver::start([Answer::status(400, "", &long)]).await;
    let failure = Rig::new(&receiver.url, "").fail(order()).await;
    assert_eq!(failure.class, FaultClass::Invalid);
    assert!(failure.message.len() < 400, "{} bytes", failure.message.len());
}

#[tokio::test]
async fn a_body_that_never_ends_does_not_change_what_the_head_said() {
    let endless = |status| Answer::Bytes(format!("HTTP/1.1 {status} X\r\ncontent-length: 100\r\n\r\nonly this"));
    let receiver = Receiver::start([endless(200)]).await;
    assert_eq!(Rig::new(&receiver.url, "").send(order()).await, Outcome::DONE);
    let cut = Answer::Last("HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\nonly this".to_owned());
    let receiver = Receiver::start([cut]).await;
    assert_eq!(Rig::new(&receiver.url, "").send(order()).await, Outcome::DONE);
}

#[tokio::test]
async fn what_is_answered_is_kept_where_it_is_wanted() {
    let json = Answer::status(200, "content-type: application/json\r\n", r#"{"n":1}"#);
    let whole = "x".repeat(limits::RESULT_BYTES_MAX);
    let script = [json.clone(), Answer::status(202, "", &whole), Answer::status(200, "", &format!("{whole}x")), ok()];
    let receiver = Receiver::start(script).await;
    let rig = Rig::answering(&receiver.url);
    let answered = |kind: Option<&str>, body: &str| {
        Outcome::answered(result::Answer::new(kind, Bytes::copy_from_slice(body.as_bytes())))
    };
    assert_eq!(rig.send(order()).await, answered(Some("application/json"), r#"{"n":1}"#));
    assert_eq!(rig.send(order()).await, answered(None, &whole));
    assert_eq!(rig.send(order()).await, Outcome::answered(result::Answer::too_large()));
    assert_eq!(rig.send(order()).await, Outcome::answered(result::Answer::NOTHING));
    let receiver = Receiver::start([json]).await;
    assert_eq!(Rig::new(&receiver.url, "").send(order()).await, Outcome::DONE);
}

#[tokio::test]
async fn an_answer_of_which_a_part_is_missing_is_asked_for_again() {
    let head = "HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nhalf";
    let receiver = Receiver::start([Answer::Last(head.to_owned()), Answer::Bytes(head.to_owned())]).await;
    let rig = Rig::answering(&receiver.url);
    let failure = rig.fail(order()).await;
    assert_eq!(failure.class, FaultClass::Transient);
    assert!(failure.message.starts_with("answered 200 OK, but the body broke off"), "{}", failure.message);
    // One that never ends is ended by the deadline of the target.
    assert_eq!(rig.fail(order()).await.class, FaultClass::Timeout);
}

#[tokio::test]
async fn nobody_there_is_the_targets_fault() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?token=s3cret", listener.local_addr().unwrap());
    drop(listener);
    let failure = Rig::new(&url, "").fail(order()).await;
    assert_eq!(failure.class, FaultClass::DependencyDown);
    assert!(failure.message.contains("cannot connect") && failure.message.contains("refused"), "{}", failure.message);
    assert!(!failure.message.contains("s3cret"), "{}", failure.message);
}

#[tokio::test]
async fn a_wrong_name_and_a_wrong_protocol_are_the_targets_fault() {
    for url in [format!("https://{}/", slammed_door().await), "http://no-such-host.invalid/".to_owned()] {
        let failure = Rig::with_timeout(&url, "", Duration::from_secs(10)).fail(order()).await;
        assert_eq!(failure.class, FaultClass::DependencyDown, "{url}: {}", failure.message);
    }
}

#[tokio::test]
async fn no_answer_in_time_is_a_timeout() {
    let receiver = Receiver::start([Answer::Hang]).await;
    let failure = Rig::new(&receiver.url, "").fail(order()).await;
    assert_eq!(failure.class, FaultClass::Timeout, "{}", failure.message);
}

#[tokio::test]
async fn a_broken_answer_leaves_the_effect_unknown() {
    for answer in ["", "HTTP/1.1 200", "HTTP/1.1 200 X\r\nconten", "SSH-2.0-OpenSSH_9.2\r\n\r\n"] {
        let receiver = Receiver::start([Answer::Last(answer.to_owned())]).await;
        let failure = Rig::new(&receiver.url, "").fail(order()).await;
        assert_eq!(failure.class, FaultClass::Ambiguous, "{answer:?}: {}", failure.message);
    }
}

#[tokio::test]
async fn data_of_every_form_goes_out_as_it_came() {
    let mut receiver = Receiver::start([ok()]).await;
    let rig = Rig::new(&receiver.url, "");
    let forms = [Data::None, Data::Text("Grüße".into()), Data::Binary(Bytes::from_static(&[0, 255, 13, 10]))];
    for data in forms {
        assert_eq!(rig.send(Event::new("1", "/a", "t").with_data(data.clone())).await, Outcome::DONE);
        assert_eq!(receiver.next().await.body, data.bytes());
    }
}

#[tokio::test]
async fn probing_reaches_the_target_without_effect() {
    let mut receiver = Receiver::start([Answer::status(405, "", "")]).await;
    let rig = Rig::new(&receiver.url, "");
    rig.sink.probe(&rig.cx).await.unwrap();
    assert_eq!(receiver.next().await.method, "OPTIONS");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let fault = Rig::new(&closed, "").sink.probe(&rig.cx).await.unwrap_err();
    assert!(fault.note().contains("cannot connect"), "{fault}");
}

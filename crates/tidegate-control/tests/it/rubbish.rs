//! Whatever comes in, nothing breaks: no answer of the 500s, no panic.

use std::sync::LazyLock;

use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::node::Node;

/// One node for all cases; a runtime of its own keeps it alive between them.
static NODE: LazyLock<(Runtime, Node)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let node = runtime.block_on(Node::start());
    (runtime, node)
});

const HEADERS: &[&str] = &[
    "content-type",
    "ce-id",
    "ce-source",
    "ce-type",
    "ce-specversion",
    "ce-time",
    "ce-subject",
    "ce-dataschema",
    "ce-deliverat",
    "ce-expirytime",
    "ce-partitionkey",
    "ce-timeout",
    "ce-after",
    "ce-Strange-Name",
    "idempotency-key",
    "traceparent",
    "expect",
    "accept",
    "origin",
    "x-other",
];

const VALUES: &[&str] = &[
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "application/json",
    "text/plain; charset=latin1",
    "1.0",
    "2026-01-31T08:00:00Z",
    "%",
    "%zz",
    "%E4%F6",
    "\"",
    "100-continue",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
];

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => proptest::sample::select(VALUES).prop_map(|text| text.as_bytes().to_vec()),
        2 => "[ -~]{0,40}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>().prop_filter("allowed in a header", |byte| *byte >= 0x20 && *byte != 0x7f), 0..20),
    ]
}

fn headers() -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    proptest::collection::vec((proptest::sample::select(HEADERS), value()), 0..8)
}

/// Any JSON, with the names that the API knows among the names.
fn document() -> impl Strategy<Value = Value> {
    const NAMES: &[&str] = &[
        "id",
        "source",
        "type",
        "specversion",
        "data",
        "data_base64",
        "time",
        "subject",
        "deliverat",
        "max",
        "wait",
        "settlements",
        "token",
        "outcome",
        "after",
        "reason",
        "tokens",
        "by",
        "x",
    ];
    const TEXTS: &[&str] = &[
        "",
        "1.0",
        "a",
        "done",
        "retry",
        "reject",
        "release",
        "10ms",
        "1h",
        "99999999999999999999s",
        "2026-01-31T08:00:00Z",
        "1.1.1.1",
        "ffffffffffffffff.4294967295.18446744073709551615-1.0",
        "\u{0}",
        "ä",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(TEXTS).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(proptest::sample::select(NAMES), inner, 0..6)
                .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => document().prop_map(|document| document.to_string().into_bytes()),
        1 => (document(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(document, at, byte)| {
            let mut bytes = document.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
        1 => proptest::collection::vec(any::<u8>(), 0..200),
    ]
}

fn check(path: &str, headers: &[(&'static str, Vec<u8>)], body: Vec<u8>) {
    let (runtime, node) = &*NODE;
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert("host", HeaderValue::from_static("localhost"));
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.to_lowercase().as_bytes()).unwrap();
        request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
    }
    let answer = runtime.block_on(node.send(request));
    assert!(!answer.status.is_server_error(), "{} {}", answer.status, answer.text());
    if answer.status.is_client_error() {
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text());
    }
    answer.json();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn publishing_rubbish_breaks_nothing(headers in headers(), body in body()) {
        check("/v1/streams/orders/events", &headers, body);
    }

    #[test]
    fn claiming_rubbish_breaks_nothing(headers in headers(), body in body()) {
        check("/v1/groups/deliver/claim", &headers, body);
    }

    #[test]
    fn settling_rubbish_breaks_nothing(headers in headers(), body in body(), extend in any::<bool>()) {
        check(if extend { "/v1/groups/deliver/extend" } else { "/v1/groups/deliver/settle" }, &headers, body);
    }

    #[test]
    fn settling_well_formed_rubbish_breaks_nothing(token in "[0-9a-f]{1,16}\\.[0-9]{1,10}\\.[0-9]{1,20}(-[0-9]{1,20})?\\.[0-9a-f]{1,16}", after in any::<u64>()) {
        let settlement = json!({ "token": token, "outcome": "retry", "after": format!("{after}ms") });
        check("/v1/groups/deliver/settle", &[], json!({ "settlements": [settlement] }).to_string().into_bytes());
    }

    #[test]
    fn any_path_is_answered(path in "(/[a-z0-9%{}.~]{0,9}){1,5}") {
        let path = path.replace('%', "%25");
        check(&path, &[], Vec::new());
    }
}

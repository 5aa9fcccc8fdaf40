//! What holds for any event and for any bytes.

use proptest::prelude::*;

use super::{
    tests::{one, request, written},
    *,
};
use crate::event::{Attribute, Data};

fn text() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[^\\p{Cc}]{1,24}").unwrap()
}

fn optional() -> impl Strategy<Value = Option<ByteString>> {
    proptest::option::of(text().prop_map(ByteString::from))
}

fn attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        text().prop_map(|text| Attribute::Text(text.into())),
        any::<i32>().prop_map(Attribute::Integer),
        any::<bool>().prop_map(Attribute::Boolean),
    ]
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|truth| truth.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        Just("1.50e+3".to_owned()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[ {} ]", items.join(" , "))),
            proptest::collection::vec((any::<String>(), inner), 0..4).prop_map(|members| {
                let member =
                    |(name, value): (String, String)| format!("{} :\t{value}", serde_json::to_string(&name).unwrap());
                format!("{{{}}}", members.into_iter().map(member).collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

/// Data and a content type that fits it, as events that came in have them.
fn data() -> impl Strategy<Value = (Option<ByteString>, Data)> {
    prop_oneof![
        Just((None, Data::None)),
        json().prop_map(|json| (None, Data::Json(json.into()))),
        json().prop_map(|json| (Some("application/json; charset=utf-8".into()), Data::Json(json.into()))),
        any::<String>().prop_map(|text| (Some("text/plain".into()), Data::Text(text.into()))),
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(|bytes| (None, Data::Binary(bytes.into()))),
        proptest::collection::vec(any::<u8>(), 1..64)
            .prop_map(|bytes| (Some("image/png".into()), Data::Binary(bytes.into()))),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let time = proptest::option::of(Just(ByteString::from_static("2026-01-31T08:00:00.123456Z")));
    let extensions = proptest::collection::btree_map("x[a-z0-9]{0,19}", attribute(), 0..5);
    (text(), text(), text(), optional(), time, optional(), data(), extensions).prop_map(
        |(id, source, kind, subject, time, schema, (content_type, data), extensions)| Event {
            id: id.into(),
            source: source.into(),
            kind: kind.into(),
            subject,
            time,
            content_type,
            schema,
            extensions: extensions.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            data,
        },
    )
}

/// An event as it looks after it went through headers.
fn through_headers(mut event: Event) -> Event {
    for (name, value) in std::mem::take(&mut event.extensions) {
        let text = match value {
            Attribute::Text(text) => text,
            Attribute::Integer(number) => number.to_string().into(),
            Attribute::Boolean(truth) => truth.to_string().into(),
        };
        event.extensions.push((name, Attribute::Text(text)));
    }
    if event.data.is_empty() {
        event.data = Data::None;
    } else if event.content_type.is_none() && matches!(event.data, Data::Json(_)) {
        event.content_type = Some("application/json".into());
    }
    event
}

/// Pieces of which almost-events are made, so that chance reaches deep into the reader.
fn almost_json() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just(",".to_owned()),
        Just(":".to_owned()),
        Just("\"specversion\":\"1.0\"".to_owned()),
        Just("\"id\":\"1\"".to_owned()),
        Just("\"source\":\"/\"".to_owned()),
        Just("\"type\":\"t\"".to_owned()),
        Just("\"data\":".to_owned()),
        Just("\"data_base64\":\"AA==\"".to_owned()),
        Just("\"\\u00".to_owned()),
        Just("null".to_owned()),
        json(),
        any::<String>(),
    ];
    proptest::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn json_returns_the_same_event(event in event()) {
        prop_assume!(event.check().is_ok());
        let json = written(&event);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
        prop_assert_eq!(from_json(json.clone().into()).unwrap(), event.clone());
        let batch = from_json_batch(format!("[{json},{json}]").into()).unwrap();
        prop_assert_eq!(batch, vec![event.clone(), event]);
    }

    #[test]
    fn headers_return_the_same_event(event in event()) {
        prop_assume!(event.check().is_ok());
        let headers: Vec<(String, String)> = to_http_headers(&event).collect();
        for (name, value) in &headers {
            prop_assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{} = {:?}", name, value);
        }
        let borrowed: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        prop_assert_eq!(one(&borrowed, event.data.bytes()), through_headers(event));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256), content_type in ".{0,40}", value in ".{0,40}") {
        drop(from_json(bytes.clone().into()));
        drop(from_json_batch(bytes.clone().into()));
        let headers = [("content-type", content_type.as_str()), ("ce-id", value.as_str()), ("ce-specversion", "1.0")];
        drop(request(&headers, bytes.clone()));
        drop(request(&headers[..1], bytes));
    }

    #[test]
    fn almost_events_never_panic_and_what_is_read_is_valid(text in almost_json()) {
        for event in from_json_batch(text.clone().into()).unwrap_or_default().into_iter().chain(from_json(text.into())) {
            prop_assert!(event.check().is_ok());
            prop_assert_eq!(from_json(written(&event).into()).unwrap(), event);
        }
    }
}

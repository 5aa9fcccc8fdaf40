//! The CloudEvents SDK as a second opinion: what one writes, the other reads.

use cloudevents::{AttributesReader as _, Data as TheirData, Event as Theirs, event::ExtensionValue};

use super::{
    tests::{full, written},
    *,
};
use crate::event::{Attribute, Data};

/// Compares what both understand of one event.
fn same(ours: &Event, theirs: &Theirs) {
    assert_eq!(&*ours.id, theirs.id());
    assert_eq!(&*ours.source, theirs.source());
    assert_eq!(&*ours.kind, theirs.ty());
    assert_eq!(ours.subject.as_deref(), theirs.subject());
    assert_eq!(ours.content_type.as_deref(), theirs.datacontenttype());
    assert_eq!(ours.schema.as_deref(), theirs.dataschema().map(|schema| schema.as_str()));
    let instant = |text: &ByteString| Timestamp::parse(text).unwrap().as_millis();
    assert_eq!(ours.time.as_ref().map(instant), theirs.time().map(|time| time.timestamp_millis()));
    assert_eq!(ours.extensions.len(), theirs.iter_extensions().count());
    for (name, value) in theirs.iter_extensions() {
        let given = ours.extensions.iter().find(|(other, _)| **other == *name).map(|(_, value)| value);
        let expect = match value {
            ExtensionValue::String(text) => Attribute::Text(text.as_str().into()),
            ExtensionValue::Boolean(truth) => Attribute::Boolean(*truth),
            ExtensionValue::Integer(number) => Attribute::Integer(i32::try_from(*number).unwrap()),
        };
        assert_eq!(given, Some(&expect), "{name}");
    }
    match (&ours.data, theirs.data()) {
        (Data::None, None) => {}
        (Data::Json(ours), Some(TheirData::Json(theirs))) => {
            assert_eq!(&serde_json::from_slice::<serde_json::Value>(ours).unwrap(), theirs);
        }
        (Data::Text(ours), Some(TheirData::String(theirs))) => assert_eq!(&**ours, theirs),
        (Data::Binary(ours), Some(TheirData::Binary(theirs))) => assert_eq!(ours, theirs),
        (ours, theirs) => panic!("{ours:?} is not {theirs:?}"),
    }
}

#[test]
fn the_sdk_reads_what_is_written_and_writes_what_is_read() {
    let text =
        Event { content_type: Some("text/plain".into()), ..full() }.with_data(Data::Text("a\n\"b\"\u{1}ä".into()));
    let binary =
        Event { content_type: Some("image/png".into()), ..full() }.with_data(Data::Binary(vec![0, 255, 7].into()));
    for ours in [full(), text, binary, full().with_data(Data::None), Event::new("1", "/", "t")] {
        let theirs: Theirs = serde_json::from_str(&written(&ours)).unwrap();
        same(&ours, &theirs);
        same(&from_json(serde_json::to_vec(&theirs).unwrap().into()).unwrap(), &theirs);
    }
}

#[test]
fn both_refuse_the_same() {
    let wrong = [
        r#"{"specversion":"0.2","id":"1","source":"/","type":"t"}"#,
        r#"{"specversion":"1.0","source":"/","type":"t"}"#,
        r#"{"specversion":"1.0","id":"1","type":"t"}"#,
        r#"{"specversion":"1.0","id":"1","source":"/"}"#,
        r#"{"specversion":"1.0","id":"1","source":"/","type":"t","time":"noon"}"#,
        r#"{"specversion":"1.0","id":"1","source":"/","type":"t","data_base64":"%"}"#,
        r#"{"specversion":"1.0","id":"1","source":"/","type":"t","list":[1]}"#,
    ];
    for json in wrong {
        assert!(serde_json::from_str::<Theirs>(json).is_err(), "the SDK takes {json}");
        assert!(from_json(json.into()).is_err(), "{json}");
    }
}

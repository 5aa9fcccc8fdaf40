//! Every form in and out, every refusal, and what must hold for any event and any bytes.

use super::*;
use crate::{
    event::{Attribute, Data},
    fault::{FaultKind, Retry},
};

const CLOCK: Timestamp = Timestamp::from_millis(1_769_846_400_000);

pub(super) fn request(headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Vec<Event>> {
    from_http(headers.iter().copied(), body.into(), &PlainDefaults::default(), &Clock::manual(CLOCK))
}

pub(super) fn one(headers: &[(&str, &str)], body: impl Into<Bytes>) -> Event {
    let events = request(headers, body).unwrap();
    assert_eq!(events.len(), 1);
    events.into_iter().next().unwrap()
}

pub(super) fn written(event: &Event) -> String {
    let mut out = Vec::new();
    write_json(event, &mut out);
    String::from_utf8(out).unwrap()
}

pub(super) fn full() -> Event {
    let mut event = Event::new("17", "/shop", "order.placed")
        .with_subject("customer \"9\"\\ä")
        .with_extension("partitionkey", "customer-9")
        .with_data(Data::Json(Bytes::from_static(b"{ \"n\" : 1.50 }")));
    event.time = Some("2026-01-31T08:00:00.5+01:00".into());
    event.content_type = Some("application/json".into());
    event.schema = Some("https://example.com/schema".into());
    event.extensions.push(("count".into(), Attribute::Integer(-3)));
    event.extensions.push(("urgent".into(), Attribute::Boolean(true)));
    event
}

const FULL: &str = concat!(
    r#"{"specversion":"1.0","id":"17","source":"/shop","type":"order.placed","subject":"customer \"9\"\\ä","#,
    r#""time":"2026-01-31T08:00:00.5+01:00","datacontenttype":"application/json","#,
    r#""dataschema":"https://example.com/schema","partitionkey":"customer-9","count":-3,"urgent":true,"#,
    r#""data":{ "n" : 1.50 }}"#
);

#[test]
fn json_is_written_and_read() {
    assert_eq!(written(&full()), FULL);
    assert_eq!(from_json(FULL.into()).unwrap(), full());
}

#[test]
fn data_keeps_its_form() {
    let with = |members: &str| {
        from_json(format!(r#"{{"specversion":"1.0","id":"1","source":"/","type":"t"{members}}}"#).into())
    };
    let check = |members: &str, expect: Data| {
        let event = with(members).unwrap();
        assert_eq!(event.data, expect, "{members}");
        assert_eq!(from_json(written(&event).into()).unwrap(), event, "{members}");
    };
    let json = |text: &'static str| Data::Json(Bytes::from_static(text.as_bytes()));
    check("", Data::None);
    check(r#","data":null"#, json("null"));
    check(r#","data": [1, 2.0 ,3e2] "#, json("[1, 2.0 ,3e2]"));
    check(r#","data":"text""#, json("\"text\""));
    check(r#","data":"text","datacontenttype":"text/plain""#, Data::Text("text".into()));
    check(r#","datacontenttype":"text/xml","data":"<a b=\"\u00e4\n\"/>""#, Data::Text("<a b=\"ä\n\"/>".into()));
    check(r#","datacontenttype":"text/xml","data":{"a":1}"#, json("{\"a\":1}"));
    check(r#","data":"x","datacontenttype":"application/vnd.x+json""#, json("\"x\""));
    check(r#","data_base64":"AAEC/w==""#, Data::Binary(Bytes::from_static(&[0, 1, 2, 255])));
    check(r#","data_base64":"""#, Data::Binary(Bytes::new()));
    let unset = with(r#","subject":null,"traceparent":null,"time":null,"data_base64":null"#).unwrap();
    assert_eq!(unset, Event::new("1", "/", "t"));
}

#[test]
fn wrong_json_says_where() {
    let check = |body: &str, words: &[&str]| {
        let fault = from_json(body.to_owned().into()).unwrap_err();
        assert_eq!((fault.kind, fault.retry), (FaultKind::Invalid, Retry::Never), "{body}");
        for word in words {
            assert!(fault.note().contains(word), "{body}: {:?} does not say {word:?}", fault.note());
        }
    };
    let event = |members: &str| format!(r#"{{"specversion":"1.0","id":"1","source":"/","type":"t",{members}}}"#);
    check("", &["line 1 column 0"]);
    check("[]", &["CloudEvent as a JSON object", "line 1"]);
    check("{\n\"id\": \"1\",\n\"source\" 5}", &["line 3 column 10"]);
    check(r#"{"id":"1","source":"/","type":"t"}"#, &["\"specversion\" is required"]);
    check(r#"{"specversion":"0.3","id":"1","source":"/","type":"t"}"#, &["\"0.3\" is not understood, \"1.0\" is"]);
    check(r#"{"specversion":"1.0","source":"/","type":"t"}"#, &["\"id\" is required"]);
    check(r#"{"specversion":"1.0","id":null,"source":"/","type":"t"}"#, &["\"id\" is required"]);
    check(r#"{"specversion":"1.0","id":"","source":"/","type":"t"}"#, &["\"id\" is required and must not be empty"]);
    check(
        r#"{"specversion":"1.0","id":5,"source":"/","type":"t"}"#,
        &["member \"/id\"", "expected a string", "column 27"],
    );
    check(&event(r#""subject":{}"#), &["member \"/subject\"", "expected a string"]);
    check(&event(r#""time":"noon""#), &["\"time\"", "RFC 3339"]);
    check(&event(r#""id":"2""#), &["member \"/id\"", "given twice"]);
    check(&event(r#""subject":null,"subject":"x""#), &["given twice"]);
    check(&event(r#""ext":1,"ext":2"#), &["member \"/ext\"", "given twice"]);
    check(&event(r#""ext":null,"ext":2"#), &["given twice"]);
    check(&event(r#""data":1,"data":2"#), &["member \"/data\"", "given twice"]);
    check(&event(r#""data":1,"data_base64":"""#), &["both"]);
    check(&event(r#""data_base64":"AAE""#), &["not base64"]);
    check(&event(r#""data_base64":5"#), &["member \"/data_base64\"", "expected a string"]);
    check(&event(r#""big":2147483648"#), &["member \"/big\"", "32 bits"]);
    check(&event(r#""half":0.5"#), &["member \"/half\"", "32 bits"]);
    check(&event(r#""list":[1]"#), &["member \"/list\"", "extension attributes"]);
    check(&event(r#""my_ext":1"#), &["\"my_ext\"", "lower-case letters and digits"]);
    check(&event(r#""a/b":[]"#), &["member \"/a~1b\""]);
    check(&event(r#""subject":"a\nb""#), &["\"subject\"", "control character"]);
    check(&event(r#""data":"\ud800","datacontenttype":"text/plain""#), &["\"data\""]);
    check(&(event(r#""a":1"#) + " x"), &["trailing characters"]);
    check("{\"id\":\"\u{1}\"}", &["control character"]);
    let deep = |levels: usize| event(&format!(r#""data":{}{}"#, "[".repeat(levels), "]".repeat(levels)));
    check(&deep(limits::JSON_DEPTH_MAX), &["nested deeper"]);
    check(&deep(100_000), &["nested deeper"]);
    assert!(from_json(deep(limits::JSON_DEPTH_MAX - 1).into()).is_ok());
    let brackets = event(&format!(r#""data":"{}\"[""#, "[".repeat(1000)));
    assert!(from_json(brackets.into()).is_ok(), "brackets inside a string are no nesting");
    let many: Vec<String> = (0..=limits::EXTENSIONS_MAX + 1).map(|number| format!("\"e{number}\":1")).collect();
    check(&event(&many.join(",")), &["extension attributes"]);
    assert!(from_json(Bytes::from_static(b"{\"id\":\"\xff\"}")).is_err());
}

#[test]
fn batches_are_all_or_none_and_name_the_wrong_one() {
    let event = r#"{"specversion":"1.0","id":"1","source":"/","type":"t","data":[1]}"#;
    let batch = |items: &[&str]| from_json_batch(format!("[{}]", items.join(",\n")).into());
    assert_eq!(batch(&[event, event]).unwrap().len(), 2);
    assert_eq!(batch(&[]).unwrap(), []);
    let check = |items: &[&str], words: &[&str]| {
        let note = batch(items).unwrap_err().note().to_owned();
        assert!(words.iter().all(|word| note.contains(word)), "{note}");
    };
    check(&[event, "5"], &["event 1 of the batch", "line 2"]);
    check(&[event, event, r#"{"specversion":"1.0","id":7}"#], &["event 2 of the batch", "member \"/2/id\"", "line 3"]);
    check(&[event, r#"{"specversion":"1.0","id":"7"}"#], &["event 1 of the batch", "\"source\" is required"]);
    check(
        &[r#"{"specversion":"1.0","id":"7","source":"/","type":"t","time":"x"}"#],
        &["event 0 of the batch", "\"time\""],
    );
    check(&[event, ""], &["event 1 of the batch"]);
    assert!(from_json_batch(event.into()).unwrap_err().note().contains("list of CloudEvents"));
    let many = vec![event; limits::BATCH_EVENTS_MAX + 1];
    let fault = batch(&many).unwrap_err();
    assert_eq!((fault.kind, fault.retry), (FaultKind::Limited, Retry::Never));
    assert!(fault.note().contains("10000"), "{fault}");
}

#[test]
fn what_is_too_large_says_the_limit() {
    let check = |result: Result<Vec<Event>>, limit: usize| {
        let fault = result.unwrap_err();
        assert_eq!((fault.kind, fault.retry), (FaultKind::Limited, Retry::Never), "{fault}");
        assert!(fault.note().contains(&limit.to_string()), "{fault}");
    };
    check(request(&[], vec![0; limits::BODY_BYTES_MAX + 1]), limits::BODY_BYTES_MAX);
    check(request(&[], vec![0; limits::EVENT_BYTES_MAX]), limits::EVENT_BYTES_MAX);
    let large = "x".repeat(limits::EVENT_BYTES_MAX);
    let event = format!(r#"{{"specversion":"1.0","id":"1","source":"/","type":"t","data":"{large}"}}"#);
    check(request(&[("content-type", "application/cloudevents+json")], event), limits::EVENT_BYTES_MAX);
}

#[test]
fn structured_and_batch_requests_are_read() {
    assert_eq!(
        one(&[("Content-Type", "application/cloudevents+json; charset=utf-8"), ("ce-id", "ignored")], FULL),
        full()
    );
    let events =
        request(&[("content-type", "application/cloudevents-batch+json")], format!("[{FULL},{FULL}]")).unwrap();
    assert_eq!(events, [full(), full()]);
    for bad in ["application/cloudevents+avro", "application/cloudevents+json; charset=utf-16"] {
        let fault = request(&[("content-type", bad)], FULL).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid);
        assert!(fault.note().starts_with("unsupported content type"), "{fault}");
    }
    let twice = [("content-type", "text/plain"), ("Content-Type", "text/plain")];
    assert!(request(&twice, "x").unwrap_err().note().contains("twice"));
}

#[test]
fn binary_requests_are_read_and_written() {
    let headers = [
        ("ce-specversion", "1.0"),
        ("Ce-Id", "17"),
        ("ce-source", "/shop"),
        ("ce-type", "order.placed"),
        ("ce-subject", "customer%20%229%22\\%C3%A4"),
        ("ce-time", "2026-01-31T08:00:00.5+01:00"),
        ("ce-dataschema", "https://example.com/schema"),
        ("ce-partitionkey", "customer-9"),
        ("ce-count", "-3"),
        ("ce-urgent", "true"),
        ("content-type", "application/json"),
    ];
    let read = one(&headers, "{ \"n\" : 1.50 }");
    let mut expect = full();
    for (_, value) in &mut expect.extensions {
        // Headers have no types.
        *value = Attribute::Text(match value {
            Attribute::Text(text) => text.clone(),
            Attribute::Integer(number) => number.to_string().into(),
            Attribute::Boolean(truth) => truth.to_string().into(),
        });
    }
    assert_eq!(read, expect);
    let written: Vec<(String, String)> = to_http_headers(&full()).collect();
    let expect: Vec<_> = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).into();
    assert_eq!(written, expect);
    let typed = |data: Data| to_http_headers(&Event::new("1", "/", "t").with_data(data)).last().unwrap().1;
    assert_eq!(typed(Data::Json("1".into())), "application/json");
    assert_eq!(typed(Data::Text("x".into())), "text/plain; charset=utf-8");
}

#[test]
fn wrong_binary_requests_name_the_header() {
    let good = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/"), ("ce-type", "t")];
    assert_eq!(one(&good, ""), Event::new("1", "/", "t"));
    for (index, (name, _)) in good.iter().enumerate() {
        let mut headers = good.to_vec();
        headers.remove(index);
        let fault = request(&headers, "").unwrap_err();
        assert!(fault.kind == FaultKind::Invalid && fault.note().contains(name), "{fault}");
    }
    let check = |header: (&str, &str), body: &str, words: &[&str]| {
        let note = request(&[&good[..], &[header]].concat(), body.to_owned()).unwrap_err().note().to_owned();
        assert!(words.iter().all(|word| note.contains(word)), "{note}");
    };
    check(("ce-id", "2"), "", &["\"ce-id\" is given twice"]);
    check(("ce-time", "noon"), "", &["\"time\"", "RFC 3339"]);
    check(("ce-subject", "%ff"), "", &["\"ce-subject\"", "UTF-8"]);
    check(("ce-my-ext", "x"), "", &["\"my-ext\"", "lower-case"]);
    check(("ce-data", "x"), "", &["\"data\"", "core attribute"]);
    check(("ce-", "x"), "", &["extension attribute name"]);
    check(("ce-datacontenttype", "text/plain"), "", &["Content-Type"]);
    check(("ce-subject", "a%0Ab"), "", &["control character"]);
    check(("content-type", "application/json"), "{\"a\":\n}", &["body: not JSON", "line 2 column 1"]);
    check(("content-type", "application/json"), &"[".repeat(100_000), &["not JSON"]);
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    check(("content-type", "application/json"), &deep, &["nested deeper than 64"]);
    let old =
        request(&[("ce-specversion", "0.3"), ("ce-id", "1"), ("ce-source", "/"), ("ce-type", "t")], "").unwrap_err();
    assert!(old.note().contains("\"0.3\""), "{old}");
}

#[test]
fn plain_bodies_become_events() {
    let event = one(&[("content-type", "text/plain"), ("Idempotency-Key", "\"abc-1\"")], "hello");
    assert_eq!((&*event.id, &*event.source, &*event.kind), ("abc-1", "/", "plain"));
    assert_eq!(event.time.as_deref(), Some("2026-01-31T08:00:00.000Z"));
    assert_eq!((event.content_type.as_deref(), event.data), (Some("text/plain"), Data::Text("hello".into())));
    let defaults = PlainDefaults { source: Some("/s".into()), kind: Some("k".into()), subject: Some("j".into()) };
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("content-type", "application/json"), ("traceparent", trace)];
    let event = from_http(headers, Bytes::from_static(b"[1]"), &defaults, &Clock::manual(CLOCK)).unwrap().remove(0);
    assert_eq!((&*event.source, &*event.kind, event.subject.as_deref()), ("/s", "k", Some("j")));
    assert_eq!(
        (event.extension(TRACE_PARENT).map(|text| &**text), &event.data),
        (Some(trace), &Data::Json("[1]".into()))
    );
    assert_eq!(event.id.len(), 36);
    assert_eq!(event.id.as_bytes()[14], b'7');
    assert_eq!(one(&[], "").data, Data::None);
    assert_eq!(one(&[("content-type", "")], "x").content_type, None);
    assert_eq!(one(&[("content-type", "image/png")], "x").data, Data::Binary("x".into()));
    assert_eq!(one(&[("content-type", "text/plain")], vec![0xff]).data, Data::Binary(vec![0xff].into()));
    assert_eq!(one(&[("traceparent", "nonsense")], "x").extensions, []);
    assert!(request(&[("idempotency-key", "")], "x").unwrap_err().note().contains("idempotency-key"));
    assert!(request(&[("content-type", "application/json")], "{").unwrap_err().note().contains("line 1"));
}

#[test]
fn fresh_ids_differ_and_sort_by_time() {
    let (first, second) = (fresh_id(CLOCK), fresh_id(CLOCK));
    assert_ne!(first, second);
    assert!(first < fresh_id(CLOCK.plus(std::time::Duration::from_millis(1))));
}

//! Forms of an event on the wire, until the crate of words has them.

use tidegate_core::event::{Attribute, Data, Event};

pub(super) fn to_http_headers(event: &Event) -> Vec<(String, String)> {
    let escape = |text: &str| {
        let mut out = String::new();
        for byte in text.bytes() {
            if (b'!'..=b'~').contains(&byte) && !matches!(byte, b'"' | b'%') {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    };
    let mut headers = vec![("ce-specversion".to_owned(), "1.0".to_owned())];
    let known = ["id", "source", "type", "subject", "time", "dataschema"];
    for name in known.into_iter().chain(event.extensions.iter().map(|(name, _)| &**name)) {
        if let Some(value) = event.attribute(name) {
            headers.push((format!("ce-{name}"), escape(&value)));
        }
    }
    if let Some(kind) = &event.content_type {
        headers.push(("content-type".to_owned(), kind.to_string()));
    }
    headers
}

pub(super) fn write_json(event: &Event, out: &mut Vec<u8>) {
    let mut members = serde_json::Map::new();
    members.insert("specversion".to_owned(), "1.0".into());
    for name in ["id", "source", "type", "subject", "time", "dataschema", "datacontenttype"] {
        if let Some(value) = event.attribute(name) {
            members.insert(name.to_owned(), (*value).into());
        }
    }
    for (name, value) in &event.extensions {
        let value = match value {
            Attribute::Text(text) => (**text).into(),
            Attribute::Integer(number) => (*number).into(),
            Attribute::Boolean(truth) => (*truth).into(),
        };
        members.insert(name.to_string(), value);
    }
    match &event.data {
        Data::Json(bytes) => drop(members.insert("data".to_owned(), serde_json::from_slice(bytes).unwrap_or_default())),
        Data::Text(text) => drop(members.insert("data".to_owned(), (**text).into())),
        Data::None | Data::Binary(_) => {}
    }
    out.extend_from_slice(serde_json::Value::Object(members).to_string().as_bytes());
}

//! Binary mode of the HTTP binding: attributes in headers, data in the body.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;

use super::{json::SPEC_VERSION, media::data_of};
use crate::{
    event::{Attribute, Data, Event},
    fault::{Fault, Result},
};

/// What the headers of attributes begin with.
pub(super) const PREFIX: &str = "ce-";

/// Content type of data whose event does not name it.
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Reads an event in binary mode; `attributes` are the headers that begin with [`PREFIX`], without it.
pub(super) fn from_headers(attributes: &[(String, &str)], content_type: Option<&str>, body: Bytes) -> Result<Event> {
    let mut event = Event::new("", "", "");
    let mut version = None;
    for (index, (name, raw)) in attributes.iter().enumerate() {
        let header = format!("{PREFIX}{name}");
        if attributes.iter().take(index).any(|(other, _)| other == name) {
            return Err(Fault::invalid(format!("header {header:?} is given twice")));
        }
        let value = decode(raw).map_err(|why| Fault::invalid(format!("header {header:?}: {why}")))?;
        match name.as_str() {
            "specversion" => version = Some(value),
            "id" => event.id = value,
            "source" => event.source = value,
            "type" => event.kind = value,
            "subject" => event.subject = Some(value),
            "time" => event.time = Some(value),
            "dataschema" => event.schema = Some(value),
            "datacontenttype" => {
                return Err(Fault::invalid(
                    "header \"ce-datacontenttype\" is not part of binary mode, Content-Type is",
                ));
            }
            extension => event.extensions.push((extension.into(), Attribute::Text(value))),
        }
    }
    match version.as_deref() {
        Some(SPEC_VERSION) => {}
        Some(other) => {
            return Err(Fault::invalid(format!("specversion {other:?} is not understood, {SPEC_VERSION:?} is")));
        }
        None => return Err(Fault::invalid("header \"ce-specversion\" is missing")),
    }
    for (name, value) in [("id", &event.id), ("source", &event.source), ("type", &event.kind)] {
        if value.is_empty() {
            return Err(Fault::invalid(format!("header \"ce-{name}\" is missing or empty")));
        }
    }
    event.content_type = content_type.map(ByteString::from);
    event.data = data_of(content_type, body)?;
    event.check()?;
    Ok(event)
}

/// Returns the headers of an event in binary mode, `content-type` among them; the body is its data.
pub fn to_http_headers(event: &Event) -> impl Iterator<Item = (String, String)> {
    let content_type = event.content_type.as_deref().or(match event.data {
        Data::Json(_) => Some(JSON),
        Data::Text(_) => Some(TEXT),
        Data::None | Data::Binary(_) => None,
    });
    let known = [
        ("specversion", Some(SPEC_VERSION)),
        ("id", Some(&*event.id)),
        ("source", Some(&*event.source)),
        ("type", Some(&*event.kind)),
        ("subject", event.subject.as_deref()),
        ("time", event.time.as_deref()),
        ("dataschema", event.schema.as_deref()),
    ];
    let header = |name: &str, value: &str| (format!("{PREFIX}{name}"), encode(value).into_owned());
    let mut headers: Vec<_> =
        known.into_iter().filter_map(|(name, value)| value.map(|value| header(name, value))).collect();
    for (name, _) in &event.extensions {
        if let Some(value) = event.attribute(name) {
            headers.push(header(name, &value));
        }
    }
    headers.extend(content_type.map(|value| ("content-type".to_owned(), value.to_owned())));
    headers.into_iter()
}

/// Writes a value as the binding asks: what is no visible ASCII character, and `"` and `%`, as percent and two digits.
fn encode(value: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'%';
    if value.bytes().all(plain) {
        return value.into();
    }
    let mut out = String::with_capacity(value.len() + 16);
    for byte in value.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out.into()
}

/// Reads a value: quotes around it are taken off, then percent and two digits stand for a byte.
///
/// A percent sign before anything else stands for itself: senders that do not know the rule send it so.
fn decode(value: &str) -> Result<ByteString, &'static str> {
    let unquoted = match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inside) if inside.contains('\\') => Cow::Owned(unescape(inside)),
        Some(inside) => Cow::Borrowed(inside),
        None => Cow::Borrowed(value),
    };
    if !unquoted.contains('%') {
        return Ok(ByteString::from(&*unquoted));
    }
    let mut out = Vec::with_capacity(unquoted.len());
    let mut rest = unquoted.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits =
            after.split_at_checked(2).filter(|(digits, _)| byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let decoded = digits.and_then(|(digits, tail)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, tail))
        });
        let (byte, tail) = decoded.unwrap_or((byte, after));
        out.push(byte);
        rest = tail;
    }
    ByteString::try_from(out).map_err(|_| "the percent-encoded value is not UTF-8")
}

/// Takes the backslashes out of the inside of a quoted string.
fn unescape(inside: &str) -> String {
    let mut out = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_as_the_binding_says() {
        let check = |plain: &str, header: &str| {
            assert_eq!(encode(plain), header);
            assert_eq!(&*decode(header).unwrap(), plain);
        };
        check("order-17", "order-17");
        check("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80");
        check("50% \"off\"", "50%25%20%22off%22");
        check("/a?b=c&d", "/a?b=c&d");
    }

    #[test]
    fn values_of_other_senders_are_read() {
        let check = |header: &str, plain: &str| assert_eq!(&*decode(header).unwrap(), plain, "{header}");
        check("\"quoted \\\"text\\\"\"", "quoted \"text\"");
        check("100% sure", "100% sure");
        check("%4", "%4");
        check("%zz", "%zz");
        check("%+1", "%+1");
        check("\"", "\"");
        check("Euro € plain", "Euro € plain");
        check("%e2%82%ac", "€");
        assert!(decode("%E2%82").is_err());
    }
}

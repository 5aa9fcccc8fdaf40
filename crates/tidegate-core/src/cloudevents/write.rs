//! Writes the JSON format of CloudEvents. By hand, because every claim of a pull worker comes through here.

use std::io::Write as _;

use base64::Engine as _;

use crate::event::{Attribute, Data, Event};

/// Appends an event in the JSON format: JSON data as it was written, text as a string, anything else as base64.
pub fn write_json(event: &Event, out: &mut Vec<u8>) {
    // Names, quotes and commas of all members take some 130 bytes; escapes and base64 are rare.
    out.reserve(event.size() + 192);
    out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":");
    string(&event.id, out);
    out.extend_from_slice(b",\"source\":");
    string(&event.source, out);
    out.extend_from_slice(b",\"type\":");
    string(&event.kind, out);
    let optional: [(&[u8], _); 4] = [
        (b",\"subject\":", &event.subject),
        (b",\"time\":", &event.time),
        (b",\"datacontenttype\":", &event.content_type),
        (b",\"dataschema\":", &event.schema),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            out.extend_from_slice(name);
            string(value, out);
        }
    }
    for (name, value) in &event.extensions {
        out.push(b',');
        string(name, out);
        out.push(b':');
        match value {
            Attribute::Text(text) => string(text, out),
            Attribute::Boolean(true) => out.extend_from_slice(b"true"),
            Attribute::Boolean(false) => out.extend_from_slice(b"false"),
            Attribute::Integer(number) => write!(out, "{number}").expect("writing to memory does not fail"),
        }
    }
    match &event.data {
        Data::None => {}
        Data::Json(bytes) => {
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(bytes);
        }
        Data::Text(text) => {
            out.extend_from_slice(b",\"data\":");
            string(text, out);
        }
        Data::Binary(bytes) => {
            out.extend_from_slice(b",\"data_base64\":\"");
            base64(bytes, out);
            out.push(b'"');
        }
    }
    out.push(b'}');
}

/// Appends a JSON string.
fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(control >> 4), digit(control & 15)]);
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    let engine = base64::engine::general_purpose::STANDARD;
    let start = out.len();
    out.resize(start + base64::encoded_len(bytes.len(), true).unwrap_or(0), 0);
    let written = out.get_mut(start..).map_or(0, |space| engine.encode_slice(bytes, space).unwrap_or(0));
    out.truncate(start + written);
}

//! What is said to a node over HTTP/1.1: single events, batches, and pull workers. Written by hand, to cost little.

use std::{
    cell::Cell,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::drive::{Answer, Dialog};

/// Path on which events come in, at the node and at the bare server.
pub(crate) const EVENTS: &str = "/v1/streams/events/events";

const ID_DIGITS: usize = 16;

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Where the body starts.
    pub(crate) body: usize,
    pub(crate) length: usize,
}

impl Head {
    /// Reads the head at the front; none while it is not complete. The status of a request is 0.
    pub(crate) fn read(input: &[u8]) -> Result<Option<Self>> {
        let Some(end) = find(input, b"\r\n\r\n", 0) else { return Ok(None) };
        let text = std::str::from_utf8(&input[..end]).context("a head is not text")?;
        let first = text.split("\r\n").next().unwrap_or_default();
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let length = header(text, "content-length").and_then(|length| length.parse().ok());
        Ok(Some(Self { status, body: end + 4, length: length.context("a head has no content-length")? }))
    }

    pub(crate) fn end(self) -> usize {
        self.body + self.length
    }
}

/// Returns the value of a header.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Returns where `what` starts, from a place on.
fn find(input: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let first = *what.first()?;
    let mut at = from;
    while let Some(skip) = input.get(at..)?.iter().position(|byte| *byte == first) {
        at += skip;
        if input[at..].starts_with(what) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Takes a whole answer from the front; it must be a 200.
fn whole(input: &[u8]) -> Result<Option<(Head, &[u8])>> {
    let Some(head) = Head::read(input)? else { return Ok(None) };
    if input.len() < head.end() {
        return Ok(None);
    }
    let body = &input[head.body..head.end()];
    if head.status != 200 {
        bail!("the server answered {}: {}", head.status, String::from_utf8_lossy(body));
    }
    Ok(Some((head, body)))
}

/// A request whose ids change from one time to the next.
#[derive(Debug, Clone)]
struct Stencil {
    bytes: Vec<u8>,
    /// Places of the ids.
    ids: Vec<usize>,
    /// Number of the next id; the upper half names the connection.
    next: u64,
}

impl Stencil {
    /// `text` has a `#` of [`ID_DIGITS`] for each id.
    fn new(bytes: Vec<u8>, connection: usize) -> Self {
        let mark = [b'#'; ID_DIGITS];
        let mut ids = Vec::new();
        let mut at = 0;
        while let Some(found) = find(&bytes, &mark, at) {
            ids.push(found);
            at = found + ID_DIGITS;
        }
        let salt = u64::from(fastrand::u16(..)) << 48;
        Self { bytes, ids, next: salt | ((connection as u64) << 36) }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        for at in &self.ids {
            for (digit, byte) in self.bytes[*at..*at + ID_DIGITS].iter_mut().enumerate() {
                *byte = HEX[usize::try_from((self.next >> (4 * (ID_DIGITS - 1 - digit))) & 15).unwrap_or_default()];
            }
            self.next += 1;
        }
        out.extend_from_slice(&self.bytes);
    }
}

/// Publishes for ever.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    stencil: Stencil,
    messages: u64,
}

impl Post {
    /// One event in binary mode: attributes in headers, random bytes as the body.
    pub(crate) fn one(path: &str, size: usize, connection: usize) -> Self {
        // A mark in the body would become an id.
        let body: Vec<u8> =
            std::iter::repeat_with(|| fastrand::u8(..)).filter(|byte| *byte != b'#').take(size).collect();
        Self::single(path, "content-type: application/octet-stream\r\n", &body, connection)
    }

    /// One event in binary mode that has a subject of its own, and JSON as the body: a number, a customer, and random
    /// letters up to the size.
    pub(crate) fn json(path: &str, size: usize, connection: usize) -> Self {
        let id = "#".repeat(ID_DIGITS);
        let start = r#"{"total":7,"customer":{"id":"c-7"},"text":""#;
        let letters: String =
            std::iter::repeat_with(fastrand::alphanumeric).take(size.saturating_sub(start.len() + 2)).collect();
        let headers = format!("ce-subject: {id}\r\ncontent-type: application/json\r\n");
        Self::single(path, &headers, format!("{start}{letters}\"}}").as_bytes(), connection)
    }

    fn single(path: &str, headers: &str, body: &[u8], connection: usize) -> Self {
        let (id, size) = ("#".repeat(ID_DIGITS), body.len());
        let mut bytes = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nce-specversion: 1.0\r\nce-id: {id}\r\nce-source: /bench\r\n\
             ce-type: bench.event\r\n{headers}content-length: {size}\r\n\r\n"
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        Self { stencil: Stencil::new(bytes, connection), messages: 1 }
    }

    /// A batch of events as one JSON document, each with random text of the size as its data.
    pub(crate) fn batch(path: &str, size: usize, count: usize, connection: usize) -> Self {
        let id = "#".repeat(ID_DIGITS);
        let events: Vec<String> = (0..count)
            .map(|_| {
                let text: String =
                    std::iter::repeat_with(fastrand::alphanumeric).take(size.saturating_sub(2)).collect();
                format!(r#"{{"specversion":"1.0","id":"{id}","source":"/bench","type":"bench.event","data":"{text}"}}"#)
            })
            .collect();
        let body = format!("[{}]", events.join(","));
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/cloudevents-batch+json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self { stencil: Stencil::new(request.into_bytes(), connection), messages: count as u64 }
    }
}

impl Dialog for Post {
    fn ask(&mut self, out: &mut Vec<u8>) -> bool {
        self.stencil.write(out);
        true
    }

    fn answer(&mut self, input: &[u8]) -> Result<Option<Answer>> {
        Ok(whole(input)?.map(|(head, _)| Answer { used: head.end(), messages: self.messages }))
    }
}

/// Publishes until so many messages are asked for, all connections together.
#[derive(Debug, Clone)]
pub(crate) struct Limited {
    pub(crate) post: Post,
    pub(crate) left: Rc<Cell<u64>>,
}

impl Dialog for Limited {
    fn ask(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(left) = self.left.get().checked_sub(self.post.messages) else { return false };
        self.left.set(left);
        self.post.ask(out)
    }

    fn answer(&mut self, input: &[u8]) -> Result<Option<Answer>> {
        self.post.answer(input)
    }
}

/// When a pull worker goes home.
pub(crate) trait Shift {
    /// Takes note of settled messages; false when there is nothing left to do.
    fn goes_on(&mut self, settled: u64) -> bool;

    /// What becomes of the next delivery.
    fn outcome(&mut self) -> &'static str {
        "done"
    }
}

/// Until so many are settled, all workers together.
impl Shift for Rc<Cell<u64>> {
    fn goes_on(&mut self, settled: u64) -> bool {
        self.set(self.get().saturating_sub(settled));
        self.get() > 0
    }
}

/// Claims a batch, settles it, claims the next.
pub(crate) struct Worker<S> {
    claim: Vec<u8>,
    settle_path: String,
    shift: S,
    /// What is settled next.
    tokens: Vec<Vec<u8>>,
    settling: bool,
    is_home: bool,
    /// Distance between two tokens in the last answer: mostly the same in the next.
    stride: usize,
}

const TOKEN: &[u8] = b"{\"token\":\"";

impl<S: Shift> Worker<S> {
    pub(crate) fn new(group: &str, batch: usize, wait: &str, shift: S) -> Self {
        let body = format!(r#"{{"max":{batch},"wait":"{wait}"}}"#);
        Self {
            claim: json_post(&format!("/v1/groups/{group}/claim"), body.as_bytes()),
            settle_path: format!("/v1/groups/{group}/settle"),
            shift,
            tokens: Vec::new(),
            settling: false,
            is_home: false,
            stride: 0,
        }
    }

    fn read_tokens(&mut self, body: &[u8]) {
        self.tokens.clear();
        let mut from = 0;
        loop {
            let guess = from + self.stride;
            let expected = body.get(guess..guess + TOKEN.len()) == Some(TOKEN);
            let Some(at) = (if expected { Some(guess) } else { find(body, TOKEN, from) }) else { return };
            let start = at + TOKEN.len();
            let Some(end) = find(body, b"\"", start) else { return };
            self.tokens.push(body[start..end].to_vec());
            if !expected {
                self.stride = find(body, TOKEN, end).map_or(0, |next| next - end);
            }
            from = end;
        }
    }

    fn settle_body(&mut self) -> Vec<u8> {
        let mut body = b"{\"settlements\":[".to_vec();
        for (index, token) in self.tokens.iter().enumerate() {
            body.extend_from_slice(if index == 0 { b"{\"token\":\"" } else { b",{\"token\":\"" });
            body.extend_from_slice(token);
            body.extend_from_slice(b"\",\"outcome\":\"");
            body.extend_from_slice(self.shift.outcome().as_bytes());
            body.extend_from_slice(b"\"}");
        }
        body.extend_from_slice(b"]}");
        body
    }
}

impl<S: Shift> Dialog for Worker<S> {
    fn ask(&mut self, out: &mut Vec<u8>) -> bool {
        if self.is_home {
            return false;
        }
        self.settling = !self.tokens.is_empty();
        if self.settling {
            let body = self.settle_body();
            out.extend_from_slice(&json_post(&self.settle_path, &body));
        } else {
            out.extend_from_slice(&self.claim);
        }
        true
    }

    fn answer(&mut self, input: &[u8]) -> Result<Option<Answer>> {
        let Some((head, body)) = whole(input)? else { return Ok(None) };
        let mut messages = 0;
        if self.settling {
            messages = self.tokens.len() as u64;
            self.tokens.clear();
            ensure!(find(body, b"lease_lost", 0).is_none(), "a lease was lost");
        } else {
            self.read_tokens(body);
        }
        let goes_on = self.shift.goes_on(messages);
        // What is claimed is settled, whatever the time.
        self.is_home = !goes_on && self.tokens.is_empty();
        Ok(Some(Answer { used: head.end(), messages }))
    }
}

fn json_post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Makes one GET and returns the JSON.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<serde_json::Value> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    once(address, head.as_bytes())
}

/// Makes one POST of JSON and returns the JSON.
pub(crate) fn post(address: SocketAddr, path: &str, body: &serde_json::Value) -> Result<serde_json::Value> {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    once(address, head.as_bytes())
}

fn once(address: SocketAddr, request: &[u8]) -> Result<serde_json::Value> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request)?;
    let mut input = Vec::new();
    stream.read_to_end(&mut input)?;
    let (_, body) = whole(&input)?.context("the server closed a connection in the middle of an answer")?;
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[test]
    fn answers_are_taken_when_they_are_complete() {
        let input = [answer("abc"), answer("")].concat();
        let first = answer("abc").len();
        for end in 0..first {
            assert!(whole(&input[..end]).unwrap().is_none(), "{end}");
        }
        let (head, body) = whole(&input).unwrap().unwrap();
        assert_eq!((head.end(), body), (first, &b"abc"[..]));
        assert!(whole(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").is_err());
    }

    #[test]
    fn every_request_has_new_ids() {
        let mut post = Post::batch("/x", 20, 2, 3);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        assert!(post.ask(&mut first) && post.ask(&mut second));
        assert_eq!(first.len(), second.len());
        let ids = |bytes: &[u8]| -> Vec<String> {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            text.split("\"id\":\"").skip(1).map(|rest| rest[..ID_DIGITS].to_owned()).collect()
        };
        let mut all = [ids(&first), ids(&second)].concat();
        all.dedup();
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn a_worker_settles_what_it_claimed_and_goes_home() {
        let mut worker = Worker::new("work", 3, "0s", Rc::new(Cell::new(3)));
        let mut out = Vec::new();
        assert!(worker.ask(&mut out));
        assert!(String::from_utf8_lossy(&out).contains("/claim"));
        let body =
            r#"{"deliveries":[{"token":"a1","event":{}},{"token":"a2","event":{}},{"token":"b","event":{"x":1}}]}"#;
        let claimed = worker.answer(&answer(body)).unwrap().unwrap();
        assert_eq!(claimed.messages, 0);
        out.clear();
        assert!(worker.ask(&mut out));
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(
            text.contains("/settle") && ["\"a1\"", "\"a2\"", "\"b\""].iter().all(|token| text.contains(token)),
            "{text}"
        );
        let settled = worker.answer(&answer(r#"{"results":[]}"#)).unwrap().unwrap();
        assert_eq!(settled.messages, 3);
        assert!(!worker.ask(&mut out));
    }
}
